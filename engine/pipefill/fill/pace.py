# SPDX-License-Identifier: Apache-2.0
"""Runs ops in chunks: an op starts only if it ends before the bubble's deadline, else the next bubble is waited for.

The ops stay where they are in the user's program, which stands still between two of them while the gate is shut:
nothing is computed otherwise than without a gate, which is why training comes out the same to the bit.
"""

import collections
import time

from ..gate import Stopping
from . import device as devices
from .times import Margin, OpTime, OpTimes

# Longest wait in one call: Python sees a signal only between two.
_WAIT_S = 0.25
# An op that nothing is known of is given a bubble at least so much longer than others begin with.
_UNKNOWN_SHARE = 0.6
# So many openings, and so long, before an op is said to fit into none.
_PROBES = 48
_PROBE_S = 2.0
# So many bubbles are left alone because the plan has no room for an op in them, before one is taken all the same.
_SKIPPED = 64
# Of the first bubble, what is kept free before its deadline until it is known how late chunks are.
_MARGIN_SHARE = 0.015
# A deadline that has moved by more is another bubble's.
_SAME_S = 1e-3
# So many runs, before what an op takes is sure.
_SURE = 8
# The grace of a fill job that is told to end, less what is needed to write its state (executor: two seconds).
_GRACE_S = 1.2
# Ops shorter than this are not looked at once that is known: looking takes 5 us.
SHORT_S = 40e-6
_OFTEN = 16


# What ran in a bubble: its ops, and in seconds what their medians predicted, what it took, what of that was spent
# computing (on cores with one thread: CPU time), and what was left of the bubble at its begin.
Chunk = collections.namedtuple("Chunk", "names predicted took busy left")


class DoesNotFit(RuntimeError):
    """An op takes longer than every bubble: no plan can run it here."""


class Stopped(SystemExit):
    """The job was told to end. No Exception: a program that catches those is not to go on outside its gate."""

    def __init__(self):
        # EX_TEMPFAIL, so that Slurm sees that it did not end by itself.
        super().__init__(75)


