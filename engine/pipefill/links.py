# SPDX-License-Identifier: Apache-2.0
"""How stages exchange activations and gradients, so that a rank that waits leaves its device idle.

PostedLinks (CPU, gloo): receives are posted when the iteration begins and waited for in the kernel.
TokenLinks (GPU, NCCL): a posted NCCL receive spins on the device until its sender is there, which is no idle time. So
the sender says with a word over gloo that its tensor is ready, the receiver waits for that word, its device idle, and
only then posts the receive, which takes no longer than the transfer. Activations and gradients have a communicator
each: the two directions of one would wait for each other. A send that its receiver is not ready for spins on the
sender's device until then (nccl#1025); it does not hold up what the sender computes.
"""

import datetime

import torch
import torch.distributed as dist

ACTIVATION, GRADIENT = 1, 2

# A stage that checkpoints, compiles or loads data lets its neighbours wait; gloo's and NCCL's half hour is kept.
_TIMEOUT = datetime.timedelta(minutes=30)


def _tag(kind, micro_batch):
    return (kind << 16) + micro_batch


class PostedLinks:
    """Over the default process group, with CPU tensors."""

    def __init__(self, device=None):
        self.device = torch.device(device or "cpu")
        self._sending = []

    def post(self, shape, source, kind, micro_batch):
        """Prepares a receive; give what it returns to wait()."""
        buffer = torch.empty(shape)
        return dist.irecv(buffer, source, tag=_tag(kind, micro_batch)), buffer

    def wait(self, posted, ready):
        """Returns the tensor of a receive; calls ready() once it is known to be there."""
        request, buffer = posted
        request.wait()
        ready()
        return buffer

    def send(self, tensor, destination, kind, micro_batch):
        """Sends without waiting; flush() keeps the tensor until the other side has it."""
        tensor = tensor.contiguous()
        self._sending.append((dist.isend(tensor, destination, tag=_tag(kind, micro_batch)), tensor))

    def flush(self):
        """Waits until all sends have arrived."""
        for request, _tensor in self._sending:
            request.wait()
        self._sending.clear()

    def settle(self):
        """Returns once the device has done all that it was given."""


class TokenLinks(PostedLinks):
    """With words of readiness over the default group (gloo), and tensors over groups of their own.

    backend: of the tensors' groups; "nccl" with a CUDA device, and "gloo" on CPU, where the tests run it. Every rank
    makes its links at the same time, as process groups need.
    """

    def __init__(self, device, backend):
        super().__init__(device)
        everybody = list(range(dist.get_world_size()))
        self._groups = {kind: dist.new_group(everybody, timeout=_TIMEOUT, backend=backend)
                        for kind in (ACTIVATION, GRADIENT)}

    def post(self, shape, source, kind, micro_batch):
        """Prepares for the word that the tensor is ready."""
        word = torch.zeros(1)
        return dist.irecv(word, source, tag=_tag(kind, micro_batch)), shape, source, kind

    def wait(self, posted, ready):
        """Waits for the word, its device idle, calls ready(), and then takes the tensor."""
        request, shape, source, kind = posted
        request.wait()
        ready()
        buffer = torch.empty(shape, device=self.device)
        dist.recv(buffer, source, group=self._groups[kind])
        self.settle()
        return buffer

    def send(self, tensor, destination, kind, micro_batch):
        """Sends the word once the device has computed the tensor, and the tensor."""
        tensor = tensor.contiguous()
        self.settle()
        word = torch.ones(1)
        self._sending.append((dist.isend(word, destination, tag=_tag(kind, micro_batch)), word))
        self._sending.append((dist.isend(tensor, destination, group=self._groups[kind]), tensor))

    def settle(self):
        """Returns once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()


def make(name, device):
    """The links called "posted" or "token"; "auto": posted on CPU, token on a GPU."""
    device = torch.device(device)
    if name == "auto":
        name = "token" if device.type == "cuda" else "posted"
    if name == "token":
        return TokenLinks(device, "nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        raise ValueError("posted receives spin on a GPU: use token links there")
    return PostedLinks(device)
