# SPDX-License-Identifier: Apache-2.0
"""The execution plan that a fill job was handed, and where the job is in it. Pure.

controller/plan/handed.go writes it (docs/plans.md, "handed to the job"). A plan says which configuration a pass runs in,
by the bubble that it begins in, and what may run in which bubble. How far a chunk goes is decided by the time that is
left, op by op: further than the plan where there is more time than it counted on, less far where there is less.
"""

import json

from .. import profile_file as formats

VERSION = 1
# A pass in which fewer of the planned ops came than this is of another program.
_SAME = 0.5
# So many such passes in a row, and the plan is not followed any more.
_STRANGE = 3


class Config:
    """One of a plan's configurations."""

    def __init__(self, index, batch_size, technique, resident_bytes, ops):
        self.index, self.batch_size, self.technique = index, batch_size, technique
        self.resident_bytes, self.ops = resident_bytes, ops
        # Whether it matters where a chunk ends.
        self.live = any(op.live_bytes for op in ops)
        self.peak_bytes = max(op.peak_bytes for op in ops)
        self.places = {}
        for place, op in enumerate(ops):
            self.places.setdefault(op.name, []).append(place)

    def times(self):
        """name -> seconds; an op of a name that comes more than once a pass is given what the slowest takes."""
        times = {}
        for op in self.ops:
            times[op.name] = max(times.get(op.name, 0.0), op.time_ns * 1e-9)
        return times


