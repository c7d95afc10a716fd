# SPDX-License-Identifier: Apache-2.0
"""What a rank computes, for timelines (pipefill-cli trace): noted while its node records, and at no other time."""

import contextlib
import functools
import importlib
import sys
import time

from ..bubble import NO_MICRO_BATCH, Work


class Notes:
    """One rank's notes. recording: whether its node records a timeline, asked for once an iteration.

    guard: Waits.safely, so that what fails here reaches nobody.
    """

    def __init__(self, guard):
        self.recording = False
        self._guard = guard
        self._main = None
        self._counts = {}
        self._handles = []  # of torch's hooks around optimizer steps, once something is recorded
        self._steps = 0  # that have begun, one within the other
        self._step_ns = 0

    def iteration(self, main):
        """A new iteration of main's."""
        self._main, self.recording = main, bool(main.recording())
        self._counts.clear()
        self._steps = 0
        if self.recording and not self._handles:
            self._watch_steps()

    def worked(self, work, begin_ns, micro_batch=None):
        """Something was computed from begin_ns (time.monotonic_ns) until now. Without a micro-batch it is counted: the
        first of its kind in the iteration is number 0."""
        count = self._counts.get(work, 0)
        self._counts[work] = count + 1
        self._main.work(work, count if micro_batch is None else micro_batch, begin_ns)

    def around(self, original, work, which=None):
        """Returns original as a function whose run is noted. which: a function of the call's arguments that returns the
        micro-batch; None, or that returns it: counted."""

        @functools.wraps(original)
        def run(*args, **kwargs):
            if not self.recording:
                return original(*args, **kwargs)
            begin_ns = time.monotonic_ns()
            result = original(*args, **kwargs)
            self._guard(self._ran, work, begin_ns, which, args, kwargs)
            return result

        return run

    def _ran(self, work, begin_ns, which, args, kwargs):
        self.worked(work, begin_ns, which(*args, **kwargs) if which is not None else None)

    def _watch_steps(self):
        """Every engine's optimizer steps are torch's."""
        if "torch" not in sys.modules:
            return
        with contextlib.suppress(ImportError, AttributeError):  # before 2.0
            hooks = importlib.import_module("torch.optim.optimizer")  # torch.optim hides it
            before, after = hooks.register_optimizer_step_pre_hook, hooks.register_optimizer_step_post_hook
            self._handles = [before(lambda *_: self._step_begins()), after(lambda *_: self._guard(self._step_is_over))]

    def _step_begins(self):
        if self._steps == 0:
            self._step_ns = time.monotonic_ns()
        self._steps += 1

    def _step_is_over(self):
        if self._steps == 0:
            return  # it began before the last iteration did
        self._steps -= 1
        if self._steps == 0 and self.recording:
            self._main.work(Work.STEP, NO_MICRO_BATCH, self._step_ns)

    def close(self):
        """Notes no more."""
        self.recording = False
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
