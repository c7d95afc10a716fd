"""A fill job that infers for ever: prints where it is, which plan it follows and how large its passes are.

planned.py [MODULE_PATH]: where the package pipefill is.
"""
import itertools
import os
import sys

sys.path[:0] = sys.argv[1:]
import pipefill  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
torch.manual_seed(1)
model = torch.nn.Sequential(*(layer for _ in range(8) for layer in (torch.nn.Linear(768, 768), torch.nn.GELU())))
# Ops well over what is joined to its neighbours (SHORT_S), in the profile as in the run.
sizes = []
model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
run = pipefill.infer(model, (torch.full((2, 768), float(number)) for number in itertools.count()))
last = None
for number, (batch, _) in enumerate(run):
    if int(batch[0, 0]) != number % 2**24:
        raise SystemExit(f"batch {number} is {batch[0, 0]}: one was lost, or came twice")
    follower = run.pace.follower if run.pace is not None else None
    now = follower and follower.plan.number, sizes[-1]
    if now != last:
        print(f"pid {os.getpid()} batch {number} plan {now[0]} size {now[1]}", flush=True)
        last = now
