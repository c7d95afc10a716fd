# SPDX-License-Identifier: Apache-2.0
"""What a fill job computes on: when its work is done, and what it took.

Cores compute while Python waits; a GPU later than Python, so that there an op's time comes from events in its stream
and is known only once the chunk is over.
"""

import os
import sys
import time

import torch


class Cores:
    """Work on CPU cores is over when the call returns."""

    kind = "cpu"
    ahead_s = 0.0

    def __init__(self):
        # With one thread the CPU time of it: what an op takes of the core, whoever else had it in between.
        self.clock = time.thread_time if torch.get_num_threads() == 1 else time.monotonic
        self._op, self._begin = None, 0.0

    def start(self, op):
        """The op before is over, and op begins."""
        now = self.clock()
        if self._op is not None:
            self._op.add(now - self._begin)
        self._op, self._begin = op, now

    def finish(self):
        """The last op is over, and all work is done on return."""
        if self._op is not None:
            self._op.add(self.clock() - self._begin)
            self._op = None


class Cuda:
    """Work on a GPU is queued; what an op took is known at finish()."""

    kind = "cuda"

    def __init__(self):
        self._marks = []  # (op, event at its begin)
        self._done_s = 0.0  # when the queue will be empty, on time.monotonic

    @property
    def ahead_s(self):
        """Seconds of work in the queue, by what its ops are known to take."""
        return max(self._done_s - time.monotonic(), 0.0)

    def start(self, op):
        """op is queued next."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((op, event))
        self._done_s = max(self._done_s, time.monotonic()) + (op.need or 0.0)

    def finish(self):
        """Waits until the device has done all of it, and learns from the events."""
        last = None
        if self._marks:
            last = torch.cuda.Event(enable_timing=True)
            last.record()
        torch.cuda.synchronize()
        events = [event for _, event in self._marks] + [last]
        for (op, begin), end in zip(self._marks, events[1:]):
            op.add(begin.elapsed_time(end) * 1e-3)
        self._marks.clear()
        self._done_s = 0.0


def current():
    """The device of this fill job: CUDA's where PIPEFILL_DEVICE is a GPU or PyTorch has one, else the cores."""
    named = os.environ.get("PIPEFILL_DEVICE", "")
    if named.startswith("cpu:") or not torch.cuda.is_available():
        return Cores()
    return Cuda()


def limit_memory(free_bytes):
    """Keeps PyTorch on the GPU within free_bytes: its allocator then refuses by itself. 0: no limit is known."""
    if not free_bytes:
        return
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(free_bytes / total, 1.0))


def explain_out_of_memory(error, where, limit_bytes):
    """Says on standard error how much was allowed and where it was too little; error itself stays as it is."""
    used = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    of = f" of the {limit_bytes / 2**20:.0f} MiB that its slot has" if limit_bytes else ""
    print(f"pipefill: out of device memory in {where}: {used / 2**20:.0f} MiB{of} were taken: {error}; use a smaller "
          "batch, or ask for a slot with more by --pipefill=fill,mem=SIZE", file=sys.stderr)


def is_out_of_memory(error):
    """True for what PyTorch raises when the device's memory, or the limit on it, is used up."""
    kind = getattr(torch.cuda, "OutOfMemoryError", None)
    return kind is not None and isinstance(error, kind)
