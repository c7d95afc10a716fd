# SPDX-License-Identifier: Apache-2.0
"""Real two-stage training in two processes, against one process without a pipeline."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import unittest

import torch
from pipefill import corpus, launch, links, model, trace, train

ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SMALL = ["--iterations", "6", "--batch", "2", "--sequence", "16", "--width", "32", "--layers", "1"]


def run_pipeline(*arguments, environment=None):
    """The results of both ranks by rank."""
    done = subprocess.run([sys.executable, "-m", "pipefill.train", "--local", *arguments], cwd=ENGINE, check=True,
                          capture_output=True, text=True, timeout=120, env=dict(os.environ, **(environment or {})))
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {r["rank"]: r for r in results}


def reference(micro_batches=4, iterations=6):
    """The same model and data in one process: losses by iteration."""
    torch.set_num_threads(1)
    stages = [model.Stage(s, 2, layers=1, width=32, sequence=16) for s in range(2)]
    optimizers = [torch.optim.AdamW(s.parameters(), lr=1e-3) for s in stages]
    batches = corpus.Batches(2, 16)
    losses = []
    for _ in range(iterations):
        total = 0.0
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=False)
        for _ in range(micro_batches):
            inputs, targets = batches.next()
            loss = model.loss(stages[1](stages[0](inputs)), targets) / micro_batches
            loss.backward()
            total += float(loss.detach())
        for optimizer in optimizers:
            optimizer.step()
        losses.append(total)
    return losses


class TestEngine(unittest.TestCase):
    def test_both_schedules_train_as_one_process_does(self):
        expected = reference()
        for schedule in ("1f1b", "gpipe"):
            last = run_pipeline("--schedule", schedule, *SMALL)[1]
            self.assertAlmostEqual(last["loss_first"], expected[0], places=4)
            self.assertAlmostEqual(last["loss_last"], expected[-1], places=4)

    def test_links_change_no_bit(self):
        posted, token = (run_pipeline("--links", name, *SMALL) for name in ("posted", "token"))
        for rank in (0, 1):
            self.assertEqual(posted[rank]["parameters_sha256"], token[rank]["parameters_sha256"])

    def test_token_links_with_three_stages_and_both_schedules(self):
        results = [run_pipeline("--links", "token", "--stages", "3", "--micro-batches", "6", "--schedule", schedule, *SMALL)
                   for schedule in ("1f1b", "gpipe")]
        self.assertEqual([r["iterations"] for r in results[0].values()], [6, 6, 6])
        self.assertAlmostEqual(results[0][2]["loss_last"], results[1][2]["loss_last"], places=4)

    def test_devices(self):
        slurm = {"PIPEFILL_DEVICES": "gpu:GPU-a gpu:GPU-b", "SLURM_LOCALID": "1"}
        self.assertEqual(launch.device_of(train.parse([]), slurm), ("cuda", "gpu:GPU-b"))
        self.assertEqual(launch.device_of(train.parse(["--device", "cpu"]), slurm), ("cpu", None))
        self.assertEqual(launch.device_of(train.parse(["--device", "cuda"]), {}), ("cuda", None))
        self.assertEqual(launch.device_of(train.parse([]), {"PIPEFILL_DEVICES": "cpu:0"}), ("cpu", None))
        with self.assertRaises(ValueError):
            links.make("posted", "cuda")

    def test_traces(self):
        with tempfile.TemporaryDirectory() as directory:
            run_pipeline("--trace", directory, *SMALL)
            for rank in (0, 1):
                with open(os.path.join(directory, f"rank-{rank}.jsonl"), encoding="utf-8") as file:
                    records = [json.loads(line) for line in file]
                self.assertEqual(records[0]["type"], "run")
                self.assertEqual(records[0]["rank"], rank)
                iterations = [r for r in records if r["type"] == "iteration"]
                self.assertEqual([r["iteration"] for r in iterations], list(range(6)))
                for before, after in zip(iterations, iterations[1:]):
                    self.assertEqual(before["end_ns"], after["begin_ns"])
                for wait in (r for r in records if r["type"] == "wait"):
                    span = iterations[wait["iteration"]]
                    self.assertLessEqual(span["begin_ns"], wait["begin_ns"])
                    self.assertLess(wait["begin_ns"], wait["end_ns"])
                    self.assertLessEqual(wait["end_ns"], span["end_ns"])

    def test_a_trace_is_written_after_iterations_or_time(self):
        with tempfile.TemporaryDirectory() as directory, contextlib.closing(trace.Trace(directory, 0)) as kept:
            now = trace.now_ns()
            self.assertFalse(kept.due(now))
            self.assertTrue(kept.due(now + trace.FLUSH_NS), "iterations of seconds")
            for i in range(trace.FLUSH_ITERATIONS):
                self.assertFalse(kept.due(now))
                kept.iteration(i, now, now)
            self.assertTrue(kept.due(now))
            kept.flush()
            self.assertFalse(kept.due(now))
        self.assertFalse(trace.Trace(None, 0).due(now + trace.FLUSH_NS), "one that keeps nothing")

    def test_stop_file_ends_every_rank(self):
        with tempfile.NamedTemporaryFile() as file:
            results = run_pipeline("--stop-file", file.name, *SMALL)
            self.assertEqual([r["iterations"] for r in results.values()], [1, 1])

    def test_mistakes_are_refused(self):
        for arguments in (["--stages", "0"], ["--schedule", "zigzag"], ["--width", "30"]):
            with self.assertRaises(SystemExit) as refused:
                train.parse(arguments)
            self.assertEqual(refused.exception.code, 2)

    def test_cores(self):
        self.assertEqual(launch.read_cores("0-2,5"), {0, 1, 2, 5})
        self.assertEqual(launch.format_cores({0, 1, 2, 5}), "0-2,5")
        args = train.parse(["--cores", "0:1"])
        self.assertEqual(launch.cores_of(args, {"SLURM_PROCID": "1"}), {1})
        args = train.parse([])
        slurm = {"PIPEFILL_DEVICES": "cpu:2 cpu:3", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
        self.assertEqual(launch.cores_of(args, slurm), {3})
        self.assertIsNone(launch.cores_of(args, {}))


if __name__ == "__main__":
    unittest.main()
