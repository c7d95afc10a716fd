# SPDX-License-Identifier: Apache-2.0
"""One rank of pipelines on torch.distributed.pipelining; nothing in it knows of pipefill.

    torch_rank.py OUT.json STEPS SCHEDULE:MICRO_BATCHES... [--cure] [--change STEP] [--sleep MS] [--newer FOLDER]
                  [--toggle]

Rank and world size come from RANK and WORLD_SIZE, the meeting place from MASTER_PORT. One schedule after the other is
trained; torchtitan.SCHEDULE is made by torchtitan. --cure: works around pytorch#132644, where no hook does. --change:
from that step on, batches are half as large. --sleep: stages that sleep so long for a forward instead of computing, for
more ranks than cores. --newer: takes torch.distributed.pipelining of a newer release, which is Python only, from that
folder. --toggle: every other step, from the second on, runs without the hook (with --cure), for what it costs.
"""

import argparse
import hashlib
import importlib.machinery
import os
import sys
import time
import types

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("steps", type=int)
parser.add_argument("schedules", nargs="+")
parser.add_argument("--cure", action="store_true")
parser.add_argument("--change", type=int, default=0)
parser.add_argument("--sleep", type=float, default=0)
parser.add_argument("--newer")
parser.add_argument("--toggle", action="store_true")
args = parser.parse_args()
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[rank % len(cores)]})  # gloo's threads inherit it
os.environ.setdefault("USE_LIBUV", "0")  # Debian's PyTorch has none
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
os.environ.setdefault("MASTER_ADDR", "127.0.0.1")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import tracer  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)
trace = tracer.Tracer(dist)
trace.watch_batches(args.cure)
if args.newer:
    dist.__path__.insert(0, args.newer)

from torch.distributed.pipelining import PipelineStage, schedules  # noqa: E402

if any(part.startswith("torchtitan.") for part in args.schedules):
    # Its package imports tokenizers and data sets, which no pipeline needs: this stands in for the package alone.
    package = sys.modules["torchtitan"] = types.ModuleType("torchtitan")
    package.__path__ = importlib.machinery.PathFinder.find_spec("torchtitan").submodule_search_locations
    from torchtitan.config_manager import JobConfig
    from torchtitan.distributed.pipeline import build_pipeline_schedule

if args.newer:
    from torch.distributed.pipelining.schedules import _wait_batch_p2p  # by name, as torchtitan does

# 2.9 makes its NCCL communicators by sending 8 bytes where 4 are received, at which gloo ends the process.
PipelineStage._get_init_p2p_neighbors_ops = lambda self: []

WIDTH, ROWS, LAYERS = 512, 8, 10
SEVERAL = 2  # stages a rank, for schedules that have several


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
    def forward(ctx, x, forward_s, backward_s):
        ctx.backward_s = backward_s
        time.sleep(forward_s)
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(ctx.backward_s)
        return gradient * 1.0, None, None


