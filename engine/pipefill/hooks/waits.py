# SPDX-License-Identifier: Apache-2.0
"""What every hook shares: one rank's waits, numbered within an iteration and announced; never an exception.

A hook says what happens in its engine's own words (a wait for an activation, a send, a new iteration); kinds and
indices are worked out here. Whatever goes wrong in a hook, it is switched off with one warning and the training
loop goes on as if it were not there.
"""

import functools
import warnings

from .. import bubble
from ..bubble import Kind

# What happens on a rank, in order: waits for what one of these words names, and things that are only noted.
RECV_F = "recv_f"  # an activation of the stage before
RECV_B = "recv_b"  # a gradient of the stage after
SEND = "send"  # that something sent has left
FLUSH = "flush"  # the end of the iteration on other ranks
FORWARD = "forward"  # noted: a forward was run or its result sent
BACKWARD = "backward"  # noted: likewise a gradient


def kinds(happened):
    """The kinds of one iteration's waits, in order. Pure.

    happened: (words, waited) pairs of a whole iteration: words is a tuple, of several in a fused operation; waited is
    False for what is only noted. The rules are those of schedule.py: the first activation waited for is the pipeline's
    filling, the first gradient its turn, and gradients that no forward goes before any more its draining (unless all
    backwards come after all forwards, as in GPipe). Without any backward it is no training, and all of it OTHER.
    """
    backwards = [i for i, (words, _) in enumerate(happened) if RECV_B in words or BACKWARD in words]
    if not backwards:
        return [Kind.OTHER for _, waited in happened if waited]
    last_forward = max((i for i, (words, _) in enumerate(happened) if FORWARD in words or RECV_F in words), default=-1)
    last_receive = max((i for i, (words, _) in enumerate(happened) if RECV_F in words or RECV_B in words), default=-1)
    out, first_f, first_b = [], True, True
    for i, (words, waited) in enumerate(happened):
        if not waited:
            continue
        if RECV_B in words:
            draining = backwards[0] < last_forward and any(last_forward < b < i for b in backwards)
            out.append(Kind.FWD_BWD if first_b else Kind.FILL_DRAIN if draining else Kind.STEADY)
            first_b = False
        elif RECV_F in words:
            out.append(Kind.FILL_DRAIN if first_f else Kind.STEADY)
        else:
            # Sends that are waited for at the end are the flush too; others are the transport's own.
            out.append(Kind.FILL_DRAIN if FLUSH in words or i > last_receive else Kind.COMM)
        if RECV_F in words:
            first_f = False
    return out


class _Cycle:
    """The waits of one kind of iteration: of one schedule with so many micro-batches."""

    def __init__(self, first_index):
        self.first_index = first_index
        self.happened = []  # in this iteration so far
        self.announcers = []  # of the last one's waits
        self.known = None  # what the last one's were, as announced

    def learn(self, main):
        """At the end of an iteration: works out its kinds, for the next one."""
        happened, self.happened = self.happened, []
        if not happened or happened == self.known:
            return
        self.known = happened
        self.announcers = [main.announcer(kind, self.first_index + i) for i, kind in enumerate(kinds(happened))]


class Waits:
    """Announces one rank's waits.

    main: a bubble.Main; None opens this process's own device at the first iteration, in which a data loader or a
    tool that only imports the engine never comes.
    All methods but close() do nothing once the hook is off; off is the reason, None while it works.
    """

    def __init__(self, main=None):
        self.main = main
        self.off = None
        self._cycles = {}
        self._cycle = None
        self._position = 0
        self._waiting = 0

    def iteration(self, key, training=True):
        """A new iteration of the schedule that key (hashable) tells from others, such as its identity and its number
        of micro-batches. Without training the iteration before goes on: an evaluation is no iteration."""
        self.safely(self._iteration, key, training)

    def _iteration(self, key, training):
        if self.main is None:
            self.main = bubble.Main()
        if self._cycle is not None:
            self._cycle.learn(self.main)
        if training:
            self.main.iteration()
        cycle = self._cycles.get(key)
        if cycle is None:
            # Indices rise within an iteration. A key that comes when they are used up begins again at 0: what was
            # learned there is learned anew within 16 iterations.
            first = sum(len(c.announcers) for c in self._cycles.values())
            if first >= bubble.INDICES:
                self._cycles.clear()
                first = 0
            cycle = self._cycles[key] = _Cycle(first)
        cycle.happened = []
        self._cycle, self._position = cycle, 0

    def note(self, word):
        """Something that is not waited for."""
        if self._cycle is not None and self.off is None:
            self._cycle.happened.append(((word,), False))

    def begin(self, words):
        """The wait for words (a tuple) begins. Returns whether end() is to be called."""
        if self.off is not None or self._cycle is None:
            return False
        self._waiting += 1
        if self._waiting > 1:
            return True  # within another wait
        return self.safely(self._begin, words) is not None

    def _begin(self, words):
        cycle, position = self._cycle, self._position
        self._position = position + 1
        cycle.happened.append((words, True))
        if position < len(cycle.announcers):
            cycle.announcers[position]()
        return True

    def end(self):
        """The innermost wait is over."""
        self._waiting -= 1
        if self._waiting == 0 and self.off is None:
            self.safely(self.main.end)

    def around(self, original, words):
        """Returns original as a function whose whole run is a wait. words: a tuple, or a function of the call's
        arguments that returns one, or None where it is no wait."""

        @functools.wraps(original)
        def wait(*args, **kwargs):
            what = self.safely(words, *args, **kwargs) if callable(words) else words
            if what is None or not self.begin(what):
                return original(*args, **kwargs)
            try:
                return original(*args, **kwargs)
            finally:
                self.end()

        wait.pipefill_original = original
        return wait

    def safely(self, function, *args, **kwargs):
        """Calls one of ours; what it raises switches the hook off. None then, and when it is off."""
        if self.off is not None:
            return None
        try:
            return function(*args, **kwargs)
        except Exception as err:  # pylint: disable=broad-except
            self.switch_off(f"{type(err).__name__}: {err}")
            return None

    def switch_off(self, why):
        """No more announcements in this process, with one warning; nothing of ours raises."""
        if self.off is not None:
            return
        self.off = why
        try:
            warnings.warn(f"pipefill: this rank's bubbles are no longer announced, training goes on: {why}",
                          RuntimeWarning, stacklevel=3)
            self.close()
        except Exception:  # pylint: disable=broad-except
            pass  # warnings as errors, a closed library: nothing is left to do

    def close(self):
        """Shuts this rank's gate for good."""
        if self.main is not None:
            self.main.close()


_process = None


def process():
    """The Waits of this process; a rank is one process."""
    global _process
    if _process is None:
        _process = Waits()
    return _process
