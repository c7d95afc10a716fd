# SPDX-License-Identifier: Apache-2.0
"""How a rank learns who it is, where it runs and whom to meet: from Slurm, or from start_local().

Nothing here imports PyTorch before the rank is pinned: its threads inherit the cores.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time


def rank():
    """This process's number among the job's tasks."""
    return int(os.environ.get("SLURM_PROCID", "0"))


def ranks():
    """How many tasks the job has."""
    return int(os.environ.get("SLURM_NTASKS", "1"))


def read_cores(text):
    """"0-2,5" -> {0, 1, 2, 5}; ValueError on anything else."""
    cores = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise ValueError(f"{part!r} is not a core or a range like 0-3")
        cores.update(range(int(low), int(high or low) + 1))
    return cores


def format_cores(cores):
    """{0, 1, 2, 5} -> "0-2,5", as devices are named."""
    parts = []
    for core in sorted(cores):
        if parts and core == parts[-1][1] + 1:
            parts[-1][1] = core
        else:
            parts.append([core, core])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def cores_of(args, environment):
    """The cores of this rank: --cores, else its device's (PIPEFILL_DEVICES, in local rank order), else None."""
    if args.cores:
        return args.cores[int(environment.get("SLURM_PROCID", "0")) % len(args.cores)]
    devices = environment.get("PIPEFILL_DEVICES", "").split()
    local = int(environment.get("SLURM_LOCALID", "0"))
    if local < len(devices) and devices[local].startswith("cpu:"):
        return read_cores(devices[local][len("cpu:"):])
    return None


def device_of(args, environment):
    """Where this rank computes and what pipefill calls it: ("cuda", "gpu:<uuid>"), ("cuda", None) or ("cpu", None).

    The job's devices (PIPEFILL_DEVICES, in local rank order) decide where --device does not.
    """
    devices = environment.get("PIPEFILL_DEVICES", "").split()
    local = int(environment.get("SLURM_LOCALID", "0"))
    mine = devices[local] if local < len(devices) and devices[local].startswith("gpu:") else None
    if args.device == "cpu" or args.device == "auto" and mine is None:
        return "cpu", None
    return "cuda", mine


def rendezvous(args, environment):
    """The init_method for torch.distributed."""
    if args.rendezvous:
        return "file://" + os.path.abspath(args.rendezvous)
    address = environment.get("MASTER_ADDR") or environment.get("SLURM_LAUNCH_NODE_IPADDR") or "127.0.0.1"
    # Jobs of one node must not meet: below the ports that the kernel gives to clients (32768).
    port = args.port or environment.get("MASTER_PORT") or 20000 + int(environment.get("SLURM_JOB_ID", "0")) % 12000
    return f"tcp://{address}:{port}"


def join(args):
    """Pins this rank and makes the process group; returns (torch, torch.distributed, its cores).

    The default group is gloo's also where tensors travel over NCCL: words of readiness do over it (links.py).
    """
    cores = cores_of(args, os.environ)
    kind, name = device_of(args, os.environ)
    if name:
        # Before CUDA is there: it is device 0 of this process then, whatever the node's others are.
        os.environ["CUDA_VISIBLE_DEVICES"] = name[len("gpu:"):]
    if cores:
        # Before the process group is there: gloo's threads inherit it.
        os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("USE_LIBUV", "0")  # Debian's PyTorch 2.6 is built without and fails
    method = rendezvous(args, os.environ)
    if method.startswith(("file:", "tcp://127.")):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed as dist
    torch.set_num_threads(len(cores) if cores else 1)
    torch.manual_seed(args.seed)
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no GPU here: write --device cpu, or see that nvidia-smi works in the job")
        local = 0 if name else int(os.environ.get("SLURM_LOCALID", "0")) % torch.cuda.device_count()
        torch.cuda.set_device(local)
        torch.cuda.synchronize()  # opens the device: pipefilld gives a GPU's page to who has it open
    dist.init_process_group("gloo", init_method=method, rank=rank(), world_size=ranks())
    return torch, dist, os.sched_getaffinity(0)


def start_local(module, argv, stages):
    """Runs python3 -m module once a stage on this machine; returns the worst exit status.

    Where one fails the others are ended: they would wait for it.
    """
    argv = [a for a in argv if a != "--local"]
    with tempfile.TemporaryDirectory(prefix="pipefill-") as directory:
        meet = ["--rendezvous", os.path.join(directory, "store")]
        processes = [subprocess.Popen([sys.executable, "-m", module, *argv, *meet],
                                      env=dict(os.environ, SLURM_NTASKS=str(stages), SLURM_PROCID=str(number),
                                               SLURM_LOCALID=str(number)))
                     for number in range(stages)]
        signal.signal(signal.SIGTERM, lambda *_: [p.terminate() for p in processes])
        status = 0
        try:
            while any(p.poll() is None for p in processes):
                time.sleep(0.05)
                if any(p.returncode for p in processes):
                    break
        finally:
            for p in processes:
                if p.poll() is None:
                    p.kill()
                status = max(status, abs(p.wait()))
    return status
