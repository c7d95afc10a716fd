/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c - enqueues the bubble instruction, and the thread that follows the
 * stream.
 *
 * Each call has a number. The stream writes it into a word of host memory when
 * it comes there ("progress"; a driver without stream memory operations: an
 * event that the thread asks for). A held stream waits until another word
 * ("release") has reached its number, in the cyclic order of 32 bits: whoever
 * stores a number releases all holds up to it.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "driver.h"
#include "lib_error.h"
#include "pipefill.h"
#include "pipefill_stream.h"

/* Enqueued and not yet passed: a program runs a few iterations ahead at most. */
#define RING 4096u

/* How often the thread looks: what a bubble's start may be late by. While
 * something is enqueued; for a while after; and when nothing has come for long. */
#define LOOK_NS 20000
#define LOOK_IDLE_NS 50000
#define LOOK_ASLEEP_NS 1000000
#define ASLEEP_AFTER_NS 100000000u

/* A release this late is counted, and after so many in a row nothing is held
 * any more: the thread does not get its core. */
#define LATE_NS 100000u
#define LATE_MOST 16u

/* No stream is held for longer, and none that is not known to be there is left
 * unreleased for longer, counted from when it was enqueued: what the thread
 * does not see might hold for ever. Two iterations, if they are longer. */
#define HOLD_MOST_NS 2000000000u

/* How long the first write may take to be seen. */
#define PROBE_NS 1000000000u

enum what { BEGIN, END, ITERATION };

struct entry {
	uint32_t number;
	uint8_t what;
	uint8_t kind;
	uint32_t index;
	uint64_t free_bytes;
	uint64_t enqueued_ns;
	void *event; /* NULL: progress says it */
	_Atomic uint8_t hold;
};

/* One a handle, and never freed: after it is closed a stream may still write to
 * them, or come to a wait for them. */
struct words {
	_Atomic uint32_t progress; /* the stream writes */
	uint8_t pad[60];
	_Atomic uint32_t release; /* the thread writes, the stream waits */
	uint8_t pad1[60];
	struct words *before; /* in the list of all */
};

static struct words *_Atomic all_words;

struct pf_stream {
	struct pf_driver driver;
	struct pf_main *main;
	struct words *words;
	pf_cuda_pointer progress_at, release_at;
	void *context;
	pthread_t thread;
	int has_thread;

	/* The program's side. */
	uint32_t number;
	uint64_t iteration; /* that was enqueued last */
	struct entry ring[RING];
	_Atomic uint32_t tail;

	/* The thread's. */
	_Atomic uint32_t head;
	uint32_t held; /* number of the hold under way, if holding */
	int holding;
	uint64_t due_ns;
	uint64_t iteration_ns, iteration_began_ns;
	unsigned int late_in_a_row;

	_Atomic int ready;
	_Atomic int may_hold;
	_Atomic int stopping;
	_Atomic int failed;
	char why[128];
	struct pf_stream_figures figures;
};

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static void sleep_ns(uint64_t ns)
{
	struct timespec ts = { (time_t) (ns / 1000000000u),
			       (long) (ns % 1000000000u) };

	(void) nanosleep(&ts, NULL);
}

static int reached(uint32_t at, uint32_t number)
{
	return (int32_t) (at - number) >= 0;
}

/* Everything enqueued until now, and what a program may still enqueue before it
 * sees that nothing is to be held, goes. */
static void release_all(struct pf_stream *s)
{
	atomic_store(&s->may_hold, 0);
	atomic_store(&s->words->release, s->number + 0x40000000u);
}

/* Fail open. The first reason is kept. */
static void fail(struct pf_stream *s, const char *what, int result)
{
	int none = 0;

	release_all(s);
	if (!atomic_compare_exchange_strong(&s->failed, &none, 1))
		return;
	snprintf(s->why, sizeof(s->why), "%s returned %d", what, result);
	atomic_store(&s->failed, 2);
}

/* The program's side */

static int enqueue_mark(struct pf_stream *s, void *stream, struct entry *entry)
{
	int result;

	if (s->driver.write32) {
		result = s->driver.write32(stream, s->progress_at,
					   entry->number, 0);
		if (result != PF_CUDA_SUCCESS)
			fail(s, "cuStreamWriteValue32", result);
		return result;
	}
	if (!entry->event) {
		result = s->driver.event_create(&entry->event,
						PF_CUDA_EVENT_NO_TIMING);
		if (result != PF_CUDA_SUCCESS) {
			entry->event = NULL;
			fail(s, "cuEventCreate", result);
			return result;
		}
	}
	result = s->driver.event_record(entry->event, stream);
	if (result != PF_CUDA_SUCCESS)
		fail(s, "cuEventRecord", result);
	return result;
}

