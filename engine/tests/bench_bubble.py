#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What announcing a bubble costs from Python. One JSON row a line.

    bench_bubble.py LIBRARY [work]

work: only what noting work for a timeline costs.
"""

import json
import os
import struct
import sys
import time

os.environ["PIPEFILL_LIBRARY"] = sys.argv[1]
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from fake_daemon import FakeDaemon
from pipefill import bubble

ROUNDS, BATCH = 2000, 50
TARGET_US = 1.0


def row(name, samples_us, target=None):
    """Prints the row of samples; the median is held against the target."""
    samples_us.sort()
    p50, p99 = samples_us[len(samples_us) // 2], samples_us[len(samples_us) * 99 // 100]
    out = {"name": name, "value": p50, "unit": "us", "n": len(samples_us), "p50": p50, "p99": p99}
    if target is not None:
        out.update(target=target, met=p50 <= target)
    print(json.dumps(out))


def timed(body):
    """us of one body, from batches: the clock itself costs a tenth of what is measured."""
    samples = []
    for _ in range(ROUNDS):
        begin = time.perf_counter_ns()
        for _ in range(BATCH):
            body()
        samples.append((time.perf_counter_ns() - begin) / BATCH / 1e3)
    return samples


def main():
    """Times an engine's announcements, the plain calls, and an empty call beside them."""
    daemon = FakeDaemon()
    os.environ.update(daemon.environment("main"))
    job = bubble.Main()
    if not job.attached:
        raise SystemExit(f"bench_bubble: {job.why}")
    begin, end = job.announcer(bubble.Kind.FILL_DRAIN, 0), job.end

    def announced():
        begin()
        end()

    def called():
        job.begin(bubble.Kind.FILL_DRAIN, 0)
        job.end()

    def empty():
        nothing()
        nothing()

    def nothing():
        pass

    if sys.argv[2:] == ["work"]:
        struct.pack_into("=I", daemon.control, 84, 1)  # recording
        assert job.recording()
        begun_ns = time.monotonic_ns()
        row("recording a timeline: a piece of work, from Python",
            timed(lambda: job.work(bubble.Work.FORWARD, 1, begun_ns)))
        job.close()
        daemon.close()
        return
    row("announce, Python engine: begin + end, nobody waiting", timed(announced), TARGET_US)
    row("announce, Python calls: begin + end, nobody waiting", timed(called), TARGET_US)
    row("announce, Python: two empty calls, for comparison", timed(empty))
    job.close()
    daemon.close()


if __name__ == "__main__":
    main()
