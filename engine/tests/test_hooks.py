# SPDX-License-Identifier: Apache-2.0
"""What the hooks share, without any engine: kinds, numbering, failing, and installing on import."""

import os
import subprocess
import sys
import tempfile
import textwrap
import types
import unittest
import warnings
from unittest import mock

from pipefill import hooks, schedule
from pipefill.bubble import Kind
from pipefill.hooks import versions, waits
from pipefill.hooks.waits import BACKWARD, FORWARD, RECV_B, RECV_F, SEND

BUILT = os.path.join(os.environ.get("BUILD", os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))), "build")), "libpipefill.so")
ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class FakeMain:
    """A bubble.Main that writes down what it is told, and fails where it is told to."""

    holds = False

    def __init__(self, failing=()):
        self.calls, self.failing = [], failing

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
        self.assertEqual(sum(call[0] == "iteration" for call in main.calls), 1)
        self.assertEqual([call[1] for call in main.calls if call[0] == "begin"], [Kind.OTHER])

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
