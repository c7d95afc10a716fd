/* SPDX-License-Identifier: Apache-2.0 */
/* test_launch_calls.c - each function that is stood in for, both ways of finding
 * it, and the gate and the cap behind it, over a driver and a daemon of our own. */
#include <dlfcn.h>
#include <sys/wait.h>

#include "fake_cuda.h"
#include "fake_daemon.h"
#include "gate.h"
#include "lookup.h"
#include "tap.h"

#define MIB (1ull << 20)
/* Where every argument is an address, and a size that a copy soon is done with. */
#define LOW ((void *) 0x200000)

typedef cu_result (*any)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
			 uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
			 uint64_t);

static struct fake_cuda *cuda;
static void *library;

static const unsigned counts[] = {
#define CALL(name, count) count,
#include "calls.def"
#undef CALL
};

static any ours(const char *name)
{
	size_t i;

	for (i = 0; i < pf_call_count; i++)
		if (!strcmp(pf_calls[i].name, name))
			return (any) pf_calls[i].ours;
	abort();
}

static void open_gate(struct fake_daemon *d)
{
	atomic_store(&d->main->deadline_ns, fake_now() + 30000000000ull);
	atomic_store(&d->main->word, 1);
}

/* One scenario with an environment of its own, in a process of its own. */
static void run(void (*scenario)(struct fake_daemon *d), const char *mode,
		const char *off, const char *cap)
{
	int status = -1;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		struct fake_daemon d;

		fake_start(&d, FAKE_NONE);
		setenv("PIPEFILL_ROLE", "fill", 1);
		setenv("PIPEFILL_MODE", mode, 1);
		if (off)
			setenv("PIPEFILL_LAUNCH", off, 1);
		if (cap)
			setenv("PIPEFILL_MEM_BYTES", cap, 1);
		tap_failed = 0;
		scenario(&d);
		printf("# checks %d\n", tap_count);
		fflush(stdout);
		fake_stop(&d);
		_exit(tap_failed ? 1 : 0);
	}
	waitpid(child, &status, 0);
	tap_ok(WIFEXITED(status) && !WEXITSTATUS(status),
	       "the scenario above ends well");
}

/* Whatever a program hands over arrives as it is. */
static void forwards(struct fake_daemon *d)
{
	size_t i;
	unsigned k, wrong;

	open_gate(d);
	for (i = 0; i < pf_call_count; i++) {
		const char *name = pf_calls[i].name;
		uint64_t a[FAKE_ARGUMENTS];
		/* What has fewer bits than an address: values of memset. */
		uint64_t bits = strstr(name, "MemsetD") ? 0xff : 0xffffffff;
		cu_result result;

		memset(LOW, 0, 65536);
		for (k = 0; k < FAKE_ARGUMENTS; k++)
			a[k] = (uintptr_t) LOW + 4096 * k + 8 * k + 8;
		cuda->fail = name;
		cuda->fail_after = 0;
		cuda->fail_result = 77;
		result = ((any) pf_calls[i].ours)(a[0], a[1], a[2], a[3], a[4],
						  a[5], a[6], a[7], a[8], a[9],
						  a[10]);
		for (k = wrong = 0; k < counts[i]; k++)
			wrong += (cuda->arguments[k] & bits) != (a[k] & bits);
		if (result != 77 || wrong || strcmp(cuda->last, name))
			break;
		result = ((any) pf_calls[i].ours)(a[0], a[1], a[2], a[3], a[4],
						  a[5], a[6], a[7], a[8], a[9],
						  a[10]);
		if (result)
			break;
	}
	tap_ok(i == pf_call_count,
	       "all %zu functions hand their arguments and results on (%s)",
	       pf_call_count, i < pf_call_count ? pf_calls[i].name : "all");
}

static void *open_later(void *arg)
{
	struct timespec ts = { .tv_nsec = 20000000 };
	struct fake_daemon *d = arg;

	nanosleep(&ts, NULL);
	atomic_store(&d->control->seed, fake_now());
	open_gate(d);
	return NULL;
}

static void waits(struct fake_daemon *d)
{
	static const char *const calls[] = { "cuLaunchKernel",
					     "cuLaunchKernelEx",
					     "cuLaunchCooperativeKernel",
					     "cuGraphLaunch",
					     "cuMemcpyHtoDAsync_v2",
					     "cuMemsetD32Async",
					     "cuMemcpyDtoH_v2" };
	size_t i;

	memset(LOW, 0, 65536);
	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		uint64_t low = (uintptr_t) LOW, opened;
		unsigned before = cuda->log_count;
		pthread_t thread;

		atomic_store(&d->main->word, 0);
		memset(LOW, 0, 65536);
		/* The chunk before ends by the watcher, or this call. */
		pthread_create(&thread, NULL, open_later, d);
		(void) ours(calls[i])(low, low + 64, 256, low, 0, 0, 0, 0, low,
				      0, 0);
		pthread_join(thread, NULL);
		opened = atomic_load(&d->control->seed);
		tap_ok(cuda->log_count == before + 1 &&
			       cuda->log[before].begin_ns >= opened,
		       "%s waits for the gate", calls[i]);
	}
	tap_ok(atomic_load(&d->fill->chunks) > 0 &&
		       atomic_load(&d->fill->pid) == (uint32_t) getpid(),
	       "and the daemon sees chunks");
}

