# SPDX-License-Identifier: Apache-2.0
"""The bubble instruction in a stream's order from Python, and what the hooks hold, on the libcuda of engine/cuda/tests."""

import ctypes
import importlib.util
import os
import time
import types
import unittest
from unittest import mock

import fake_daemon
from pipefill import stream
from pipefill.bubble import Kind, Work
from pipefill.hooks import memory, torch_pipelining, waits
from pipefill.hooks.waits import BACKWARD, FORWARD, RECV_B, RECV_F, SEND

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
LIBRARY = os.path.join(BUILD, "libpipefill-cuda.so")
DRIVER = os.path.join(BUILD, "tests", "libfakecuda.so")
MS = 1_000_000


@unittest.skipUnless(os.path.exists(LIBRARY) and os.path.exists(DRIVER),
                     "build/libpipefill-cuda.so and its fake driver are not built (make all check-c-cuda)")
class TestStream(unittest.TestCase):
    """stream.Main on a stream that is a thread."""

    def setUp(self):
        self.daemon = fake_daemon.FakeDaemon(device="gpu:GPU-0")
        self.addCleanup(self.daemon.close)
        environment = {"PIPEFILL_CUDA_LIBRARY": LIBRARY, "PIPEFILL_CUDA_DRIVER": DRIVER,
                       **self.daemon.environment("main")}
        patched = mock.patch.dict(os.environ, environment)
        patched.start()
        self.addCleanup(patched.stop)
        self.driver = ctypes.CDLL(DRIVER)
        self.driver.fake_cuda_stream.restype = ctypes.c_void_p
        self.driver.fake_cuda_kernel.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p]
        self.driver.fake_cuda_synchronize.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
        self.stream = self.driver.fake_cuda_stream()

    def kernel(self, ns):
        self.driver.fake_cuda_kernel(self.stream, ns, None)

    def settle(self, marks):
        self.assertEqual(self.driver.fake_cuda_synchronize(self.stream, 20_000 * MS), 0, "the stream is kept for ever")
        end = time.monotonic() + 20
        while sum(bool(e["flags"] & fake_daemon.ITERATION) for e in self.daemon.events()) < marks:
            self.assertLess(time.monotonic(), end, "the marks have not been announced")

    def test_announces_what_the_stream_comes_to(self):
        main = stream.Main(lambda: self.stream)
        self.assertTrue(main.attached, main.why)
        self.assertTrue(main.holds)
        self.assertEqual(main.device, "gpu:GPU-0")
        main.free(3, 5 << 20)
        begin = main.announcer(Kind.FWD_BWD, 3, True)
        began_ns = time.monotonic_ns()
        self.kernel(30 * MS)
        begin()
        main.end()
        main.iteration()
        self.settle(1)
        bubble = self.daemon.events()[0]
        self.assertEqual((bubble["kind"], bubble["index"], bubble["free_bytes"]), (Kind.FWD_BWD, 3, 5 << 20))
        self.assertGreaterEqual(bubble["begin_ns"], began_ns + 30 * MS)
        self.assertEqual(main.figures().announced, 1)
        with main.phase(Work.EVALUATION):
            self.kernel(20 * MS)
        main.iteration()
        self.settle(2)
        phase = [e for e in self.daemon.events() if e["kind"] == Kind.OTHER][0]
        self.assertGreaterEqual(phase["end_ns"] - phase["begin_ns"], 19 * MS, "as long as the device takes")
        main.stage(3)
        self.assertEqual(self.daemon.stage(), 3)
        main.close()
        self.assertFalse(main.attached)
        begin()
        main.end()
        main.iteration()
        self.assertIsNone(main.device)

    def test_hooks_announce_on_it(self):
        main = stream.Main(lambda: self.stream)
        hook = waits.Waits(main)
        for _ in range(12):
            hook.iteration("a")
            self.kernel(MS)
            if hook.begin((RECV_F,), alone=True):
                self.kernel(5 * MS)
                hook.end()
            hook.note(FORWARD)
            if hook.begin((RECV_B,), alone=True):
                self.kernel(5 * MS)
                hook.end()
            hook.note(BACKWARD)
        hook.iteration("a")  # its mark comes after all of them
        self.settle(13)
        kinds = [e["kind"] for e in self.daemon.events() if not e["flags"] & fake_daemon.ITERATION]
        self.assertEqual(kinds, [Kind.FILL_DRAIN, Kind.FWD_BWD] * 11)
        self.assertGreater(main.figures().held, 0)
        hook.close()

    def test_says_why_not(self):
        self.assertIn("libnowhere", stream.Main(lambda: None, driver="libnowhere.so").why)
        with mock.patch.dict(os.environ, {"PIPEFILL_CUDA_LIBRARY": "/nowhere.so"}):
            main = stream.Main(lambda: None)
        self.assertIn("nowhere", main.why)
        self.assertFalse(main.attached or main.holds)
        main.announcer(Kind.STEADY, 1)()
        main.end()
        main.iteration()
        main.close()


    def test_the_measurement_runs(self):
        """test/gpu/hook.py, but for its fill work, on a torch.cuda over the fake driver; what it prints is no figure."""
        path = os.path.join(ROOT, "test", "gpu", "hook.py")
        spec = importlib.util.spec_from_file_location("gpu_hook", path)
        hook = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(hook)
        device = hook.Device(types.SimpleNamespace(cuda=FakeTorchCuda(self.driver, self.stream)))
        main = stream.Main(lambda: self.stream)
        rows = [*hook.enqueueing(main, device), *hook.announcing(main, device, self.daemon, 12),
                *hook.holding(main, device, self.daemon, 12)]
        main.close()
        self.assertTrue(all(row["n"] > 0 and row["value"] >= 0 for row in rows), rows)
        self.assertGreaterEqual(len(rows), 6, rows)


