# SPDX-License-Identifier: Apache-2.0
"""The other stages of a pipeline, of which one is real. Pure: times are numbers, in seconds.

A lateness that is measured against arrivals of a recording costs nothing but itself. Here the other stages wait for what
the real one sends, so that what it is late by comes back to it, as in a pipeline.
"""

import random

from pipefill.schedule import Op, instructions

_SENDS = {Op.SEND_ACTIVATION: (Op.RECV_ACTIVATION, 1), Op.SEND_GRADIENT: (Op.RECV_GRADIENT, -1)}


class Durations:
    """What each stage's parts take, in seconds: forward and backward of a micro-batch, the optimizer, a transfer."""

    def __init__(self, forward_s, backward_s, step_s=0.0, link_s=0.0):
        for name, value in (("forward_s", forward_s), ("backward_s", backward_s), ("step_s", step_s), ("link_s", link_s)):
            if not value >= 0:
                raise ValueError(f"{name}={value}: must be 0 or more seconds")
        self.of = {Op.FORWARD: forward_s, Op.BACKWARD: backward_s, Op.STEP: step_s, Op.BUBBLE: 0.0}
        self.link_s = link_s


class _Stage:
    def __init__(self, program, begin_s):
        self.program = program
        self.at = 0
        self.iteration = 0
        self.clock = begin_s
        self.ends = []  # of iterations


class Pipeline:
    """Stages that run instruction lists against each other's sends.

    real: the stages that are somebody else's to run (received() and sent() are theirs); late: () -> seconds that a
    stage which waited is late by when it goes on.
    """

    def __init__(self, schedule, stages, micro_batches, durations, real=(), begin_s=0.0, late=None):
        self._stages = {s: _Stage(instructions(schedule, s, stages, micro_batches), begin_s)
                        for s in range(stages) if s not in real}
        self._durations = durations
        self._late = late or (lambda: 0.0)
        self._arrivals = {}  # (stage, op, iteration, micro-batch) -> when

    def sent(self, stage, op, iteration, micro_batch, at_s):
        """stage, which is real, has sent at at_s."""
        receive, step = _SENDS[op]
        self._arrivals[stage + step, receive, iteration, micro_batch] = at_s + self._durations.link_s

    def received(self, stage, op, iteration, micro_batch):
        """When what stage, which is real, waits for arrives. RuntimeError if it hangs on what stage has yet to send."""
        key = (stage, op, iteration, micro_batch)
        if key not in self._arrivals:
            self._advance(lambda s: True)
        if key not in self._arrivals:
            raise RuntimeError(f"stage {stage} waits for {op.value} {micro_batch} of iteration {iteration}, which hangs on what "
                               "it has not sent")
        return self._arrivals.pop(key)

    def run(self, iterations):
        """Runs all stages to the end of so many iterations, none of them real. Returns stage 0's iterations' ends."""
        self._advance(lambda s: s.iteration < iterations)
        return self._stages[0].ends

    def _advance(self, going_on):
        moved = True
        while moved:
            moved = False
            for number, stage in self._stages.items():
                while going_on(stage) and self._execute(number, stage):
                    moved = True

    def _execute(self, number, stage):
        """One instruction of a stage; False if what it waits for is not known yet."""
        instruction = stage.program[stage.at]
        op = instruction.op
        if op in (Op.RECV_ACTIVATION, Op.RECV_GRADIENT):
            arrival = self._arrivals.pop((number, op, stage.iteration, instruction.micro_batch), None)
            if arrival is None:
                return False
            if arrival > stage.clock:
                stage.clock = arrival + self._late()
        elif op in _SENDS:
            self.sent(number, op, stage.iteration, instruction.micro_batch, stage.clock)
        else:
            stage.clock += self._durations.of[op]
        stage.at += 1
        if stage.at == len(stage.program):
            stage.at = 0
            stage.iteration += 1
            stage.ends.append(stage.clock)
        return True


def project(schedule, stages, micro_batches, durations, lateness_s, tensor_parallel=1, iterations=20, seed=0):
    """The slow-down, as a part of an iteration, of a whole pipeline whose every wait is late as measured on one stage.

    lateness_s: the measured ones, each wait's; a stage is late by the latest of its tensor_parallel peers, since they
    go on together. Drawn at random, from seed.
    """
    if not lateness_s:
        raise ValueError("no lateness was measured: run more iterations")
    draw = random.Random(seed)
    samples = [max(value, 0.0) for value in lateness_s]

    def late():
        return max(draw.choice(samples) for _ in range(tensor_parallel))

    def length(late):
        ends = Pipeline(schedule, stages, micro_batches, durations, late=late).run(iterations + 2)
        return (ends[-1] - ends[1]) / (len(ends) - 2)  # the first two fill the pipeline

    return length(late) / length(None) - 1
