# SPDX-License-Identifier: Apache-2.0
"""A rank's own trace (docs/traces.md): what it did and waited for, in ns of CLOCK_MONOTONIC.

Records are tuples in memory until flush(), which the engine calls between two iterations: writing takes
milliseconds and belongs to neither.
"""

import os
import time

now_ns = time.monotonic_ns  # CLOCK_MONOTONIC, as in the shared pages

# Iterations between two writes, or ns, whichever is less. At ~35 records each 64 iterations take 3 ms to write, one
# iteration's noise, and a job that is killed loses this much of its trace at most.
FLUSH_ITERATIONS = 64
FLUSH_NS = 10_000_000_000

_FORMATS = {
    "iteration": '{"type":"iteration","iteration":%d,"begin_ns":%d,"end_ns":%d}\n',
    "wait": '{"type":"wait","iteration":%d,"index":%d,"kind":"%s","begin_ns":%d,"end_ns":%d}\n',
    "instruction": '{"type":"instruction","iteration":%d,"op":"%s","micro_batch":%d,"begin_ns":%d,"end_ns":%d}\n',
}


class Trace:
    """Collects records and appends them to rank-<rank>.jsonl in directory; a directory of None keeps nothing.

    waited_ns: the sum of all waits so far, kept in any case.
    """

    def __init__(self, directory, rank):
        self.waited_ns = 0
        self.keeps = bool(directory)
        self._records = []
        self._iterations, self._written_ns = 0, now_ns()
        self._file = None
        if self.keeps:
            os.makedirs(directory, exist_ok=True)
            self._file = open(os.path.join(directory, f"rank-{rank}.jsonl"), "w", encoding="utf-8")

    def run(self, line):
        """The first line: a JSON object of type run, already encoded."""
        if self.keeps:
            self._file.write(line + "\n")
            self._file.flush()

    def wait(self, iteration, index, kind, begin_ns, end_ns):
        """One wait in a receive or the flush, transfer time already taken off; one of no length is left out."""
        if end_ns <= begin_ns:
            return
        self.waited_ns += end_ns - begin_ns
        if self.keeps:
            self._records.append(("wait", iteration, index, kind, begin_ns, end_ns))

    def instruction(self, iteration, op, micro_batch, begin_ns, end_ns):
        """One instruction of the list; micro_batch is -1 of those that have none."""
        if self.keeps:
            self._records.append(("instruction", iteration, op, micro_batch, begin_ns, end_ns))

    def iteration(self, iteration, begin_ns, end_ns):
        """One iteration, from mark to mark."""
        if self.keeps:
            self._records.append(("iteration", iteration, begin_ns, end_ns))
            self._iterations += 1

    def due(self, now):
        """Whether it is time to flush(), at now in ns."""
        return self.keeps and (self._iterations >= FLUSH_ITERATIONS or now - self._written_ns >= FLUSH_NS)

    def flush(self):
        """Writes what was collected, whole lines in one go."""
        if self._file is None:
            return
        self._iterations, self._written_ns = 0, now_ns()
        self._file.write("".join(_FORMATS[record[0]] % record[1:] for record in self._records))
        self._file.flush()
        self._records.clear()

    def close(self):
        """Writes the rest; more records are dropped."""
        self.flush()
        if self._file is not None:
            self._file.close()
        self._file, self.keeps = None, False
