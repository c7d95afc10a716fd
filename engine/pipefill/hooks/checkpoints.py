# SPDX-License-Identifier: Apache-2.0
"""Sees checkpoints being written, whatever the engine: time that is never offered, and that reports count as Other.

What writes them is replaced where it is defined, right after its module was executed, before anybody imports it. It
costs nothing until a checkpoint is written; what another thread writes while training goes on is none of the rank's
phases (waits.Waits).
"""

import sys

from ..bubble import Work
from . import waits as _waits

KNOWN = None  # these functions are as old as their modules: no version is asked for

# By module (hooks.WRITERS): who has taken its functions over, if all of it was imported before; and which they are.
_FUNCTIONS = {
    "torch.serialization": ("torch", ("save",)),
    "torch.distributed.checkpoint.state_dict_saver": ("torch.distributed.checkpoint",
                                                      ("save", "async_save", "save_state_dict")),
    "megatron.core.dist_checkpointing.serialization": ("megatron.core.dist_checkpointing", ("save",)),
}


def install(module, waits=None):
    """Hooks one of hooks.WRITERS. AttributeError if it has none of its functions."""
    waits = waits or _waits.process()
    parent, names = _FUNCTIONS[module.__name__]
    found = {name: getattr(module, name) for name in names if callable(getattr(module, name, None))}
    if not found:
        raise AttributeError(f"it has no {' or '.join(names)}")
    for name, original in found.items():
        writing = waits.during(original, Work.CHECKPOINT)
        setattr(module, name, writing)
        above = sys.modules.get(parent)
        if getattr(above, name, None) is original:
            setattr(above, name, writing)
