#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the bubble instruction costs on one GPU, with a spinning kernel standing in for an NCCL receive.

    hook.py [--json] [--build FOLDER]

Needs one GPU with PyTorch and CUDA, and what `make` has built; pipefilld's part is played here. It measures

- what enqueueing a begin and an end costs the program,
- what a held stream costs, and how late it is let go,
- how late a bubble's start is announced after the kernel before it ended,
- how much of its exclusive speed fill work in a second process keeps beside a spinning receive, and beside a held one.

Prints rows as build/bench.json has them, one a line with --json. Without a GPU it says why and exits with 77.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "engine"), os.path.join(ROOT, "engine", "tests")]
SKIPPED = 77
MS = 1_000_000


def skip(why):
    """Ends the program as skipped."""
    print(f"hook.py: skipped: {why}", file=sys.stderr)
    sys.exit(SKIPPED)


def row(name, samples, unit, target=None):
    """A row of samples: the median and the 99th percentile."""
    samples = sorted(samples)
    out = {"name": f"GPU hook: {name}", "value": statistics.median(samples), "unit": unit, "n": len(samples),
           "p50": statistics.median(samples), "p99": samples[len(samples) * 99 // 100]}
    if target is not None:
        out.update(target=target, met=out["p99"] <= target)
    return out


class Device:
    """The GPU, and how long it spins for a time."""

    def __init__(self, torch):
        self.torch = torch
        self.stream = torch.cuda.current_stream()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        cycles = 100_000_000
        for _ in range(3):
            begin.record()
            torch.cuda._sleep(cycles)
            end.record()
            end.synchronize()
        self.cycles_ms = cycles / begin.elapsed_time(end)

    def spin(self, milliseconds):
        """A kernel of one thread that spins so long, as a posted receive does."""
        self.torch.cuda._sleep(int(milliseconds * self.cycles_ms))

    def settle(self):
        self.torch.cuda.synchronize()


def enqueueing(main, device):
    """us that begin and end cost the program."""
    begin = main.announcer(2, 0)
    begins, ends = [], []
    for _ in range(2000):
        t0 = time.perf_counter_ns()
        begin()
        t1 = time.perf_counter_ns()
        main.end()
        ends.append((time.perf_counter_ns() - t1) / 1e3)
        begins.append((t1 - t0) / 1e3)
        if len(ends) % 500 == 0:
            device.settle()
    main.iteration()
    device.settle()
    yield row("enqueue a bubble's begin, program time", begins, "us")
    yield row("enqueue a bubble's end, program time", ends, "us")


def last_bubble(daemon, index):
    """The last event of a bubble, marks left out; waits until the following thread has written one."""
    for _ in range(1000):
        bubbles = [e for e in daemon.events() if e["index"] == index and not e["flags"] & 8]
        if bubbles:
            return bubbles[-1]
        time.sleep(0.001)
    raise TimeoutError(f"bubble {index} is not announced")


def announcing(main, device, daemon, times=200):
    """How late starts are announced: the device's clock is the host's here, by a wait for the kernel before."""
    late = []
    begin = main.announcer(1, 1)
    for _ in range(times):
        event = device.torch.cuda.Event(blocking=False)
        device.spin(2)
        event.record()
        begin()
        device.spin(5)
        main.end()
        main.iteration()
        while not event.query():
            pass
        ended_ns = time.monotonic_ns()
        device.settle()
        time.sleep(0.002)
        late.append(max(0, last_bubble(daemon, 1)["begin_ns"] - ended_ns) / 1e3)
    yield row("a bubble's start announced late", late, "us", 100)


def holding(main, device, daemon, times=60):
    """What a held stream costs: how much later than due the receive behind it starts, by the host's clock."""
    begin = main.announcer(1, 2, True)
    late = []
    for _ in range(times):
        device.spin(2)
        begin()
        after = device.torch.cuda.Event()
        after.record()
        device.spin(1)
        main.end()
        main.iteration()
        while not after.query():
            pass
        went_ns = time.monotonic_ns()
        device.settle()
        time.sleep(0.005)
        last = last_bubble(daemon, 2)
        if last["deadline_ns"]:
            late.append((went_ns - last["deadline_ns"]) / 1e3)
    if late:
        yield row("a held stream goes on after fill work must be gone", late, "us", 100)
    figures = main.figures()
    yield {"name": "GPU hook: streams held", "value": figures.held, "unit": "", "n": figures.announced}
    yield {"name": "GPU hook: processor time of the following thread, of one core", "unit": "%", "n": 1,
           "value": 100 * figures.thread_ns / max(1, time.monotonic_ns() - STARTED_NS)}


FILL = """
import sys, time, torch
x = torch.randn(2048, 2048, device="cuda")
for _ in range(10): y = x @ x
torch.cuda.synchronize(); print("ready", flush=True)
for line in sys.stdin:
    end, n = time.monotonic() + float(line), 0
    while time.monotonic() < end:
        y = x @ x; torch.cuda.synchronize(); n += 1
    print(n, flush=True)
"""


def beside(device):
    """Matmuls a second of another process: alone, beside a spinning receive, and beside a stream that is held."""
    fill = subprocess.Popen([sys.executable, "-c", FILL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    fill.stdout.readline()

    def rate(seconds=1.0):
        fill.stdin.write(f"{seconds}\n")
        fill.stdin.flush()
        return int(fill.stdout.readline()) / seconds

    device.settle()
    alone = statistics.median(rate() for _ in range(3))
    spinning = []
    for _ in range(3):
        device.spin(1500)
        spinning.append(rate())
        device.settle()
    fill.stdin.close()
    fill.wait()
    yield {"name": "GPU hook: fill work beside a spinning receive, of its exclusive rate", "unit": "%", "n": 3,
           "value": 100 * statistics.median(spinning) / alone}
    yield {"name": "GPU hook: fill work beside a held receive, of its exclusive rate", "unit": "%", "n": 3,
           "value": 100 * statistics.median(held_rates(device, alone))}


def held_rates(device, alone):
    """A stream that waits in the front end for a word of host memory, by the same driver call as the hook's."""
    import ctypes
    driver = ctypes.CDLL("libcuda.so.1")
    host, at = ctypes.c_void_p(), ctypes.c_uint64()
    if driver.cuMemHostAlloc(ctypes.byref(host), ctypes.c_size_t(64), 3) or \
            driver.cuMemHostGetDevicePointer_v2(ctypes.byref(at), host, 0):
        return [float("nan")]
    word = ctypes.c_uint32.from_address(host.value)
    rates = []
    for number in range(1, 4):
        fill = subprocess.Popen([sys.executable, "-c", FILL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        fill.stdout.readline()
        driver.cuStreamWaitValue32_v2(ctypes.c_void_p(device.stream.cuda_stream), at, number, 0)
        try:
            fill.stdin.write("1.0\n")
            fill.stdin.flush()
            rates.append(int(fill.stdout.readline()))
        finally:
            word.value = number  # whatever happens, the stream goes on
        device.settle()
        fill.stdin.close()
        fill.wait()
    return rates if alone else []


STARTED_NS = time.monotonic_ns()


def main():
    """Measures everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    args = parser.parse_args()
    try:
        import torch
    except ImportError as err:
        skip(f"no PyTorch: {err}")
    if not torch.cuda.is_available():
        skip("PyTorch finds no GPU")
    library = os.path.join(args.build, "libpipefill-cuda.so")
    if not os.path.exists(library):
        skip(f"{library} is not built: run make build/libpipefill-cuda.so")
    import fake_daemon
    from pipefill import stream
    torch.cuda.init()
    device = Device(torch)
    daemon = fake_daemon.FakeDaemon(device="gpu:0")
    os.environ.update(daemon.environment("main"), PIPEFILL_CUDA_LIBRARY=library)
    bubbles = stream.Main(lambda: torch.cuda.current_stream().cuda_stream)
    if not bubbles.attached:
        print(f"hook.py: {bubbles.why}", file=sys.stderr)
        return 1
    print(f"hook.py: {torch.cuda.get_device_name()}, {'holds' if bubbles.holds else 'events only'}", file=sys.stderr)
    for part in (enqueueing(bubbles, device), announcing(bubbles, device, daemon), holding(bubbles, device, daemon),
                 beside(device)):
        for one in part:
            print(json.dumps(one) if args.json else f"{one['name']}: {one['value']:.2f} {one['unit']}"
                  + (f" (p99 {one['p99']:.2f})" if "p99" in one else ""), flush=True)
    bubbles.close()
    daemon.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
