# SPDX-License-Identifier: Apache-2.0
"""Hooks the pipeline engines that a main job imports, and keeps PyTorch in a fill job on a GPU within its memory; the
SPANK plugin puts this folder on their PYTHONPATH.

Python imports sitecustomize at its start from the first place that has one: the one that this hides is run first. It
does nothing in other jobs, and never lets an error out.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys


def _hidden():
    """Runs the sitecustomize that is found without this folder."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _package(name):
    """Imports the pipefill that this file is part of, wherever Python looks for others."""
    if "pipefill" not in sys.modules:
        folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        spec = importlib.util.spec_from_file_location("pipefill", os.path.join(folder, "__init__.py"),
                                                      submodule_search_locations=[folder])
        module = importlib.util.module_from_spec(spec)
        sys.modules["pipefill"] = module
        spec.loader.exec_module(module)
    return importlib.import_module("pipefill." + name)


def _enable():
    module = {"main": "hooks", "fill": "limit"}.get(os.environ.get("PIPEFILL_ROLE"))
    if module is None or not os.environ.get("PIPEFILL_DIR") or module == "limit" and not os.environ.get("PIPEFILL_MEM_BYTES"):
        return
    try:
        _package(module).enable()
    except Exception as err:  # pylint: disable=broad-except
        print(f"pipefill: {module} is not set up: {type(err).__name__}: {err}", file=sys.stderr)


try:
    _hidden()
finally:
    _enable()
