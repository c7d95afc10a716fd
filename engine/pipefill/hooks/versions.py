# SPDX-License-Identifier: Apache-2.0
"""Which versions of an engine a hook knows: those it ran on or whose source was read (docs/engines.md says which)."""

import importlib
import re


class Known:
    """The versions first to last of an engine, by their leading numbers, both included.

    module, attribute: where the engine keeps its version; its package may still be at importing itself.
    """

    def __init__(self, engine, module, attribute, first, last):
        self.engine, self.module, self.attribute = engine, module, attribute
        self.first, self.last = first, last

    def objection(self):
        """Why the installed version is left alone; "" if it is known."""
        try:
            version = str(getattr(importlib.import_module(self.module), self.attribute))
        except (ImportError, AttributeError) as err:
            return f"{self.engine} does not tell its version: {err}"
        numbers = tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:len(self.first)])
        if self.first <= numbers <= self.last:
            return ""
        return (f"{self.engine} {version} is not one of the versions that pipefill knows "
                f"({_dotted(self.first)} to {_dotted(self.last)})")


def _dotted(numbers):
    return ".".join(map(str, numbers))
