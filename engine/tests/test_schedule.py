# SPDX-License-Identifier: Apache-2.0
import unittest

from pipefill.bubble import Kind
from pipefill.schedule import Op, bubble_fraction, instructions


class TestSchedule(unittest.TestCase):
    def test_each_micro_batch_goes_forward_then_backward_once(self):
        for schedule in ("gpipe", "1f1b"):
            for stages in (1, 2, 3, 4):
                for micro in (1, 2, 4, 7):
                    for stage in range(stages):
                        todo = instructions(schedule, stage, stages, micro)
                        forwards = [i.micro_batch for i in todo if i.op is Op.FORWARD]
                        backwards = [i.micro_batch for i in todo if i.op is Op.BACKWARD]
                        self.assertEqual(forwards, list(range(micro)))
                        self.assertEqual(backwards, list(range(micro)))
                        for i in range(micro):
                            ops = [x.op for x in todo if x.micro_batch == i]
                            self.assertLess(ops.index(Op.FORWARD), ops.index(Op.BACKWARD))
                        self.assertIs(todo[-1].op, Op.STEP)

    def test_every_receive_follows_its_bubble(self):
        for schedule in ("gpipe", "1f1b"):
            for stage in range(4):
                todo = instructions(schedule, stage, 4, 6)
                for before, i in zip(todo, todo[1:]):
                    if i.op in (Op.RECV_ACTIVATION, Op.RECV_GRADIENT):
                        self.assertIs(before.op, Op.BUBBLE)
                indices = [i.index for i in todo if i.op is Op.BUBBLE]
                self.assertEqual(indices, list(range(len(indices))))

    def test_kinds(self):
        first = [i.kind for i in instructions("1f1b", 0, 2, 4) if i.op is Op.BUBBLE]
        self.assertEqual(first, [Kind.FWD_BWD, Kind.STEADY, Kind.STEADY, Kind.FILL_DRAIN])
        last = [i.kind for i in instructions("1f1b", 1, 2, 4) if i.op is Op.BUBBLE]
        self.assertEqual(last, [Kind.FILL_DRAIN, Kind.STEADY, Kind.STEADY, Kind.STEADY])

    def test_sends_meet_receives_in_order(self):
        for schedule in ("gpipe", "1f1b"):
            for stage in range(3):
                here, there = (instructions(schedule, s, 4, 5) for s in (stage, stage + 1))
                for send, receive, a, b in ((Op.SEND_ACTIVATION, Op.RECV_ACTIVATION, here, there),
                                            (Op.SEND_GRADIENT, Op.RECV_GRADIENT, there, here)):
                    self.assertEqual([i.micro_batch for i in a if i.op is send],
                                     [i.micro_batch for i in b if i.op is receive])

    def test_mistakes(self):
        for arguments in (("zigzag", 0, 2, 4), ("1f1b", 2, 2, 4), ("1f1b", 0, 0, 4), ("gpipe", 0, 2, 0)):
            with self.assertRaises(ValueError):
                instructions(*arguments)

    def test_fraction(self):
        self.assertAlmostEqual(bubble_fraction(2, 4), 0.2)
        self.assertAlmostEqual(bubble_fraction(16, 8), 15 / 23)


if __name__ == "__main__":
    unittest.main()
