# SPDX-License-Identifier: Apache-2.0
"""A loop over batches as a fill job: its body runs in bubbles, op by op, and it continues where an earlier attempt was."""

import contextlib
import importlib
import os
import signal
import threading
import time
import warnings

import torch

from .. import profile_file as formats
from ..gate import Fill
from . import plan as plans
from . import state as states
from . import technique as saving
from .batch import batch_size, joined, parted
from .loader import Batches, generators
from .ops import Ops, optimizer_ops
from .pace import Pace, Stopped
from .times import OpTimes

# Most batches of a loader that one pass is made of: each is fetched by an op of its own.
_JOINED = 256


class Run:
    """for batch in Run(loader, model, optimizer): ...; see pipefill.fill for the arguments.

    epoch, batch and step tell where it is: batch and step count the batches whose body has ended, in the epoch and in
    all, those of earlier attempts included.
    """

    def __init__(self, loader, model=None, optimizer=None, *, epochs=1, state=None, checkpoint=None, every_s=60.0,
                 split=None, technique=None, profile=None, resize=True, gate=None):
        if epochs < 0:
            raise ValueError(f"epochs={epochs}: must be 0 or more")
        if not every_s >= 0:
            raise ValueError(f"every_s={every_s}: must be 0 or more seconds")
        self.loader, self.model, self.epochs = loader, model, epochs
        self.epoch = self.step = 0
        self.pace = None
        self.forward = None  # for inference: a batch on the device -> output; then (batch, output) are yielded
        self.place = lambda batch: batch  # a batch -> the batch on the device
        self._resize = resize  # passes may have another size than batches
        self.optimizers = [] if optimizer is None else optimizer if isinstance(optimizer, (list, tuple)) else [optimizer]
        self._state = dict(state or {})
        self._path, self._every_s, self._split = checkpoint, every_s, split
        self._gate = gate
        self._how = formats.technique(technique or "plain")
        self._chosen = technique is not None  # by the program: a plan's is not taken
        self._plan_id = 0  # of the plan that was last looked at
        self._tables = {}  # by batch size and technique: OpTimes
        self._technique = contextlib.ExitStack()  # what is in force only with the present one
        self._profiled = {} if profile is None else self._times_of(formats.load(profile), profile)
        self.batch = 0
        self._at_epoch = None  # random state at the begin of the epoch
        self._saved_s = time.monotonic()

    def _times_of(self, profile, path):
        """name -> seconds of the configuration that this loop runs in."""
        fitting = [config for config in profile.configs if config.technique == self._how]
        if not fitting:
            have = ", ".join(sorted({str(config.technique) for config in profile.configs}))
            raise ValueError(f"{path}: technique {self._how} was not measured, only {have}: profile it, or use another "
                             "technique=")
        size = getattr(self.loader, "batch_size", None)
        config = next((config for config in fitting if config.batch_size == size), fitting[0])
        # An op of a name may come more than once a pass: it is given what the slowest takes.
        times = {}
        for op in config.ops:
            times[op.name] = max(times.get(op.name, 0.0), op.time_ns * 1e-9)
        return times

    def __iter__(self):
        """Yields the batches that are left. Ends by Stopped, a SystemExit, when the job is told to go."""
        if "PIPEFILL_PROFILE_OUT" in os.environ and self._gate is None:
            for batch in importlib.import_module("..profiler", __package__).script(self):
                if self.forward is None:
                    yield batch
                    continue
                batch = self.place(batch)
                yield batch, self.forward(batch)
        gate = self._gate or Fill()
        with contextlib.ExitStack() as stack:
            stack.callback(gate.close)
            if gate.attached:
                self.pace = Pace(gate, OpTimes(self._profiled))
                self._enter(stack)
            try:
                self._restore()
                yield from self._epochs()
            except Stopped:
                self._leave()
                raise
            if self.pace is not None:
                self.pace.pause()

    def _enter(self, stack):
        """Whatever makes ops of the body, taken back with the stack."""
        pace = self.pace
        stack.callback(lambda: self._technique.close())
        self._enter_technique(self._how)
        stack.enter_context(_on_terminate(pace))
        # The body's exceptions come past here as they are; the gate must not stay taken.
        stack.callback(pace.abandon)

    def _enter_technique(self, how):
        """Makes ops of the body that run by a technique, in place of those before."""
        self._technique.close()
        self._how, self._technique = how, contextlib.ExitStack()
        stack, pace = self._technique, self.pace
        self._make_ops(stack, how)
        if how.offload == "none":
            return
        offload = saving.Offload(how.offload, self.model, self.optimizers)
        stack.enter_context(offload.saving())
        for calls, call in ((pace.on_pause, offload.leave), (pace.on_resume, offload.enter)):
            calls.append(call)
            stack.callback(calls.remove, call)
        # Whatever ends the loop, the program gets its tensors back.
        stack.callback(offload.enter)

    # --- its plan

    def _next_pass(self):
        """A pass begins: its planned configuration, None where it is the loop's own."""
        pace = self.pace
        if pace is None:
            return None
        if getattr(pace.gate, "plan_id", 0) not in (0, self._plan_id):
            self._take_plan()
        follower = pace.follower
        if follower is None:
            return None
        config = follower.begin_pass()
        if follower.strayed:
            self._leave_plan("passes have few of the ops that were planned: profile this program again")
            return None
        key = config.batch_size, str(config.technique)
        if key not in self._tables:
            self._tables[key] = OpTimes(config.times())
        pace.times = self._tables[key]
        if config.technique != self._how:
            pace.boundary("technique")
            self._enter_technique(config.technique)
        return config

    def _take_plan(self):
        """Reads the plan that there is; the one before is left, at the end of a pass, where nothing of it is lost."""
        pace = self.pace
        pace.boundary("plan")
        self._plan_id = pace.gate.plan_id
        try:
            self._plan_id, text = pace.gate.plan()
            plan = plans.read(self._plan_id, text)
        except (OSError, ValueError) as err:
            self._leave_plan(err)
            return
        follower = plans.Follower(plan, self._can)
        if not follower.usable:
            have = ", ".join(sorted(f"batch {c.batch_size} {c.technique}" for c in plan.configs.values()))
            self._leave_plan(f"this loop runs none of its configurations ({have}): profile it as it is")
            return
        pace.follower = follower
        pace.device.more(plan.moved_bytes)
        pace.look()

    def _leave_plan(self, why):
        self.pace.follower = None
        self.pace.device.more(0)
        self.pace.gate.at(0, 0, 0)
        warnings.warn(f"pipefill: the plan is not followed, chunks go as far as fits: {why}", RuntimeWarning, stacklevel=6)

    def _can(self, config):
        """Whether the loop can run in a configuration of a plan."""
        how = config.technique
        if self._chosen and how != self._how:
            return False
        if how.offload != "none" and not torch.cuda.is_available() or how.checkpoint and self.model is None:
            return False
        size = getattr(self.loader, "batch_size", None)
        return self.forward is not None and self._resize or size is None or config.batch_size == size

    @contextlib.contextmanager
    def recording(self, recorder, how, offload):
        """Within the context the body's ops come to a recorder, run by a technique (profiler)."""
        self.pace = recorder
        with contextlib.ExitStack() as stack:
            self._make_ops(stack, how)
            if offload is not None:
                stack.enter_context(offload.saving())
            yield

    def _make_ops(self, stack, how):
        """Has the body's modules and optimizers call self.pace, within the stack's life."""
        ops = Ops(self.pace.module, self.model, self._split)
        stack.enter_context(ops)
        for optimizer in self.optimizers:
            stack.enter_context(optimizer_ops(optimizer, self.pace.boundary, self.pace.device.kind))
        if how.checkpoint:
            stack.enter_context(saving.checkpointed(self.model, ops))

    def endless(self):
        """Batches of the loader, from its begin again and again. ValueError if it has none."""
        while True:
            count = 0
            for batch in self.loader:
                count += 1
                yield batch
            if not count:
                raise ValueError("profile: the loader has no batches: give it data")

    def _epochs(self):
        while self.epoch < self.epochs:
            again = self.batch  # done by an earlier attempt
            if self._path is not None:
                now = states.random_state(generators(self.loader))
                if again:
                    states.set_random_state(self._at_epoch, generators(self.loader))
                else:
                    self._at_epoch = now
            with contextlib.closing(Batches(self.loader, self.pace)) as batches:
                for _ in range(again):
                    if next(batches, self) is self:
                        raise ValueError(f"{self._path} was written after {again} batches of an epoch, and the loader has "
                                         "fewer now: use the same data, or remove it to start anew")
                if again:
                    states.set_random_state(now, generators(self.loader))
                yield from self._bodies(batches)
            self.epoch, self.batch = self.epoch + 1, 0
            self._at_epoch = None
        if self._path is not None:
            self._save()

    def _bodies(self, batches):
        if self.forward is not None:
            yield from self._passes(batches)
            return
        for batch in batches:
            self._next_pass()
            self._protect(True)
            if self.pace is not None:
                self.pace.boundary("step")
            yield batch
            self._done()

    def _done(self):
        """The body of a batch has ended."""
        self.batch += 1
        self.step += 1
        self._protect(False)
        if self._path is not None and time.monotonic() - self._saved_s >= self._every_s:
            self._save()
        if self.pace is not None and self.pace.stopping:
            raise Stopped

    def _passes(self, batches):
        """Inference: (batch, output) of each batch, computed in passes of the size that is planned."""
        for batch in batches:
            config = self._next_pass()
            group = [batch]
            if config is not None and self._resize:
                size = batch_size(batch)
                while (len(group) + 1) * size <= config.batch_size and len(group) < _JOINED:
                    another = next(batches, self)
                    if another is self:
                        break
                    group.append(another)
            self._protect(True)
            if self.pace is not None:
                self.pace.boundary("step")
            group = [self.place(one) for one in group]
            for one, output in zip(group, self._outputs(group, config)):
                self._protect(True)
                yield one, output
                self._done()

    def _outputs(self, group, config):
        """The output of each batch of the group."""
        if len(group) > 1:
            whole = joined(group)
            outputs = None if whole is None else parted(self.forward(whole), [batch_size(one) for one in group])
            if outputs is not None:
                return outputs
            self._keep_sizes()
        elif config is not None and self._resize and batch_size(group[0]) > config.batch_size:
            output = self._in_parts(group[0], config)
            if output is not None:
                return [output]
            self._keep_sizes()
        # One by one, as they are asked for.
        return map(self.forward, group)

    def _in_parts(self, batch, config):
        """The output of a batch that is longer than a planned pass; None where it has no parts."""
        outputs, rest = [], batch
        while batch_size(rest) > config.batch_size:
            parts = parted(rest, [config.batch_size, batch_size(rest) - config.batch_size])
            if parts is None:
                return None
            outputs.append(self.forward(parts[0]))
            rest, config = parts[1], self._next_pass() or config
        return joined([*outputs, self.forward(rest)])

    def _keep_sizes(self):
        self._resize = False
        warnings.warn("pipefill: batches or outputs of this program cannot be joined and parted by samples: passes keep the "
                      "loader's batch size, whatever the plan says", RuntimeWarning, stacklevel=6)

    def _protect(self, on):
        if self.pace is not None:
            self.pace.protect = on and self._path is not None

    def _leave(self):
        """Told to go between two bodies: writes where it is."""
        if self._path is not None and not self.pace.protect:
            self.pace.protect = True
            with contextlib.suppress(Stopped):  # no time left: the last one that was written holds
                self._save()

    # --- what is kept

    def _modules(self):
        kept = dict(self._state)
        if self.model is not None:
            kept["model"] = self.model
        for number, optimizer in enumerate(self.optimizers):
            kept[f"optimizer.{number}"] = optimizer
        return kept

    def _gradients(self):
        if self.model is None:
            return {}
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}

    def _save(self):
        if self.pace is not None:
            self.pace.boundary("state.collect")
        everything = {
            "epoch": self.epoch, "batch": self.batch, "step": self.step, "at_epoch": self._at_epoch,
            "random": states.random_state(generators(self.loader)), "gradients": self._gradients(),
            "parts": {name: part.state_dict() for name, part in self._modules().items()},
        }
        pace = self.pace
        states.save(self._path, everything, pace and pace.boundary, pace and pace.pause)
        self._saved_s = time.monotonic()

    def _restore(self):
        if self._path is None:
            return
        everything = states.load(self._path)
        if everything is None:
            return
        parts, ours = everything["parts"], self._modules()
        if set(parts) != set(ours):
            raise ValueError(f"{self._path} holds {sorted(parts)}, and this program keeps {sorted(ours)}: use the program "
                             "that wrote it, or remove it to start anew")
        for name, part in ours.items():
            part.load_state_dict(parts[name])
        if self.model is not None:
            for name, parameter in self.model.named_parameters():
                gradient = everything["gradients"].get(name)
                parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self.epoch, self.batch, self.step = everything["epoch"], everything["batch"], everything["step"]
        self._at_epoch = everything["at_epoch"]
        states.set_random_state(everything["random"], generators(self.loader))


@contextlib.contextmanager
def _on_terminate(pace):
    """Within the context SIGTERM asks the job to end at its next op, where the program has no handler of its own."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(*_):
        pace.terminate = True

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
