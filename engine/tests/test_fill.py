# SPDX-License-Identifier: Apache-2.0
"""The fill SDK: what is computed in chunks is what is computed straight through, to the bit."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import unittest
import warnings
from unittest import mock

import fill_programs as programs
import pipefill
import torch
from pipefill.fill.pace import DoesNotFit, Pace
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))


def two():
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU())


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def momentum(model):
    return torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-3)


class TestBitIdentity(unittest.TestCase):
    """Parameters, buffers, optimizer state and the random state after it."""

    def setUp(self):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.addCleanup(torch.set_num_threads, threads)

    def same(self, task, make, accumulate=1, **gate):
        model, loader, loss = task()
        optimizer = make(model)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        programs.straight(model, loader, loss, optimizer, 2, accumulate, scheduler)
        expected = programs.bits(model, optimizer) + torch.get_rng_state().numpy().tobytes()

        model, loader, loss = task()
        optimizer = make(model)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        gate = programs.TimedGate(**gate)
        run = pipefill.fill.train(model, loader, loss, optimizer, epochs=2, accumulate=accumulate, scheduler=scheduler,
                                  gate=gate)
        self.assertEqual(expected, programs.bits(model, optimizer) + torch.get_rng_state().numpy().tobytes())
        self.assertGreater(run.pace.chunks, 12, "it ran in hardly any chunks")
        names = [name for name, _ in run.pace.times.items()]
        self.assertIn("load", names)
        self.assertIn("optimizer.0", names)
        return run, names

    def test_transformer_with_dropout_and_adam(self):
        run, names = self.same(programs.transformer_task, adam)
        self.assertEqual(run.step, 12)
        for name in ("embed", "blocks.1.attention", "blocks.1.feed.0", "blocks.2.feed.3:backward", "head:backward"):
            self.assertIn(name, names)

    def test_cnn_with_batch_norm_and_momentum(self):
        _, names = self.same(programs.cnn_task, momentum, open_s=0.002, period_s=0.003)
        self.assertIn("second.1:backward", names)

    def test_accumulation(self):
        self.same(programs.transformer_task, momentum, accumulate=3)

    def test_user_written_loop(self):
        model, loader, loss = programs.cnn_task()
        optimizer = adam(model)
        programs.straight(model, loader, loss, optimizer, 1)
        expected = programs.bits(model, optimizer)
        model, loader, loss = programs.cnn_task()
        optimizer = adam(model)
        model.train()
        gate = programs.TimedGate(open_s=0.002, period_s=0.003)
        for x, y in pipefill.fill(loader, model, optimizer, gate=gate):
            loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        self.assertEqual(expected, programs.bits(model, optimizer))
        self.assertGreater(gate.chunks, 6)
        self.assertNotIn("step", vars(optimizer))

    def test_optimizer_in_parts(self):
        for make in (adam, momentum, lambda m: torch.optim.RMSprop(m.parameters()), lambda m: torch.optim.NAdam(m.parameters())):
            results = []
            for gate in (None, programs.TimedGate()):
                torch.manual_seed(3)
                model = nn.Sequential(*(nn.Linear(200, 200) for _ in range(6)))
                optimizer = make(model)
                loader = [torch.randn(4, 200) for _ in range(3)]
                if gate is None:
                    for x in loader:
                        model(x).sum().backward()
                        optimizer.step()
                else:
                    run = pipefill.fill(loader, model, optimizer, gate=gate)
                    for x in run:
                        model(x).sum().backward()
                        optimizer.step()
                    self.assertIn("optimizer.2", [name for name, _ in run.pace.times.items()])
                results.append(programs.bits(model, optimizer))
            self.assertEqual(*results)

    def test_inference(self):
        model, loader, _ = programs.transformer_task()
        model.eval()
        with torch.no_grad():
            expected = {x.numpy().tobytes(): model(x) for x, _ in loader}
        _, loader, _ = programs.transformer_task()
        gate = programs.TimedGate()
        seen = 0
        for (x, _), output in pipefill.infer(model, loader, call=lambda model, batch: model(batch[0]), gate=gate):
            torch.testing.assert_close(output, expected[x.numpy().tobytes()] if x.numpy().tobytes() in expected else model(x))
            self.assertFalse(output.requires_grad)
            seen += 1
        self.assertEqual(seen, 6)

    def test_loader_with_workers(self):
        model, loader, loss = programs.transformer_task(workers=2)
        optimizer = adam(model)
        programs.straight(model, loader, loss, optimizer, 1)
        expected = programs.bits(model, optimizer)
        model, loader, loss = programs.transformer_task(workers=2)
        optimizer = adam(model)
        pipefill.fill.train(model, loader, loss, optimizer, gate=programs.TimedGate(open_s=0.01, period_s=0.012))
        self.assertEqual(expected, programs.bits(model, optimizer))


class TestContinue(unittest.TestCase):
    """A job that is killed or told to go comes out as one that was not."""

    def train(self, folder, name, *arguments, status=0):
        out = os.path.join(folder, name)
        environment = dict(os.environ, PYTHONPATH=os.path.dirname(HERE), OMP_NUM_THREADS="1")
        done = subprocess.run([sys.executable, os.path.join(HERE, "fill_train.py"), out, *arguments], env=environment,
                              capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return out

    def read(self, path):
        with open(path, "rb") as file:
            return file.read()

    def test_killed_between_chunks(self):
        with tempfile.TemporaryDirectory() as folder:
            state = os.path.join(folder, "state")
            expected = self.read(self.train(folder, "straight"))
            for chunks in ("12", "30"):  # of an attempt: each is killed further on
                self.train(folder, "none", "--state", state, "--kill", chunks, status=-signal.SIGKILL)
            self.assertEqual(expected, self.read(self.train(folder, "continued", "--state", state)))

    def test_told_to_go(self):
        with tempfile.TemporaryDirectory() as folder:
            state = os.path.join(folder, "state")
            expected = self.read(self.train(folder, "straight"))
            self.train(folder, "none", "--state", state, "--every", "1e9", "--terminate", "8", status=75)
            self.assertTrue(os.path.exists(state))
            self.assertEqual(expected, self.read(self.train(folder, "continued", "--state", state)))


class TestUnusual(unittest.TestCase):
    """What users bring."""

    def test_no_gate_runs_straight(self):
        model, loader, loss = programs.cnn_task()
        optimizer = adam(model)
        run = pipefill.fill.train(model, loader, loss, optimizer, epochs=2)
        self.assertIsNone(run.pace)
        self.assertEqual((run.epoch, run.step), (2, 12))

    def test_empty_loader(self):
        self.assertEqual(list(pipefill.fill([], gate=programs.TimedGate())), [])
        self.assertEqual(list(pipefill.infer(two(), [], gate=programs.TimedGate())), [])

    def test_a_module_without_parts_is_one_op(self):
        with self.assertWarnsRegex(RuntimeWarning, "Whole has no parts that could be ops"):
            list(pipefill.infer(programs.Whole(), [torch.ones(2, 8)], gate=programs.TimedGate()))

    def test_exceptions_pass_unchanged(self):
        class Own(Exception):
            pass

        error = Own("mine")

        class Raises(nn.Module):
            def forward(self, _x):
                raise error

        gate = programs.TimedGate()
        with self.assertRaises(Own) as caught:
            list(pipefill.infer(nn.Sequential(nn.Linear(2, 2), Raises()), [torch.ones(1, 2)], gate=gate))
        self.assertIs(caught.exception, error)

        def data():
            yield torch.ones(1, 2)
            raise error

        with self.assertRaises(Own) as caught:
            list(pipefill.infer(two(), data(), gate=gate))
        self.assertIs(caught.exception, error)
        with self.assertRaises(Own):
            for x in pipefill.fill([torch.ones(1, 2)], gate=gate):
                nn.Linear(2, 2)(x).sum().backward()
                raise error
        self.assertFalse(torch.nn.modules.module._global_forward_pre_hooks, "hooks were left behind")

    def test_an_op_longer_than_every_bubble(self):
        class Slow(nn.Module):
            def forward(self, x):
                end = programs.time.thread_time() + 0.02
                while programs.time.thread_time() < end:
                    x = x + 1
                return x

        with self.assertRaisesRegex(DoesNotFit, r"op 1 takes [12]\d\.\d\d ms, and the longest of \d+ bubbles was open for "
                                                r"[12]\.\d\d ms, \d+\.\d\d ms too short"):
            list(pipefill.infer(nn.Sequential(nn.Linear(2, 2), Slow()), [torch.ones(1, 2)] * 99,
                                gate=programs.TimedGate(open_s=0.002, period_s=0.003)))

    def test_split(self):
        model = programs.Transformer()
        for split, expected in (("blocks.*.norm", 3), (["embed", "head"], 2), (lambda path, part: path.count(".") == 1, 3)):
            gate = programs.TimedGate()
            run = pipefill.fill([torch.zeros(1, 4, dtype=torch.long)], model, split=split, gate=gate)
            for x in run:
                model(x)
            names = {name for name, _ in run.pace.times.items()} - {"load", "step", "workers"}
            self.assertEqual(len(names), expected, names)
        with self.assertRaisesRegex(ValueError, r"split='layers\.\*' matches no part of Transformer; parts are embed"):
            list(pipefill.fill([1], model, split="layers.*", gate=programs.TimedGate()))

    def test_mistakes(self):
        for options, message in (({"epochs": -1}, "epochs=-1: must be 0 or more"),
                                 ({"every_s": math.nan}, "every_s=nan: must be 0 or more")):
            with self.assertRaisesRegex(ValueError, message):
                pipefill.fill([], **options)
        with self.assertRaisesRegex(ValueError, "accumulate=0: must be a whole number"):
            pipefill.fill.train(nn.Linear(1, 1), [], None, None, accumulate=0)

    def test_iterations_of_seconds(self):
        clock = programs.Clock(open_s=0.1, period_s=2.0)
        with mock.patch("pipefill.fill.pace.time", clock):
            pace = Pace(clock, device=clock)
            for _ in range(3000):
                pace.boundary("op")
                clock.sleep(0.001)
            pace.pause()
        # Some 95 ops a bubble, and no bubble is left alone.
        self.assertEqual((pace.chunks, pace.overruns), (clock.now // clock.period_s + 1, 0))
        self.assertLess(pace.chunks, 40)

    def test_a_bubble_that_ends_early(self):
        clock = programs.Clock(open_s=0.1, period_s=2.0)
        with mock.patch("pipefill.fill.pace.time", clock):
            pace = Pace(clock, device=clock)
            for _ in range(20):
                pace.boundary("op")
                clock.sleep(0.001)
            # Stopped within an op, which goes on in the middle of the next bubble.
            clock.stop(2.02)
            pace.boundary("op")
            self.assertEqual((pace.chunks, pace.overruns, pace.late), (1, 0, 1))
            # One that does run past its deadline, and one that is stopped after that.
            clock.sleep(0.1)
            pace.boundary("op")
            self.assertEqual((pace.chunks, pace.overruns, pace.late), (2, 1, 2))
            clock.sleep(0.11)
            clock.stop(1.95)
            pace.boundary("op")
            self.assertEqual((pace.chunks, pace.overruns, pace.late), (3, 2, 3))

    def test_no_warning_for_ordinary_modules(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            list(pipefill.infer(two(), [torch.ones(1, 2)], gate=programs.TimedGate()))


if __name__ == "__main__":
    unittest.main()