static int enqueue(struct pf_stream *s, void *stream, enum what what, int kind,
		   uint32_t index, uint64_t free_bytes, int hold)
{
	uint32_t tail;
	struct entry *entry;
	int capturing = 0, result;

	if (!s || atomic_load_explicit(&s->failed, memory_order_relaxed))
		return -1;
	result = s->driver.stream_is_capturing(stream, &capturing);
	if (result != PF_CUDA_SUCCESS || capturing)
		return -1; /* a graph would repeat this number */
	tail = atomic_load_explicit(&s->tail, memory_order_relaxed);
	if (tail - atomic_load_explicit(&s->head, memory_order_acquire) >=
	    RING) {
		s->figures.dropped++;
		return -1;
	}
	entry = &s->ring[tail % RING];
	entry->number = s->number + 1;
	entry->what = (uint8_t) what;
	entry->kind = (uint8_t) kind;
	entry->index = index;
	entry->free_bytes = free_bytes;
	entry->enqueued_ns = now_ns(CLOCK_MONOTONIC);
	hold = hold && atomic_load(&s->may_hold);
	atomic_store(&entry->hold, (uint8_t) hold);
	if (enqueue_mark(s, stream, entry) != PF_CUDA_SUCCESS)
		return -1;
	s->number++;
	/* Known to the thread before the stream can wait: whatever becomes of
	 * the next call, it will be released. */
	atomic_store_explicit(&s->tail, tail + 1, memory_order_release);
	if (hold) {
		result = s->driver.wait32(stream, s->release_at, entry->number,
					  PF_CUDA_WAIT_GEQ);
		if (result != PF_CUDA_SUCCESS) {
			atomic_store(&entry->hold, 0);
			fail(s, "cuStreamWaitValue32", result);
		}
	}
	return 0;
}

int pf_stream_begin(struct pf_stream *s, void *stream, int kind, uint32_t index,
		    uint64_t free_bytes, int hold)
{
	return enqueue(s, stream, BEGIN, kind, index, free_bytes, hold);
}

int pf_stream_end(struct pf_stream *s, void *stream)
{
	return enqueue(s, stream, END, 0, 0, 0, 0);
}

int pf_stream_iteration(struct pf_stream *s, void *stream)
{
	int result = enqueue(s, stream, ITERATION, 0, 0, 0, 0);

	if (!result)
		s->iteration++;
	return result;
}

int pf_stream_moves(const struct pf_stream *s, uint32_t *out, uint32_t *in)
{
	/* Where nothing is announced fill work never runs. */
	if (!s || atomic_load(&s->failed))
		return -1;
	return pf_moves(s->main, s->iteration, out, in);
}

int pf_stream_releases(const struct pf_stream *s, uint32_t *bubble)
{
	if (!s || atomic_load(&s->failed))
		return -1;
	return pf_releases(s->main, s->iteration, bubble);
}

void pf_stream_releasable(struct pf_stream *s, uint32_t bubble, uint64_t bytes,
			  uint64_t out_ns, uint64_t in_ns, uint64_t times)
{
	if (s)
		pf_releasable(s->main, bubble, bytes, out_ns, in_ns, times);
}

void pf_stream_movable(struct pf_stream *s, uint64_t bytes, uint64_t out_ns,
		       uint64_t in_ns, uint64_t times)
{
	if (s)
		pf_movable(s->main, bytes, out_ns, in_ns, times);
}

void pf_stream_ready(struct pf_stream *s)
{
	if (s)
		atomic_store(&s->ready, 1);
}

/* The thread's side */

static void release(struct pf_stream *s, uint64_t now)
{
	uint64_t late_ns = now > s->due_ns ? now - s->due_ns : 0;

	atomic_store(&s->words->release, s->held);
	s->holding = 0;
	if (late_ns > s->figures.latest_ns)
		s->figures.latest_ns = late_ns;
	if (late_ns <= LATE_NS) {
		s->late_in_a_row = 0;
		return;
	}
	s->figures.late++;
	if (++s->late_in_a_row >= LATE_MOST)
		release_all(s);
}

