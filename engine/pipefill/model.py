# SPDX-License-Identifier: Apache-2.0
"""A small decoder-only transformer, cut into pipeline stages."""

import math
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from .corpus import VOCABULARY


class Block(nn.Module):
    """Causal self-attention and a feed-forward net, pre-norm; [batch, sequence, width] in and out."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_forward = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x):
        batch, sequence, width = x.shape
        size = width // self.heads
        q, k, v = (t.view(batch, sequence, self.heads, size).transpose(1, 2)
                   for t in self.qkv(self.norm_attention(x)).split(width, dim=2))
        scores = q @ k.transpose(-2, -1) / math.sqrt(size)
        future = torch.ones(sequence, sequence, dtype=torch.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, sequence, width))
        return x + self.down(functional.gelu(self.up(self.norm_forward(x))))


class Stage(nn.Module):
    """Stage `stage` of `stages`: its share of the blocks; the first also embeds, the last also predicts.

    The last stage's head costs time that the first one's embedding does not, so `hidden` of the last stage's blocks is
    smaller by as many multiplications as the head has: the stages then take equally long within a few per cent.
    """

    def __init__(self, stage, stages, layers=2, width=160, heads=4, sequence=64, seed=0):
        super().__init__()
        if layers < 1:
            raise ValueError(f"{layers} blocks a stage: write 1 or more")
        torch.manual_seed(seed * 1000 + stage)
        self.first, self.last = stage == 0, stage == stages - 1
        hidden = 4 * width
        if self.last and stages > 1:
            hidden -= VOCABULARY // (2 * layers)
        if self.first:
            self.tokens = nn.Embedding(VOCABULARY, width)
            self.positions = nn.Parameter(torch.randn(sequence, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        if self.last:
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, VOCABULARY)

    def forward(self, x):
        """Characters [batch, sequence] (first stage) or activations in; activations or logits (last stage) out."""
        if self.first:
            x = self.tokens(x) + self.positions[:x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)) if self.last else x


def loss(logits, targets):
    """Mean cross-entropy in nats of logits [batch, sequence, vocabulary] against targets [batch, sequence]."""
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def stage_times_s(stages, batch=10, rounds=9, **options):
    """Measures forward plus backward of one micro-batch on each stage, in seconds, here and one after another.

    options are Stage's. The medians show how well the stages are balanced: an unbalanced pipeline has bubbles that no
    schedule explains.
    """
    modules = [Stage(stage, stages, **options) for stage in range(stages)]
    sequence = options.get("sequence", 64)
    inputs = torch.randint(VOCABULARY, (batch, sequence), generator=torch.Generator().manual_seed(1))
    times = [[] for _ in modules]
    for _ in range(rounds):
        x = inputs
        for module, took in zip(modules, times):
            begin = time.perf_counter()
            out = module(x)
            (loss(out, inputs) if module.last else out.sum()).backward()
            took.append(time.perf_counter() - begin)
            x = out.detach().requires_grad_()
    return [statistics.median(took) for took in times]
