# SPDX-License-Identifier: Apache-2.0
"""The hooks of DeepSpeed and Megatron-Core, and the trainers of torchtitan and NeMo, on real pipelines in build/engines."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from test_hooks_torch import STEPS, Announced, pipeline


@unittest.skipUnless(os.path.exists(pipeline.MADE), "build/engines is not made (packaging/engines)")
class TestEngines(Announced):
    """Each engine on two ranks."""

    def train(self, program, arguments=(4, STEPS, "OUT"), cure=(), phases=2):
        plain = pipeline.run(program, *arguments, *cure, hooked=False)
        filled = pipeline.run(program, *arguments, fill=True, records=True)
        for name, run in filled.items():
            with self.subTest(name):
                self.check_same(plain[name], run, program)
                self.check_announced(run, f"{program}, {name}")
                self.check_noted(run, 4, 2 if "with_interleaving" in name or "Interleaved" in name else 1)
                self.check_phases(run)
                self.assertEqual([len(one) for one in run.phases], [phases, phases])
                for a, b in zip(plain[name].ranks, run.ranks):
                    # NeMo's timers are called as ever, and are its own again afterwards.
                    self.assertEqual((a.get("timed"), a.get("kept")), (b.get("timed"), b.get("kept")))
                    self.assertTrue(b.get("timed", [True]) and b.get("kept", True))
                for rank, ran_ns in enumerate(run.filled_ns):
                    self.assertGreater(ran_ns, 0, f"rank {rank}")
        return {name: (plain[name], run) for name, run in filled.items()}

    def test_deepspeed(self):
        self.train("deepspeed_rank.py")

    def test_megatron(self):
        for name, (plain, filled) in self.train("megatron_rank.py").items():
            self.assertFalse(plain.told["saves"])
            self.assertTrue(filled.told["saves"], f"{name}: dist_checkpointing.save is not hooked")

    def test_torchtitan(self):
        found = self.train("torchtitan_rank.py", ("OUT", STEPS, "1F1B:4", "Interleaved1F1B:4"), ["--cure"])
        self.assertEqual(len(found), 2)

    def test_nemo(self):
        self.assertEqual(list(self.train("nemo_rank.py", phases=0)), ["MegatronStrategy"])


if __name__ == "__main__":
    unittest.main()
