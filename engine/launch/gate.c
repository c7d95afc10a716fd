/* SPDX-License-Identifier: Apache-2.0 */
/* gate.c - this process's gate.
 *
 * Loaded into every program that a fill job starts, shells included: nothing is
 * done before one of them launches or allocates.
 */
#include "gate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib_fill.h"
#include "lookup.h"
#include "pipefill.h"

/* A gate that could not be had is asked for again after so long. */
#define AGAIN_NS 1000000000u
/* Said so often at most that memory was refused. */
#define REFUSALS_SAID 3

static const struct pf_admit_limits default_limits = { 4, 1000000 };

static struct {
	pthread_mutex_t lock; /* of what follows, until ready */
	int ready;
	int watched;
	pid_t pid;
	uint64_t asked_ns;
	struct pf_fill *fill;
	struct pf_memory memory;
	int counts; /* memory is there */
	unsigned refusals;
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct pf_flight flight;
static int active = -1;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static void pause_ns(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t) (ns / 1000000000u),
			       .tv_nsec = (long) (ns % 1000000000u) };

	(void) clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

static void say(const char *text)
{
	fprintf(stderr, "pipefill: %s\n", text);
}

static int64_t wait_open(int64_t need_ns, int64_t timeout_ns)
{
	return pf_fill_wait(gate.fill, need_ns, timeout_ns);
}

static int64_t left(void)
{
	return pf_fill_left(gate.fill);
}

static void yield(void)
{
	pf_fill_yield(gate.fill);
}

static int stopping(void)
{
	return pf_fill_stopping(gate.fill);
}

static int is(const char *name, const char *want)
{
	const char *value = getenv(name);

	return value && !strcmp(value, want);
}

int pf_gate_active(void)
{
	int known = __atomic_load_n(&active, __ATOMIC_RELAXED);

	if (known < 0) {
		known = is("PIPEFILL_ROLE", "fill") &&
			is("PIPEFILL_MODE", "launch") &&
			!is("PIPEFILL_LAUNCH", "off");
		__atomic_store_n(&active, known, __ATOMIC_RELAXED);
	}
	return known;
}

/* A number from the environment within bounds, or what is usual. */
static uint64_t number(const char *name, uint64_t least, uint64_t most,
		       uint64_t usual)
{
	const char *value = getenv(name);
	char text[160], *end;
	unsigned long long n;

	if (!value)
		return usual;
	errno = 0;
	n = strtoull(value, &end, 10);
	if (*value >= '0' && *value <= '9' && !*end && !errno && n >= least &&
	    n <= most)
		return n;
	snprintf(text, sizeof(text),
		 "%s=%.40s: write a whole number from %llu to %llu; %llu is "
		 "used",
		 name, value, (unsigned long long) least,
		 (unsigned long long) most, (unsigned long long) usual);
	say(text);
	return usual;
}

static struct pf_flight_driver driver_functions(void)
{
	struct pf_flight_driver driver = { 0 };

#define FUNCTION(field, name) *(void **) &driver.field = pf_lookup_driver(name)
	FUNCTION(event_create, "cuEventCreate");
	FUNCTION(event_record, "cuEventRecord");
	FUNCTION(event_query, "cuEventQuery");
	FUNCTION(event_elapsed, "cuEventElapsedTime");
	FUNCTION(stream_synchronize, "cuStreamSynchronize");
	FUNCTION(stream_capturing, "cuStreamIsCapturing");
	FUNCTION(context_get, "cuCtxGetCurrent");
	FUNCTION(context_push, "cuCtxPushCurrent_v2");
	FUNCTION(context_pop, "cuCtxPopCurrent_v2");
	FUNCTION(exchange_mode, "cuThreadExchangeStreamCaptureMode");
#undef FUNCTION
	return driver;
}

static void forked(void)
{
	/* The child has another process's gate, and CUDA does not work in it
	 * until it has started anew. */
	pthread_mutex_init(&gate.lock, NULL);
	gate.ready = gate.watched = gate.counts = 0;
	gate.fill = NULL;
	gate.asked_ns = 0;
}

