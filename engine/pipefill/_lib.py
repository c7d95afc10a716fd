# SPDX-License-Identifier: Apache-2.0
"""The one door to libpipefill.so (spank/pipefill.h), by ctypes: no compiler is needed.

Where the library is missing, load() returns None and everything above it does nothing, so that a program runs
unchanged on any machine.
"""

import ctypes
import os

_SIGNATURES = {
    "pf_open": (ctypes.c_void_p, [ctypes.c_char_p]),
    "pf_bubble_begin": (None, [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]),
    "pf_bubble_end": (None, [ctypes.c_void_p]),
    "pf_iteration": (None, [ctypes.c_void_p]),
    "pf_free_bytes": (None, [ctypes.c_void_p, ctypes.c_uint64]),
    "pf_close": (None, [ctypes.c_void_p]),
    "pf_device": (ctypes.c_char_p, [ctypes.c_void_p]),
    "pf_fill_open": (ctypes.c_void_p, []),
    "pf_fill_wait": (ctypes.c_int64, [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]),
    "pf_fill_left": (ctypes.c_int64, [ctypes.c_void_p]),
    "pf_fill_yield": (None, [ctypes.c_void_p]),
    "pf_fill_stopping": (ctypes.c_int, [ctypes.c_void_p]),
    "pf_fill_close": (None, [ctypes.c_void_p]),
    "pf_strerror": (ctypes.c_char_p, []),
    "pf_version": (ctypes.c_char_p, []),
}

# Calls that only store: ctypes.PyDLL keeps the interpreter lock over them, which is what makes them cheap. The
# others may wait, and must let other threads run meanwhile.
_STORES = ("pf_bubble_begin", "pf_bubble_end", "pf_iteration", "pf_free_bytes", "pf_fill_left", "pf_fill_yield",
           "pf_fill_stopping")


class Library:
    """libpipefill's functions as attributes, argument types set."""

    def __init__(self, path):
        waits = ctypes.CDLL(path)
        stores = ctypes.PyDLL(path)
        for name, (restype, argtypes) in _SIGNATURES.items():
            function = getattr(stores if name in _STORES else waits, name)
            function.restype = restype
            function.argtypes = argtypes
            setattr(self, name, function)

    def why(self):
        """Why the last open of this thread failed."""
        return self.pf_strerror().decode(errors="replace")


def load(path=None):
    """Returns the Library at path, $PIPEFILL_LIBRARY or where the loader finds it; None where there is none."""
    for candidate in (path, os.environ.get("PIPEFILL_LIBRARY"), "libpipefill.so.1", "libpipefill.so"):
        if not candidate:
            continue
        try:
            return Library(candidate)
        except (OSError, AttributeError):
            continue
    return None
