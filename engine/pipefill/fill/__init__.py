# SPDX-License-Identifier: Apache-2.0
"""The fill SDK: programs that keep to the gate of a fill job by themselves, and run through anywhere else.

    import pipefill
    for batch, target in pipefill.fill(loader, model, optimizer):   # the body stays as it was

Submit with --pipefill=fill,mode=chunked. pipefill.infer() and pipefill.fill.train() are loops of that kind. See docs/fill-sdk.md.
"""

import sys
import types

import torch

from ..gate import Stopping
from .batch import call_model, device_of, to_device
from .pace import DoesNotFit, Stopped
from .run import Run

__all__ = ["DoesNotFit", "Run", "Stopped", "Stopping", "fill", "infer", "train"]


def fill(loader, model=None, optimizer=None, **options):
    """Returns a Run: iterate over it in place of loader.

    loader: anything that can be iterated over once an epoch. model: its modules are the ops; without it, every module
    that is called. optimizer: one or a list; its step is ops too, and its state is kept.
    Options: epochs=1; checkpoint=PATH: the state is written there every every_s=60 seconds and when the job is told to
    go, and an attempt that finds it continues there; state={name: object with state_dict and load_state_dict} is kept
    as well; split=: which modules are ops (a pattern of paths, a list of them, or a function (path, module) -> bool);
    technique: how memory is saved, None: as planned, else plain; profile=PATH: a fill profile whose times are used until
    they are learned.
    """
    return Run(loader, model, optimizer, **options)


def infer(model, loader, *, device=None, call=None, **options):
    """Returns a Run that yields (batch, output) for each batch of loader, without gradients; model is put in evaluation mode.

    device: where batches are moved, None: where the model's parameters are. call: (model, batch) -> output, None:
    model(batch), or model(*batch) or model(**batch) for what is no tensor. Options as for fill().
    Under an execution plan (docs/plans.md) a pass may be of several batches, or of a part of one: samples must not depend
    on one another, and the last bits of an output may differ with the size of a pass. resize=False: each batch is a pass.
    """
    device = device or device_of(model)
    call = call or call_model
    model.eval()
    run = Run(loader, model, **options)
    run.place = lambda batch: to_device(batch, device, run.pace)

    def forward(batch):
        with torch.no_grad():
            return call(model, batch)

    run.forward = forward
    return run


def train(model, loader, loss, optimizer, *, accumulate=1, scheduler=None, device=None, call=None, each=None, **options):
    """Trains model; returns the Run. loss: (output, target) -> scalar, for batches that are pairs of input and target.

    accumulate: batches whose gradients make one step of the optimizer. scheduler: stepped after it. call as for
    infer(), but it gets the input. each: (step, loss) -> None, called after each batch. Options as for fill().

    The same as:
        for epoch in range(epochs):
            for number, (x, y) in enumerate(loader, 1):
                (loss(model(x), y) / accumulate).backward()
                if number % accumulate == 0: optimizer.step(); optimizer.zero_grad(); scheduler.step()
    """
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate={accumulate}: must be a whole number, 1 or more")
    device = device or device_of(model)
    call = call or call_model
    if scheduler is not None:
        options["state"] = dict(options.get("state") or {}, scheduler=scheduler)
    model.train()
    run = Run(loader, model, optimizer, **options)
    for batch in run:
        inputs, target = to_device(batch, device, run.pace)
        value = loss(call(model, inputs), target)
        # Divided only where it was: x / 1 is one more op in the graph.
        (value / accumulate if accumulate > 1 else value).backward()
        if (run.batch + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
        if each is not None:
            each(run.step, value.detach())
    return run


class _Callable(types.ModuleType):
    """pipefill.fill is this module and the function of its name."""

    def __call__(self, *arguments, **options):
        return fill(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