class Sleeper(nn.Module):
    """A device that is busy without a core: a forward takes so long, as do the two halves of a backward each."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        halves = 1 if x.requires_grad else 2  # the first stage has no gradient to give on, and takes as long
        return _Sleep.apply(x, self.seconds, self.seconds) * _Sleep.apply(self.weight, 0, halves * self.seconds)


def make(name, micro_batches):
    """The schedule called name, this rank's stages and the number of all."""
    maker, _, name = name.rpartition(".")
    chunks = 1 if name in ("ScheduleGPipe", "Schedule1F1B") else SEVERAL
    count = chunks * world
    v_shaped = name in ("ScheduleZBVZeroBubble", "ScheduleDualPipeV")
    mine = [rank, count - 1 - rank] if v_shaped else [rank + i * world for i in range(chunks)]
    stages = []
    for number in mine:
        torch.manual_seed(100 + number)
        module = Sleeper(args.sleep / chunks / 1e3) if args.sleep else Block(LAYERS // chunks)
        shapes = {}
        if args.newer or v_shaped:  # 2.9's way to ask for them needs the rest of it, and 2.6 knows no V
            shapes = {"input_args": (torch.empty(ROWS, WIDTH),), "output_args": torch.empty(ROWS, WIDTH)}
        stages.append(PipelineStage(module, number, count, torch.device("cpu"), **shapes))
    cls, loss = getattr(schedules, name), nn.functional.mse_loss
    if maker:
        job = JobConfig()
        job.parallelism.pipeline_parallel_schedule = name.removeprefix("Schedule")
        job.parallelism.pipeline_parallel_microbatch_size = ROWS
        job.parallelism.pipeline_parallel_degree = world
        job.training.local_batch_size = ROWS * micro_batches
        return build_pipeline_schedule(job, stages, loss), stages, count
    if name != "ScheduleZBVZeroBubble":
        return cls(stages if chunks > 1 else stages[0], micro_batches, loss_fn=loss), stages, count
    # The class (up to 2.9) sends to its own rank, which gloo cannot; the runtime runs its order.
    places = {i: i if i < world else count - 1 - i for i in range(count)}
    more = {} if args.newer else {"stage_index_to_group_rank": places}
    order = cls(stages, micro_batches, loss_fn=loss, **more).pipeline_order
    schedule = schedules._PipelineScheduleRuntime(stages, micro_batches, loss_fn=loss, **more)
    if args.newer:
        for one in (schedule, *stages):
            one.stage_index_to_group_rank = places
    getattr(schedule, "_prepare_schedule_with_comms", getattr(schedule, "_load_actions", None))(order)
    return schedule, stages, count


def shrink(schedule, stages):
    """Lets the stages learn the shapes of the next batch anew; with half as many rows they take half as long."""
    for stage in stages:
        if args.sleep:
            stage.submod.seconds /= 2
        stage._stage_meta = None
        stage.inputs_meta, stage._outputs_meta = None, None
    schedule._stage_initialized = schedule._stages_initialized = False


def hooked():
    """Everything that a hook has replaced: (owner, name, what is there, what was)."""
    owners = [schedules, schedules._PipelineStageBase, schedules.PipelineScheduleSingle, schedules.PipelineScheduleMulti]
    return [(owner, key, value, value.__wrapped__) for owner in owners for key, value in list(vars(owner).items())
            if "pipefill" in getattr(getattr(value, "__code__", None), "co_filename", "")]


def save(schedule, stages, micro_batches):
    """An evaluation, and checkpoints by both of torch's ways."""
    from torch.distributed import checkpoint
    x = (torch.ones(ROWS * micro_batches, WIDTH),) if stages[0].is_first else ()
    evaluation = type(schedule)(stages[0], micro_batches)  # without a loss; from 2.8 on, schedule.eval() is the same
    with torch.no_grad():
        trace.phase("evaluation", lambda: evaluation.step(*x))
    state, folder = stages[0].submod.state_dict(), os.path.join(os.path.dirname(args.out), "dcp")
    trace.phase("checkpoint", lambda: torch.save(state, args.out + ".pt"))
    trace.phase("checkpoint", lambda: checkpoint.save({f"stage {rank}": state}, checkpoint_id=folder))


def train(name, micro_batches):
    """One part of the run."""
    schedule, stages, count = make(name, micro_batches)
    numbers = [stage.stage_index for stage in stages]
    parameters = [p for stage in stages for p in stage.submod.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    generator = torch.Generator().manual_seed(1)
    history = []
    replaced = hooked() if args.toggle else []
    dist.barrier()
    trace.begin(f"{name}:{micro_batches}")
    for step in range(args.steps):
        rows = ROWS
        if args.change and step >= args.change:
            rows //= 2
            if step == args.change:
                shrink(schedule, stages)
        for owner, key, with_hook, without in replaced:
            setattr(owner, key, without if step % 2 else with_hook)
        x = torch.randn(rows * micro_batches, WIDTH, generator=generator)
        y = torch.tanh(x.roll(1, 1)) * 0.5
        begin_ns = tracer.now_ns()
        optimizer.zero_grad()
        losses = []
        inputs = (x,) if 0 in numbers else ()
        targets = {"target": y, "losses": losses} if count - 1 in numbers else {}
        schedule.step(*inputs, **targets)
        trace.step(begin_ns)
        optimizer.step()
        history += [sum(float(one) for one in losses) / len(losses)] if losses else []
    if name == "ScheduleGPipe" and not args.change:  # whose stages have learned smaller shapes
        save(schedule, stages, micro_batches)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()
    trace.result(losses=history, parameters=digest, toggled=len(replaced))
    for owner, key, with_hook, _ in replaced:
        setattr(owner, key, with_hook)
    dist.barrier()


dist.init_process_group("gloo", rank=rank, world_size=world)
for part in args.schedules:
    schedule_name, _, number = part.partition(":")
    train(schedule_name, int(number))
by_name = args.newer is not None and hasattr(_wait_batch_p2p, "__wrapped__")
trace.save(args.out, version=torch.__version__, by_name=by_name)
dist.destroy_process_group()
