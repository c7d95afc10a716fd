# SPDX-License-Identifier: Apache-2.0
"""A rank's own trace (docs/traces.md): what it waited for and when, kept in memory and written at the end."""

import json
import os
import time

now_ns = time.monotonic_ns  # CLOCK_MONOTONIC, as in the shared pages


class Trace:
    """Collects records; close() writes rank-<rank>.jsonl into directory. A directory of None keeps nothing."""

    def __init__(self, directory, rank, **run):
        self._path = None
        self._lines = []
        self.waited_ns = 0
        if directory:
            os.makedirs(directory, exist_ok=True)
            self._path = os.path.join(directory, f"rank-{rank}.jsonl")
            self._lines.append({"type": "run", "rank": rank, **run})

    def wait(self, iteration, index, kind, begin_ns, end_ns):
        """One wait in a receive or the flush, transfer time already taken off."""
        if end_ns <= begin_ns:
            return
        self.waited_ns += end_ns - begin_ns
        if self._path:
            self._lines.append({"type": "wait", "iteration": iteration, "index": index, "kind": kind,
                                "begin_ns": begin_ns, "end_ns": end_ns})

    def iteration(self, iteration, begin_ns, end_ns):
        """One iteration, from mark to mark."""
        if self._path:
            self._lines.append({"type": "iteration", "iteration": iteration, "begin_ns": begin_ns, "end_ns": end_ns})

    def close(self):
        """Writes the trace; a second call writes nothing."""
        if not self._path:
            return
        partial = self._path + ".partial"
        with open(partial, "w", encoding="utf-8") as file:
            for line in self._lines:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        os.replace(partial, self._path)
        self._path = None
