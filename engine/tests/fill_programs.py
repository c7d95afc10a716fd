# SPDX-License-Identifier: Apache-2.0
"""Models, data and gates for the tests of the fill SDK."""

import json
import math
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class TimedGate:
    """A gate that is open for open_s of every period_s; fails as it is told: stop_after waits, it tells the job to end."""

    attached = True

    def __init__(self, open_s=0.004, period_s=0.006, stop_after=math.inf):
        self.open_s, self.period_s, self.stop_after = open_s, period_s, stop_after
        self.begin = time.monotonic()
        self.waits = self.chunks = 0

    @property
    def stopping(self):
        return self.waits >= self.stop_after

    def left(self):
        at = (time.monotonic() - self.begin) % self.period_s
        return self.open_s - at if at < self.open_s else -1.0

    def wait(self, need_s=0.0, timeout_s=None):
        end = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self.waits += 1
        while True:
            if self.stopping:
                from pipefill.gate import Stopping
                raise Stopping
            left = self.left()
            if left > 0 and left >= need_s:
                return left
            if time.monotonic() >= end:
                raise TimeoutError
            time.sleep(self.period_s - (time.monotonic() - self.begin) % self.period_s)

    def yield_(self):
        self.chunks += 1

    def close(self):
        pass


class Clock:
    """Time that passes only where it is spent, for a pace: its clock, device and gate, open for open_s of every period_s."""

    stopping, ahead_s = False, 0.0

    def __init__(self, open_s, period_s):
        self.open_s, self.period_s = open_s, period_s
        self.now, self._op, self._begin, self._stopped = 0.0, None, 0.0, 0.0

    def monotonic(self):
        return self.now

    def clock(self):
        return self.now - self._stopped

    def sleep(self, seconds):
        self.now += seconds

    def stop(self, seconds):
        """The program is stopped for so long, and uses no core."""
        self.now += seconds
        self._stopped += seconds

    def left(self):
        at = self.now % self.period_s
        return self.open_s - at if at < self.open_s else -1.0

    def wait(self, need_s=0.0, timeout_s=math.inf):
        end = self.now + timeout_s
        while not 0 < self.left() >= need_s:
            self.now = min(end, (self.now // self.period_s + 1) * self.period_s)
            if self.now == end:
                raise TimeoutError
        return self.left()

    def yield_(self):
        pass

    def start(self, op):
        self.finish()
        self._op, self._begin = op, self.clock()

    def finish(self):
        if self._op is not None:
            self._op.add(self.clock() - self._begin)
            self._op = None


class PlannedGate(TimedGate):
    """One whose bubbles have the indices 0, 1, ... of so many in turn, and that hands out plans: hand(number, text)."""

    def __init__(self, bubbles=2, **options):
        super().__init__(**options)
        self.bubbles, self.plan_id, self.text = bubbles, 0, None
        self.told, self.taken = [], 0

    def hand(self, number, text):
        self.plan_id, self.text = number, text

    def plan(self):
        self.taken += 1
        if self.text is None:
            raise OSError("pipefilld has no device for this process")
        return self.plan_id, self.text

    def bubble(self):
        return int((time.monotonic() - self.begin) / self.period_s) % self.bubbles

    def at(self, number, config, op):
        self.told.append((number, config, op))


def planned(configs, chunks=(), lead_in=(), free_bytes=(1 << 40, 1 << 40), kind="inference"):
    """The text of a plan. configs: index -> (batch size, technique, names of ops of 1 us)."""
    return json.dumps({
        "version": 1, "job": "test", "kind": kind, "samples_per_second": 1.0, "period_cycles": 1, "lead_cycles": 0,
        "cycle": {"version": 1, "iteration_ns": 1000, "bubbles": [
            {"index": i, "kind": "steady", "start_ns": i, "duration_ns": 400, "free_bytes": free}
            for i, free in enumerate(free_bytes)]},
        "configs": [{"index": index, "batch_size": size, "technique": technique, "resident_bytes": 0, "swap_in_ns": 0,
                     "swap_out_ns": 0,
                     "ops": [op if isinstance(op, dict) else {"name": op, "time_ns": 1000, "peak_bytes": 0} for op in ops]}
                    for index, (size, technique, ops) in configs.items()],
        "lead_in": [list(row) for row in lead_in], "chunks": [list(row) for row in chunks]}).encode()


PLAIN = {"checkpoint": False, "offload": "none"}
CHECKPOINT = {"checkpoint": True, "offload": "none"}


class Block(nn.Module):
    """A transformer's layer with dropout."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, dropout=0.1, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.feed(self.norm(x))


class Transformer(nn.Module):
    """Characters to characters."""

    def __init__(self, width=64, layers=3):
        super().__init__()
        self.embed = nn.Embedding(32, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, 32)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x).flatten(0, 1)


class Cnn(nn.Module):
    """Residual, with BatchNorm and functions between the modules."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.first(x)
        x = torch.relu(x + self.second(x))
        return self.head(nn.functional.dropout(x.mean((2, 3)), 0.2, self.training))


class Whole(nn.Module):
    """Has no parts: one op."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))

    def forward(self, x):
        return x @ self.weight


def transformer_task(seed=1, samples=24, workers=0):
    """Model, shuffled loader, loss."""
    torch.manual_seed(seed)
    data = torch.randint(0, 32, (samples, 17))
    loader = DataLoader([(row[:-1], row[1:]) for row in data], batch_size=4, shuffle=True, num_workers=workers)
    cross = nn.CrossEntropyLoss()
    return Transformer(), loader, lambda output, target: cross(output, target.flatten())


def cnn_task(seed=2, samples=24):
    """Model, shuffled loader, loss."""
    torch.manual_seed(seed)
    loader = DataLoader(TensorDataset(torch.randn(samples, 3, 32, 32), torch.randint(0, 10, (samples,))), batch_size=4,
                        shuffle=True)
    return Cnn(), loader, nn.CrossEntropyLoss()


def straight(model, loader, loss, optimizer, epochs, accumulate=1, scheduler=None):
    """Training as anyone writes it."""
    model.train()
    for _ in range(epochs):
        for number, (x, y) in enumerate(loader, 1):
            value = loss(model(x), y)
            (value / accumulate if accumulate > 1 else value).backward()
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
                if scheduler is not None:
                    scheduler.step()


def bits(*parts):
    """The state of models and optimizers as bytes, to be compared."""
    found = []

    def walk(value):
        if isinstance(value, torch.Tensor):
            found.append(value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key, part in value.items():
                found.append(repr(key).encode())
                walk(part)
        elif isinstance(value, (list, tuple)):
            for part in value:
                walk(part)
        else:
            found.append(repr(value).encode())

    for part in parts:
        walk(part.state_dict())
    return b"".join(found)
