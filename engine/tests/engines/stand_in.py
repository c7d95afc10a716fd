# SPDX-License-Identifier: Apache-2.0
"""Empty modules for what an engine imports and a pipeline does not use: data sets, tokenizers, exporters."""

import importlib.machinery
import sys
import types


class _Module(types.ModuleType):
    """Has every name, as a class with nothing in it."""

    __version__ = "0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


class _Finder:
    def __init__(self, names):
        self._names = names

    def find_spec(self, name, path=None, target=None):
        """As importlib.abc.MetaPathFinder.find_spec."""
        del path, target
        if any(name == one or name.startswith(one + ".") for one in self._names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    @staticmethod
    def create_module(spec):
        """As importlib.abc.Loader.create_module."""
        return _Module(spec.name)

    @staticmethod
    def exec_module(module):
        """As importlib.abc.Loader.exec_module: nothing is there to run."""


def stand_in(*names):
    """From here on these modules, and all within them, are empty."""
    sys.meta_path.insert(0, _Finder(names))
