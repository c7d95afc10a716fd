# SPDX-License-Identifier: Apache-2.0
"""What pipefill.hooks.away does to real optimizers, with the CPU standing in for a GPU; run inside build/engines."""

import os
import struct
import sys
import time
import unittest
import warnings
from unittest import mock

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.dirname(os.path.dirname(HERE))]
import fake_daemon  # noqa: E402
from pipefill import bubble  # noqa: E402
from pipefill.hooks import away, waits  # noqa: E402

LIBRARY = os.path.join(os.environ.get("BUILD", os.path.join(HERE, "..", "..", "..", "build")), "libpipefill.so")

torch.set_num_threads(1)
OUT, IN = 1, 2
SIZE = 520  # a weight of 1.1 MB, which is worth moving; its bias is not


class Main:
    """What bubbles are announced to; here nobody listens."""

    holds = False

    def announcer(self, *_):
        return lambda: None

    def begin(self, *_):
        pass

    def moves(self):
        pass

    end = iteration = close = recording = movable = releases = releasable = begin


class Device:
    """The CPU as the device; room: how often returning fails for want of it."""

    def __init__(self, room=0):
        self.calls, self.room = [], room

    def holds(self, _tensor):
        return True

    def host(self, storage):
        return torch.empty(storage.nbytes(), dtype=torch.uint8)

    def leave(self, pairs):
        self.calls.append("leave")
        for there, here in pairs:
            here.copy_(there)
        return 5_000_000

    def passed(self):
        self.calls.append("passed")

    def came_ns(self):
        return 3_000_000

    def release(self):
        self.calls.append("release")

    def come(self, pairs):
        if self.room:
            self.room -= 1
            raise torch.cuda.OutOfMemoryError("no room")
        self.calls.append("come")
        for there, here in pairs:
            there.copy_(here)
            here.zero_()  # who reads it later reads nonsense
        return lambda: self.calls.append("wait")


class Trainer:
    """Trains a layer, with three bubbles an iteration as a hook announces them."""

    def __init__(self, device=None, make=torch.optim.Adam, places=(OUT, IN), main=None):
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(SIZE, SIZE)
        self.optimizer = make(self.layer.parameters(), lr=0.01)
        self.hook = waits.Waits(main or Main())
        if device:
            self.away = away.Away(torch, places, device)
            self.hook.movers = [self.away]
        self.seen = []  # bytes of state that are there, in and after each bubble

    def there(self):
        return sum(v.untyped_storage().nbytes() for state in self.optimizer.state.values() for v in state.values())

    def step(self):
        self.hook.iteration("a")
        x = torch.randn(4, SIZE)
        self.seen = []
        for number in range(3):
            begun = self.hook.begin((waits.RECV_F if number == 0 else waits.RECV_B,))
            self.seen.append(self.there())
            if begun:
                self.hook.end()
            self.seen.append(self.there())
            self.hook.note(waits.FORWARD if number == 0 else waits.BACKWARD)
        self.optimizer.zero_grad()
        self.layer(x).square().mean().backward()
        self.optimizer.step()

    def parameters(self):
        return [p.detach().clone() for p in self.layer.parameters()]