class FakeTorchCuda:
    """As much of torch.cuda as test/gpu/hook.py uses. A kernel of 1e8 cycles takes 1 ms."""

    def __init__(self, driver, on):
        self._driver, self._on = driver, on
        driver.cuEventRecord.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        driver.cuEventQuery.argtypes = [ctypes.c_void_p]

    def current_stream(self):
        return types.SimpleNamespace(cuda_stream=self._on)

    def _sleep(self, cycles):
        self._driver.fake_cuda_kernel(self._on, int(cycles / 100), None)

    def synchronize(self):
        if self._driver.fake_cuda_synchronize(self._on, 20_000 * MS):
            raise RuntimeError("the stream is kept for ever")

    def Event(self, **_):
        event = ctypes.c_void_p()
        self._driver.cuEventCreate(ctypes.byref(event), 0)
        return types.SimpleNamespace(
            record=lambda: self._driver.cuEventRecord(event, self._on), synchronize=self.synchronize,
            elapsed_time=lambda other: 1.0, query=lambda: self._driver.cuEventQuery(event) == 0)


class HoldingMain:
    """A stream.Main that writes down what it is told."""

    holds = True

    def __init__(self):
        self.calls, self.freed = [], {}

    def announcer(self, kind, index, hold=False):
        return lambda: self.calls.append(("begin", index, hold))

    def free(self, index, free_bytes):
        self.freed[index] = free_bytes

    def end(self):
        self.calls.append(("end",))

    def iteration(self):
        self.calls.append(("iteration",))

    def recording(self):
        return False

    def close(self):
        pass


class Operation:
    """A torch.distributed.P2POp."""

    group = None

    def __init__(self, word):
        self.pipefill_word = word


