#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Recomputes the figures of a demo's report.json from its raw traces.

Shares no code with what wrote the report: the traces (docs/traces.md) are read here a second time, and bubble time is
looked up in a running sum instead of being walked interval by interval.

    audit.py DIR            DIR holds report.json and traces/

Exit status 0 if each figure agrees within 3 %, 1 if one does not, 2 if a trace cannot be read.
"""

import bisect
import glob
import itertools
import json
import math
import os
import statistics
import sys

TOLERANCE = 0.03
OVERHEAD_POINTS = 0.03  # of a percent: 3 % of a slow-down near zero would be nothing
CONTROL = 2  # PF_EVENT_CONTROL of spank/page.h
BLOCK = 10  # iterations, as docs/traces.md says
STUDENT = {2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 6: 2.4469, 7: 2.3646, 8: 2.3060, 9: 2.2622, 10: 2.2281,
           12: 2.1788, 15: 2.1314, 20: 2.0860, 30: 2.0423, 40: 2.0211, 60: 2.0003, 120: 1.9799, 100000: 1.9600}


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


class Cover:
    """How much of the time before a moment lies within given spans: a running sum over their edges."""

    def __init__(self, spans):
        edges = sorted([(b, 1) for b, e in spans if e > b] + [(e, -1) for b, e in spans if e > b])
        self._at, self._sum = [], []
        depth, total, since = 0, 0, 0
        for at, step in edges:
            if depth > 0:
                total += at - since
            self._at.append(at)
            self._sum.append(total)
            self._depth = depth = depth + step
            since = at
        self._inside = list(itertools.accumulate(step for _, step in edges))

    def before(self, at):
        """ns of the spans before at."""
        i = bisect.bisect_right(self._at, at) - 1
        if i < 0:
            return 0
        return self._sum[i] + (at - self._at[i] if self._inside[i] > 0 else 0)

    def within(self, begin, end):
        """ns of the spans between begin and end."""
        return self.before(end) - self.before(begin)

    def spans(self):
        """The union, as spans."""
        begin = None
        for at, inside in zip(self._at, self._inside):
            if inside > 0 and begin is None:
                begin = at
            elif inside == 0 and begin is not None:
                if at > begin:
                    yield begin, at
                begin = None


def paths(directory, pattern):
    found = sorted(glob.glob(os.path.join(glob.escape(directory), "**", pattern), recursive=True))
    return found


class Run:
    """All traces of a run."""

    def __init__(self, directory):
        self.ranks = {}  # rank -> device
        self.waits = {}  # device -> [(iteration, begin, end)]
        self.iterations = {}  # rank -> {number: (begin, end)}
        self.control = set()
        self.fills = []  # (device, mode, [(at, cpu)])
        self.delays = []  # us
        for path in paths(directory, "rank-*.jsonl"):
            self._rank(path)
        if not self.ranks:
            raise Unreadable(f"{directory}: no rank-*.jsonl with a run record")
        for path in paths(directory, "events-*.jsonl"):
            self.control.update(r["iteration"] for r in records(path) if r["flags"] & CONTROL)
        for path in paths(directory, "readings-*.jsonl"):
            self._fill(path)
        for path in paths(directory, "opens-*.jsonl"):
            self.delays += [(r["run_ns"] - r["open_ns"]) / 1e3 for r in records(path)]

    def _rank(self, path):
        device = None
        for r in records(path):
            if r["type"] == "run":
                device, rank = r["device"], r["rank"]
                self.ranks[rank] = device
                self.waits[device], self.iterations[rank] = [], {}
            elif r["type"] == "wait":
                self.waits[device].append((r["iteration"], r["begin_ns"], r["end_ns"]))
            elif r["type"] == "iteration":
                self.iterations[rank][r["iteration"]] = (r["begin_ns"], r["end_ns"])

    def _fill(self, path):
        device, readings = None, []
        for r in records(path):
            if "assignment" in r:
                device = r["device"]
            else:
                readings.append((r["at_ns"], r["cpu_ns"]))
        if device is None:
            raise Unreadable(f"{path}: no line says whose it is")
        self.fills.append((device, readings))

    def there(self, device=None):
        """When fill jobs were on a device, or on any."""
        return Cover([(r[0][0], r[-1][0]) for d, r in self.fills if len(r) > 1 and device in (None, d)])

    def bubbles(self):
        """(seconds, control seconds, filled seconds, outside seconds) of all devices."""
        seconds = control = filled = outside = 0
        for device, waits in self.waits.items():
            there = self.there(device)
            offered = Cover([(b, e) for i, b, e in waits if i not in self.control])
            withheld = Cover([(b, e) for i, b, e in waits if i in self.control])
            seconds += sum(there.within(b, e) for b, e in offered.spans())
            control += sum(there.within(b, e) for b, e in withheld.spans())
            for fill_device, readings in self.fills:
                if fill_device != device:
                    continue
                for (at0, cpu0), (at1, cpu1) in zip(readings, readings[1:]):
                    used = max(0, cpu1 - cpu0)
                    # When between two readings it was used is not known: as much as can be, outside.
                    beyond = min(used, (at1 - at0) - offered.within(at0, at1))
                    outside += beyond
                    filled += used - beyond
        return tuple(ns / 1e9 for ns in (seconds, control, filled, outside))

    def lengths(self):
        """The iterations of the first rank with fill jobs there throughout: [(is control, ns)], in order."""
        there = self.there()
        return [(number in self.control, end - begin) for number, (begin, end) in sorted(self.iterations[0].items())
                if there.within(begin, end) >= end - begin]


def overhead(lengths):
    """(percent, low, high) from log-ratios of blocks of neighbours, None where there are too few."""
    ratios, block = [], []
    for item in lengths:
        block.append(item)
        filled = [math.log(ns) for control, ns in block if not control and ns > 0]
        control = [math.log(ns) for control, ns in block if control and ns > 0]
        if len(block) >= BLOCK and filled and control:
            ratios.append(statistics.fmean(filled) - statistics.fmean(control))
            block = []
    n = len(ratios)
    if n < 3:
        return None
    mean, deviation = statistics.fmean(ratios), statistics.stdev(ratios)
    half = 0.0
    if deviation > 0:
        centred = [r - mean for r in ratios]
        lag = sum(a * b for a, b in zip(centred, centred[1:])) / sum(c * c for c in centred)
        lag = min(0.9, max(0.0, lag))
        half = student(n - 1) * deviation / math.sqrt(n) * math.sqrt((1 + lag) / (1 - lag))
    return tuple(100 * (math.exp(x) - 1) for x in (mean, mean - half, mean + half))


def student(freedom):
    """The two-sided 95 % quantile, interpolated in 1/freedom."""
    known = sorted(STUDENT)
    low = max(k for k in known if k <= freedom)
    high = min(k for k in known if k >= freedom)
    if low == high:
        return STUDENT[low]
    share = (1 / low - 1 / freedom) / (1 / low - 1 / high)
    return STUDENT[low] + share * (STUDENT[high] - STUDENT[low])


def percentile(values, share):
    """The value below which share of the sorted values lie, interpolated."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def useful(directory):
    """(seconds on an idle device of what completed, counts by state), from the list of jobs and the runs outside."""
    with open(os.path.join(directory, "jobs.json"), encoding="utf-8") as file:
        jobs = json.load(file)
    with open(os.path.join(directory, "outside.json"), encoding="utf-8") as file:
        outside = json.load(file)
    done = [job for job in jobs if job["state"] == "COMPLETED"]
    seconds = sum(statistics.median(outside[job["program"]]) for job in done if job["program"])
    return seconds, {"submitted": len(jobs), "completed": len(done),
                     "failed": sum(job["state"] == "FAILED" for job in jobs)}


