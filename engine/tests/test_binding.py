# SPDX-License-Identifier: Apache-2.0
import math
import os
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

import fake_daemon
from pipefill import _lib, bubble, gate

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILT = os.path.join(os.environ.get("BUILD", os.path.join(ROOT, "build")), "libpipefill.so")


class TestAbsent(unittest.TestCase):
    """A program must run unchanged where pipefill is not installed."""

    def test_main_does_nothing(self):
        main = bubble.Main(library=None if _lib.load() is None else _Missing())
        self.assertFalse(main.attached)
        self.assertTrue(main.why)
        main.begin(bubble.Kind.STEADY, 0)
        main.end()
        main.iteration()
        main.free_bytes(5)
        main.close()

    def test_fill_never_waits(self):
        fill = gate.Fill(library=_Missing())
        self.assertFalse(fill.attached)
        self.assertEqual(fill.wait(need_s=100), math.inf)
        self.assertEqual(fill.left(), math.inf)
        self.assertFalse(fill.stopping)
        fill.yield_()
        fill.close()

    def test_load_of_rubbish(self):
        with tempfile.NamedTemporaryFile(suffix=".so") as file:
            file.write(b"not a library")
            file.flush()
            with mock.patch.dict(os.environ, {"PIPEFILL_LIBRARY": file.name, "PIPEFILL_DIR": "/run/pipefill"}):
                with self.assertWarnsRegex(RuntimeWarning, "no libpipefill.so"):
                    self.assertIsNone(_lib.load())


class _Missing:
    """A library that finds no daemon."""

    def pf_open(self, _device):
        return None

    def pf_fill_open(self):
        return None

    def why(self):
        return "no daemon"


@unittest.skipUnless(os.path.exists(BUILT), "build/libpipefill.so is not built")
class TestBuilt(unittest.TestCase):
    """Against the real library, without a daemon."""

    def test_says_why_it_is_not_attached(self):
        library = _lib.Library(BUILT)
        os.environ.pop("PIPEFILL_DIR", None)
        main = bubble.Main(library=library)
        self.assertFalse(main.attached)
        self.assertIn("PIPEFILL_DIR", main.why)
        fill = gate.Fill(library=library)
        self.assertIn("no fill job", fill.why)

    def test_phases(self):
        for records in (False, True):
            daemon = fake_daemon.FakeDaemon(records=records)
            self.addCleanup(daemon.close)
            with mock.patch.dict(os.environ, daemon.environment("main")):
                main = bubble.Main(library=_lib.Library(BUILT))
            self.assertTrue(main.attached, main.why)
            main.stage(2)
            with self.assertRaisesRegex(KeyError, "theirs"), main.phase(bubble.Work.CHECKPOINT):
                raise KeyError("theirs")
            main.close()
            events = [(e["kind"], e["index"], e["flags"]) for e in daemon.events()]
            phase, name = (bubble.Kind.OTHER, bubble.PHASE, 0), (bubble.Work.CHECKPOINT, bubble.NO_MICRO_BATCH, fake_daemon.WORK)
            self.assertEqual(events, [phase, name] if records else [phase])
            self.assertEqual(daemon.stage(), 2)

    def test_version(self):
        with open(os.path.join(ROOT, "VERSION"), encoding="ascii") as file:
            self.assertEqual(_lib.Library(BUILT).pf_version().decode(), file.read().strip())


class TestExamples(unittest.TestCase):
    """The same digest each time; the one that fails fails."""

    def run_example(self, name, *arguments):
        path = os.path.join(ROOT, "engine", "examples", name)
        return subprocess.run([sys.executable, path, *arguments], check=False, capture_output=True, text=True)

    def test_digests_repeat(self):
        for name, steps in (("fill_numeric.py", "30"), ("fill_chunked.py", "30")):
            digests = set()
            for _ in range(2):
                with tempfile.NamedTemporaryFile() as file:
                    done = self.run_example(name, steps, file.name)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    digests.add(file.read())
            self.assertEqual(len(digests), 1)
            self.assertEqual(len(digests.pop()), 65)

    def test_failing_one(self):
        done = self.run_example("fill_fails.py")
        self.assertEqual(done.returncode, 3)
        self.assertIn("giving up", done.stderr)


if __name__ == "__main__":
    unittest.main()
