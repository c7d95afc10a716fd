# SPDX-License-Identifier: Apache-2.0
"""An independent trace of one rank: when each half of a transfer was posted and how long it was waited for.

Shares no code with the hooks: it stands below them, in torch.distributed itself. Times are ns of CLOCK_MONOTONIC.
"""

import bisect
import json
import time

now_ns = time.monotonic_ns

# Waits that follow each other closer than this have nothing computed between them.
_TOGETHER_NS = 300_000


class Tracer:
    """Replaces torch.distributed's point-to-point functions; begin() starts a part, save() writes what it saw."""

    def __init__(self, dist):
        self._dist = dist
        self._batches = 0
        self._part = None
        self.parts = []
        self.begin("")

    def begin(self, name):
        """A new part of the run. Parts meet at a barrier, so that no transfer crosses from one into another."""
        self._part = {"name": name, "transfers": [], "flushes": [], "steps": [], "phases": []}
        self.parts.append(self._part)

    def step(self, begin_ns):
        """A step that began then is over."""
        self._part["steps"].append([begin_ns, now_ns()])

    def phase(self, name, run):
        """Runs an evaluation or a checkpoint, which is no step."""
        begin_ns = now_ns()
        run()
        self._part["phases"].append([name, begin_ns, now_ns()])

    def result(self, **more):
        """What came of the part, as JSON takes it."""
        self._part.update(more)

    def watch_batches(self, together):
        """Traces batch_isend_irecv. together: it returns one work that stands for all, which is what keeps PyTorch up
        to 2.7 from dead-locking on gloo (pytorch#132644) where no hook does."""
        post = self._dist.batch_isend_irecv

        def batch_isend_irecv(operations):
            begin_ns = now_ns()
            works = post(operations)
            self._batches += 1
            traced = [_Work(self._posted(op.op is self._dist.irecv, op.peer, begin_ns), work)
                      for op, work in zip(operations, works)]
            return [_All(traced)] if together else traced

        self._dist.batch_isend_irecv = batch_isend_irecv

    def watch_calls(self, *modules):
        """Traces isend, irecv, send and recv, of torch.distributed and of modules that have taken them over."""
        for module in (self._dist, *modules):
            for name, receives, blocks in (("isend", False, False), ("irecv", True, False), ("send", False, True),
                                           ("recv", True, True)):
                if hasattr(module, name):
                    setattr(module, name, self._call(getattr(module, name), receives, blocks))

    def watch_flush(self, module, name):
        """Traces a collective in which the stages wait for each other at the end of a step."""
        original = getattr(module, name)

        def flush(*args, **kwargs):
            begin_ns = now_ns()
            result = original(*args, **kwargs)
            self._part["flushes"].append([begin_ns, now_ns()])
            return result

        setattr(module, name, flush)

    def _call(self, original, receives, blocks):
        def call(tensor, peer=None, *args, **kwargs):
            other = next((p for p in (peer, kwargs.get("src"), kwargs.get("dst")) if p is not None), None)
            self._batches += 1
            record = self._posted(receives, other, now_ns())
            result = original(tensor, peer, *args, **kwargs) if peer is not None else original(tensor, *args, **kwargs)
            if blocks:
                record["wait"] = [record["post"], now_ns()]
                return result
            return _Work(record, result)

        return call

    def _posted(self, receives, peer, at_ns):
        record = {"receives": receives, "peer": peer, "post": at_ns, "wait": None}
        self._part["transfers"].append(record)
        return record

    def save(self, path, **more):
        """Writes a JSON object: the parts that have steps, and what else is given."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"parts": [part for part in self.parts if part["steps"]], **more}, file)


class _Work:
    """A work whose wait is timed."""

    def __init__(self, record, work):
        self._record, self._work = record, work

    def wait(self, *args):
        begin_ns = now_ns()
        result = self._work.wait(*args)
        self._record["wait"] = [begin_ns, now_ns()]
        return result

    def __getattr__(self, name):
        return getattr(self._work, name)


class _All:
    def __init__(self, works):
        self._works = works

    def wait(self, *args):
        for work in self._works:
            work.wait(*args)


def idle(ranks):
    """The true idle time of each rank: lists of [begin, end], in order.

    ranks: one part of what save() wrote, in rank order. A rank stands still while it waits for one transfer or for
    several at once. A stop with a receive in it, or at the end of a step, is idle until the last of the other sides
    has begun its half; from then on it is communication. A stop for sends alone is none: the transport is slow.
    """
    halves = {}  # (from, to, receives) -> post times in order
    for number, rank in enumerate(ranks):
        for transfer in rank["transfers"]:
            halves.setdefault((*_pair(number, transfer), transfer["receives"]), []).append(transfer["post"])
    return [union(_stops(rank, number, halves, ranks)) for number, rank in enumerate(ranks)]


def _pair(number, transfer):
    return (transfer["peer"], number) if transfer["receives"] else (number, transfer["peer"])


def _stops(rank, number, halves, ranks):
    """The idle spans of one rank, one for each of its stops."""
    waits, seen = [], {}  # (begin, end, receives, when the other side began)
    for transfer in rank["transfers"]:
        key = (*_pair(number, transfer), not transfer["receives"])
        place = seen[key] = seen.get(key, -1) + 1
        if transfer["wait"]:
            waits.append((*transfer["wait"], transfer["receives"], halves[key][place]))
    for place, (begin, end) in enumerate(rank["flushes"]):
        waits.append((begin, end, True, max(other["flushes"][place][0] for other in ranks)))
    waits.sort()
    ends = [end for _, end in rank["steps"]]
    while waits:
        stop = [waits.pop(0)]
        while waits and waits[0][0] - max(wait[1] for wait in stop) < _TOGETHER_NS:
            stop.append(waits.pop(0))
        step = bisect.bisect_left(ends, stop[-1][1])
        last = step < len(ends) and (not waits or waits[0][0] > ends[step])
        if last or any(receives for _, _, receives, _ in stop):
            yield stop[0][0], max(min(end, other) for _, end, _, other in stop)


def union(spans):
    """Spans as ones that do not overlap, in order; empty ones left out."""
    out = []
    for begin, end in sorted(s for s in spans if s[1] > s[0]):
        if out and begin <= out[-1][1]:
            out[-1][1] = max(out[-1][1], end)
        else:
            out.append([begin, end])
    return out


def total(spans):
    """The length of spans that do not overlap."""
    return sum(end - begin for begin, end in spans)


def common(a, b):
    """How long both of two lists of spans that do not overlap last."""
    out, i, j = 0, 0, 0
    while i < len(a) and j < len(b):
        out += max(0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return out
