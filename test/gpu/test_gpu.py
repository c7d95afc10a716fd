# SPDX-License-Identifier: Apache-2.0
"""The GPU harness without a GPU: its models, its peers, its figures, and all of it small, on a core."""

import contextlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import harness
import models
import peers
import run as program
import torch
from pipefill.schedule import Op, bubble_fraction

FORWARD, BACKWARD = 0.010, 0.020


def lengths(stages, micro_batches, schedule="1f1b", late=None, durations=None):
    """An undisturbed pipeline's iteration, and that of one that is late."""
    durations = durations or peers.Durations(FORWARD, BACKWARD)
    ends = peers.Pipeline(schedule, stages, micro_batches, durations, late=late).run(12)
    return (ends[-1] - ends[1]) / (len(ends) - 2)


class Peers(unittest.TestCase):
    def test_an_undisturbed_pipeline_is_as_in_theory(self):
        for schedule in ("gpipe", "1f1b"):
            for stages, micro_batches in ((2, 4), (4, 8), (16, 8), (16, 64)):
                busy = micro_batches * (FORWARD + BACKWARD)
                want = busy / (1 - bubble_fraction(stages, micro_batches))
                self.assertAlmostEqual(lengths(stages, micro_batches, schedule), want, places=9)

    def test_a_late_wait_costs_twice_the_stages_but_one(self):
        # Through the pipeline and back each stage waits once on the longest path, and for some micro-batches between.
        extra = lengths(16, 8, late=lambda: 1e-4) - lengths(16, 8)
        self.assertGreater(extra, 0.9 * 2 * 15 * 1e-4)
        self.assertLess(extra, (2 * 15 + 2 * 8) * 1e-4)

    def play(self, late_s, stages=6, stage=3, micro_batches=6, iterations=6):
        """A real stage whose every step after a wait is late, in the peers' time. Its iterations' lengths."""
        durations = peers.Durations(FORWARD, BACKWARD, 0.005, 0.001)
        pipeline = peers.Pipeline("1f1b", stages, micro_batches, durations, {stage})
        clock, ends = 0.0, [0.0]
        for iteration in range(iterations):
            for instruction in program_of(stage, stages, micro_batches):
                op, i = instruction.op, instruction.micro_batch
                if op in (Op.RECV_ACTIVATION, Op.RECV_GRADIENT):
                    arrival = pipeline.received(stage, op, iteration, i)
                    clock = arrival + late_s if arrival > clock else clock
                elif op in (Op.SEND_ACTIVATION, Op.SEND_GRADIENT):
                    pipeline.sent(stage, op, iteration, i, clock)
                else:
                    clock += durations.of[op]
            ends.append(clock)
        return [b - a for a, b in zip(ends, ends[1:])][2:]

    def test_a_real_stage_fits_in(self):
        whole = lengths(6, 6, durations=peers.Durations(FORWARD, BACKWARD, 0.005, 0.001))
        for length in self.play(0.0):
            self.assertAlmostEqual(length, whole, places=9)

    def test_lateness_comes_back(self):
        late = statistics.mean(self.play(0.003)) - statistics.mean(self.play(0.0))
        self.assertGreater(late, 0.003)

    def test_a_stage_that_does_not_send_is_told(self):
        pipeline = peers.Pipeline("1f1b", 4, 4, peers.Durations(FORWARD, BACKWARD), {2})
        pipeline.received(2, Op.RECV_ACTIVATION, 0, 0)
        with self.assertRaisesRegex(RuntimeError, "waits for recv_gradient 0 of iteration 0"):
            pipeline.received(2, Op.RECV_GRADIENT, 0, 0)

    def test_projection(self):
        durations = peers.Durations(FORWARD, BACKWARD)
        self.assertEqual(peers.project("1f1b", 8, 8, durations, [0.0, -1.0]), 0.0)
        rare = [0.0] * 99 + [0.005]
        one = peers.project("1f1b", 8, 8, durations, rare)
        eight = peers.project("1f1b", 8, 8, durations, rare, tensor_parallel=8)
        self.assertGreater(one, 0)
        self.assertGreater(eight, 2 * one)
        with self.assertRaisesRegex(ValueError, "no lateness"):
            peers.project("1f1b", 8, 8, durations, [])
        with self.assertRaisesRegex(ValueError, "step_s=-1"):
            peers.Durations(0, 0, -1)


def program_of(stage, stages, micro_batches):
    """A stage's instructions."""
    return peers.instructions("1f1b", stage, stages, micro_batches)


class Models(unittest.TestCase):
    def test_are_of_the_published_sizes(self):
        # Millions of parameters, as published; the BERTs here have fewer positions and no second kind of token.
        for name, published in (("bert-base", 110), ("efficientnet", 5.3)):
            count = sum(p.numel() for p in models.build(name).parameters()) / 1e6
            self.assertLess(abs(count / published - 1), 0.02, f"{name}: {count:.1f} million")

    def test_compute_the_same_each_time(self):
        for name in ("bert-tiny", "efficientnet-tiny", "swin-tiny"):
            outputs = []
            for _ in range(2):
                model = models.build(name, seed=3).eval()
                outputs.append(model(models.batch_of(name, 3, 5)).detach())
            self.assertTrue(torch.equal(*outputs) and torch.isfinite(outputs[0]).all(), name)
            outputs[0].sum()

    def test_others_are_refused(self):
        with self.assertRaisesRegex(ValueError, "write one of bert-base, bert-large"):
            models.build("gpt")


