# SPDX-License-Identifier: Apache-2.0
"""Batches of a loader as ops. A loader's worker processes are stopped with the gate: they are the fill job's too."""

import concurrent.futures
import contextlib
import os
import signal


class Batches:
    """Iterates over loader once; each fetch is the op "load".

    pace: None where no gate is to be kept.
    """

    def __init__(self, loader, pace=None):
        if pace is not None:
            pace.boundary("workers")
        self._iterator = iter(loader)
        self._pace = pace
        self._workers = [worker.pid for worker in getattr(self._iterator, "_workers", ())]
        self._pool = None
        if pace is not None and self._workers:
            self._pool = concurrent.futures.ThreadPoolExecutor(1, "pipefill-load")
            pace.on_pause.append(self._stop)
            pace.on_resume.insert(0, self._continue)
            if not pace.running:
                self._stop()

    def __iter__(self):
        return self

    def __next__(self):
        if self._pace is not None:
            self._pace.boundary("load")
        if self._pool is None:
            return next(self._iterator)
        return self._await(self._pool.submit(next, self._iterator, _END))

    def _await(self, future):
        """What the workers made, for which more than one bubble may be needed."""
        while True:
            try:
                batch = future.result(timeout=max(self._pace.gate.left() - self._pace.margin.seconds, 0.0))
            except concurrent.futures.TimeoutError:
                self._pace.next_bubble()
                continue
            if batch is _END:
                raise StopIteration
            return batch

    def _stop(self):
        self._signal(signal.SIGSTOP)

    def _continue(self):
        self._signal(signal.SIGCONT)

    def _signal(self, number):
        for pid in self._workers:
            # One that has ended is the loader's to report.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self):
        """Lets the workers go on and end."""
        if self._pool is None:
            return
        self._pace.on_pause.remove(self._stop)
        self._pace.on_resume.remove(self._continue)
        self._continue()
        self._pool.shutdown(wait=True)
        self._workers = []


_END = object()


def generators(loader):
    """The random generators that a loader draws from besides PyTorch's own, each once."""
    found = []
    for holder in (loader, getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
        generator = getattr(holder, "generator", None)
        if generator is not None and all(generator is not other for other in found):
            found.append(generator)
    return found
