#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Prints the tables of docs/engines.md, from runs of its own, and draws its plot.

    report.py [--only PART] [--steps N] [--plot FILE.svg] [--json]

--json: rows as build/bench.json has them, a line each, and the tables on stderr.

Needs build/engines (packaging/engines) and a quiet machine.
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
import time

import pipeline

sys.path.insert(0, os.path.join(pipeline.ROOT, "engine"))
from pipefill import bubble
from pipefill.hooks import waits

ONE_STAGE = ("ScheduleGPipe", "Schedule1F1B")
SEVERAL_STAGES = ("ScheduleInterleaved1F1B", "ScheduleLoopedBFS", "ScheduleInterleavedZeroBubble", "ScheduleZBVZeroBubble")
MIN_NS = 4_000_000  # pipefilld's min_ms, as it comes: shorter bubbles are not offered
SCHEDULES = ONE_STAGE + SEVERAL_STAGES
NEWER = ("ScheduleDualPipeV",)


def theory(schedule, ranks, micro_batches, stages=2):
    """The share of an iteration in which each rank idles, if a backward takes twice as long as a forward and its two
    halves as long each; stages a rank where a schedule has several.

    (p-1)/(m+p-1), with v stages a rank (p-1)/(vm+p-1): Megatron-LM (arXiv 2104.04473), section 2.2. Zero bubble: p-1
    forwards (F+B-W) of one stage, beside m times F+B+W of each of v (arXiv 2401.10241, section 2.3); ZBV has none (section
    6). DualPipeV: (p-1)(FB+B-3W), FB = F+B+W the overlapped pair, B the whole backward (DualPipe's README).
    """
    p, m, v = ranks, micro_batches, stages
    if schedule in ONE_STAGE:
        return (p - 1) / (m + p - 1)
    if schedule in ("ScheduleInterleaved1F1B", "ScheduleLoopedBFS"):
        return (p - 1) / (v * m + p - 1)
    if schedule == "ScheduleInterleavedZeroBubble":
        return (p - 1) / (3 * v * m + p - 1)
    if schedule == "ScheduleZBVZeroBubble":
        return 0.0
    return 2 * (p - 1) / (3 * v * m + 2 * (p - 1))


def short(schedule):
    """A schedule's name without what all of them begin with."""
    return schedule.removeprefix("Schedule")


def row(rows, name, value, unit, n, target, met):
    """One row of build/bench.json."""
    rows.append({"name": name, "value": value, "unit": unit, "n": n, "target": target, "met": met})


def judge(rows, name, figures):
    """The rows of a run: the worst rank against each target."""
    n = min(len(f.late_ns) for f in figures)
    covered = 100 * min(f.covered for f in figures)
    beyond, late_us = 100 * max(f.beyond for f in figures), max(f.late_us for f in figures)
    row(rows, f"{name}: idle time announced, worst rank", covered, "%", n, 95, covered >= 95)
    row(rows, f"{name}: offered and not idle, worst rank", beyond, "%", n, 2, beyond <= 2)
    row(rows, f"{name}: a bubble's start announced late, p99, worst rank", late_us, "us", n, 100, late_us <= 100)


def percent(value):
    return f"{100 * value:.1f}"


def runs(ranks, steps):
    """(schedule, micro-batches, its Run) of sleeping stages on so many ranks."""
    for micro_batches in (4, 8):
        if micro_batches < 2 * ranks:
            continue
        for schedules, more in ((SCHEDULES, ()), (NEWER, ("--newer", pipeline.NEWER_INSIDE))):
            names = [f"{name}:{micro_batches}" for name in schedules]
            found = pipeline.run("torch_rank.py", "OUT", steps, *names, "--sleep", 32 // ranks, *more, world=ranks, timeout=900,
                                 min_ns=MIN_NS)
            for name, run in found.items():
                yield name.partition(":")[0], micro_batches, run


def fractions(steps, out, rows):
    """Prints idle fractions beside theory; returns the plot's points: (label, theory, the ranks' fractions)."""
    out("| schedule | stages | micro-batches | theory, % | idle by the trace, % a rank | announced of it, % | "
          "not idle of what is offered, % | late, p99 |")
    out("|---|---|---|---|---|---|---|---|")
    points = []
    for ranks in (2, 4):
        for schedule, micro_batches, run in runs(ranks, steps):
            figures = run.figures()
            expected = theory(schedule, ranks, micro_batches)
            out(f"| {short(schedule)} | {ranks if schedule in ONE_STAGE else 2 * ranks} on {ranks} | {micro_batches} | "
                  f"{percent(expected)} | {', '.join(percent(f.idle) for f in figures)} | "
                  f"{percent(min(f.covered for f in figures))} | {percent(max(f.beyond for f in figures))} | "
                  f"{max(f.late_us for f in figures):.0f} us |")
            judge(rows, f"engines: {schedule}, {ranks} ranks that sleep, {micro_batches} micro-batches", figures)
            points.append((f"{short(schedule)}, p={ranks}, m={micro_batches}", expected, [f.idle for f in figures]))
    return points


