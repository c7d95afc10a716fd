# SPDX-License-Identifier: Apache-2.0
"""Takes the place of the pace of a fill job's loop, and records what each op takes instead of waiting for a gate."""

import math
import statistics
import time

import torch

from ..fill import device as devices
from ..fill.pace import SHORT_S

# The op that each pass begins with.
FIRST = "load"
# In bubbles a job stands still again and again, while others take caches and clocks go down: work for so long is
# followed by so long a rest, as in a bubble of ordinary length. Without it ops seem a tenth quicker than they are there.
WORK_S = 0.012
REST_S = 0.012


class _Sink:
    """An op's run of one pass; what device.start and finish add to."""

    __slots__ = ("name", "seconds")
    need = None

    def __init__(self, name):
        self.name, self.seconds = name, 0.0

    def add(self, seconds):
        self.seconds += seconds


class Recorder:
    """Has what Run uses of a Pace; the gate is always open."""

    stopping = protect = running = terminate = False
    chunks = overruns = late = 0
    follower = log = None

    def __init__(self):
        self.device = devices.current()
        self.on_pause, self.on_resume = [], []
        self.passes = []  # lists of _Sink
        self.memory = None  # a Memory while a pass's memory is watched
        self._rested = time.monotonic()

    def boundary(self, name):
        """The op name begins, and all that was before is done."""
        self.device.finish()
        if time.monotonic() - self._rested > WORK_S:
            time.sleep(REST_S)
            self._rested = time.monotonic()
        if name == FIRST or not self.passes:
            self.passes.append([])
        if self.memory is not None:
            self.memory.mark(len(self.passes) - 1, len(self.passes[-1]))
        sink = _Sink(name)
        self.passes[-1].append(sink)
        self.device.start(sink)

    module = boundary

    def pause(self):
        """The op that runs is over."""
        self.device.finish()

    abandon = pause


class Memory:
    """Memory beyond what stays, by op of the passes it watches: PyTorch's own events of allocations."""

    def __init__(self):
        self._cuda = torch.cuda.is_available()
        self._profiler = None
        self._marks, self.levels = [], {}  # levels: (pass, op) -> (most, at its end), bytes above the begin

    def __enter__(self):
        if self._cuda:
            torch.cuda.synchronize()
            self._base = torch.cuda.memory_allocated()
        else:
            self._profiler = torch.autograd.profiler.profile(profile_memory=True)
            self._profiler.__enter__()
        return self

    def mark(self, number, position):
        """Op position of pass number begins."""
        if self._cuda:
            self._close_cuda()
            torch.cuda.reset_peak_memory_stats()
        else:
            with torch.autograd.profiler.record_function(f"pipefill {len(self._marks)}"):
                pass
        self._marks.append((number, position))

    def _close_cuda(self):
        if self._marks:
            most = torch.cuda.max_memory_allocated() - self._base
            self.levels[self._marks[-1]] = (max(most, 0), max(torch.cuda.memory_allocated() - self._base, 0))

    def __exit__(self, *details):
        if self._cuda:
            self._close_cuda()
            return
        self._profiler.__exit__(*details)
        self._sum_up(self._profiler.kineto_results.events())

    def _sum_up(self, events):
        def at(event):
            return event.start_ns() if hasattr(event, "start_ns") else event.start_us()

        level, most, mark = 0, 0, None
        # Events of one instant as they came; a mark is before what its op allocates.
        for event in sorted((e for e in events if e.name() == "[memory]" or e.name().startswith("pipefill ")), key=at):
            if event.name() == "[memory]":
                level += event.nbytes()
                most = max(most, level)
                continue
            if mark is not None:
                self.levels[mark] = (max(most, 0), max(level, 0))
            mark, most = self._marks[int(event.name().split()[1])], level
        if mark is not None:
            self.levels[mark] = (max(most, 0), max(level, 0))


class OpRecord:
    """One op over all passes, in seconds."""

    def __init__(self, name, seconds):
        self.name, self.seconds = name, sorted(seconds)
        self.peak_bytes = self.live_bytes = 0

    def quantile(self, part):
        """What that part of the passes took at most."""
        return self.seconds[min(math.ceil(part * len(self.seconds)), len(self.seconds)) - 1]

    @property
    def median(self):
        """The middle."""
        return statistics.median(self.seconds)


def summarise(passes, levels, watched):
    """The ops of a configuration: OpRecords; short ones are part of the op before, as when it runs in bubbles.

    passes: those to be counted. levels, watched: of Memory, and the pass it watched. ValueError if passes differ.
    """
    names = [sink.name for sink in passes[0]]
    for number, other in enumerate(passes[1:], 1):
        if [sink.name for sink in other] != names:
            place = next((i for i, (a, b) in enumerate(zip(names, [s.name for s in other])) if a != b),
                         min(len(names), len(other)))
            at = names[place] if place < len(names) else "the end"
            raise ValueError(f"passes differ: pass {number} has {len(other)} ops and the first {len(names)}, from op {place} "
                             f"({at}) on: choose ops that are always run by split=")
    short = {name for name in set(names) if name != FIRST and statistics.median(
        [sink.seconds for one in passes for sink in one if sink.name == name]) < SHORT_S}
    records = []
    for position, name in enumerate(names):
        most, live = levels.get((watched, position), (0, 0))
        seconds = [one[position].seconds for one in passes]
        if name in short and records:
            before = records[-1]
            before["seconds"] = [a + b for a, b in zip(before["seconds"], seconds)]
            before.update(most=max(before["most"], most), live=live)
        else:
            records.append({"name": name, "seconds": seconds, "most": most, "live": live})
    found = []
    for record in records:
        op = OpRecord(record["name"], record["seconds"])
        op.peak_bytes, op.live_bytes = record["most"], record["live"]
        found.append(op)
    return found
