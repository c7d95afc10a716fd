# SPDX-License-Identifier: Apache-2.0
"""A fill job under the plan that it is handed: which batch size and technique, what in which bubble, and when not."""

import unittest
import warnings
from unittest import mock

import fill_programs as programs
import pipefill
import torch
from fill_programs import CHECKPOINT, PLAIN, PlannedGate, planned
from pipefill.fill import batch as batches
from pipefill.fill import device as devices
from pipefill.fill import plan as plans
from torch import nn


def op(name, peak=0, live=0):
    return {"name": name, "time_ns": 1000, "peak_bytes": peak, "live_bytes": live}


def follow(*arguments, usable=None, **options):
    return plans.Follower(plans.read(1, planned(*arguments, **options)), usable)


class TestRead(unittest.TestCase):
    def test_what_was_written(self):
        plan = plans.read(9, planned({2: (8, PLAIN, ["a", "b", "a"])}, [(0, 1, 2, 2, 5)], [(0, 0, 2, 1, 1)]))
        self.assertEqual((plan.number, plan.kind, list(plan.configs)), (9, "inference", [2]))
        self.assertEqual(plan.configs[2].places, {"a": [0, 2], "b": [1]})
        self.assertEqual(plan.end(1, 2, 2), 5)
        self.assertEqual(plan.end(0, 2, 1), 1)
        self.assertIsNone(plan.end(0, 2, 0))
        self.assertEqual({name: round(1e9 * s) for name, s in plan.configs[2].times().items()}, {"a": 1000, "b": 1000})

    def test_mistakes_are_named(self):
        one = {0: (1, PLAIN, ["a"])}
        for text, says in {
            b"": "a plan is JSON", b"[]": "another version", b'{"version": 2}': "reads 1",
            planned(one).replace(b'"index": 0, "batch_size"', b'"index": -1, "batch_size"'): r"configs\[0\].index is -1",
            planned({}): "configs is 'empty'", planned(one, [(0, 0, 1, 0, 1)]): r"chunks\[0\] is \[0, 0, 1, 0, 1\]",
            planned(one, [(0, 0, 0, 1, 1)]): r"chunks\[0\]", planned(one, [(0, 0, 0, 0, 0)]): r"chunks\[0\]",
            planned(one, lead_in=[(0, 0, 0)]): r"lead_in\[0\]", planned(one, free_bytes=()): "cycle.bubbles is 'empty'",
            planned(one).replace(b'"time_ns": 1000', b'"time_ns": true'): r"configs\[0\].ops\[0\].time_ns is True",
            planned(one).replace(b'"kind": "inference"', b'"kind": "x"'): "kind is 'x'",
            planned(one).replace(b'"lead_in": []', b'"lead_in": 5'): "lead_in is int",
            planned(one).replace(b'"lead_in"', b'"main_offload": [{"bytes": -1}], "lead_in"'): r"main_offload\[0\].bytes is -1",
            planned(one).replace(b'"lead_in"', b'"main_offload": [7], "lead_in"'): r"main_offload\[0\].bytes is None",
        }.items():
            with self.subTest(says), self.assertRaisesRegex(ValueError, says):
                plans.read(1, text)


