/* SPDX-License-Identifier: Apache-2.0 */
/* fake_cuda.c - libcuda.so.1 without a device. */
#include "tests/fake_cuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define BYTES_PER_NS 10u /* of a copy */

EXPORT struct fake_cuda fake_cuda = { .total_bytes = 8ull << 30 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int the_context;
static _Thread_local cu_context current = &the_context;

static struct event {
	uint64_t at_ns;
} events[4096];

static uint64_t now_ns(void)
{
	struct timespec ts;

	if (fake_cuda.now)
		return fake_cuda.now();
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static void sleep_until(uint64_t at_ns)
{
	while (now_ns() < at_ns) {
		struct timespec ts = { .tv_nsec = 20000 };

		if (fake_cuda.sleep)
			fake_cuda.sleep(at_ns - now_ns());
		else
			nanosleep(&ts, NULL);
	}
}

static struct fake_stream *stream_of(cu_stream stream)
{
	if (!stream || stream == (cu_stream) 1)
		return &fake_cuda.legacy;
	return stream == (cu_stream) 2 ? &fake_cuda.per_thread : stream;
}

static int fails(const char *name)
{
	if (!fake_cuda.fail || strcmp(fake_cuda.fail, name) ||
	    fake_cuda.fail_after-- > 0)
		return 0;
	fake_cuda.fail = NULL;
	return fake_cuda.fail_result;
}

/* Puts work into a stream of the one device, which does one thing at a time. */
static cu_result work(const char *name, const void *kernel, uint64_t ns,
		      cu_stream where)
{
	struct fake_stream *stream = stream_of(where);
	uint64_t now, begin;
	unsigned i, in_flight = 1;

	if (stream->capturing)
		return CU_SUCCESS;
	pthread_mutex_lock(&lock);
	now = now_ns();
	begin = now > fake_cuda.device_ns ? now : fake_cuda.device_ns;
	if (begin < stream->tail_ns)
		begin = stream->tail_ns;
	stream->tail_ns = fake_cuda.device_ns = begin + ns;
	for (i = fake_cuda.log_count; i-- > 0;) {
		if (fake_cuda.log[i].end_ns <= now)
			break;
		in_flight++;
	}
	if (in_flight > fake_cuda.in_flight_most)
		fake_cuda.in_flight_most = in_flight;
	if (fake_cuda.log_count < FAKE_LOG)
		fake_cuda.log[fake_cuda.log_count++] =
			(struct fake_work){ name, kernel, where, begin,
					    begin + ns };
	pthread_mutex_unlock(&lock);
	return CU_SUCCESS;
}

static uint64_t copy_ns(uint64_t bytes)
{
	return 2000 + bytes / BYTES_PER_NS;
}

static cu_result allocate(uint64_t *at, uint64_t bytes)
{
	static uint64_t next = 0x7f0000000000;

	if (bytes > fake_cuda.total_bytes - fake_cuda.used_bytes)
		return CU_OUT_OF_MEMORY;
	fake_cuda.used_bytes += bytes;
	*at = next;
	next += (bytes + 511) / 512 * 512;
	return CU_SUCCESS;
}

/* cuGetProcAddress: base name, version, kind of default stream. */
static cu_result find(const char *symbol, void **address, int version,
		      uint64_t flags)
{
	static const char *const kinds[] = { "_ptsz", "_ptds", "" };
	void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
	char name[96];
	size_t i;

	*address = NULL;
	for (i = flags & CU_PER_THREAD_STREAMS ? 0 : 2; i < 3 && !*address;
	     i++) {
		int old = (!strcmp(symbol, "cuGetProcAddress") &&
			   version < 12000) ||
			  (strstr(symbol, "BatchAsync") && version < 13000);

		(void) strcpy(name, symbol);
		(void) strcat(name, "_v2");
		(void) strcat(name, kinds[i]);
		*address = old ? NULL : dlsym(self, name);
		if (*address)
			break;
		(void) strcpy(name, symbol);
		(void) strcat(name, kinds[i]);
		*address = dlsym(self, name);
	}
	dlclose(self);
	if (*address && fake_cuda.old)
		*address = (char *) *address + 1; /* of no name that is known */
	return CU_SUCCESS;
}

static int begins(const char *name, const char *with)
{
	return !strncmp(name, with, strlen(with));
}

/* A batch of copies; its last parameter is the stream. */
static cu_result batch(const char *name, const uint64_t *a)
{
	int old = !strstr(name, "_v2"), flat = !strstr(name, "3D");
	const struct cu_copy_batch *copies = (const void *) a[1];
	const size_t *sizes = (const void *) a[2];
	uint64_t bytes = 0, count = flat ? a[3] : a[0], i;

	/* Of addresses in the place of counts, only so many. */
	for (i = 0; i < count && i < 16; i++)
		bytes += flat ? sizes[i]
			      : copies[i].width * copies[i].height *
					 copies[i].depth;
	return work(name, NULL, copy_ns(bytes),
		    (cu_stream) a[flat ? 7 + old : 3 + old]);
}

/* What a call does, by its name. */
static cu_result act(const char *name, const uint64_t *a)
{
	const struct fake_kernel *kernel = (const void *) a[0];
	const struct cu_launch_config *config = (const void *) a[0];

	if (begins(name, "cuLaunchKernelEx"))
		return work(name, (const void *) a[1],
			    ((const struct fake_kernel *) a[1])->ns,
			    config->stream);
	if (begins(name, "cuLaunchKernel") ||
	    (begins(name, "cuLaunchCooperativeKernel") &&
	     !strstr(name, "Multi")))
		return work(name, kernel, kernel->ns, (cu_stream) a[8]);
	if (begins(name, "cuGraphLaunch"))
		return work(name, kernel, kernel->ns, (cu_stream) a[1]);
	if (strstr(name, "BatchAsync"))
		return batch(name, a);
	if (!strcmp(name, "cuMemcpyHtoDAsync_v2"))
		return work(name, NULL, copy_ns(a[2]), (cu_stream) a[3]);
	if (!strcmp(name, "cuMemsetD32Async"))
		return work(name, NULL, copy_ns(4 * a[2]), (cu_stream) a[3]);
	if (!strcmp(name, "cuMemcpyDtoH_v2")) {
		cu_result result = work(name, NULL, copy_ns(a[2]), NULL);

		sleep_until(fake_cuda.legacy.tail_ns);
		return result;
	}
	if (!strcmp(name, "cuMemAlloc_v2") || !strcmp(name, "cuMemCreate") ||
	    !strcmp(name, "cuMemAllocManaged") ||
	    begins(name, "cuMemAllocAsync") ||
	    begins(name, "cuMemAllocFromPool"))
		return allocate((uint64_t *) a[0], a[1]);
	if (!strcmp(name, "cuMemGetInfo_v2")) {
		*(size_t *) a[0] = fake_cuda.total_bytes - fake_cuda.used_bytes;
		*(size_t *) a[1] = fake_cuda.total_bytes;
	}
	if (begins(name, "cuGetProcAddress"))
		return find((const char *) a[0], (void **) a[1], (int) a[2],
			    a[3]);
	return CU_SUCCESS;
}

static cu_result called(const char *name, const uint64_t *arguments)
{
	int failed = fails(name);

	fake_cuda.last = name;
	memcpy(fake_cuda.arguments, arguments, sizeof(fake_cuda.arguments));
	return failed ? failed : act(name, arguments);
}

/* Whatever a function takes: integers and pointers, in the places of the ABI. */
#define CALL(name, count)                                                      \
	EXPORT cu_result name(uint64_t a, uint64_t b, uint64_t c, uint64_t d,  \
			      uint64_t e, uint64_t f, uint64_t g, uint64_t h,  \
			      uint64_t i, uint64_t j, uint64_t k);             \
	EXPORT cu_result name(uint64_t a, uint64_t b, uint64_t c, uint64_t d,  \
			      uint64_t e, uint64_t f, uint64_t g, uint64_t h,  \
			      uint64_t i, uint64_t j, uint64_t k)              \
	{                                                                      \
		return called(#name, (uint64_t[]){ a, b, c, d, e, f, g, h, i,  \
						   j, k });                    \
	}
#include "calls.def"

#define PLAIN(name, parameters)                                                \
	EXPORT cu_result name parameters;                                      \
	EXPORT cu_result name parameters

/* An event touched while something is captured, by a thread that is not in the
 * relaxed mode, spoils the capture. */
static void touch(void)
{
	if (fake_cuda.strict && !fake_cuda.relaxed)
		fake_cuda.spoiled++;
}

PLAIN(cuEventCreate, (cu_event * event, unsigned flags))
{
	int failed = fails("cuEventCreate");

	(void) flags;
	if (failed)
		return failed;
	*event = &events[fake_cuda.events++ %
			 (sizeof(events) / sizeof(*events))];
	return CU_SUCCESS;
}

PLAIN(cuEventRecord, (cu_event event, cu_stream stream))
{
	int failed = fails("cuEventRecord");
	uint64_t now = now_ns(), tail = stream_of(stream)->tail_ns;

	touch();
	if (failed)
		return failed;
	((struct event *) event)->at_ns =
		(tail > now ? tail : now) + fake_cuda.event_late_ns;
	return CU_SUCCESS;
}

PLAIN(cuEventQuery, (cu_event event))
{
	int failed = fails("cuEventQuery");

	touch();
	if (failed)
		return failed;
	if (current != &the_context)
		return 201; /* CUDA_ERROR_INVALID_CONTEXT */
	return now_ns() < ((struct event *) event)->at_ns ? CU_NOT_READY
							  : CU_SUCCESS;
}

PLAIN(cuEventElapsedTime, (float *ms, cu_event begin, cu_event end))
{
	*ms = (float) ((double) (((struct event *) end)->at_ns -
				 ((struct event *) begin)->at_ns) /
		       1e6);
	return fails("cuEventElapsedTime");
}

PLAIN(cuStreamSynchronize, (cu_stream stream))
{
	fake_cuda.syncs++;
	sleep_until(stream_of(stream)->tail_ns);
	return CU_SUCCESS;
}

PLAIN(cuStreamIsCapturing, (cu_stream stream, int *status))
{
	*status = stream_of(stream)->capturing;
	return fails("cuStreamIsCapturing");
}

PLAIN(cuCtxGetCurrent, (cu_context * context))
{
	*context = current;
	return CU_SUCCESS;
}

PLAIN(cuCtxPushCurrent_v2, (cu_context context))
{
	current = context;
	return CU_SUCCESS;
}

/* Only of what was pushed on a thread without a context. */
PLAIN(cuCtxPopCurrent_v2, (cu_context * context))
{
	*context = current;
	current = NULL;
	return CU_SUCCESS;
}

/* 0: as a thread that has never used the driver. */
PLAIN(fake_cuda_context, (int on))
{
	current = on ? &the_context : NULL;
	return CU_SUCCESS;
}

PLAIN(cuThreadExchangeStreamCaptureMode, (int *mode))
{
	int before = fake_cuda.relaxed;

	fake_cuda.relaxed = *mode;
	*mode = before;
	return CU_SUCCESS;
}

PLAIN(cuInit, (unsigned flags))
{
	(void) flags;
	return CU_SUCCESS;
}
