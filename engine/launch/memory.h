/* SPDX-License-Identifier: Apache-2.0 */
/* memory.h - what a fill job's processes have allocated on the device, and the
 * cap on all of it together. */
#ifndef PIPEFILL_LAUNCH_MEMORY_H
#define PIPEFILL_LAUNCH_MEMORY_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "page.h"

/* What a process takes by a context alone, kernels and workspaces of the driver
 * included: 0.3 to 0.6 GB. */
#define PF_CONTEXT_BYTES 629145600ull

/* Allocations of this process, by address or handle. */
struct pf_memory {
	pthread_mutex_t lock;

	struct pf_block {
		uint64_t at; /* 0: free */
		uint64_t bytes;
	} * blocks;

	size_t room, count;                /* of blocks: a power of two */
	uint64_t cap_bytes;                /* of the whole job; 0: none */
	struct pf_fill_process *own, *all; /* in the fill page; NULL: alone */
	struct pf_fill_process alone;
};

/* cap_bytes: 0 for none. all: the table of the fill page, or NULL where there is
 * none: this process is then counted by itself. The context is counted from
 * here on. */
void pf_memory_init(struct pf_memory *memory, uint64_t cap_bytes,
		    struct pf_fill_process *all);

/* Takes bytes out of the cap before they are allocated. 0, or -1: they are more
 * than what is left. */
int pf_memory_take(struct pf_memory *memory, uint64_t bytes);
/* Notes where they are; gives them back where the allocation failed (at 0). */
void pf_memory_note(struct pf_memory *memory, uint64_t at, uint64_t bytes);
/* Before what is there is given back: returns its bytes, 0 where it is not known.
 * They count on until they are given back by a note at 0, or noted again. */
uint64_t pf_memory_forget(struct pf_memory *memory, uint64_t at);

/* Of all the job's processes. */
uint64_t pf_memory_used(struct pf_memory *memory);
uint64_t pf_memory_left(struct pf_memory *memory);
/* This process ends. */
void pf_memory_leave(struct pf_memory *memory);

#endif /* PIPEFILL_LAUNCH_MEMORY_H */
