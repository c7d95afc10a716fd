# SPDX-License-Identifier: Apache-2.0
"""What the harness does with its figures, and how it starts programs. Pure but for run() and below."""

import dataclasses
import json
import math
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

import peers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ENGINE = os.path.join(ROOT, "engine")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of running the stage: how is none, hook, chunked, launch, timeslice, sigstop, poll or mps."""

    name: str
    how: str
    model: str = ""
    receive: str = "idle"


def variants(models, cuda):
    """All that are compared, none first."""
    out = [Variant("no fill", "none"), Variant("hook only", "hook")]
    for model in models:
        out.append(Variant(f"chunked {model}", "chunked", model))
        if cuda:
            out.append(Variant(f"launch {model}", "launch", model))
    first = models[0]
    if cuda:
        out += [Variant("no fill, spinning receive", "none", receive="spin"),
                Variant(f"chunked {first}, spinning receive", "chunked", first, "spin")]
    out += [Variant(f"time-slicing {first}", "timeslice", first), Variant(f"SIGSTOP {first}", "sigstop", first),
            Variant(f"10 ms polling {first}", "poll", first)]
    if cuda:
        out.append(Variant(f"MPS {first}", "mps", first))
    return out


def percentile(values, part):
    """The value below which a part (0..1) of values lies; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def row(name, runs, baselines, exclusive_s, setting):
    """A line of the table, from the rounds' runs of a variant and of no fill.

    exclusive_s: seconds a sample of its fill job takes at best on the whole device; setting: schedule, stages,
    micro_batches, tensor_parallel.
    """
    ratios = [math.log(statistics.median(run["iterations_ms"]) / statistics.median(base["iterations_ms"]))
              for run, base in zip(runs, baselines)]
    late = [value / 1e6 for run in runs for value in run["late_us"]]
    quiet = [value / 1e6 for run in baselines for value in run["late_us"]]
    # What no fill is late by is the copy and the clock: it is the stage's, and no slow-down.
    usual = statistics.median(quiet) if quiet else 0.0
    forward, backward, step = (value / 1e3 for value in baselines[0]["times_ms"])
    bubbles = sum(run["bubble_s"] for run in runs)
    samples = sum(run["samples"] for run in runs)
    fills = [run["fill"] for run in runs if run.get("fill")]
    return {
        "variant": name,
        "iteration_ms": statistics.median([value for run in runs for value in run["iterations_ms"]]),
        "slowdown_pct": 100 * (math.exp(statistics.mean(ratios)) - 1),
        "slowdown_range_pct": [100 * (math.exp(min(ratios)) - 1), 100 * (math.exp(max(ratios)) - 1)],
        "late_us_p50": percentile([value * 1e6 for value in late], 0.5),
        "late_us_p99": percentile([value * 1e6 for value in late], 0.99),
        "projected_pct": 100 * peers.project(
            setting["schedule"], setting["stages"], setting["micro_batches"], peers.Durations(forward, backward, step, 20e-6),
            [value - usual for value in late], setting["tensor_parallel"]) if late else None,
        "useful_pct": 100 * samples * exclusive_s / bubbles if exclusive_s and bubbles else None,
        "samples": samples,
        "chunks": sum(fill["chunks"] for fill in fills), "overruns": sum(fill["overruns"] for fill in fills),
        "main_digest": _same(run["digest"] for run in runs),
        "fill_digest": _same(fill["digest"] for fill in fills if fill["digest"]),
        "clock_mhz": _mean(run.get("clock_mhz") for run in runs), "power_w": _mean(run.get("power_w") for run in runs),
    }


def _same(digests):
    """The one digest of all, "" of none, "differs" of several."""
    found = set(digests)
    return "" if not found else found.pop() if len(found) == 1 else "differs"


def _mean(values):
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def check(rows, exclusive):
    """Marks in each row whether the outputs are those of the run without fill jobs, and of the fill job alone."""
    for line in rows:
        line["main_ok"] = line["main_digest"] == rows[0]["main_digest"]
        want = exclusive.get(line["model"], {}).get("digest", "")
        line["fill_ok"] = None if not line["fill_digest"] or not want else line["fill_digest"] == want
    return rows


_COLUMNS = (("VARIANT", "variant", "{}"), ("ITER_MS", "iteration_ms", "{:.2f}"), ("SLOWER_%", "slowdown_pct", "{:+.2f}"),
            ("LATE_US", "late_us_p50", "{:.0f}"), ("P99", "late_us_p99", "{:.0f}"), ("PROJECTED_%", "projected_pct", "{:+.2f}"),
            ("USEFUL_%", "useful_pct", "{:.1f}"), ("CHUNKS", "chunks", "{}"), ("LATE", "overruns", "{}"),
            ("MAIN_OK", "main_ok", "{}"),
            ("FILL_OK", "fill_ok", "{}"), ("MHZ", "clock_mhz", "{:.0f}"), ("WATT", "power_w", "{:.0f}"))


