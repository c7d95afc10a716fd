/* SPDX-License-Identifier: Apache-2.0 */
/* fake_cuda.c - a libcuda without a GPU: streams are threads, device pointers
 * are host pointers, and everything can go wrong. */
#include "fake_cuda.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define QUEUE 65536u

int cuCtxGetCurrent(void **context);
int cuCtxSetCurrent(void *context);
int cuMemHostAlloc(void **host, size_t size, unsigned int flags);
int cuMemFreeHost(void *host);
int cuMemHostGetDevicePointer_v2(uint64_t *device, void *host, unsigned int);
int cuStreamIsCapturing(void *stream, int *status);
int cuEventCreate(void **event, unsigned int flags);
int cuEventRecord(void *event, void *stream);
int cuEventQuery(void *event);
int cuEventDestroy_v2(void *event);
int cuStreamWriteValue32_v2(void *stream, uint64_t to, uint32_t, unsigned int);
int cuStreamWaitValue32_v2(void *stream, uint64_t at, uint32_t, unsigned int);

enum kind { KERNEL, WRITE, WAIT, RECORD };

struct op {
	enum kind kind;
	uint64_t ns;
	uint64_t *done_ns;
	_Atomic uint32_t *word;
	uint32_t value;
	void *event;
};

struct stream {
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct op queue[QUEUE];
	uint32_t head, tail;
};

struct event {
	_Atomic int pending; /* records that have not come */
};

static _Atomic int fault;
static _Atomic uint64_t parameter;
static struct stream *default_stream;
static pthread_mutex_t streams = PTHREAD_MUTEX_INITIALIZER;

void fake_cuda_fault(int value, uint64_t with)
{
	parameter = with;
	fault = value;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec ts = { (time_t) (ns / 1000000000u),
			       (long) (ns % 1000000000u) };

	(void) nanosleep(&ts, NULL);
}

static void do_op(const struct op *op)
{
	switch (op->kind) {
	case KERNEL:
		sleep_ns(op->ns);
		if (op->done_ns)
			atomic_store((_Atomic uint64_t *) op->done_ns,
				     now_ns());
		break;
	case WRITE:
		if (fault == FAKE_CUDA_LATE)
			sleep_ns(parameter);
		if (fault != FAKE_CUDA_SILENT)
			atomic_store(op->word, op->value);
		break;
	case WAIT:
		while ((int32_t) (atomic_load(op->word) - op->value) < 0)
			sleep_ns(5000);
		break;
	default:
		((struct event *) op->event)->pending--;
	}
}

static void *run(void *arg)
{
	struct stream *s = arg;

	for (;;) {
		struct op op;

		pthread_mutex_lock(&s->lock);
		while (s->head == s->tail)
			pthread_cond_wait(&s->more, &s->lock);
		op = s->queue[s->head % QUEUE];
		pthread_mutex_unlock(&s->lock);
		do_op(&op);
		pthread_mutex_lock(&s->lock);
		s->head++;
		pthread_mutex_unlock(&s->lock);
	}
	return NULL;
}

void *fake_cuda_stream(void)
{
	struct stream *s = calloc(1, sizeof(*s));
	pthread_t thread;

	if (!s)
		abort();
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->more, NULL);
	if (pthread_create(&thread, NULL, run, s))
		abort();
	pthread_detach(thread);
	return s;
}

static struct stream *get(void *stream)
{
	if (stream)
		return stream;
	pthread_mutex_lock(&streams);
	if (!default_stream)
		default_stream = fake_cuda_stream();
	pthread_mutex_unlock(&streams);
	return default_stream;
}

static void put(void *stream, const struct op *op)
{
	struct stream *s = get(stream);

	pthread_mutex_lock(&s->lock);
	if (s->tail - s->head >= QUEUE)
		abort();
	s->queue[s->tail++ % QUEUE] = *op;
	pthread_cond_signal(&s->more);
	pthread_mutex_unlock(&s->lock);
}

void fake_cuda_kernel(void *stream, uint64_t ns, uint64_t *done_ns)
{
	put(stream,
	    &(struct op){ .kind = KERNEL, .ns = ns, .done_ns = done_ns });
}

int fake_cuda_synchronize(void *stream, uint64_t timeout_ns)
{
	struct stream *s = get(stream);
	uint64_t end_ns = now_ns() + timeout_ns;

	for (;;) {
		int done;

		pthread_mutex_lock(&s->lock);
		done = s->head == s->tail;
		pthread_mutex_unlock(&s->lock);
		if (done)
			return 0;
		if (now_ns() > end_ns)
			return -1;
		sleep_ns(20000);
	}
}

int cuCtxGetCurrent(void **context)
{
	*context = fault == FAKE_CUDA_NO_CONTEXT ? NULL : &streams;
	return 0;
}

int cuCtxSetCurrent(void *context)
{
	return context == &streams ? 0 : 201;
}

int cuMemHostAlloc(void **host, size_t size, unsigned int flags)
{
	(void) flags;
	if (fault == FAKE_CUDA_NO_MEMORY)
		return 2;
	*host = aligned_alloc(128, (size + 127) / 128 * 128);
	return *host ? 0 : 2;
}

int cuMemFreeHost(void *host)
{
	free(host);
	return 0;
}

int cuMemHostGetDevicePointer_v2(uint64_t *device, void *host, unsigned int x)
{
	(void) x;
	*device = (uint64_t) (uintptr_t) host;
	return 0;
}

int cuStreamIsCapturing(void *stream, int *status)
{
	(void) stream;
	*status = fault == FAKE_CUDA_CAPTURING;
	return 0;
}

int cuEventCreate(void **event, unsigned int flags)
{
	(void) flags;
	*event = calloc(1, sizeof(struct event));
	return *event ? 0 : 2;
}

int cuEventRecord(void *event, void *stream)
{
	if (fault == FAKE_CUDA_RECORD_FAILS)
		return (int) parameter;
	((struct event *) event)->pending++;
	put(stream, &(struct op){ .kind = RECORD, .event = event });
	return 0;
}

int cuEventQuery(void *event)
{
	if (fault == FAKE_CUDA_QUERY_FAILS)
		return (int) parameter;
	return ((struct event *) event)->pending ? 600 : 0;
}

int cuEventDestroy_v2(void *event)
{
	free(event);
	return 0;
}

static _Atomic uint32_t *word(uint64_t at)
{
	return (_Atomic uint32_t *) (uintptr_t) at;
}

int cuStreamWriteValue32_v2(void *stream, uint64_t to, uint32_t value,
			    unsigned int flags)
{
	(void) flags;
	if (fault == FAKE_CUDA_WRITE_FAILS)
		return (int) parameter;
	if (fault == FAKE_CUDA_EARLY)
		atomic_store(word(to), value);
	put(stream,
	    &(struct op){ .kind = WRITE, .word = word(to), .value = value });
	return 0;
}

int cuStreamWaitValue32_v2(void *stream, uint64_t at, uint32_t value,
			   unsigned int flags)
{
	(void) flags;
	if (fault == FAKE_CUDA_WAIT_FAILS)
		return (int) parameter;
	put(stream,
	    &(struct op){ .kind = WAIT, .word = word(at), .value = value });
	return 0;
}
