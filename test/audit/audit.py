#!/usr/bin/python3
"""Recomputes the figures of a demo's report.json from its raw traces.

Shares no code with what wrote the report: the traces (docs/traces.md) are read
here a second time, and each figure is computed in another way than in
test/measure (sampling bubble time on a fixed grid against walking intervals).

    audit.py DIR            DIR holds report.json and traces/

Exit status 0 if each figure agrees within 3 %, 1 if one does not, 2 if a trace
cannot be read.
"""

import glob
import json
import math
import os
import sys

TOLERANCE = 0.03
CONTROL = 2  # PF_EVENT_CONTROL of spank/page.h
ITERATION = 8  # PF_EVENT_ITERATION


class Unreadable(Exception):
    """A trace that is not what docs/traces.md says."""


def records(path):
    """Yields the records of a JSON-lines file."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as err:
                raise Unreadable(f"{path}:{number}: {err}") from err


def device_of(path, prefix):
    name = os.path.basename(path)
    return name[len(prefix):-len(".jsonl")]


class Device:
    """One device of the main job: its waits, its iterations, what filled it."""

    def __init__(self, name):
        self.name = name
        self.waits = []  # (begin, end, iteration)
        self.iterations = {}  # number -> (begin, end)
        self.control = set()
        self.readings = []  # one list per fill job: (at, cpu)

    def overlap(self, begin, end, spans):
        """ns that begin..end shares with spans (begin, end), which are disjoint."""
        return sum(max(0, min(end, e) - max(begin, b)) for b, e in spans
                   if b < end and e > begin)


def load(directory):
    devices = {}
    rank_device = {}
    for path in sorted(glob.glob(os.path.join(directory, "**", "rank-*.jsonl"), recursive=True)):
        device = None
        for record in records(path):
            kind = record["type"]
            if kind == "run":
                device = devices.setdefault(record["device"], Device(record["device"]))
                rank_device[record["rank"]] = device
            elif kind == "wait":
                device.waits.append((record["begin_ns"], record["end_ns"], record["iteration"]))
            elif kind == "iteration":
                device.iterations[record["iteration"]] = (record["begin_ns"], record["end_ns"])
    if not devices:
        raise Unreadable(f"{directory}: no rank-*.jsonl with a run record")
    for path in glob.glob(os.path.join(directory, "**", "events-*.jsonl"), recursive=True):
        device = devices.get(device_of(path, "events-"))
        if device is None:
            continue
        for record in records(path):
            if record["flags"] & CONTROL:
                device.control.add(record["iteration"])
    owners = {}
    with open(os.path.join(directory, "assignments.json"), encoding="utf-8") as file:
        owners = {str(a["id"]): a["device"] for a in json.load(file)}
    for path in glob.glob(os.path.join(directory, "**", "readings-*.jsonl"), recursive=True):
        device = devices[owners[device_of(path, "readings-")]]
        device.readings.append([(r["at_ns"], r["cpu_ns"]) for r in records(path)])
    return devices, rank_device
