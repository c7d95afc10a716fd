# SPDX-License-Identifier: Apache-2.0
"""Gives the blocks that PyTorch's caching allocator keeps without using them back to the device over one bubble, where the
trainer permits it (--pipefill=move=cache) and the plan of a fill job gains by the room.

The node says so for each iteration (Main.releases). They are given back before the bubble is announced, and taken again
once it is over on the device, by the sizes that they had, before the program goes on: it never comes to an allocation
that a fill job still stands in the way of. Where the device has no room for them the program waits, PATIENCE_S at most,
and nothing is given back any more.
"""

import contextlib
import time
import warnings

from .memory import KEPT, due

PATIENCE_S = 30  # for which the program waits until the device has room again; then its own allocations decide
SMALLEST = 10 << 20  # bytes of a segment: what is asked for from here on becomes one of just that size
GRAIN = 64 << 20  # bytes: what is told is a multiple of it, as plans are made anew when it changes
SEGMENT_NS = 1_000_000  # what one takes either way, until that was measured


class Cuda:
    """The device whose memory is wanted: a GPU of torch's, and its caching allocator."""

    def __init__(self, torch):
        self._torch = torch

    def unused(self):
        """The sizes of the segments that nothing is in, of the current stream's: the only ones that can be had again as
        they were."""
        cuda = self._torch.cuda
        here, stream = cuda.current_device(), cuda.current_stream().cuda_stream
        return [segment["total_size"] for segment in cuda.memory_snapshot()
                if segment["device"] == here and segment["stream"] == stream and not segment["allocated_size"] and
                not segment["active_size"] and segment["total_size"] >= SMALLEST and
                not segment.get("is_expandable") and not any(segment.get("segment_pool_id", ()))]

    def reserved(self):
        """How much the allocator has of the device."""
        return self._torch.cuda.memory_reserved()

    def release(self):
        """Gives the device what nothing is in."""
        self._torch.cuda.empty_cache()

    def take(self, size):
        """Has the allocator find that many bytes: torch.cuda.OutOfMemoryError. They are its own again when what is
        returned is dropped."""
        return self._torch.empty(size, dtype=self._torch.uint8, device="cuda")

    def passed(self):
        """Returns once the device has done what it was given."""
        self._torch.cuda.current_stream().synchronize()


class Cache:
    """What is not used of a device's memory, in the process that trains there.

    device: as Cuda. released: bytes that were given back the last time; times: how often; out_ns, in_ns: what giving
    back and taking again take; stopped: why nothing is given back any more, None while it is; unsaid: as Away's. Nothing
    raises.
    """

    def __init__(self, torch, device=None):
        self._torch = torch
        self._device = device or Cuda(torch)
        self._at = None  # the bubble of this iteration
        self._gone = []  # sizes of what is given back
        self._looks = {}  # by bubble: (bytes, segments) of the last KEPT looks
        self._told = None  # (bubble, bytes, times) that was told
        self._main = None
        self._asked = 0
        self._due = False
        self.stopped = None
        self.released = self.times = self.out_ns = self.in_ns = self.unsaid = 0

    def ask(self, main):
        """An iteration has begun: whether anything is given back in it."""
        if self.stopped is not None:
            return
        self._main, self._at = main, None
        said = main.releases()
        self._due = said is not None and due(self._asked)
        if said is None:
            return
        self._asked += 1
        if said != ():
            self._at = said
        self._tell()

    def _tell(self):
        """Of the bubble in which most was unused each time that it was looked at."""
        found = {index: min(looks) for index, looks in self._looks.items() if len(looks) == KEPT}
        if not found:
            return
        # Plans are made for it, and a look takes milliseconds: it stays that one.
        best = self._told[0] if self._told else max(found, key=lambda index: found[index])
        size, segments = found[best]
        told = best, size // GRAIN * GRAIN, self.times
        if self._told == told:
            return
        self._told = told
        guess_ns = segments * SEGMENT_NS
        self._main.releasable(best, told[1], self.out_ns or guess_ns, self.in_ns or guess_ns, self.times)

    def begin(self, index):
        """That bubble is about to be announced."""
        looks = self._due and (self._told is None or index == self._told[0])
        if self.stopped is not None or not looks and index != self._at:
            return
        try:
            begin_ns = time.monotonic_ns()
            sizes = self._device.unused()
            if looks:
                seen = self._looks.setdefault(index, [])
                seen.append((sum(sizes), len(sizes)))
                del seen[:-KEPT]
            if index == self._at and sizes:
                had = self._device.reserved()
                self._gone = sizes
                self._device.release()
                self.unsaid = had - self._device.reserved()
                self.out_ns = max(time.monotonic_ns() - begin_ns, int(0.95 * self.out_ns))
                self.released, self.times = sum(sizes), self.times + 1
        except Exception as err:  # pylint: disable=broad-except
            self._stop(f"{type(err).__name__}: {err}")

    def end(self, index):
        """That bubble is over."""
        if self._gone and index == self._at:
            self._take(self._device.passed)

    def iteration(self):
        """What was given back is the allocator's again, had its bubble not ended."""
        if self._gone:
            self._take()

    def close(self):
        """Gives nothing back any more."""
        self.iteration()
        self.stopped = self.stopped or "closed"
        if self._main is not None:
            self._main.releasable(0, 0, 0, 0, self.times)

    def _take(self, first=lambda: None):
        sizes, self._gone, self.unsaid, held = self._gone, [], 0, []
        try:
            first()
            begin = time.monotonic_ns()
            late = begin + PATIENCE_S * 10**9
            for size in sizes:
                wanted = self._device.reserved() + size
                while self._device.reserved() < wanted:  # what is in between lay free in a segment that is in use
                    taken = self._one(size, late)
                    if taken is None:
                        return
                    held.append(taken)
            self.in_ns = max(time.monotonic_ns() - begin, int(0.95 * self.in_ns))
        except Exception as err:  # pylint: disable=broad-except
            self._stop(f"{type(err).__name__}: {err}")

    def _one(self, size, late_ns):
        while True:
            try:
                return self._device.take(size)
            except self._torch.cuda.OutOfMemoryError:
                self._stop("the device had no room when they were to be taken again")
                if time.monotonic_ns() > late_ns:
                    return None  # what the program allocates may find it yet
                time.sleep(0.01)

    def _stop(self, why):
        if self.stopped is None:
            self.stopped = why
            self._main.releasable(0, 0, 0, 0, self.times)  # whoever has the room has to go
            with contextlib.suppress(RuntimeWarning):  # with warnings as errors
                warnings.warn(f"pipefill: cached blocks stay on the device from now on: {why}", RuntimeWarning, stacklevel=3)
