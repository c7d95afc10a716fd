# SPDX-License-Identifier: Apache-2.0
"""Measures one pipeline stage with and without fill jobs on this machine: make check-gpu.

No Slurm and no network. The stage is real, its peers are not (stage.py, peers.py). Rounds of all variants in random
order, each beside a run without fill jobs; prints a table and writes report.json.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile

import harness
import models


def arguments(argv=None):
    """The command line; --device cpu is a small run of the same harness, for its tests."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--build", default=os.path.join(harness.ROOT, "build"))
    parser.add_argument("--out", help="folder of report.json (build/gpu)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="variants whose names begin so, by comma; no fill is always run")
    parser.add_argument("--models", help="fill jobs, by comma")
    parser.add_argument("--schedule", default="1f1b")
    parser.add_argument("--stages", type=int)
    parser.add_argument("--micro-batches", type=int)
    parser.add_argument("--tensor-parallel", type=int, default=8)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    cuda = args.device == "cuda"
    usual = {"stages": 4, "micro_batches": 4, "iterations": 40, "models": "bert-tiny"}
    if cuda:
        usual = {"stages": 16, "micro_batches": 8, "iterations": 40, "models": "bert-base,bert-large,efficientnet,swin"}
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.models = args.models.split(",")
    for name in args.models:
        models.batch_of(name, 1)  # refuses a name that there is not
    args.out = args.out or os.path.join(args.build, "gpu")
    args.layers, args.width, args.sequence, args.warm_up = (4, 4096, 2048, 20) if cuda else (2, 128, 64, 20)
    args.batches = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] if cuda else [2, 4]
    args.fill_batch, args.exclusive_s = (8, 5.0) if cuda else (2, 0.5)
    args.min_ms, args.guard_ms = 1, (1 if cuda else 0)
    return args


def missing(device):
    """Why nothing can be measured here, "" if it can."""
    if device == "cpu":
        return ""
    try:
        import torch  # pylint: disable=import-outside-toplevel
    except ImportError as err:
        return f"PyTorch is not here: {err}"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} finds no NVIDIA GPU"
    return ""


def machine(args):
    """What it was measured on."""
    import torch  # pylint: disable=import-outside-toplevel
    said = {"python": platform.python_version(), "torch": torch.__version__, "host": platform.platform(),
            "cores": os.cpu_count(), "device": args.device}
    if args.device == "cuda":
        said["gpu"] = torch.cuda.get_device_name(0)
        said["cuda"] = torch.version.cuda
        try:
            asked = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                                   capture_output=True, text=True, check=True)
            said["driver"] = asked.stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError) as err:
            said["driver"] = f"not known: {err}"
    return said


def measure(args, folder, say=print):
    """Runs everything. Returns the report."""
    runner = harness.Runner(args, folder)
    chosen = harness.variants(args.models, args.device == "cuda")
    if args.only:
        wanted = tuple(args.only.split(","))
        chosen = [chosen[0]] + [v for v in chosen[1:] if v.name.startswith(wanted)]
    say("the stage by itself, for what its peers take")
    runner.times = runner.run(chosen[0])["times_ms"]
    exclusive = {}
    for model in sorted({variant.model for variant in chosen if variant.model}):
        exclusive[model] = runner.exclusive(model)
        best = exclusive[model]
        say(f"{model} alone: {best['seconds_per_sample'] * 1e3:.3f} ms a sample at its best batch of {best['batch']}")
    order = random.Random(args.seed)
    runs, bases, skipped = {}, {}, {}
    for number in range(args.rounds):
        for variant in order.sample(chosen[1:], len(chosen) - 1):
            if variant.name in skipped:
                continue
            say(f"round {number + 1} of {args.rounds}: {variant.name}")
            try:
                result = runner.run(variant)
            except harness.Skipped as err:
                skipped[variant.name] = str(err)
                continue
            runs.setdefault(variant.name, []).append(result)
            bases.setdefault(variant.name, []).append(runner.run(chosen[0]))
    every = [run for name in bases for run in bases[name]] or [runner.run(chosen[0])]
    setting = {"schedule": args.schedule, "stages": args.stages, "micro_batches": args.micro_batches,
               "tensor_parallel": args.tensor_parallel}
    rows = [{**harness.row(chosen[0].name, every, every, None, setting), "model": ""}]
    for variant in chosen[1:]:
        if variant.name in runs:
            alone = exclusive[variant.model]["seconds_per_sample"] if variant.model else None
            line = harness.row(variant.name, runs[variant.name], bases[variant.name], alone, setting)
            rows.append({**line, "model": variant.model})
    command = "make check-gpu" if args.device == "cuda" else "test/gpu/run.py --device cpu"
    return {"machine": machine(args), "command": command, "setting": setting, "stage_ms": runner.times,
            "bubble_fraction": every[0]["bubble_fraction"], "exclusive": exclusive, "rows": harness.check(rows, exclusive),
            "skipped": skipped}


def main(argv=None):
    """The program."""
    args = arguments(argv)
    why = missing(args.device)
    if why:
        print(f"check-gpu: skipped: {why}")
        return 0
    os.makedirs(args.out, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pipefill-gpu-") as folder:
        os.chmod(folder, 0o755)  # entered by the jobs of try
        report = measure(args, folder, lambda text: print(f"# {text}", flush=True))
    path = os.path.join(args.out, "report.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    parts = ", ".join(f"{value:.2f}" for value in report["stage_ms"])
    print(f"{args.schedule}, {args.stages} stages, {args.micro_batches} micro-batches, forward, backward, step {parts} ms; "
          f"projected to {args.stages} stages of {args.tensor_parallel} GPUs")
    print(harness.table(report["rows"]))
    for name, reason in report["skipped"].items():
        print(f"skipped: {name}: {reason}")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
