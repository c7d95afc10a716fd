/* SPDX-License-Identifier: Apache-2.0 */
/* admit.h - whether a launch may go to the device now. Pure. */
#ifndef PIPEFILL_LAUNCH_ADMIT_H
#define PIPEFILL_LAUNCH_ADMIT_H

#include <stdint.h>

struct pf_admit_limits {
	unsigned groups; /* that are in flight at most */
	uint64_t
		window_ns; /* of work queued at most, but for a single launch */
};

/* What is known when a launch comes. */
struct pf_admit {
	int64_t left_ns;    /* of the open bubble; <= 0: shut */
	uint64_t queued_ns; /* until what is in flight is thought to be done */
	unsigned groups;    /* in flight */
	int joins;          /* this one would be part of the last group */
	int alone;          /* it is to have the device for itself */
	uint64_t need_ns;   /* what it must be given */
	uint64_t margin_ns; /* kept before the deadline */
};

enum pf_admit_answer {
	PF_ADMIT_GO,
	PF_ADMIT_LATER, /* once something in flight is done */
	PF_ADMIT_NEXT,  /* not in this bubble: once all is done, in another */
};

enum pf_admit_answer pf_admit_decide(const struct pf_admit_limits *limits,
				     const struct pf_admit *launch);

/* The margin after a chunk that was late, or was not: so moved that one chunk in
 * 200 is late. */
uint64_t pf_admit_margin(uint64_t margin_ns, int late);

#endif /* PIPEFILL_LAUNCH_ADMIT_H */
