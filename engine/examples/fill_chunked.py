#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A fill job that keeps to the gate by itself: the logistic map over many values, in chunks that fit a bubble.

    fill_chunked.py STEPS DIGEST_FILE

Submit it with --pipefill=fill,mode=chunked. Outside a fill job it runs through. Writes the SHA-256 of all values.
"""

import hashlib
import os
import sys
import time

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from pipefill.gate import Fill, Stopping


def main():
    steps, path = int(sys.argv[1]), sys.argv[2]
    values = np.linspace(0.1, 0.9, 30_000)
    scratch = np.empty_like(values)
    fill = Fill()
    # What a step needs of the core, learned as it goes: most of the last 32, and a little more. Not the slowest: one
    # that was disturbed would ask for more than any bubble has, and never be followed by a better one.
    recent = [1e-3]
    try:
        for _ in range(steps):
            need = 1.1 * sorted(recent)[len(recent) * 3 // 4]
            if fill.left() < need:
                fill.wait(need_s=need)
            begin = time.thread_time()
            for _ in range(10):
                np.subtract(1.0, values, out=scratch)
                np.multiply(values, scratch, out=values)
                np.multiply(values, 3.7, out=values)
            recent = recent[-31:] + [time.thread_time() - begin]
    except Stopping:
        print("fill_chunked: told to end", file=sys.stderr)
        return 75
    fill.close()
    with open(path, "w", encoding="ascii") as file:
        file.write(hashlib.sha256(values.tobytes()).hexdigest() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
