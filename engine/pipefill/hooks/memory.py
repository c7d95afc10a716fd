# SPDX-License-Identifier: Apache-2.0
"""How much device memory is really free in each bubble, learned without asking in every one.

Free is what the driver has: torch.cuda.mem_get_info(), a call of some 10 us. What PyTorch's caching allocator keeps
beside (memory_reserved less memory_allocated) belongs to this process; cache.py gives it back where a plan needs it.
"""

EVERY = 32  # iterations between two looks; the first ones look often
KEPT = 4  # looks of which the least counts


def due(iteration):
    """Whether an iteration, counted from 0, is one to look in. Pure: from the third on, when the allocator's cache has
    grown to what training needs, KEPT in a row, and then every EVERY."""
    return 2 <= iteration < 2 + KEPT or iteration % EVERY == 0 and iteration > 0


class Free:
    """Learns them. cuda: torch.cuda, or what has its functions.

    seen: for each bubble, the bytes free in its last looks.
    """

    def __init__(self, cuda):
        self._cuda = cuda
        self._iteration = 0
        self._due = False
        self.seen = {}

    def iteration(self):
        """The next iteration begins."""
        self._due = due(self._iteration)
        self._iteration += 1

    def at(self, index, main, unsaid=0):
        """This bubble is about to begin: looks if it is time, and tells main, of unsaid bytes less."""
        if not self._due:
            return
        looks = self.seen.setdefault(index, [])
        looks.append(max(0, self._cuda.mem_get_info()[0] - unsaid))
        del looks[:-KEPT]
        main.free(index, min(looks))
