# SPDX-License-Identifier: Apache-2.0
"""Trains a small transformer in a pipeline: python3 -m pipefill.train --help.

Under Slurm each task is a stage; --local starts all stages on this machine. Prints one line every ten iterations, and
at the end one line of JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys


def parse(argv):
    """Reads the command line; exits 2 with a message on a mistake."""
    p = argparse.ArgumentParser(prog="python3 -m pipefill.train", description=__doc__.splitlines()[0])
    p.add_argument("--stages", type=int, default=2, help="pipeline stages, one rank each (default 2)")
    p.add_argument("--micro-batches", type=int, default=4, help="micro-batches an iteration (default 4)")
    p.add_argument("--schedule", choices=("1f1b", "gpipe"), default="1f1b")
    p.add_argument("--iterations", type=int, default=100)
    p.add_argument("--batch", type=int, default=10, help="sequences a micro-batch")
    p.add_argument("--sequence", type=int, default=64, help="characters a sequence")
    p.add_argument("--layers", type=int, default=2, help="transformer blocks a stage")
    p.add_argument("--width", type=int, default=160, help="of the model")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--cores", help="cores to pin to, one list a rank, ranks parted by colons: 0:1")
    p.add_argument("--trace", metavar="DIR", help="write raw traces there")
    p.add_argument("--stop-file", metavar="FILE", help="end after the iteration in which FILE appears")
    p.add_argument("--local", action="store_true", help="start all stages here")
    p.add_argument("--port", type=int, help="of the rendezvous (default: from the job's number)")
    args = p.parse_args(argv)
    for name in ("stages", "micro_batches", "iterations", "batch", "sequence", "layers", "width"):
        if getattr(args, name) < 1:
            p.error(f"--{name.replace('_', '-')} {getattr(args, name)}: write 1 or more")
    if args.width % 4:
        p.error(f"--width {args.width}: write a multiple of 4, the number of heads")
    return args


def cores_of(args, rank, environment=os.environ):
    """The cores this rank is pinned to: --cores, else its device's (PIPEFILL_DEVICES, in local rank order)."""
    if args.cores:
        lists = args.cores.split(":")
        return read_cores(lists[rank % len(lists)])
    devices = environment.get("PIPEFILL_DEVICES", "").split()
    local = int(environment.get("SLURM_LOCALID", "0"))
    if local < len(devices) and devices[local].startswith("cpu:"):
        return read_cores(devices[local][len("cpu:"):])
    return None


def read_cores(text):
    """"0-2,5" -> {0, 1, 2, 5}; ValueError on anything else."""
    cores = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        cores.update(range(int(low), int(high or low) + 1))
    return cores


def start_local(argv, args):
    """Runs every stage as a process of this machine; the exit status is the worst of theirs."""
    argv = [a for a in argv if a != "--local"]
    environment = dict(os.environ, SLURM_NTASKS=str(args.stages), MASTER_ADDR="127.0.0.1")
    port = args.port or 20000 + os.getpid() % 20000
    ranks = [subprocess.Popen([sys.executable, "-m", "pipefill.train", *argv, "--port", str(port)],
                              env=dict(environment, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)))
             for rank in range(args.stages)]
    return max(abs(rank.wait()) for rank in ranks)


def join(args, rank, ranks):
    """Makes the process group. Before it gloo's threads do not exist, so that they inherit the pinning."""
    cores = cores_of(args, rank)
    if cores:
        os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("USE_LIBUV", "0")
    address = os.environ.setdefault("MASTER_ADDR", os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"))
    if address.startswith("127."):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    port = args.port or 20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000
    os.environ.setdefault("MASTER_PORT", str(port))
    import torch
    import torch.distributed as dist
    torch.set_num_threads(len(cores) if cores else 1)
    torch.manual_seed(args.seed)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    return torch, dist


def build(torch, args, rank, trace_device):
    """The engine of this rank's stage, with its announcements and its trace."""
    from . import bubble, engine, model, trace
    module = model.Stage(rank, args.stages, layers=args.layers, width=args.width, sequence=args.sequence,
                         seed=args.seed)
    optimizer = torch.optim.AdamW(module.parameters(), lr=args.lr)
    announce = bubble.Main()
    records = trace.Trace(args.trace, rank, stages=args.stages, micro_batches=args.micro_batches,
                          schedule=args.schedule, device=announce.device or trace_device, attached=announce.attached)
    return engine.PipelineEngine(module, optimizer, args.schedule, args.micro_batches,
                                 (args.batch, args.sequence, args.width), announce, records)


def train(args):
    """One rank: trains, prints, and returns the result as a dict."""
    rank, ranks = int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_NTASKS", "1"))
    if ranks != args.stages:
        print(f"pipefill.train: {ranks} tasks for {args.stages} stages: start one task a stage (srun -n), or use "
              "--local", file=sys.stderr)
        return None
    torch, dist = join(args, rank, ranks)
    from . import corpus, schedule, trace
    cores = sorted(os.sched_getaffinity(0))
    pipeline = build(torch, args, rank, "cpu:" + ",".join(map(str, cores)))
    transfer_ns = pipeline.measure_transfer()
    batches = corpus.Batches(args.batch, args.sequence, args.seed)
    losses, lengths, going_on = [], [], True
    waited_ns = 0
    while going_on and pipeline.iterations < args.iterations:
        if pipeline.iterations == min(10, args.iterations // 2):
            waited_ns = pipeline.trace.waited_ns
        micro = [batches.next() for _ in range(args.micro_batches)]
        wanted = pipeline.iterations + 1 < args.iterations and not (args.stop_file and os.path.exists(args.stop_file))
        begin = trace.now_ns()
        mean, going_on = pipeline.train_batch([m[0] for m in micro], [m[1] for m in micro], wanted)
        lengths.append(trace.now_ns() - begin)
        if mean is not None:
            losses.append(mean)
            if pipeline.iterations % 10 == 0:
                print(f"iteration {pipeline.iterations} loss {mean:.4f} "
                      f"{statistics.median(lengths[-10:]) / 1e6:.1f} ms", flush=True)
    measured = lengths[min(10, args.iterations // 2):]
    result = {
        "rank": rank, "iterations": pipeline.iterations, "attached": pipeline.announce.attached,
        "why_not": pipeline.announce.why, "transfer_ms": transfer_ns / 1e6,
        "iteration_ms": statistics.median(measured or lengths) / 1e6,
        "bubble_fraction": (pipeline.trace.waited_ns - waited_ns) / max(1, sum(measured)),
        "bubble_fraction_theory": schedule.bubble_fraction(args.stages, args.micro_batches),
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
        return start_local(argv, args)
    result = train(args)
    if result is None:
        return 2
    # One write: two ranks may share the pipe, unbuffered.
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
