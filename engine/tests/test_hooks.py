# SPDX-License-Identifier: Apache-2.0
"""What the hooks share, without any engine: kinds, numbering, failing, and installing on import."""

import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
import unittest
import warnings
from unittest import mock

from pipefill import hooks, schedule
from pipefill.bubble import NO_MICRO_BATCH, PHASE, Kind, Phases, Work
from pipefill.hooks import checkpoints, versions, waits
from pipefill.hooks.waits import BACKWARD, FORWARD, RECV_B, RECV_F, SEND

BUILT = os.path.join(os.environ.get("BUILD", os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))), "build")), "libpipefill.so")
ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class FakeMain(Phases):
    """A bubble.Main that writes down what it is told, and fails where it is told to."""

    holds = False

    def __init__(self, failing=(), records=False):
        self.calls, self.failing, self.records, self.begun_ns = [], failing, records, []

    def _call(self, name, *values):
        if name in self.failing:
            raise OSError(f"{name} fails")
        self.calls.append((name, *values))

    def announcer(self, kind, index):
        self._call("announcer")
        self.calls.pop()
        return lambda: self._call("begin", kind, index)

    def end(self):
        self._call("end")

    def iteration(self):
        self._call("iteration")

    def stage(self, number):
        self._call("stage", number)

    def recording(self):
        return self.records

    def work(self, work, micro_batch, begin_ns):
        self._call("work", work, micro_batch)
        self.begun_ns.append(begin_ns)

    def close(self):
        self._call("close")


def happened_in(instructions):
    """What a hook sees of an instruction list of schedule.py, and the kinds the list says."""
    out, says = [], []
    words = {schedule.Op.RECV_ACTIVATION: RECV_F, schedule.Op.RECV_GRADIENT: RECV_B, schedule.Op.FORWARD: FORWARD,
             schedule.Op.BACKWARD: BACKWARD}
    for instruction in instructions:
        if instruction.op is schedule.Op.BUBBLE:
            says.append(instruction.kind)
        elif instruction.op in words:
            waited = instruction.op in (schedule.Op.RECV_ACTIVATION, schedule.Op.RECV_GRADIENT)
            out.append(((words[instruction.op],), waited))
    return out, says


class TestKinds(unittest.TestCase):
    def test_are_those_of_the_schedules(self):
        for name in ("gpipe", "1f1b"):
            for stages in (2, 3, 4, 8):
                for micro_batches in (1, 2, 4, 9):
                    for stage in range(stages):
                        if name == "1f1b" and micro_batches <= stages - stage:
                            continue  # its order is GPipe's then, which nobody can tell from outside
                        happened, says = happened_in(schedule.instructions(name, stage, stages, micro_batches))
                        self.assertEqual(waits.kinds(happened), says, (name, stage, stages, micro_batches))

    def test_sends(self):
        got = waits.kinds([((SEND,), True), ((FORWARD,), False), ((RECV_F,), True), ((RECV_B, RECV_F), True), ((SEND,), True)])
        self.assertEqual(got, [Kind.COMM, Kind.FILL_DRAIN, Kind.FWD_BWD, Kind.FILL_DRAIN])

    def test_an_evaluation_is_offered_nothing(self):
        self.assertEqual(waits.kinds([((RECV_F,), True), ((FORWARD,), False), ((RECV_F,), True)]), [Kind.OTHER] * 2)


