# SPDX-License-Identifier: Apache-2.0
"""Hooks that announce the bubbles of the pipeline engines people train with; the engine's own code stays as it is.

enable() hooks each supported engine when it is imported, and is what engine/site/sitecustomize.py calls in a main job.
instrument() is the explicit way. An engine whose version is not known is left alone, with one warning.
"""

import importlib
import importlib.util
import sys
import warnings

# Which module of an engine is hooked, and by which module here.
HOOKS = {
    "torch.distributed.pipelining.schedules": "torch_pipelining",
    "deepspeed.runtime.pipe.engine": "deepspeed",
    "megatron.core.pipeline_parallel.schedules": "megatron",
}

# What writes checkpoints, hooked by checkpoints.py, so that this time which is never offered is seen.
WRITERS = ("torch.serialization", "torch.distributed.checkpoint.state_dict_saver",
           "megatron.core.dist_checkpointing.serialization")

_MODULES = HOOKS | dict.fromkeys(WRITERS, "checkpoints")

_hooked = {}  # module name -> why it is left alone, "" if it is hooked


def hook(name):
    """Hooks the imported module name, once. Returns why it is left alone, "" if it is hooked; never raises."""
    if name in _hooked:
        return _hooked[name]
    try:
        ours = importlib.import_module("." + _MODULES[name], __name__)
        why = ours.KNOWN.objection() if ours.KNOWN is not None else ""
        if not why:
            ours.install(sys.modules[name])
    except Exception as err:  # pylint: disable=broad-except
        why = f"{name} is not as expected: {type(err).__name__}: {err}"
    _hooked[name] = why
    if why:
        _warn(f"pipefill: {'bubbles' if name in HOOKS else 'checkpoints'} are not announced: {why}")
    return why


def _warn(text):
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    except RuntimeWarning:
        pass  # with warnings as errors


class _Finder:
    """Finds nothing itself: it lets the others find, and has the module hooked once it is executed."""

    def __init__(self):
        self._finding = set()

    def find_spec(self, name, path=None, target=None):
        """As importlib.abc.MetaPathFinder.find_spec."""
        if name not in _MODULES or name in self._finding:
            return None
        self._finding.add(name)
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.loader is not None:
                self._wrap(name, spec.loader)
            return spec
        finally:
            self._finding.discard(name)

    @staticmethod
    def _wrap(name, loader):
        execute = loader.exec_module

        def exec_module(module):
            execute(module)
            hook(name)

        loader.exec_module = exec_module


def enable():
    """Hooks each supported engine, and what writes checkpoints, when it is imported, and those that are already."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name in _MODULES:
        if name in sys.modules:
            hook(name)


def instrument(engine):
    """Announces the bubbles of a schedule or an engine, for programs that sitecustomize does not reach.

    engine: a schedule of torch.distributed.pipelining, a DeepSpeed PipelineEngine, or the module or function that
    Megatron-Core's get_forward_backward_func comes from. It is returned. Call it before the first iteration.
    Raises TypeError on anything else; a version that is not known is left alone with a warning.
    """
    modules = [getattr(engine, "__module__", None) or getattr(engine, "__name__", "")]
    modules += [cls.__module__ for cls in type(engine).__mro__]
    for name in modules:
        if name in HOOKS:
            hook(name)
            return engine
    raise TypeError(f"pipefill.instrument: {type(engine).__module__}.{type(engine).__qualname__} is no engine of those "
                    f"that have a hook ({', '.join(sorted(HOOKS))}); announce its bubbles with pipefill.bubble.Main")
