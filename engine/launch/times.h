/* SPDX-License-Identifier: Apache-2.0 */
/* times.h - what each launch takes on the device, learned. Pure. */
#ifndef PIPEFILL_LAUNCH_TIMES_H
#define PIPEFILL_LAUNCH_TIMES_H

#include <stddef.h>
#include <stdint.h>

/* Launches that are told apart: a power of two. A training step of a large
 * model has some hundreds of kernel and grid pairs. */
#define PF_TIMES_KEYS 4096u
/* Runs of one that are remembered. */
#define PF_TIMES_RUNS 16u
/* One of so many runs of a launch that is known is measured again. */
#define PF_TIMES_AGAIN 32u

struct pf_time {
	uint64_t key;   /* 0: free */
	uint32_t runs;  /* measured */
	uint32_t since; /* runs since the last that was measured */
	uint32_t recent_ns[PF_TIMES_RUNS]; /* up to 4.29 s */
};

/* All zero is empty. */
struct pf_times {
	struct pf_time keys[PF_TIMES_KEYS];
	uint32_t first_ns[PF_TIMES_RUNS]; /* of launches never seen before */
	uint32_t firsts;
};

/* What a launch is known by: a function with its grid, a graph, or a kind of
 * copy with the order of magnitude of its bytes. Never 0. */
uint64_t pf_times_key(const void *what, const unsigned *shape, size_t count);

/* The entry of key, made if there is none; NULL when there is no room left: such
 * a launch is never known. */
struct pf_time *pf_times_find(struct pf_times *times, uint64_t key);

/* What one run must be given, in ns: the slowest of the recent runs, of many the
 * second slowest, since one that was disturbed would ask for more than any
 * bubble has. 0: not known. */
uint64_t pf_time_need(const struct pf_time *time);
/* The quickest of the recent runs; 0: not known. */
uint64_t pf_time_least(const struct pf_time *time);

/* What a launch never seen before is given: twice the slowest of such launches
 * lately, and at most a part of the longest bubble, which it also is given while
 * there was none. */
uint64_t pf_times_unknown(const struct pf_times *times, uint64_t longest_ns);

/* Whether this run is to be measured. */
int pf_time_due(struct pf_time *time);
void pf_times_add(struct pf_times *times, struct pf_time *time, uint64_t ns);

/* A graph that is destroyed: its handle may be another's next. */
void pf_times_forget(struct pf_times *times, uint64_t key);

#endif /* PIPEFILL_LAUNCH_TIMES_H */
