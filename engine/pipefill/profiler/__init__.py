# SPDX-License-Identifier: Apache-2.0
"""Measures a fill job's ops on the device at hand, and writes its fill profile.

pipefill.profile(module, example_inputs) for a module; pipefill-cli profile -- python script.py for a script that uses
pipefill.fill, infer or train. Times are of the same ops that run in bubbles later.
"""

import itertools
import math
import os
import sys
import time

import torch

from .. import profile_file as formats
from ..fill import technique as saving
from ..fill.batch import batch_size, call_model, device_of, to_device
from ..fill.run import Run
from .recorder import FIRST, Memory, Recorder, summarise

__all__ = ["Measured", "profile"]


class Measured:
    """What was measured: .profile, which is what save() writes, and .ops, lists of recorder.OpRecord by configuration."""

    def __init__(self, profile_, ops):
        self.profile, self.ops = profile_, ops

    def save(self, path):
        """Writes the fill profile."""
        self.profile.save(path)

    def __str__(self):
        """A table: a line a configuration, with the spread of its passes and its slowest op."""
        lines = [f"{'BATCH':>6} {'TECHNIQUE':<22} {'OPS':>5} {'PASS_MS':>9} {'P99_MS':>9} {'SPREAD':>7} {'RESIDENT_MB':>11} "
                 f"{'PEAK_MB':>8}  SLOWEST OP"]
        for config, ops in zip(self.profile.configs, self.ops):
            middle = sum(op.median for op in ops)
            slowest = max(ops, key=lambda op: op.median)
            # Of each op the middle half over its median, weighted by what it takes.
            spread = sum(op.quantile(0.75) - op.quantile(0.25) for op in ops) / middle if middle else 0.0
            lines.append(f"{config.batch_size:>6} {config.technique!s:<22} {len(ops):>5} {1e3 * middle:>9.2f} "
                         f"{1e-6 * sum(op.time_ns for op in config.ops):>9.2f} {100 * spread:>6.1f}% "
                         f"{config.resident_bytes / 2**20:>11.1f} {max(op.peak_bytes for op in config.ops) / 2**20:>8.1f}  "
                         f"{slowest.name} {1e3 * slowest.median:.2f} ms")
        return "\n".join(lines)


class Progress:
    """A bar on a terminal; nothing elsewhere."""

    def __init__(self, total, stream=None):
        self._total, self._done, self._stream = total, 0, stream or sys.stderr
        self._shown = self._stream.isatty()

    def step(self, what):
        """One more pass is done."""
        self._done += 1
        if self._shown:
            full = 30 * self._done // max(self._total, 1)
            self._stream.write(f"\r[{'#' * full}{'.' * (30 - full)}] {self._done}/{self._total} {what:<30}")
            self._stream.flush()

    def close(self):
        """Ends the line."""
        if self._shown:
            self._stream.write("\n")


class Settings:
    """What is asked for. ValueError on a mistake."""

    def __init__(self, batch_sizes=None, technique_names=("plain",), warmup=3, repeats=30):
        for name, value, least in (("warmup", warmup, 1), ("repeats", repeats, 2)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: must be a whole number, {least} or more")
        for size in batch_sizes or ():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"batch_sizes: {size!r} must be a whole number, 1 or more")
        if not technique_names:
            raise ValueError("techniques: must be one or more")
        self.batch_sizes = list(batch_sizes or [None])
        self.techniques = [formats.technique(name) for name in technique_names]
        self.warmup, self.repeats = warmup, repeats
        if any(t.offload != "none" for t in self.techniques) and not torch.cuda.is_available():
            raise ValueError("techniques: offload needs a GPU: a device of cores has no other memory to move to")

    @classmethod
    def of_environment(cls, environment):
        """What pipefill-cli profile hands to the script."""
        def numbers(key):
            text = environment.get(key, "")
            try:
                return [int(word) for word in text.split(",") if word]
            except ValueError:
                raise ValueError(f"{key}={text}: must be whole numbers with commas between") from None
        return cls(numbers("PIPEFILL_PROFILE_BATCH_SIZES"), environment.get("PIPEFILL_PROFILE_TECHNIQUES", "plain").split(","),
                   (numbers("PIPEFILL_PROFILE_WARMUP") or [3])[0], (numbers("PIPEFILL_PROFILE_REPEATS") or [30])[0])


def profile(module, example_inputs, *, loss=None, target=None, optimizer=None, batch_sizes=None, techniques=("plain",),
            warmup=3, repeats=30, split=None, name=None, call=None):
    """Measures module on example_inputs, a tensor, or a tuple or dict of arguments; returns what was Measured.

    Inference; with loss(output, target) and optimizer training. batch_sizes: example_inputs (and target) are repeated
    or cut to each along their first dimension; None: as they are. techniques: some of plain, checkpoint,
    offload-params, offload-activations, offload-optimizer, joined by +. call, split: as for pipefill.infer.
    """
    if (loss is None) != (optimizer is None):
        raise ValueError("profile: training needs both loss= and optimizer=; inference neither")
    settings = Settings(batch_sizes, techniques, warmup, repeats)
    call = call or call_model
    module.train(loss is not None)
    run = Run([(example_inputs, target)], module, optimizer, split=split)
    session = Session(run, settings, name or type(module).__name__, fixed=False)
    device = device_of(module)
    for inputs, expected in session:
        inputs, expected = to_device((inputs, expected), device, run.pace)
        if loss is None:
            with torch.no_grad():
                call(module, inputs)
            continue
        loss(call(module, inputs), expected).backward()
        optimizer.step()
        optimizer.zero_grad()
    return session.measured


