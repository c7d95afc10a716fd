# SPDX-License-Identifier: Apache-2.0
"""How much device memory is really free in each bubble, learned without asking in every one.

Free is what the driver has: torch.cuda.mem_get_info(), a call of some 10 us. What PyTorch's caching allocator keeps
beside (memory_reserved less memory_allocated) belongs to this process until empty_cache() gives it back, which waits
for the device and makes the next iteration allocate again: that is done in the bubbles named by PIPEFILL_RELEASE, which
is for a plan to say ("2,5": by the bubbles' indices), and in no other.
"""

import os
import time
import warnings

EVERY = 32  # iterations between two looks; the first ones look often
KEPT = 4  # looks of which the least counts


def due(iteration):
    """Whether an iteration, counted from 0, is one to look in. Pure: from the third on, when the allocator's cache has
    grown to what training needs, KEPT in a row, and then every EVERY."""
    return 2 <= iteration < 2 + KEPT or iteration % EVERY == 0 and iteration > 0


def released(text):
    """The bubbles that PIPEFILL_RELEASE names. ValueError if it is not a list of numbers."""
    out = set()
    for word in text.split(",") if text else ():
        if not word.strip().isdigit():
            raise ValueError(f"PIPEFILL_RELEASE={text!r}: {word!r} is no bubble's index: write them as 2,5")
        out.add(int(word))
    return out


class Free:
    """Learns them. cuda: torch.cuda, or what has its functions.

    seen: for each bubble, the bytes free in its last looks; costs_ns: what releasing took last, where it is done.
    """

    def __init__(self, cuda):
        self._cuda = cuda
        self._iteration = 0
        self._due = False
        self.seen = {}
        self.costs_ns = {}
        try:
            self._released = released(os.environ.get("PIPEFILL_RELEASE", ""))
        except ValueError as err:
            self._released = set()
            warnings.warn(f"pipefill: nothing is released: {err}", RuntimeWarning, stacklevel=2)

    def iteration(self):
        """The next iteration begins."""
        self._due = due(self._iteration)
        self._iteration += 1

    def at(self, index, main, unsaid=0):
        """This bubble is about to begin: releases what is to be, and looks if it is time; tells main, of unsaid bytes less."""
        if index in self._released:
            begin_ns = time.monotonic_ns()
            self._cuda.empty_cache()
            self.costs_ns[index] = time.monotonic_ns() - begin_ns
        if not self._due:
            return
        looks = self.seen.setdefault(index, [])
        looks.append(max(0, self._cuda.mem_get_info()[0] - unsaid))
        del looks[:-KEPT]
        main.free(index, min(looks))
