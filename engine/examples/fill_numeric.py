#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A numerical program that knows nothing of pipefill: heat on a square plate, by Jacobi's method.

    fill_numeric.py STEPS DIGEST_FILE [SIZE]

Writes the SHA-256 of the whole plate after STEPS steps.
"""

import hashlib
import sys

import numpy as np


def main():
    steps, path = int(sys.argv[1]), sys.argv[2]
    size = int(sys.argv[3]) if len(sys.argv) > 3 else 400
    plate = np.zeros((size, size))
    plate[0, :] = np.linspace(0.0, 100.0, size)
    plate[:, -1] = 50.0 + 50.0 * np.sin(np.arange(size) / 17.0)
    for _ in range(steps):
        plate[1:-1, 1:-1] = 0.25 * (plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:])
    with open(path, "w", encoding="ascii") as file:
        file.write(hashlib.sha256(plate.tobytes()).hexdigest() + "\n")


if __name__ == "__main__":
    main()
