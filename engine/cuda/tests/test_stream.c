/* SPDX-License-Identifier: Apache-2.0 */
/* test_stream.c - the bubble instruction in a stream's order, on the libcuda of
 * fake_cuda.c and under a fake pipefilld.
 *
 *	test_stream libfakecuda.so
 */
#include <dlfcn.h>

#include "fake_cuda.h"
#include "fake_daemon.h"
#include "pipefill.h"
#include "pipefill_stream.h"
#include "tap.h"

#define MS 1000000ull
#define PATIENCE (20000 * MS)
#define LEARNED 10 /* iterations after which a bubble is offered */

static const char *library;
static uint64_t receive_ns = 8 * MS;

/* The fake's controls, which the tested code does not know. */
static struct {
	void (*fault)(int fault, uint64_t parameter);
	void *(*stream)(void);
	void (*kernel)(void *stream, uint64_t ns, uint64_t *done_ns);
	int (*synchronize)(void *stream, uint64_t timeout_ns);
} fake;

static void load(void)
{
	void *handle = dlopen(library, RTLD_NOW);
	void *symbol;

	if (!handle) {
		fprintf(stderr, "test_stream: %s\n", dlerror());
		exit(1);
	}
#define CONTROL(field, name)                                                   \
	symbol = dlsym(handle, name);                                          \
	memcpy(&fake.field, &symbol, sizeof(symbol))
	CONTROL(fault, "fake_cuda_fault");
	CONTROL(stream, "fake_cuda_stream");
	CONTROL(kernel, "fake_cuda_kernel");
	CONTROL(synchronize, "fake_cuda_synchronize");
}

/* One iteration: a forward of 2 ms, a bubble with a receive that takes
 * receive_ns, and a mark. */
static void iterate(struct pf_stream *s, void *stream, int hold,
		    uint64_t *computed_ns, uint64_t *received_ns)
{
	fake.kernel(stream, 2 * MS, computed_ns);
	(void) pf_stream_begin(s, stream, PF_FWD_BWD, 0, 1 << 20, hold);
	fake.kernel(stream, receive_ns, received_ns);
	(void) pf_stream_end(s, stream);
	(void) pf_stream_iteration(s, stream);
}

static int run(struct pf_stream *s, void *stream, int iterations, int hold)
{
	while (iterations--)
		iterate(s, stream, hold, NULL, NULL);
	return fake.synchronize(stream, PATIENCE);
}

static void fake_pause(void)
{
	struct timespec ts = { 0, MS };

	nanosleep(&ts, NULL);
}

/* Until the thread has seen what the stream did. */
static int seen(const struct fake_daemon *d, uint64_t marks)
{
	uint64_t end = fake_now() + PATIENCE;

	while (d->main->iteration < marks)
		if (fake_now() > end)
			return 0;
		else
			fake_pause();
	return 1;
}

static const struct pf_event *last_bubble(const struct fake_daemon *d)
{
	uint64_t i = d->main->ring_head;

	while (i--)
		if (!(d->main->ring[i % PF_RING_EVENTS].flags &
		      PF_EVENT_ITERATION))
			return &d->main->ring[i % PF_RING_EVENTS];
	return NULL;
}

static void test_order(void)
{
	struct fake_daemon d;
	struct pf_stream *s;
	uint64_t enqueued_ns, computed_ns = 0, received_ns = 0;
	void *stream = fake.stream();
	const struct pf_event *event;

	fake_start(&d, FAKE_NONE);
	s = pf_stream_open(NULL, library);
	tap_ok(s != NULL, "opens (%s)", s ? "yes" : pf_stream_why());
	tap_ok(pf_stream_holds(s) && !pf_stream_failed(s), "and can hold");
	tap_ok(!strcmp(pf_stream_device(s), "cpu:0"), "and has the device");
	pf_stream_stage(s, 3);
	tap_ok(d.main->stage == 4, "and says its stage");
	receive_ns = 100 * MS; /* longer than a busy machine is away */
	enqueued_ns = fake_now();
	iterate(s, stream, 0, &computed_ns, &received_ns);
	enqueued_ns = fake_now() - enqueued_ns;
	tap_ok(!fake.synchronize(stream, PATIENCE) && seen(&d, 1),
	       "the stream goes through");
	tap_ok(enqueued_ns < 2 * MS || enqueued_ns < received_ns,
	       "the program did not wait for it");
	event = last_bubble(&d);
	tap_ok(event && event->kind == PF_FWD_BWD && event->index == 0 &&
		       event->free_bytes == 1 << 20,
	       "the bubble is announced as it was enqueued");
	tap_ok(event && event->begin_ns >= computed_ns &&
		       event->begin_ns < received_ns,
	       "from when the stream came there, %lld us after the kernel",
	       event ? (long long) (event->begin_ns - computed_ns) / 1000 : -1);
	tap_ok(event && event->end_ns >= received_ns, "until its data was in");
	receive_ns = 8 * MS;
	pf_stream_close(s);
	tap_ok(!d.main->pid && !(d.main->word & PF_WORD_OPEN),
	       "closing gives the device back");
	fake_stop(&d);
}

