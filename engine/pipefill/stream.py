# SPDX-License-Identifier: Apache-2.0
"""The bubble instruction in a GPU stream's order: what bubble.Main is on a CPU (engine/cuda/pipefill_stream.h).

A program runs ahead of its device. So begin, end and iteration are enqueued on the current stream, and announced when
the device comes there; the receive behind a held bubble is kept from the device until fill work has to be gone. Nothing
is announced, and nothing held, where the driver or a call fails.
"""

import ctypes
import os

from .bubble import INDICES, Phases, moves_of, releases_of

_SIGNATURES = {
    "pf_stream_open": (ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]),
    "pf_stream_begin": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64,
                                       ctypes.c_int]),
    "pf_stream_end": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p]),
    "pf_stream_iteration": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p]),
    "pf_stream_moves": (ctypes.c_int, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint32)]),
    "pf_stream_movable": (None, [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64]),
    "pf_stream_releases": (ctypes.c_int, [ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32)]),
    "pf_stream_releasable": (None, [ctypes.c_void_p, ctypes.c_uint32] + 4 * [ctypes.c_uint64]),
    "pf_stream_ready": (None, [ctypes.c_void_p]),
    "pf_stream_holds": (ctypes.c_int, [ctypes.c_void_p]),
    "pf_stream_failed": (ctypes.c_char_p, [ctypes.c_void_p]),
    "pf_stream_device": (ctypes.c_char_p, [ctypes.c_void_p]),
    "pf_stream_stage": (None, [ctypes.c_void_p, ctypes.c_uint32]),
    "pf_stream_figures": (None, [ctypes.c_void_p, ctypes.c_void_p]),
    "pf_stream_close": (None, [ctypes.c_void_p]),
    "pf_stream_why": (ctypes.c_char_p, []),
}


class Figures(ctypes.Structure):
    """struct pf_stream_figures: bubbles announced, streams held, late and unseen releases, ns of the thread."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("announced", "held", "late", "latest_ns", "unseen", "dropped",
                                                     "thread_ns")]


def load():
    """libpipefill-cuda: $PIPEFILL_CUDA_LIBRARY, else the one beside libpipefill, else the system's. OSError or
    AttributeError where there is none."""
    named = os.environ.get("PIPEFILL_CUDA_LIBRARY")
    if not named:
        beside = os.environ.get("PIPEFILL_LIBRARY") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "x")
        named = os.path.join(os.path.dirname(os.path.abspath(beside)), "libpipefill-cuda.so")
        if not os.path.exists(named):
            named = "libpipefill-cuda.so.1"
    # The driver's calls may block on its own locks: the interpreter's is let go over them.
    library = ctypes.CDLL(named)
    for name, (restype, argtypes) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = restype, argtypes
    return library


class Main(Phases):
    """One GPU of a main job. stream: a function that returns the current stream as a CUstream in an integer.

    As bubble.Main otherwise. why says why nothing is announced, None while it is.
    """

    def __init__(self, stream, device=None, library=None, driver=None):
        self._stream = stream
        self._handle = self._library = None
        self._free = [0] * INDICES
        try:
            self._library = library or load()
        except (OSError, AttributeError) as err:
            self.why = str(err)
            return
        opened = self._library.pf_stream_open(_bytes(device), _bytes(driver or os.environ.get("PIPEFILL_CUDA_DRIVER")))
        if opened:
            self._handle = ctypes.c_void_p(opened)
        self.why = None if opened else self._library.pf_stream_why().decode(errors="replace")

    @property
    def attached(self):
        """True if bubbles reach a node daemon."""
        return self._handle is not None

    @property
    def holds(self):
        """Whether receives are kept from the device in bubbles."""
        return self._handle is not None and self._library.pf_stream_holds(self._handle) != 0

    @property
    def failed(self):
        """Why bubbles are not announced any more, None while they are."""
        why = self._handle is not None and self._library.pf_stream_failed(self._handle)
        return why.decode(errors="replace") if why else None

    @property
    def device(self):
        """The device's name, None where nothing is announced."""
        return self._library.pf_stream_device(self._handle).decode() if self._handle is not None else None

    def announcer(self, kind, index, hold=False):
        """Returns a function that enqueues that this bubble begins; hold: in front of a receive alone, and kept there.

        A bubble past the last index that can be learned is not announced.
        """
        kind, index, hold = int(kind), int(index), int(hold)

        def begin():
            if self._handle is not None:
                self._library.pf_stream_begin(self._handle, self._stream(), kind, index, self._free[index], hold)

        return begin if index < INDICES else lambda: None

    def free(self, index, free_bytes):
        """Says how much device memory fill work may use in that bubble from the next time on; 0: not known."""
        if index < INDICES:
            self._free[index] = free_bytes

    def end(self):
        """Enqueues that the bubble is over."""
        if self._handle is not None:
            self._library.pf_stream_end(self._handle, self._stream())

    def iteration(self):
        """Enqueues that the next iteration begins."""
        if self._handle is not None:
            self._library.pf_stream_iteration(self._handle, self._stream())

    def stage(self, number):
        """As bubble.Main.stage."""
        if self._handle is not None:
            self._library.pf_stream_stage(self._handle, number)

    def recording(self):
        """False: when the program gets to its work is not when the device does."""
        return False

    def work(self, *_):
        """As bubble.Main.work: nothing is noted."""

    def moves(self):
        """As bubble.Main.moves, of the iteration that was enqueued last."""
        return moves_of(self._library.pf_stream_moves, self._handle) if self._handle is not None else None

    def movable(self, size, out_ns, in_ns, times):
        """As bubble.Main.movable."""
        if self._handle is not None:
            self._library.pf_stream_movable(self._handle, size, out_ns, in_ns, times)

    def releases(self):
        """As bubble.Main.releases, of the iteration that was enqueued last."""
        return releases_of(self._library.pf_stream_releases, self._handle) if self._handle is not None else None

    def releasable(self, index, size, out_ns, in_ns, times):
        """As bubble.Main.releasable."""
        if self._handle is not None:
            self._library.pf_stream_releasable(self._handle, index, size, out_ns, in_ns, times)

    def ready(self):
        """What is held now is known to be there."""
        if self._handle is not None:
            self._library.pf_stream_ready(self._handle)

    def figures(self):
        """What came of it so far, as Figures."""
        out = Figures()
        if self._handle is not None:
            self._library.pf_stream_figures(self._handle, ctypes.byref(out))
        return out

    def close(self):
        """Releases what is held and ends the announcements; more calls do nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.pf_stream_close(handle)


def _bytes(text):
    return text.encode() if text else None