def engines(steps, out, rows):
    """Prints what is announced where two ranks really compute."""
    out("| engine | idle, % a rank | announced of it, % | offered of it, % | not idle of what is offered, % | late, p99 |")
    out("|---|---|---|---|---|---|")
    for program, arguments in (
            ("torch_rank.py", ["OUT", steps, *(f"{name}:4" for name in SCHEDULES)]),
            ("torch_rank.py", ["OUT", steps, "Schedule1F1B:4", "ScheduleDualPipeV:4", "--newer", pipeline.NEWER_INSIDE]),
            ("deepspeed_rank.py", [4, steps, "OUT"]), ("megatron_rank.py", [4, steps, "OUT"])):
        for name, run in pipeline.run(program, *arguments).items():
            figures = run.figures()
            judge(rows, f"engines: {program.partition('_')[0]}, {name}, two ranks that compute", figures)
            engine = f"{program.partition('_')[0]} {run.version}" + (" with 2.9.1's" if "--newer" in arguments else "")
            out(f"| {engine}, {short(name)} | {', '.join(percent(f.idle) for f in figures)} | "
                  f"{', '.join(percent(f.covered) for f in figures)} | {', '.join(percent(f.offered) for f in figures)} | "
                  f"{', '.join(percent(f.beyond) for f in figures)} | {max(f.late_us for f in figures):.0f} us |")


def cost(steps, out, rows):
    """Prints what the hook costs: calls times the cost of one, and beside it each second step without the hook, in one run."""
    out("| schedule | waits an iteration | cost of one, us | of the iteration, % | iteration with / without the hook |")
    out("|---|---|---|---|---|")
    each_us = hook_cost_us()
    for name, run in pipeline.run("torch_rank.py", "OUT", 2 * steps, *(f"{name}:4" for name in ONE_STAGE), "--cure",
                                  "--toggle").items():
        if not run.ranks[0]["toggled"]:
            raise SystemExit(f"report: {name} ran without the hook")
        lengths = [end - begin for begin, end in run.ranks[0]["steps"][2 * pipeline.LEARN:]]
        pairs = [math.log(a / b) for a, b in zip(lengths[::2], lengths[1::2])]
        waits, with_ns = len(run.bubbles(0, 2 * pipeline.LEARN)) / len(pairs), statistics.median(lengths[::2])
        low, high = interval(pairs)
        share = waits * each_us * 1e5 / with_ns
        row(rows, f"engines: cost of the hook, {name}", share, "%", len(pairs), 0.2, share <= 0.2)
        out(f"| {short(name)} | {waits:.1f} | {each_us:.2f} | {share:.4f} | "
              f"{math.exp(statistics.median(pairs)):.4f} [{low:.4f}, {high:.4f}] |")


def hook_cost_us():
    """What one wait costs with the hook and nobody waiting for it, beyond the wait itself: the median of many."""
    daemon = pipeline.fake_daemon.FakeDaemon()
    os.environ.update(daemon.environment("main"), PIPEFILL_LIBRARY=os.path.join(pipeline.BUILD, "libpipefill.so"))
    hook = waits.Waits(bubble.Main())
    if not hook.main.attached:
        raise SystemExit(f"report: {hook.main.why}")
    times = []
    for _ in range(1000):
        begin = time.perf_counter_ns()
        hook.iteration("a")
        for _ in range(8):
            if hook.begin((waits.RECV_F,)):
                hook.end()
            hook.note(waits.FORWARD)
        times.append((time.perf_counter_ns() - begin) / 8)
    hook.close()
    daemon.close()
    return statistics.median(times) / 1e3


def interval(logs, rounds=2000):
    """The 95 % interval of the ratio whose logarithms' median is taken, by bootstrap."""
    draw = random.Random(1)
    ratios = sorted(math.exp(statistics.median(draw.choices(logs, k=len(logs)))) for _ in range(rounds))
    return ratios[rounds // 40], ratios[-rounds // 40]


def plot(points):
    """The points as an SVG drawing: a bar from the least to the most idle rank, a line where theory is."""
    row, left, width = 22, 250, 520
    scale = width / (1.1 * max(max([expected, *idle]) for _, expected, idle in points))
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{row * (len(points) + 3)}" '
           'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="{left}" y="16">idle fraction: ranks (bars, dots) and theory (line)</text>']
    for tenth in range(0, 10):
        x = left + tenth / 10 * scale
        if x > left + width:
            break
        out.append(f'<line x1="{x:.1f}" y1="24" x2="{x:.1f}" y2="{row * (len(points) + 1.5):.0f}" stroke="#ddd"/>'
                   f'<text x="{x:.1f}" y="{row * (len(points) + 2.3):.0f}" text-anchor="middle">{10 * tenth} %</text>')
    for i, (label, expected, idle) in enumerate(points):
        y = row * (i + 1) + 12
        out.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
        low, high = left + min(idle) * scale, left + max(idle) * scale
        out.append(f'<rect x="{low:.1f}" y="{y - 5}" width="{max(1, high - low):.1f}" height="10" fill="#9bc"/>')
        out += [f'<circle cx="{left + one * scale:.1f}" cy="{y}" r="3" fill="#246"/>' for one in idle]
        x = left + expected * scale
        out.append(f'<line x1="{x:.1f}" y1="{y - 8}" x2="{x:.1f}" y2="{y + 8}" stroke="#c22" stroke-width="2"/>')
    return "\n".join([*out, "</svg>", ""])


def main():
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("fractions", "engines", "cost"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--plot")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []

    def out(line=""):
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

    if args.only in (None, "fractions"):
        points = fractions(args.steps, out, rows)
        if args.plot:
            with open(args.plot, "w", encoding="utf-8") as file:
                file.write(plot(points))
        out()
    if args.only in (None, "engines"):
        engines(args.steps, out, rows)
        out()
    if args.only in (None, "cost"):
        cost(args.steps, out, rows)
    if args.json:
        for one in rows:
            print(json.dumps(one))


if __name__ == "__main__":
    sys.exit(main())
