/* SPDX-License-Identifier: Apache-2.0 */
/* cycle.h - where one iteration ends and the next begins, as NCCL sees it: it
 * knows receives and collectives, and no iterations. Pure. */
#ifndef PIPEFILL_NCCL_CYCLE_H
#define PIPEFILL_NCCL_CYCLE_H

#include <stdint.h>

#define PF_CYCLE_GROUPS 64 /* communicators looked at */

/* An iteration is marked at a collective of the communicator that lets the most
 * receives pass between two of its own (a data-parallel one; tensor-parallel
 * ones have several between any two receives), if at least three quarters as
 * many have passed as the most lately: reductions in buckets are one mark.
 * Where in the iteration that is does not matter, as bubbles may wrap. */
struct pf_cycle {
	uint64_t receives; /* so far */
	uint64_t begun;    /* receives when the iteration began */
	uint64_t iteration;
	uint32_t fixed; /* so many receives an iteration; 0: by collectives */

	struct {
		uint64_t at;   /* receives at its last collective */
		uint64_t most; /* receives between two, lately */
	} group[PF_CYCLE_GROUPS];
};

/* A collective of a communicator. */
void pf_cycle_collective(struct pf_cycle *cycle, unsigned int group);

/* A receive: its place in its iteration, or -1 while none has been marked. */
int64_t pf_cycle_receive(struct pf_cycle *cycle);

#endif /* PIPEFILL_NCCL_CYCLE_H */