def table(rows):
    """The report as text."""
    def cell(line, key, form):
        value = line.get(key)
        if isinstance(value, bool):
            return "yes" if value else "NO"
        return "-" if value is None else form.format(value)

    lines = [[title for title, _, _ in _COLUMNS]] + [[cell(line, key, form) for _, key, form in _COLUMNS] for line in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return "\n".join(" ".join(value.ljust(width) if i == 0 else value.rjust(width)
                              for i, (value, width) in enumerate(zip(line, widths))).rstrip() for line in lines)


class Skipped(Exception):
    """A variant cannot be run here, and why."""


class Sampler:
    """Clock and power of the GPU while something runs, by nvidia-smi; nothing without one."""

    def __init__(self, cuda):
        self._lines = []
        self._process = None
        if cuda and shutil.which("nvidia-smi"):
            self._process = subprocess.Popen(
                ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "-lms", "200"],
                stdout=subprocess.PIPE, text=True)
            threading.Thread(target=lambda: self._lines.extend(self._process.stdout), daemon=True).start()

    def close(self):
        """Returns {"clock_mhz", "power_w"}, their means."""
        if self._process is None:
            return {}
        self._process.terminate()
        self._process.wait()
        readings = []
        for line in self._lines:
            try:
                readings.append([float(part) for part in line.split(",")])
            except ValueError:
                pass  # "[N/A]" of a GPU that does not tell
        if not readings:
            return {}
        return {"clock_mhz": statistics.mean(r[0] for r in readings), "power_w": statistics.mean(r[1] for r in readings)}


