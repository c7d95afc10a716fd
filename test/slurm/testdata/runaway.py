"""A chunked fill job that waits for the gate once and then computes on, whatever the gate says.

runaway.py LIBRARY CPU_SECONDS
"""
import ctypes
import sys
import time

pf = ctypes.CDLL(sys.argv[1])
pf.pf_fill_open.restype = ctypes.c_void_p
pf.pf_fill_wait.restype = ctypes.c_int64
pf.pf_fill_wait.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
handle = pf.pf_fill_open()
assert handle, "libpipefill has no pages"
print("begun", flush=True)
pf.pf_fill_wait(handle, 0, -1)
while time.process_time() < float(sys.argv[2]):
    pass
print("ended", flush=True)
