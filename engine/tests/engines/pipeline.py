# SPDX-License-Identifier: Apache-2.0
"""Runs the ranks of a pipeline in build/engines (packaging/engines), each with a fake daemon of its own."""

import json
import os
import socket
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import fake_daemon  # noqa: E402
import tracer  # noqa: E402

BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
MADE = os.path.join(ROOT, "build", "engines", ".made")
SITE = os.path.join(ROOT, "engine", "pipefill", "site")
LEARN = 16  # steps after which every bubble is predicted
OFFERED_KINDS = (0, 1, 2)
STOPPED = 75  # how examples/fill_chunked.py ends when it is told to


class Run:
    """What came of it: ranks (what each wrote), events (what each announced, [] without a hook), output (stderr), and
    filled_ns, for how long fill work ran beside each."""

    def __init__(self, ranks, events, output, filled_ns):
        self.ranks, self.events, self.output, self.filled_ns = ranks, events, output, filled_ns

    def after(self, step):
        """From when on it is measured: the beginning of a step on each rank."""
        return [rank["steps"][step][0] for rank in self.ranks]

    def idle(self, step=LEARN):
        """The true idle spans of each rank from a step on."""
        return [[s for s in spans if s[0] >= begin] for spans, begin in zip(tracer.idle(self.ranks), self.after(step))]

    def announced(self, step=LEARN):
        """The announced spans of each rank from a step on, of the kinds that are offered."""
        return [tracer.union([(e["begin_ns"], e["end_ns"]) for e in events if e["begin_ns"] >= begin
                              and not e["flags"] & fake_daemon.ITERATION and e["kind"] in OFFERED_KINDS])
                for events, begin in zip(self.events, self.after(step))]

    def bubbles(self, rank, step=LEARN):
        """The events of one rank from a step on, marks left out."""
        begin = self.after(step)[rank]
        return [e for e in self.events[rank] if e["begin_ns"] >= begin and not e["flags"] & fake_daemon.ITERATION]


def run(program, *arguments, world=2, hooked=True, fill=False, environment=None, timeout=300):
    """Runs program (of this folder) as world ranks; its argument OUT is put in for the path of what it writes.

    hooked: with the environment that the SPANK plugin gives a main job. fill: beside each rank a fill job runs in its
    bubbles, on its core. RuntimeError with the output if a rank fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        daemons = [fake_daemon.FakeDaemon(device=f"cpu:{n}") for n in range(world)] if hooked else []
        fills = []
        try:
            fills = [_start_fill(daemon, n) for n, daemon in enumerate(daemons) if fill]
            output = _start(program, arguments, world, daemons, environment or {}, timeout, folder)
            events = [daemon.events() for daemon in daemons] or [[] for _ in range(world)]
            ranks = []
            for n in range(world):
                with open(os.path.join(folder, f"{n}.json"), encoding="utf-8") as file:
                    ranks.append(json.load(file))
            return Run(ranks, events, output, [daemon.filled_ns() for daemon in daemons])
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
        status = [process.wait(timeout=timeout) for process in processes]
        output = []
        for file in files:
            file.seek(0)
            output.append(file.read())
        if any(status):
            raise RuntimeError(f"{program} ended with {status}:\n" + "\n".join(output))
        return output
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
        for file in files:
            file.close()
