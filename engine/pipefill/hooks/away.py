# SPDX-License-Identifier: Apache-2.0
"""Moves a main job's optimizer state to host memory over some bubbles, where it is told that this pays.

Between two steps nobody needs it. PIPEFILL_OFFLOAD=optimizer=2-5 is what a plan finds to pay (main_offload of
`pipefill-cli plan --main-state`, docs/plans.md): the state leaves the device at the begin of bubble 2, before it is
announced, and comes back from the end of bubble 5 on, beside what is computed then; a step waits for it. Without that
setting nothing is moved, and nothing registered.

Tensors keep their identity: their storages are emptied and filled again, as FSDP does, so that views of them stay right.
"""

import contextlib
import importlib
import os
import re
import time
import warnings
import weakref

SMALLEST = 1 << 20  # bytes; what is less than that is not worth a transfer of its own
PATIENCE_S = 30  # for which a step waits until the device has room again for what is away


def told(text):
    """What PIPEFILL_OFFLOAD says, as (out, in): bubbles' indices; None if it says nothing. ValueError if it is wrong."""
    if not text:
        return None
    found = re.fullmatch(r"optimizer=(\d{1,3})-(\d{1,3})", text)
    if not found or int(found[1]) > int(found[2]):
        raise ValueError(f"PIPEFILL_OFFLOAD={text!r}: write optimizer=OUT-IN, indices of bubbles, OUT not after IN, like "
                         "optimizer=2-5")
    return int(found[1]), int(found[2])


class Cuda:
    """The device whose memory is wanted: a GPU of torch's."""

    def __init__(self, torch):
        self._torch = torch
        self._stream = None

    def holds(self, tensor):
        """Whether it is there."""
        return tensor.is_cuda

    def host(self, storage):
        """Host memory for what is in storage, which transfers need no copy in between for."""
        return self._torch.empty(storage.nbytes(), dtype=self._torch.uint8, pin_memory=True)

    def leave(self, pairs):
        """Copies (bytes on the device, bytes of the host) pairs out; they are there when it returns."""
        for there, here in pairs:
            here.copy_(there, non_blocking=True)
        self._torch.cuda.current_stream().synchronize()

    def release(self):
        """Gives the device what the caching allocator keeps."""
        self._torch.cuda.empty_cache()

    def come(self, pairs):
        """Begins to copy back. Returns what to call before the bytes are used."""
        cuda = self._torch.cuda
        if self._stream is None:
            self._stream = cuda.Stream()
        self._stream.wait_stream(cuda.current_stream())
        with cuda.stream(self._stream):
            for there, here in pairs:
                there.copy_(here, non_blocking=True)
        done = self._stream.record_event()
        return lambda: cuda.current_stream().wait_event(done)


class Away:
    """The state of every optimizer that takes a step in this process, by torch's hooks around steps.

    places: as told() returns them. device: as Cuda. moved: bytes that left the last time; costs_ns: what that took;
    stopped: why nothing leaves any more, None while it does. Only what a step or a checkpoint needs and does not get
    raises into the program.
    """

    def __init__(self, torch, places, device=None):
        self._torch, (self._out, self._in) = torch, places
        self._device = device or Cuda(torch)
        self._optimizers = weakref.WeakSet()
        self._hosts = {}  # by storage: what was pinned for it
        self._absent = []  # (storage, host) of what is away
        self._waits = []  # what to call before what comes back is used
        self.stopped = None
        self.moved = self.costs_ns = 0
        hooks = importlib.import_module("torch.optim.optimizer")  # torch.optim hides it
        self._handles = [hooks.register_optimizer_step_pre_hook(lambda *_: self._need()),
                         hooks.register_optimizer_step_post_hook(lambda optimizer, *_: self._meet(optimizer))]

    def begin(self, index):
        """That bubble is about to be announced."""
        if index != self._out or self._absent or self.stopped is not None:
            return
        begin_ns = time.monotonic_ns()
        try:
            self._leave()
        except Exception as err:  # pylint: disable=broad-except
            self._stop(f"{type(err).__name__}: {err}")
        self.costs_ns = time.monotonic_ns() - begin_ns

    def end(self, index):
        """That bubble is over."""
        if index == self._in:
            self.iteration()

    def iteration(self):
        """What is away begins to come back. If the device has no room for all of it, a step waits until it has."""
        try:
            self._come()
        except self._torch.cuda.OutOfMemoryError:
            self._stop("the device had no room when it was to come back")

    def close(self):
        """Has all of it back, for good."""
        self.stopped = self.stopped or "closed"
        self._need()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hosts.clear()

    def _meet(self, optimizer):
        if optimizer not in self._optimizers:
            self._optimizers.add(optimizer)
            self._handles.append(optimizer.register_state_dict_pre_hook(lambda _: self._need()))

    def _storages(self):
        """Those on the device that have state, each once."""
        found = {}
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                for value in state.values() if isinstance(state, dict) else ():
                    value = getattr(value, "_local_tensor", value)  # a DTensor's part that is here
                    if self._torch.is_tensor(value) and self._device.holds(value):
                        storage = value.untyped_storage()
                        if storage.nbytes() >= SMALLEST:
                            found[storage._cdata] = storage
        return found

    def _leave(self):
        self._need()  # what came back the last time, and nobody has used since
        storages = self._storages()
        for key in self._hosts.keys() - storages.keys():
            del self._hosts[key]
        for key, storage in storages.items():
            if key not in self._hosts or self._hosts[key].numel() != storage.nbytes():
                self._hosts[key] = self._device.host(storage)
        pairs = [(storage, self._hosts[key]) for key, storage in storages.items()]
        self._device.leave([(self._bytes(storage), host) for storage, host in pairs])
        # Nothing has been emptied before all of it is in the host's memory.
        for storage, host in pairs:
            self._absent.append((storage, host))
            storage.resize_(0)
        self.moved = sum(host.numel() for _, host in pairs)
        if pairs:
            self._device.release()

    def _come(self):
        """Begins to take back what is away, as much as there is room for: OutOfMemoryError if that is not all."""
        arriving = []
        try:
            for storage, host in self._absent:
                storage.resize_(host.numel())
                arriving.append((storage, host))
        finally:
            if arriving:
                self._waits.append(self._device.come([(self._bytes(storage), host) for storage, host in arriving]))
            del self._absent[:len(arriving)]

    def _need(self):
        """Has all of it on the device before it returns, as far as the current stream sees."""
        late = time.monotonic() + PATIENCE_S
        while self._absent:
            try:
                self._come()
            except self._torch.cuda.OutOfMemoryError:
                if time.monotonic() > late:
                    raise
                self._device.release()
                time.sleep(0.01)
        while self._waits:
            self._waits.pop()()

    def _bytes(self, storage):
        return self._torch.empty(0, dtype=self._torch.uint8, device=storage.device).set_(storage)

    def _stop(self, why):
        if self.stopped is None:
            self.stopped = why
            with contextlib.suppress(RuntimeWarning):  # with warnings as errors
                warnings.warn(f"pipefill: optimizer state stays on the device from now on: {why}", RuntimeWarning,
                              stacklevel=3)


def wanted(torch):
    """The Away that PIPEFILL_OFFLOAD asks for, None if it asks for none; a warning if it cannot be had."""
    try:
        places = told(os.environ.get("PIPEFILL_OFFLOAD", ""))
        return Away(torch, places) if places else None
    except (ValueError, ImportError, AttributeError) as err:
        with contextlib.suppress(RuntimeWarning):
            warnings.warn(f"pipefill: no optimizer state is moved: {err}", RuntimeWarning, stacklevel=2)
        return None