class TestHeld(unittest.TestCase):
    """Which waits are held, by the hook of PyTorch from 2.8 on."""

    def setUp(self):
        self.main = HoldingMain()
        self.hook = waits.Waits(self.main)
        self.post = torch_pipelining._returning_list(self.hook, self._post)
        self.wait = torch_pipelining._waiting_list(self.hook, lambda work: None)

    def _post(self, operations):
        self.main.calls.append(("post", *(operation.pipefill_word for operation in operations)))
        return [object() for _ in operations]

    def batch(self, *words):
        return self.post([Operation(word) for word in words])

    def iterate(self, body, times=4):
        for _ in range(times):
            self.main.calls.clear()
            self.hook.iteration("a")
            body()
        self.assertIsNone(self.hook.off)
        return self.main.calls

    def test_a_receive_that_is_waited_for_at_once(self):
        def body():
            self.wait(self.batch(RECV_F))
            self.wait(self.batch(FORWARD))
            self.wait(self.batch(RECV_B))

        calls = self.iterate(body)
        self.assertEqual(calls[1:4], [("begin", 0, True), ("post", RECV_F), ("end",)],
                         "the bubble begins before the receive is posted")
        self.assertIn(("begin", 2, True), calls)
        self.assertNotIn(("begin", 1, True), calls, "a send is never held")

    def test_a_receive_that_something_is_posted_behind(self):
        def body():
            received = self.batch(RECV_F)
            sent = self.batch(FORWARD)
            self.wait(received)
            self.wait(sent)

        self.assertNotIn(True, [call[2] for call in self.iterate(body) if call[0] == "begin"])

    def test_fused_with_a_send(self):
        calls = self.iterate(lambda: self.wait(self.batch(FORWARD, RECV_B)))
        self.assertEqual([call for call in calls if call[0] == "begin"], [("begin", 0, False)])

    def test_fused_of_several_groups(self):
        """From 2.15 on each group is posted by itself, so that the receive can be held and the send is not."""
        def both(operations):
            if len(operations) == 2:
                return self.post(operations[:1]) + self.post(operations[1:])
            return self._post(operations)

        self.post = torch_pipelining._returning_list(self.hook, both)

        def body():
            operations = [Operation(FORWARD), Operation(RECV_B)]
            operations[0].group, operations[1].group = "forward", "backward"
            self.wait(self.post(operations))

        calls = self.iterate(body)
        self.assertNotIn(True, [call[2] for call in calls if call[0] == "begin"],
                         "they are waited for together: the send with the receive")

    def test_what_something_is_sent_after(self):
        def body():
            if self.hook.begin((RECV_F,), alone=True):
                self.hook.end()
            self.hook.sending()
            self.hook.note(FORWARD)
            if self.hook.begin((RECV_F,), alone=True):
                self.hook.end()
            self.hook.note(FORWARD)
            self.hook.note(BACKWARD)
            self.hook.sending()

        self.assertEqual([call for call in self.iterate(body) if call[0] == "begin"],
                         [("begin", 0, False), ("begin", 1, True)])

    def test_another_order_holds_nothing(self):
        self.iterate(lambda: self.wait(self.batch(RECV_F)))
        calls = self.iterate(lambda: self.wait(self.batch(FORWARD, RECV_B)), 1)
        self.assertEqual([call for call in calls if call[0] == "begin"], [])


class FakeCuda:
    """torch.cuda's memory."""

    def __init__(self):
        self.free, self.looks = 10, 0

    def mem_get_info(self):
        self.looks += 1
        return self.free, 100


class TestMemory(unittest.TestCase):
    """Learning what is free."""

    def run_iterations(self, free, main, count, indices=(0, 2)):
        for _ in range(count):
            free.iteration()
            for index in indices:
                free.at(index, main)

    def test_looks_seldom(self):
        cuda, main = FakeCuda(), HoldingMain()
        free = memory.Free(cuda)
        self.run_iterations(free, main, 2)
        self.assertEqual(cuda.looks, 0, "the allocator's cache still grows")
        self.run_iterations(free, main, memory.EVERY - 2)
        self.assertEqual(cuda.looks, 2 * memory.KEPT)
        self.assertEqual(main.freed, {0: 10, 2: 10})

    def test_the_least_of_the_last_looks_counts(self):
        cuda, main = FakeCuda(), HoldingMain()
        free = memory.Free(cuda)
        self.run_iterations(free, main, memory.EVERY)
        cuda.free = 4
        self.run_iterations(free, main, 1)
        self.assertEqual(main.freed[0], 4)
        cuda.free = 8
        self.run_iterations(free, main, memory.EVERY)
        self.assertEqual(main.freed[0], 4)
        self.run_iterations(free, main, memory.KEPT * memory.EVERY)
        self.assertEqual(main.freed[0], 8)

    def test_hooks_use_it(self):
        main, cuda = HoldingMain(), FakeCuda()
        hook = waits.Waits(main)
        hook.memory = memory.Free(cuda)
        for _ in range(8):
            hook.iteration("a")
            if hook.begin((SEND,)):
                hook.end()
            hook.note(FORWARD)
            if hook.begin((RECV_B,)):
                hook.end()
        self.assertIsNone(hook.off)
        self.assertEqual(main.freed, {0: 10, 1: 10})


if __name__ == "__main__":
    unittest.main()
