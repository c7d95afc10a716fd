# SPDX-License-Identifier: Apache-2.0
"""Trains in a process of its own and writes the bits it ended with: OUT [--state FILE] [--kill N | --terminate N]."""

import argparse
import os
import signal

import fill_programs as programs
import pipefill
import torch


class DyingGate(programs.TimedGate):
    """Sends this process a signal at the Nth chunk."""

    def __init__(self, number, at):
        super().__init__(open_s=0.006, period_s=0.008)
        self.number, self.at = number, at

    def yield_(self):
        super().yield_()
        if self.chunks == self.at:
            os.kill(os.getpid(), self.number)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out")
    p.add_argument("--state")
    p.add_argument("--every", type=float, default=0.0)
    p.add_argument("--kill", type=int, default=0)
    p.add_argument("--terminate", type=int, default=0)
    a = p.parse_args()
    torch.set_num_threads(1)
    model, loader, loss = programs.transformer_task(samples=24)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    gate = DyingGate(signal.SIGKILL if a.kill else signal.SIGTERM, a.kill or a.terminate)
    if a.state is None:
        programs.straight(model, loader, loss, optimizer, 3, 2)
    else:
        pipefill.fill.train(model, loader, loss, optimizer, epochs=3, accumulate=2, checkpoint=a.state, every_s=a.every,
                            gate=gate)
    with open(a.out, "wb") as file:
        file.write(programs.bits(model, optimizer) + torch.get_rng_state().numpy().tobytes())


if __name__ == "__main__":
    main()
