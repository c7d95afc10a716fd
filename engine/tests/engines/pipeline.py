# SPDX-License-Identifier: Apache-2.0
"""Runs the ranks of a pipeline in build/engines (packaging/engines), each with a fake daemon of its own."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import fake_daemon  # noqa: E402
import tracer  # noqa: E402

BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
MADE = os.path.join(ROOT, "build", "engines", ".made")
NEWER_INSIDE = "/opt/torch-2.9.1/torch/distributed"  # PyTorch 2.9's pipelining, as build/engines sees it
NEWER = os.path.join(ROOT, "build", "engines") + NEWER_INSIDE
SITE = os.path.join(ROOT, "engine", "pipefill", "site")
LEARN = 16  # steps after which every bubble is predicted
OFFERED_KINDS = (0, 1, 2)
MIN_NS = 1_000_000  # shorter bubbles are not offered
STOPPED = 75  # how examples/fill_chunked.py ends when it is told to


class Run:
    """One part of what came of it.

    ranks: what each wrote of it; version: the engine's; told: what else the last rank wrote; events: what each announced
    in its steps, [] without a hook; phases: what each announced in its phases after them, phase by phase; stages: which
    each said that it is; output: stdout and stderr; filled_ns: for how long fill work ran beside each, in all parts.
    """

    def __init__(self, ranks, told, events, stages, output, filled_ns):
        self.version, self.told, self.stages = told["version"], told, stages
        self.ranks, self.output, self.filled_ns = ranks, output, filled_ns
        self.events = [[e for e in one if rank["steps"][0][0] <= e["begin_ns"] <= rank["steps"][-1][1]]
                       for one, rank in zip(events, ranks)]
        self.phases = [[[e for e in one if begin <= e["begin_ns"] <= end] for _, begin, end in rank["phases"]]
                       for one, rank in zip(events, ranks)]

    def after(self, step):
        """From when on it is measured: the beginning of a step on each rank."""
        return [rank["steps"][step][0] for rank in self.ranks]

    def bubbles(self, rank, step=LEARN):
        """The events of one rank from a step on, marks and work left out."""
        begin, others = self.after(step)[rank], fake_daemon.ITERATION | fake_daemon.WORK
        return [e for e in self.events[rank] if e["begin_ns"] >= begin and not e["flags"] & others]

    def work(self, rank, step=LEARN):
        """What one rank noted that it computed, from a step on."""
        begin = self.after(step)[rank]
        return [e for e in self.events[rank] if e["begin_ns"] >= begin and e["flags"] & fake_daemon.WORK]

    def figures(self, step=LEARN):
        """What is announced against what is true, one Figures a rank, from a step on."""
        out = []
        for rank, idle in enumerate(tracer.idle(self.ranks)):
            begin, end = self.after(step)[rank], self.ranks[rank]["steps"][-1][1]
            bubbles = [e for e in self.bubbles(rank, step) if e["kind"] in OFFERED_KINDS]
            out.append(Figures([s for s in idle if begin <= s[0] < end],
                               tracer.union([(e["begin_ns"], e["end_ns"]) for e in bubbles]),
                               tracer.union([(e["begin_ns"], min(e["end_ns"], e["deadline_ns"])) for e in bubbles]),
                               end - begin))
        return out


class Figures:
    """idle, announced and offered: spans that do not overlap, within span_ns. What is offered is what fill work may
    use of what is announced: from its begin to its deadline, if it is long enough, or to its end if that is earlier."""

    def __init__(self, idle, announced, offered, span_ns):
        self.span_ns, self.idle_ns = span_ns, tracer.total(idle)
        self.announced_ns, self.both_ns = tracer.total(announced), tracer.common(idle, announced)
        self.offered_ns, self.offered_idle_ns = tracer.total(offered), tracer.common(idle, offered)
        self.late_ns = sorted(self._late(span, announced) for span in idle if span[1] - span[0] >= MIN_NS)

    @staticmethod
    def _late(span, announced):
        """How much later than it began a stop was announced; its length if it was not."""
        first = next((a for a in announced if a[1] > span[0]), None)
        return min(max(0, first[0] - span[0]), span[1] - span[0]) if first else span[1] - span[0]

    @property
    def idle(self):
        """The fraction of the time in which the rank is idle."""
        return self.idle_ns / self.span_ns

    @property
    def covered(self):
        """The part of the idle time that is announced; 1 where there is next to none."""
        return self.both_ns / self.idle_ns if self.idle_ns > 0.002 * self.span_ns else 1.0

    @property
    def beyond(self):
        """The part of the offered time that is not idle."""
        return 1 - self.offered_idle_ns / self.offered_ns if self.offered_ns else 0.0

    @property
    def offered(self):
        """The part of the idle time that is offered."""
        return self.offered_idle_ns / self.idle_ns if self.idle_ns else 0.0

    @property
    def late_us(self):
        """The 99th percentile of how late stops are announced."""
        return self.late_ns[len(self.late_ns) * 99 // 100] / 1e3 if self.late_ns else 0.0

    def __str__(self):
        return (f"idle {100 * self.idle:.1f} %, announced of it {100 * self.covered:.1f} %, offered "
                f"{100 * self.offered:.1f} %, not idle of what is offered {100 * self.beyond:.1f} %, late "
                f"{self.late_us:.0f} us (p99)")


def run(program, *arguments, world=2, hooked=True, fill=False, records=False, environment=None, timeout=300, min_ns=MIN_NS):
    """Runs program (of this folder) as world ranks; its argument OUT is put in for the path of what it writes.

    hooked: with the environment that the SPANK plugin gives a main job. fill: beside each rank a fill job runs in its
    bubbles, on its core, 5 ms of each at least, however busy the machine is. records: the nodes record a timeline. Returns
    a Run for each part of it by name. RuntimeError with the output if a rank fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        daemons = [fake_daemon.FakeDaemon(device=f"cpu:{n}", min_ns=min_ns, records=records, floor_ns=5_000_000 * fill)
                   for n in range(world if hooked else 0)]
        fills = []
        try:
            fills = [_start_fill(daemon, n) for n, daemon in enumerate(daemons) if fill]
            output = _start(program, arguments, world, daemons, environment or {}, timeout, folder)
            events = [daemon.events() for daemon in daemons] or [[] for _ in range(world)]
            ranks = []
            for n in range(world):
                with open(os.path.join(folder, f"{n}.json"), encoding="utf-8") as file:
                    told = json.load(file)
                ranks.append(told["parts"])
            filled_ns = [daemon.filled_ns() for daemon in daemons]
            stages = [daemon.stage() for daemon in daemons]
            return {parts[0]["name"]: Run(parts, told, events, stages, output, filled_ns) for parts in zip(*ranks)}
        finally:
            for daemon, process in zip(daemons, fills):
                daemon.stop_fill()
                if process.wait(timeout=30) != STOPPED:
                    raise RuntimeError(f"the fill job ended with {process.returncode}")
            for daemon in daemons:
                daemon.close()


