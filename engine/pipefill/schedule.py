# SPDX-License-Identifier: Apache-2.0
"""Pipeline schedules as instruction lists, bubbles included. Pure.

After PipeFill (arXiv 2410.07192) and DeepSpeed's engine: each stage runs a list of instructions, and where it may wait
for another stage the list says so with a bubble instruction, which carries the bubble's kind and its index within
the iteration.
"""

import dataclasses
import enum

from .bubble import Kind


class Op(enum.Enum):
    """What an instruction does."""

    RECV_ACTIVATION = "recv_activation"  # from the stage before; waits
    RECV_GRADIENT = "recv_gradient"  # from the stage after; waits
    FORWARD = "forward"
    BACKWARD = "backward"
    SEND_ACTIVATION = "send_activation"
    SEND_GRADIENT = "send_gradient"
    BUBBLE = "bubble"  # the next instruction waits
    STEP = "step"  # the optimizer


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One step of a stage; kind and index only of bubbles."""

    op: Op
    micro_batch: int = -1
    kind: Kind = Kind.OTHER
    index: int = -1


def _compute_order(schedule, stage, stages, micro_batches):
    """The forwards ("F", i) and backwards ("B", i) of one stage, in order."""
    forwards = [("F", i) for i in range(micro_batches)]
    backwards = [("B", i) for i in range(micro_batches)]
    if schedule == "gpipe":
        return forwards + backwards
    warm_up = min(stages - stage - 1, micro_batches)
    order = forwards[:warm_up]
    for forward, backward in zip(forwards[warm_up:], backwards):
        order += [forward, backward]
    return order + backwards[micro_batches - warm_up:]


def instructions(schedule, stage, stages, micro_batches):
    """The instruction list of one iteration of one stage.

    schedule: "gpipe" or "1f1b". Raises ValueError on others, and on numbers that make no pipeline.
    """
    if schedule not in ("gpipe", "1f1b"):
        raise ValueError(f"schedule {schedule!r}: write gpipe or 1f1b")
    if stages < 1 or micro_batches < 1 or not 0 <= stage < stages:
        raise ValueError(f"stage {stage} of {stages} with {micro_batches} micro-batches makes no pipeline")
    first, last = stage == 0, stage == stages - 1
    # The first backward that no forward goes before: 1F1B drains from there.
    cool_down = micro_batches - min(stages - stage - 1, micro_batches) if schedule == "1f1b" else micro_batches
    out = []
    bubbles = 0
    forwards = backwards = 0

    def bubble(kind):
        nonlocal bubbles
        out.append(Instruction(Op.BUBBLE, kind=kind, index=bubbles))
        bubbles += 1

    for what, i in _compute_order(schedule, stage, stages, micro_batches):
        if what == "F":
            if not first:
                # The first wait is the fill of the pipeline, and what is left of the flush before it.
                bubble(Kind.FILL_DRAIN if forwards == 0 else Kind.STEADY)
                out.append(Instruction(Op.RECV_ACTIVATION, i))
            out.append(Instruction(Op.FORWARD, i))
            if not last:
                out.append(Instruction(Op.SEND_ACTIVATION, i))
            forwards += 1
            continue
        if not last:
            if backwards == 0:
                bubble(Kind.FWD_BWD)
            else:
                bubble(Kind.FILL_DRAIN if i >= cool_down else Kind.STEADY)
            out.append(Instruction(Op.RECV_GRADIENT, i))
        out.append(Instruction(Op.BACKWARD, i))
        if not first:
            out.append(Instruction(Op.SEND_GRADIENT, i))
        backwards += 1
    out.append(Instruction(Op.STEP))
    return out


def bubble_fraction(stages, micro_batches):
    """The share of time a device idles, in theory: (p-1)/(m+p-1), for both schedules."""
    return (stages - 1) / (micro_batches + stages - 1)
