# SPDX-License-Identifier: Apache-2.0
"""The state file: whole or refused; and what is learned of ops' times. Pure but for the disk."""

import collections
import os
import struct
import tempfile
import unittest
from unittest import mock

import pipefill
import torch
from pipefill.fill import state
from pipefill.fill.times import Margin, OpTime
from torch import nn


class TestState(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "state")

    def refused(self, pattern):
        with self.assertRaisesRegex(ValueError, pattern):
            state.load(self.path)

    def test_comes_back(self):
        kept = {"a": torch.arange(6, dtype=torch.int16).reshape(2, 3), "none": None, "empty": torch.empty(0, 3),
                "b": [torch.tensor(1.5, dtype=torch.bfloat16), (True, "text", torch.randn(700_000))],
                "c": collections.OrderedDict(x=torch.tensor(False)), "t": torch.randn(3, 4).t()}
        seen = []
        state.save(self.path, kept, seen.append, lambda: seen.append("pause"))
        back = state.load(self.path)
        self.assertEqual(list(back), list(kept))
        for one, other in ((back["a"], kept["a"]), (back["b"][0], kept["b"][0]), (back["b"][1][2], kept["b"][1][2]),
                           (back["c"]["x"], kept["c"]["x"]), (back["t"], kept["t"]), (back["empty"], kept["empty"])):
            self.assertTrue(torch.equal(one, other))
            self.assertEqual((one.dtype, one.shape), (other.dtype, other.shape))
        self.assertEqual(back["b"][1][:2], (True, "text"))
        self.assertIsInstance(back["c"], collections.OrderedDict)
        self.assertGreaterEqual(seen.count("state.piece"), 3)
        self.assertEqual(seen[-1], "pause")
        self.assertIsNone(state.load(self.path + ".other"))

    def test_damage(self):
        state.save(self.path, {"a": torch.ones(1000)})
        with open(self.path, "rb") as file:
            good = bytearray(file.read())
        end = len(good) - struct.calcsize("<15sIQII")

        def write(data):
            with open(self.path, "wb") as file:
                file.write(data)

        for at in (0, 2000, end - 1):
            write(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
            self.refused(r"is damaged: remove it to start anew")
        write(good[:-1])
        self.refused("is no state of a fill job")
        write(b"")
        self.refused(r"is no state of a fill job.*it has 0 bytes")
        write(good[:end + 15] + struct.pack("<I", 2) + good[end + 19:])
        self.refused("is a state of version 2, and this pipefill reads 1")

    def test_a_full_disk_leaves_the_last_one(self):
        state.save(self.path, {"a": 1})
        with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")), self.assertRaises(OSError):
            state.save(self.path, {"a": 2})
        self.assertEqual(state.load(self.path), {"a": 1})

    def test_of_another_program_or_other_data(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        batches = [torch.ones(1, 2)] * 4
        loop = iter(pipefill.fill(batches, model, checkpoint=self.path, every_s=0))
        for _ in range(4):
            next(loop)  # three bodies have ended
        loop.close()
        self.assertEqual(len(list(pipefill.fill(batches, model, checkpoint=self.path))), 1)
        self.assertEqual(len(list(pipefill.fill(batches, model, checkpoint=self.path))), 0)
        with self.assertRaisesRegex(ValueError, r"holds \['model'\], and this program keeps \['model', 'optimizer.0'\]"):
            list(pipefill.fill(batches, model, torch.optim.SGD(model.parameters(), 0.1), checkpoint=self.path))
        os.remove(self.path)
        loop = iter(pipefill.fill(batches, model, checkpoint=self.path, every_s=0))
        for _ in range(4):
            next(loop)
        loop.close()
        with self.assertRaisesRegex(ValueError, "written after 3 batches of an epoch, and the loader has fewer now"):
            list(pipefill.fill(batches[:2], model, checkpoint=self.path))


class TestTimes(unittest.TestCase):
    def test_op_time(self):
        op = OpTime()
        self.assertIsNone(op.need)
        for seconds in [9.0] + 199 * [1.0] + [5.0] + 39 * [1.0]:
            op.add(seconds)
        self.assertEqual((op.need, op.fast, op.median), (1.0, 1.0, 1.0))  # one disturbed run counts for nothing
        for _ in range(8):
            op.add(2.0)
        self.assertEqual((op.need, op.median), (2.0, 1.0))

    def test_profiled(self):
        op = OpTime(0.5)
        op.add(3.0)
        self.assertEqual(op.need, 0.5)
        for _ in range(10):
            op.add(1.0)
        self.assertEqual(op.median, 1.0)

    def test_margin_finds_its_quantile(self):
        margin = Margin(late=0.01, step_s=1e-4, most_s=1.0)
        generator = torch.Generator().manual_seed(1)
        late = 0
        for number in range(40_000):
            lateness = torch.rand((), generator=generator).item() * 0.01  # uniform to 10 ms
            over = lateness > margin.seconds
            late += over and number >= 20_000
            margin.add(lateness - margin.seconds)
        self.assertAlmostEqual(late / 20_000, 0.01, delta=0.004)


if __name__ == "__main__":
    unittest.main()
