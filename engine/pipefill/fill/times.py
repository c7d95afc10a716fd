# SPDX-License-Identifier: Apache-2.0
"""What each op takes: learned as it runs, from a fill profile at first. Pure."""

import collections

# So many runs of an op are remembered, and looked at again after so many new ones.
_WINDOW = 128
_REVIEW = 8
# Runs after which their quantiles say something.
_KNOWN = 3


class OpTime:
    """The recent times of one op, in seconds."""

    __slots__ = ("_recent", "_new", "_profiled", "count", "need", "fast", "median")

    def __init__(self, profiled=None):
        self._recent = collections.deque(maxlen=_WINDOW)
        self._new = 0
        self._profiled = profiled is not None
        self.count = 0
        # Of the last times: what all but the slowest took (None: unknown), the quickest quarter, the middle.
        self.need = self.fast = self.median = profiled

    def add(self, seconds):
        """Takes in one run."""
        self._recent.append(seconds)
        self.count += 1
        self._new += 1
        if self._new >= _REVIEW or self.count <= _REVIEW:
            self._new = 0
            self._review()

    def _review(self):
        if self.count < _KNOWN:
            if self._profiled:
                return
            # The first runs allocate and warm up: the next ones take less.
            self.need = self.median = max(self._recent)
            return
        ordered = sorted(self._recent)
        last = len(ordered) - 1
        # Not the slowest: a run that was disturbed would ask for more than any bubble has. The last op of a chunk is late
        # where it takes longer than this, so that a lower quantile is as many late chunks.
        self.need = ordered[last - min(1, last // 16)]
        self.fast, self.median = ordered[last // 4], ordered[last // 2]


class Margin:
    """What is kept free before the deadline so that a wanted share of chunks is late: a quantile found by steps (H. Robbins,
    S. Monro, 1951), which are as long as chunks are late lately."""

    def __init__(self, late=0.005, step_s=100e-6, most_s=5e-3):
        self._late, self._least_s, self._step_s, self._most_s = late, step_s, step_s, most_s
        self.seconds = step_s

    def add(self, over_s):
        """Takes in by how many seconds a chunk ended after its deadline; 0 or less: it did not."""
        if over_s > 0:
            self._step_s += 0.2 * (min(over_s, self._most_s / 2) - self._step_s)
            self._step_s = max(self._step_s, self._least_s)
        step = (1 - self._late) if over_s > 0 else -self._late
        self.seconds = min(max(self.seconds + step * self._step_s, 0.0), self._most_s)


class OpTimes:
    """OpTime by the op's name."""

    def __init__(self, profiled=None):
        """profiled: name -> seconds from a fill profile."""
        self._ops = {name: OpTime(seconds) for name, seconds in (profiled or {}).items()}

    def __getitem__(self, name):
        op = self._ops.get(name)
        if op is None:
            op = self._ops[name] = OpTime()
        return op

    def items(self):
        """(name, OpTime) in the order in which the ops were first seen."""
        return self._ops.items()