static void test_hold(void)
{
	struct fake_daemon d;
	struct pf_stream *s;
	struct pf_stream_figures figures;
	uint64_t computed_ns = 0, received_ns = 0;
	void *stream = fake.stream();
	const struct pf_event *event;
	int i;

	fake_start(&d, FAKE_NONE);
	s = pf_stream_open(NULL, library);
	tap_ok(!run(s, stream, LEARNED, 1) && seen(&d, LEARNED),
	       "streams with holds go through");
	pf_stream_figures(s, &figures);
	tap_ok(figures.announced == LEARNED, "every bubble was announced");
	iterate(s, stream, 1, &computed_ns, &received_ns);
	fake.synchronize(stream, PATIENCE);
	seen(&d, LEARNED + 1);
	event = last_bubble(&d);
	tap_ok(event && event->flags & PF_EVENT_OFFERED &&
		       received_ns - computed_ns >=
			       event->deadline_ns - event->begin_ns + 8 * MS,
	       "a learned bubble is held until fill work must be gone");
	pf_stream_figures(s, &figures);
	tap_ok(figures.held > 0 && !figures.unseen, "and counted");

	/* Ready: at once. Learned long enough for a busy machine. */
	receive_ns = 50 * MS;
	run(s, stream, 16, 0);
	fake.kernel(stream, 2 * MS, &computed_ns);
	pf_stream_begin(s, stream, PF_FWD_BWD, 0, 0, 1);
	fake.kernel(stream, 0, &received_ns);
	pf_stream_end(s, stream);
	for (i = 0; i < 10000 && fake.synchronize(stream, MS / 10); i++)
		pf_stream_ready(s);
	tap_ok(received_ns - computed_ns < 40 * MS,
	       "what is known to be there is released at once");
	receive_ns = 8 * MS;
	pf_stream_iteration(s, stream);

	/* A control iteration, and a shut-off, hold nothing. */
	d.control->enabled = 0;
	received_ns = computed_ns = 0;
	iterate(s, stream, 1, &computed_ns, &received_ns);
	fake.synchronize(stream, PATIENCE);
	seen(&d, LEARNED + 19);
	event = last_bubble(&d);
	tap_ok(event && !(event->flags & PF_EVENT_OFFERED),
	       "what is not offered is not held");
	d.control->enabled = 1;
	pf_stream_close(s);
	fake_stop(&d);
}

/* A program that runs ahead asks for the iteration that it enqueues, not for
 * the one that the device has come to. */
