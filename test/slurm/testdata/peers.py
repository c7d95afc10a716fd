"""A rank of a main job whose ranks keep step, as tensor-parallel peers do: they compute, and wait in bubbles that
coincide but for what rank 0 has more at the begin and rank 1 at the end.

peers.py LIBRARY ITERATIONS

An iteration is 200 ms of the machine's clock: rank 0 waits from 40 to 140, rank 1 from 60 to 160.
"""
import ctypes
import os
import sys
import time

PERIOD_NS = 200_000_000
BEGIN_NS, END_NS = ((40_000_000, 140_000_000), (60_000_000, 160_000_000))[int(os.environ["SLURM_LOCALID"])]

pf = ctypes.CDLL(sys.argv[1])
pf.pf_open.restype = ctypes.c_void_p
pf.pf_device.restype = ctypes.c_char_p
for name in ("pf_bubble_end", "pf_iteration", "pf_device"):
    getattr(pf, name).argtypes = [ctypes.c_void_p]
pf.pf_bubble_begin.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]

patience = time.monotonic() + 20
handle = pf.pf_open(None)
while not handle and time.monotonic() < patience:
    time.sleep(0.1)
    handle = pf.pf_open(None)
assert handle, "not a main job"
device = pf.pf_device(handle).decode()
os.sched_setaffinity(0, {int(device.removeprefix("cpu:"))})
print("opened", device, flush=True)


def sleep_until(at_ns):
    """Sleeps up to a time of CLOCK_MONOTONIC."""
    left = at_ns - time.monotonic_ns()
    if left > 0:
        time.sleep(left / 1e9)


start_ns = (time.monotonic_ns() // PERIOD_NS + 2) * PERIOD_NS
for number in range(int(sys.argv[2])):
    mark_ns = start_ns + number * PERIOD_NS
    sleep_until(mark_ns)
    pf.pf_iteration(handle)
    while time.monotonic_ns() < mark_ns + BEGIN_NS - 20_000_000:
        pass
    sleep_until(mark_ns + BEGIN_NS)
    pf.pf_bubble_begin(handle, 0, 0)
    sleep_until(mark_ns + END_NS)
    pf.pf_bubble_end(handle)