class TestBubbles(unittest.TestCase):
    """Which waits are one bubble, and what its index is."""

    def test_sends_before_a_receive(self):
        happened = [((SEND,), True), ((SEND,), True), ((RECV_B,), True), ((RECV_B,), True)]
        self.assertEqual(waits.groups(happened, [True, True, True]), [True, True, False, False])
        self.assertEqual(waits.groups(happened, [True, False, True]), [True, False, False, False])

    def test_something_posted_in_between(self):
        happened = [((SEND,), True), ((FORWARD,), False), ((RECV_B,), True)]
        self.assertEqual(waits.groups(happened, [True]), [True, False])
        self.assertEqual(waits.groups(happened, [False]), [False, False])

    def test_nothing_waited_for(self):
        self.assertEqual(waits.groups([((FORWARD,), False)], []), [])

    def test_numbers_are_those_of_the_waits(self):
        found = [Kind.COMM, Kind.FWD_BWD, Kind.STEADY]
        self.assertEqual(waits.numbers(found, [True, False, False]), [0, None, 2])

    def test_more_waits_than_indices(self):
        for others in (1, 2, 100, 250):
            for steady in (260, 1000, 5000):
                found = [Kind.FILL_DRAIN] + [Kind.STEADY, Kind.COMM] * steady + [Kind.FILL_DRAIN] * others
                got = waits.numbers(found, [False] * len(found))
                given = [index for index in got if index is not None]
                self.assertEqual(given, sorted(given), "they rise")
                self.assertEqual([got[i] for i, kind in enumerate(found) if kind is Kind.COMM], [None] * steady)
                drains = [got[i] for i, kind in enumerate(found) if kind is Kind.FILL_DRAIN]
                self.assertEqual(len(set(drains)), len(drains), "only steady ones share")
                self.assertTrue(len(set(given)) > 8 or others > 200)
                if 2 * others < 250:
                    self.assertLess(given[-1], 256, (others, steady))


class TestWaits(unittest.TestCase):
    def iterate(self, hook, key="a", words=((RECV_F,), (RECV_B,)), training=True):
        hook.iteration(key, training)
        for word in words:
            if hook.begin(word):
                hook.end()

    def test_numbers_from_the_second_iteration_on(self):
        main = FakeMain()
        hook = waits.Waits(main)
        self.iterate(hook)
        self.assertEqual(main.calls, [("iteration",), ("end",), ("end",)])
        main.calls.clear()
        self.iterate(hook)
        self.assertEqual(main.calls, [("iteration",), ("begin", Kind.FILL_DRAIN, 0), ("end",),
                                      ("begin", Kind.FWD_BWD, 1), ("end",)])

    def test_sends_and_the_receive_after_them_are_one_bubble(self):
        main = FakeMain()
        hook = waits.Waits(main)
        for _ in range(4):
            main.calls.clear()
            self.iterate(hook, words=((SEND,), (SEND,), (RECV_B,)))
        self.assertEqual(main.calls, [("iteration",), ("begin", Kind.FWD_BWD, 0), ("end",)])
        main.calls.clear()
        hook.iteration("a")
        self.assertTrue(hook.begin((SEND,)))
        hook.end()
        hook.note(FORWARD)  # it was none this time
        self.assertEqual(main.calls, [("iteration",), ("begin", Kind.FWD_BWD, 0), ("end",)])

    def test_another_order_is_not_announced(self):
        main = FakeMain()
        hook = waits.Waits(main)
        self.iterate(hook)
        main.calls.clear()
        self.iterate(hook, words=((RECV_F,), (RECV_F,), (RECV_B,)))
        self.assertEqual([call[2] for call in main.calls if call[0] == "begin"], [0])
        main.calls.clear()
        self.iterate(hook, words=((RECV_F,), (RECV_F,), (RECV_B,)))
        self.assertEqual([call[2] for call in main.calls if call[0] == "begin"], [0, 1, 2])

    def test_schedules_have_indices_of_their_own(self):
        main = FakeMain()
        hook = waits.Waits(main)
        for key, words in (("a", ((RECV_F,), (RECV_B,))), ("b", ((RECV_F,), (RECV_F,), (RECV_B,)))) * 3:
            self.iterate(hook, key, words)
        begun = [call[2] for call in main.calls if call[0] == "begin"]
        self.assertEqual(begun, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4])

    def test_more_schedules_than_indices(self):
        main = FakeMain()
        hook = waits.Waits(main)
        for key in range(300):
            for _ in range(2):
                self.iterate(hook, key)
        self.assertTrue(all(0 <= call[2] < 256 for call in main.calls if call[0] == "begin"))
        self.assertIsNone(hook.off)

    def test_an_evaluation_is_no_iteration(self):
        main = FakeMain()
        hook = waits.Waits(main)
        self.iterate(hook)
        self.iterate(hook, "eval", ((RECV_F,),), training=False)
        self.iterate(hook, "eval", ((RECV_F,),), training=False)
        main.calls.clear()
        self.iterate(hook)
        self.assertEqual(main.calls, [("iteration",), ("begin", Kind.FILL_DRAIN, 0), ("end",),
                                      ("begin", Kind.FWD_BWD, 1), ("end",)])

    def test_no_bubble_has_the_index_of_phases(self):
        main = FakeMain()
        hook = waits.Waits(main)
        for _ in range(3):
            self.iterate(hook, words=((RECV_F,),) * 300 + ((RECV_B,),) * 300)
        begun = [call[2] for call in main.calls if call[0] == "begin"]
        self.assertGreater(len(begun), 500)
        self.assertNotIn(PHASE, begun)

    def test_nested_waits_are_one(self):
        main = FakeMain()
        hook = waits.Waits(main)
        inner = hook.around(lambda: 5, (RECV_F,))
        outer = hook.around(inner, (RECV_F,))
        for _ in range(2):
            hook.iteration("a")
            self.assertEqual(outer(), 5)
        self.assertEqual(main.calls[2:], [("iteration",), ("begin", Kind.OTHER, 0), ("end",)])

    def test_what_the_engine_raises_comes_through(self):
        def broken():
            raise KeyError("theirs")

        main = FakeMain()
        hook = waits.Waits(main)
        hook.iteration("a")
        with self.assertRaisesRegex(KeyError, "theirs"):
            hook.around(broken, (RECV_F,))()
        self.assertEqual(main.calls[-1], ("end",))
        self.assertIsNone(hook.off)

    def test_what_ours_raises_does_not(self):
        for failing in ("announcer", "begin", "end", "iteration", "close"):
            main = FakeMain({failing, "end"} if failing == "close" else {failing})
            hook = waits.Waits(main)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                for _ in range(4):
                    self.iterate(hook)
                    self.assertEqual(hook.around(lambda x: x + 1, (RECV_F,))(1), 2)
            self.assertIn("fails", hook.off)
            self.assertEqual(len(said), 1, [str(one.message) for one in said])
            self.assertRegex(str(said[0].message), "training goes on: OSError: .* fails")

    def test_warnings_as_errors_stop_nothing(self):
        hook = waits.Waits(FakeMain({"iteration"}))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.iterate(hook)
        self.assertIn("fails", hook.off)

    def test_words_that_cannot_be_found(self):
        hook = waits.Waits(FakeMain())
        hook.iteration("a")
        with self.assertWarns(RuntimeWarning):
            self.assertEqual(hook.around(lambda x: x, lambda x: x.nonsense)(3), 3)


