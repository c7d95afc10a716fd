# SPDX-License-Identifier: Apache-2.0
"""A pipefilld of one device for tests: real pages (spank/page.h), handed out over gate.sock by a thread."""

import array
import contextlib
import fcntl
import mmap
import os
import socket
import struct
import tempfile
import threading

MAIN_SIZE, CONTROL_SIZE, FILL_SIZE = 65536, 4096, 4096
_HEADS = ((MAIN_SIZE, 0x314d4650), (CONTROL_SIZE, 0x31434650), (FILL_SIZE, 0x31464650))
_EVENT = struct.Struct("=6Q3I4x")
OFFERED, CONTROL, SHORT, ITERATION, WORK = 1, 2, 4, 8, 16


class FakeDaemon:
    """Listens in dir until closed; enabled: bubbles that are learned are offered; records: work is announced too;
    floor_ns: what is offered of each bubble, learned or not."""

    def __init__(self, device="cpu:0", enabled=True, min_ns=100_000, records=False, floor_ns=0):
        self._reply = f"ok\ndevice={device}\nmode=chunked\nassignment=7".encode()
        self._events, self._read = [], 0
        self.plan = None
        self._directory = tempfile.TemporaryDirectory()
        self.dir = self._directory.name
        self._fds, self._pages = zip(*(self._page(size, magic) for size, magic in _HEADS))
        self.main, self.control, self.fill = self._pages
        # enabled, wake, share_ppm, control_ppm, seed, guard_ns, min_ns, beat_ns (never stale), assignment
        struct.pack_into("=4I5Q", self.control, 16, int(enabled), 1, 900_000, 0, 1, 100_000, min_ns, 1 << 62, 7)
        struct.pack_into("=IQ", self.control, 84, int(records), floor_ns)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(os.path.join(self.dir, "gate.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @staticmethod
    def _page(size, magic):
        fd = os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        page = mmap.mmap(fd, size)
        struct.pack_into("=3I", page, 0, magic, 1, size)
        return fd, page

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            # One that was kept waiting may have gone: the next one is answered all the same.
            with client, contextlib.suppress(ConnectionError):
                asked = client.recv(4096)
                if asked.startswith(b"pipefill 1 plan\n"):
                    self._send_plan(client)
                    continue
                pages = 3 if b"open-fill" in asked else 2
                rights = array.array("i", self._fds[:pages]).tobytes()
                client.sendmsg([self._reply], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def hand_plan(self, number, text):
        """Has a plan for the fill job."""
        self.plan = number, text
        struct.pack_into("=Q", self.control, 96, number)

    def _send_plan(self, client):
        if self.plan is None:
            client.sendmsg([b"none"])
            return
        fd = os.memfd_create("plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.pwrite(fd, self.plan[1], 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
        rights = array.array("i", [fd]).tobytes()
        client.sendmsg([f"ok\nplan={self.plan[0]}".encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(fd)

    def position(self):
        """(plan, config, op) that the fill job has told."""
        number, at = struct.unpack_from("=2Q", self.fill, 72)
        return number, at >> 32, at & 0xffffffff

    def environment(self, role):
        """What the SPANK plugin sets for a job of that role ("main", "fill")."""
        return {"PIPEFILL_DIR": self.dir, "PIPEFILL_ROLE": role}

    def open_gate(self, left_ns, now_ns):
        """Opens the gate as a main job does, for left_ns."""
        struct.pack_into("=4Q", self.main, 80, now_ns, now_ns + left_ns, now_ns + left_ns, 0)
        word = struct.unpack_from("=I", self.main, 64)[0]
        struct.pack_into("=I", self.main, 64, (word | 1) + 2)

    def stop_fill(self):
        """Tells the fill job to end."""
        struct.pack_into("=I", self.control, 80, 1)

    def filled_ns(self):
        """For how long the fill job's chunks ran."""
        return struct.unpack_from("=Q", self.fill, 48)[0]

    def stage(self):
        """Which stage the main side has said that it is, -1: it has not."""
        return struct.unpack_from("=I", self.main, 152)[0] - 1

    def events(self):
        """The main side's finished bubbles, marks and work: dicts, oldest first. The page holds 1008 at a time; call it more
        often where there are more."""
        head = struct.unpack_from("=Q", self.main, 136)[0]
        names = ("seq", "iteration", "begin_ns", "end_ns", "deadline_ns", "free_bytes", "index", "kind", "flags")
        self._events += [dict(zip(names, _EVENT.unpack_from(self.main, 1024 + 64 * (i % 1008))))
                         for i in range(max(self._read, head - 1008), head)]
        self._read = head
        return list(self._events)

    def close(self):
        """Stops listening; pages that others mapped stay theirs."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for page, fd in zip(self._pages, self._fds):
            page.close()
            os.close(fd)
        self._directory.cleanup()
