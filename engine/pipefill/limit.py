# SPDX-License-Identifier: Apache-2.0
"""Keeps PyTorch in a fill job within the device memory of its slot: the allocator then refuses by itself.

enable() is what site/sitecustomize.py calls in a fill job on a GPU, before PyTorch is imported; the fill SDK sets the same
limit. It is PyTorch's own and binds what goes through its allocator, in one process: pipefilld looks at the whole job.
"""

import importlib.util
import os
import sys

# What a process takes by a context alone, which PyTorch's limit does not count: 0.3 to 0.6 GB (PF_CONTEXT_BYTES of
# engine/launch/memory.h is the same).
CONTEXT_BYTES = 600 << 20


def bytes_of(environ):
    """The device memory that a fill job may have by its environment, in bytes; 0 where it is no job on a GPU, or nobody
    knows. What is no number is 0 too: the variable is set by pipefill."""
    if environ.get("PIPEFILL_ROLE") != "fill" or not environ.get("PIPEFILL_DEVICE", "").startswith("gpu:"):
        return 0
    text = environ.get("PIPEFILL_MEM_BYTES", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def fraction(limit_bytes, total_bytes):
    """The part of total_bytes that PyTorch may take of a limit for the whole process, 0..1. Pure."""
    return min(max(limit_bytes - CONTEXT_BYTES, 0) / total_bytes, 1.0)


def set_limit(cuda, limit_bytes, environ=None):
    """Sets the limit by cuda, which is torch.cuda, for its current device, of a job with several for each; 0 sets none."""
    if not limit_bytes:
        return
    count = len((os.environ if environ is None else environ).get("PIPEFILL_DEVICES", "").split())
    for device in range(count) if count > 1 else (None,):
        # Of what the driver says there is, as the allocator does: the launch library says what the job may have.
        _, total = cuda.mem_get_info(device)
        cuda.set_per_process_memory_fraction(fraction(limit_bytes, total), device)


def explain(error, limit_bytes, taken_bytes):
    """What an error of memory running out means, as one line; None if error is another."""
    if type(error).__name__ != "OutOfMemoryError":
        return None
    return (f"pipefill: out of device memory: PyTorch had taken {taken_bytes / 2**20:.0f} MiB, and the job's slot has "
            f"{limit_bytes / 2**20:.0f} MiB, {CONTEXT_BYTES / 2**20:.0f} of them for its context; use a smaller batch, or ask "
            "for a slot with more by --pipefill=fill,mem=SIZE")


def _explain_at_exit(limit_bytes):
    """Has the program's last word on an error explained."""
    before = sys.excepthook

    def excepthook(kind, error, traceback):
        before(kind, error, traceback)
        cuda = sys.modules.get("torch.cuda")
        text = explain(error, limit_bytes, cuda.memory_allocated() if cuda is not None else 0)
        if text is not None:
            print(text, file=sys.stderr)

    sys.excepthook = excepthook


class _Finder:
    """Finds nothing itself: it has torch.cuda set the limit once it starts CUDA, after it is imported."""

    def __init__(self, limit_bytes):
        self._limit_bytes = limit_bytes
        self._finding = False

    def find_spec(self, name, path=None, target=None):
        """As importlib.abc.MetaPathFinder.find_spec."""
        if name != "torch.cuda" or self._finding:
            return None
        self._finding = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._finding = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                when_started(module, self._limit_bytes)

            spec.loader.exec_module = exec_module
        return spec


def when_started(cuda, limit_bytes):
    """Has cuda, which is torch.cuda, set the limit once the program starts CUDA, and not before."""

    def start():
        try:
            set_limit(cuda, limit_bytes)
        except Exception as err:  # pylint: disable=broad-except
            print(f"pipefill: PyTorch keeps no limit on device memory: {type(err).__name__}: {err}", file=sys.stderr)

    try:
        cuda._lazy_call(start)
    except Exception as err:  # pylint: disable=broad-except
        print(f"pipefill: PyTorch keeps no limit on device memory: {type(err).__name__}: {err}", file=sys.stderr)


def enable(environ=None):
    """Sets the limit of a fill job on a GPU when its program imports PyTorch. Returns the limit in bytes, 0: none."""
    limit_bytes = bytes_of(os.environ if environ is None else environ)
    if limit_bytes:
        sys.meta_path.insert(0, _Finder(limit_bytes))
        _explain_at_exit(limit_bytes)
    return limit_bytes
