# SPDX-License-Identifier: Apache-2.0
"""The hook of torch.distributed.pipelining, on real pipelines in build/engines.

Each run goes against a trace that an independent harness (engines/tracer.py) takes below the hook.
"""

import bisect
import os
import statistics
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "engines"))
import fake_daemon
import pipeline
import report
from pipefill.bubble import NO_MICRO_BATCH, PHASE, Kind, Work

STEPS = 50
ONE_STAGE = ["ScheduleGPipe:4", "Schedule1F1B:4"]


def say(text):
    """A line of the test's log."""
    print("# " + text, file=sys.stderr)


class Announced(unittest.TestCase):
    """What is announced, against what is true."""

    def check_announced(self, run, name):
        """Nearly all idle time is announced. What depends on how busy the machine is, is only said: engines/report.py
        holds it against the targets."""
        for rank, figures in enumerate(run.figures()):
            say(f"{name}, rank {rank}: {figures}")
            self.assertGreaterEqual(figures.covered, 0.95, f"{name}, rank {rank}")

    def check_noted(self, run, micro_batches, chunks):
        """What each rank computed is noted: all of it, and nothing while it waits."""
        self.assertEqual(run.stages, list(range(len(run.ranks))))
        for rank in range(len(run.ranks)):
            bubbles = sorted((e["begin_ns"], e["end_ns"]) for e in run.bubbles(rank))
            work = run.work(rank)
            for e in work:
                at = bisect.bisect(bubbles, (e["end_ns"], 0))
                self.assertFalse(at and bubbles[at - 1][1] > e["begin_ns"],
                                 f"rank {rank} computes {e} and waits {bubbles[at - 1]}")
            last = max(e["iteration"] for e in work)  # its optimizer step comes after it
            for iteration in sorted({e["iteration"] for e in work} - {last}):
                noted = [(e["kind"], e["index"]) for e in work if e["iteration"] == iteration]
                self.assertEqual(noted.count((Work.STEP, NO_MICRO_BATCH)), 1, f"rank {rank}: {noted}")
                for kind in (Work.FORWARD, Work.BACKWARD):
                    numbers = sorted(index for one, index in noted if one == kind)
                    told, counted = sorted([*range(micro_batches)] * chunks), [*range(micro_batches * chunks)]
                    self.assertIn(numbers, (told, counted), f"rank {rank}: {noted}")

    def check_phases(self, run):
        """Evaluations and checkpoints are announced as what is never offered, and nothing else in them."""
        for rank, phases in enumerate(run.phases):
            for (name, begin, end), events in zip(run.ranks[rank]["phases"], phases):
                bubbles = [e for e in events if not e["flags"] & (fake_daemon.ITERATION | fake_daemon.WORK)]
                self.assertEqual([(e["kind"], e["index"]) for e in bubbles], [(Kind.OTHER, PHASE)], f"rank {rank}, {name}")
                self.assertLessEqual(bubbles[0]["end_ns"], end)
                announced = bubbles[0]["end_ns"] - bubbles[0]["begin_ns"]
                self.assertGreater(announced, (end - begin) // 2)
                say(f"rank {rank}, {name}: {(end - begin) / 1e6:.1f} ms, announced {announced / 1e6:.1f}")
                if any(e["flags"] & fake_daemon.WORK for e in events):
                    noted = next(e["kind"] for e in events if e["flags"] & fake_daemon.WORK and e["index"] == NO_MICRO_BATCH)
                    self.assertEqual(noted, Work[name.upper()])

    def check_same(self, a, b, name):
        """Both have trained to the same bits."""
        for x, y in zip(a.ranks, b.ranks):
            self.assertEqual(len(x["steps"]), len(y["steps"]))
            self.assertEqual(x["parameters"], y["parameters"], name)
            self.assertEqual(x["losses"], y["losses"], name)
            self.assertLess(min(x["losses"][-4:], default=0), max(x["losses"][:4], default=1), "it has not learned")
        for text in b.output:
            self.assertNotIn("pipefill", text)


@unittest.skipUnless(os.path.exists(pipeline.MADE), "build/engines is not made (packaging/engines)")
class TestTorchPipelining(Announced):
    """torch.distributed.pipelining of build/engines."""

    def test_trains_the_same(self):
        several = [name + ":4" for name in report.SEVERAL_STAGES]
        several += ["torchtitan.Schedule1F1B:4", "torchtitan.ScheduleInterleaved1F1B:4"]
        plain = pipeline.run("torch_rank.py", "OUT", STEPS, *ONE_STAGE, *several, "--cure", hooked=False)
        hooked = pipeline.run("torch_rank.py", "OUT", STEPS, *ONE_STAGE, *several)
        filled = pipeline.run("torch_rank.py", "OUT", STEPS, *ONE_STAGE, "ScheduleInterleaved1F1B:4", fill=True, records=True)
        for name, run in hooked.items():
            with self.subTest(name):
                self.check_same(plain[name], run, name)
                self.check_announced(run, name)
                self.check_phases(run)
        self.assertEqual([len(one) for one in hooked[ONE_STAGE[0]].phases], [3, 3])
        for name, run in filled.items():
            with self.subTest(name + ", filled"):
                self.check_same(plain[name], run, name)
                self.check_noted(run, 4, 2 if "Interleaved" in name else 1)
                self.check_phases(run)
                for rank, ran_ns in enumerate(run.filled_ns):
                    self.assertGreater(ran_ns, 0, f"rank {rank}")

    @unittest.skipUnless(os.path.exists(pipeline.NEWER), "PyTorch 2.9's pipelining could not be fetched")
    def test_newer(self):
        names = ["Schedule1F1B:4", "ScheduleInterleaved1F1B:4", "ScheduleZBVZeroBubble:4", "ScheduleDualPipeV:4"]
        newer = ["--newer", pipeline.NEWER_INSIDE]
        plain = pipeline.run("torch_rank.py", "OUT", STEPS, *names, *newer, hooked=False)
        hooked = pipeline.run("torch_rank.py", "OUT", STEPS, *names, *newer)
        for name, run in hooked.items():
            with self.subTest(name):
                self.check_same(plain[name], run, name)
                self.check_announced(run, "2.9 " + name)
                self.assertTrue(run.told["by_name"], "what torchtitan imports by name is not hooked")
                self.assertFalse(plain[name].told["by_name"])

    def test_four_ranks_that_compute(self):
        plain = pipeline.run("torch_rank.py", "OUT", 20, *ONE_STAGE, "--cure", world=4, hooked=False)
        hooked = pipeline.run("torch_rank.py", "OUT", 20, *ONE_STAGE, world=4)
        for name, run in hooked.items():
            self.check_same(plain[name], run, name)
        for rank in range(4):
            # In order of their indices: what a rank waits for in one iteration, the transport's own left out.
            bubbles = {e["index"]: e["kind"] for e in hooked["Schedule1F1B:4"].bubbles(rank, 18) if e["kind"] < 3}
            kinds = [kind for _, kind in sorted(bubbles.items())]
            self.assertEqual(kinds.count(1), 0 if rank == 3 else 1, f"rank {rank}: {kinds}")
            self.assertEqual(kinds[0], 1 if rank == 0 else 0, f"rank {rank}: {kinds}")

    def test_four_ranks_that_sleep(self):
        runs = pipeline.run("torch_rank.py", "OUT", 20, *(f"{name}:8" for name in report.SCHEDULES), "--sleep", 4,
                            world=4)
        for name, run in runs.items():
            schedule = name.partition(":")[0]
            theory = report.theory(schedule, 4, 8)
            self.check_announced(run, f"{name}, four ranks")
            idle = [figures.idle for figures in run.figures()]
            say(f"{name}, four ranks: idle {', '.join(f'{one:.3f}' for one in idle)}, theory {theory:.3f}")
            # A rank that a busy machine keeps from running makes the others wait: the mean only rises. By how much, is
            # for engines/report.py on a quiet one.
            self.assertGreater(statistics.mean(idle), 0.7 * theory, name)

    def test_learns_anew(self):
        # What is predicted follows from the last lengths alone, however busy the machine is: 16 steps after batches have
        # become half as large, from lengths of then.
        change, kept = 24, 16
        run = pipeline.run("torch_rank.py", "OUT", change + 36, "ScheduleGPipe:4", "--change", change, "--sleep", 8)
        run = run["ScheduleGPipe:4"]
        for rank in range(2):
            by_index = {}
            for e in run.bubbles(rank, change):
                if e["kind"] in pipeline.OFFERED_KINDS:
                    by_index.setdefault(e["index"], []).append(e)
            checked = 0
            for events in by_index.values():
                lengths = [e["end_ns"] - e["begin_ns"] for e in events]
                for at in range(kept, len(events)):
                    last = sorted(lengths[at - kept:at])
                    low, lowest = last[kept // 4], last[kept // 8]
                    if lowest < min(10_000_000, 0.8 * last[kept // 2]):
                        low = lowest = last[0]
                    # The fake daemon offers nine tenths of what is predicted, and nothing within the last 0.1 ms.
                    predicted = lowest if lowest < 0.9 * low else low
                    usable = min(0.9 * predicted, predicted - 100_000)
                    told = events[at]["deadline_ns"] - events[at]["begin_ns"] if events[at]["deadline_ns"] else 0
                    self.assertAlmostEqual(told, usable if usable >= pipeline.MIN_NS else 0, delta=2,
                                           msg=f"rank {rank}: {events[at]}")
                    checked += told > 0
            say(f"rank {rank}: {checked} bubbles predicted from what was after the change")
            self.assertGreaterEqual(checked, 36 - kept, f"rank {rank}: nothing is offered after the change")


if __name__ == "__main__":
    unittest.main()