def a_run(length_ms, late_us, samples=0, digest="a", **more):
    """What a stage writes."""
    return {"iterations_ms": [length_ms] * 5, "late_us": late_us, "bubble_s": 1.0, "samples": samples, "digest": digest,
            "times_ms": [10.0, 20.0, 1.0], **more}


class Figures(unittest.TestCase):
    setting = {"schedule": "1f1b", "stages": 8, "micro_batches": 8, "tensor_parallel": 1}

    def test_row(self):
        base = a_run(100.0, [50.0] * 100)
        fill = {"chunks": 10, "overruns": 1, "digest": "f"}
        filled = a_run(101.0, [50.0] * 99 + [1050.0], 500, fill=fill, clock_mhz=1000.0)
        line = harness.row("chunked", [filled] * 2, [base] * 2, 0.001, self.setting)
        self.assertAlmostEqual(line["slowdown_pct"], 1.0)
        self.assertEqual((line["late_us_p50"], round(line["late_us_p99"])), (50.0, 1050))
        self.assertAlmostEqual(line["useful_pct"], 50.0)
        self.assertGreater(line["projected_pct"], 0)
        self.assertEqual((line["chunks"], line["overruns"], line["clock_mhz"], line["power_w"]), (20, 2, 1000.0, None))
        self.assertEqual(harness.row("no fill", [base], [base], None, self.setting)["projected_pct"], 0.0)

    def test_outputs_that_differ_are_seen(self):
        rows = [{"main_digest": main, "fill_digest": fill, "model": model}
                for main, fill, model in (("a", "", ""), ("b", "x", "m"), ("a", "differs", "m"), ("a", "y", "m"))]
        harness.check(rows, {"m": {"digest": "y"}})
        self.assertEqual([line["main_ok"] for line in rows], [True, False, True, True])
        self.assertEqual([line["fill_ok"] for line in rows], [None, False, False, True])
        self.assertEqual(harness._same(["a", "b"]), "differs")

    def test_table(self):
        one = [a_run(100.0, [1.0])]
        rows = harness.check([{**harness.row("no fill", one, one, None, self.setting), "model": ""}], {})
        lines = harness.table(rows).splitlines()
        self.assertEqual(len(lines), 2)
        self.assertRegex(lines[1], r"^no fill +100\.00 +\+0\.00 +1 +1 +\+0\.00 +- +0 +0 +yes +- +- +-$")

    def test_variants(self):
        names = [v.name for v in harness.variants(["bert-base", "swin"], True)]
        for name in ("no fill", "hook only", "chunked swin", "launch swin", "no fill, spinning receive", "time-slicing bert-base",
                     "SIGSTOP bert-base", "10 ms polling bert-base", "MPS bert-base"):
            self.assertIn(name, names)
        self.assertFalse([v for v in harness.variants(["bert-tiny"], False) if v.how in ("launch", "mps")])


class Program(unittest.TestCase):
    def test_skips_without_a_gpu_and_says_why(self):
        with mock.patch("torch.cuda.is_available", return_value=False):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                self.assertEqual(program.main([]), 0)
        self.assertRegex(out.getvalue(), r"^check-gpu: skipped: PyTorch \S+ finds no NVIDIA GPU\n$")

    def test_a_model_that_there_is_not(self):
        with self.assertRaisesRegex(ValueError, "write one of"):
            program.arguments(["--models", "gpt"])

    def test_a_fill_job_that_fails_is_not_a_figure(self):
        with tempfile.TemporaryDirectory() as folder:
            runner = harness.Runner(program.arguments(["--device", "cpu"]), folder)
            broken = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(5)"])
            open(runner.path("log"), "w", encoding="utf-8").close()
            with self.assertRaisesRegex(RuntimeError, "exit status 5"):
                runner.finish(broken)

    def test_small_on_a_core(self):
        folder = tempfile.mkdtemp(prefix="pf-gpu-test-")
        self.addCleanup(shutil.rmtree, folder)
        out = io.StringIO()
        whole = os.geteuid() == 0 and os.path.exists(os.path.join(harness.ROOT, "build", "pipefill-cli"))
        with contextlib.redirect_stdout(out):
            status = program.main(["--device", "cpu", "--out", folder, "--rounds", "1", "--iterations", "16", "--only",
                                   "chunked,SIGSTOP" if whole else "SIGSTOP,hook"])
        self.assertEqual(status, 0, out.getvalue())
        with open(os.path.join(folder, "report.json"), encoding="utf-8") as file:
            report = json.load(file)
        rows = {line["variant"]: line for line in report["rows"]}
        self.assertGreater(report["bubble_fraction"], 0.1)
        self.assertTrue(all(line["main_ok"] for line in rows.values()), out.getvalue())
        stopped = rows["SIGSTOP bert-tiny"]
        self.assertTrue(stopped["samples"] > 0 and stopped["useful_pct"] > 0 and stopped["fill_ok"], out.getvalue())
        if not whole:
            self.assertIn("hook only", report["skipped"])
            return
        chunked = rows["chunked bert-tiny"]
        self.assertTrue(chunked["chunks"] > 0 and chunked["fill_ok"], out.getvalue())


if __name__ == "__main__":
    unittest.main()
