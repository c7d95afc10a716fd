# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/fill-sdk.md run as they stand there."""

import os
import re
import subprocess
import sys
import tempfile
import unittest

TREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


class TestExamples(unittest.TestCase):
    def test_run(self):
        with open(os.path.join(TREE, "docs", "fill-sdk.md"), encoding="utf-8") as file:
            examples = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
        self.assertGreaterEqual(len(examples), 2)
        for example in examples:
            with tempfile.TemporaryDirectory() as folder:
                done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, check=False,
                                      timeout=120, env=dict(os.environ, PYTHONPATH=os.path.abspath(os.path.join(TREE, "engine"))))
            self.assertEqual(done.returncode, 0, f"{example}\n{done.stderr}")


if __name__ == "__main__":
    unittest.main()
