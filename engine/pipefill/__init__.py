# SPDX-License-Identifier: Apache-2.0
"""pipefill: the bubble instruction, the fill side's gate, and an instrumented pipeline engine.

bubble.Main and gate.Fill need nothing but the standard library; engine, model and train need PyTorch. hooks announces
the bubbles of other people's engines.
"""

from .hooks import instrument

__all__ = ["instrument"]