class Pace:
    """The chunks of one fill job. boundary() is called where an op begins, and may take as long as a gate is shut."""

    def __init__(self, gate, times=None, device=None, merge_short=True):
        self.gate = gate
        self.times = times or OpTimes()
        self.device = device or devices.current()
        self.margin = Margin()
        # overruns: ended past their deadline. late: their gate had shut by then, at the deadline or before.
        self.chunks = self.overruns = self.late = 0
        self.log = None  # list of Chunk for those who ask
        self.on_pause, self.on_resume = [], []  # called at the end and at the begin of a chunk, within it
        self.terminate = False  # SIGTERM came
        self.protect = False  # within a step whose half would be lost
        self.follower = None  # of the plan, if there is one
        self._merge_short = merge_short
        self._grace_until = None
        self._running = False
        self._deadline = self._begin = self._begin_left = 0.0
        self._names, self._predicted = [], 0.0
        # CPU time where ops are timed by it, so that a chunk can be held against their sum.
        self._clock, self._begin_clock = getattr(self.device, "clock", time.monotonic), 0.0
        self._swap_s = 0.0  # of on_pause and on_resume, the slowest lately
        self._longest = 0.0  # of recent bubbles, at their opening

    def boundary(self, name):
        """The op name begins. Returns in an open bubble with enough left for it; Stopped when the job is to end."""
        op = self.times[name]
        need = op.need
        if self._running:
            wanted = (self._unknown() if need is None else need) + self.margin.seconds + self._swap_s
            left = self.gate.left()
            enough = left - self.device.ahead_s >= wanted and not self._elsewhere(left)
            if enough and not self.terminate and self._planned(name):
                self._start(op, name)
                return
        self.pause()
        self._resume(name, op)
        self._start(op, name)

    def module(self, name):
        """As boundary(), for an op that does the same each time: a short one becomes part of the op before it."""
        op = self.times[name]
        if self._merge_short and op.count > _OFTEN and op.median < SHORT_S and self._running and self._planned(name):
            # The plan may have it as an op of its own: its profile's times were others.
            if self.follower is not None:
                self.follower.ran(name)
            return
        self.boundary(name)

    def _planned(self, name, begins=False):
        return self.follower is None or self.follower.may(name, begins)

    def _start(self, op, name):
        if self.log is not None:
            self._names.append(name)
        if self.follower is not None:
            self.follower.ran(name)
        self._predicted += op.median or 0.0
        self.device.start(op)

    def _unknown(self):
        return _UNKNOWN_SHARE * self._longest

    def pause(self):
        """Ends the chunk that runs: its device work is done and the gate may shut when this returns."""
        if not self._running:
            return
        self._running = False
        self.device.finish()
        took, busy = time.monotonic() - self._begin, self._clock() - self._begin_clock
        self._swap(self.on_pause + [self.device.give_back] if self._moved else self.on_pause)
        now, left = time.monotonic(), self.gate.left()
        stopped = self._elsewhere(left)
        self.late += left < 0 or stopped
        # One that was stopped at the early end of its bubble did not run past the deadline.
        over = 0.0 if stopped and busy <= self._begin_left else now - self._deadline
        self.gate.yield_()
        if self.follower is not None:
            self.gate.at(self.follower.plan.number, *self.follower.at)
        self.chunks += 1
        self.overruns += over > 0
        self.margin.add(over)
        if self.log is not None:
            self.log.append(Chunk(tuple(self._names), self._predicted, took, busy, self._begin_left))

    def _elsewhere(self, left):
        """Whether the chunk was stopped at its bubble's end and goes on in another bubble."""
        return left > 0 and time.monotonic() + left > self._deadline + _SAME_S

    def next_bubble(self):
        """Ends the chunk that runs, and goes on with the same op in the next bubble, however short."""
        self.pause()
        op = OpTime(0.0)
        self._resume("wait", op)
        self._start(op, "wait")

    def abandon(self):
        """Ends the chunk that runs as it is: an exception is on its way."""
        if self._running:
            self._running = False
            self.gate.yield_()

    @property
    def running(self):
        """True within a chunk."""
        return self._running

    def _swap(self, calls):
        if not calls:
            return
        begin = time.monotonic()
        for call in calls:
            call()
        self._swap_s = max(0.98 * self._swap_s, time.monotonic() - begin)

    def _resume(self, name, op):
        left = self._wait(name, op)
        if not self.chunks:
            self.margin.seconds = _MARGIN_SHARE * left
        self._begin = time.monotonic()
        self._begin_left = left
        self._deadline = self._begin + left
        # The longest of late; it falls slowly, for the main job may change.
        self._longest = max(0.995 * self._longest, left)
        self._names, self._predicted, self._begin_clock = [], 0.0, self._clock()
        self._running = True
        self._swap(self.on_resume)

    def _wait(self, name, op):
        """Waits for a bubble that op fits into, and returns the seconds left of it."""
        if self.stopping:
            return self._wait_in_grace(op)
        wanted = self._wanted(op)
        patience = 0.5 + 20 * wanted
        if self.chunks > _PROBES and wanted > 1.1 * self._longest:
            patience = 0.0
        begin, skipped = time.monotonic(), 0
        while time.monotonic() - begin < patience:
            try:
                left = self.gate.wait(need_s=wanted, timeout_s=_WAIT_S)
                if self._opened(name):
                    return left
                # Another bubble is meant for it: the rest of this one is left alone.
                self.gate.yield_()
                time.sleep(left)
                skipped += 1
                if skipped < _SKIPPED:
                    begin = time.monotonic()
            except TimeoutError:
                pass
            except Stopping:
                return self._wait_in_grace(op)
            if self.stopping:
                return self._wait_in_grace(op)
        return self._probe(name, op, wanted)

    def _opened(self, name):
        """A bubble is open: whether the plan lets the op run in it."""
        self.look()
        return self.follower is None or self.follower.may(name, begins=True)

    def look(self):
        """Tells the follower which bubble is open. Once a chunk, and where another plan is taken: a second look may
        find it shut."""
        if self.follower is not None:
            # What the main job is to have moved away may be there for once, as in the iteration in which it is told to.
            self.follower.opened(self.gate.bubble(), self.device.room() if self._moved else None)

    @property
    def _moved(self):
        """Whether the plan counts on state of the main job to be away."""
        return self.follower is not None and self.follower.plan.moved_bytes > 0

    def _wanted(self, op):
        """The bubble that op is to be given. One that is longer than all is asked for only if it must be."""
        if op.need is None:
            return self._unknown()
        wanted = op.need + self.margin.seconds + 2 * self._swap_s
        if op.count < _SURE or op.fast + 2 * self._swap_s < self._longest:
            return min(wanted, 0.9 * self._longest)
        return wanted

    def _probe(self, name, op, wanted):
        """None opened, or none was long enough for what op is thought to need: looks at each, and takes one that may do."""
        longest, seen, opened, begin = 0.0, 0, 0.0, time.monotonic()
        while True:
            try:
                left = self.gate.wait(timeout_s=_WAIT_S)
            except TimeoutError:
                left = None  # none opens at all: a main job that does something else
            except Stopping:
                return self._wait_in_grace(op)
            if self.stopping:
                return self._wait_in_grace(op)
            if left is None:
                continue
            opened = time.monotonic()
            planned = self._opened(name)
            if left >= wanted and planned:
                return left  # the main job's iterations are just longer than anybody's patience
            fast = op.fast if op.fast is not None else 0.0
            # The quickest of a few runs may have been a slow one: it is run a few times more, late as it is.
            if seen >= 8 and left >= 0.95 * longest and (left >= fast or op.count < _SURE):
                return left
            longest, seen = max(longest, left), seen + 1
            if seen >= _PROBES and opened - begin >= _PROBE_S and fast > longest:
                raise DoesNotFit(
                    f"op {name} takes {fast * 1e3:.2f} ms, and the longest of {seen} bubbles was open for "
                    f"{longest * 1e3:.2f} ms, {(fast - longest) * 1e3:.2f} ms too short: use a smaller batch, or smaller "
                    "ops (split=)")
            self.gate.yield_()
            # The rest of this bubble is no second one.
            time.sleep(left)

    @property
    def stopping(self):
        """True once the job is to end."""
        return self.terminate or self.gate.stopping

    def _wait_in_grace(self, op):
        """The job is to end: a step that has begun is ended in the bubbles of the grace, anything else stops here."""
        now = time.monotonic()
        if self._grace_until is None:
            self._grace_until = now + _GRACE_S
        while self.protect and now < self._grace_until:
            left = self.gate.left()
            if left > 0 and left >= min(op.need or 0.0, self._longest):
                self.look()
                return left
            time.sleep(200e-6)
            now = time.monotonic()
        raise Stopped