class Plan:
    """What was handed over. number: its name; moved_bytes: of the main job's state that it counts on to be away."""

    def __init__(self, number, kind, configs, free_bytes, lead_in, chunks, moved_bytes=0):
        self.number, self.kind, self.configs, self.moved_bytes = number, kind, configs, moved_bytes
        self.free_bytes = free_bytes  # by bubble
        self.chunks = lead_in + chunks  # (cycle, bubble, config, first op, ops)
        self._ends = {}  # (bubble, config, first op) -> ops; of two the longer one
        for _, bubble, config, first, count in self.chunks:
            key = bubble, config, first
            self._ends[key] = max(count, self._ends.get(key, 0))
        # The passes in the order in which they begin, of the period: (bubble, config).
        self.begins = []
        for _, bubble, config, first, count in chunks:
            size = len(configs[config].ops)
            self.begins += [(bubble, config)] * ((first % size + count - 1) // size + (first % size == 0))

    def end(self, bubble, config, first):
        """Ops of the plan's chunk that begins with op first of config in bubble; None: there is none."""
        return self._ends.get((bubble, config, first))


def read(number, text):
    """Reads a plan's text. ValueError names place, value and rule."""
    check = formats.Reader(f"plan {number}")
    try:
        value = json.loads(text)
    except ValueError as err:
        raise ValueError(f"plan {number}: {err}: a plan is JSON") from None
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise ValueError(f"plan {number}: it is of another version, and this pipefill reads {VERSION}")
    configs = {}
    for place, part in enumerate(check.list(value.get("configs"), "configs")):
        part = dict(part) if isinstance(part, dict) else part
        index = part.pop("index", None) if isinstance(part, dict) else None
        config = check.config(part, f"configs[{place}]")
        check.whole(index, f"configs[{place}].index")
        configs[index] = Config(index, config.batch_size, config.technique, config.resident_bytes, config.ops)
    cycle = value.get("cycle")
    bubbles = check.list(cycle.get("bubbles") if isinstance(cycle, dict) else None, "cycle.bubbles")
    free = {}
    for place, bubble in enumerate(bubbles):
        if not isinstance(bubble, dict):
            raise ValueError(f"plan {number}: cycle.bubbles[{place}] is {bubble!r}: it must be an object")
        free[check.whole(bubble.get("index"), f"cycle.bubbles[{place}].index")] = check.whole(
            bubble.get("free_bytes"), f"cycle.bubbles[{place}].free_bytes")
    kind = check.word(value.get("kind"), "kind", formats.KINDS)
    moved = 0
    for place, away in enumerate(check.list(value["main_offload"], "main_offload") if "main_offload" in value else ()):
        moved += check.whole(away.get("bytes") if isinstance(away, dict) else None, f"main_offload[{place}].bytes")
    return Plan(number, kind, configs, free, _chunks(value, "lead_in", configs), _chunks(value, "chunks", configs), moved)


def _chunks(value, key, configs):
    rows = value.get(key)
    if not isinstance(rows, list):
        raise ValueError(f"{key} is {type(rows).__name__}: it must be a list")
    found = []
    for place, row in enumerate(rows):
        whole = isinstance(row, list) and len(row) == 5 and all(type(part) is int and part >= 0 for part in row)
        if not whole or row[2] not in configs or row[4] < 1 or row[3] >= len(configs[row[2]].ops):
            raise ValueError(f"{key}[{place}] is {row!r}: it must be cycle, bubble, config, first op and ops, of a configuration "
                             "that is there")
        found.append(tuple(row))
    return found


class Follower:
    """Where a job is in a plan. begin_pass() where a pass begins, opened() at each chunk's, may() before and ran() after
    an op is begun."""

    def __init__(self, plan, usable=None):
        """usable: whether the job can run in a configuration; None: in each."""
        self.plan = plan
        self.usable = [c for i, c in sorted(plan.configs.items()) if usable is None or usable(c)]
        self.config = None
        self.next = 0  # op of the pass
        self.strange = 0  # passes in a row that had few of its ops
        self._seen = 0
        self._bubble = None
        self._room = None
        self._left = None  # planned ops of the chunk, where it matters where it ends
        self._turn = 0  # of plan.begins

    @property
    def strayed(self):
        """True once what runs is not what was planned."""
        return self.strange >= _STRANGE

    def opened(self, bubble, room=None):
        """A chunk begins in the bubble with that index; None: it is not known which. room: the bytes that the job can have
        in it; None: those that were planned."""
        self._bubble, self._room = bubble, room
        self._cut()

    def _cut(self):
        self._left = None
        if self.config is not None and self.config.live:
            self._left = self.plan.end(self._bubble, self.config.index, self.next)

    def begin_pass(self):
        """A pass begins in the open bubble; returns its configuration, None where the plan has none that the job can use."""
        if self.config is not None:
            few = self._seen < _SAME * len(self.config.ops)
            self.strange = self.strange + 1 if few else 0
        self.next = self._seen = 0
        self.config = self._choose()
        self._cut()
        return self.config

    def _choose(self):
        if len(self.usable) < 2:
            return self.usable[0] if self.usable else None
        # The next pass of the period that begins in this bubble; where none does, the next one of all.
        begins = self.plan.begins
        order = [(self._turn + i) % len(begins) for i in range(len(begins))] if begins else []
        allowed = [turn for turn in order if self.plan.configs[begins[turn][1]] in self.usable]
        if not allowed:
            return self.usable[0]
        turn = next((turn for turn in allowed if begins[turn][0] == self._bubble), allowed[0])
        self._turn = (turn + 1) % len(begins)
        return self.plan.configs[begins[turn][1]]

    def _place(self, name):
        places = self.config.places.get(name)
        if places is None:
            return None  # a short op, which is part of the one before
        return next((place for place in places if place >= self.next), None)

    def may(self, name, begins=False):
        """Whether the op name may run in the bubble that is open. begins: as the first one of a chunk."""
        if self.config is None:
            return True
        free = self.plan.free_bytes.get(self._bubble)
        place = self._place(name)
        known = [bound for bound in (free, self._room) if bound is not None]
        if known and place is not None and self.config.resident_bytes + self.config.ops[place].peak_bytes > min(known):
            return False
        return begins or self._left is None or self._left > 0 or place is None

    def ran(self, name):
        """The op name begins."""
        if self.config is None:
            return
        place = self._place(name)
        if place is None:
            return
        self.next = place + 1
        self._seen += 1
        if self._left is not None:
            self._left -= 1

    @property
    def at(self):
        """(config, op) of where it is, op 0 between two passes."""
        if self.config is None:
            return 0, 0
        return self.config.index, self.next % len(self.config.ops)
