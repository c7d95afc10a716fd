/* SPDX-License-Identifier: Apache-2.0 */
/* fake_cuda.h - what can be told to the libcuda of fake_cuda.c. */
#ifndef PIPEFILL_FAKE_CUDA_H
#define PIPEFILL_FAKE_CUDA_H

#include <stdint.h>

enum fake_cuda_fault {
	FAKE_CUDA_NONE,
	FAKE_CUDA_LATE,        /* each write takes parameter ns */
	FAKE_CUDA_EARLY,       /* writes are done when they are enqueued */
	FAKE_CUDA_SILENT,      /* writes are never seen */
	FAKE_CUDA_WRITE_FAILS, /* with parameter */
	FAKE_CUDA_WAIT_FAILS,
	FAKE_CUDA_RECORD_FAILS,
	FAKE_CUDA_QUERY_FAILS,
	FAKE_CUDA_CAPTURING,
	FAKE_CUDA_NO_CONTEXT,
	FAKE_CUDA_NO_MEMORY,
};

void fake_cuda_fault(int fault, uint64_t parameter);

/* A stream is a thread that does what is enqueued, in order. */
void *fake_cuda_stream(void);

/* A kernel that takes so long; when it is done, the time is written to done_ns
 * (CLOCK_MONOTONIC), unless that is NULL. */
void fake_cuda_kernel(void *stream, uint64_t ns, uint64_t *done_ns);

/* Waits until a stream has done everything; 0, or -1 after timeout_ns. */
int fake_cuda_synchronize(void *stream, uint64_t timeout_ns);

#endif /* PIPEFILL_FAKE_CUDA_H */