def _start_fill(daemon, number):
    cores = sorted(os.sched_getaffinity(0))
    return subprocess.Popen(
        [sys.executable, os.path.join(ROOT, "engine", "examples", "fill_chunked.py"), str(2**31), os.devnull],
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PIPEFILL_LIBRARY": os.path.join(BUILD, "libpipefill.so"),
             **daemon.environment("fill")},
        preexec_fn=lambda: os.sched_setaffinity(0, {cores[number % len(cores)]}), stderr=subprocess.DEVNULL)


def _wait(processes, daemons, timeout):
    """Their exit statuses. All are ended when one fails, since the others wait for it."""
    late = time.monotonic() + timeout
    while True:
        status = [process.poll() for process in processes]
        for daemon in daemons:
            daemon.events()  # before the page is full
        if None not in status or any(status) or time.monotonic() > late:
            return status
        time.sleep(0.05)


def _start(program, arguments, world, daemons, environment, timeout, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, files = [], []
    try:
        for n in range(world):
            mine = {
                "PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "RANK": str(n), "LOCAL_RANK": str(n),
                "WORLD_SIZE": str(world), "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1", **environment,
            }
            if daemons:
                mine |= daemons[n].environment("main")
                mine |= {"PYTHONPATH": SITE, "PIPEFILL_LIBRARY": os.path.join(BUILD, "libpipefill.so")}
            out = os.path.join(folder, f"{n}.json")
            words = [out if word == "OUT" else str(word) for word in arguments]
            files.append(open(os.path.join(folder, f"{n}.log"), "w+", encoding="utf-8"))
            processes.append(subprocess.Popen(
                [os.path.join(ROOT, "packaging", "engines"), "run", "python3", program, *words],
                cwd=HERE, env=mine, stdout=files[n], stderr=subprocess.STDOUT, start_new_session=True))
        status = _wait(processes, daemons, timeout)
        output = []
        for file in files:
            file.seek(0)
            output.append(file.read())
        if any(code != 0 for code in status):
            raise RuntimeError(f"{program} ended with {status}:\n" + "\n".join(output))
        return output
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
        for file in files:
            file.close()
