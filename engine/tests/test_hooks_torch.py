# SPDX-License-Identifier: Apache-2.0
"""The hook of torch.distributed.pipelining, on real pipelines in build/engines.

Each run goes against a trace that an independent harness (engines/tracer.py) takes below the hook.
"""

import os
import statistics
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "engines"))
import pipeline  # noqa: E402
import tracer  # noqa: E402

STEPS = 50
SEVERAL_STAGES = ("ScheduleInterleaved1F1B", "ScheduleLoopedBFS", "ScheduleInterleavedZeroBubble", "ScheduleZBVZeroBubble")


def say(text):
    """A line of the test's log."""
    print("# " + text, file=sys.stderr)


class Announced(unittest.TestCase):
    """What is announced, against what is true."""

    def check_announced(self, run, name, step=pipeline.LEARN):
        """Nearly all idle time is announced, and little else."""
        for rank, (idle, announced) in enumerate(zip(run.idle(step), run.announced(step))):
            both = tracer.common(idle, announced)
            say(f"{name}, rank {rank}: idle {tracer.total(idle) / 1e6:.1f} ms, announced "
                f"{tracer.total(announced) / 1e6:.1f} ms, both {both / 1e6:.1f} ms")
            self.assertGreaterEqual(both, 0.95 * tracer.total(idle), f"{name}, rank {rank}")

    def check_same(self, a, b, name):
        """Both have trained to the same bits."""
        for x, y in zip(a.ranks, b.ranks):
            self.assertEqual(x["parameters"], y["parameters"], name)
            self.assertEqual(x["losses"], y["losses"], name)
            self.assertLess(min(x["losses"][-4:], default=0), max(x["losses"][:4], default=1), "it has not learned")
        for text in b.output:
            self.assertNotIn("pipefill", text)


@unittest.skipUnless(os.path.exists(pipeline.MADE), "build/engines is not made (packaging/engines)")
class TestTorchPipelining(Announced):
    """torch.distributed.pipelining of build/engines."""

    def test_trains_the_same(self):
        for schedule in ("ScheduleGPipe", "Schedule1F1B"):
            with self.subTest(schedule):
                plain = pipeline.run("torch_rank.py", schedule, 4, STEPS, "OUT", "--cure", hooked=False)
                hooked = pipeline.run("torch_rank.py", schedule, 4, STEPS, "OUT")
                self.check_same(plain, hooked, schedule)
                self.check_announced(hooked, schedule)
                filled = pipeline.run("torch_rank.py", schedule, 4, STEPS, "OUT", fill=True)
                self.check_same(plain, filled, schedule)
                for rank, idle in enumerate(filled.idle()):
                    say(f"{schedule}, rank {rank}: fill work {filled.filled_ns[rank] / 1e6:.1f} ms in "
                        f"{tracer.total(idle) / 1e6:.1f} ms idle")
                    self.assertGreater(filled.filled_ns[rank], 0)

    def test_several_stages_a_rank(self):
        for schedule in SEVERAL_STAGES:
            with self.subTest(schedule):
                plain = pipeline.run("torch_rank.py", schedule, 4, 24, "OUT", "--cure", hooked=False)
                hooked = pipeline.run("torch_rank.py", schedule, 4, 24, "OUT")
                self.check_same(plain, hooked, schedule)
                self.check_announced(hooked, schedule)

    def test_four_ranks_that_compute(self):
        plain = pipeline.run("torch_rank.py", "Schedule1F1B", 4, 20, "OUT", "--cure", world=4, hooked=False)
        hooked = pipeline.run("torch_rank.py", "Schedule1F1B", 4, 20, "OUT", world=4)
        self.check_same(plain, hooked, "four ranks")
        for rank in range(4):
            kinds = [e["kind"] for e in hooked.bubbles(rank, 18)]
            gradients = kinds.count(1)
            self.assertEqual(gradients, 0 if rank == 3 else 2, f"rank {rank}: {kinds}")
            self.assertEqual(kinds[0], 1 if rank == 0 else 0, f"rank {rank}: {kinds}")

    def test_four_ranks_that_sleep(self):
        for schedule, micro_batches in (("ScheduleGPipe", 4), ("Schedule1F1B", 4), ("Schedule1F1B", 8)):
            run = pipeline.run("torch_rank.py", schedule, micro_batches, 40, "OUT", "--sleep", 8, world=4)
            theory = 3 / (micro_batches + 3)
            for rank, (idle, announced) in enumerate(zip(run.idle(), run.announced())):
                begin, end = run.after(pipeline.LEARN)[rank], run.ranks[rank]["steps"][-1][1]
                fractions = tracer.total(idle) / (end - begin), tracer.total(announced) / (end - begin)
                say(f"{schedule}, m={micro_batches}, rank {rank} of 4: idle {fractions[0]:.3f}, announced "
                    f"{fractions[1]:.3f}, theory {theory:.3f}")
                self.assertAlmostEqual(fractions[0], theory, delta=0.3 * theory)
                self.assertGreaterEqual(tracer.common(idle, announced), 0.95 * tracer.total(idle))

    def test_learns_anew(self):
        change = 30
        run = pipeline.run("torch_rank.py", "ScheduleGPipe", 4, change + 36, "OUT", "--change", change)
        for rank in range(2):
            bubbles = run.bubbles(rank, change + 20)
            longest = statistics.mode(e["index"] for e in sorted(bubbles, key=lambda e: e["begin_ns"] - e["end_ns"])[:8])
            lengths = [e["end_ns"] - e["begin_ns"] for e in bubbles if e["index"] == longest]
            # The fake daemon offers nine tenths of what is predicted.
            predicted = [(e["deadline_ns"] - e["begin_ns"]) / 0.9 for e in bubbles
                         if e["index"] == longest and e["deadline_ns"]]
            self.assertTrue(predicted, f"rank {rank}: nothing is offered 20 steps after the change")
            error = statistics.median(predicted) / statistics.median(lengths) - 1
            say(f"rank {rank}, 20 steps after a change: predicted {100 * error:+.1f} % of the median length")
            self.assertLess(abs(error), 0.25, f"rank {rank}")


if __name__ == "__main__":
    unittest.main()
