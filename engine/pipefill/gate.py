# SPDX-License-Identifier: Apache-2.0
"""The fill side: runs chunks of work while the gate is open.

    fill = Fill()
    while work_left:
        fill.wait(need_s=0.003)      # returns once a chunk of 3 ms fits
        do_a_chunk()
    fill.close()

Outside a fill job wait() returns at once, so that the same program runs anywhere.
"""

import ctypes
import math
import os

from . import _lib

_LONGEST_S = 1e9  # thirty years; what is longer would not fit into the library's 64 bits of ns


class Stopping(Exception):
    """The fill job was told to end: save what is worth it, and exit."""


class Fill:
    """The gate of this fill job's device. One thread at a time."""

    def __init__(self, library=None):
        library = library or _lib.load()
        self._library = library
        self._handle = library.pf_fill_open() if library is not None else None
        self.why = None
        if not self._handle:
            self.why = library.why() if library is not None else "libpipefill.so is not installed"

    @property
    def attached(self):
        """True in a fill job; False elsewhere, where nothing ever waits."""
        return bool(self._handle)

    def wait(self, need_s=0.0, timeout_s=None):
        """Waits until need_s seconds are left in an open bubble; returns the seconds left (inf outside a fill job).

        A chunk begins when this returns, and ends with yield_() or the next wait(). Raises Stopping when the job is
        to end, TimeoutError after timeout_s (None: waits for ever, also for a need_s longer than every bubble).
        """
        if not self._handle:
            return math.inf
        timeout_ns = -1 if timeout_s is None else int(min(max(timeout_s, 0.0), _LONGEST_S) * 1e9)
        left_ns = self._library.pf_fill_wait(self._handle, int(min(need_s, _LONGEST_S) * 1e9), timeout_ns)
        if left_ns >= 0:
            return left_ns * 1e-9
        if self.stopping:
            raise Stopping
        raise TimeoutError(f"no bubble of {need_s} s within {timeout_s} s")

    def left(self):
        """Seconds until the deadline: 0 past it, negative while the gate is shut, inf outside a fill job."""
        if not self._handle:
            return math.inf
        return self._library.pf_fill_left(self._handle) * 1e-9

    def yield_(self):
        """The chunk is over; wait() says so as well."""
        if self._handle:
            self._library.pf_fill_yield(self._handle)

    def bubble(self):
        """Index of the bubble that is open; None while the gate is shut, and outside a fill job."""
        if not self._handle or self._library.pf_fill_bubble is None:
            return None
        index, iteration = ctypes.c_uint32(), ctypes.c_uint64()
        if self._library.pf_fill_bubble(self._handle, ctypes.byref(index), ctypes.byref(iteration)):
            return None
        return index.value

    @property
    def plan_id(self):
        """Names the execution plan that was made for this fill job; 0: there is none, or none yet."""
        if not self._handle or self._library.pf_fill_plan_id is None:
            return 0
        return self._library.pf_fill_plan_id(self._handle)

    def plan(self):
        """(name, text) of the execution plan, bytes of JSON. OSError where there is none to be had."""
        if not self._handle or self._library.pf_fill_plan is None:
            raise OSError("this is no fill job of a pipefill that hands out plans")
        number = ctypes.c_uint64()
        descriptor = self._library.pf_fill_plan(self._handle, ctypes.byref(number))
        if descriptor < 0:
            raise OSError(self._library.why())
        with os.fdopen(descriptor, "rb") as file:
            return number.value, file.read()

    def at(self, number, config, op):
        """Tells where this job is in the plan with that name: the next op of a pass of a configuration."""
        if self._handle and self._library.pf_fill_at is not None:
            self._library.pf_fill_at(self._handle, number, config, op)

    @property
    def stopping(self):
        """True once the job was told to end."""
        return bool(self._handle) and self._library.pf_fill_stopping(self._handle) != 0

    def close(self):
        """Gives the gate back."""
        if self._handle:
            self._library.pf_fill_close(self._handle)
            self._handle = None
