# SPDX-License-Identifier: Apache-2.0
"""One rank of NeMo's own trainer on CPU, with MegatronStrategy and a small model; nothing in it knows of pipefill.

    nemo_rank.py MICRO_BATCHES STEPS OUT.json

Everything from trainer.fit() on is NeMo's, Lightning's and Megatron-Core's: the strategy, MegatronParallel and its data
sampler, Megatron's DDP and optimizer, the loop. What they ask of CUDA is answered for the CPU.
"""

import hashlib
import importlib
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
import stand_in  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import tracer  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(1)
cuda_on_cpu.answer()
trace = tracer.Tracer(dist)
trace.watch_batches(False)
stand_in.stand_in("huggingface_hub", "onnx", "pandas", "sentencepiece", "transformers", "wget", "nemo.collections.llm")
warnings.filterwarnings("ignore")  # of engines for GPUs that are not there

import lightning.pytorch as pl  # noqa: E402
from lightning.fabric.plugins.environments import LightningEnvironment  # noqa: E402
from megatron.core.enums import ModelType  # noqa: E402
from megatron.core.optimizer import OptimizerConfig  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402
from nemo import lightning as nl  # noqa: E402
from nemo.lightning.megatron_parallel import MegatronLossReduction  # noqa: E402
from nemo.package_info import __version__  # noqa: E402

# MegatronStep asks whether a model is distilled, of the package with all of NeMo's models; else this returns None.
distill = importlib.import_module("nemo.collections.llm.modelopt.distill.utils")
distill.get_tensor_shapes_adjust_fn_for_distillation = lambda *_, **__: None
WIDTH, ROWS, LAYERS = 512, 8, 10


class Here(LightningEnvironment):
    """The ranks as they were started."""

    creates_processes_externally = True

    def global_rank(self):
        return rank

    def world_size(self):
        return world

    def node_rank(self):
        return rank

    def local_rank(self):
        return 0

    def set_global_rank(self, rank):
        pass

    set_world_size = set_global_rank


class Loss(MegatronLossReduction):
    """The mean over a step's micro-batches."""

    def forward(self, batch, forward_out):
        value = nn.functional.mse_loss(forward_out, torch.tanh(batch.roll(1, 2)) * 0.5)
        return value, {"loss": value.detach()}

    def reduce(self, losses_reduced_per_micro_batch):
        return torch.stack([one["loss"] for one in losses_reduced_per_micro_batch]).mean()


class Layers(nn.Module):
    """Layers of a perceptron: this rank's stage."""

    share_embeddings_and_output_weights = False

    def __init__(self, config):
        super().__init__()
        torch.manual_seed(100 + rank)
        self.config = config
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.input = None
        self.pre_process, self.post_process = rank == 0, rank == world - 1

    def set_input_tensor(self, tensor):
        self.input = tensor[0] if isinstance(tensor, list) else tensor

    def forward(self, x):
        if self.input is not None:
            x = self.input
        for layer in self.layers:
            x = x + torch.relu(layer(x)) * 0.1
        return x


class Model(pl.LightningModule, nl.io.IOMixin):
    """As NeMo's models are written: a module made by configure_model, and what Megatron's schedules call."""

    def __init__(self):
        super().__init__()
        self.config = TransformerConfig(num_layers=world, hidden_size=WIDTH, num_attention_heads=1)
        # Without clipping, which asserts tensors of a GPU (clip_grads.py, line 167).
        self.optim = nl.MegatronOptimizerModule(OptimizerConfig(
            optimizer="sgd", lr=0.05, bf16=False, fp16=False, use_distributed_optimizer=False, clip_grad=0.0))
        self.optim.connect(self)
        self.model_type = ModelType.encoder_or_decoder

    def configure_model(self, vp_stage=None):
        del vp_stage
        if not hasattr(self, "module"):
            self.module = Layers(self.config)

    def data_step(self, iterator):
        batch = next(iterator)
        batch = batch[0] if isinstance(batch, tuple) else batch
        return batch.transpose(0, 1).contiguous()  # as Megatron has them: the sequence first

    def forward_step(self, batch):
        return self.module(batch)

    def forward(self, batch):
        return self.module(batch)

    def training_step(self, batch, batch_idx=None):
        return self.forward_step(batch)

    validation_step = training_step

    @property
    def training_loss_reduction(self):
        return Loss()

    validation_loss_reduction = training_loss_reduction


class Batches(torch.utils.data.Dataset):
    """Random rows, the same on each rank."""

    def __len__(self):
        return (steps + 8) * micro_batches

    def __getitem__(self, index):
        return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(int(index)))


class Traced(pl.Callback):
    """Times each step of the strategy's and keeps its losses."""

    def __init__(self):
        self.losses = []

    def setup(self, trainer, pl_module, stage):
        del pl_module, stage
        original = trainer.strategy.training_step

        def training_step(*args, **kwargs):
            if not self.losses:
                trace.begin("MegatronStrategy")
            begin_ns = tracer.now_ns()
            loss = original(*args, **kwargs)
            trace.step(begin_ns)
            self.losses.append(float(loss.detach()))
            return loss

        trainer.strategy.training_step = training_step


traced = Traced()
sampler = nl.MegatronDataSampler(seq_len=ROWS, micro_batch_size=1, global_batch_size=micro_batches)
strategy = nl.MegatronStrategy(data_sampler=sampler, pipeline_model_parallel_size=world, pipeline_dtype=torch.float32,
                               ckpt_async_save=False, cluster_environment=Here())
trainer = nl.Trainer(accelerator="cpu", devices=1, num_nodes=world, strategy=strategy, max_steps=steps, logger=False,
                     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[traced],
                     use_distributed_sampler=False, limit_val_batches=0, num_sanity_val_steps=0)
model = Model()
trainer.fit(model, torch.utils.data.DataLoader(Batches()))
parameters = list(model.module.parameters())
digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()
trace.result(losses=traced.losses, parameters=digest, kept=model.config.timers is strategy.timers)
trace.save(out, version=__version__)
