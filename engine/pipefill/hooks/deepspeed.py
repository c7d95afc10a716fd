# SPDX-License-Identifier: Apache-2.0
"""The hook of DeepSpeed's pipeline engine.

PipelineEngine runs a list of instructions by the class attribute _INSTRUCTION_MAP, whose entries are replaced. The last
stage's cool-down is in none of them: it waits where the loss is handed round the stages, after the list.
"""

import functools

from ..bubble import Work
from . import waits as _waits
from .versions import Known

KNOWN = Known("DeepSpeed", "deepspeed.git_version_info", "version", (0, 12, 2), (0, 19, 6))

_WAITS = {"RecvActivation": (_waits.RECV_F,), "RecvGrad": (_waits.RECV_B,)}
_SENDS = ("SendActivation", "SendGrad")
_NOTES = {"ForwardPass": (_waits.FORWARD, Work.FORWARD), "BackwardPass": (_waits.BACKWARD, Work.BACKWARD)}
# The engine's methods in which nothing is offered. eval_batch is more than its schedule: losses go round after it.
_PHASES = {"eval_batch": Work.EVALUATION, "inference_batch": Work.EVALUATION, "save_checkpoint": Work.CHECKPOINT}


def install(engine, waits=None):
    """Hooks the module deepspeed.runtime.pipe.engine. AttributeError or KeyError if it is not as KNOWN versions are."""
    waits = waits or _waits.process()
    cls, schedule = engine.PipelineEngine, engine.schedule
    instructions = dict(cls._INSTRUCTION_MAP)
    for name, words in _WAITS.items():
        instruction = getattr(schedule, name)
        instructions[instruction] = waits.around(instructions[instruction], words, alone=True)
    for name, (word, work) in _NOTES.items():
        instruction = getattr(schedule, name)
        # Micro-batches are counted: the instruction has the number of a buffer.
        instructions[instruction] = _noting(waits, waits.notes.around(instructions[instruction], work), word)
    for name in _SENDS:
        instruction = getattr(schedule, name)
        instructions[instruction] = _sending(waits, instructions[instruction])
    execute, aggregate = cls._exec_schedule, cls._aggregate_total_loss
    cls._INSTRUCTION_MAP = instructions
    cls._exec_schedule = _executing(waits, execute, schedule.TrainSchedule)
    cls._aggregate_total_loss = waits.around(aggregate, _flush)
    for name, work in _PHASES.items():
        if callable(getattr(cls, name, None)):
            setattr(cls, name, waits.during(getattr(cls, name), work))


def _flush(engine):
    """With replicas the last stage averages the loss over them first, which is no bubble."""
    return (_waits.FLUSH,) if not engine.is_data_parallel or not engine.is_last_stage() else None


def _noting(waits, original, word):
    @functools.wraps(original)
    def instruction(*args, **kwargs):
        waits.note(word)
        return original(*args, **kwargs)

    return instruction


def _sending(waits, original):
    waiting = waits.around(original, (_waits.SEND,))  # where a send blocks; on NCCL it takes no time

    @functools.wraps(original)
    def instruction(*args, **kwargs):
        waits.safely(waits.sending)
        return waiting(*args, **kwargs)

    return instruction


def _executing(waits, original, training):
    evaluating = waits.during(original, Work.EVALUATION)  # where it was not eval_batch that called

    @functools.wraps(original)
    def execute(self, pipe_schedule, *args, **kwargs):
        key = (id(self), type(pipe_schedule).__name__, getattr(pipe_schedule, "micro_batches", 0))
        trains = isinstance(pipe_schedule, training)
        waits.iteration(key, trains, lambda: self.stage_id)
        return (original if trains else evaluating)(self, pipe_schedule, *args, **kwargs)

    return execute
