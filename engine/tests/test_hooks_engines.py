# SPDX-License-Identifier: Apache-2.0
"""The hooks of DeepSpeed and Megatron-Core, on real pipelines in build/engines."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from test_hooks_torch import Announced, pipeline  # noqa: E402


@unittest.skipUnless(os.path.exists(pipeline.MADE), "build/engines is not made (packaging/engines)")
class TestEngines(Announced):
    """Both engines, 1F1B on two ranks."""

    def train(self, program):
        plain = pipeline.run(program, 4, 50, "OUT", hooked=False)
        hooked = pipeline.run(program, 4, 50, "OUT")
        self.check_same(plain, hooked, program)
        self.check_announced(hooked, program)

    def test_deepspeed(self):
        self.train("deepspeed_rank.py")

    def test_megatron(self):
        self.train("megatron_rank.py")


if __name__ == "__main__":
    unittest.main()
