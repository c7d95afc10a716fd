/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c - what a fill job's processes have allocated on the device.
 *
 * Each counts in its own place of the fill page, so that all of them see the sum.
 * The page is the fill job's own to forge: it keeps honest programs within the
 * cap, and pipefilld looks at what NVML says of the others.
 */
#include "memory.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROOM_LEAST 1024u

static struct pf_fill_process *claim(struct pf_fill_process *all)
{
	uint32_t own = (uint32_t) getpid();
	unsigned i;

	for (i = 0; i < PF_FILL_PROCESSES; i++) {
		uint32_t pid = atomic_load(&all[i].pid);

		/* One that ended without a word gives its place up. */
		if (pid && pid != own &&
		    (kill((pid_t) pid, 0) == 0 || errno != ESRCH))
			continue;
		if (atomic_compare_exchange_strong(&all[i].pid, &pid, own)) {
			atomic_store(&all[i].bytes, 0);
			return &all[i];
		}
	}
	return NULL;
}

void pf_memory_init(struct pf_memory *memory, uint64_t cap_bytes,
		    struct pf_fill_process *all)
{
	memset(memory, 0, sizeof(*memory));
	pthread_mutex_init(&memory->lock, NULL);
	memory->cap_bytes = cap_bytes;
	memory->own = all ? claim(all) : NULL;
	if (memory->own)
		memory->all = all;
	else
		memory->own = &memory->alone; /* more processes than places */
	atomic_store(&memory->own->bytes, PF_CONTEXT_BYTES);
}

uint64_t pf_memory_used(struct pf_memory *memory)
{
	uint64_t sum = 0;
	unsigned i;

	if (!memory->all)
		return atomic_load(&memory->own->bytes);
	for (i = 0; i < PF_FILL_PROCESSES; i++) {
		uint32_t pid = atomic_load(&memory->all[i].pid);
		uint64_t bytes = atomic_load(&memory->all[i].bytes);

		if (!pid || !bytes)
			continue;
		if (kill((pid_t) pid, 0) && errno == ESRCH) {
			if (atomic_compare_exchange_strong(&memory->all[i].pid,
							   &pid, 0))
				continue;
		}
		sum += bytes < UINT64_MAX - sum ? bytes : UINT64_MAX - sum;
	}
	return sum;
}

uint64_t pf_memory_left(struct pf_memory *memory)
{
	uint64_t used = pf_memory_used(memory);

	if (!memory->cap_bytes)
		return UINT64_MAX;
	return used < memory->cap_bytes ? memory->cap_bytes - used : 0;
}

int pf_memory_take(struct pf_memory *memory, uint64_t bytes)
{
	if (bytes > UINT64_MAX / 4)
		return -1;
	/* Counted before it is compared: two processes at once may both be
	 * refused, never both let through. */
	atomic_fetch_add(&memory->own->bytes, bytes);
	if (!memory->cap_bytes || pf_memory_used(memory) <= memory->cap_bytes)
		return 0;
	atomic_fetch_sub(&memory->own->bytes, bytes);
	return -1;
}

static size_t next(const struct pf_memory *memory, size_t i)
{
	return (i + 1) & (memory->room - 1);
}

/* Where at is, or would be put. */
static size_t place(const struct pf_memory *memory, uint64_t at)
{
	size_t i = (size_t) ((at >> 8) * 0x9e3779b97f4a7c15ull >> 32);

	i &= memory->room - 1;
	while (memory->blocks[i].at && memory->blocks[i].at != at)
		i = next(memory, i);
	return i;
}

/* Room for one more, half of it free. */
static int grow(struct pf_memory *memory)
{
	struct pf_block *old = memory->blocks;
	size_t i, before = memory->room;

	if (2 * (memory->count + 1) <= before)
		return 0;
	memory->room = before ? 2 * before : ROOM_LEAST;
	memory->blocks = calloc(memory->room, sizeof(*memory->blocks));
	if (!memory->blocks) {
		memory->blocks = old;
		memory->room = before;
		return -1;
	}
	for (i = 0; i < before; i++)
		if (old[i].at)
			memory->blocks[place(memory, old[i].at)] = old[i];
	free(old);
	return 0;
}

void pf_memory_note(struct pf_memory *memory, uint64_t at, uint64_t bytes)
{
	if (!bytes)
		return;
	if (!at) {
		atomic_fetch_sub(&memory->own->bytes, bytes);
		return;
	}
	pthread_mutex_lock(&memory->lock);
	/* Without host memory for a note it stays counted for good. */
	if (!grow(memory)) {
		struct pf_block *block = &memory->blocks[place(memory, at)];

		if (!block->at)
			memory->count++;
		else /* freed by a way that is not seen, and used again */
			atomic_fetch_sub(&memory->own->bytes, block->bytes);
		*block = (struct pf_block){ at, bytes };
	}
	pthread_mutex_unlock(&memory->lock);
}

uint64_t pf_memory_forget(struct pf_memory *memory, uint64_t at)
{
	uint64_t bytes = 0;
	size_t i;

	pthread_mutex_lock(&memory->lock);
	if (at && memory->room && memory->blocks[i = place(memory, at)].at) {
		bytes = memory->blocks[i].bytes;
		memory->count--;
		/* Those behind it that would not be found any more move up. */
		memory->blocks[i].at = 0;
		for (i = next(memory, i); memory->blocks[i].at;
		     i = next(memory, i)) {
			struct pf_block block = memory->blocks[i];

			memory->blocks[i].at = 0;
			memory->blocks[place(memory, block.at)] = block;
		}
	}
	pthread_mutex_unlock(&memory->lock);
	return bytes;
}

void pf_memory_leave(struct pf_memory *memory)
{
	atomic_store(&memory->own->bytes, 0);
	if (memory->all)
		atomic_store(&memory->own->pid, 0);
}