static void test_moves(void)
{
	struct fake_daemon d;
	struct pf_stream *s;
	void *stream = fake.stream();
	uint32_t out = 0, in = 0;
	uint64_t i, wrong = 0, moved = 0;

	fake_start(&d, FAKE_NONE);
	d.main->iteration = 7; /* of a handle before this one */
	s = pf_stream_open(NULL, library);
	tap_ok(pf_stream_moves(s, &out, &in) == -1, "nothing is to move");
	d.control->move = PF_MOVE_TELL | PF_MOVE_OUT | 3u << PF_MOVE_OUT_SHIFT |
			  4u << PF_MOVE_IN_SHIFT;
	d.control->control_ppm = 500000;
	fake.kernel(stream, 50 * MS, NULL); /* the device is not there yet */
	for (i = 7; i < 57; i++) {
		int moves = pf_stream_moves(s, &out, &in);

		moved += moves == 1 && out == 3 && in == 4;
		wrong +=
			moves == pf_page_is_control(d.control->seed, i, 500000);
		pf_stream_iteration(s, stream);
	}
	tap_ok(!wrong && moved > 10 && moved < 40,
	       "ahead of the device %d of 50 iterations move, and no control "
	       "iteration",
	       (int) moved);
	tap_ok(!fake.synchronize(stream, PATIENCE) && seen(&d, 57),
	       "which are those that the device comes to");
	pf_stream_movable(s, 1 << 20, 2, 3, 4);
	tap_ok(d.main->move_bytes == 1 << 20 && d.main->move_times == 4,
	       "what could move is told");
	tap_ok(pf_stream_releases(s, &out) == -1,
	       "nothing is to be given back");
	d.control->control_ppm = 0;
	d.control->cache = PF_MOVE_TELL | PF_MOVE_OUT | 5u << PF_MOVE_OUT_SHIFT;
	tap_ok(pf_stream_releases(s, &out) == 1 && out == 5,
	       "until it is, over bubble 5");
	pf_stream_releasable(s, 5, 1 << 20, 2, 3, 4);
	tap_ok(d.main->cache_bytes == 1 << 20 && d.main->cache_bubble == 5,
	       "what could be is told");
	pf_stream_close(s);
	tap_ok(pf_stream_moves(NULL, &out, &in) == -1 &&
		       pf_stream_releases(NULL, &out) == -1,
	       "no handle, no move");
	pf_stream_releasable(NULL, 1, 2, 3, 4, 5);
	pf_stream_movable(NULL, 1, 2, 3, 4);
	fake_stop(&d);
}

/* Whatever the driver does, the stream goes through. */
static void test_faults(void)
{
	static const struct {
		int fault;
		uint64_t parameter;
		const char *name;
		int holds; /* afterwards */
		int fails;
	} faults[] = {
		{ FAKE_CUDA_LATE, 2 * MS, "late", 1, 0 },
		{ FAKE_CUDA_EARLY, 0, "early", 1, 0 },
		{ FAKE_CUDA_SILENT, 0, "silent", 0, 0 },
		{ FAKE_CUDA_WRITE_FAILS, 999, "failing in writes", 0, 1 },
		{ FAKE_CUDA_WAIT_FAILS, 999, "failing in waits", 0, 1 },
		{ FAKE_CUDA_CAPTURING, 0, "capturing", 1, 0 },
	};

	size_t i;

	for (i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
		struct fake_daemon d;
		struct pf_stream *s;
		struct pf_stream_figures figures;
		void *stream = fake.stream();
		const char *why;

		fake_start(&d, FAKE_NONE);
		s = pf_stream_open(NULL, library);
		run(s, stream, LEARNED, 1);
		seen(&d, LEARNED);
		fake.fault(faults[i].fault, faults[i].parameter);
		tap_ok(!run(s, stream, 3, 1),
		       "a driver that is %s keeps no stream", faults[i].name);
		pf_stream_figures(s, &figures);
		/* A machine so busy that releases are late stops it too. */
		tap_ok(pf_stream_holds(s) == faults[i].holds ||
			       figures.late >= 16,
		       "and %s",
		       faults[i].holds ? "holds on" : "holds no more");
		why = pf_stream_failed(s);
		tap_ok(!why == !faults[i].fails, "and %s",
		       why ? why : "goes on announcing");
		fake.fault(FAKE_CUDA_NONE, 0);
		tap_ok(!run(s, stream, 1, 1), "nor later");
		pf_stream_close(s);
		tap_ok(!(d.main->word & PF_WORD_OPEN), "the gate is shut");
		fake_stop(&d);
	}
}

/* What is enqueued before a failure, or before closing, is not left held. */
static void test_left_behind(void)
{
	struct fake_daemon d;
	struct pf_stream *s;
	void *stream = fake.stream();
	int i;

	fake_start(&d, FAKE_NONE);
	s = pf_stream_open(NULL, library);
	run(s, stream, LEARNED, 1);
	for (i = 0; i < 5; i++)
		iterate(s, stream, 1, NULL, NULL);
	pf_stream_close(s);
	tap_ok(!fake.synchronize(stream, PATIENCE),
	       "closing releases what the stream comes to later");
	fake_stop(&d);
}

