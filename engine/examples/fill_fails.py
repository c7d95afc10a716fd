#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A fill job that fails by itself after a little work: exit status 3."""

import sys

import numpy as np


def main():
    values = np.linspace(0.0, 1.0, 100_000)
    for _ in range(200):
        values = np.sqrt(values * values + 1e-3)
    print("fill_fails: the input holds no matrix, giving up", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main())
