/* SPDX-License-Identifier: Apache-2.0 */
/* test_launch_memory.c - the cap on what a job's processes allocate. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory.h"
#include "tap.h"

#define MIB (1ull << 20)

static struct pf_fill_process *new_table(void)
{
	size_t size = PF_FILL_PROCESSES * sizeof(struct pf_fill_process);
	void *table = mmap(NULL, size, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (table == MAP_FAILED)
		abort();
	return table;
}

static void test_alone(void)
{
	struct pf_memory memory;

	pf_memory_init(&memory, PF_CONTEXT_BYTES + 10 * MIB, NULL);
	tap_ok(pf_memory_left(&memory) == 10 * MIB, "the context counts");
	tap_ok(!pf_memory_take(&memory, 10 * MIB), "up to the cap it goes");
	pf_memory_note(&memory, 0x1000, 10 * MIB);
	tap_ok(pf_memory_take(&memory, 1) == -1 && !pf_memory_left(&memory),
	       "a byte more does not");
	tap_ok(pf_memory_take(&memory, UINT64_MAX) == -1 &&
		       pf_memory_take(&memory, UINT64_MAX / 2) == -1,
	       "nor what overflows");
	pf_memory_note(&memory, 0, pf_memory_forget(&memory, 0x2000));
	tap_ok(!pf_memory_left(&memory), "what is not known frees nothing");
	pf_memory_note(&memory, 0, pf_memory_forget(&memory, 0x1000));
	pf_memory_note(&memory, 0, pf_memory_forget(&memory, 0x1000));
	tap_ok(pf_memory_left(&memory) == 10 * MIB, "freed twice counts once");
	tap_ok(!pf_memory_take(&memory, 4 * MIB), "what fails later");
	pf_memory_note(&memory, 0, 4 * MIB);
	tap_ok(pf_memory_left(&memory) == 10 * MIB, "is given back");
	free(memory.blocks);
	pf_memory_init(&memory, 0, NULL);
	tap_ok(!pf_memory_take(&memory, 1ull << 50) &&
		       pf_memory_left(&memory) == UINT64_MAX,
	       "without a cap all goes");
	free(memory.blocks);
	pf_memory_init(&memory, 1, NULL);
	tap_ok(pf_memory_take(&memory, 1) == -1 && !pf_memory_left(&memory),
	       "a cap below a context lets nothing through");
}

/* Against a plain array, at random. */
static void test_model(void)
{
	static uint64_t bytes[4096];
	struct pf_memory memory;
	unsigned seed = 7, i, wrong = 0;
	uint64_t sum = 0;

	pf_memory_init(&memory, 0, NULL);
	for (i = 0; i < 200000; i++) {
		unsigned n = (unsigned) rand_r(&seed) % 4096;
		uint64_t at = 0x7f0000000000 + 512ull * n;

		if (bytes[n]) {
			uint64_t had = pf_memory_forget(&memory, at);

			wrong += had != bytes[n];
			pf_memory_note(&memory, 0, had);
			sum -= bytes[n];
			bytes[n] = 0;
		} else {
			bytes[n] = 1 + (uint64_t) rand_r(&seed) % 100000;
			wrong += (unsigned) -pf_memory_take(&memory, bytes[n]);
			pf_memory_note(&memory, at, bytes[n]);
			sum += bytes[n];
		}
		wrong += pf_memory_used(&memory) != PF_CONTEXT_BYTES + sum;
	}
	tap_ok(!wrong, "200,000 allocations and frees are counted right");
	free(memory.blocks);
}

static void test_job(void)
{
	struct pf_fill_process *table = new_table();
	uint64_t cap = 2 * PF_CONTEXT_BYTES + 10 * MIB;
	struct pf_memory memory;
	int status = -1, go[2], told[2];
	char word = 0;
	pid_t child;

	if (pipe(go) || pipe(told))
		abort();
	pf_memory_init(&memory, cap, table);
	tap_ok(!pf_memory_take(&memory, 6 * MIB), "one process takes a part");
	child = fork();
	if (!child) {
		struct pf_memory own;
		int more, less;

		pf_memory_init(&own, cap, table);
		more = pf_memory_take(&own, 6 * MIB);
		less = pf_memory_take(&own, 4 * MIB);
		(void) !write(told[1], "x", 1);
		(void) !read(go[0], &word, 1);
		_exit(more == -1 && less == 0 ? 0 : 1); /* without a word */
	}
	(void) !read(told[0], &word, 1);
	tap_ok(pf_memory_take(&memory, 1) == -1 && !pf_memory_left(&memory),
	       "another process of the job takes the rest");
	(void) !write(go[1], "x", 1);
	waitpid(child, &status, 0);
	tap_ok(WIFEXITED(status) && !WEXITSTATUS(status),
	       "and not what the first has");
	tap_ok(pf_memory_left(&memory) == PF_CONTEXT_BYTES + 4 * MIB,
	       "what it had is free once it is dead");
	pf_memory_leave(&memory);
	tap_ok(!atomic_load(&table[0].pid), "one that ends gives its place up");
	free(memory.blocks);
}

static void test_full_table(void)
{
	struct pf_fill_process *table = new_table();
	struct pf_memory memory;
	unsigned i;

	for (i = 0; i < PF_FILL_PROCESSES; i++) {
		atomic_store(&table[i].pid, (uint32_t) getppid());
		atomic_store(&table[i].bytes, UINT64_MAX / 2);
	}
	pf_memory_init(&memory, PF_CONTEXT_BYTES + MIB, table);
	tap_ok(!pf_memory_take(&memory, MIB) &&
		       pf_memory_take(&memory, 1) == -1,
	       "a process without a place is counted by itself");
	free(memory.blocks);
	atomic_store(&table[3].pid, 0x7fffffff); /* nobody's */
	pf_memory_init(&memory, PF_CONTEXT_BYTES, table);
	tap_ok(atomic_load(&table[3].pid) == (uint32_t) getpid(),
	       "the place of a dead process is taken");
	tap_ok(pf_memory_used(&memory) == UINT64_MAX &&
		       pf_memory_take(&memory, 1) == -1,
	       "a forged table does not overflow");
	free(memory.blocks);
}

int main(void)
{
	test_alone();
	test_model();
	test_job();
	test_full_table();
	return tap_done();
}
