#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""How near a fill profile is to what chunks take in bubbles later.

    measure_profile.py profile FILE      measures a transformer's inference, and writes its fill profile
    measure_profile.py run FILE LOG      runs it as a fill job until it is told to end, and appends a line for each chunk to LOG:
                                         {"took", "busy", "high", "middle", "learned"}, seconds: by the clock, of the core, and
                                         as predicted in three ways
    measure_profile.py report LOG MS     prints rows of build/bench.json, of bubbles of so many ms

"high" sums the ops' time_ns, their 99th percentiles, which plans count on; "middle" their medians, from FILE.medians;
"learned" what the job has learned of its ops by then (the median of an op's last 128 runs).
"""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import pipefill
import torch

BATCH, LENGTH, WIDTH, LAYERS = 4, 64, 256, 6
# Chunks at the begin of a run, while its caches are cold, and ones with ops that the profile has not: the loop's own.
SKIPPED = 100


def model():
    """Layers whose parts are ops of their own, of 0.1 to 2 ms."""
    torch.manual_seed(1)
    layers = [torch.nn.Sequential(torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.GELU(),
                                  torch.nn.Linear(4 * WIDTH, WIDTH)) for _ in range(LAYERS)]
    return torch.nn.Sequential(*layers).eval()


def batches():
    """The same batch for ever."""
    batch = torch.randn(BATCH, LENGTH, WIDTH)
    while True:
        yield batch


def measure(path):
    """Writes the fill profile, and the medians beside it."""
    measured = pipefill.profile(model(), next(batches()), warmup=20, repeats=200)
    measured.save(path)
    with open(path + ".medians", "w", encoding="utf-8") as file:
        json.dump({op.name: op.median for op in measured.ops[0]}, file)
    print(measured, file=sys.stderr)


def run(path, log):
    """Runs until it is told to end."""
    with open(path, encoding="utf-8") as file:
        high = {op["name"]: op["time_ns"] * 1e-9 for op in json.load(file)["configs"][0]["ops"]}
    with open(path + ".medians", encoding="utf-8") as file:
        middle = json.load(file)
    net = model()
    loop = pipefill.fill(batches(), net, profile=path)
    with open(log, "a", encoding="utf-8") as out, torch.no_grad():
        for batch in loop:
            if loop.pace is None:
                raise SystemExit("measure_profile run: no gate: run it as a fill job")
            net(batch)
            for chunk in loop.pace.log or ():
                known = [name for name in chunk.names if name in high]
                if len(known) == len(chunk.names) and loop.pace.chunks > SKIPPED:
                    out.write(json.dumps({"took": chunk.took, "busy": chunk.busy, "high": sum(high[n] for n in known),
                                          "middle": sum(middle[n] for n in known), "learned": chunk.predicted}) + "\n")
            out.flush()
            loop.pace.log = []


def report(log, bubble_ms):
    """Prints the rows."""
    with open(log, encoding="utf-8") as file:
        chunks = [json.loads(line) for line in file]
    if len(chunks) < 100:
        raise SystemExit(f"measure_profile report: {log} has {len(chunks)} chunks: run it longer")
    for key, what in (("high", "the profile's time_ns (99th percentiles)"), ("middle", "the profile's medians"),
                      ("learned", "what the job has learned by then")):
        for clock, of in (("took", "wall"), ("busy", "CPU")):
            off = sorted(100 * abs(chunk[key] / chunk[clock] - 1) for chunk in chunks)
            for name, part, target in (("median", 0.5, 5), ("95th percentile", 0.95, 20)):
                value = off[int(part * len(off))]
                told = f"profile: {what} against chunks in bubbles of {bubble_ms} ms, {of} time, {name} of the differences"
                print(json.dumps({"name": told, "value": value, "unit": "%", "n": len(off), "target": target,
                                  "met": value <= target}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"profile": measure, "run": run, "report": report}[sys.argv[1]](*sys.argv[2:])
