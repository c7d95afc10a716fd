# SPDX-License-Identifier: Apache-2.0
"""Trains a small transformer in a pipeline: python3 -m pipefill.train --help.

Under Slurm each task is a stage; --local starts all stages on this machine. Prints one line every ten iterations, and
at the end one line of JSON a rank: times in ms, losses in nats a character, fractions of the time. SIGTERM and the
stop file end it after an iteration, with its results.
"""

import argparse
import hashlib
import json
import os
import signal
import statistics
import sys

from . import launch

WARM_UP_ITERATIONS = 10  # not measured: allocators and clocks settle


def parse(argv):
    """Reads the command line; exits 2 with a message on a mistake."""
    p = argparse.ArgumentParser(prog="python3 -m pipefill.train", description=__doc__.splitlines()[0])
    p.add_argument("--stages", type=int, default=2, help="pipeline stages, one rank each (default 2)")
    p.add_argument("--micro-batches", type=int, default=4, help="micro-batches an iteration (default 4)")
    p.add_argument("--schedule", choices=("1f1b", "gpipe"), default="1f1b")
    p.add_argument("--iterations", type=int, default=100)
    p.add_argument("--batch", type=int, default=10, help="sequences a micro-batch (default 10)")
    p.add_argument("--sequence", type=int, default=64, help="characters a sequence (default 64)")
    p.add_argument("--layers", type=int, default=2, help="transformer blocks a stage (default 2)")
    p.add_argument("--width", type=int, default=160, help="of the model (default 160)")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--cores", metavar="LISTS", help="cores to pin to, one list a rank, ranks parted by colons: 0:1 "
                   "(default: those of the job's devices)")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                   help="what to compute on (default: what the job's device is, else cpu)")
    p.add_argument("--links", choices=("auto", "posted", "token"), default="auto",
                   help="how stages exchange tensors: receives posted ahead (CPU), or after a word that the tensor is "
                   "ready (GPU, where a posted receive spins)")
    p.add_argument("--trace", metavar="DIR", help="write raw traces there (docs/traces.md)")
    p.add_argument("--stop-file", metavar="FILE", help="end after the iteration in which FILE appears")
    p.add_argument("--local", action="store_true", help="start all stages here")
    p.add_argument("--rendezvous", metavar="FILE", help="a new file that all ranks reach, instead of a port")
    p.add_argument("--port", type=int, help="of the rendezvous on MASTER_ADDR (default: MASTER_PORT, else from the "
                   "job's number)")
    args = p.parse_args(argv)
    for name in ("stages", "micro_batches", "iterations", "batch", "sequence", "layers", "width"):
        if getattr(args, name) < 1:
            p.error(f"--{name.replace('_', '-')} {getattr(args, name)}: write 1 or more")
    if args.width % 4:
        p.error(f"--width {args.width}: write a multiple of 4, the number of heads")
    if args.cores:
        try:
            args.cores = [launch.read_cores(cores) for cores in args.cores.split(":")]
        except ValueError as err:
            p.error(f"--cores {args.cores}: {err}")
    return args


def build(torch, args, rank, cores):
    """The engine of this rank's stage, with its announcements and its trace."""
    from . import bubble, engine, links, model, trace
    kind, name = launch.device_of(args, os.environ)
    module = model.Stage(rank, args.stages, layers=args.layers, width=args.width, sequence=args.sequence,
                         seed=args.seed).to(kind)
    optimizer = torch.optim.AdamW(module.parameters(), lr=args.lr)
    pipeline = engine.PipelineEngine(module, optimizer, args.schedule, args.micro_batches,
                                     (args.batch, args.sequence, args.width), bubble.Main(name),
                                     trace.Trace(args.trace, rank), links.make(args.links, kind))
    pipeline.measure_transfer()
    pipeline.trace.run(json.dumps({
        "type": "run", "rank": rank, "stages": args.stages, "micro_batches": args.micro_batches,
        "schedule": args.schedule, "device": pipeline.announce.device or name or "cpu:" + launch.format_cores(cores),
        "attached": pipeline.announce.attached, "transfer_ns": pipeline.transfer_ns}))
    return pipeline


class Wish:
    """Whether the job should go on: not past its iterations, a stop file, or SIGTERM."""

    def __init__(self, args):
        self._iterations, self._stop_file = args.iterations, args.stop_file
        self._told = False
        signal.signal(signal.SIGTERM, self._tell)

    def _tell(self, *_):
        self._told = True

    def another(self, done):
        """True if there should be an iteration after the one that comes next; done: those so far."""
        return not (done + 1 >= self._iterations or self._told
                    or (self._stop_file and os.path.exists(self._stop_file)))


def run(pipeline, args):
    """Trains to the end. Returns the losses (of the last stage), the lengths in ns, and ns waited after warm-up."""
    from . import corpus, trace
    batches = corpus.Batches(args.batch, args.sequence, args.seed)
    wish = Wish(args)
    losses, lengths, going_on, waited_before_ns = [], [], True, 0
    while going_on:
        if pipeline.iterations == warm_up(args):
            waited_before_ns = pipeline.trace.waited_ns
        begin_ns = trace.now_ns()
        micro = [[t.to(pipeline.links.device) for t in batches.next()] for _ in range(args.micro_batches)]
        mean, going_on = pipeline.train_batch([m[0] for m in micro], [m[1] for m in micro],
                                              wish.another(pipeline.iterations))
        lengths.append(trace.now_ns() - begin_ns)
        if mean is not None:
            losses.append(mean)
            if pipeline.iterations % 10 == 0:
                print(f"iteration {pipeline.iterations} loss {mean:.4f} "
                      f"{statistics.median(lengths[-10:]) / 1e6:.1f} ms", flush=True)
    return losses, lengths, pipeline.trace.waited_ns - waited_before_ns


def warm_up(args):
    """Iterations before the measured ones."""
    return min(WARM_UP_ITERATIONS, args.iterations // 2)


def digest(module):
    """SHA-256 of all parameters, to compare two runs bit by bit."""
    sha = hashlib.sha256()
    for parameter in module.parameters():
        sha.update(parameter.detach().cpu().numpy().tobytes())
    return sha.hexdigest()


def train(args):
    """One rank: trains, prints, and returns the result as a dict."""
    rank = launch.rank()
    torch, dist, cores = launch.join(args)
    from . import schedule
    pipeline = build(torch, args, rank, cores)
    dist.barrier()
    losses, lengths, waited_ns = run(pipeline, args)
    measured = lengths[warm_up(args):]
    result = {
        "rank": rank, "iterations": pipeline.iterations, "attached": pipeline.announce.attached,
        "why_not": pipeline.announce.why, "transfer_ms": pipeline.transfer_ns / 1e6,
        "iteration_ms": statistics.median(measured or lengths) / 1e6,
        "bubble_fraction": waited_ns / sum(measured) if measured else None,
        "bubble_fraction_theory": schedule.bubble_fraction(args.stages, args.micro_batches),
        "parameters_sha256": digest(pipeline.module),
    }
    if losses:
        result.update(loss_first=losses[0], loss_last=losses[-1])
    pipeline.announce.close()
    pipeline.trace.close()
    dist.barrier()
    dist.destroy_process_group()
    return result


def main(argv=None):
    """Entry point; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    if args.local:
        return launch.start_local("pipefill.train", argv, args.stages)
    if launch.ranks() != args.stages:
        print(f"pipefill.train: {launch.ranks()} tasks for {args.stages} stages: start one task a stage (srun -n), or "
              "use --local", file=sys.stderr)
        return 2
    result = train(args)
    # One write: two ranks may share the pipe, unbuffered.
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
