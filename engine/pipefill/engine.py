# SPDX-License-Identifier: Apache-2.0
"""The instrumented pipeline engine: runs instruction lists (schedule.py) on torch.distributed.

Receives are posted at the start of an iteration and waited for where the list says so; the wait blocks in the
kernel, so that the device is really idle then, and is bracketed by the bubble instruction.
"""

import torch
import torch.distributed as dist

from . import model as models
from . import schedule as schedules
from . import trace as traces
from .schedule import Op

_TAG_ACTIVATION = 1 << 16
_TAG_GRADIENT = 2 << 16
_TAG_GOING_ON = 3 << 16


class PipelineEngine:
    """One rank's stage of a pipeline.

    module: this stage; optimizer: of its parameters; shape: of the activations of one micro-batch;
    announce: a bubble.Main; trace: a trace.Trace. Ranks are stages in order.
    """

    def __init__(self, module, optimizer, schedule, micro_batches, shape, announce, trace):
        self.stage, self.stages = dist.get_rank(), dist.get_world_size()
        self.module, self.optimizer = module, optimizer
        self.micro_batches, self.shape = micro_batches, shape
        self.announce, self.trace = announce, trace
        self.instructions = schedules.instructions(schedule, self.stage, self.stages, micro_batches)
        self.iterations = 0
        self.transfer_ns = 0
        self._begin_ns = traces.now_ns()
        self._bubble = None
        self._announcers = {i.index: announce.announcer(i.kind, i.index)
                            for i in self.instructions if i.op is Op.BUBBLE}
        self._run = {
            Op.BUBBLE: self._announce_bubble, Op.STEP: self._step,
            Op.RECV_ACTIVATION: self._receive, Op.RECV_GRADIENT: self._receive,
            Op.FORWARD: self._forward, Op.BACKWARD: self._backward,
            Op.SEND_ACTIVATION: self._send_activation, Op.SEND_GRADIENT: self._send_gradient,
        }

    @property
    def first(self):
        """This rank runs the first stage."""
        return self.stage == 0

    @property
    def last(self):
        """This rank runs the last stage."""
        return self.stage == self.stages - 1

    def measure_transfer(self, rounds=15):
        """Measures how long one micro-batch's activations travel, in ns; all ranks call it together."""
        times = []
        buffer = torch.zeros(self.shape)
        for _ in range(rounds):
            begin = traces.now_ns()
            if not self.last:
                dist.send(buffer, self.stage + 1)
                dist.recv(buffer, self.stage + 1)
                times.append((traces.now_ns() - begin) // 2)
            if not self.first:
                dist.recv(buffer, self.stage - 1)
                dist.send(buffer, self.stage - 1)
        fastest = torch.tensor([sorted(times)[len(times) // 2] if times else 0])
        dist.broadcast(fastest, 0)
        self.transfer_ns = int(fastest[0])
        return self.transfer_ns

    def train_batch(self, inputs, targets, going_on=True):
        """Runs one iteration over lists of micro-batches (used by the first and the last stage).

        going_on: what the first stage says about another iteration. Returns (mean loss or None, what it said).
        """
        self._inputs, self._targets = inputs, targets
        self._outputs, self._received, self._sending, self._losses = {}, {}, [], []
        self.optimizer.zero_grad(set_to_none=False)
        flag = self._post_receives(going_on)
        for instruction in self.instructions:
            self._execute(instruction)
        self._mark()
        return (float(sum(self._losses)) / self.micro_batches if self._losses else None), bool(flag[0])

    def _execute(self, instruction):
        begin_ns = traces.now_ns()
        self._run[instruction.op](instruction)
        if self.trace.keeps and instruction.op is not Op.BUBBLE:
            self.trace.instruction(self.iterations, instruction.op.value, instruction.micro_batch, begin_ns,
                                   traces.now_ns())

    def _post_receives(self, going_on):
        self._requests = {}
        flag = torch.tensor([int(going_on)])
        for i in self.instructions:
            if i.op is Op.RECV_ACTIVATION:
                self._post(i, self.stage - 1, _TAG_ACTIVATION)
            elif i.op is Op.RECV_GRADIENT:
                self._post(i, self.stage + 1, _TAG_GRADIENT)
        self._flag, self._flag_request = flag, None
        if not self.first:
            self._flag_request = dist.irecv(flag, self.stage - 1, tag=_TAG_GOING_ON)
        elif not self.last:
            self._sending.append((dist.isend(flag, self.stage + 1, tag=_TAG_GOING_ON), flag))
        return flag

    def _post(self, instruction, source, tag):
        buffer = torch.empty(self.shape)
        request = dist.irecv(buffer, source, tag=tag + instruction.micro_batch)
        self._requests[instruction.op, instruction.micro_batch] = request
        self._received[instruction.op, instruction.micro_batch] = buffer

    def _announce_bubble(self, instruction):
        self._bubble = instruction
        self._wait_begin_ns = traces.now_ns()
        self._announcers[instruction.index]()

    def _end_bubble(self):
        if self._bubble is None:
            return
        self.announce.end()
        bubble, self._bubble = self._bubble, None
        self.trace.wait(self.iterations, bubble.index, bubble.kind.word, self._wait_begin_ns,
                        traces.now_ns() - self.transfer_ns)

    def _receive(self, instruction):
        self._requests.pop((instruction.op, instruction.micro_batch)).wait()
        if self._flag_request is not None:
            self._flag_request.wait()
            self._flag_request = None
            if not self.last:
                self._sending.append((dist.isend(self._flag, self.stage + 1, tag=_TAG_GOING_ON), self._flag))
        self._end_bubble()

    def _forward(self, instruction):
        i = instruction.micro_batch
        if self.first:
            x = self._inputs[i]
        else:
            x = self._received[Op.RECV_ACTIVATION, i].requires_grad_()
        out = self.module(x)
        if self.last:
            out = models.loss(out, self._targets[i]) / self.micro_batches
            self._losses.append(out.detach() * self.micro_batches)
        self._outputs[i] = (x, out)

    def _backward(self, instruction):
        i = instruction.micro_batch
        x, out = self._outputs[i]
        if self.last:
            out.backward()
        else:
            out.backward(self._received.pop((Op.RECV_GRADIENT, i)))
        self._outputs[i] = (x, None)

    def _send_activation(self, instruction):
        i = instruction.micro_batch
        tensor = self._outputs[i][1].detach().contiguous()
        self._sending.append((dist.isend(tensor, self.stage + 1, tag=_TAG_ACTIVATION + i), tensor))

    def _send_gradient(self, instruction):
        i = instruction.micro_batch
        tensor = self._outputs.pop(i)[0].grad.contiguous()
        self._sending.append((dist.isend(tensor, self.stage - 1, tag=_TAG_GRADIENT + i), tensor))

    def _step(self, _):
        # Sends keep their tensors until the other side has them.
        for request, _tensor in self._sending:
            request.wait()
        self._sending.clear()
        self.optimizer.step()

    def _mark(self):
        end_ns = traces.now_ns()
        self.announce.iteration()
        self.trace.iteration(self.iterations, self._begin_ns, end_ns)
        self._begin_ns = end_ns
        self.iterations += 1
        if self.iterations % traces.FLUSH_ITERATIONS == 0:
            self.trace.flush()
            self._begin_ns = traces.now_ns()