/* Batches of copies wait too, and are known by all of their bytes. */
static void batches(struct fake_daemon *d)
{
	size_t sizes[2] = { MIB, 3 * MIB };
	struct cu_copy_batch copies[2] = {
		{ .width = MIB, .height = 1, .depth = 1 },
		{ .width = 3, .height = MIB, .depth = 1 }
	};
	static const char *const calls[] = {
		"cuMemcpyBatchAsync",      "cuMemcpyBatchAsync_ptsz",
		"cuMemcpyBatchAsync_v2",   "cuMemcpyBatchAsync_v2_ptsz",
		"cuMemcpy3DBatchAsync",    "cuMemcpy3DBatchAsync_ptsz",
		"cuMemcpy3DBatchAsync_v2", "cuMemcpy3DBatchAsync_v2_ptsz",
	};
	size_t i;

	memset(LOW, 0, 65536);
	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		int flat = !strstr(calls[i], "3D");
		unsigned before = cuda->log_count;
		const struct fake_work *done = &cuda->log[before];
		pthread_t thread;

		atomic_store(&d->main->word, 0);
		pthread_create(&thread, NULL, open_later, d);
		if (flat)
			(void) ours(calls[i])((uintptr_t) LOW, (uintptr_t) LOW,
					      (uintptr_t) sizes, 2, 0, 0, 0, 0,
					      0, 0, 0);
		else
			(void) ours(calls[i])(2, (uintptr_t) copies, 0, 0, 0, 0,
					      0, 0, 0, 0, 0);
		pthread_join(thread, NULL);
		tap_ok(cuda->log_count == before + 1 &&
			       done->begin_ns >=
				       atomic_load(&d->control->seed) &&
			       done->end_ns - done->begin_ns > 4 * MIB / 10,
		       "%s waits for the gate", calls[i]);
	}
}

static void refused(struct fake_daemon *d)
{
	(void) d;
	memset(LOW, 0, 65536);
	setenv("PIPEFILL_DIR", "/nonexistent", 1);
	tap_ok(ours("cuLaunchKernel")((uintptr_t) LOW, 1, 1, 1, 1, 1, 1, 0, 0,
				      0, 0) == CU_NOT_PERMITTED &&
		       !cuda->log_count,
	       "without a gate nothing is launched");
	tap_ok(ours("cuLaunchKernel")((uintptr_t) LOW, 1, 1, 1, 1, 1, 1, 0, 0,
				      0, 0) == CU_NOT_PERMITTED,
	       "nor at the next try");
	setenv("PIPEFILL_DIR", d->dir, 1);
}

static void off(struct fake_daemon *d)
{
	void *address = dlsym(library, "cuLaunchKernel"), *found = NULL;
	size_t i, same = 0;

	atomic_store(&d->main->word, 0);
	memset(LOW, 0, 65536);
	for (i = 0; i < pf_call_count; i++)
		same += !pf_lookup_symbol(library, pf_calls[i].name);
	tap_ok(same == pf_call_count, "dlsym is left alone");
	tap_ok(!ours("cuGetProcAddress_v2")((uintptr_t) "cuLaunchKernel",
					    (uintptr_t) &found, 12000, 0, 0, 0,
					    0, 0, 0, 0, 0) &&
		       found == address,
	       "cuGetProcAddress gives the driver's own");
	tap_ok(!ours("cuLaunchKernel")((uintptr_t) LOW, 1, 1, 1, 1, 1, 1, 0, 0,
				       0, 0) &&
		       cuda->log_count == 1 && !cuda->events &&
		       !atomic_load(&d->fill->pid),
	       "a launch goes by, without an event, with the gate shut");
	tap_ok(!ours("cuMemAlloc_v2")((uintptr_t) LOW, 64 * MIB, 0, 0, 0, 0, 0,
				      0, 0, 0, 0),
	       "memory is not counted");
}

