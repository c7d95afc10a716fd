# SPDX-License-Identifier: Apache-2.0
"""The bindings against real pages: what Python announces and waits for is what C sees."""

import math
import os
import threading
import time
import unittest
from unittest import mock

from fake_daemon import CONTROL, ITERATION, OFFERED, FakeDaemon
from pipefill import bubble, gate

LIBRARY = os.path.join(os.path.dirname(__file__), "..", "..", "build", "libpipefill.so")


@unittest.skipUnless(os.path.exists(LIBRARY), "needs build/libpipefill.so (make all)")
class TestPages(unittest.TestCase):
    def setUp(self):
        self.daemon = FakeDaemon()
        self.addCleanup(self.daemon.close)

    def job(self, role):
        environment = dict(self.daemon.environment(role), PIPEFILL_LIBRARY=os.path.abspath(LIBRARY))
        self.enterContext(mock.patch.dict(os.environ, environment))

    def test_bubbles_arrive_in_the_ring(self):
        self.job("main")
        main = bubble.Main()
        self.assertTrue(main.attached, main.why)
        self.assertEqual(main.device, "cpu:0")
        announce = main.announcer(bubble.Kind.FILL_DRAIN, 1)
        for _ in range(12):
            main.begin(bubble.Kind.FWD_BWD, 0)
            time.sleep(0.004)
            main.end()
            announce()
            time.sleep(0.002)
            main.end()
            main.iteration()
        main.close()
        announce()  # closed: nothing
        events = self.daemon.events()
        marks = [e for e in events if e["flags"] & ITERATION]
        bubbles = [e for e in events if not e["flags"] & ITERATION]
        self.assertEqual(len(marks), 12)
        self.assertEqual([(b["kind"], b["index"]) for b in bubbles[:2]],
                         [(bubble.Kind.FWD_BWD, 0), (bubble.Kind.FILL_DRAIN, 1)])
        self.assertTrue(all(b["end_ns"] - b["begin_ns"] >= 2e6 for b in bubbles))
        self.assertTrue(any(b["flags"] & OFFERED for b in bubbles), "nothing was offered once it was learned")
        self.assertFalse(any(b["flags"] & CONTROL for b in bubbles))

    def test_fill_reads_its_plan_and_tells_where_it_is(self):
        self.job("fill")
        fill = gate.Fill()
        self.assertEqual(fill.plan_id, 0)
        with self.assertRaisesRegex(OSError, "no device"):
            fill.plan()
        text = b"{" + b" " * 100_000 + b"}"
        self.daemon.hand_plan(12, text)
        self.assertEqual(fill.plan_id, 12)
        self.assertEqual(fill.plan(), (12, text))
        fill.at(12, 3, 4)
        self.assertEqual(self.daemon.position(), (12, 3, 4))
        self.assertIsNone(fill.bubble())
        self.daemon.open_gate(2_000_000_000, time.monotonic_ns())
        self.assertEqual(fill.bubble(), 0)
        fill.close()

    def test_outside_a_fill_job_there_is_no_plan(self):
        with mock.patch.dict(os.environ):
            os.environ.pop("PIPEFILL_DIR", None)
            fill = gate.Fill()
        self.assertEqual((fill.plan_id, fill.bubble()), (0, None))
        fill.at(1, 2, 3)
        with self.assertRaises(OSError):
            fill.plan()

    def test_fill_waits_for_an_opening_that_is_long_enough(self):
        self.job("fill")
        fill = gate.Fill()
        self.assertTrue(fill.attached)
        with self.assertRaises(TimeoutError):
            fill.wait(need_s=0.001, timeout_s=0.05)
        opener = threading.Timer(0.05, lambda: self.daemon.open_gate(200_000_000, time.monotonic_ns()))
        opener.start()
        left = fill.wait(need_s=0.01, timeout_s=5)
        opener.join()
        self.assertGreater(left, 0.01)
        self.assertLess(left, 0.2)
        self.assertLess(fill.left(), left)
        fill.yield_()
        with self.assertRaises(TimeoutError):
            fill.wait(need_s=0.5, timeout_s=0.01)
        self.daemon.stop_fill()
        self.assertTrue(fill.stopping)
        with self.assertRaises(gate.Stopping):
            fill.wait(timeout_s=1)
        fill.close()
        self.assertEqual(fill.wait(), math.inf)


if __name__ == "__main__":
    unittest.main()
