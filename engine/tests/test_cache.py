# SPDX-License-Identifier: Apache-2.0
"""Blocks that a caching allocator keeps, given back over a bubble: pipefill.hooks.cache on an allocator that works as
PyTorch's does, and what it asks of PyTorch's own."""

import os
import struct
import sys
import types
import unittest
import warnings
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fake_daemon
from pipefill import bubble
from pipefill.hooks import cache, memory, waits

BUILD = os.environ.get("BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))
MIB = 1 << 20
LOOKED = 2 + memory.KEPT  # iterations until it is known what is unused


class OutOfMemoryError(Exception):
    """torch.cuda.OutOfMemoryError."""


TORCH = types.SimpleNamespace(cuda=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError))


class Bytes:
    """What is returned for memory that was asked for; it is free again when that is dropped."""

    def __init__(self, segment, size):
        self.segment, self.size = segment, size
        segment["used"] += size

    def __del__(self):
        self.segment["used"] -= self.size


class Allocator:
    """A device of room bytes, and segments of it as PyTorch's allocator keeps them: a free place in one is taken before a
    new one is made, and those that nothing is in go back when it is told to release, or finds no room."""

    def __init__(self, room=1000 * MIB):
        self.room, self.segments, self.calls = room, [], []

    def sizes(self):
        return sorted(segment["size"] for segment in self.segments)

    def unused(self):
        return [segment["size"] for segment in self.segments if not segment["used"]]

    def reserved(self):
        return sum(self.sizes())

    def release(self):
        self.calls.append("release")
        self.segments = [segment for segment in self.segments if segment["used"]]

    def passed(self):
        self.calls.append("passed")

    def take(self, size):
        self.calls.append(size)
        fits = [segment for segment in self.segments if segment["size"] - segment["used"] >= size]
        if not fits:
            if self.reserved() + size > self.room:
                self.segments = [segment for segment in self.segments if segment["used"]]
                if self.reserved() + size > self.room:
                    raise OutOfMemoryError
            fits = [{"size": size, "used": 0}]
            self.segments += fits
        return Bytes(min(fits, key=lambda segment: segment["size"] - segment["used"]), size)


class Main:
    """What the node says and is told."""

    def __init__(self):
        self.said, self.told = None, []

    def releases(self):
        return self.said

    def releasable(self, *what):
        self.told.append(what)


