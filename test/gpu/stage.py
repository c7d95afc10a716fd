# SPDX-License-Identifier: Apache-2.0
"""The main job of the harness: one real pipeline stage among virtual peers that react to what it sends.

A transformer's blocks, forward, backward and optimizer, in bfloat16 on a GPU. Where it would receive it waits, with its
device idle, until the peers' model says that the data is there, and copies it in from the host: what is late by then is
what a fill job, or a hook, has cost. Writes a JSON object to --out.
"""

import argparse
import hashlib
import json
import os
import signal
import statistics
import threading
import time

import peers
import torch
from pipefill.bubble import Main
from pipefill.model import Block
from pipefill.schedule import Op, instructions

# How long a fill job is waited for.
_FILL_S = 90.0
# The host sleeps until so long before an arrival, and looks at the clock from there.
_SPIN_S = 300e-6


def arguments(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--schedule", default="1f1b")
    parser.add_argument("--stages", type=int, default=16)
    parser.add_argument("--stage", type=int)
    parser.add_argument("--micro-batches", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--sequence", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--times", help="forward,backward,step of the peers in ms, as an earlier run without fill jobs had them")
    parser.add_argument("--announce", action="store_true")
    parser.add_argument("--receive", choices=("idle", "spin"), default="idle",
                        help="spin: a kernel waits on the device, as a posted receive does")
    parser.add_argument("--signal", type=int, help="SIGCONT and SIGSTOP this process at the begin and end of bubbles")
    parser.add_argument("--poll-ms", type=float, help="not at once, but when a thread that looks so often sees it")
    parser.add_argument("--progress", help="a fill job's --out: warm up until it is there, and note what was done meanwhile")
    parser.add_argument("--out", required=True)
    args = parser.parse_args(argv)
    if args.stage is None:
        args.stage = args.stages // 2
    return args


class Switch:
    """Lets a process run in bubbles by signals, at once or by polling: what was there before gates."""

    def __init__(self, pid, poll_ms=None):
        self.pid, self.open = pid, False
        self._last = None
        self._done = threading.Event()
        self._thread = None
        if pid is not None and poll_ms:
            self._thread = threading.Thread(target=self._poll, args=(poll_ms / 1e3,), daemon=True)
            self._thread.start()

    def set(self, is_open):
        """The bubble begins or ends."""
        self.open = is_open
        if self.pid is not None and self._thread is None:
            self._send()

    def _send(self):
        is_open = self.open
        if is_open != self._last:
            self._last = is_open
            try:
                os.kill(self.pid, signal.SIGCONT if is_open else signal.SIGSTOP)
            except ProcessLookupError:
                self.pid = None

    def _poll(self, every_s):
        while self.pid is not None and not self._done.wait(every_s):
            self._send()

    def close(self):
        """Lets the process go on."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        self.set(True)
        if self.pid is not None:
            self._send()


class Stage:
    """The stage with its peers."""

    def __init__(self, args):
        self.args = args
        self.device = torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        torch.set_num_threads(1)
        torch.manual_seed(1)
        dtype = torch.bfloat16 if self.cuda else torch.float32
        heads = max(1, args.width // 128) if args.width >= 128 else 2
        self.blocks = torch.nn.Sequential(*(Block(args.width, heads, 4 * args.width) for _ in range(args.layers)))
        self.blocks.to(device=self.device, dtype=dtype)
        self.begins = [parameter.detach().clone() for parameter in self.blocks.parameters()]
        self.begin_anew()
        shape = (args.batch, args.sequence, args.width)
        # What "arrives", the same in every run; pinned, so that the copy is the device's.
        self.host = {op: torch.randn(shape).to(dtype) for op in (Op.RECV_ACTIVATION, Op.RECV_GRADIENT)}
        if self.cuda:
            self.host = {op: value.pin_memory() for op, value in self.host.items()}
        self.main = Main() if args.announce else None
        if self.main is not None and (self.main.device or "").startswith("cpu:"):
            os.sched_setaffinity(0, _cores(self.main.device))
        self.switch = Switch(args.signal, args.poll_ms)
        self.program = instructions(args.schedule, args.stage, args.stages, args.micro_batches)
        self.times = {op: [] for op in (Op.FORWARD, Op.BACKWARD, Op.STEP)}
        self.iterations_s, self.late_s, self.bubble_s = [], [], 0.0
        self.digest = hashlib.sha256()

    def begin_anew(self):
        """As at the start, so that what comes of the measured iterations does not depend on those before."""
        with torch.no_grad():
            for parameter, value in zip(self.blocks.parameters(), self.begins):
                parameter.copy_(value)
        self.optimizer = torch.optim.SGD(self.blocks.parameters(), lr=1e-4, momentum=0.9)
        self.optimizer.zero_grad()

    def settle(self):
        """The device has nothing left to do."""
        if self.cuda:
            torch.cuda.synchronize()

    def calibrate(self, rounds=7):
        """What forward, backward and step take here, in seconds."""
        took = {op: [] for op in self.times}
        x = self.host[Op.RECV_ACTIVATION].to(self.device)
        for _ in range(rounds):
            for op, work in ((Op.FORWARD, lambda: self.blocks(x)), (Op.BACKWARD, None), (Op.STEP, self.optimizer.step)):
                self.settle()
                begin = time.monotonic()
                if op is Op.FORWARD:
                    out = work()
                elif op is Op.BACKWARD:
                    out.backward(torch.zeros_like(out))
                else:
                    work()
                self.settle()
                took[op].append(time.monotonic() - begin)
        self.optimizer.zero_grad(set_to_none=False)
        return {op: statistics.median(values) for op, values in took.items()}

    def receive(self, op, arrival_s):
        """Waits for an arrival and takes it in. Returns the tensor and how late it is ready, in seconds."""
        begin = time.monotonic()
        while True:
            left = arrival_s - time.monotonic()
            if left <= 0:
                break
            if self.args.receive == "spin" and self.cuda:
                # A posted receive occupies the device; this one in pieces of some 50 us.
                torch.cuda._sleep(90_000)
                torch.cuda.synchronize()
            elif left > _SPIN_S:
                time.sleep(left - _SPIN_S)
        if self.main is not None:
            self.main.end()
        self.switch.set(False)
        value = self.host[op].to(self.device, non_blocking=True).requires_grad_(op is Op.RECV_ACTIVATION)
        if not self.cuda:
            value = value.detach().clone().requires_grad_(op is Op.RECV_ACTIVATION)
        self.settle()
        waited = arrival_s > begin
        return value, (time.monotonic() - arrival_s if waited else None), max(arrival_s - begin, 0.0)

    def run(self):
        """All iterations; what was measured, as JSON's types."""
        args = self.args
        if args.times:
            forward, backward, step = (float(part) / 1e3 for part in args.times.split(","))
        else:
            took = self.calibrate()
            forward, backward, step = (took[op] for op in (Op.FORWARD, Op.BACKWARD, Op.STEP))
        durations = peers.Durations(forward, backward, step, link_s=20e-6)
        pipeline = peers.Pipeline(args.schedule, args.stages, args.micro_batches, durations, {args.stage}, time.monotonic())
        iteration, until = 0, time.monotonic() + _FILL_S
        while iteration < args.warm_up or args.progress and not os.path.exists(args.progress) and time.monotonic() < until:
            self.iterate(pipeline, iteration, False)
            iteration += 1
        self.begin_anew()
        before = _samples(args.progress)
        for _ in range(args.iterations):
            begin = time.monotonic()
            self.iterate(pipeline, iteration, True)
            self.iterations_s.append(time.monotonic() - begin)
            iteration += 1
        after = _samples(args.progress)
        self.switch.close()
        for parameter in self.blocks.parameters():
            self.digest.update(parameter.detach().float().cpu().numpy().tobytes())
        attached = self.main is not None and self.main.attached
        if self.main is not None:
            self.main.close()
        return {"attached": attached, "why": self.main.why if self.main is not None else None, "samples": after - before,
                "times_ms": [forward * 1e3, backward * 1e3, step * 1e3], "iterations_ms": [t * 1e3 for t in self.iterations_s],
                "late_us": [t * 1e6 for t in self.late_s], "bubble_s": self.bubble_s, "digest": self.digest.hexdigest(),
                "bubble_fraction": self.bubble_s / sum(self.iterations_s) if self.iterations_s else 0.0}

    def iterate(self, pipeline, iteration, counts):
        """One iteration by the instruction list."""
        args, held, received = self.args, {}, {}
        for instruction in self.program:
            op, i = instruction.op, instruction.micro_batch
            if op is Op.BUBBLE:
                self.settle()
                if self.main is not None:
                    self.main.begin(instruction.kind, instruction.index)
                self.switch.set(True)
            elif op in (Op.RECV_ACTIVATION, Op.RECV_GRADIENT):
                arrival = pipeline.received(args.stage, op, iteration, i)
                received[op, i], late, waited = self.receive(op, arrival)
                if counts:
                    self.bubble_s += waited
                    if late is not None:
                        self.late_s.append(late)
            elif op is Op.FORWARD:
                x = received[Op.RECV_ACTIVATION, i]
                held[i] = (x, self.blocks(x))
                self.settle()
            elif op is Op.BACKWARD:
                x, out = held.pop(i)
                out.backward(received.pop((Op.RECV_GRADIENT, i)))
                self.settle()
            elif op is Op.STEP:
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=False)
                self.settle()
                if self.main is not None:
                    self.main.iteration()
            else:
                pipeline.sent(args.stage, op, iteration, i, time.monotonic())


def _samples(path):
    """What a fill job says it has done; 0 without one."""
    if path is None or not os.path.exists(path):
        return 0
    with open(path, encoding="utf-8") as file:
        return json.load(file)["samples"]


def _cores(device):
    """The cores of a cpu device, "cpu:0-3,8"."""
    cores = set()
    for part in device.partition(":")[2].split(","):
        low, _, high = part.partition("-")
        cores.update(range(int(low), int(high or low) + 1))
    return cores


def main():
    """The program."""
    args = arguments()
    if not 0 < args.stage < args.stages - 1:
        raise SystemExit(f"stage: {args.stage} of {args.stages} stages: write one that has a stage on either side")
    result = Stage(args).run()
    with open(args.out, "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
