"""A fill job that tries to get at what is not its own. Every attempt that works is told as ALLOWED.

intruder.py LIBRARY OTHER_RUN_DIR MAIN_PID...
"""
import ctypes
import fcntl
import mmap
import os
import re
import socket
import sys

F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_WRITE = 1033, 1, 8
library, other_run_dir, main_pids = sys.argv[1], sys.argv[2], sys.argv[3:]
run_dir = os.environ["PIPEFILL_DIR"]
tried = 0


def refused(what, attempt, *args):
    """Tries it; an OSError is how it should end."""
    global tried
    tried += 1
    try:
        result = attempt(*args)
    except OSError as e:
        print(f"refused {what}: {e.strerror}")
        return
    if result is not None:
        print(f"ALLOWED {what}: {result!r}")


def ask(directory, text):
    """The reply's first line and the descriptors that came with it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(directory + "/gate.sock")
        s.send(text.encode())
        reply, fds, _, _ = socket.recv_fds(s, 4096, 8)
        return reply.decode().split("\n")[0], fds


def done(attempt, *args):
    """Tells of an attempt that returns nothing where it works."""
    attempt(*args)
    return "done"


def map_writable(fd):
    return mmap.mmap(fd, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def connect(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(path)


def denied(directory, text):
    """None where no page was handed out."""
    status, fds = ask(directory, text)
    return (status, fds) if fds or status == "ok" else None


def libc_call(name, *args):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return name


status, fds = ask(run_dir, "pipefill 1 open-fill\n")
assert status == "ok" and len(fds) == 3, (status, fds)
main, control, fill = fds
mmap.mmap(main, 4096, prot=mmap.PROT_READ)
mmap.mmap(fill, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)

for name, fd in (("main", main), ("control", control)):
    refused(f"map {name} for writing", map_writable, fd)
    refused(f"write {name}", os.pwrite, fd, b"x", 0)
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
        refused(f"open {name} again with {flags:o}", os.open, f"/proc/self/fd/{fd}", flags)
    refused(f"seal {name}", fcntl.fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE)
    refused(f"chmod {name}", done, os.fchmod, fd, 0o666)
for name, fd in (("main", main), ("control", control), ("fill", fill)):
    refused(f"shrink {name}", done, os.ftruncate, fd, 0)
    refused(f"grow {name}", done, os.ftruncate, fd, 1 << 20)
refused("seal fill", fcntl.fcntl, fill, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_WRITE)

pf = ctypes.CDLL(library)
pf.pf_fill_open.restype = ctypes.c_void_p
assert pf.pf_fill_open(), "libpipefill has no pages"
pages = re.findall(r"^(\w+)-\w+ r--s .*memfd:pipefill-", open("/proc/self/maps").read(), re.M)
assert len(pages) >= 2, pages
for at in pages:
    refused("make a mapped page writable", libc_call, "mprotect", ctypes.c_void_p(int(at, 16)), 4096, 3)

refused("open the plugin's socket", done, connect, run_dir + "/attach.sock")
for device in ("", "cpu:0", "cpu:1", "0", "1"):
    refused(f"open the main page of {device!r}", denied, run_dir, f"pipefill 1 open-main\ndevice={device}\n")
refused("pose as the main job", denied, run_dir, f"pipefill 1 open-main\ndevice=\njob=1\nuid=0\npid={main_pids[0]}\n")
refused("open pages of another node", denied, other_run_dir, "pipefill 1 open-fill\n")
refused("open main pages of another node", denied, other_run_dir, "pipefill 1 open-main\ndevice=\n")

supervisors = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if b"\0supervise\0" in open(f"/proc/{pid}/cmdline", "rb").read():
            supervisors.append(pid)
    except OSError:
        pass  # it has ended
assert supervisors, "no supervisor to try"
for pid in main_pids + supervisors:
    refused(f"list descriptors of {pid}", os.listdir, f"/proc/{pid}/fd")
    refused(f"list maps of {pid}", os.listdir, f"/proc/{pid}/map_files")
    refused(f"signal {pid}", done, os.kill, int(pid), 0)

group = re.search(r"^0::(.*)$", open("/proc/self/cgroup").read(), re.M)[1]
assert "/assignment_" in group, group
for path in (f"/sys/fs/cgroup/unified{group}/cgroup.freeze", f"/sys/fs/cgroup/unified{group}/cgroup.procs",
             "/sys/fs/cgroup/unified/cgroup.procs"):
    refused(f"write {path}", open, path, "w")

print("tried", tried, flush=True)