static void capped(struct fake_daemon *d)
{
	uint64_t at[8] = { 0 }, handle = 0;
	size_t free_bytes = 0, total = 0;
	struct cu_allocation_prop prop = { .location = { 1, 0 } };
	struct cu_array_2d shape = { 1024, 1024, 0x20, 1 };
	any allocate = ours("cuMemAlloc_v2"), release = ours("cuMemFree_v2");
	unsigned i;

	(void) ours("cuMemGetInfo_v2")((uintptr_t) &free_bytes,
				       (uintptr_t) &total, 0, 0, 0, 0, 0, 0, 0,
				       0, 0);
	tap_ok(free_bytes == 8 * MIB && total == PF_CONTEXT_BYTES + 8 * MIB,
	       "a program is told what it may have");
	tap_ok(allocate((uintptr_t) at, 9 * MIB, 0, 0, 0, 0, 0, 0, 0, 0, 0) ==
			       CU_OUT_OF_MEMORY &&
		       !cuda->used_bytes,
	       "more than the cap never reaches the driver");
	for (i = 0; i < 8; i++)
		(void) allocate((uintptr_t) &at[i], MIB, 0, 0, 0, 0, 0, 0, 0, 0,
				0);
	tap_ok(at[7] && allocate((uintptr_t) &handle, 1, 0, 0, 0, 0, 0, 0, 0, 0,
				 0) == CU_OUT_OF_MEMORY,
	       "the cap is on the sum");
	tap_ok(atomic_load(&d->fill->process[0].bytes) ==
			       PF_CONTEXT_BYTES + 8 * MIB &&
		       atomic_load(&d->fill->process[0].pid) ==
			       (uint32_t) getpid(),
	       "which the daemon sees");
	cuda->fail = "cuMemFree_v2";
	cuda->fail_result = 1;
	tap_ok(release(at[0], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) == 1 &&
		       atomic_load(&d->fill->process[0].bytes) ==
			       PF_CONTEXT_BYTES + 8 * MIB,
	       "a free that fails frees nothing");
	for (i = 0; i < 8; i++)
		(void) release(at[i], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
	tap_ok(atomic_load(&d->fill->process[0].bytes) == PF_CONTEXT_BYTES,
	       "what is freed is free");
	tap_ok(ours("cuMemAllocAsync")((uintptr_t) at, 9 * MIB, 0, 0, 0, 0, 0,
				       0, 0, 0, 0) == CU_OUT_OF_MEMORY &&
		       ours("cuMemAllocManaged")((uintptr_t) at, 9 * MIB, 1, 0,
						 0, 0, 0, 0, 0, 0,
						 0) == CU_OUT_OF_MEMORY &&
		       ours("cuMemAllocFromPoolAsync")((uintptr_t) at, 9 * MIB,
						       0, 0, 0, 0, 0, 0, 0, 0,
						       0) == CU_OUT_OF_MEMORY &&
		       ours("cuMemCreate")((uintptr_t) &handle, 9 * MIB,
					   (uintptr_t) &prop, 0, 0, 0, 0, 0, 0,
					   0, 0) == CU_OUT_OF_MEMORY &&
		       ours("cuMemAllocPitch_v2")(
			       (uintptr_t) at, (uintptr_t) &total, 1, 20000, 4,
			       0, 0, 0, 0, 0, 0) == CU_OUT_OF_MEMORY,
	       "whichever way it is asked for");
	prop.location.type = 3; /* a NUMA node of the host */
	tap_ok(!ours("cuMemCreate")((uintptr_t) &handle, 9 * MIB,
				    (uintptr_t) &prop, 0, 0, 0, 0, 0, 0, 0, 0),
	       "memory of the host is not the device's");
	prop.location.type = 1;
	tap_ok(!ours("cuMemCreate")((uintptr_t) &handle, 3 * MIB,
				    (uintptr_t) &prop, 0, 0, 0, 0, 0, 0, 0,
				    0) &&
		       !ours("cuArrayCreate_v2")((uintptr_t) at,
						 (uintptr_t) &shape, 0, 0, 0, 0,
						 0, 0, 0, 0, 0) &&
		       atomic_load(&d->fill->process[0].bytes) ==
			       PF_CONTEXT_BYTES + 7 * MIB,
	       "physical memory and arrays count");
	(void) ours("cuMemRelease")(handle, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
	tap_ok(atomic_load(&d->fill->process[0].bytes) ==
		       PF_CONTEXT_BYTES + 4 * MIB,
	       "until they are released");
}

static void *by_driver(const char *symbol, int version, uint64_t flags)
{
	void *found = NULL;
	int status = 0;

	(void) ours("cuGetProcAddress_v2")(
		(uintptr_t) symbol, (uintptr_t) &found, (unsigned) version,
		flags, (uintptr_t) &status, 0, 0, 0, 0, 0, 0);
	return found;
}

static void found(struct fake_daemon *d)
{
	static const struct {
		const char *symbol;
		int version;
		uint64_t flags;
		const char *ours;
	} cases[] = {
		{ "cuLaunchKernel", 12040, 0, "cuLaunchKernel" },
		{ "cuLaunchKernel", 12040, 2, "cuLaunchKernel_ptsz" },
		{ "cuLaunchKernelEx", 12040, 1, "cuLaunchKernelEx" },
		{ "cuGraphLaunch", 12040, 2, "cuGraphLaunch_ptsz" },
		{ "cuMemAlloc", 12040, 0, "cuMemAlloc_v2" },
		{ "cuMemAlloc", 12040, 2, "cuMemAlloc_v2" },
		{ "cuMemcpyDtoH", 12040, 2, "cuMemcpyDtoH_v2_ptds" },
		{ "cuMemcpyBatchAsync", 12080, 0, "cuMemcpyBatchAsync" },
		{ "cuMemcpyBatchAsync", 13000, 0, "cuMemcpyBatchAsync_v2" },
		{ "cuMemcpy3DBatchAsync", 12090, 2,
		  "cuMemcpy3DBatchAsync_ptsz" },
		{ "cuMemcpy3DBatchAsync", 13010, 2,
		  "cuMemcpy3DBatchAsync_v2_ptsz" },
		{ "cuGetProcAddress", 12040, 0, "cuGetProcAddress_v2" },
		{ "cuGetProcAddress", 11030, 0, "cuGetProcAddress" },
	};

	int old;
	size_t i;

	(void) d;
	for (old = 0; old < 2; old++) {
		cuda->old = old;
		for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
			tap_ok(by_driver(cases[i].symbol, cases[i].version,
					 cases[i].flags) ==
				       (void *) ours(cases[i].ours),
			       "%s of CUDA %d, flags %d, is ours%s",
			       cases[i].symbol, cases[i].version,
			       (int) cases[i].flags, old ? " by its name" : "");
	}
	cuda->old = 0;
	tap_ok(by_driver("cuInit", 12040, 0) == dlsym(library, "cuInit") &&
		       !by_driver("cuNoSuchThing", 12040, 0),
	       "what is not stood in for is the driver's");
	tap_ok(pf_lookup_symbol(library, "cuLaunchKernel") ==
			       (void *) ours("cuLaunchKernel") &&
		       pf_lookup_symbol(RTLD_NEXT, "cuMemAlloc_v2") ==
			       (void *) ours("cuMemAlloc_v2") &&
		       pf_lookup_symbol(RTLD_DEFAULT, "cuGraphLaunch") ==
			       (void *) ours("cuGraphLaunch"),
	       "dlsym in the driver gives ours");
	tap_ok(!pf_lookup_symbol(library, "cuInit") &&
		       !pf_lookup_symbol(library, "cublasCreate_v2") &&
		       !pf_lookup_symbol(library, "c") &&
		       !pf_lookup_symbol(library, NULL) &&
		       !pf_lookup_symbol(dlopen("libc.so.6", RTLD_NOW),
					 "cuLaunchKernel"),
	       "in another library, or of another name, it does not");
}

/* A child has a gate and a place in the cap of its own. */
static void forks(struct fake_daemon *d)
{
	uint64_t at = 0, low = (uintptr_t) LOW;
	int status = -1;
	pid_t child;

	open_gate(d);
	memset(LOW, 0, 65536);
	(void) ours("cuLaunchKernel")(low, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0);
	(void) ours("cuMemAlloc_v2")((uintptr_t) &at, MIB, 0, 0, 0, 0, 0, 0, 0,
				     0, 0);
	child = fork();
	if (!child) {
		int failed = ours("cuLaunchKernel")(low, 1, 1, 1, 1, 1, 1, 0, 0,
						    0, 0);

		failed |= ours("cuMemAlloc_v2")((uintptr_t) &at, MIB, 0, 0, 0,
						0, 0, 0, 0, 0, 0);
		failed |= atomic_load(&d->fill->process[1].pid) !=
			  (uint32_t) getpid();
		_exit(failed);
	}
	waitpid(child, &status, 0);
	tap_ok(WIFEXITED(status) && !WEXITSTATUS(status),
	       "a child opens its own gate");
}

int main(int argc, char **argv)
{
	char cap[32];

	library = dlopen(argc > 1 ? argv[1] : "build/tests/driver/libcuda.so.1",
			 RTLD_NOW);
	if (!tap_ok(library != NULL, "the driver loads") ||
	    mmap(LOW, 65536, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		 0) != LOW)
		return 1;
	cuda = dlsym(library, "fake_cuda");
	snprintf(cap, sizeof(cap), "%llu", PF_CONTEXT_BYTES + 8 * MIB);
	run(forwards, "launch", NULL, NULL);
	run(waits, "launch", NULL, NULL);
	run(batches, "launch", NULL, NULL);
	run(refused, "launch", NULL, NULL);
	run(off, "launch", "off", cap);
	run(off, "chunked", NULL, cap);
	run(capped, "launch", NULL, cap);
	run(found, "launch", NULL, NULL);
	run(forks, "launch", NULL, "no number");
	return tap_done();
}
