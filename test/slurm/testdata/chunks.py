"""A chunked fill job of several devices: computes in chunks of 5 ms by one process that drives all of them.

chunks.py LIBRARY CHUNKS FILE

Writes begin and end of each chunk (ns of CLOCK_MONOTONIC) to FILE.
"""
import ctypes
import os
import sys
import time

NEED_NS = 5_000_000

pf = ctypes.CDLL(sys.argv[1])
pf.pf_fill_open.restype = ctypes.c_void_p
pf.pf_fill_wait.restype = ctypes.c_int64
pf.pf_fill_wait.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
pf.pf_fill_yield.argtypes = [ctypes.c_void_p]
handle = pf.pf_fill_open()
assert handle, "libpipefill has no pages"
print("begun on", os.environ["PIPEFILL_DEVICES"], flush=True)
with open(sys.argv[3], "w") as chunks:
    for _ in range(int(sys.argv[2])):
        left_ns = pf.pf_fill_wait(handle, NEED_NS, -1)
        assert left_ns >= NEED_NS, "told to end"
        begin_ns = time.monotonic_ns()
        while time.monotonic_ns() < begin_ns + NEED_NS // 2:
            pass
        pf.pf_fill_yield(handle)
        chunks.write(f"{begin_ns} {time.monotonic_ns()}\n")
print("ended", flush=True)
