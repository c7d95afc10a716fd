# SPDX-License-Identifier: Apache-2.0
"""One rank of Megatron-Core pipelines, without and with interleaving, with timers as NeMo has; nothing in it knows of pipefill.

    megatron_rank.py MICRO_BATCHES STEPS OUT.json

Megatron-Core has no CPU back-end: what it asks of CUDA where a pipeline needs none is answered here for the CPU.
"""

import hashlib
import os
import sys
import warnings

micro_batches, steps, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[rank % len(cores)]})  # gloo's threads inherit it
for name, value in {"USE_LIBUV": "0", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}.items():
    os.environ.setdefault(name, value)

import cuda_on_cpu  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import tracer  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)
cuda_on_cpu.answer()
trace = tracer.Tracer(dist)
trace.watch_calls()

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", module="megatron")  # of engines for GPUs that are not there
    from megatron.core import ModelParallelConfig, dist_checkpointing, package_info, parallel_state
    from megatron.core.enums import ModelType
    from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
    from megatron.core.timers import Timers

WIDTH, ROWS, LAYERS = 512, 8, 10


class Stage(nn.Module):
    """Layers of a perceptron, with what the schedules ask of a model."""

    share_embeddings_and_output_weights = False

    def __init__(self, chunks, chunk):
        super().__init__()
        torch.manual_seed(100 + rank + world * chunk)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS // chunks))
        self.input = None
        self.model_type = ModelType.encoder_or_decoder
        self.vp_stage = chunk if chunks > 1 else None
        self.last = rank == world - 1 and chunk == chunks - 1
        self.config = ModelParallelConfig(pipeline_model_parallel_size=world, pipeline_dtype=torch.float32,
                                          batch_p2p_comm=False, batch_p2p_sync=False,
                                          deallocate_pipeline_outputs=False)
        for name, value in {"hidden_size": WIDTH, "calculate_per_token_loss": False, "num_moe_experts": None,
                            "mtp_num_layers": None, "enable_autocast": False, "init_model_with_meta_device": False,
                            "sequence_parallel": False, "context_parallel_size": 1,
                            "fine_grained_activation_offloading": False, "cuda_graph_impl": "none"}.items():
            setattr(self.config, name, value)

    def set_input_tensor(self, tensor):
        self.input = tensor[0] if isinstance(tensor, list) else tensor

    def forward(self, x):
        if self.input is not None:
            x = self.input
        for layer in self.layers:
            x = x + torch.relu(layer(x)) * 0.1
        return x


def data():
    generator = torch.Generator().manual_seed(1)
    while True:
        yield torch.randn(ROWS, 1, WIDTH, generator=generator)


def forward_step(iterator, model, *_):
    x = next(iterator)
    y = torch.tanh(x.roll(1, 2)) * 0.5

    def loss(output):
        value = nn.functional.mse_loss(output, y)
        return value, {"loss": value.detach()}

    return model(x), loss


def train(chunks, overlap=False):
    """One part of the run: so many stages a rank, and whether communication overlaps computing."""
    parallel_state.initialize_model_parallel(pipeline_model_parallel_size=world,
                                             virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None)
    model = [Stage(chunks, chunk) for chunk in range(chunks)]
    timers = Timers(2, "minmax")  # as NeMo's MegatronStrategy gives its own
    for stage in model:
        stage.config.timers = timers
        stage.config.overlap_p2p_comm = overlap
        stage.config.virtual_pipeline_model_parallel_size = chunks if chunks > 1 else None
    parameters = [p for stage in model for p in stage.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    run = get_forward_backward_func()
    batches = [data() for _ in model]
    losses = []
    dist.barrier()
    trace.begin(run.__name__ + ", overlapped" * overlap)
    for _ in range(steps):
        begin_ns = tracer.now_ns()
        optimizer.zero_grad()
        done = run(forward_step_func=forward_step, data_iterator=batches if chunks > 1 else batches[0],
                   model=model if chunks > 1 else model[0], num_microbatches=micro_batches, seq_length=ROWS,
                   micro_batch_size=1, forward_only=False)
        trace.step(begin_ns)
        optimizer.step()
        losses += [sum(float(one["loss"]) for one in done) / len(done)] if done else []
    trace.phase("evaluation", lambda: run(
        forward_step_func=forward_step, data_iterator=batches if chunks > 1 else batches[0],
        model=model if chunks > 1 else model[0], num_microbatches=micro_batches, seq_length=ROWS, micro_batch_size=1,
        forward_only=True))
    trace.phase("checkpoint", lambda: torch.save([stage.state_dict() for stage in model], f"{out}.pt"))
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()
    timed = sorted(name for name, timer in timers._timers.items() if timer.elapsed(reset=False) > 0)
    trace.result(losses=losses, parameters=digest, timed=timed, kept=all(s.config.timers is timers for s in model))
    dist.barrier()
    parallel_state.destroy_model_parallel()


dist.init_process_group("gloo", rank=rank, world_size=world)
train(1)
train(2)
train(2, overlap=True)
saves = hasattr(dist_checkpointing.save, "pipefill_original")  # it wants processes of its own: not run here
trace.save(out, version=package_info.__version__, saves=saves)
