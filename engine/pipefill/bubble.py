# SPDX-License-Identifier: Apache-2.0
"""The main side: announces bubbles (the paper's pipeline bubble instruction).

A trainer opens one Main a device, calls begin and end around each wait, and iteration() after the optimizer step.
Without a library or a node daemon every call does nothing.
"""

import contextlib
import ctypes
import enum
import functools
import time

from . import _lib

INDICES = 256  # bubbles of one iteration that can be told apart (PF_LEARN_INDICES)
PHASE = INDICES - 1  # the index of phases; an engine with that many bubbles loses nothing but their lengths
_THIS_ITERATION = 2**64 - 1  # PF_THIS_ITERATION


class Kind(enum.IntEnum):
    """Why a device waits; the numbers of enum pf_kind. COMM and OTHER are recorded and never offered."""

    FILL_DRAIN = 0
    FWD_BWD = 1
    STEADY = 2
    COMM = 3
    OTHER = 4

    @property
    def word(self):
        """The kind in the words of traces and reports."""
        return ("fill-drain", "fwd-bwd", "steady", "comm", "other")[self]


class Work(enum.IntEnum):
    """What a stage does; the numbers of enum pf_work. EVALUATION and CHECKPOINT are phases, which are never offered."""

    FORWARD = 0
    BACKWARD = 1
    STEP = 2
    EVALUATION = 3
    CHECKPOINT = 4


NO_MICRO_BATCH = 0xffffffff  # PF_NO_MICRO_BATCH


class Phases:
    """What a Main announces besides bubbles."""

    @contextlib.contextmanager
    def phase(self, work):
        """An evaluation or a checkpoint: time that reports count as Other, and that timelines name."""
        begin_ns = time.monotonic_ns()
        self.announcer(Kind.OTHER, PHASE)()
        try:
            yield
        finally:
            self.end()
            if self.recording():
                self.work(work, NO_MICRO_BATCH, begin_ns)


def _nothing(*_):
    """What an absent library does."""


def moves_of(function, *arguments):
    """What pf_moves or pf_stream_moves says, as Main.moves() returns it."""
    out_bubble, in_bubble = ctypes.c_uint32(), ctypes.c_uint32()
    said = function(*arguments, ctypes.byref(out_bubble), ctypes.byref(in_bubble))
    if said < 0:
        return None
    return (out_bubble.value, in_bubble.value) if said else ()


def releases_of(function, *arguments):
    """What pf_releases or pf_stream_releases says, as Main.releases() returns it."""
    index = ctypes.c_uint32()
    said = function(*arguments, ctypes.byref(index))
    if said < 0:
        return None
    return index.value if said else ()


class Main(Phases):
    """One device of a main job.

    device: "cpu:0-3", "gpu:<uuid>", a local rank in digits, or None for this process's own.
    holds: False, as nothing keeps a device from what is waited for here (stream.Main does).
    begin(kind, index), end() and iteration() are stores, 0.3-0.4 µs each with nobody waiting; index is 0..255, rising
    within an iteration and the same in each. One thread at a time.
    stage(number): which stage of the pipeline this is. recording(): whether the node records a timeline; only then
    work(Work, micro_batch, begin_ns) notes what was computed from then (CLOCK_MONOTONIC) until now.
    phase(Work.EVALUATION), phase(Work.CHECKPOINT): around one, with `with`; no begin and end within it.
    """

    holds = False

    def __init__(self, device=None, library=None):
        library = library or _lib.load()
        self.device = None
        self.why = "libpipefill.so is not installed"
        self._library = library
        self._handle = None
        self._still()
        if library is None:
            return
        opened = library.pf_open(device.encode() if device is not None else None)
        if not opened:
            self.why = library.why()
            return
        self.why = None
        # Bound here and not methods: a Python call in between would cost as much as the announcement.
        self._handle = ctypes.c_void_p(opened)
        self.device = library.pf_device(self._handle).decode()
        self.begin = functools.partial(library.pf_bubble_begin, self._handle)
        self.end = functools.partial(library.pf_bubble_end, self._handle)
        self.iteration = functools.partial(library.pf_iteration, self._handle)
        self.free_bytes = functools.partial(library.pf_free_bytes, self._handle)
        self.stage = functools.partial(library.pf_stage, self._handle)
        self.recording = functools.partial(library.pf_recording, self._handle)
        self.work = functools.partial(library.pf_work, self._handle)

    def _still(self):
        self.begin = self.end = self.iteration = self.free_bytes = self.stage = self.recording = self.work = _nothing

    def announcer(self, kind, index):
        """Returns begin with its arguments made ready, for an engine that knows its bubbles beforehand.

        A bubble past the last index that can be learned is not announced.
        """
        if self._handle is None or index >= INDICES:
            return _nothing
        return functools.partial(self.begin, ctypes.c_int(kind), ctypes.c_uint32(index))

    def moves(self):
        """(out, in): optimizer state is to be gone before bubble out of this iteration begins, and may come back once
        bubble in is over. (): not in this one, but what could leave is to be told; None: nothing of it is wanted."""
        if self._handle is None or self._library.pf_moves is None:
            return None
        return moves_of(self._library.pf_moves, self._handle, _THIS_ITERATION)

    def movable(self, size, out_ns, in_ns, times):
        """Tells how many bytes could leave, what leaving and coming back take, and how often they have left; 0 bytes: they
        stay from now on."""
        if self._handle is not None and self._library.pf_movable is not None:
            self._library.pf_movable(self._handle, size, out_ns, in_ns, times)

    def releases(self):
        """The index of a bubble of this iteration: memory that the allocator keeps is to be given back before it begins,
        and taken again once it is over. (): in none, but what could be is to be told; None: nothing of it is wanted."""
        if self._handle is None or self._library.pf_releases is None:
            return None
        return releases_of(self._library.pf_releases, self._handle, _THIS_ITERATION)

    def releasable(self, index, size, out_ns, in_ns, times):
        """Tells how many bytes could be given back over bubble index, what that and taking them again take, and how often
        they were given back; 0 bytes: none from now on."""
        if self._handle is not None and self._library.pf_releasable is not None:
            self._library.pf_releasable(self._handle, index, size, out_ns, in_ns, times)

    @property
    def attached(self):
        """True if bubbles reach a node daemon; else why says why not."""
        return self._handle is not None

    def close(self):
        """Ends the announcements; more calls do nothing."""
        if self._handle is not None:
            self._still()
            opened, self._handle.value = self._handle.value, None  # what announcers still hold is NULL now
            self._handle = None
            self._library.pf_close(opened)
