# SPDX-License-Identifier: Apache-2.0
"""A batch on its way into a model, alone, in parts or with others."""

import torch


def to_device(batch, device, pace=None):
    """batch with its tensors on device; the copy is the op "copy"."""
    if device is None or device.type == "cpu":
        return batch
    if pace is not None:
        pace.boundary("copy")
    return _to(batch, device)


def _to(value, device):
    if hasattr(value, "to"):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _to(part, device) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_to(part, device) for part in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_to(part, device) for part in value)
    return value


def device_of(model):
    """Where a model's parameters are; None if it has none."""
    return next((parameter.device for parameter in model.parameters()), None)


def call_model(model, batch):
    """model's output for a batch that is a tensor, or a list, tuple or dict of arguments."""
    if isinstance(batch, dict):
        return model(**batch)
    if isinstance(batch, (list, tuple)):
        return model(*batch)
    return model(batch)


def tensors(value):
    """The tensors of a batch, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


def batch_size(batch):
    """Samples of a batch: the first dimension of its first tensor; 1 where there is none."""
    return next((t.shape[0] for t in tensors(batch) if t.dim()), 1)


class _Whole(Exception):
    """Something of a batch has no samples that it could be joined or parted by."""


def joined(batches):
    """The batches as one, None where they cannot be: each tensor along its first dimension."""
    try:
        return _join(batches, [batch_size(batch) for batch in batches])
    except _Whole:
        return None


def _join(values, sizes):
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        raise _Whole
    if isinstance(first, torch.Tensor):
        if any(not t.dim() or t.shape[0] != n or t.shape[1:] != first.shape[1:] or t.dtype != first.dtype
               for t, n in zip(values, sizes)):
            raise _Whole
        return torch.cat(values)
    if isinstance(first, dict):
        if any(list(value) != list(first) for value in values):
            raise _Whole
        return type(first)({key: _join([value[key] for value in values], sizes) for key in first})
    if isinstance(first, (list, tuple)):
        if any(len(value) != len(first) for value in values):
            raise _Whole
        parts = [_join(list(part), sizes) for part in zip(*values)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if first is None:
        return None
    raise _Whole


def parted(value, sizes):
    """value as one of each of the sizes, None where it cannot be: each tensor along its first dimension."""
    try:
        return _part(value, sizes)
    except _Whole:
        return None


def _part(value, sizes):
    if isinstance(value, torch.Tensor):
        if not value.dim() or value.shape[0] != sum(sizes):
            raise _Whole
        return list(torch.split(value, sizes))
    if isinstance(value, dict):
        parts = {key: _part(part, sizes) for key, part in value.items()}
        return [type(value)({key: part[i] for key, part in parts.items()}) for i in range(len(sizes))]
    if isinstance(value, (list, tuple)):
        parts = [_part(part, sizes) for part in value]
        every = [[part[i] for part in parts] for i in range(len(sizes))]
        return [type(value)(*one) if hasattr(value, "_fields") else type(value)(one) for one in every]
    if value is None:
        return [None] * len(sizes)
    raise _Whole
