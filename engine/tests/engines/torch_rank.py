# SPDX-License-Identifier: Apache-2.0
"""One rank of a pipeline on torch.distributed.pipelining; nothing in it knows of pipefill.

    torch_rank.py SCHEDULE MICRO_BATCHES STEPS OUT.json [--cure] [--change STEP] [--sleep MS]

Rank and world size come from RANK and WORLD_SIZE, the meeting place from MASTER_PORT. --cure: works around
pytorch#132644, where no hook does. --change: from that step on, batches are half as large. --sleep: stages that sleep
so long for a forward instead of computing, for more ranks than cores.
"""

import argparse
import hashlib
import os
import time

parser = argparse.ArgumentParser()
parser.add_argument("schedule")
parser.add_argument("micro_batches", type=int)
parser.add_argument("steps", type=int)
parser.add_argument("out")
parser.add_argument("--cure", action="store_true")
parser.add_argument("--change", type=int, default=0)
parser.add_argument("--sleep", type=float, default=0)
args = parser.parse_args()
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[rank % len(cores)]})  # gloo's threads inherit it
os.environ.setdefault("USE_LIBUV", "0")  # Debian's PyTorch has none
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
os.environ.setdefault("MASTER_ADDR", "127.0.0.1")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402

import tracer  # noqa: E402

torch.set_num_threads(1)
trace = tracer.Tracer(dist)
trace.watch_batches(args.cure)

from torch.distributed.pipelining import PipelineStage, schedules  # noqa: E402

WIDTH, ROWS, LAYERS = 768, 48, 16


class Block(nn.Module):
    """Layers of a perceptron."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.relu(layer(x)) * 0.1
        return x * 1.0  # not a view, which 2.6 cannot detach


class _Sleep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        time.sleep(args.sleep / 1e3)
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(2 * args.sleep / 1e3)
        return gradient * 1.0


class Sleeper(nn.Module):
    """A device that is busy without a core: a forward takes --sleep, a backward twice that."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return _Sleep.apply(x * self.weight)


def main():
    dist.init_process_group("gloo", rank=rank, world_size=world)
    several = args.schedule not in ("ScheduleGPipe", "Schedule1F1B")
    chunks = 2 if several else 1
    count = chunks * world
    v_shaped = args.schedule in ("ScheduleZBVZeroBubble", "ScheduleDualPipeV")
    mine = [rank, count - 1 - rank] if v_shaped else [rank + i * world for i in range(chunks)]
    stages = []
    for number in mine:
        torch.manual_seed(100 + number)
        module = Sleeper() if args.sleep else Block(LAYERS // chunks)
        stages.append(PipelineStage(module, number, count, torch.device("cpu")))
    loss = nn.functional.mse_loss
    make = getattr(schedules, args.schedule)
    if v_shaped:
        # The class of 2.6 sends to its own rank, which gloo cannot; the runtime runs its order.
        places = {i: i if i < world else count - 1 - i for i in range(count)}
        order = make(stages, args.micro_batches, loss_fn=loss, stage_index_to_group_rank=places).pipeline_order
        schedule = schedules._PipelineScheduleRuntime(stages, args.micro_batches, loss_fn=loss,
                                                      stage_index_to_group_rank=places)
        schedule._load_actions(order)
    else:
        schedule = make(stages if several else stages[0], args.micro_batches, loss_fn=loss)
    parameters = [p for stage in stages for p in stage.submod.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    generator = torch.Generator().manual_seed(1)
    history = []
    dist.barrier()
    for step in range(args.steps):
        rows = ROWS
        if args.change and step >= args.change:
            rows //= 2
            if step == args.change:
                for stage in stages:  # its buffers have the old shape
                    stage.has_backward = stage._stage_meta = None
                    stage.inputs_meta, stage._outputs_meta = None, None
                schedule._stage_initialized = schedule._stages_initialized = False
        x = torch.randn(rows * args.micro_batches, WIDTH, generator=generator)
        y = torch.tanh(x.roll(1, 1)) * 0.5
        begin_ns = tracer.now_ns()
        optimizer.zero_grad()
        losses = []
        inputs = (x,) if 0 in mine else ()
        targets = {"target": y, "losses": losses} if count - 1 in mine else {}
        schedule.step(*inputs, **targets)
        trace.steps.append([begin_ns, tracer.now_ns()])
        optimizer.step()
        history += [sum(float(one) for one in losses) / len(losses)] if losses else []
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()
    dist.barrier()
    trace.save(args.out, losses=history, parameters=digest, version=torch.__version__)
    dist.destroy_process_group()


main()
