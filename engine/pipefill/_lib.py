# SPDX-License-Identifier: Apache-2.0
"""The one door to libpipefill.so (spank/pipefill.h), by ctypes: no compiler is needed.

Where the library is missing, load() returns None and everything above it does nothing, so that a program runs
unchanged on any machine.
"""

import ctypes
import os
import warnings

_SIGNATURES = {
    "pf_open": (ctypes.c_void_p, [ctypes.c_char_p]),
    "pf_close": (None, [ctypes.c_void_p]),
    "pf_device": (ctypes.c_char_p, [ctypes.c_void_p]),
    "pf_free_bytes": (None, [ctypes.c_void_p, ctypes.c_uint64]),
    "pf_stage": (None, [ctypes.c_void_p, ctypes.c_uint32]),
    "pf_recording": (ctypes.c_int, [ctypes.c_void_p]),
    "pf_work": (None, [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64]),
    "pf_fill_open": (ctypes.c_void_p, []),
    "pf_fill_wait": (ctypes.c_int64, [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]),
    "pf_fill_left": (ctypes.c_int64, [ctypes.c_void_p]),
    "pf_fill_yield": (None, [ctypes.c_void_p]),
    "pf_fill_stopping": (ctypes.c_int, [ctypes.c_void_p]),
    "pf_fill_close": (None, [ctypes.c_void_p]),
    "pf_strerror": (ctypes.c_char_p, []),
    "pf_version": (ctypes.c_char_p, []),
    # No argument types: checking them is a third of what begin and end cost (1.05 µs the pair with, 0.75 without;
    # 0.6 with all arguments made before). bubble.py passes a c_void_p and small integers.
    "pf_bubble_begin": (None, None),
    "pf_bubble_end": (None, None),
    "pf_iteration": (None, None),
}

# What a library of an earlier release has not: then it is None.
_LATER = {
    "pf_moves": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint32),
                                ctypes.POINTER(ctypes.c_uint32)]),
    "pf_movable": (None, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64]),
    "pf_releases": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint32)]),
    "pf_releasable": (None, [ctypes.c_void_p, ctypes.c_uint32] + 4 * [ctypes.c_uint64]),
    "pf_fill_bubble": (ctypes.c_int, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint64)]),
    "pf_fill_plan_id": (ctypes.c_uint64, [ctypes.c_void_p]),
    "pf_fill_plan": (ctypes.c_int, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64)]),
    "pf_fill_at": (None, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32]),
}

# Calls that only store: ctypes.PyDLL keeps the interpreter lock over them, which is what makes them cheap. The
# others may wait, and must let other threads run meanwhile.
_STORES = ("pf_bubble_begin", "pf_bubble_end", "pf_iteration", "pf_free_bytes", "pf_stage", "pf_recording", "pf_work",
           "pf_moves", "pf_movable", "pf_releases", "pf_releasable",
           "pf_fill_left", "pf_fill_yield", "pf_fill_stopping", "pf_fill_bubble",
           "pf_fill_plan_id", "pf_fill_at")


class Library:
    """libpipefill's functions as attributes. OSError or AttributeError if path is no such library."""

    def __init__(self, path):
        waits = ctypes.CDLL(path)
        stores = ctypes.PyDLL(path)
        for name, (restype, argtypes) in {**_SIGNATURES, **_LATER}.items():
            library = stores if name in _STORES else waits
            function = getattr(library, name, None) if name in _LATER else getattr(library, name)
            if function is None:
                setattr(self, name, None)
                continue
            function.restype = restype
            if argtypes is not None:
                function.argtypes = argtypes
            setattr(self, name, function)

    def why(self):
        """Why the last open of this thread failed."""
        return self.pf_strerror().decode(errors="replace")


def load():
    """Returns the library that $PIPEFILL_LIBRARY names, else the one beside this package, else the system's.

    None where there is none, with a warning if this is a job of pipefill, which should have one.
    """
    named = os.environ.get("PIPEFILL_LIBRARY")
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libpipefill.so")
    for candidate in [named] if named else [beside, "libpipefill.so.1", "libpipefill.so"]:
        try:
            return Library(candidate)
        except (OSError, AttributeError) as err:
            why = err
    if os.environ.get("PIPEFILL_DIR"):
        # Python shows one warning of one place once, however often it comes.
        warnings.warn(f"pipefill: no libpipefill.so, so nothing is announced and no gate is kept: {why}",
                      RuntimeWarning, stacklevel=2)
    return None