class TestFollower(unittest.TestCase):
    def test_memory_says_which_bubble(self):
        f = follow({0: (1, PLAIN, [op("small", 10), op("large", 90)])}, [(0, 0, 0, 0, 1), (0, 1, 0, 1, 1)], free_bytes=(50, 100))
        f.opened(0)
        f.begin_pass()
        self.assertTrue(f.may("small"))
        f.ran("small")
        self.assertFalse(f.may("large"))
        self.assertFalse(f.may("large", begins=True))
        f.opened(1)
        self.assertTrue(f.may("large", begins=True))
        f.opened(7)  # a bubble of which nothing is known
        self.assertTrue(f.may("large", begins=True))

    def test_what_is_not_there_is_not_used(self):
        f = follow({0: (1, PLAIN, [op("small", 10), op("large", 90)])}, [(0, 0, 0, 0, 2)], free_bytes=(100, 100))
        f.opened(0, 50)
        f.begin_pass()
        self.assertTrue(f.may("small"))
        self.assertFalse(f.may("large"))
        f.opened(0, 500)
        self.assertTrue(f.may("large"))

    def test_chunks_end_where_the_plan_cuts_if_it_matters(self):
        for live, further in ((5, False), (0, True)):
            f = follow({0: (1, PLAIN, [op("a", live=live), op("b"), op("c")])}, [(0, 0, 0, 0, 2), (0, 1, 0, 2, 1)])
            f.opened(0)
            f.begin_pass()
            for name in "ab":
                self.assertTrue(f.may(name))
                f.ran(name)
            self.assertEqual(f.may("c"), further)
            f.opened(1)
            self.assertTrue(f.may("c", begins=True))
        f = follow({0: (1, PLAIN, [op("a", live=5), op("b")])})  # no chunks came: as far as fits
        f.opened(0)
        f.begin_pass()
        f.ran("a")
        self.assertTrue(f.may("b"))

    def test_passes_take_the_configuration_of_their_bubble(self):
        configs = {0: (8, PLAIN, ["a", "b"]), 1: (2, PLAIN, ["a"])}
        # In bubble 0 a pass of 0, in bubble 1 two of 1.
        f = follow(configs, [(0, 0, 0, 0, 2), (0, 1, 1, 0, 2)])
        self.assertEqual(f.plan.begins, [(0, 0), (1, 1), (1, 1)])
        chosen = []
        for bubble in (0, 1, 1, 0, 1, 1, 1):
            f.opened(bubble)
            chosen.append(f.begin_pass().index)
            for name in "ab"[:len(f.config.ops)]:
                f.ran(name)
        self.assertEqual(chosen, [0, 1, 1, 0, 1, 1, 1])
        f.opened(5)
        self.assertEqual(f.begin_pass().index, 1)  # the next of the period
        only = follow(configs, [(0, 0, 0, 0, 2)], usable=lambda config: config.batch_size == 2)
        only.opened(0)
        self.assertEqual(only.begin_pass().index, 1)

    def test_where_it_is(self):
        f = follow({4: (1, PLAIN, ["a", "b", "a"])})
        self.assertEqual(f.at, (0, 0))
        f.opened(0)
        f.begin_pass()
        for name, at in (("a", 1), ("short", 1), ("b", 2), ("a", 0)):
            f.ran(name)
            self.assertEqual(f.at, (4, at))

    def test_another_program_strays(self):
        f = follow({0: (1, PLAIN, list("abcd"))})
        f.opened(0)
        for _ in range(4):
            self.assertFalse(f.strayed)
            f.begin_pass()
            f.ran("x")
        f.begin_pass()
        self.assertTrue(f.strayed)


class TestCuda(unittest.TestCase):
    """What a GPU is asked for, of a torch that only notes it."""

    def test_more_for_a_while(self):
        gib, environment = 1 << 30, {"PIPEFILL_ROLE": "fill", "PIPEFILL_DEVICE": "gpu:GPU-a", "PIPEFILL_MEM_BYTES": str(4 << 30)}
        with mock.patch.object(devices, "torch") as fake, mock.patch.dict("os.environ", environment):
            fake.cuda.mem_get_info.return_value = 7 * gib, 80 * gib
            fake.cuda.memory_reserved.return_value = 3 * gib
            device = devices.Cuda()
            device.more(2 * gib)
            device.more(0)
            limits = [call.args[0] for call in fake.cuda.set_per_process_memory_fraction.call_args_list]
            self.assertEqual([round(part * 80 * 1024) for part in limits],
                             [4096 - 600, 6144 - 600, 4096 - 600])
            self.assertEqual((device.room(), fake.cuda.empty_cache.call_count), (10 * gib, 0))
            fake.cuda.memory_reserved.return_value = 4 * gib  # beyond its own, with its context
            device.give_back()
            self.assertEqual(fake.cuda.empty_cache.call_count, 1)


class TestBatch(unittest.TestCase):
    def test_joined_and_parted(self):
        one, two = {"x": torch.arange(6).view(2, 3), "y": (torch.ones(2), None)}, {"x": torch.zeros(1, 3, dtype=torch.long),
                                                                                "y": (torch.ones(1), None)}
        whole = batches.joined([one, two])
        self.assertEqual((whole["x"].shape, whole["y"][0].shape, whole["y"][1]), ((3, 3), (3,), None))
        parts = batches.parted(whole, [2, 1])
        self.assertTrue(torch.equal(parts[0]["x"], one["x"]) and torch.equal(parts[1]["y"][0], two["y"][0]))

    def test_what_has_no_samples(self):
        self.assertIsNone(batches.joined([torch.ones(2, 3), torch.ones(2, 4)]))
        self.assertIsNone(batches.joined([["a"], ["b"]]))
        self.assertIsNone(batches.joined([torch.ones(2), [torch.ones(2)]]))
        self.assertIsNone(batches.parted(torch.tensor(1.0), [1, 1]))
        self.assertIsNone(batches.parted({"loss": torch.ones(()), "x": torch.ones(2)}, [1, 1]))


