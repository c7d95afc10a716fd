# SPDX-License-Identifier: Apache-2.0
"""The profiler on real modules, the fill profile's file, and the techniques that save memory."""

import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import types
import unittest
from unittest import mock

import fill_programs as programs
import pipefill
import torch
from pipefill import profile_file as formats
from pipefill.fill import technique
from pipefill.profiler import Progress, recorder, resized
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))

SCRIPT = """
import sys, torch, pipefill, fill_programs as programs
model, loader, loss = programs.{task}()
if sys.argv[1] == "train":
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x, y in pipefill.fill(loader, model, optimizer):
        loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
else:
    list(pipefill.infer(model, loader, call=lambda model, batch: model(batch[0])))
print("after the loop")
"""


class OneThread(unittest.TestCase):
    def setUp(self):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.addCleanup(torch.set_num_threads, threads)


class TestProfile(OneThread):
    def test_inference_of_a_sequential(self):
        model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1024))
        measured = pipefill.profile(model, torch.randn(64, 512), batch_sizes=[32, 512], repeats=8)
        profile = measured.profile
        self.assertEqual((profile.kind, profile.name), ("inference", "Sequential"))
        self.assertEqual([c.batch_size for c in profile.configs], [32, 512])
        small, large = profile.configs
        self.assertEqual(large.resident_bytes, 4 * (512 * 512 + 512 + 512 * 1024 + 1024))
        names = [op.name for op in large.ops]
        self.assertEqual([n for n in names if n in "02"], ["0", "2"])
        last = large.ops[-1]
        self.assertEqual(last.name, "2")
        # The output of the last layer, and its input, are there at once.
        self.assertGreaterEqual(last.peak_bytes, 4 * 512 * (512 + 1024))
        self.assertLess(last.peak_bytes, 4 * 512 * 4096)
        # 16 times the work: what a cold cache costs both is small beside it.
        # Medians: of 8 passes the 99th percentile is the slowest, whatever made it slow.
        self.assertGreater(measured.ops[1][-1].median, 2 * measured.ops[0][-1].median)
        self.assertRegex(str(measured), r"(?m)^ +512 plain +\d+ ")

    def test_training_with_and_without_checkpoint(self):
        model, loader, loss = programs.transformer_task()
        x, y = next(iter(loader))
        optimizer = torch.optim.Adam(model.parameters())
        # A leaf of its own for each matrix, so that activations are freed and computed again.
        profile = pipefill.profile(model, x, target=y, loss=loss, optimizer=optimizer, techniques=["plain", "checkpoint"],
                                   repeats=4, batch_sizes=[64]).profile
        self.assertEqual(profile.kind, "training")
        plain, again = profile.configs
        names = [op.name for op in plain.ops]
        self.assertIn("blocks.1.attention:backward", names)
        self.assertIn("optimizer.0", names)
        self.assertTrue(any(op.name.endswith(":again") for op in again.ops))
        self.assertFalse(any(op.name.endswith(":again") for op in plain.ops))
        self.assertLess(max(op.peak_bytes for op in again.ops), 0.8 * max(op.peak_bytes for op in plain.ops))
        # Parameters, gradients (zeroed, not freed, before PyTorch 2) and Adam's two moments.
        size = sum(4 * p.numel() for p in model.parameters())
        self.assertGreaterEqual(plain.resident_bytes, 3 * size)
        self.assertLess(plain.resident_bytes, 4.1 * size)
        self.assertGreater(max(op.live_bytes for op in plain.ops), 0)
        self.assertFalse(torch.nn.modules.module._global_forward_pre_hooks, "hooks were left behind")

    def test_it_rests_as_bubbles_make_it(self):
        clock = itertools.count(0, 0.005)  # s of work between two looks at it
        rests = []
        fake = types.SimpleNamespace(monotonic=lambda: next(clock), sleep=rests.append)
        with mock.patch.object(recorder, "time", fake):
            record = recorder.Recorder()
            for _ in range(12):
                record.boundary("load")
        self.assertEqual(rests, [recorder.REST_S] * 4)  # after each third boundary

    def test_ops_that_differ_from_pass_to_pass(self):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.count, self.a, self.b = 0, nn.Linear(256, 256), nn.Linear(256, 256)

            def forward(self, x):
                self.count += 1
                return (self.a if self.count % 2 else self.b)(x)

        with self.assertRaisesRegex(ValueError, r"passes differ: pass 1 has 3 ops and the first 3, from op 2 \([ab]\) on"):
            pipefill.profile(Odd(), torch.randn(256, 256), repeats=4)

    def test_mistakes(self):
        model = nn.Linear(2, 2)
        for options, message in (({"repeats": 1}, "repeats=1: must be a whole number, 2 or more"),
                                 ({"warmup": 0}, "warmup=0: must be"),
                                 ({"batch_sizes": [0]}, "batch_sizes: 0 must be a whole number"),
                                 ({"batch_sizes": [True]}, "batch_sizes: True must be"),
                                 ({"techniques": []}, "techniques: must be one or more"),
                                 ({"techniques": ["swift"]}, "technique 'swift': 'swift' is none: write some of plain, "),
                                 ({"techniques": ["offload-params"]}, "offload needs a GPU"),
                                 ({"techniques": ["checkpoint"]}, "Linear has no repeated parts without BatchNorm"),
                                 ({"loss": nn.MSELoss()}, "training needs both loss= and optimizer=")):
            if torch.cuda.is_available() and "offload" in message:
                continue
            with self.assertRaisesRegex(ValueError, message):
                pipefill.profile(model, torch.ones(1, 2), **options)
        with self.assertRaisesRegex(ValueError, "the batch is empty"):
            pipefill.profile(model, torch.ones(0, 2), batch_sizes=[2])

    def test_resized(self):
        batch = {"x": torch.arange(6).reshape(3, 2), "scale": torch.tensor(2.0), "names": ["a"]}
        self.assertEqual(resized(batch, 5)["x"][:, 0].tolist(), [0, 2, 4, 0, 2])
        self.assertEqual(resized(batch, 2)["x"].shape, (2, 2))
        self.assertEqual(resized(batch, 2)["names"], ["a"])

    def test_progress(self):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        for stream, shown in ((Terminal(), "[##############################] 2/2 plain"), (io.StringIO(), "")):
            bar = Progress(2, stream)
            bar.step("plain")
            bar.step("plain")
            bar.close()
            self.assertIn(shown, stream.getvalue())
            self.assertEqual(bool(stream.getvalue()), bool(shown))


