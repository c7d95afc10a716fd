# SPDX-License-Identifier: Apache-2.0
"""What every hook shares: one rank's waits, numbered within an iteration and announced; never an exception.

A hook says what happens in its engine's own words (a wait for an activation, a send, a new iteration); kinds and
indices are worked out here. Whatever goes wrong in a hook, it is switched off with one warning and the training
loop goes on as if it were not there.
"""

import contextlib
import functools
import os
import sys
import threading
import time
import warnings

from .. import bubble, stream
from ..bubble import PHASE, Kind
from . import away, cache, memory, notes

# What happens on a rank, in order: waits for what one of these words names, and things that are only noted.
RECV_F = "recv_f"  # an activation of the stage before
RECV_B = "recv_b"  # a gradient of the stage after
SEND = "send"  # that something sent has left
FLUSH = "flush"  # the end of the iteration on other ranks
RECEIVES = (RECV_F, RECV_B)
FORWARD = "forward"  # noted: a forward was run or its result sent
BACKWARD = "backward"  # noted: likewise a gradient

# Waits that follow each other closer than this have nothing computed between them: an engine's own steps between two
# operations took 20 to 150 us on the machine this was tried on, a stage's forward several ms.
_CLOSE_NS = 500_000


def kinds(happened):
    """The kinds of one iteration's waits, in order. Pure.

    happened: (words, waited) pairs of a whole iteration: words is a tuple, of several in a fused operation; waited is
    False for what is only noted. The rules are those of schedule.py: the first activation waited for is the pipeline's
    filling, the first gradient its turn, and gradients that no forward goes before any more its draining (unless all
    backwards come after all forwards, as in GPipe). Waits for sends that nothing is received or computed after are the
    flush; others are the transport's own. Without any backward it is no training, and all of it OTHER.
    """
    backwards = [i for i, (words, _) in enumerate(happened) if RECV_B in words or BACKWARD in words]
    if not backwards:
        return [Kind.OTHER for _, waited in happened if waited]
    last_forward = max((i for i, (words, _) in enumerate(happened) if FORWARD in words or RECV_F in words), default=-1)
    flush = max((i for i, (words, _) in enumerate(happened) if words not in ((SEND,), (FLUSH,))), default=-1)
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
            out.append(Kind.FILL_DRAIN if FLUSH in words or i > flush else Kind.COMM)
        if RECV_F in words:
            first_f = False
    return out


def groups(happened, close):
    """For each wait, whether the next one belongs to the same bubble. Pure.

    Sends that are waited for next to a receive, or to each other, are one bubble with it, if they are so close that
    nothing is computed in between: happened as for kinds(), close a truth value for each wait but the first. What is
    noted in between was computed before.
    """
    waited_for = [words for words, waited in happened if waited]
    return [bool(close[i]) and (SEND,) in waited_for[i:i + 2] for i in range(len(waited_for) - 1)] + \
        [False] * bool(waited_for)