class TestAway(unittest.TestCase):
    """Real optimizers."""

    def same(self, a, b):
        for x, y in zip(a.parameters(), b.parameters()):
            self.assertTrue(torch.equal(x, y))

    def train(self, trainer, steps=10):
        torch.manual_seed(2)
        for _ in range(steps):
            trainer.step()
        return trainer

    def test_trains_to_the_same_bits(self):
        for make, steps in ((torch.optim.Adam, 50), (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9), 10),
                            (lambda p, lr: torch.optim.AdamW(p, lr, foreach=True, amsgrad=True), 10)):
            plain = self.train(Trainer(make=make), steps)
            device = Device()
            moved = self.train(Trainer(device, make), steps)
            self.same(plain, moved)
            self.assertIsNone(moved.hook.off)
            full, small = max(moved.seen), min(moved.seen)
            self.assertGreater(moved.away.moved, 0)
            self.assertEqual(full - small, moved.away.moved)
            # Away from the begin of bubble 1 until the end of bubble 2.
            self.assertEqual(moved.seen, [full, full, small, small, small, full])
            # Memory that is taken again is gone at once: not before the device is where the program is.
            self.assertEqual(device.calls[-5:], ["leave", "release", "passed", "come", "wait"])
            moved.hook.close()

    def test_a_step_has_back_what_is_away(self):
        plain, moved = self.train(Trainer()), Trainer(Device(), places=(OUT, 99))
        self.same(plain, self.train(moved))
        moved.hook.close()

    def test_a_checkpoint_has_back_what_is_away(self):
        moved = self.train(Trainer(Device(), places=(OUT, 99)), 4)
        moved.away.begin(OUT)
        before = moved.there()
        saved = moved.optimizer.state_dict()["state"]
        self.assertGreater(moved.there(), before)
        self.assertGreater(saved[0]["exp_avg"].abs().sum(), 0)
        moved.hook.close()

    def test_no_room(self):
        plain, device = self.train(Trainer()), Device()
        moved = Trainer(device)
        torch.manual_seed(2)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for number in range(10):
                if number == 5:
                    device.room = 3
                moved.step()
        self.same(plain, moved)
        self.assertEqual([str(w.message) for w in said], ["pipefill: optimizer state stays on the device from now on: "
                                                          "the device had no room when it was to come back"])
        self.assertIsNone(moved.hook.off)
        self.assertEqual(len(set(moved.seen)), 1, "it still leaves")
        moved.hook.close()

    def test_never_any_room(self):
        moved = self.train(Trainer(Device(), places=(OUT, 99)), 4)
        moved.away.begin(OUT)
        moved.away._device.room = 1 << 30
        with mock.patch.object(away, "PATIENCE_S", 0.05), self.assertRaises(torch.cuda.OutOfMemoryError):
            moved.optimizer.step()
        moved.away._device.room = 0
        moved.hook.close()

    def test_cannot_leave(self):
        device = Device()
        device.leave = mock.Mock(side_effect=RuntimeError("cannot pin"))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            moved = self.train(Trainer(device))
        self.assertRegex(str(said[0].message), "stays on the device from now on: RuntimeError: cannot pin")
        self.same(self.train(Trainer()), moved)
        self.assertIsNone(moved.hook.off, "bubbles are announced all the same")
        self.assertEqual(device.leave.call_count, 1)
        moved.hook.close()

    def test_close(self):
        plain, moved = self.train(Trainer(), 8), self.train(Trainer(Device()), 4)
        moved.away.begin(OUT)
        self.assertLess(moved.there(), max(moved.seen))
        moved.hook.close()
        self.assertEqual(moved.there(), max(moved.seen))
        for _ in range(4):
            moved.step()
        self.same(plain, moved)


