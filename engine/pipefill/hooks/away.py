# SPDX-License-Identifier: Apache-2.0
"""Moves a main job's optimizer state to host memory over some bubbles, where it is told that this pays.

Between two steps nobody needs it. The node says so for each iteration (Main.moves), where the site lets it and a fill
job's plan gains by it; PIPEFILL_OFFLOAD=optimizer=2-5, by hand, wins over that (main_offload of `pipefill-cli plan
--main-state`, docs/plans.md). The state leaves the device at the begin of bubble 2, before it is announced, and comes
back from the end of bubble 5 on, beside what is computed then; a step waits for it. Where neither says so nothing is
moved, and nothing registered.

Tensors keep their identity: their storages are emptied and filled again, as FSDP does, so that views of them stay right.
"""

import contextlib
import importlib
import os
import re
import time
import warnings
import weakref

from .memory import due

SMALLEST = 1 << 20  # bytes; what is less than that is not worth a transfer of its own
PATIENCE_S = 30  # for which a step waits until the device has room again for what is away
PIN_S = 0.01  # a bubble, until host memory is pinned for all of it: some 4 GB/s, and a main job may wait no longer
LINK_BYTES_S = 5e9  # what is told before anything was measured: half of PCIe 3.0 x16, as eight devices may share a host's memory


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
        self._coming = None, None  # events around the last coming back

    def holds(self, tensor):
        """Whether it is there."""
        return tensor.is_cuda

    def host(self, storage):
        """Host memory for what is in storage, which transfers need no copy in between for."""
        return self._torch.empty(storage.nbytes(), dtype=self._torch.uint8, pin_memory=True)

    def leave(self, pairs):
        """Copies (bytes on the device, bytes of the host) pairs out; they are there when it returns. Returns the ns that the
        transfers took, without what the stream had to do before."""
        begin = self._mark()
        for there, here in pairs:
            here.copy_(there, non_blocking=True)
        done = self._mark()
        done.synchronize()
        return int(begin.elapsed_time(done) * 1e6)

    def passed(self):
        """Returns once the device has done what it was given: a program runs ahead of it, and memory that is taken again
        is gone at once."""
        self._torch.cuda.current_stream().synchronize()

    def _mark(self):
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event

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
            begin = self._mark()
            for there, here in pairs:
                there.copy_(here, non_blocking=True)
            done = self._mark()
        self._coming = begin, done
        return lambda: cuda.current_stream().wait_event(done)

    def came_ns(self):
        """What the last coming back took; 0 while that is not known."""
        begin, done = self._coming
        return int(begin.elapsed_time(done) * 1e6) if done is not None and done.query() else 0


class Away:
    """The state of every optimizer that takes a step in this process, by torch's hooks around steps.

    places: as told() returns them, None: ask() has them of the node. device: as Cuda. moved: bytes that left the last
    time; times: how often; out_ns, in_ns: what leaving and coming back take; stopped: why nothing leaves any more, None
    while it does. Only what a step or a checkpoint needs and does not get raises into the program.
    """

    def __init__(self, torch, places=None, device=None):
        self._torch, self._by_hand = torch, places is not None
        self._out, self._in = places or (None, None)
        self._device = device or Cuda(torch)
        self._optimizers = weakref.WeakSet()
        self._hosts = {}  # by storage: what was pinned for it
        self._absent = []  # (storage, host) of what is away
        self._waits = []  # what to call before what comes back is used
        self._handles = []
        self._main = None  # that asks
        self._asked = 0
        self.stopped = None
        self.moved = self.times = self.out_ns = self.in_ns = 0
        if self._by_hand:
            self._register()

    def _register(self):
        hooks = importlib.import_module("torch.optim.optimizer")  # torch.optim hides it
        self._handles = [hooks.register_optimizer_step_pre_hook(lambda *_: self._need()),
                         hooks.register_optimizer_step_post_hook(lambda optimizer, *_: self._meet(optimizer))]

    def ask(self, main):
        """An iteration has begun: whether state leaves in it main says, unless a person has."""
        if self._by_hand or self.stopped is not None:
            return
        places = main.moves()
        self._out, self._in = places or (None, None)
        if places is None:
            return
        self._main = main
        if not self._handles:
            try:
                self._register()
            except (ImportError, AttributeError) as err:
                self._stop(f"{type(err).__name__}: {err}")
                return
        if due(self._asked):
            self._tell(sum(storage.nbytes() for storage in self._storages().values()))
        self._asked += 1

    def _tell(self, size):
        if self._main is not None:
            guess_ns = int(size / LINK_BYTES_S * 1e9)
            self._main.movable(size, self.out_ns or guess_ns, self.in_ns or guess_ns, self.times)

    @property
    def unsaid(self):
        """Bytes that are free only because the node has had them moved: its plan counts them itself."""
        return 0 if self._by_hand else sum(host.numel() for _, host in self._absent)

    def begin(self, index):
        """That bubble is about to be announced."""
        if index != self._out or self._absent or self.stopped is not None:
            return
        try:
            self._leave()
        except Exception as err:  # pylint: disable=broad-except
            self._stop(f"{type(err).__name__}: {err}")

    def end(self, index):
        """That bubble is over."""
        if index == self._in and self._absent:
            self._device.passed()
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
        self._tell(0)
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
        if not self._pinned(storages):
            return  # in a later iteration
        pairs = [(storage, self._hosts[key]) for key, storage in storages.items()]
        self.in_ns = max(self._device.came_ns(), int(0.95 * self.in_ns))
        took_ns = self._device.leave([(self._bytes(storage), host) for storage, host in pairs])
        # Nothing has been emptied before all of it is in the host's memory.
        begin_ns = time.monotonic_ns()
        for storage, host in pairs:
            self._absent.append((storage, host))
            storage.resize_(0)
        self.moved = sum(host.numel() for _, host in pairs)
        if pairs:
            self._device.release()
            took_ns += time.monotonic_ns() - begin_ns
            self.out_ns = max(took_ns, int(0.95 * self.out_ns))
            self.times += 1
            self._tell(self.moved)

    def _pinned(self, storages):
        """Pins host memory for PIN_S, and says whether all of storages has some."""
        late = time.monotonic() + PIN_S
        for key, storage in storages.items():
            if key not in self._hosts or self._hosts[key].numel() != storage.nbytes():
                if time.monotonic() > late:
                    return False
                self._hosts[key] = self._device.host(storage)
        return True

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
                self._stop("the device had no room when it was needed")
                self._device.release()
                time.sleep(0.01)
        while self._waits:
            self._waits.pop()()

    def _bytes(self, storage):
        return self._torch.empty(0, dtype=self._torch.uint8, device=storage.device).set_(storage)

    def _stop(self, why):
        if self.stopped is None:
            self.stopped = why
            self._tell(0)  # whoever has its room has to go
            with contextlib.suppress(RuntimeWarning):  # with warnings as errors
                warnings.warn(f"pipefill: optimizer state stays on the device from now on: {why}", RuntimeWarning,
                              stacklevel=3)


def wanted(torch):
    """The Away that does what PIPEFILL_OFFLOAD asks for, or else the node; None and a warning if it cannot be had."""
    try:
        return Away(torch, told(os.environ.get("PIPEFILL_OFFLOAD", "")))
    except (ValueError, ImportError, AttributeError) as err:
        with contextlib.suppress(RuntimeWarning):
            warnings.warn(f"pipefill: no optimizer state is moved: {err}", RuntimeWarning, stacklevel=2)
        return None