class Runner:
    """Starts stages and fill jobs on one device. args: the harness's command line; folder: for what they write."""

    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.cuda = args.device == "cuda"
        self.core = max(os.sched_getaffinity(0))
        self.times = None
        self.number = 0

    def stage_command(self, variant, out, progress=None, extra=()):
        """The main job's command line."""
        a = self.args
        command = [sys.executable, os.path.join(HERE, "stage.py"), "--device", a.device, "--stages", str(a.stages),
                   "--micro-batches", str(a.micro_batches), "--schedule", a.schedule, "--layers", str(a.layers),
                   "--width", str(a.width), "--sequence", str(a.sequence), "--iterations", str(a.iterations),
                   "--warm-up", str(a.warm_up), "--receive", variant.receive, "--out", out]
        if self.times is not None:
            command += ["--times", ",".join(f"{value:.6f}" for value in self.times)]
        if progress:
            command += ["--progress", progress]
        return command + list(extra)

    def fill_command(self, model, batch, out, extra=()):
        """A fill job's command line."""
        return [sys.executable, os.path.join(HERE, "fill.py"), "--device", self.args.device, "--model", model,
                "--batch", str(batch), "--out", out, *extra]

    def path(self, name):
        """A new file of a run."""
        return os.path.join(self.folder, f"{self.number}-{name}")

    def _pin(self):
        if not self.cuda:
            os.sched_setaffinity(0, {self.core})

    def start(self, command, **environment):
        """Starts a program on the device; its output goes to the run's log."""
        env = {**os.environ, "PYTHONPATH": ENGINE, "OMP_NUM_THREADS": "1", **environment}
        with open(self.path("log"), "a", encoding="utf-8") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=env, preexec_fn=self._pin)

    def finish(self, process, seconds=900):
        """Waits for a program; RuntimeError with its last words if it fails."""
        status = process.wait(timeout=seconds)
        if status:
            with open(self.path("log"), encoding="utf-8") as log:
                raise RuntimeError(f"exit status {status}: {' '.join(process.args[:4])}...: {log.read()[-800:]}")

    def exclusive(self, model):
        """The best batch of a model with the device for itself: {"batch", "seconds_per_sample", "digest" of the batch used}."""
        best = None
        for batch in self.args.batches:
            self.number += 1
            out = self.path("exclusive.json")
            process = self.start(self.fill_command(model, batch, out, ["--seconds", str(self.args.exclusive_s)]))
            if process.wait(timeout=900) == 3:
                break  # the memory is too small
            self.finish(process)
            done = _read(out)
            each = done["seconds"] / done["samples"]
            digest = done["digest"] if batch == self.args.fill_batch else (best or {}).get("digest", "")
            if best is None or each < best["seconds_per_sample"]:
                best = {"batch": batch, "seconds_per_sample": each}
            best["digest"] = digest
        if best is None:
            raise RuntimeError(f"{model}: not even a batch of {self.args.batches[0]} fits into the device's memory")
        return best

    def run(self, variant):
        """One run of the stage: what it wrote, with "fill" of its fill job, if it had one."""
        self.number += 1
        sampler = Sampler(self.cuda)
        try:
            result = getattr(self, "_" + variant.how)(variant)
        finally:
            readings = sampler.close()
        return {**result, **readings}

    def _none(self, variant):
        out = self.path("stage.json")
        self.finish(self.start(self.stage_command(variant, out)))
        return _read(out)

    def _beside(self, variant, extra=lambda pid: (), **environment):
        """The stage beside a fill job that nobody gates."""
        out, progress = self.path("stage.json"), self.path("fill.json")
        fill = self.start(self.fill_command(variant.model, self.args.fill_batch, progress), **environment)
        try:
            until = time.monotonic() + 120
            while not os.path.exists(progress):
                if fill.poll() is not None or time.monotonic() > until:
                    self.finish(fill, 1)
                time.sleep(0.02)
            self.finish(self.start(self.stage_command(variant, out, progress, extra(fill.pid)), **environment))
        finally:
            fill.send_signal(signal.SIGKILL)
            fill.wait()
        return {**_read(out), "fill": _read(progress)}

    _timeslice = _beside

    def _sigstop(self, variant):
        return self._beside(variant, lambda pid: ["--signal", str(pid)])

    def _poll(self, variant):
        return self._beside(variant, lambda pid: ["--signal", str(pid), "--poll-ms", "10"])

    def _mps(self, variant):
        if not shutil.which("nvidia-cuda-mps-control"):
            raise Skipped("nvidia-cuda-mps-control is not installed")
        pipes = {"CUDA_MPS_PIPE_DIRECTORY": os.path.join(self.folder, "mps"),
                 "CUDA_MPS_LOG_DIRECTORY": os.path.join(self.folder, "mps-log")}
        for path in pipes.values():
            os.makedirs(path, exist_ok=True)
        started = subprocess.run(["nvidia-cuda-mps-control", "-d"], env={**os.environ, **pipes}, capture_output=True,
                                 text=True, check=False)
        if started.returncode:
            raise Skipped(f"MPS does not start: {started.stderr.strip() or started.stdout.strip()}")
        try:
            return self._beside(variant, **pipes)
        finally:
            subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, env={**os.environ, **pipes}, check=False)

    def _hook(self, variant):
        return self._try(variant, "chunked", None)

    def _chunked(self, variant):
        return self._try(variant, "chunked", ["--sdk"])

    def _launch(self, variant):
        return self._try(variant, "launch", [])

    def _try(self, variant, mode, fill_extra):
        """Under the real node daemon, by pipefill-cli try."""
        cli = os.path.join(self.args.build, "pipefill-cli")
        if os.geteuid():
            raise Skipped("pipefill-cli try needs root")
        if not os.path.exists(cli):
            raise Skipped(f"{cli} is not built: run make")
        out, progress = self.path("stage.json"), None
        fill = ["true"]
        if fill_extra is not None:
            progress = self.path("fill.json")
            fill = self.fill_command(variant.model, self.args.fill_batch, progress, fill_extra)
        command = [cli, "try", "--json", "--no-hooks", "--user", "root", "--dir", self.path("try"), "--mode", mode,
                   "--options", "budget=20%", "--set", "control=0%",
                   "--set", f"min_ms={self.args.min_ms}", "--set", f"guard_ms={self.args.guard_ms}",
                   "--main", _shell(self.stage_command(variant, out, progress, ["--announce"])), "--fill", _shell(fill)]
        if not self.cuda:
            command += ["--device", f"cpu:{self.core}"]
        log = self.path("log")
        with open(log, "a", encoding="utf-8") as file:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, text=True, check=False, timeout=900,
                                  env={**os.environ, "PYTHONPATH": ENGINE, "OMP_NUM_THREADS": "1"})
        if not os.path.exists(out):
            with open(log, encoding="utf-8") as file:
                raise RuntimeError(f"exit status {done.returncode}: pipefill-cli try: {file.read()[-800:]}")
        result = _read(out)
        if not result["attached"]:
            raise RuntimeError(f"the stage announced nothing: {result['why']}")
        if progress:
            if not os.path.exists(progress):
                raise RuntimeError(f"the fill job did nothing: {done.stdout[-800:]}")
            result["fill"] = _read(progress)
        return result


def _read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _shell(command):
    return " ".join(shlex.quote(part) for part in command)
