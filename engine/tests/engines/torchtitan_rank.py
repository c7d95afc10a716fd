# SPDX-License-Identifier: Apache-2.0
"""One rank of torchtitan's own trainer on CPU: a small Llama of its own, a schedule after the other; nothing in it knows of
pipefill.

    torchtitan_rank.py OUT.json STEPS SCHEDULE:MICRO_BATCHES... [--cure]

Everything from Trainer(config) on is torchtitan's: splitting the model, building the schedule, optimizer, learning rates,
clipping, checkpoints. What it asks of CUDA is answered here for the CPU, and batches are random numbers instead of a data
set's. --cure: works around pytorch#132644, where no hook does.
"""

import argparse
import hashlib
import importlib.machinery
import os
import shutil
import socket
import sys
import types

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("steps", type=int)
parser.add_argument("schedules", nargs="+")
parser.add_argument("--cure", action="store_true")
args = parser.parse_args()
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[rank % len(cores)]})  # gloo's threads inherit it
for name, value in {"USE_LIBUV": "0", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}.items():
    os.environ.setdefault(name, value)
os.environ["LOCAL_RANK"] = "0"  # a process sees one device, as with a GPU a task

import stand_in  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import tracer  # noqa: E402

torch.set_num_threads(1)
trace = tracer.Tracer(dist)
trace.watch_batches(args.cure)
# torchtitan takes a GPU where torch knows of no other device (tools/utils.py, get_device_info), sets it (train.py) and asks
# for its memory (components/metrics.py).
torch._utils._get_available_device_type = lambda: "cpu"
for name, answer in {"get_device_name": "none", "current_device": 0, "memory_stats": {}, "reset_peak_memory_stats": None,
                     "empty_cache": None, "get_device_properties": types.SimpleNamespace(total_memory=1 << 30)}.items():
    setattr(torch.cpu, name, lambda *_, answer=answer: answer)
# The package as a whole imports experiments, which want Triton; Llama's module imports what reads data sets and writes boards.
package = sys.modules["torchtitan"] = types.ModuleType("torchtitan")
package.__path__ = importlib.machinery.PathFinder.find_spec("torchtitan").submodule_search_locations
stand_in.stand_in("datasets", "tiktoken", "torch.utils.tensorboard")

from torchtitan import train as titan  # noqa: E402
from torchtitan.components.tokenizer import Tokenizer  # noqa: E402
from torchtitan.config_manager import ConfigManager  # noqa: E402
from torchtitan.models import llama3  # noqa: E402
from torchtitan.protocols import train_spec  # noqa: E402

titan.time = types.SimpleNamespace(**vars(titan.time) | {"sleep": lambda _: None})  # 2 s at the end, for who reads its log
titan.logger.setLevel("ERROR")
SEQUENCE, ROWS, WORDS = 32, 2, 256


class Numbers(Tokenizer):
    """A vocabulary without words."""

    def __init__(self, _config):
        super().__init__()
        self._n_words = WORDS

    def encode(self, text):
        raise NotImplementedError

    decode = encode


class Batches(titan.train_spec_module.BaseDataLoader):
    """Random sequences in which the next word follows from the last one, the same for every rank."""

    def __init__(self, dp_world_size, dp_rank, tokenizer, job_config):
        del dp_world_size, dp_rank
        self._words, self._rows = tokenizer.n_words, job_config.training.local_batch_size

    def __iter__(self):
        generator = torch.Generator().manual_seed(1)
        while True:
            first = torch.randint(self._words, (self._rows, 1), generator=generator)
            words = (first + 7 * torch.arange(SEQUENCE + 1)) % self._words
            yield {"input": words[:, :-1]}, words[:, 1:]

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


titan.train_spec_module.register_train_spec(train_spec.TrainSpec(
    name="tiny", cls=llama3.Transformer, parallelize_fn=llama3.parallelize_llama, pipelining_fn=llama3.pipeline_llama,
    config={"tiny": llama3.TransformerModelArgs(dim=64, n_layers=6, n_heads=4, rope_theta=500000)},
    build_optimizers_fn=llama3.build_optimizers, build_lr_schedulers_fn=llama3.build_lr_schedulers,
    build_dataloader_fn=Batches, build_tokenizer_fn=Numbers, build_loss_fn=llama3.build_cross_entropy_loss))


class Traced(titan.Trainer):
    """The trainer, whose steps are timed and losses kept."""

    history = ()

    def __init__(self, config):
        super().__init__(config)
        save = self.checkpointer.save
        self.checkpointer.save = lambda step, force=False: (
            trace.phase("checkpoint", lambda: save(step, force)) if self.checkpointer._should_save(step, force) else None)

    def forward_backward_step(self, *batch):
        begin_ns = tracer.now_ns()
        loss = super().forward_backward_step(*batch)
        trace.step(begin_ns)
        if self.pp_has_last_stage:
            self.history.append(float(loss.detach()))
        return loss


def train(name, micro_batches):
    """One part of the run."""
    folder = f"{args.out}.{name}"
    config = ConfigManager().parse_args([
        "--model.name", "tiny", "--model.flavor", "tiny", "--job.dump_folder", folder,
        "--training.steps", str(args.steps), "--training.seq_len", str(SEQUENCE), "--training.seed", "1",
        "--training.local_batch_size", str(ROWS * micro_batches), "--lr_scheduler.warmup_steps", "2",
        "--parallelism.pipeline_parallel_degree", str(world), "--parallelism.pipeline_parallel_schedule", name,
        "--parallelism.pipeline_parallel_microbatch_size", str(ROWS), "--activation_checkpoint.mode", "none",
        "--checkpoint.enable_checkpoint", "--checkpoint.interval", str(10 * args.steps)])
    trainer = Traced(config)
    trainer.history = []
    dist.barrier()
    trace.begin(f"{name}:{micro_batches}")
    trainer.train()
    parameters = [p for part in trainer.model_parts for p in part.parameters()]
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()
    trace.result(losses=trainer.history, parameters=digest)
    trainer.close()
    leave()
    shutil.rmtree(folder)


def leave():
    """Ends the process group; the next one meets at another port, since the last one's store may be there still."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = [probe.getsockname()[1]]
    dist.broadcast_object_list(port, src=0)
    os.environ["MASTER_PORT"] = str(port[0])
    dist.destroy_process_group()


for part in args.schedules:
    schedule_name, _, number = part.partition(":")
    train(schedule_name, int(number))
trace.save(args.out, version=importlib.metadata.version("torchtitan"))
