#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A home-made pipeline of two stages that announces its bubbles. Needs no PyTorch.

    srun --pipefill -n2 sh -c 'python3 bubbles.py $SLURM_PROCID /tmp/socket 100'

Rank 0 runs a forward, sends its activation and waits for the gradient; rank 1 waits for the activation. What they wait
is announced, and nothing else.
"""

import multiprocessing.connection as connection
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from pipefill.bubble import Kind, Main


def compute(values, rounds):
    """A stage's work."""
    for _ in range(rounds):
        values = [3.7 * x * (1 - x) for x in values]
    return values


def meet(rank, path):
    """Rank 1 listens, rank 0 comes."""
    if rank == 1:
        with connection.Listener(path, "AF_UNIX") as listener:
            return listener.accept()
    for _ in range(1000):
        try:
            return connection.Client(path, "AF_UNIX")
        except OSError:
            time.sleep(0.01)
    raise SystemExit(f"bubbles: nobody listens at {path}")


def main():
    rank, path, iterations = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    link = meet(rank, path)
    bubbles = Main()  # this process's device; does nothing outside a main job
    values = [0.1 + 0.8 * i / 5000 for i in range(5000)]
    for _ in range(iterations):
        if rank == 0:
            link.send(compute(values, 10))  # forward
            bubbles.begin(Kind.FWD_BWD, 0)
            values = link.recv()
            bubbles.end()
            values = compute(values, 20)  # backward
        else:
            bubbles.begin(Kind.FILL_DRAIN, 0)  # what is left of the flush before it, too
            values = link.recv()
            bubbles.end()
            values = compute(values, 30)  # forward and backward
            link.send(values)
        bubbles.iteration()  # after the optimizer step
    bubbles.close()
    print(f"{values[2500]:.6f}")


if __name__ == "__main__":
    main()