class TestPhases(unittest.TestCase):
    """Evaluations and checkpoints: announced as OTHER, whole."""

    PHASE = [("begin", Kind.OTHER, PHASE), ("end",)]

    def test_is_announced_without_the_waits_in_it(self):
        main = FakeMain()
        hook = waits.Waits(main)
        evaluate = hook.during(hook.around(lambda x: x + 1, (RECV_F,)), Work.EVALUATION)
        for _ in range(3):
            hook.iteration("eval", training=False)
            self.assertEqual(evaluate(1), 2)
        self.assertEqual(main.calls, self.PHASE * 3)

    def test_only_the_outermost(self):
        main = FakeMain()
        hook = waits.Waits(main)
        hook.iteration("a")
        main.calls.clear()
        save = hook.during(lambda: 5, Work.CHECKPOINT)
        self.assertEqual(hook.during(save, Work.CHECKPOINT)(), 5)
        self.assertEqual(main.calls, self.PHASE)

    def test_not_before_the_first_iteration_nor_in_a_wait_nor_beside_training(self):
        main = FakeMain()
        hook = waits.Waits()
        save = hook.during(lambda: 5, Work.CHECKPOINT)
        self.assertEqual(save(), 5)
        self.assertIsNone(hook.main, "a program that only saves opens nothing")
        hook.main = main
        hook.iteration("a")
        main.calls.clear()
        self.assertEqual(hook.around(save, (RECV_F,))(), 5)
        self.assertEqual(main.calls, [("end",)], "of the wait")
        main.calls.clear()
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()
        self.assertEqual(main.calls, [])

    def test_ends_what_goes_on(self):
        main = FakeMain()
        hook = waits.Waits(main)
        for _ in range(4):
            hook.iteration("a")
            for word in ((SEND,), (RECV_B,)):
                hook.begin(word)
                hook.end()
        hook.iteration("a")
        hook.begin((SEND,))
        hook.end()  # one bubble with what is to come
        main.calls.clear()
        hook.during(lambda: None, Work.CHECKPOINT)()
        self.assertEqual(main.calls, [("end",)] + self.PHASE)

    def test_an_iteration_goes_on_after_a_save_in_its_middle(self):
        main = FakeMain()
        hook = waits.Waits(main)
        save = hook.during(lambda: None, Work.CHECKPOINT)
        for _ in range(3):
            main.calls.clear()
            hook.iteration("a")
            for word in ((RECV_F,), (RECV_B,)):
                hook.begin(word)
                hook.end()
                save()
        self.assertEqual(main.calls, [("iteration",), ("begin", Kind.FILL_DRAIN, 0), ("end",), *self.PHASE,
                                      ("begin", Kind.FWD_BWD, 1), ("end",), *self.PHASE])

    def test_what_it_raises_comes_through_and_what_ours_raises_does_not(self):
        def broken():
            raise KeyError("theirs")

        main = FakeMain()
        hook = waits.Waits(main)
        hook.iteration("a")
        main.calls.clear()
        with self.assertRaisesRegex(KeyError, "theirs"):
            hook.during(broken, Work.CHECKPOINT)()
        self.assertEqual(main.calls, self.PHASE)
        self.assertIsNone(hook.off)
        for failing in ("announcer", "begin", "end"):
            hook = waits.Waits(FakeMain({failing}))
            hook.iteration("a")
            with self.assertWarnsRegex(RuntimeWarning, "training goes on"):
                self.assertEqual(hook.during(lambda: 5, Work.EVALUATION)(), 5)
            self.assertIn("fails", hook.off)

    def test_checkpoints_of_what_was_imported_before(self):
        def save():
            return "saved"

        main = FakeMain()
        hook = waits.Waits(main)
        name, above = "megatron.core.dist_checkpointing.serialization", types.SimpleNamespace(save=save)
        module = types.SimpleNamespace(__name__=name, save=save)
        with mock.patch.dict(sys.modules, {"megatron.core.dist_checkpointing": above}):
            checkpoints.install(module, hook)
        hook.iteration("a")
        main.calls.clear()
        self.assertEqual((module.save(), above.save()), ("saved", "saved"))
        self.assertEqual(main.calls, self.PHASE * 2)
        with self.assertRaisesRegex(AttributeError, "it has no save"):
            checkpoints.install(types.SimpleNamespace(__name__=name), hook)


