# SPDX-License-Identifier: Apache-2.0
"""Saving device memory: activation checkpointing, and moving to the host between chunks what the next one needs again.

Neither changes a result. Offloading empties the storages of tensors while the job stands still and fills them before
it goes on, so that tensors, views of them and the graph stay what they are.
"""

import contextlib
import weakref

import torch
from torch.utils import checkpoint as checkpointing


def _storage(tensor):
    """The tensor's untyped storage, in PyTorch 1.13 as in 2."""
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()._storage


def storage_bytes(tensors):
    """Bytes of the tensors' storages, each counted once."""
    return sum({_storage(t).data_ptr(): _storage(t).nbytes() for t in tensors}.values())


def resident(model, optimizers=()):
    """The tensors of a job that stay from pass to pass: (parameters and buffers, gradients, optimizer state)."""
    own = [] if model is None else [*model.parameters(), *model.buffers()]
    groups = [p for o in optimizers for g in o.param_groups for p in g["params"]]
    gradients = {id(p): p.grad for p in [*own, *groups] if p.grad is not None}
    kept = [v for o in optimizers for s in o.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return own, list(gradients.values()), kept


class Offload:
    """Moves parameters, optimizer state or saved activations out at the end of a chunk, and in at the begin of the next."""

    def __init__(self, what, model, optimizers=()):
        self.what, self.model, self.optimizers = what, model, optimizers
        self._saved = weakref.WeakSet()  # activations that the graph holds
        self._out = []  # (tensor, its bytes on the host)

    def _tensors(self):
        own, _, kept = resident(self.model, self.optimizers)
        if self.what == "params":
            return own
        if self.what == "optimizer":
            return [t for t in kept if t.numel() > 1]
        stays = {_storage(t).data_ptr() for t in own}
        return [t for t in list(self._saved) if _storage(t).data_ptr() not in stays]

    @contextlib.contextmanager
    def saving(self):
        """Within the context the activations that autograd keeps are known."""
        if self.what != "activations":
            yield
            return

        def pack(tensor):
            # Another tensor on the same storage: the graph would else hold its own output.
            kept = tensor.detach()
            self._saved.add(kept)
            return kept

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
            yield

    def leave(self):
        """Copies out and frees on the device."""
        seen = set()
        for tensor in self._tensors():
            storage = _storage(tensor)
            if storage.data_ptr() in seen or not storage.nbytes():
                continue
            seen.add(storage.data_ptr())
            size = storage.nbytes()
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            host = torch.empty(size, dtype=torch.uint8, pin_memory=tensor.is_cuda)
            host.copy_(whole, non_blocking=tensor.is_cuda)
            self._out.append((whole, host))
        if any(whole.is_cuda for whole, _ in self._out):
            torch.cuda.synchronize()
        for whole, _ in self._out:
            _storage(whole).resize_(0)

    def enter(self):
        """Allocates on the device and copies in."""
        for whole, host in self._out:
            _storage(whole).resize_(host.numel())
            whole.copy_(host, non_blocking=whole.is_cuda)
        if any(whole.is_cuda for whole, _ in self._out):
            torch.cuda.synchronize()
        self._out.clear()


def blocks(model):
    """The parts of a model whose activations are recomputed: the outermost repeated parts that have parts.

    Parts with BatchNorm are left out: computed again, they would count their batch twice.
    """
    found = []

    def look(module):
        for child in module.children():
            if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) and list(child.children()):
                if not any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in child.modules()):
                    found.append(child)
            else:
                look(child)

    look(model)
    return found


@contextlib.contextmanager
def checkpointed(model, ops):
    """Within the context the blocks of model keep no activations; ops: told while one is computed again."""
    chosen = blocks(model)
    if not chosen:
        raise ValueError(f"checkpoint: {type(model).__name__} has no repeated parts without BatchNorm to be recomputed: "
                         "leave checkpoint out")

    before = {block: vars(block).get("forward") for block in chosen}

    def wrap(block):
        forward = block.forward

        def again(*arguments, **options):
            calls = []

            def once(*inner, **named):
                calls.append(None)
                if len(calls) == 1:
                    return forward(*inner, **named)
                with ops.again():
                    return forward(*inner, **named)

            if not torch.is_grad_enabled():
                return forward(*arguments, **options)
            return checkpointing.checkpoint(once, *arguments, use_reentrant=False, **options)

        block.forward = again

    for block in chosen:
        wrap(block)
    try:
        yield
    finally:
        for block, own in before.items():
            if own is None:
                del block.forward
            else:
                block.forward = own
