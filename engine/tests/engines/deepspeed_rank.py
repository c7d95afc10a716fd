# SPDX-License-Identifier: Apache-2.0
"""One rank of a DeepSpeed pipeline on CPU; nothing in it knows of pipefill.

    deepspeed_rank.py MICRO_BATCHES STEPS OUT.json
"""

import hashlib
import os
import sys

micro_batches, steps, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rank = int(os.environ["RANK"])
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[rank % len(cores)]})  # gloo's threads inherit it
for name, value in {"USE_LIBUV": "0", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu",
                    "DS_BUILD_OPS": "0"}.items():
    os.environ.setdefault(name, value)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import tracer  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)
trace = tracer.Tracer(dist)
trace.watch_calls()
trace.watch_flush(dist, "broadcast")  # of the loss, at the end of a step

import deepspeed  # noqa: E402

# Would be compiled on first use, for all-reduces in shared memory.
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None

WIDTH, ROWS, LAYERS = 512, 8, 20


class Layer(nn.Module):
    """A layer of a perceptron."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + torch.relu(self.linear(x)) * 0.1


def data():
    generator = torch.Generator().manual_seed(1)
    while True:
        x = torch.randn(ROWS, WIDTH, generator=generator)
        yield x, torch.tanh(x.roll(1, 1)) * 0.5


def main():
    deepspeed.init_distributed(dist_backend="gloo")
    torch.manual_seed(100)
    model = deepspeed.pipe.PipelineModule(layers=[Layer() for _ in range(LAYERS)], num_stages=dist.get_world_size(),
                                          loss_fn=nn.functional.mse_loss, partition_method="uniform")
    engine, _, _, _ = deepspeed.initialize(model=model, model_parameters=list(model.parameters()), config={
        "train_micro_batch_size_per_gpu": ROWS, "gradient_accumulation_steps": micro_batches,
        "optimizer": {"type": "SGD", "params": {"lr": 0.05}}, "steps_per_print": 10**6})
    batches = data()
    losses = []
    dist.barrier()
    trace.begin("train")
    for _ in range(steps):
        begin_ns = tracer.now_ns()
        losses.append(float(engine.train_batch(batches)))
        trace.step(begin_ns)
    trace.phase("evaluation", lambda: engine.eval_batch(batches))
    trace.phase("checkpoint", lambda: engine.save_checkpoint(os.path.join(os.path.dirname(out), "checkpoint")))
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    trace.result(losses=losses, parameters=digest)
    trace.save(out, version=deepspeed.__version__)


main()
