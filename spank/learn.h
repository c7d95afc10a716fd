/* SPDX-License-Identifier: Apache-2.0 */
/* learn.h - the lengths and starts of bubbles, learned per index. Pure. */
#ifndef PIPEFILL_LEARN_H
#define PIPEFILL_LEARN_H

#include <stdint.h>

#define PF_LEARN_INDICES 256u
#define PF_LEARN_KEEP 16u           /* samples kept of each index */
#define PF_LEARN_ENOUGH 8u          /* of them before a prediction is made */
#define PF_LEARN_SHORT_NS 10000000u /* a bubble of which a transfer is much */

/* The last samples of one quantity, in order of arrival and of size. */
struct pf_window {
	uint64_t arrival[PF_LEARN_KEEP];
	uint64_t sorted[PF_LEARN_KEEP];
	uint32_t count; /* of samples kept */
	uint32_t next;  /* place of the oldest once full */
};

void pf_learn_add(struct pf_window *window, uint64_t sample);

/* In which of the last iterations one bubble was seen. */
struct pf_presence {
	uint64_t iteration; /* the last it was seen in */
	uint32_t mask;      /* bit n: seen n iterations before that one */
};

/* Notes that the bubble is in iteration; returns in how many of the last
 * PF_LEARN_KEEP iterations before this one it was. */
uint32_t pf_learn_see(struct pf_presence *presence, uint64_t iteration);

/* The lower quartile (an error of -12/-2/+5 % at p5/p50/p95 on two gloo ranks);
 * 0 until enough samples are kept. */
uint64_t pf_learn_low(const struct pf_window *window);

/* A bubble's length: the lower quartile; where the lower eighth is a tenth less,
 * that one. Lengths that differ so are often the transport's and no bubble: of
 * what the quartile offered of them a half was not idle on two gloo ranks, and
 * of all that was offered 0.5 instead of 1.8 % for Interleaved1F1B. Where the
 * lower eighth of short ones is a fifth less than the median, the least: a
 * bubble that ends before its deadline ends with the transfer (0.3 ms), which
 * of those that are offered for a short time and often end early was 2.7 % for
 * DualPipeV. Of long ones it is next to nothing. */
uint64_t pf_learn_length(const struct pf_window *window);
uint64_t pf_learn_median(const struct pf_window *window);

#endif /* PIPEFILL_LEARN_H */