class TestTold(unittest.TestCase):
    """The node says in its control page what is to leave."""

    def setUp(self):
        self.daemon = fake_daemon.FakeDaemon()
        self.addCleanup(self.daemon.close)
        environment = {"PIPEFILL_LIBRARY": LIBRARY, **self.daemon.environment("main")}
        with mock.patch.dict(os.environ, environment):
            self.main = bubble.Main()
        self.assertTrue(self.main.attached, self.main.why)

    def tell(self, told, out=0, back=0):
        struct.pack_into("=I", self.daemon.control, 104, told | out << 8 | back << 16)

    def said(self):
        return struct.unpack_from("=4Q", self.daemon.main, 192)

    same, train = TestAway.same, TestAway.train

    def test_nothing_is_registered_while_nobody_asks(self):
        moved = self.train(Trainer(Device(), places=None, main=self.main), 6)
        self.assertEqual((moved.away._handles, moved.away._asked, self.said()), ([], 0, (0, 0, 0, 0)))
        moved.hook.close()

    def test_leaves_and_stays_as_it_is_told(self):
        plain, device = self.train(Trainer(), 24), Device()
        moved = Trainer(device, places=None, main=self.main)
        torch.manual_seed(2)
        self.tell(1)
        for _ in range(8):
            moved.step()
        full, small = max(moved.seen), moved.there() - self.said()[0]
        size = self.said()[0]
        self.assertEqual(self.said(), (2 * SIZE * SIZE * 4, size // 5, size // 5, 0), "5 GB/s before anything is measured")
        self.assertEqual((set(moved.seen), device.calls), ({full}, []))
        self.tell(3, OUT, IN)
        for _ in range(8):
            moved.step()
        self.assertEqual(moved.seen, [full, full, small, small, small, full])
        told, out_ns, in_ns, times = self.said()
        self.assertEqual((told, in_ns, times), (size, 3_000_000, 8))
        self.assertGreaterEqual(out_ns, 5_000_000)
        self.assertEqual(moved.away.unsaid, 0, "all of it is back")
        # The daemon dies, and then nothing is filled any more: state stays in the next iteration.
        alive = struct.unpack_from("=Q", self.daemon.control, 56)
        struct.pack_into("=Q", self.daemon.control, 56, time.monotonic_ns() - 10**9)
        moved.step()
        self.assertEqual(set(moved.seen), {full})
        struct.pack_into("=Q", self.daemon.control, 56, *alive)
        moved.step()
        self.assertEqual(min(moved.seen), small)
        struct.pack_into("=I", self.daemon.control, 16, 0)
        moved.step()
        self.assertEqual(set(moved.seen), {full})
        struct.pack_into("=I", self.daemon.control, 16, 1)
        self.tell(0)
        for _ in range(5):
            moved.step()
        self.assertEqual(set(moved.seen), {full})
        self.same(plain, moved)
        self.assertIsNone(moved.hook.off)
        moved.hook.close()
        self.assertEqual(self.said()[0], 0)

    def test_never_in_a_control_iteration(self):
        moved = Trainer(Device(), places=None, main=self.main)
        self.tell(3, OUT, IN)
        struct.pack_into("=I", self.daemon.control, 28, 500_000)
        self.train(moved, 40)
        control = {e["iteration"] for e in self.daemon.events() if e["flags"] & 2}
        self.assertTrue(8 < len(control) < 32, control)
        # The first two steps make the state, and the last iteration has no mark yet.
        marks = [e["iteration"] for e in self.daemon.events() if e["flags"] & 8]
        self.assertAlmostEqual(self.said()[3], len(marks) - len(control), delta=3)
        moved.hook.close()

    def test_no_room_is_told_at_once(self):
        device = Device()
        moved = self.train(Trainer(device, places=None, main=self.main), 3)
        self.tell(3, OUT, 99)
        for _ in range(3):
            moved.step()
        told = []
        device.release = lambda: told.append(self.said()[0])  # as a step waits
        device.room = 3
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            moved.step()
        self.assertEqual((told[-2:], len(said)), ([0, 0], 1))
        self.assertIsNotNone(moved.away.stopped)
        moved.hook.close()

    def test_by_hand_wins(self):
        device = Device()
        moved = Trainer(device, places=(OUT, IN), main=self.main)
        self.tell(3, 0, 0)
        self.train(moved, 4)
        self.assertEqual(moved.seen[1], max(moved.seen), "not over bubble 0")
        self.assertLess(moved.seen[2], max(moved.seen))
        self.assertEqual(self.said(), (0, 0, 0, 0))
        moved.hook.close()

    def test_host_memory_is_pinned_a_little_in_each_bubble(self):
        device, moved = Device(), None
        hosts = device.host

        def slow(storage):
            time.sleep(2 * away.PIN_S)
            return hosts(storage)

        device.host = slow
        moved = Trainer(device, places=None, main=self.main)
        self.tell(3, OUT, IN)
        self.train(moved, 2)
        self.assertEqual((len(moved.away._hosts), device.calls), (1, []))
        self.train(moved, 2)
        self.assertIn("leave", device.calls)
        moved.hook.close()


class TestCuda(unittest.TestCase):
    """What the GPU is asked for, of a torch that only notes it."""

    def test_order(self):
        fake = mock.MagicMock()
        device, there, here = away.Cuda(fake), mock.Mock(), mock.Mock()
        fake.attach_mock(there, "there")
        fake.attach_mock(here, "here")
        fake.cuda.Event().elapsed_time.return_value = 1.5
        fake.reset_mock()
        self.assertEqual(device.leave([(there, here)]), 1_500_000)
        self.assertEqual([call[0] for call in fake.mock_calls],
                         ["cuda.Event", "cuda.Event().record", "here.copy_", "cuda.Event", "cuda.Event().record",
                          "cuda.Event().synchronize", "cuda.Event().elapsed_time"])
        self.assertEqual(device.came_ns(), 0)
        fake.reset_mock()
        wait = device.come([(there, here)])
        names = [call[0] for call in fake.mock_calls]
        self.assertLess(names.index("cuda.Stream().wait_stream"), names.index("there.copy_"))
        self.assertLess(names.index("cuda.stream().__enter__"), names.index("there.copy_"))
        self.assertLess(names.index("there.copy_"), len(names) - 1 - names[::-1].index("cuda.Event().record"))
        self.assertNotIn("cuda.current_stream().wait_event", names)
        wait()
        self.assertEqual(fake.mock_calls[-1][0], "cuda.current_stream().wait_event")
        self.assertEqual(device.came_ns(), 1_500_000)
        fake.cuda.Event().query.return_value = False
        self.assertEqual(device.came_ns(), 0)
        fake.reset_mock()
        device.passed()
        self.assertEqual(fake.mock_calls[-1][0], "cuda.current_stream().synchronize")
        device.host(mock.Mock(nbytes=lambda: 8))
        fake.empty.assert_called_with(8, dtype=fake.uint8, pin_memory=True)


if __name__ == "__main__":
    unittest.main()
