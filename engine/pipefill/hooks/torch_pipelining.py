# SPDX-License-Identifier: Apache-2.0
"""The hook of torch.distributed.pipelining, and so of torchtitan, which steps its schedules.

Every point-to-point operation of every schedule goes through the module function _batch_p2p. Up to PyTorch 2.7 what it
returns is waited for; from 2.8 on _wait_batch_p2p waits. Both are found by name when they are called, so that they can
be replaced right after the module was executed, before anybody imports them.
"""

import functools

from ..bubble import Work
from . import waits as _waits
from .versions import Known

KNOWN = Known("PyTorch", "torch.version", "__version__", (2, 4), (2, 15))

# The stage's methods that make the operations, and what waiting for (or sending) theirs means.
_MAKERS = {
    "get_fwd_recv_ops": _waits.RECV_F,
    "get_bwd_recv_ops": _waits.RECV_B,
    "get_fwd_send_ops": _waits.FORWARD,
    "get_bwd_send_ops": _waits.BACKWARD,
}

# The stage's methods that compute; their first argument is the micro-batch. A backward may come in two halves.
_WORKERS = {
    "forward_one_chunk": Work.FORWARD,
    "backward_one_chunk": Work.BACKWARD,
    "backward_weight_one_chunk": Work.BACKWARD,
}


def install(schedules, waits=None):
    """Hooks the module torch.distributed.pipelining.schedules. AttributeError if it is not as KNOWN versions are."""
    waits = waits or _waits.process()
    stage, single, multi = schedules._PipelineStageBase, schedules.PipelineScheduleSingle, schedules.PipelineScheduleMulti
    makers = {name: getattr(stage, name) for name in _MAKERS}
    steps = {cls: cls.step for cls in (single, multi)}
    if hasattr(schedules, "_wait_batch_p2p"):
        replaced = {"_batch_p2p": _returning_list(waits, schedules._batch_p2p),
                    "_wait_batch_p2p": _waiting_list(waits, schedules._wait_batch_p2p)}
    else:
        replaced = {"_batch_p2p": _returning_work(waits, schedules._batch_p2p, schedules.dist.batch_isend_irecv)}
    # Nothing is changed before all of it was found.
    for name, original in makers.items():
        setattr(stage, name, _tagging(original, _MAKERS[name]))
    for name, work in _WORKERS.items():
        if callable(getattr(stage, name, None)):
            setattr(stage, name, waits.notes.around(getattr(stage, name), work, _micro_batch))
    for cls, original in steps.items():
        cls.step = _stepping(waits, original)
    for name, function in replaced.items():
        setattr(schedules, name, function)


def _tagging(original, word):
    @functools.wraps(original)
    def make(*args, **kwargs):
        operations = original(*args, **kwargs)
        try:
            for operation in operations:
                operation.pipefill_word = word
        except Exception:  # pylint: disable=broad-except
            pass  # then they are waited for under no name, as SEND
        return operations

    return make


def _micro_batch(_stage, chunk=None, *_, **__):
    return chunk


def _stepping(waits, original):
    evaluating = waits.during(original, Work.EVALUATION)

    @functools.wraps(original)
    def step(self, *args, **kwargs):
        training = getattr(self, "_has_backward", True)  # eval() steps without
        waits.iteration((id(self), getattr(self, "_n_microbatches", 0)), training, lambda: _place(self))
        return (original if training else evaluating)(self, *args, **kwargs)

    return step


def _place(schedule):
    """A rank's place in the pipeline, whatever number of stages it has."""
    stage = schedule._stage if hasattr(schedule, "_stage") else schedule._stages[0]
    return stage.group_rank


def _read(waits, operations):
    """Notes what is sent; returns the words of waiting for these operations, and whether they are receives alone."""
    words, alone = [], True
    for operation in operations:
        word = getattr(operation, "pipefill_word", None)
        if word in _waits.RECEIVES:
            if word not in words:
                words.append(word)
            continue
        alone = False
        if word is not None:
            waits.note(word)
    return tuple(words) or (_waits.SEND,), alone


class _Works:
    """All the works of one batch, as the one that PyTorch up to 2.7 returns.

    It keeps only the last of them, which on gloo leaves the others unfinished: fused sends and receives dead-lock
    (pytorch#132644). Waiting for all is right for every back-end, and goes on when the hook is off.
    """

    __slots__ = ("_waits", "_works", "_words")

    def __init__(self, waits, works, words):
        self._waits, self._works, self._words = waits, works, words

    def wait(self, *args, **kwargs):
        """As torch.distributed.Work.wait."""
        begun = self._waits.begin(self._words, self)
        try:
            result = None
            for work in self._works:
                result = work.wait(*args, **kwargs)
            return result
        finally:
            if begun:
                self._waits.end()

    def is_completed(self):
        """As torch.distributed.Work.is_completed."""
        return all(work.is_completed() for work in self._works)

    def __getattr__(self, name):
        return getattr(self._works[-1], name)


def _returning_work(waits, original, post):
    @functools.wraps(original)
    def batch_p2p(p2p_ops, desc=None):
        if not p2p_ops:
            return original(p2p_ops, desc)
        words, alone = waits.safely(_read, waits, p2p_ops) or ((_waits.SEND,), False)
        waits.posting(words, alone)
        works = _Works(waits, post(p2p_ops), words)
        waits.posted(works if alone else None)
        return works

    return batch_p2p


class _WorkList(list):
    """The works of one batch, from PyTorch 2.8 on, with the words of waiting for them."""

    words = (_waits.SEND,)


def _returning_list(waits, original):
    @functools.wraps(original)
    def batch_p2p(p2p_ops, *args, **kwargs):
        # Operations of several groups come here again, a group at a time (from 2.15 on, pipeline_per_edge_p2p).
        several = bool(p2p_ops) and _several_groups(p2p_ops)
        read = waits.safely(_read, waits, p2p_ops) if p2p_ops and not several else None
        if read is None:
            works = original(p2p_ops, *args, **kwargs)
            if several:
                works = _WorkList(works)
                works.words = _received(p2p_ops)
            return works
        waits.posting(*read)
        listed = _WorkList(original(p2p_ops, *args, **kwargs))
        listed.words = read[0]
        waits.posted(listed if read[1] else None)
        return listed

    return batch_p2p


def _received(operations):
    words = dict.fromkeys(getattr(operation, "pipefill_word", None) for operation in operations)
    return tuple(word for word in words if word in _waits.RECEIVES) or (_waits.SEND,)


def _several_groups(operations):
    first = getattr(operations[0], "group", None)
    return any(getattr(operation, "group", None) is not first for operation in operations)


def _waiting_list(waits, original):
    @functools.wraps(original)
    def wait_batch_p2p(work, *args, **kwargs):
        if not work or not waits.begin(getattr(work, "words", (_waits.SEND,)), work):
            return original(work, *args, **kwargs)
        try:
            return original(work, *args, **kwargs)
        finally:
            waits.end()

    return wait_batch_p2p
