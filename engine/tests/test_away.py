# SPDX-License-Identifier: Apache-2.0
"""Optimizer state that leaves over bubbles: the setting here, the rest on the PyTorch of build/engines, which has the
hooks around an optimizer's steps that this needs."""

import os
import subprocess
import sys
import types
import unittest
import warnings
from unittest import mock

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "engines"))
import pipeline
from pipefill.hooks import away


class TestSetting(unittest.TestCase):
    """PIPEFILL_OFFLOAD."""

    def test_right(self):
        self.assertIsNone(away.told(""))
        self.assertEqual(away.told("optimizer=2-5"), (2, 5))
        self.assertEqual(away.told("optimizer=0-0"), (0, 0))

    def test_wrong(self):
        for text in ("optimizer", "optimizer=5-2", "gradients=2-5", "optimizer=2", "optimizer=2-5,7-8", " optimizer=2-5"):
            with self.assertRaisesRegex(ValueError, f"PIPEFILL_OFFLOAD={text!r}: write optimizer=OUT-IN"):
                away.told(text)

    def test_nothing_is_registered_unless_told(self):
        torch, main = mock.Mock(), mock.Mock(**{"moves.return_value": None})
        with mock.patch.dict(os.environ, {"PIPEFILL_OFFLOAD": ""}):
            found = away.wanted(torch)
        for _ in range(40):
            found.ask(main)
            found.begin(0)
            found.end(0)
        self.assertEqual((torch.mock_calls, main.movable.mock_calls), ([], []))

    def test_a_node_cannot_have_what_is_not_there(self):
        old, main = types.ModuleType("torch.optim.optimizer"), mock.Mock(**{"moves.return_value": (1, 2)})
        found = away.Away(mock.Mock())
        with mock.patch.dict(sys.modules, {"torch.optim.optimizer": old}), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                found.ask(main)
                found.begin(1)
        self.assertIn("no attribute 'register_optimizer_step_pre_hook'", str(caught[0].message))
        self.assertEqual((len(caught), main.movable.call_args), (1, mock.call(0, 0, 0, 0)))

    def test_what_cannot_be_had_is_said(self):
        old = types.ModuleType("torch.optim.optimizer")  # as before PyTorch 2.0
        for text, said in (("x", "PIPEFILL_OFFLOAD='x': write"),
                           ("optimizer=2-5", "no attribute 'register_optimizer_step_pre_hook'")):
            with mock.patch.dict(os.environ, {"PIPEFILL_OFFLOAD": text}), \
                    mock.patch.dict(sys.modules, {"torch.optim.optimizer": old}), \
                    warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                self.assertIsNone(away.wanted(mock.Mock()))
            self.assertIn(said, str(caught[0].message))


@unittest.skipUnless(os.path.exists(pipeline.MADE), "build/engines is not made (packaging/engines)")
class TestOptimizers(unittest.TestCase):
    """engines/away_checks.py."""

    def test_there(self):
        done = subprocess.run([os.path.join(pipeline.ROOT, "packaging", "engines"), "run", "python3", "away_checks.py"],
                              cwd=pipeline.HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, r"Ran [1-9]\d* tests")


if __name__ == "__main__":
    unittest.main()