class TestScript(unittest.TestCase):
    """What pipefill-cli profile runs."""

    def run_script(self, mode, status=0, task="cnn_task", **settings):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "profile.json")
            environment = dict(os.environ, PYTHONPATH=os.path.dirname(HERE) + os.pathsep + HERE, OMP_NUM_THREADS="1",
                               PIPEFILL_PROFILE_OUT=out, PIPEFILL_PROFILE_REPEATS="3", **settings)
            done = subprocess.run([sys.executable, "-c", SCRIPT.format(task=task), mode], env=environment,
                                  capture_output=True, text=True, timeout=120, check=False)
            self.assertEqual(done.returncode, status, done.stderr)
            return (formats.load(out) if os.path.exists(out) else None), done

    def test_inference_with_batch_sizes(self):
        profile, done = self.run_script("infer", PIPEFILL_PROFILE_BATCH_SIZES="2,16")
        self.assertEqual(profile.kind, "inference")
        self.assertEqual([c.batch_size for c in profile.configs], [2, 16])
        self.assertNotIn("after the loop", done.stdout)
        self.assertIn("RESIDENT_MB", done.stderr)

    def test_training_keeps_its_batch_size(self):
        profile, done = self.run_script("train", task="transformer_task", PIPEFILL_PROFILE_BATCH_SIZES="2",
                                        PIPEFILL_PROFILE_TECHNIQUES="plain,checkpoint")
        self.assertEqual((profile.kind, [(c.batch_size, str(c.technique)) for c in profile.configs]),
                         ("training", [(4, "plain"), (4, "checkpoint")]))
        self.assertIn("batch sizes are only varied for pipefill.infer", done.stderr)

    def test_a_mistake(self):
        profile, done = self.run_script("infer", status=1, PIPEFILL_PROFILE_BATCH_SIZES="2,x")
        self.assertIsNone(profile)
        self.assertIn("PIPEFILL_PROFILE_BATCH_SIZES=2,x: must be whole numbers with commas between", done.stderr)


