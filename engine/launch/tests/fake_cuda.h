/* SPDX-License-Identifier: Apache-2.0 */
/* fake_cuda.h - a CUDA driver for tests, whose device is a queue and a clock, and
 * any call of which can fail. */
#ifndef PIPEFILL_FAKE_CUDA_H
#define PIPEFILL_FAKE_CUDA_H

#include <stdint.h>

#include "cuda_abi.h"

/* What cuLaunchKernel's function and cuGraphLaunch's graph point to. */
struct fake_kernel {
	uint64_t ns; /* that it takes */
};

struct fake_stream {
	uint64_t tail_ns; /* when its last work is done */
	int capturing;
};

struct fake_work {
	const char *name;
	const void *kernel;
	cu_stream stream;
	uint64_t begin_ns, end_ns;
};

#define FAKE_LOG 65536u
#define FAKE_ARGUMENTS 11

struct fake_cuda {
	uint64_t (*now)(void);       /* NULL: CLOCK_MONOTONIC */
	void (*sleep)(uint64_t ns);  /* where a call waits for the device */
	const char *fail;            /* the call that fails, ... */
	int fail_result, fail_after; /* with what, after so many */
	uint64_t event_late_ns;      /* that events are told after the work */
	int relaxed;                 /* the thread's capture mode is */
	int strict; /* an event touched in another mode counts in spoiled */
	int old;    /* cuGetProcAddress gives addresses of no name */

	unsigned spoiled, syncs, events;
	unsigned in_flight_most;
	struct fake_work log[FAKE_LOG];
	unsigned log_count;
	uint64_t device_ns; /* when the device is done */
	struct fake_stream legacy, per_thread;
	uint64_t total_bytes, used_bytes;
	const char *last; /* the last call of calls.def, and its arguments */
	uint64_t arguments[FAKE_ARGUMENTS];
};

/* A test finds it by dlsym: a program that is linked with it has a copy. */
extern struct fake_cuda fake_cuda;

#endif /* PIPEFILL_FAKE_CUDA_H */