/* The stream has come to a held bubble, which is announced: until when? */
static void hold(struct pf_stream *s, const struct entry *entry)
{
	int64_t left_ns = pf_bubble_left(s->main);

	if (left_ns <= 0) {
		/* Not offered, or a control iteration: it goes on at once. */
		atomic_store(&s->words->release, entry->number);
		return;
	}
	if (left_ns > HOLD_MOST_NS)
		left_ns = HOLD_MOST_NS;
	s->figures.held++;
	s->held = entry->number;
	s->due_ns = now_ns(CLOCK_MONOTONIC) + (uint64_t) left_ns;
	s->holding = 1;
}

static void pass(struct pf_stream *s, struct entry *entry)
{
	uint64_t now;

	if (s->holding) /* it went on by itself: released by release_all */
		release(s, s->due_ns);
	switch (entry->what) {
	case BEGIN:
		s->figures.announced++;
		atomic_store(&s->ready, 0); /* said of another one */
		if (entry->free_bytes)
			pf_free_bytes(s->main, entry->free_bytes);
		pf_bubble_begin(s->main, (enum pf_kind) entry->kind,
				entry->index);
		if (atomic_load(&entry->hold) && atomic_load(&s->may_hold))
			hold(s, entry);
		break;
	case END:
		pf_bubble_end(s->main);
		break;
	default:
		pf_iteration(s->main);
		now = now_ns(CLOCK_MONOTONIC);
		s->iteration_ns = now - s->iteration_began_ns;
		s->iteration_began_ns = now;
	}
}

/* Whether the stream has come to an entry; -1: that cannot be told any more. */
static int has_come(struct pf_stream *s, const struct entry *entry)
{
	int result;

	if (!entry->event)
		return reached(atomic_load_explicit(&s->words->progress,
						    memory_order_acquire),
			       entry->number);
	result = s->driver.event_query(entry->event);
	if (result == PF_CUDA_SUCCESS || result == PF_CUDA_NOT_READY)
		return result == PF_CUDA_SUCCESS;
	fail(s, "cuEventQuery", result);
	return -1;
}

/* A stream may be held at an entry that the thread has not seen it come to, for
 * any reason: not for ever. Once is enough to hold nothing more. */
static void release_unseen(struct pf_stream *s, const struct entry *entry,
			   uint64_t now)
{
	uint64_t most_ns = HOLD_MOST_NS;

	if (2 * s->iteration_ns > most_ns)
		most_ns = 2 * s->iteration_ns;
	if (!atomic_load(&s->may_hold) || now - entry->enqueued_ns <= most_ns)
		return;
	s->figures.unseen++;
	release_all(s);
}

/* One look. Returns whether anything is enqueued that the stream has not come
 * to, or held. */
static int look(struct pf_stream *s)
{
	uint32_t head = atomic_load_explicit(&s->head, memory_order_relaxed);
	uint64_t now;

	while (head != atomic_load_explicit(&s->tail, memory_order_acquire) &&
	       has_come(s, &s->ring[head % RING]) > 0) {
		pass(s, &s->ring[head % RING]);
		head++;
		atomic_store_explicit(&s->head, head, memory_order_release);
	}
	now = now_ns(CLOCK_MONOTONIC);
	if (s->holding && atomic_exchange(&s->ready, 0)) {
		s->due_ns = now;
		release(s, now);
	}
	if (s->holding && now >= s->due_ns)
		release(s, now);
	if (head == atomic_load_explicit(&s->tail, memory_order_acquire))
		return s->holding;
	release_unseen(s, &s->ring[head % RING], now);
	return 1;
}

static void *follow(void *arg)
{
	struct pf_stream *s = arg;
	uint64_t last_ns = now_ns(CLOCK_MONOTONIC);

	/* Sleeps that are as short as they say: the default adds 50 us. */
	(void) prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
	(void) prctl(PR_SET_NAME, "pipefill", 0, 0, 0);
	if (s->driver.context_set(s->context) != PF_CUDA_SUCCESS)
		fail(s, "cuCtxSetCurrent", -1);
	while (!atomic_load(&s->stopping)) {
		uint64_t now = now_ns(CLOCK_MONOTONIC), for_ns = LOOK_NS;

		if (atomic_load(&s->failed)) {
			/* The gate must not stay open. */
			pf_bubble_end(s->main);
			break;
		}
		if (look(s))
			last_ns = now;
		else if (now - last_ns > ASLEEP_AFTER_NS)
			for_ns = LOOK_ASLEEP_NS;
		else
			for_ns = LOOK_IDLE_NS;
		if (s->holding && s->due_ns > now && s->due_ns - now < for_ns)
			for_ns = s->due_ns - now;
		s->figures.thread_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
		sleep_ns(for_ns);
	}
	return NULL;
}

