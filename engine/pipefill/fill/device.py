# SPDX-License-Identifier: Apache-2.0
"""What a fill job computes on: when its work is done, and what it took.

Cores compute while Python waits; a GPU later than Python, so that there an op's time comes from events in its stream
and is known only once the chunk is over.
"""

import math
import os
import time

import torch

from .. import limit


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

    def more(self, size):
        """The job may hold so many bytes of device memory more while a chunk runs: no limit is kept on cores."""

    def give_back(self):
        """As Cuda.give_back: nothing is kept."""

    @staticmethod
    def room():
        """Bytes that this process could hold now: nobody knows."""
        return math.inf

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
        self._limit, self._more = limit.bytes_of(os.environ), 0
        # Again where sitecustomize has set it: not every Python reads that (-S, -I, a container of its own).
        limit.set_limit(torch.cuda, self._limit)

    def more(self, size):
        """The job may hold so many bytes more than its own while a chunk runs; 0: no longer."""
        self._more = size
        if self._limit:
            limit.set_limit(torch.cuda, self._limit + size)
        self.give_back()

    def give_back(self):
        """Lets the device have what the allocator keeps beyond what is the job's own between chunks."""
        if torch.cuda.memory_reserved() > max(self._limit - limit.CONTEXT_BYTES, 0):
            torch.cuda.empty_cache()

    @staticmethod
    def room():
        """Bytes that this process could hold now."""
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()

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