class TestNotes(unittest.TestCase):
    """What is computed, for timelines."""

    def run_iteration(self, records, failing=()):
        main = FakeMain(failing, records)
        hook = waits.Waits(main)
        forward = hook.notes.around(lambda _, chunk=None: chunk, Work.FORWARD, lambda _, chunk=None: chunk)
        backward = hook.notes.around(lambda: None, Work.BACKWARD)
        hook.iteration("a", stage=lambda: 3)
        for chunk in (7, 8):
            self.assertEqual(forward(self, chunk), chunk)
            backward()
        return hook, main

    def test_only_while_the_node_records(self):
        hook, main = self.run_iteration(records=False)
        self.assertEqual(main.calls, [("stage", 3), ("iteration",)])
        main.records = True
        hook.notes.around(lambda: None, Work.BACKWARD)()
        self.assertEqual(len(main.calls), 2, "it is asked once an iteration")

    def test_micro_batches_are_told_or_counted(self):
        before_ns = time.monotonic_ns()
        hook, main = self.run_iteration(records=True)
        works = [("work", Work.FORWARD, 7), ("work", Work.BACKWARD, 0), ("work", Work.FORWARD, 8), ("work", Work.BACKWARD, 1)]
        self.assertEqual(main.calls, [("stage", 3), ("iteration",), *works])
        self.assertTrue(all(before_ns <= ns <= time.monotonic_ns() for ns in main.begun_ns))
        hook.iteration("a", stage=lambda: 3)
        hook.notes.around(lambda: None, Work.BACKWARD)()
        self.assertEqual(main.calls[-2:], [("iteration",), ("work", Work.BACKWARD, 0)], "counted from 0 again")
        hook.close()

    def test_phases_have_names(self):
        main = FakeMain(records=True)
        hook = waits.Waits(main)
        hook.iteration("a")
        hook.during(lambda: None, Work.CHECKPOINT)()
        self.assertEqual(main.calls[-1], ("work", Work.CHECKPOINT, NO_MICRO_BATCH))
        hook.close()

    def test_optimizer_steps(self):
        before, after = {}, {}

        def register(hooks):
            def add(hook):
                number = len(hooks)
                hooks[number] = hook
                return types.SimpleNamespace(remove=lambda: hooks.pop(number))
            return add

        optimizer = types.SimpleNamespace(register_optimizer_step_pre_hook=register(before),
                                          register_optimizer_step_post_hook=register(after))

        def step(inner=lambda: None):
            for hook in before.values():
                hook(None, (), {})
            inner()
            for hook in after.values():
                hook(None, (), {})

        main = FakeMain(records=True)
        hook = waits.Waits(main)
        with mock.patch.dict(sys.modules, {"torch": types.ModuleType("torch"), "torch.optim.optimizer": optimizer}):
            for _ in range(2):
                hook.iteration("a")
                step(step)  # an engine's own around torch's
        self.assertEqual(main.calls, [("iteration",), ("work", Work.STEP, NO_MICRO_BATCH)] * 2)
        self.assertEqual((len(before), len(after)), (1, 1), "registered once")
        main.records = False
        hook.iteration("a")
        step()
        self.assertEqual(main.calls[-1], ("iteration",))
        with self.assertWarnsRegex(RuntimeWarning, "a reason"):
            hook.switch_off("a reason")
        self.assertEqual((before, after), ({}, {}))

    def test_a_torch_without_hooks_around_steps(self):
        main = FakeMain(records=True)
        hook = waits.Waits(main)
        with mock.patch.dict(sys.modules, {"torch": types.ModuleType("torch"), "torch.optim.optimizer": types.ModuleType("o")}):
            hook.iteration("a")
        self.assertIsNone(hook.off)
        self.assertEqual(main.calls, [("iteration",)])

    def test_what_ours_raises_does_not_come_through(self):
        for failing in ("work", "recording"):
            with self.assertWarnsRegex(RuntimeWarning, "training goes on"):
                main = FakeMain({failing}, records=True)
                if failing == "recording":
                    main.recording = None
                hook = waits.Waits(main)
                hook.iteration("a")
                self.assertEqual(hook.notes.around(lambda: 5, Work.FORWARD)(), 5)
            self.assertIsNotNone(hook.off)
            self.assertFalse(hook.notes.recording)

    def test_a_stage_that_cannot_be_told(self):
        main = FakeMain()
        hook = waits.Waits(main)
        hook.iteration("a", stage=lambda: {}["stage"])
        self.assertEqual(main.calls, [("iteration",)])
        self.assertIsNone(hook.off)


