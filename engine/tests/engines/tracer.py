# SPDX-License-Identifier: Apache-2.0
"""An independent trace of one rank: when each half of a transfer was posted and how long it was waited for.

Shares no code with the hooks: it stands below them, in torch.distributed itself. Times are ns of CLOCK_MONOTONIC.
"""

import json
import time

now_ns = time.monotonic_ns


class Tracer:
    """Replaces torch.distributed's point-to-point functions; save() writes what it saw."""

    def __init__(self, dist):
        self._dist = dist
        self.transfers = []  # in order of posting, per rank
        self.steps = []  # [begin, end]

    def watch_batches(self, together):
        """Traces batch_isend_irecv. together: it returns one work that stands for all, which is what keeps PyTorch up
        to 2.7 from dead-locking on gloo (pytorch#132644) where no hook does."""
        post = self._dist.batch_isend_irecv

        def batch_isend_irecv(operations):
            begin_ns = now_ns()
            works = post(operations)
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

    def _call(self, original, receives, blocks):
        def call(tensor, peer=None, *args, **kwargs):
            other = peer if peer is not None else kwargs.get("src", kwargs.get("dst"))
            record = self._posted(receives, other, now_ns())
            result = original(tensor, peer, *args, **kwargs) if peer is not None else original(tensor, *args, **kwargs)
            if blocks:
                record["wait"] = [record["post"], now_ns()]
                return result
            return _Work(record, result)

        return call

    def _posted(self, receives, peer, at_ns):
        record = {"receives": receives, "peer": peer, "post": at_ns, "wait": None}
        self.transfers.append(record)
        return record

    def save(self, path, **more):
        """Writes a JSON object: transfers, steps and what else is given."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"transfers": self.transfers, "steps": self.steps, **more}, file)


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
    """The true idle time of each rank: lists of (begin, end), in order.

    ranks: what save() wrote, in rank order. A rank is idle while it waits to receive what its peer has not begun to
    send; from then on it is communication. So it is, at the end of a step, while it waits to be rid of what its peer
    has not begun to receive: the flush.
    """
    halves = {}  # (from, to, receives) -> post times in order
    for number, rank in enumerate(ranks):
        for t in rank["transfers"]:
            pair = (t["peer"], number) if t["receives"] else (number, t["peer"])
            halves.setdefault((*pair, t["receives"]), []).append(t["post"])
    out = []
    for number, rank in enumerate(ranks):
        seen, spans = {}, []
        for begin, end in rank["steps"]:
            inside = [t for t in rank["transfers"] if begin <= t["post"] < end]
            last_receive = max((t["wait"][0] for t in inside if t["receives"] and t["wait"]), default=end)
            for t in inside:
                pair = (t["peer"], number) if t["receives"] else (number, t["peer"])
                n = seen[pair, t["receives"]] = seen.get((pair, t["receives"]), -1) + 1
                if not t["wait"] or not t["receives"] and t["wait"][0] <= last_receive:
                    continue
                begun = halves[(*pair, not t["receives"])][n]
                spans.append((t["wait"][0], min(t["wait"][1], begun)))
        out.append(union(spans))
    return out


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
