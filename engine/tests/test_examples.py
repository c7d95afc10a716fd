# SPDX-License-Identifier: Apache-2.0
"""The examples of home-made engines, in C and in Python, as they are documented."""

import os
import subprocess
import sys
import tempfile
import unittest

import fake_daemon

ENGINE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXAMPLES = os.path.join(ENGINE, "examples")
BUILD = os.environ.get("BUILD", os.path.join(os.path.dirname(ENGINE), "build"))
LIBRARY = os.path.join(BUILD, "libpipefill.so")
ITERATIONS = 20


@unittest.skipUnless(os.path.exists(LIBRARY), "build/libpipefill.so is not built")
class TestHomeMade(unittest.TestCase):
    """Two ranks, each with a daemon of its own."""

    def train(self, *command, announced=True):
        """Runs both ranks; returns their events and what they print."""
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(os.path.abspath(LIBRARY), os.path.join(folder, "libpipefill.so.1"))
            daemons = [fake_daemon.FakeDaemon(f"cpu:{rank}") for rank in range(2)]
            try:
                ranks = [subprocess.Popen(
                    [*command, str(rank), os.path.join(folder, "socket"), str(ITERATIONS)], text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    env={"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": folder, "PIPEFILL_LIBRARY": LIBRARY,
                         **(daemon.environment("main") if announced else {})})
                         for rank, daemon in enumerate(daemons)]
                said = [process.communicate(timeout=120) for process in ranks]
                self.assertEqual([process.returncode for process in ranks], [0, 0], said)
                return [daemon.events() for daemon in daemons], [out for out, _ in said]
            finally:
                for daemon in daemons:
                    daemon.close()

    def check(self, *command):
        """Announces as documented, and computes the same where there is no pipefill."""
        events, printed = self.train(*command)
        for rank, kind in enumerate((1, 0)):
            bubbles = [e for e in events[rank] if not e["flags"] & fake_daemon.ITERATION]
            self.assertEqual(len(bubbles), ITERATIONS)
            self.assertEqual({(e["kind"], e["index"]) for e in bubbles}, {(kind, 0)})
            self.assertEqual(sum(bool(e["flags"] & fake_daemon.ITERATION) for e in events[rank]), ITERATIONS)
        silent, alone = self.train(*command, announced=False)
        self.assertEqual((silent, alone), ([[], []], printed))

    def test_python(self):
        self.check(sys.executable, os.path.join(EXAMPLES, "bubbles.py"))

    def test_c(self):
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "bubbles")
            subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-O2", "-I", os.path.join(os.path.dirname(ENGINE), "spank"),
                            "-o", program, os.path.join(EXAMPLES, "bubbles.c"), LIBRARY], check=True)
            self.check(program)


if __name__ == "__main__":
    unittest.main()