/* Opening and closing */

/* Whether writes arrive and waits end, tried on the default stream before a
 * program depends on it; else events do. */
static void probe(struct pf_stream *s)
{
	uint64_t give_up_ns = now_ns(CLOCK_MONOTONIC) + PROBE_NS;
	uint32_t number = s->number + 1;

	if (!s->driver.write32)
		return;
	atomic_store(&s->words->release, number);
	if (s->driver.write32(NULL, s->progress_at, number, 0) ==
		    PF_CUDA_SUCCESS &&
	    s->driver.wait32(NULL, s->release_at, number, PF_CUDA_WAIT_GEQ) ==
		    PF_CUDA_SUCCESS) {
		while (now_ns(CLOCK_MONOTONIC) < give_up_ns) {
			if (atomic_load(&s->words->progress) == number) {
				s->number = number;
				atomic_store(&s->may_hold, 1);
				return;
			}
			sleep_ns(LOOK_NS);
		}
	}
	s->driver.write32 = s->driver.wait32 = NULL;
}

static int start(struct pf_stream *s, const char *device, const char *driver,
		 struct pf_error *error)
{
	void *host = NULL;
	sigset_t all, before;
	int result;

	if (pf_driver_load(&s->driver, driver, error))
		return -1;
	if (s->driver.context_get(&s->context) != PF_CUDA_SUCCESS ||
	    !s->context)
		return pf_error_set(error, "no CUDA context is current");
	result = s->driver.host_alloc(&host, sizeof(*s->words),
				      PF_CUDA_HOST_PORTABLE |
					      PF_CUDA_HOST_DEVICEMAP);
	if (result != PF_CUDA_SUCCESS)
		return pf_error_set(error, "cuMemHostAlloc returned %d",
				    result);
	s->words = host;
	memset(s->words, 0, sizeof(*s->words));
	s->words->before = atomic_exchange(&all_words, s->words);
	result = s->driver.host_pointer(&s->progress_at, host, 0);
	if (result != PF_CUDA_SUCCESS)
		return pf_error_set(
			error, "cuMemHostGetDevicePointer returned %d", result);
	s->release_at = s->progress_at + offsetof(struct words, release);
	s->main = pf_open(device);
	if (!s->main)
		return -1; /* pf_open has said why */
	s->iteration = pf_iteration_number(s->main);
	probe(s);
	s->iteration_began_ns = now_ns(CLOCK_MONOTONIC);
	/* The program's signals are none of this thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	result = pthread_create(&s->thread, NULL, follow, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (result)
		return pf_error_set(error, "pthread_create: %s",
				    strerror(result));
	s->has_thread = 1;
	return 0;
}

struct pf_stream *pf_stream_open(const char *device, const char *driver)
{
	struct pf_stream *s = calloc(1, sizeof(*s));

	if (!s) {
		pf_error_set(pf_lib_error(), "out of memory");
		return NULL;
	}
	if (start(s, device, driver, pf_lib_error())) {
		pf_stream_close(s);
		return NULL;
	}
	return s;
}

int pf_stream_holds(const struct pf_stream *s)
{
	return s && atomic_load(&s->may_hold);
}

const char *pf_stream_failed(const struct pf_stream *s)
{
	return s && atomic_load(&s->failed) == 2 ? s->why : NULL;
}

const char *pf_stream_device(const struct pf_stream *s)
{
	return s ? pf_device(s->main) : NULL;
}

void pf_stream_stage(struct pf_stream *s, uint32_t stage)
{
	if (s)
		pf_stage(s->main, stage); /* one store, from any thread */
}

void pf_stream_figures(const struct pf_stream *s,
		       struct pf_stream_figures *figures)
{
	if (s)
		*figures = s->figures;
}

void pf_stream_close(struct pf_stream *s)
{
	size_t i;

	if (!s)
		return;
	if (s->words)
		release_all(s);
	atomic_store(&s->stopping, 1);
	if (s->has_thread)
		pthread_join(s->thread, NULL);
	pf_close(s->main);
	for (i = 0; i < RING; i++)
		if (s->ring[i].event)
			(void) s->driver.event_destroy(s->ring[i].event);
	pf_driver_unload(&s->driver);
	free(s);
}

const char *pf_stream_why(void)
{
	return pf_strerror();
}