class Session:
    """Iterates over a run's batches once for each configuration and pass; then .measured is there."""

    def __init__(self, run, settings, name, fixed):
        """fixed: the batch size is the script's own (training keeps it)."""
        self._run, self._settings, self._name, self._fixed = run, settings, name, fixed
        self._measured_ops, self._configs, self._backward = [], [], False
        self.measured = None

    def __iter__(self):
        sizes = [None] if self._fixed else self._settings.batch_sizes
        if self._fixed and self._settings.batch_sizes != [None]:
            print("pipefill: batch sizes are only varied for pipefill.infer: the loop's own is measured", file=sys.stderr)
        every = list(itertools.product(sizes, self._settings.techniques))
        # One pass more watches memory.
        progress = Progress(len(every) * (self._settings.warmup + self._settings.repeats + 1))
        for size, how in every:
            yield from self._config(size, how, progress)
        progress.close()
        kind = "training" if self._backward else "inference"
        device = os.environ.get("PIPEFILL_DEVICE") or (
            torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads")
        self.measured = Measured(formats.Profile(self._name, kind, device, self._configs), self._measured_ops)

    def _config(self, size, how, progress):
        recorder = Recorder()
        settings, run = self._settings, self._run
        offload = None
        if how.offload != "none":
            offload = saving.Offload(how.offload, run.model, run.optimizers)
        swaps, found = [], size
        total = settings.warmup + settings.repeats + 1
        with run.recording(recorder, how, offload):
            batches = run.endless()
            for number in range(total):
                memory = Memory() if number == settings.warmup else None
                recorder.memory = memory
                if memory is not None:
                    memory.__enter__()
                recorder.boundary(FIRST)
                batch = next(batches)
                found = size or batch_size(batch)
                if size is not None:
                    batch = resized(batch, size)
                recorder.boundary("step")
                yield batch
                recorder.pause()
                if memory is not None:
                    memory.__exit__(None, None, None)
                    recorder.memory, levels = None, memory.levels
                if offload is not None:
                    swaps.append(_swap(offload))
                progress.step(f"{how}, batch {found}")
            batches.close()
        counted = [one for number, one in enumerate(recorder.passes) if number > settings.warmup]
        ops = summarise(counted, levels, settings.warmup)
        self._backward |= any(op.name.endswith(":backward") for op in ops)
        self._add(found, how, ops, swaps)

    def _add(self, size, how, ops, swaps):
        own, gradients, kept = saving.resident(self._run.model, self._run.optimizers)
        # On the device while a chunk runs is all of it, whatever leaves it in between.
        everything = own + gradients + kept
        stays = {"none": [], "activations": everything, "params": gradients + kept, "optimizer": own + gradients}[how.offload]
        written = [formats.Op(op.name, math.ceil(op.quantile(0.99) * 1e9), op.peak_bytes,
                              0 if how.offload == "activations" else op.live_bytes) for op in ops]
        out_ns, in_ns = (math.ceil(max(part) * 1e9) for part in zip(*swaps)) if swaps else (0, 0)
        self._configs.append(formats.Config(size or 1, how, saving.storage_bytes(everything), in_ns, out_ns, written,
                                            saving.storage_bytes(stays)))
        self._measured_ops.append(ops)


def _swap(offload):
    """Seconds to move out and in."""
    begin = time.monotonic()
    offload.leave()
    middle = time.monotonic()
    offload.enter()
    return middle - begin, time.monotonic() - middle


def resized(batch, size):
    """batch with size samples: its tensors of a batch's length are repeated and cut."""
    have = batch_size(batch)
    if have == 0:
        raise ValueError("profile: the batch is empty: give one with samples")

    def walk(value):
        if isinstance(value, torch.Tensor):
            if not value.dim() or value.shape[0] != have:
                return value
            times = -(-size // have)
            return value.repeat(times, *[1] * (value.dim() - 1))[:size] if times > 1 else value[:size]
        if isinstance(value, dict):
            return {key: walk(part) for key, part in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(walk, value))
        if isinstance(value, (list, tuple)):
            return type(value)(map(walk, value))
        return value

    return walk(batch)


def script(run):
    """The loop of a script under pipefill-cli profile: yields batches, writes the profile and ends the script."""
    path = os.environ["PIPEFILL_PROFILE_OUT"]
    session = Session(run, Settings.of_environment(os.environ), os.path.basename(sys.argv[0]) or "python", run.forward is None)
    yield from session
    session.measured.save(path)
    print(session.measured, file=sys.stderr)
    # What comes after the loop would save or print what only profiling made.
    raise SystemExit(0)