class TestCache(unittest.TestCase):
    """An iteration has bubbles 0 to 2; in 1 the most is unused, 60 MiB of two segments."""

    def setUp(self):
        patched = mock.patch.object(cache, "GRAIN", 20 * MIB)
        patched.start()
        self.addCleanup(patched.stop)
        self.device, self.main = Allocator(), Main()
        self.cache = cache.Cache(TORCH, self.device)
        self.kept = self.device.take(100 * MIB)
        for size in (20 * MIB, 40 * MIB):
            self.device.segments.append({"size": size, "used": 0})
        self.seen = []

    def iterate(self, count=1, during=lambda: None):
        for _ in range(count):
            self.cache.iteration()
            self.cache.ask(self.main)
            self.seen = []
            for index in range(3):
                other = self.device.take(20 * MIB) if index != 1 else None
                self.cache.begin(index)
                self.seen.append((self.device.reserved() // MIB, self.cache.unsaid // MIB))
                if index == 1:
                    during()
                self.cache.end(index)
                self.seen.append((self.device.reserved() // MIB, self.cache.unsaid // MIB))
                del other

    def test_nothing_is_asked_of_the_device_while_the_node_says_nothing(self):
        before = list(self.device.calls)
        with mock.patch.object(self.device, "unused") as unused:
            self.iterate(40)
        self.assertEqual((self.main.told, unused.call_count), ([], 0))
        self.assertEqual([call for call in self.device.calls if isinstance(call, str)], [])
        self.assertEqual(before, [100 * MIB])

    def test_tells_of_the_bubble_in_which_most_is_unused(self):
        self.main.said = ()
        self.iterate(LOOKED)
        self.assertEqual(self.main.told, [], "the allocator's cache still grows")
        self.iterate()
        guess_ns = 2 * cache.SEGMENT_NS
        self.assertEqual(self.main.told, [(1, 60 * MIB, guess_ns, guess_ns, 0)])
        self.assertNotIn("release", self.device.calls)
        with mock.patch.object(self.device, "unused", return_value=[39 * MIB]) as unused:
            self.iterate(2 * memory.EVERY)
        self.assertEqual(unused.call_count, 2, "a look takes milliseconds")
        self.assertEqual(self.main.told[-1][:2], (1, 20 * MIB), "rounded down")

    def test_gives_back_over_the_bubble_and_takes_the_same_again(self):
        self.main.said = ()
        self.iterate(LOOKED + 1)
        before = self.device.sizes()
        self.main.said, self.device.calls = 1, []
        self.iterate()
        self.assertEqual(self.seen, [(160, 0), (160, 0), (100, 60), (160, 0), (160, 0), (160, 0)])
        self.assertEqual(self.device.calls, [20 * MIB, "release", "passed", 20 * MIB, 40 * MIB, 20 * MIB])
        self.assertEqual(self.device.sizes(), before)
        self.assertEqual(sorted(self.device.unused()), [20 * MIB, 40 * MIB], "it is all to be had again")
        self.iterate()
        self.assertEqual(self.main.told[-1][:2] + self.main.told[-1][-1:], (1, 60 * MIB, 1))
        self.assertTrue(0 < self.main.told[-1][2] < 10**9 > self.main.told[-1][3] > 0, self.main.told[-1])
        self.main.said = ()  # the fill job has left, or this is a control iteration
        self.device.calls = []
        self.iterate()
        self.assertEqual(self.device.calls, [20 * MIB, 20 * MIB])

    def test_what_lies_free_in_a_segment_in_use_is_not_taken_for_it(self):
        self.main.said = 1
        hole = {"size": 90 * MIB, "used": 10 * MIB}  # room for all of it
        self.device.segments.append(hole)
        self.iterate()
        self.assertEqual(self.device.sizes(), [20 * MIB, 40 * MIB, 90 * MIB, 100 * MIB])
        self.assertEqual(hole["used"], 10 * MIB)

    def test_its_bubble_does_not_end(self):
        self.main.said = 1
        with mock.patch.object(self.cache, "end"):
            self.iterate()
        self.assertEqual(self.device.reserved(), 120 * MIB)
        self.cache.iteration()
        self.assertEqual(self.device.sizes(), [20 * MIB, 20 * MIB, 40 * MIB, 100 * MIB])

    def crowd(self, sleeps):
        """A fill job that has the room, and leaves it after so many of the hook's sleeps."""
        self.main.said, self.device.room = 1, 160 * MIB
        left = iter(range(sleeps))

        def sleep(_):
            if next(left, None) is None:
                self.device.room = 160 * MIB

        def fill():
            self.device.room = 100 * MIB

        with warnings.catch_warnings(record=True) as said, mock.patch.object(cache.time, "sleep", sleep):
            warnings.simplefilter("always")
            self.iterate(during=fill)
        return [str(w.message) for w in said]

    def test_no_room(self):
        told = []
        self.main.releasable = lambda *what: told.append((what, self.device.room))
        said = self.crowd(3)
        self.assertEqual(said, ["pipefill: cached blocks stay on the device from now on: the device had no room when they were "
                                "to be taken again"])
        self.assertEqual(told, [((0, 0, 0, 0, 1), 100 * MIB)], "told at once, before there is room")
        self.assertEqual(self.device.sizes(), [20 * MIB, 40 * MIB, 100 * MIB])
        self.device.calls = []
        self.iterate(3)
        self.assertNotIn("release", self.device.calls)

    def test_never_any_room(self):
        with mock.patch.object(cache, "PATIENCE_S", 0), self.assertRaises(OutOfMemoryError):
            self.crowd(1 << 30)  # of the program's own next allocation
        self.assertEqual(self.main.told, [(0, 0, 0, 0, 1)])

    def test_what_raises_ends_it(self):
        self.main.said = 1
        for name in ("unused", "passed"):
            with self.subTest(name):
                self.setUp()
                self.main.said = 1
                with mock.patch.object(self.device, name, side_effect=RuntimeError("no")), \
                        warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    self.iterate(3)
                self.assertEqual(len(said), 1)
                self.assertEqual(self.main.told, [(0, 0, 0, 0, int(name == "passed"))])
                self.assertEqual(self.cache.stopped, "RuntimeError: no")

    def test_close(self):
        self.main.said = 1
        with mock.patch.object(self.cache, "end"):
            self.iterate()
        self.cache.close()
        self.assertEqual((self.device.sizes(), self.main.told[-1]), ([20 * MIB, 20 * MIB, 40 * MIB, 100 * MIB], (0, 0, 0, 0, 1)))
        self.iterate(3)
        self.assertEqual(self.cache.times, 1)


@unittest.skipUnless(os.path.exists(os.path.join(BUILD, "libpipefill.so")), "libpipefill.so is not built (make)")
class TestPages(unittest.TestCase):
    """A hook, real pages, and the node's words in them."""

    def test_as_the_node_says(self):
        daemon = fake_daemon.FakeDaemon()
        self.addCleanup(daemon.close)
        environment = {"PIPEFILL_LIBRARY": os.path.join(BUILD, "libpipefill.so"), **daemon.environment("main")}
        with mock.patch.dict(os.environ, environment):
            main = bubble.Main()
        self.assertTrue(main.attached, main.why)
        device = Allocator()
        device.segments.append({"size": 64 * MIB, "used": 0})
        hook = waits.Waits(main)
        hook.movers = [cache.Cache(TORCH, device)]

        def iterate(count, word):
            struct.pack_into("=I", daemon.control, 108, word)
            for _ in range(count):
                hook.iteration("a")
                for number in range(2):
                    if hook.begin((waits.RECV_F if number == 0 else waits.RECV_B,)):
                        hook.end()
                    hook.note(waits.FORWARD if number == 0 else waits.BACKWARD)
            return struct.unpack_from("=4QI", daemon.main, 224)

        self.assertEqual(iterate(LOOKED, 0), (0, 0, 0, 0, 0))
        self.assertEqual(iterate(LOOKED + 1, 1), (64 * MIB, cache.SEGMENT_NS, cache.SEGMENT_NS, 0, 0))
        self.assertEqual(device.calls, [])
        told = iterate(8, 1 | 2 | 1 << 8)
        self.assertEqual(device.calls, 8 * ["release", "passed", 64 * MIB])
        self.assertEqual((told[0], told[3]), (64 * MIB, 7))  # the last one is told in the next iteration
        struct.pack_into("=Q", daemon.control, 56, 1)
        iterate(1, 1 | 2 | 1 << 8)
        self.assertEqual(len(device.calls), 24, "the daemon is dead")
        struct.pack_into("=I", daemon.control, 28, 500_000)
        struct.pack_into("=Q", daemon.control, 56, 1 << 62)
        iterate(40, 1 | 2 | 1 << 8)
        control = {e["iteration"] for e in daemon.events() if e["flags"] & fake_daemon.CONTROL}
        self.assertTrue(8 < len(control) < 32, control)
        self.assertEqual(device.calls.count("release"), 8 + 40 - len(control))
        self.assertIsNone(hook.off)
        hook.close()
        self.assertEqual(struct.unpack_from("=Q", daemon.main, 224), (0,))


class TestCuda(unittest.TestCase):
    """What PyTorch is asked, of one that only notes it."""

    def test_unused(self):
        torch = mock.MagicMock()
        torch.cuda.current_device.return_value = 1
        torch.cuda.current_stream.return_value.cuda_stream = 7
        segment = {"device": 1, "stream": 7, "total_size": 20 * MIB, "allocated_size": 0, "active_size": 0,
                   "segment_type": "large", "is_expandable": False, "segment_pool_id": (0, 0)}
        others = ({"device": 0}, {"stream": 0}, {"allocated_size": 1}, {"active_size": 1}, {"total_size": 2 * MIB},
                  {"is_expandable": True}, {"segment_pool_id": (0, 1)})
        torch.cuda.memory_snapshot.return_value = [segment, *(segment | other for other in others)]
        self.assertEqual(cache.Cuda(torch).unused(), [20 * MIB])

    def test_calls(self):
        torch = mock.MagicMock()
        device = cache.Cuda(torch)
        device.release()
        torch.cuda.empty_cache.assert_called_once_with()
        self.assertIs(device.reserved(), torch.cuda.memory_reserved.return_value)
        device.take(5)
        torch.empty.assert_called_once_with(5, dtype=torch.uint8, device="cuda")
        device.passed()
        torch.cuda.current_stream.return_value.synchronize.assert_called_once_with()


if __name__ == "__main__":
    unittest.main()