/* Opens the gate and what hangs on it; with the lock. -1: not now. */
static int open_gate(void)
{
	static const struct pf_flight_io io = { now_ns, pause_ns, wait_open,
						left,   yield,    stopping,
						say };
	static int atfork;
	struct pf_flight_driver driver = { 0 };
	struct pf_admit_limits limits;
	uint64_t now = now_ns();

	if (gate.asked_ns && now - gate.asked_ns < AGAIN_NS)
		return -1;
	if (!atfork && pthread_atfork(NULL, NULL, forked))
		return -1;
	atfork = 1;
	gate.fill = pf_fill_open();
	if (!gate.fill) {
		if (!gate.asked_ns)
			fprintf(stderr,
				"pipefill: no gate, so nothing is launched: "
				"%s\n",
				pf_strerror());
		gate.asked_ns = now;
		return -1;
	}
	driver = driver_functions();
	if (!driver.event_create || !driver.event_record ||
	    !driver.event_query || !driver.event_elapsed ||
	    !driver.stream_synchronize) {
		if (!gate.asked_ns)
			say("the CUDA driver has no events, so nothing is "
			    "launched");
		gate.asked_ns = now;
		pf_fill_close(gate.fill);
		gate.fill = NULL;
		return -1;
	}
	limits.groups =
		(unsigned) number("PIPEFILL_LAUNCH_DEPTH", 1, PF_FLIGHT_GROUPS,
				  default_limits.groups);
	limits.window_ns =
		1000 * number("PIPEFILL_LAUNCH_WINDOW_US", 10, 1000000,
			      default_limits.window_ns / 1000);
	pf_flight_init(&flight, &io, &driver, &limits);
	gate.pid = getpid();
	__atomic_store_n(&gate.ready, 1, __ATOMIC_RELEASE);
	return 0;
}

/* With the lock; the gate is open. */
static void watch(void)
{
	pthread_t thread;
	pthread_attr_t attr;

	if (gate.watched)
		return;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	gate.watched =
		!pthread_create(&thread, &attr, pf_flight_watch, &flight);
	pthread_attr_destroy(&attr);
}

static int open_once(void)
{
	int opened = 0;

	if (__atomic_load_n(&gate.ready, __ATOMIC_ACQUIRE))
		return 0;
	pthread_mutex_lock(&gate.lock);
	if (!gate.ready)
		opened = open_gate();
	if (!opened)
		watch();
	pthread_mutex_unlock(&gate.lock);
	return opened;
}

cu_result pf_gate_begin(struct pf_ticket *ticket, cu_stream stream,
			uint64_t key)
{
	ticket->group = NULL;
	if (!pf_gate_active())
		return CU_SUCCESS;
	if (open_once())
		return CU_NOT_PERMITTED;
	return pf_flight_begin(&flight, ticket, stream, key);
}

void pf_gate_end(struct pf_ticket *ticket, cu_result result)
{
	if (ticket->group)
		pf_flight_end(&flight, ticket, result);
}

void pf_gate_forget(uint64_t key)
{
	if (!__atomic_load_n(&gate.ready, __ATOMIC_ACQUIRE))
		return;
	pthread_mutex_lock(&flight.lock);
	pf_times_forget(&flight.times, key);
	pthread_mutex_unlock(&flight.lock);
}

struct pf_memory *pf_gate_memory(void)
{
	if (!pf_gate_active())
		return NULL;
	if (__atomic_load_n(&gate.counts, __ATOMIC_ACQUIRE))
		return &gate.memory;
	(void) open_once();
	pthread_mutex_lock(&gate.lock);
	if (!gate.counts) {
		struct pf_fill_page *page =
			gate.fill ? pf_lib_fill_page(gate.fill) : NULL;

		pf_memory_init(&gate.memory,
			       number("PIPEFILL_MEM_BYTES", 0, INT64_MAX, 0),
			       page ? page->process : NULL);
		__atomic_store_n(&gate.counts, 1, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&gate.lock);
	return &gate.memory;
}

cu_result pf_gate_take(uint64_t bytes)
{
	struct pf_memory *memory = pf_gate_memory();

	if (!memory || !pf_memory_take(memory, bytes))
		return CU_SUCCESS;
	if (__atomic_fetch_add(&gate.refusals, 1, __ATOMIC_RELAXED) <
	    REFUSALS_SAID)
		fprintf(stderr,
			"pipefill: out of device memory: %.0f MiB more were "
			"asked for, and %.0f of the %.0f MiB that the job's "
			"slot has are taken (%.0f of them by each process for "
			"its context); use a smaller batch, or ask for a slot "
			"with more by --pipefill=fill,mem=SIZE\n",
			(double) bytes / 0x1p20,
			(double) pf_memory_used(memory) / 0x1p20,
			(double) memory->cap_bytes / 0x1p20,
			(double) PF_CONTEXT_BYTES / 0x1p20);
	return CU_OUT_OF_MEMORY;
}

/* A program that ends gives its memory back in the sum; the kernel does the
 * rest. */
__attribute__((destructor)) static void leave(void)
{
	if (__atomic_load_n(&gate.counts, __ATOMIC_ACQUIRE) &&
	    gate.pid == getpid())
		pf_memory_leave(&gate.memory);
}