def audit(directory):
    """Yields (name, in the report, recomputed, the difference allowed)."""
    with open(os.path.join(directory, "report.json"), encoding="utf-8") as file:
        report = json.load(file)
    traces = os.path.join(directory, "traces")
    run = Run(traces)
    idle, counts = useful(traces)
    seconds, control, filled, outside = run.bubbles()
    bubbles, main, gate = report["bubbles"], report["main"], report["gate"]
    figures = [
        ("bubbles.seconds", bubbles["seconds"], seconds),
        ("bubbles.control_seconds", bubbles["control_seconds"], control),
        ("bubbles.filled_seconds", bubbles["filled_seconds"], filled),
        ("bubbles.outside_seconds", bubbles["outside_seconds"], outside),
        ("bubbles.recovered_pct", bubbles["recovered_pct"], 100 * filled / seconds if seconds else 0),
        ("bubbles.useful_pct", bubbles["useful_pct"], 100 * idle / seconds if seconds else 0),
        ("gate.open_to_run_us_p50", gate["open_to_run_us_p50"], percentile(run.delays, 0.5)),
        ("gate.open_to_run_us_p99", gate["open_to_run_us_p99"], percentile(run.delays, 0.99)),
        ("main.iterations", main["iterations"], len(run.iterations[0])),
    ]
    figures += [(f"fill_jobs.{key}", report["fill_jobs"][key], counts[key]) for key in counts]
    lengths = run.lengths()
    for name, wanted in (("baseline_iteration_ms", True), ("filled_iteration_ms", False)):
        chosen = [ns / 1e6 for is_control, ns in lengths if is_control is wanted]
        figures.append((f"main.{name}", main[name], statistics.median(chosen) if chosen else 0))
    yield from ((name, said, found, TOLERANCE * abs(found)) for name, said, found in figures)
    measured = overhead(lengths)
    yield "main.overhead_known", main["overhead_known"], measured is not None, 0
    if measured:
        low, high = main["overhead_ci95_pct"]
        for name, said, found in zip(("pct", "ci95 low", "ci95 high"), (main["overhead_pct"], low, high), measured):
            yield f"main.overhead_{name}", said, found, max(OVERHEAD_POINTS, TOLERANCE * abs(found))


def main():
    """Prints every figure twice; returns the exit status."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    wrong = 0
    try:
        for name, said, found, allowed in audit(sys.argv[1]):
            ok = abs(said - found) <= allowed
            wrong += not ok
            print(f"{name:28} {float(said):12.4f} {float(found):12.4f}  {'ok' if ok else 'DIFFERS'}")
    except (OSError, KeyError, ValueError, Unreadable) as err:
        print(f"audit: {type(err).__name__}: {err}", file=sys.stderr)
        return 2
    if wrong:
        print(f"audit: {wrong} figures differ by more than {TOLERANCE:.0%}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
