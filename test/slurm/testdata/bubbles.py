"""A main job in thirty lines: iterations of some computing and two bubbles, told to libpipefill.

bubbles.py LIBRARY ITERATIONS COMPUTE_MS BUBBLE_MS [TIMES]

With TIMES it computes for so much of its own CPU time, and writes when each iteration began and what its computing took
(ns of CLOCK_MONOTONIC) to TIMES.<core>: work that somebody holds up takes longer then. After SIGUSR1 bubbles are longer by
half.
"""
import ctypes
import os
import signal
import sys
import time

library, iterations, compute_ms, bubble_ms = sys.argv[1], *map(float, sys.argv[2:5])
times = None


def longer(*_):
    """Bubbles from now on."""
    global bubble_ms
    bubble_ms *= 1.5


signal.signal(signal.SIGUSR1, longer)
pf = ctypes.CDLL(library)
pf.pf_open.restype = ctypes.c_void_p
pf.pf_device.restype = ctypes.c_char_p
pf.pf_strerror.restype = ctypes.c_char_p
for name in ("pf_bubble_end", "pf_iteration", "pf_close", "pf_device"):
    getattr(pf, name).argtypes = [ctypes.c_void_p]
pf.pf_bubble_begin.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]

# On a busy machine the daemon may be slow to know the job: a test of what is filled must not end there.
patience = time.monotonic() + 20
handle = pf.pf_open(None)
while not handle and os.environ.get("PIPEFILL_ROLE") == "main" and time.monotonic() < patience:
    time.sleep(0.1)
    handle = pf.pf_open(None)
if handle:
    device = pf.pf_device(handle).decode()
    print("opened", device, flush=True)
    core = int(device.removeprefix("cpu:"))
    os.sched_setaffinity(0, {core})
    if len(sys.argv) > 5:
        times = open(f"{sys.argv[5]}.{core}", "w", buffering=1)
else:
    print("unfilled:", pf.pf_strerror().decode(), flush=True)


def compute():
    """Returns what it took, in ns."""
    clock = time.thread_time if times else time.perf_counter
    begin, until = time.monotonic_ns(), clock() + compute_ms / 1e3
    while clock() < until:
        pass
    return time.monotonic_ns() - begin


for _ in range(int(iterations)):
    pf.pf_iteration(handle)
    begin, computed = time.monotonic_ns(), 0
    for index in (0, 1):
        computed += compute()
        pf.pf_bubble_begin(handle, index, index)  # kinds fill-drain and fwd-bwd
        time.sleep(bubble_ms / 1e3)
        pf.pf_bubble_end(handle)
    if times:
        times.write(f"{begin} {computed}\n")
pf.pf_close(handle)
print("done", flush=True)