def numbers(found, goes_on):
    """Each bubble's index within the iteration, None for what is not announced. Pure.

    found: the kinds of an iteration's waits; goes_on as groups() says. A wait's number, where there are enough of
    them; else those of the transport's own are left out, and if that does not do, neighbours of the steady ones share.
    """
    starts = [i == 0 or not goes_on[i - 1] for i in range(len(found))]
    if len(found) <= PHASE:
        return [i if start else None for i, start in enumerate(starts)]
    steady = sum(start and kind is Kind.STEADY for start, kind in zip(starts, found))
    others = sum(start and kind not in (Kind.STEADY, Kind.COMM) for start, kind in zip(starts, found))
    # What others there are may part the steady ones into one group more each.
    share = -(-steady // max(1, PHASE - 2 * others - 1))
    out, index, sharing = [], -1, 0
    for start, kind in zip(starts, found):
        if not start or kind is Kind.COMM:
            out.append(None)
            continue
        if kind is not Kind.STEADY or sharing == 0 or sharing == share:
            index, sharing = index + 1, 0
        sharing = sharing + 1 if kind is Kind.STEADY else 0
        out.append(index)
    return out


class _Cycle:
    """The waits of one kind of iteration: of one schedule with so many micro-batches."""

    def __init__(self, first_index):
        self.first_index = first_index
        self.happened = []  # in this iteration so far
        self.known = None  # what happened in the last one
        self.close = []  # for each wait, how surely it follows the one before without anything computed, -8..8
        self.waits = []  # the words of each wait of the last iteration
        self.announcers = []  # what announces each; None within a bubble
        self.open_after = []  # whether the bubble goes on
        self.indices = 0  # how many it takes
        self.numbers = []  # the index of each wait's bubble, None within one
        self.holdable = set()  # the waits for a receive alone, which nothing is posted behind
        self.never_held = set()  # the waits that something is sent right after
        self.held = set()

    def follow(self, position, gap_ns):
        """Wait position began so long after the one before it ended."""
        if position < len(self.close):
            score = self.close[position] + (1 if gap_ns < _CLOSE_NS else -2)
            self.close[position] = max(-8, min(8, score))

    def learn(self, main):
        """At the end of an iteration: works out its bubbles, for the next one."""
        happened, self.happened = self.happened, []
        if not happened:
            return
        if happened != self.known:
            self.known = happened
            self.waits = [words for words, waited in happened if waited]
            self.close = [0] * len(self.waits)
        elif self._groups(main) == self.open_after and self.held == self._to_hold():
            return
        self.held = self._to_hold()
        self.open_after = self._groups(main)
        found = kinds(happened)
        for i in range(len(found) - 2, -1, -1):
            if self.open_after[i] and found[i + 1] is not Kind.COMM:
                found[i] = found[i + 1]  # a bubble has the kind of its first receive
        for i, goes_on in enumerate(self.open_after[:-1]):
            if goes_on:
                found[i + 1] = found[i]
        given = numbers(found, self.open_after)
        self.numbers = [None if index is None else self.first_index + index for index in given]
        self.indices = 1 + max((index for index in given if index is not None), default=-1)
        self.announcers = [self._announcer(main, kind, index, position)
                           for position, (kind, index) in enumerate(zip(found, given))]

    def _groups(self, main):
        # In a stream a wait for sends takes no time of the program's, and what comes next may be held.
        return groups(self.known, [not main.holds and score > 0 for score in self.close[1:]])

    def _to_hold(self):
        return self.holdable - self.never_held

    def _announcer(self, main, kind, index, position):
        if index is None or self.first_index + index >= PHASE:
            return None
        if main.holds and position in self.held and not self.open_after[position]:
            return main.announcer(kind, self.first_index + index, True)
        return main.announcer(kind, self.first_index + index)


class Waits:
    """Announces one rank's waits.

    main: a bubble.Main; None opens this process's own device at the first iteration, in which a data loader or a
    tool that only imports the engine never comes. notes: what is computed, for timelines.
    All methods but close() do nothing once the hook is off; off is the reason, None while it works.
    """

    def __init__(self, main=None):
        self.main = main
        self.off = None
        self._cycles = {}
        self._cycle = None
        self._position = 0
        self._waiting = 0
        self._open = False  # a bubble goes on after its wait
        self._astray = False  # this iteration is not as the last one was
        self._ended_ns = 0
        self.memory = None  # what learns a device's free memory
        self.movers = []  # what moves memory out of a GPU, where that is asked for (away.Away, cache.Cache)
        self._index = None  # of the bubble that is announced, where something is moved
        self._posted = None  # what was posted last, with nothing since
        self._early = False  # the next wait's bubble has begun already
        self.notes = notes.Notes(self.safely)
        self._thread = None  # the one that trains
        self._phase = None  # the evaluation or checkpoint that is on
        self._placed = False  # the pipeline's stage was told

    def iteration(self, key, training=True, stage=None):
        """A new iteration of the schedule that key (hashable) tells from others, such as its identity and its number
        of micro-batches. Without training the iteration before goes on: an evaluation is no iteration, and a phase
        (during) in which no wait is announced by itself. stage: a function that returns this rank's place in the
        pipeline."""
        self.safely(self._iteration, key, training, stage)

    def _iteration(self, key, training, stage):
        if self.main is None:
            self.main, self.memory, self.movers = place()
        self._thread = threading.get_ident()
        if not self._placed:
            self._placed = True
            if stage is not None:
                with contextlib.suppress(Exception):  # a timeline without it has the device's name alone
                    self.main.stage(int(stage()))
        self.notes.iteration(self.main)
        self._shut()
        if self._cycle is not None:
            self._cycle.learn(self.main)
        for mover in self.movers:
            mover.iteration()  # had its bubble not come
        self._cycle = None
        if not training:
            return
        self.main.iteration()
        if self.memory is not None:
            self.memory.iteration()
        for mover in self.movers:
            mover.ask(self.main)
        cycle = self._cycles.get(key)
        if cycle is None:
            # Indices rise within an iteration. A key that comes when they are used up begins again at 0: what was
            # learned there is learned anew within 16 iterations.
            first = sum(c.indices for c in self._cycles.values())
            if first >= PHASE:
                self._cycles.clear()
                first = 0
            cycle = self._cycles[key] = _Cycle(first)
        cycle.happened = []
        self._cycle, self._position, self._astray = cycle, 0, False

    def note(self, word):
        """Something that is not waited for."""
        if self._cycle is not None and self.off is None:
            self._posted = None
            happened, known = self._cycle.happened, self._cycle.known
            happened.append(((word,), False))
            if self._open and (known is None or len(happened) > len(known) or known[len(happened) - 1] != happened[-1]):
                self.safely(self._shut)  # a bubble goes on over what was there the last time, and over nothing else

    def sending(self):
        """Something is sent that others wait for: if nothing was noted since the last wait, that one is never held."""
        if self._cycle is not None and self.off is None and self._cycle.happened and self._cycle.happened[-1][1]:
            self._cycle.never_held.add(self._position - 1)

    def posting(self, words, alone):
        """The operations that words name are about to be posted. If they are receives alone, which were waited for at
        once the last time, their bubble begins here: on a device the receive behind it can be held."""
        self._posted = None
        if self.off is None and self._cycle is not None and self._waiting == 0 and alone and self._phase is None:
            self.safely(self._posting, words)

    def _posting(self, words):
        if self.main.holds and not self._early and self._position in self._cycle.held:
            self._early = self._begin(words)

    def posted(self, operations):
        """Receives alone were posted, as an object that begin() gets; None: something else was."""
        self._posted = operations

    def begin(self, words, operations=None, alone=False):
        """The wait for words (a tuple) begins. Returns whether end() is to be called.

        operations: what posted() was told. alone: what is waited for is a receive alone, and posted from here on.
        """
        if self.off is not None or self._cycle is None or self._phase is not None:
            return False
        self._waiting += 1
        if self._waiting > 1:
            return True  # within another wait
        if alone or operations is not None and operations is self._posted:
            self._cycle.holdable.add(self._position - self._early)
        else:
            self._cycle.holdable.discard(self._position - self._early)
        self._posted = None
        if self._early:
            self._early = False
            return True
        return self.safely(self._begin, words) is not None

    def _begin(self, words):
        cycle, position = self._cycle, self._position
        self._position = position + 1
        cycle.happened.append((words, True))
        cycle.follow(position, time.monotonic_ns() - self._ended_ns)
        if self._astray or position >= len(cycle.waits):
            return True
        if cycle.waits[position] != words:
            # Another order than the last time: what would be announced is another wait's.
            self._astray = True
            self._shut()
            return True
        announce = cycle.announcers[position]
        if announce is not None:
            if self.movers:
                self._index = cycle.numbers[position]
                for mover in self.movers:
                    mover.begin(self._index)
            if self.memory is not None:
                self.memory.at(cycle.numbers[position], self.main, sum(mover.unsaid for mover in self.movers))
            announce()
        self._open = cycle.open_after[position]
        return True

    def end(self):
        """The innermost wait is over."""
        self._waiting -= 1
        if self._waiting or self.off is not None:
            return
        self._ended_ns = time.monotonic_ns()
        if not self._open:
            self.safely(self._over)

    def _over(self):
        self.main.end()
        if self._index is not None:
            index, self._index = self._index, None
            for mover in self.movers:
                mover.end(index)

    def _shut(self):
        if self._open:
            self._open = False
            self._over()

    def around(self, original, words, alone=False):
        """Returns original as a function whose whole run is a wait. words: a tuple, or a function of the call's
        arguments that returns one, or None where it is no wait. alone: as for begin()."""

        @functools.wraps(original)
        def wait(*args, **kwargs):
            what = self.safely(words, *args, **kwargs) if callable(words) else words
            if what is None or not self.begin(what, alone=alone):
                return original(*args, **kwargs)
            try:
                return original(*args, **kwargs)
            finally:
                self.end()

        wait.pipefill_original = original
        return wait

    def during(self, original, work):
        """Returns original as a function whose run is a phase (Work.EVALUATION, CHECKPOINT): announced as OTHER, never
        offered. It is none before the first iteration, in another thread than the one that trains, in the middle of a
        wait and within another phase."""

        @functools.wraps(original)
        def phase(*args, **kwargs):
            if self.safely(self._enter, work) is None:
                return original(*args, **kwargs)
            try:
                return original(*args, **kwargs)
            finally:
                self.safely(self._leave)

        phase.pipefill_original = original
        return phase

    def _enter(self, work):
        if self.main is None or self._thread != threading.get_ident() or self._waiting or self._early or self._phase is not None:
            return None
        self._shut()
        phase = self.main.phase(work)
        phase.__enter__()
        self._phase = phase
        return True

    def _leave(self):
        phase, self._phase = self._phase, None
        phase.__exit__(None, None, None)

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
            self.notes.close()
            warnings.warn(f"pipefill: this rank's bubbles are no longer announced, training goes on: {why}",
                          RuntimeWarning, stacklevel=3)
            self.close()
        except Exception:  # pylint: disable=broad-except
            pass  # warnings as errors, a closed library: nothing is left to do

    def close(self):
        """Shuts this rank's gate for good, and has back what was moved."""
        self.notes.close()
        if self.main is not None:
            self.main.close()
        for mover in self.movers:
            mover.close()


def place():
    """What this process's bubbles are announced to, what learns its device's free memory, and what moves memory out of it:
    (Main, Free, [Away, Cache]).

    A process that has opened a GPU by its first iteration computes there; else there is no device memory.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return bubble.Main(), None, []
    main = stream.Main(lambda: torch.cuda.current_stream().cuda_stream)
    if not main.attached and os.environ.get("PIPEFILL_DIR"):
        raise OSError(main.why)
    movers = [away.wanted(torch), cache.Cache(torch)]
    return main, memory.Free(torch.cuda), [mover for mover in movers if mover is not None]


_process = None


def process():
    """The Waits of this process; a rank is one process."""
    global _process
    if _process is None:
        _process = Waits()
    return _process
