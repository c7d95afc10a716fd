# SPDX-License-Identifier: Apache-2.0
"""The main side: announces bubbles (the paper's pipeline bubble instruction).

A trainer opens one Main a device, calls begin and end around each wait, and iteration() after the optimizer step.
Without a library or a node daemon every call does nothing.
"""

import ctypes
import enum

from . import _lib


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


def _nothing(*_):
    """What an absent library does."""


class Main:
    """One device of a main job.

    device: "cpu:0-3", "gpu:<uuid>", a local rank, or None for this process's own.
    begin(kind, index), end(), iteration() and free_bytes(n) cost well under a microsecond; index is 0..255, the same
    in each iteration.
    """

    def __init__(self, device=None, library=None):
        library = library or _lib.load()
        self.device = None
        self.why = "libpipefill.so is not installed"
        self._library = library
        self._handle = None
        self.begin = self.end = self.iteration = self.free_bytes = _nothing
        if library is None:
            return
        self._handle = library.pf_open(device.encode() if device is not None else None)
        if not self._handle:
            self.why = library.why()
            return
        self.why = None
        self.device = library.pf_device(self._handle).decode()
        handle = ctypes.c_void_p(self._handle)
        bubble_begin, bubble_end = library.pf_bubble_begin, library.pf_bubble_end
        mark, free = library.pf_iteration, library.pf_free_bytes
        self.begin = lambda kind, index: bubble_begin(handle, kind, index)
        self.end = lambda: bubble_end(handle)
        self.iteration = lambda: mark(handle)
        self.free_bytes = lambda n: free(handle, n)

    @property
    def attached(self):
        """True if bubbles reach a node daemon; else why says why not."""
        return self._handle is not None

    def close(self):
        """Ends the announcements; more calls do nothing."""
        if self._handle:
            self.begin = self.end = self.iteration = self.free_bytes = _nothing
            self._library.pf_close(self._handle)
            self._handle = None
