# SPDX-License-Identifier: Apache-2.0
"""The hook of Megatron-Core's pipeline schedules, and so of NeMo, which calls them.

Megatron brackets each point-to-point call with config.timers(name).start() and stop(), the official place to look on:
while a schedule runs, its config has timers of ours, which hand everything on to the ones that were there. With
overlapped communication (config.overlap_p2p_comm) the waits are on request handles instead, and the timers bracket the
posting only: there the handles are wrapped.
"""

import functools
import importlib
import time

from ..bubble import Work
from . import waits as _waits
from .versions import Known

KNOWN = Known("Megatron-Core", "megatron.core.package_info", "__version__", (0, 12), (0, 20))

_SCHEDULES = ("forward_backward_pipelining_without_interleaving", "forward_backward_pipelining_with_interleaving")
# What a timer's name means: (noted, waited for).
_TIMERS = {
    "forward-recv": ((), (_waits.RECV_F,)),
    "backward-recv": ((), (_waits.RECV_B,)),
    "forward-send": ((_waits.FORWARD,), (_waits.SEND,)),  # where a send blocks; on NCCL it takes no time
    "backward-send": ((_waits.BACKWARD,), (_waits.SEND,)),
    "forward-send-backward-recv": ((_waits.FORWARD,), (_waits.RECV_B,)),
    "backward-send-forward-recv": ((_waits.BACKWARD,), (_waits.RECV_F,)),
    "forward-send-forward-recv": ((_waits.FORWARD,), (_waits.RECV_F,)),
    "backward-send-backward-recv": ((_waits.BACKWARD,), (_waits.RECV_B,)),
    "forward-backward-send-forward-backward-recv": ((_waits.FORWARD, _waits.BACKWARD), (_waits.RECV_F, _waits.RECV_B)),
    "forward-compute": ((_waits.FORWARD,), ()),
    "backward-compute": ((_waits.BACKWARD,), ()),
}
# Which of them bracket computing.
_WORK = {"forward-compute": Work.FORWARD, "backward-compute": Work.BACKWARD}


_P2P = "megatron.core.pipeline_parallel.p2p_communication"
# What a request handle is waited for, by its name in Megatron.
_HANDLES = {"recv_prev": (_waits.RECV_F,), "recv_next": (_waits.RECV_B,), "send_next": (_waits.SEND,),
            "send_prev": (_waits.SEND,)}


def install(schedules, waits=None, p2p=None):
    """Hooks the module megatron.core.pipeline_parallel.schedules. AttributeError if it is not as KNOWN versions are."""
    waits = waits or _waits.process()
    p2p = p2p or importlib.import_module(_P2P)
    post = p2p._p2p_ops
    originals = {name: getattr(schedules, name) for name in _SCHEDULES}
    get_config = schedules.get_model_config
    for name, original in originals.items():
        setattr(schedules, name, _running(waits, original, get_config))
    p2p._p2p_ops = _handing(waits, post)


def _running(waits, original, get_config):
    evaluating = waits.during(original, Work.EVALUATION)

    @functools.wraps(original)
    def run(*args, **kwargs):
        config = waits.safely(_begin, waits, original.__name__, get_config, kwargs)
        schedule = evaluating if kwargs.get("forward_only", False) else original
        if config is None:
            return schedule(*args, **kwargs)
        before = config.timers
        config.timers = Timers(waits, before, bool(getattr(config, "overlap_p2p_comm", False)))
        try:
            return schedule(*args, **kwargs)
        finally:
            config.timers = before

    return run


def _begin(waits, name, get_config, arguments):
    """Marks the iteration; returns the model's config."""
    model = arguments["model"]  # Megatron's schedules take keywords only
    config = get_config(model[0] if isinstance(model, list) else model)
    waits.iteration((name, id(config), arguments.get("num_microbatches")), not arguments.get("forward_only", False), _place)
    return config


def _place():
    return importlib.import_module("megatron.core.parallel_state").get_pipeline_model_parallel_rank()


def _handing(waits, original):
    @functools.wraps(original)
    def p2p_ops(*args, **kwargs):
        handles = original(*args, **kwargs)
        if waits.off is not None or not isinstance(handles, dict):
            return handles
        return {name: _Handle(waits, handle, _HANDLES.get(name, (_waits.SEND,))) for name, handle in handles.items()}

    return p2p_ops


class _Handle:
    """A request handle, announced while it is waited for (unless a timer does so already)."""

    __slots__ = ("_waits", "_handle", "_words")

    def __init__(self, waits, handle, words):
        self._waits, self._handle, self._words = waits, handle, words

    def wait(self, *args, **kwargs):
        """As torch.distributed.Work.wait."""
        begun = self._waits.begin(self._words)
        try:
            return self._handle.wait(*args, **kwargs)
        finally:
            if begun:
                self._waits.end()

    def __getattr__(self, name):
        return getattr(self._handle, name)


class Timers:
    """config.timers while a schedule runs. Unlike Megatron's own it never synchronizes; inner may be None.

    overlap: the timers bracket the posting, and the handles announce the waits.
    """

    def __init__(self, waits, inner, overlap=False):
        self._waits, self._inner, self._overlap = waits, inner, overlap
        self._timers = {}

    def __call__(self, name, log_level=None, **kwargs):
        inner = None
        if self._inner is not None:
            inner = self._inner(name, log_level=log_level, **kwargs)
        timer = self._timers.get(name)
        if timer is None:
            notes, words = _TIMERS.get(name, ((), ()))
            timer = self._timers[name] = _Timer(self._waits, notes, () if self._overlap else words, _WORK.get(name))
        timer.inner = inner
        return timer

    def __getattr__(self, name):
        return getattr(self._inner, name)


class _Timer:
    """One of them: announces between start and stop, and notes the work that it brackets."""

    def __init__(self, waits, notes, words, work):
        self._waits, self._notes, self._words, self._work = waits, notes, words, work
        self._begin_ns = 0
        self._alone = not notes and len(words) == 1
        self._begun = False
        self.inner = None

    def start(self, *args, **kwargs):
        """As megatron.core.timers.Timer.start."""
        for word in self._notes:
            self._waits.note(word)
        if self.inner is not None:
            self.inner.start(*args, **kwargs)
        if self._words:
            # A receive alone is posted between start and stop, which nothing is fused with.
            self._begun = self._waits.begin(self._words, alone=self._alone)
        if self._work is not None and self._waits.notes.recording:
            self._begin_ns = time.monotonic_ns()

    def stop(self, *args, **kwargs):
        """As megatron.core.timers.Timer.stop."""
        if self._begin_ns:
            begin_ns, self._begin_ns = self._begin_ns, 0
            self._waits.safely(self._waits.notes.worked, self._work, begin_ns)
        if self._begun:
            self._begun = False
            self._waits.end()
        if self.inner is not None:
            self.inner.stop(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.inner, name)