static void test_events(void)
{
	int i;
	struct fake_daemon d;
	struct pf_stream *s;
	uint64_t computed_ns = 0, received_ns = 0;
	void *stream = fake.stream();
	const struct pf_event *event;

	fake_start(&d, FAKE_NONE);
	fake.fault(FAKE_CUDA_WRITE_FAILS, 801);
	s = pf_stream_open(NULL, library);
	fake.fault(FAKE_CUDA_NONE, 0);
	tap_ok(s && !pf_stream_holds(s) && !pf_stream_failed(s),
	       "without stream memory operations nothing is held");
	run(s, stream, LEARNED, 1);
	seen(&d, LEARNED);
	receive_ns = 100 * MS;
	iterate(s, stream, 1, &computed_ns, &received_ns);
	receive_ns = 8 * MS;
	fake.synchronize(stream, PATIENCE);
	seen(&d, LEARNED + 1);
	event = last_bubble(&d);
	tap_ok(event && event->begin_ns >= computed_ns &&
		       event->begin_ns < received_ns &&
		       event->end_ns >= received_ns &&
		       event->flags & PF_EVENT_OFFERED,
	       "events say when bubbles begin and end");
	fake.fault(FAKE_CUDA_QUERY_FAILS, 700);
	iterate(s, stream, 1, NULL, NULL);
	tap_ok(!fake.synchronize(stream, PATIENCE), "an event that fails");
	for (i = 0; i < 10000 && !pf_stream_failed(s); i++)
		fake_pause();
	tap_ok(pf_stream_failed(s) && !strcmp(pf_stream_failed(s),
					      "cuEventQuery returned 700"),
	       "ends the announcements");
	fake.fault(FAKE_CUDA_NONE, 0);
	tap_ok(pf_stream_begin(s, stream, PF_STEADY, 1, 0, 1) == -1,
	       "for good");
	pf_stream_close(s);
	fake_stop(&d);
}

static void test_full(void)
{
	struct fake_daemon d;
	struct pf_stream *s;
	struct pf_stream_figures figures;
	void *stream = fake.stream();
	int i, refused = 0;

	fake_start(&d, FAKE_NONE);
	s = pf_stream_open(NULL, library);
	fake.kernel(stream, 100 * MS, NULL);
	for (i = 0; i < 5000; i++)
		refused += pf_stream_begin(s, stream, PF_STEADY, 0, 0, 0) != 0;
	pf_stream_figures(s, &figures);
	tap_ok(refused > 0 && figures.dropped == (uint64_t) refused,
	       "a program too far ahead is not announced");
	tap_ok(!fake.synchronize(stream, PATIENCE), "and goes on");
	pf_stream_close(s);
	fake_stop(&d);
}

static void test_refusals(void)
{
	struct fake_daemon d;

	tap_ok(!pf_stream_open(NULL, library) &&
		       strstr(pf_stream_why(), "PIPEFILL_DIR"),
	       "outside a main job: %s", pf_stream_why());
	fake_start(&d, FAKE_NONE);
	tap_ok(!pf_stream_open(NULL, "/nonexistent/libcuda.so.1"),
	       "without CUDA: %s", pf_stream_why());
	fake.fault(FAKE_CUDA_NO_CONTEXT, 0);
	tap_ok(!pf_stream_open(NULL, library), "without a context: %s",
	       pf_stream_why());
	fake.fault(FAKE_CUDA_NO_MEMORY, 0);
	tap_ok(!pf_stream_open(NULL, library), "without memory: %s",
	       pf_stream_why());
	fake.fault(FAKE_CUDA_NONE, 0);
	fake_stop(&d);
	tap_ok(pf_stream_begin(NULL, NULL, 0, 0, 0, 1) == -1 &&
		       pf_stream_end(NULL, NULL) == -1 &&
		       !pf_stream_holds(NULL) && !pf_stream_failed(NULL),
	       "no handle, no effect");
	pf_stream_ready(NULL);
	pf_stream_close(NULL);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: test_stream LIBFAKECUDA\n");
		return 2;
	}
	library = argv[1];
	load();
	test_refusals();
	test_order();
	test_hold();
	test_events();
	test_full();
	test_left_behind();
	test_moves();
	test_faults();
	return tap_done();
}
