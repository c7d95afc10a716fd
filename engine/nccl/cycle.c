/* SPDX-License-Identifier: Apache-2.0 */
/* cycle.c - where one iteration ends and the next begins, as NCCL sees it. */
#include "cycle.h"

static uint64_t most_of_all(const struct pf_cycle *cycle)
{
	uint64_t most = 0;
	unsigned int i;

	for (i = 0; i < PF_CYCLE_GROUPS; i++)
		if (cycle->group[i].most > most)
			most = cycle->group[i].most;
	return most;
}

static void mark(struct pf_cycle *cycle)
{
	cycle->begun = cycle->receives;
	cycle->iteration++;
}

void pf_cycle_collective(struct pf_cycle *cycle, unsigned int group)
{
	uint64_t passed;

	if (group >= PF_CYCLE_GROUPS || cycle->fixed)
		return;
	passed = cycle->receives - cycle->group[group].at;
	cycle->group[group].at = cycle->receives;
	if (!passed || 4 * passed < 3 * most_of_all(cycle))
		return;
	cycle->group[group].most = passed;
	mark(cycle);
}

/* No mark for twice as long as an iteration was: it has become shorter. */
static void forget(struct pf_cycle *cycle)
{
	unsigned int i;

	for (i = 0; i < PF_CYCLE_GROUPS; i++)
		cycle->group[i].most /= 2;
}

int64_t pf_cycle_receive(struct pf_cycle *cycle)
{
	uint64_t since = cycle->receives - cycle->begun;

	if (cycle->fixed && (!cycle->iteration || since >= cycle->fixed))
		mark(cycle);
	else if (since && since % (2 * most_of_all(cycle) + 1) == 0)
		forget(cycle);
	cycle->receives++;
	if (!cycle->iteration)
		return -1;
	return (int64_t) (cycle->receives - 1 - cycle->begun);
}
