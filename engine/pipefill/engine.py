# SPDX-License-Identifier: Apache-2.0
"""The instrumented pipeline engine: runs instruction lists (schedule.py) on torch.distributed.

Receives are prepared at the start of an iteration and waited for where the list says so; while it waits the device is
really idle (links.py), and the wait is bracketed by the bubble instruction.
"""

import torch
import torch.distributed as dist

from . import links as transport
from . import model as models
from . import schedule as schedules
from . import trace as traces
from .bubble import NO_MICRO_BATCH, Work
from .schedule import Op

_TAG_GOING_ON = 3 << 16
_WORK = {Op.FORWARD: Work.FORWARD, Op.BACKWARD: Work.BACKWARD, Op.STEP: Work.STEP}


class PipelineEngine:
    """One rank's stage of a pipeline.

    module: this stage, on the device of links; optimizer: of its parameters; shape: of the activations of one
    micro-batch; announce: a bubble.Main; trace: a trace.Trace; links: of links.make(), posted ones on CPU without.
    Ranks are stages in order.
    """

    def __init__(self, module, optimizer, schedule, micro_batches, shape, announce, trace, links=None):
        self.stage, self.stages = dist.get_rank(), dist.get_world_size()
        self.module, self.optimizer = module, optimizer
        self.micro_batches, self.shape = micro_batches, shape
        self.announce, self.trace = announce, trace
        self.links = links or transport.PostedLinks()
        self.instructions = schedules.instructions(schedule, self.stage, self.stages, micro_batches)
        self.iterations = 0
        self.transfer_ns = 0
        self._begin_ns = traces.now_ns()
        self._bubble = None
        announce.stage(self.stage)
        self._recording = announce.recording()
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
        links, to, back = self.links, transport.ACTIVATION, transport.GRADIENT
        buffer = torch.zeros(self.shape, device=links.device)
        for _ in range(rounds):
            begin = traces.now_ns()
            if not self.last:
                links.send(buffer, self.stage + 1, to, 0)
                links.wait(links.post(self.shape, self.stage + 1, back, 0), lambda: None)
                times.append((traces.now_ns() - begin) // 2)
            if not self.first:
                links.wait(links.post(self.shape, self.stage - 1, to, 0), lambda: None)
                links.send(buffer, self.stage - 1, back, 0)
            links.flush()
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
        if self._recording and instruction.op in _WORK:
            micro_batch = instruction.micro_batch if instruction.micro_batch >= 0 else NO_MICRO_BATCH
            self.announce.work(_WORK[instruction.op], micro_batch, begin_ns)

    def _post_receives(self, going_on):
        self._requests = {}
        flag = torch.tensor([int(going_on)])
        for i in self.instructions:
            if i.op is Op.RECV_ACTIVATION:
                self._post(i, self.stage - 1, transport.ACTIVATION)
            elif i.op is Op.RECV_GRADIENT:
                self._post(i, self.stage + 1, transport.GRADIENT)
        self._flag, self._flag_request = flag, None
        if not self.first:
            self._flag_request = dist.irecv(flag, self.stage - 1, tag=_TAG_GOING_ON)
        elif not self.last:
            self._sending.append((dist.isend(flag, self.stage + 1, tag=_TAG_GOING_ON), flag))
        return flag

    def _post(self, instruction, source, kind):
        self._requests[instruction.op, instruction.micro_batch] = self.links.post(self.shape, source, kind,
                                                                                  instruction.micro_batch)

    def _announce_bubble(self, instruction):
        self.links.settle()  # the bubble begins when the device has nothing left to do
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
        key = instruction.op, instruction.micro_batch
        self._received[key] = self.links.wait(self._requests.pop(key), self._arrived)

    def _arrived(self):
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
        self.links.send(self._outputs[i][1].detach(), self.stage + 1, transport.ACTIVATION, i)

    def _send_gradient(self, instruction):
        i = instruction.micro_batch
        self.links.send(self._outputs.pop(i)[0].grad, self.stage - 1, transport.GRADIENT, i)

    def _step(self, _):
        self.links.flush()
        for request, _flag in self._sending:
            request.wait()
        self._sending.clear()
        self.optimizer.step()
        self.links.settle()

    def _mark(self):
        end_ns = traces.now_ns()
        self.announce.iteration()
        self._recording = self.announce.recording()
        self.trace.iteration(self.iterations, self._begin_ns, end_ns)
        self._begin_ns = end_ns
        self.iterations += 1
        if self.trace.due(end_ns):
            self.trace.flush()
            self._begin_ns = traces.now_ns()