class TestVersions(unittest.TestCase):
    def test_known(self):
        with mock.patch.dict(sys.modules, {"an_engine": types.SimpleNamespace(version="0")}):
            module = sys.modules["an_engine"]
            known = versions.Known("Engine", "an_engine", "version", (2, 4), (2, 12))
            for version, good in (("2.4.0", True), ("2.12.1+cu126", True), ("2.3.9", False), ("2.13.0a0", False),
                                  ("3.0", False), ("rubbish", False)):
                module.version = version
                self.assertEqual(known.objection() == "", good, version)
            self.assertIn("(2.4 to 2.12)", known.objection())
            del module.version
            self.assertIn("does not tell", known.objection())


@unittest.skipUnless(os.path.exists(BUILT), "build/libpipefill.so is not built")
class TestOnImport(unittest.TestCase):
    """A Python of its own, whose engine is a fake one."""

    def python(self, engine, program, **environment):
        with tempfile.TemporaryDirectory() as folder:
            package = os.path.join(folder, "deepspeed", "runtime", "pipe")
            os.makedirs(package)
            for part in ("deepspeed", "deepspeed/runtime", "deepspeed/runtime/pipe"):
                with open(os.path.join(folder, part, "__init__.py"), "w", encoding="utf-8"):
                    pass
            with open(os.path.join(folder, "deepspeed", "git_version_info.py"), "w", encoding="utf-8") as file:
                file.write("version = '0.16.9'\n")
            with open(os.path.join(package, "engine.py"), "w", encoding="utf-8") as file:
                file.write(textwrap.dedent(engine))
            with open(os.path.join(folder, "sitecustomize.py"), "w", encoding="utf-8") as file:
                file.write("import os\nos.environ['HIDDEN'] = 'ran'\n")
            path = os.pathsep.join([os.path.join(ENGINE, "pipefill", "site"), folder])
            done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True,
                                  check=False, cwd=folder,
                                  env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "PIPEFILL_DIR": folder,
                                       "PIPEFILL_ROLE": "main", "PIPEFILL_LIBRARY": BUILT, **environment})
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout, done.stderr

    GOOD = """
        class schedule:
            class RecvActivation: pass
            class RecvGrad: pass
            class ForwardPass: pass
            class BackwardPass: pass
            class SendActivation: pass
            class SendGrad: pass
            class TrainSchedule: pass
        class PipelineEngine:
            _INSTRUCTION_MAP = {c: (lambda self: None) for c in (schedule.RecvActivation, schedule.RecvGrad,
                                                                 schedule.ForwardPass, schedule.BackwardPass,
                                                                 schedule.SendActivation, schedule.SendGrad)}
            def _exec_schedule(self, s): return "scheduled"
            def _aggregate_total_loss(self): return 1
        """
    PROGRAM = """
        import os, sys
        from deepspeed.runtime.pipe import engine
        print(os.environ.get("HIDDEN"), engine.PipelineEngine()._exec_schedule(engine.schedule.TrainSchedule()),
              hasattr(engine.PipelineEngine._exec_schedule, "__wrapped__"), "pipefill" in sys.modules)
        """

    def test_hooks_what_is_imported(self):
        out, err = self.python(self.GOOD, self.PROGRAM)
        self.assertEqual((out, err), ("ran scheduled True True\n", ""))

    def test_only_in_a_main_job(self):
        for environment in ({"PIPEFILL_ROLE": "fill"}, {"PIPEFILL_DIR": ""}):
            out, err = self.python(self.GOOD, self.PROGRAM, **environment)
            self.assertEqual((out, err), ("ran scheduled False False\n", ""))

    def test_leaves_alone_what_is_not_as_expected(self):
        out, err = self.python(self.GOOD.replace("_aggregate_total_loss", "_other"), self.PROGRAM)
        self.assertEqual(out, "ran scheduled False True\n")
        self.assertEqual(err.count("bubbles are not announced"), 1, err)
        self.assertIn("_aggregate_total_loss", err)

    def test_leaves_an_unknown_version_alone(self):
        program = "import deepspeed.git_version_info as v\nv.version = '0.99.0'\n" + textwrap.dedent(self.PROGRAM)
        out, err = self.python(self.GOOD, program)
        self.assertEqual(out, "ran scheduled False True\n")
        self.assertIn("DeepSpeed 0.99.0 is not one of the versions", err)

    def test_an_engine_that_cannot_be_imported(self):
        out, err = self.python("raise ImportError('theirs')", """
            try:
                import deepspeed.runtime.pipe.engine
            except ImportError as err:
                print(err)
            """)
        self.assertEqual((out, err), ("theirs\n", ""))

    def test_instrument_refuses_others(self):
        with self.assertRaisesRegex(TypeError, "int is no engine.*bubble.Main"):
            hooks.instrument(5)


if __name__ == "__main__":
    unittest.main()
