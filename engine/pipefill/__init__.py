# SPDX-License-Identifier: Apache-2.0
"""pipefill: the bubble instruction, the fill side's gate and SDK, and an instrumented pipeline engine.

bubble.Main and gate.Fill need nothing but the standard library; fill, infer, profile and the engine need PyTorch
and import it when they are used. hooks announces the bubbles of other people's engines.
"""

import importlib

from .hooks import instrument

_LAZY = {"fill": "fill", "infer": "fill", "profile": "profiler"}

__all__ = ["instrument", *_LAZY]


def __getattr__(name):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("." + _LAZY[name], __name__)
    return module if name == "fill" else getattr(module, name)