class TestTechniques(OneThread):
    """Neither checkpointing nor offloading changes a bit."""

    def train(self, how):
        model, loader, loss = programs.transformer_task()
        optimizer = torch.optim.Adam(model.parameters())
        if how is None:
            programs.straight(model, loader, loss, optimizer, 1)
            return programs.bits(model, optimizer)
        run = pipefill.fill(loader, model, optimizer, technique=how, gate=programs.TimedGate())
        model.train()
        for x, y in run:
            loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertGreater(run.pace.chunks, 3)
        return programs.bits(model, optimizer)

    def test_same_to_the_bit(self):
        expected = self.train(None)
        for how in ("checkpoint", "offload-params", "offload-optimizer", "offload-activations", "checkpoint+offload-activations"):
            with self.subTest(how):
                self.assertEqual(expected, self.train(how))

    def test_offload_frees(self):
        model = nn.Linear(100, 100)
        offload = technique.Offload("params", model)
        before = [p.clone() for p in model.parameters()]
        offload.leave()
        self.assertEqual(technique.storage_bytes(model.parameters()), 0)
        offload.enter()
        self.assertTrue(all(torch.equal(a, b) for a, b in zip(before, model.parameters())))


class TestProfiledRun(OneThread):
    def test_begins_with_the_times_of_its_profile(self):
        model = nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 256))
        batch = torch.randn(64, 256)
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            measured = pipefill.profile(model, batch, repeats=5)
            measured.save(file.name)
            run = pipefill.fill([batch], model, profile=file.name, gate=programs.TimedGate())
            for x in run:
                op = next(o for o in measured.profile.configs[0].ops if o.name == "2")
                self.assertEqual(run.pace.times["2"].need, op.time_ns * 1e-9)
                model(x)
            with self.assertRaisesRegex(ValueError, "technique checkpoint was not measured, only plain: profile it"):
                pipefill.fill([batch], model, technique="checkpoint", profile=file.name)


class TestFormat(unittest.TestCase):
    GOOD = {"version": 1, "name": "n", "kind": "inference", "device": "cpu", "configs": [
        {"batch_size": 1, "technique": {"checkpoint": False, "offload": "none"}, "resident_bytes": 0, "swap_in_ns": 0,
         "swap_out_ns": 0, "ops": [{"name": "a", "time_ns": 5, "peak_bytes": 7}]}]}

    def read(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(text if isinstance(text, str) else json.dumps(text))
            file.flush()
            return formats.load(file.name)

    def test_round_trip(self):
        profile = self.read(self.GOOD)
        self.assertEqual(profile.configs[0].ops[0], formats.Op("a", 5, 7, 0))
        with tempfile.NamedTemporaryFile() as file:
            profile.save(file.name)
            self.assertEqual(formats.load(file.name), profile)

    def test_bad_input(self):
        def changed(change):
            value = json.loads(json.dumps(self.GOOD))
            change(value)
            return value

        config = lambda v: v["configs"][0]  # noqa: E731
        for change, message in (
                (lambda v: v.update(version=2), "version is 2, and this pipefill reads 1"),
                (lambda v: v.pop("name"), "the profile: 'name' is missing"),
                (lambda v: v.update(extra=1), "the profile: unknown field 'extra'; valid are version, name, kind"),
                (lambda v: v.update(kind="x"), "kind is 'x': it must be one of inference, training"),
                (lambda v: v.update(configs=[]), "configs is 'empty': it must be a list of one or more"),
                (lambda v: config(v).update(batch_size=0), r"configs\[0\]\.batch_size is 0: it must be a whole number from 1"),
                (lambda v: config(v).update(swap_in_ns=-1), r"swap_in_ns is -1: it must be a whole number from 0"),
                (lambda v: config(v).update(resident_bytes=2**63), "resident_bytes is 9223372036854775808"),
                (lambda v: config(v)["ops"][0].update(time_ns=1.5), r"configs\[0\]\.ops\[0\]\.time_ns is 1\.5"),
                (lambda v: config(v)["ops"][0].update(time_ns=True), "time_ns is True"),
                (lambda v: config(v)["technique"].update(offload="all"), "offload is 'all': it must be one of none, params"),
                (lambda v: config(v)["technique"].update(checkpoint=1), "checkpoint is 1: it must be true or false")):
            with self.assertRaisesRegex(ValueError, r"\.json: .*" + message):
                self.read(changed(change))
        with self.assertRaisesRegex(ValueError, "line 1: Expecting"):
            self.read("{")
        with self.assertRaisesRegex(ValueError, "NaN is no number of JSON"):
            self.read(json.dumps(changed(lambda v: config(v).update(swap_in_ns=float("nan")))))
        with self.assertRaisesRegex(ValueError, r"the profile is \[\]: it must be an object"):
            self.read("[]")


if __name__ == "__main__":
    unittest.main()