class TestRun(unittest.TestCase):
    """Real models under a gate that hands plans out."""

    def setUp(self):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self.addCleanup(torch.set_num_threads, threads)

    def model(self):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)).eval()

    def infer(self, text, model=None, count=9, size=2, **options):
        """The sizes of the passes, and the outputs by sample; gate.told is what was told."""
        model, sizes = model or self.model(), []
        model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        loader = [torch.full((size, 8), float(i)) for i in range(count)]
        gate = PlannedGate(open_s=0.02, period_s=0.025)
        if text is not None:
            gate.hand(5, text)
        seen = 0
        for i, (batch, output) in enumerate(pipefill.infer(model, loader, gate=gate, **options)):
            self.assertTrue(torch.equal(batch, loader[i]))
            with torch.no_grad():
                torch.testing.assert_close(output, nn.Sequential(*model)(batch))  # which does not call model
            seen += 1
        self.assertEqual(seen, count)
        return sizes, gate

    OPS = ("load", "step", "0", "1", "2")

    def test_passes_of_several_batches(self):
        sizes, gate = self.infer(planned({0: (6, PLAIN, self.OPS)}, [(0, 0, 0, 0, 5)]))
        self.assertEqual(sizes, [6, 6, 6])
        self.assertEqual(gate.taken, 1)
        self.assertTrue(all(number == 5 for number, _, _ in gate.told) and gate.told)

    def test_one_look_a_chunk(self):
        looks = []
        found = PlannedGate.bubble
        with mock.patch.object(PlannedGate, "bubble", lambda gate: looks.append(gate.waits) or found(gate)):
            self.infer(planned({0: (2, PLAIN, ("load", "step"))}), count=400)
        self.assertGreater(len(looks), 2)
        self.assertEqual(len(looks), len(set(looks)), "two looks after one wait")

    def test_room_that_the_main_job_makes(self):
        def text_of(*names):
            away = b'"main_offload": [{"name": "optimizer", "bytes": 100, "out_bubble": 0, "in_bubble": 1}], '
            return planned({0: (2, PLAIN, [op(name, 50) for name in names])}).replace(b'"lead_in"', away + b'"lead_in"')

        text = text_of("load", "step")
        self.assertEqual(plans.read(1, text).moved_bytes, 100)
        rooms, more, backs, refused = [], [], [], []
        allowed = plans.Follower.may

        def room(_):
            rooms.append(0 if len(rooms) % 2 else 100)
            return rooms[-1]

        def may(follower, name, begins=False):
            allows = allowed(follower, name, begins)
            if name == "step" and follower.config is not None and follower._room == 0:
                refused.append(allows)
            return allows

        with mock.patch.object(devices.Cores, "room", room), \
                mock.patch.object(devices.Cores, "give_back", lambda _: backs.append(1)), \
                mock.patch.object(devices.Cores, "more", lambda _, size: more.append(size)), \
                mock.patch.object(plans.Follower, "may", may):
            _, gate = self.infer(text, count=400)
            self.assertEqual(more, [100])
            self.assertEqual(len(backs), len(gate.told))  # at the end of each chunk under the plan
            self.assertEqual(set(refused), {False}, (len(rooms), rooms[:6]))
            more.clear()
            with warnings.catch_warnings(record=True):
                warnings.simplefilter("always")
                _, gate = self.infer(text_of("another", "program"), count=12)
        self.assertEqual((more, gate.told[-1]), ([100, 0], (0, 0, 0)))

    def test_parts_of_a_batch(self):
        sizes, _ = self.infer(planned({0: (3, PLAIN, self.OPS)}), size=8, count=2)
        self.assertEqual(sizes, [3, 3, 2] * 2)

    def test_sizes_that_change_with_the_bubble(self):
        text = planned({0: (4, PLAIN, self.OPS), 1: (2, PLAIN, self.OPS)}, [(0, 0, 0, 0, 5), (0, 0, 1, 0, 5)])
        sizes, _ = self.infer(text, count=12)
        self.assertEqual(sorted(set(sizes)), [2, 4])

    def test_the_loop_keeps_its_sizes_if_told_so(self):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            sizes, gate = self.infer(planned({0: (6, PLAIN, self.OPS)}), resize=False)
        # The loader tells no batch size: it may be the planned one.
        self.assertEqual((sizes, [str(w.message) for w in said]), ([2] * 9, []))

    def test_samples_that_depend_on_one_another_are_not_joined(self):
        class Mean(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                return self.inner(x).mean()

        model, gate = Mean(self.model()), PlannedGate(open_s=0.02, period_s=0.025)
        gate.hand(5, planned({0: (6, PLAIN, self.OPS)}))
        loader = [torch.full((2, 8), float(i)) for i in range(5)]
        with self.assertWarnsRegex(RuntimeWarning, "cannot be joined"):
            outputs = [output for _, output in pipefill.infer(model, loader, gate=gate)]
        with torch.no_grad():
            self.assertEqual([float(o) for o in outputs], [float(model(x)) for x in loader])

    def test_a_plan_that_cannot_be_followed_is_left(self):
        for text, says in ((b"{}", "another version"), (None, "no device")):
            gate = PlannedGate(open_s=0.02, period_s=0.025)
            gate.hand(5, text)
            with self.assertWarnsRegex(RuntimeWarning, says):
                outputs = list(pipefill.infer(self.model(), [torch.ones(2, 8)] * 4, gate=gate))
            self.assertEqual((len(outputs), gate.taken), (4, 1))

    def test_a_plan_of_another_program_is_left(self):
        gate = PlannedGate(open_s=0.02, period_s=0.025)
        gate.hand(5, planned({0: (2, PLAIN, [f"encoder.{i}" for i in range(40)])}))
        with self.assertWarnsRegex(RuntimeWarning, "few of the ops"):
            self.assertEqual(len(list(pipefill.infer(self.model(), [torch.ones(2, 8)] * 8, gate=gate))), 8)

    def test_a_plan_of_another_batch_size_is_left(self):
        model, loader, loss = programs.transformer_task()
        gate = PlannedGate(open_s=0.02, period_s=0.025)
        gate.hand(5, planned({0: (64, PLAIN, self.OPS)}, kind="training"))
        with self.assertWarnsRegex(RuntimeWarning, r"none of its configurations \(batch 64 plain\)"):
            pipefill.fill.train(model, loader, loss, torch.optim.SGD(model.parameters(), lr=0.1), gate=gate)

    def test_training_changes_its_technique_between_passes_and_nothing_else(self):
        class Model(programs.Transformer):
            pass

        def train(gate):
            model, loader, loss = programs.transformer_task()
            optimizer = torch.optim.Adam(model.parameters())
            if gate is None:
                programs.straight(model, loader, loss, optimizer, 2)
            else:
                pipefill.fill.train(model, loader, loss, optimizer, epochs=2, gate=gate)
            return programs.bits(model, optimizer) + torch.get_rng_state().numpy().tobytes()

        names = ["load", "step", "embed", "blocks.0.norm", "blocks.0.attention", "head", "head:backward", "optimizer.0"]
        gate = PlannedGate(open_s=0.02, period_s=0.025)
        gate.hand(5, planned({0: (4, PLAIN, names), 1: (4, CHECKPOINT, names)}, [(0, 0, 0, 0, 8), (0, 0, 1, 0, 8)],
                             kind="training"))
        with mock.patch("pipefill.fill.technique.blocks", wraps=pipefill.fill.run.saving.blocks) as blocks:
            self.assertEqual(train(None), train(gate))
        self.assertGreater(blocks.call_count, 1, "no pass was checkpointed")

    def test_another_plan_is_taken_at_the_end_of_a_pass(self):
        model, gate = self.model(), PlannedGate(open_s=0.02, period_s=0.025)
        gate.hand(5, planned({0: (4, PLAIN, self.OPS)}))
        sizes = []
        model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        seen = []
        for i, (batch, _) in enumerate(pipefill.infer(model, [torch.full((2, 8), float(i)) for i in range(12)], gate=gate)):
            seen.append(int(batch[0, 0]))
            if i == 2:  # amid what came of a pass
                gate.hand(6, planned({7: (8, PLAIN, self.OPS)}))
        self.assertEqual(sizes, [4, 4, 8, 8])
        self.assertEqual(seen, list(range(12)))
        self.assertEqual(gate.told[-1][:2], (6, 7))


if __name__ == "__main__":
    unittest.main()
