# SPDX-License-Identifier: Apache-2.0
"""A batch on its way into a model."""


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
