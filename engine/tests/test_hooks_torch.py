# SPDX-License-Identifier: Apache-2.0
"""The hook of torch.distributed.pipelining, on real pipelines in build/engines."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "engines"))
import pipeline  # noqa: E402
import tracer  # noqa: E402

STEPS = 50


@unittest.skipUnless(os.path.exists(pipeline.MADE), "build/engines is not made (packaging/engines)")
class TestTorchPipelining(unittest.TestCase):
    """Two ranks that compute."""

    def test_trains_the_same(self):
        for schedule in ("ScheduleGPipe", "Schedule1F1B"):
            with self.subTest(schedule):
                plain = pipeline.run("torch_rank.py", schedule, 4, STEPS, "OUT", "--cure", hooked=False)
                hooked = pipeline.run("torch_rank.py", schedule, 4, STEPS, "OUT")
                for a, b in zip(plain.ranks, hooked.ranks):
                    self.assertEqual(a["parameters"], b["parameters"])
                    self.assertEqual(a["losses"], b["losses"])
                self.assertLess(plain.ranks[1]["losses"][-1], 0.97 * plain.ranks[1]["losses"][0])
                self.assertEqual([text for text in hooked.output if "pipefill" in text], [])
                self.check_announced(hooked)

    def check_announced(self, run):
        """What is announced is idle time, and nearly all of it."""
        for rank, (idle, announced) in enumerate(zip(run.idle(), run.announced())):
            covered = tracer.common(idle, announced)
            print(f"# rank {rank}: idle {tracer.total(idle) / 1e6:.1f} ms, announced {tracer.total(announced) / 1e6:.1f}, "
                  f"both {covered / 1e6:.1f}", file=sys.stderr)
            self.assertGreater(covered, 0.95 * tracer.total(idle), f"rank {rank}")


if __name__ == "__main__":
    unittest.main()
