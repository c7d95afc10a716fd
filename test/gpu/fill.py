# SPDX-License-Identifier: Apache-2.0
"""A fill job of the harness: batch inference or training of a model, in chunks by the fill SDK or as it is.

Writes {"batches", "samples", "seconds", "digest", "chunks", "overruns"} to --out after each batch; digest is of the
outputs of the first batches, to be compared with those of an undisturbed run. Exit status 3: the memory is too small.
"""

import argparse
import hashlib
import itertools
import json
import os
import sys
import time

import models
import torch

# Batches whose outputs are compared, and that are made.
CHECKED = _BATCHES = 4


def arguments(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--sdk", action="store_true", help="in chunks, by pipefill.infer or pipefill.fill")
    parser.add_argument("--seconds", type=float, help="end after so long; for ever without")
    parser.add_argument("--out", required=True)
    return parser.parse_args(argv)


class Progress:
    """What has been done, in a file that is whole at any time."""

    def __init__(self, path, batch):
        self.path, self.batch = path, batch
        self.batches = 0
        self.digest = hashlib.sha256()
        self.begin = time.monotonic()

    def add(self, output, pace=None):
        """One more batch is done."""
        if self.batches < CHECKED:
            self.digest.update(output.detach().float().cpu().numpy().tobytes())
        self.batches += 1
        state = {"batches": self.batches, "samples": self.batches * self.batch, "seconds": time.monotonic() - self.begin,
                 "digest": self.digest.hexdigest() if self.batches >= CHECKED else "",
                 "chunks": pace.chunks if pace else 0, "overruns": pace.overruns if pace else 0}
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            json.dump(state, file)
        os.replace(self.path + ".new", self.path)


def run(args):
    """Runs batches until the time is up."""
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.set_num_threads(1)
    model = models.build(args.model).to(device=device, dtype=dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4) if args.train else None
    model.train(args.train)
    progress = Progress(args.out, args.batch)
    end = None if args.seconds is None else time.monotonic() + args.seconds

    kept = []  # made once: making images takes a core longer than a GPU needs for them

    def loader():
        for number in itertools.count():
            if end is not None and time.monotonic() >= end:
                return
            if number < _BATCHES:
                kept.append(models.batch_of(args.model, args.batch, number))
            yield kept[number % _BATCHES]

    loop = loader()
    if args.sdk:
        import pipefill  # pylint: disable=import-outside-toplevel
        loop = pipefill.fill(loop, model, optimizer)
    for batch in loop:
        batch = batch.to(device)
        if batch.is_floating_point():
            batch = batch.to(dtype)
        if args.train:
            output = model(batch)
            output.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        else:
            with torch.no_grad():
                output = model(batch)
        if device.type == "cuda" and not args.sdk and progress.batches % 8 == 0:
            torch.cuda.synchronize()  # not further ahead than a program that looks at its results now and then
        progress.add(output, getattr(loop, "pace", None))
    if device.type == "cuda":
        torch.cuda.synchronize()


def main():
    """The program."""
    args = arguments()
    try:
        run(args)
    except RuntimeError as err:
        if "out of memory" in str(err).lower():
            print(f"fill: {err}", file=sys.stderr)
            return 3
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
