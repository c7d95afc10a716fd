#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A transformer's inference under its plan, for make bench.

    planned_inference.py run LOG              infers for ever; a line of LOG now and then: {"at_ns", "plan", "size", "samples",
                                              "chunks", "overruns", "late", "since_s"}, all since the start. Also to be profiled.
    planned_inference.py alone PROFILE        prints the seconds that a sample takes on an idle core, by the batch size of the
                                              profile that is best, the median of three runs: {"size", "seconds"}

overruns: chunks that ended after their deadline. late: after their gate had shut.
"""

import json
import os
import statistics
import sys
import time

sys.path[:0] = [os.path.join(os.path.dirname(os.path.abspath(__file__)), part) for part in ("..", ".")]

import fill_programs as programs  # noqa: E402
import pipefill  # noqa: E402
import torch  # noqa: E402

WIDTH, LAYERS, LENGTH = 128, 6, 64
RUN_S = 2.0
LINE_S = 0.25


def model():
    """Six layers; ops of 0.1 to some ms, by the batch size."""
    torch.manual_seed(1)
    return programs.Transformer(WIDTH, LAYERS).eval()


def samples():
    """One at a time, for ever: the plan joins them."""
    batch = torch.randint(0, 32, (1, LENGTH))
    while True:
        yield batch


def run(log):
    """Infers until it is told to end."""
    net, sizes = model(), [0]
    net.register_forward_pre_hook(lambda _, inputs: sizes.__setitem__(0, len(inputs[0])))
    # Its output is flat: by sample again, so that it can be parted.
    loop = pipefill.infer(net, samples(), call=lambda module, batch: module(batch).view(len(batch), LENGTH, -1))
    begin = next_line = time.monotonic()
    with open(log, "a", encoding="utf-8") as out:
        for done, _ in enumerate(loop, 1):
            now = time.monotonic()
            pace = loop.pace
            if now < next_line or pace is None:
                continue
            next_line = now + LINE_S
            follower = pace.follower
            out.write(json.dumps({"at_ns": int(1e9 * now), "plan": follower.plan.number if follower else 0, "size": sizes[0],
                                  "samples": done, "chunks": pace.chunks, "overruns": pace.overruns, "late": pace.late,
                                  "since_s": now - begin}) + "\n")
            out.flush()


def alone(path):
    """The best batch size of a profile on an idle core."""
    with open(path, encoding="utf-8") as file:
        sizes = [config["batch_size"] for config in json.load(file)["configs"]]
    net, best = model(), None
    with torch.no_grad():
        for size in sizes:
            batch = torch.randint(0, 32, (size, LENGTH))
            took = []
            for _ in range(3):
                count, begin = 0, time.thread_time()
                while time.thread_time() - begin < RUN_S / 3 or not count:
                    net(batch)
                    count += 1
                took.append((time.thread_time() - begin) / count / size)
            if best is None or statistics.median(took) < best["seconds"]:
                best = {"size": size, "seconds": statistics.median(took)}
    print(json.dumps(best))


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"run": run, "alone": alone}[sys.argv[1]](sys.argv[2])
