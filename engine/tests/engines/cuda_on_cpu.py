# SPDX-License-Identifier: Apache-2.0
"""Answers what Megatron-Core asks of CUDA, where a pipeline needs none of it, for the CPU: it has no CPU back-end."""

import contextlib

import torch


def _made(make):
    """make, whose device="cuda" means the CPU."""
    def made(*args, **kwargs):
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        return make(*args, **kwargs)
    return made


class _Stream:
    def __init__(self, *_, **__):
        pass


def answer():
    """From here on."""
    torch.cuda.current_device = lambda: "cpu"
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.cuda.Stream, torch.cuda.stream = _Stream, contextlib.nullcontext
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *_: None
    torch.zeros, torch.tensor, torch.empty = _made(torch.zeros), _made(torch.tensor), _made(torch.empty)
