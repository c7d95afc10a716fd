/* SPDX-License-Identifier: Apache-2.0 */
/* test_launch_flight.c - launches through the flight, over a driver and a gate
 * whose time is the test's own: nothing here waits for a clock. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "fake_cuda.h"
#include "flight.h"
#include "tap.h"

#define US 1000ull
#define MS 1000000ull

static struct fake_cuda *cuda;
static struct pf_flight_driver driver;
static cu_result (*launch_kernel)(void *, unsigned, unsigned, unsigned,
				  unsigned, unsigned, unsigned, unsigned,
				  cu_stream, void **, void **);
static cu_result (*context)(int on);

/* The gate: bubbles of a length that come again after a period. */
static struct {
	uint64_t now, period, length;
	int shut, stopping, running;
	unsigned waits, yields;
	char said[512];
	unsigned says;
} world;

static uint64_t now(void)
{
	return world.now;
}

static void pause_ns(uint64_t ns)
{
	world.now += ns;
}

static uint64_t begin_of(uint64_t at)
{
	return at / world.period * world.period;
}

static int64_t left(void)
{
	uint64_t end = begin_of(world.now) + world.length;

	if (world.shut || world.now >= end)
		return -1;
	return (int64_t) (end - world.now);
}

static void yield(void)
{
	world.yields += (unsigned) world.running;
	world.running = 0;
}

static int64_t wait_open(int64_t need_ns, int64_t timeout_ns)
{
	uint64_t end = world.now + (uint64_t) timeout_ns;

	yield();
	world.waits++;
	if (world.stopping)
		return -1;
	while (left() <= 0 || left() < need_ns) {
		uint64_t next = begin_of(world.now) + world.period;

		if (world.shut || next >= end) {
			world.now = end;
			return -1;
		}
		world.now = next;
	}
	world.running = 1;
	return left();
}

static int stopping(void)
{
	return world.stopping;
}

static void say(const char *text)
{
	world.says++;
	strncpy(world.said, text, sizeof(world.said) - 1);
}

static const struct pf_flight_io io = { now,   pause_ns, wait_open, left,
					yield, stopping, say };

static void start(struct pf_flight *flight, unsigned groups)
{
	struct pf_admit_limits limits = { groups, MS };

	memset(&world, 0, sizeof(world));
	world.now = world.period = 60 * MS;
	world.length = 20 * MS;
	memset(cuda, 0, sizeof(*cuda));
	cuda->now = now;
	cuda->sleep = pause_ns;
	(void) context(1);
	pf_flight_init(flight, &io, &driver, &limits);
}

/* A launch as calls.c makes it; the program takes 4 us for each. */
static cu_result launch(struct pf_flight *flight, struct fake_kernel *kernel,
			cu_stream stream)
{
	uint64_t key = pf_times_key(kernel, NULL, 0);
	struct pf_ticket ticket;
	cu_result result = pf_flight_begin(flight, &ticket, stream, key);

	if (result)
		return result;
	result = launch_kernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
	pf_flight_end(flight, &ticket, result);
	world.now += 4 * US;
	return result;
}

/* Of the device's work: what lies outside bubbles, and what is done in all. */
static void account(uint64_t *outside_ns, unsigned *late, uint64_t *done_ns)
{
	unsigned i;

	*outside_ns = *done_ns = *late = 0;
	for (i = 0; i < cuda->log_count; i++) {
		const struct fake_work *work = &cuda->log[i];
		uint64_t end = begin_of(work->begin_ns) + world.length;

		*done_ns += work->end_ns - work->begin_ns;
		if (work->begin_ns >= end) {
			*outside_ns += work->end_ns - work->begin_ns;
			++*late;
		} else if (work->end_ns > end) {
			*outside_ns += work->end_ns - end;
			++*late;
		}
	}
}

static void new_kernels(struct fake_kernel *kernels, unsigned count,
			unsigned *seed)
{
	unsigned i;

	for (i = 0; i < count; i++)
		kernels[i].ns = 5 * US + (uint64_t) rand_r(seed) % (900 * US);
}

static void test_steady(void)
{
	static struct pf_flight flight;
	static struct fake_kernel kernels[40];
	uint64_t outside, done, openings;
	unsigned seed = 3, i, late, failed = 0, in_flight = 0;

	start(&flight, 4);
	new_kernels(kernels, 40, &seed);
	for (i = 0; i < 20000; i++) {
		failed += launch(&flight, &kernels[i % 40], NULL) != 0;
		if (flight.in_flight > in_flight)
			in_flight = flight.in_flight;
	}
	account(&outside, &late, &done);
	openings = (world.now - 60 * MS) / world.period + 1;
	tap_ok(!failed && cuda->log_count == 20000, "all launches go through");
	/* Of kernels never seen before, what they take is not known. */
	tap_ok(late <= 1 && outside < MS, "none ends after its deadline (%u)",
	       late);
	tap_ok(in_flight <= 4 && cuda->in_flight_most <= 4 * 16,
	       "few are in flight (%u groups, %u launches)", in_flight,
	       cuda->in_flight_most);
	tap_ok(done > openings * world.length / 100 * 88,
	       "bubbles are filled (%.0f %%)",
	       100 * (double) done / (double) (openings * world.length));
	for (i = 1; i < cuda->log_count; i++)
		if (cuda->log[i].kernel != &kernels[i % 40] ||
		    cuda->log[i].begin_ns < cuda->log[i - 1].end_ns)
			break;
	tap_ok(i == cuda->log_count, "in the program's order");
	tap_ok(cuda->events <= 2 * 8, "events are used again (%u)",
	       cuda->events);
}

static void test_depth_one(void)
{
	static struct pf_flight flight;
	struct fake_kernel kernel = { 700 * US };
	unsigned i;

	start(&flight, 1);
	for (i = 0; i < 500; i++)
		(void) launch(&flight, &kernel, NULL);
	tap_ok(cuda->log_count == 500 && cuda->in_flight_most == 1,
	       "a depth of one lets one kernel at a time through (%u)",
	       cuda->in_flight_most);
}

/* Each run of a kernel takes between 0.7 and 1.3 times as long. */
static void test_jitter(void)
{
	static struct pf_flight flight;
	static struct fake_kernel kernels[20];
	uint64_t usual[20], outside, done, openings;
	unsigned seed = 11, i, late;

	start(&flight, 4);
	new_kernels(kernels, 20, &seed);
	for (i = 0; i < 20; i++)
		usual[i] = kernels[i].ns;
	for (i = 0; i < 40000; i++) {
		kernels[i % 20].ns = usual[i % 20] *
				     (70 + (uint64_t) rand_r(&seed) % 61) / 100;
		(void) launch(&flight, &kernels[i % 20], NULL);
	}
	account(&outside, &late, &done);
	openings = (world.now - 60 * MS) / world.period + 1;
	tap_ok(late * 100 <= openings * 2 && flight.late * 100 <= openings * 2,
	       "times that vary make few late (%u of %llu bubbles)", late,
	       (unsigned long long) openings);
	tap_ok(done > openings * world.length / 100 * 80,
	       "and bubbles are filled (%.0f %%)",
	       100 * (double) done / (double) (openings * world.length));
}

/* The device tells each end 2 ms late: chunks are late until the margin has
 * grown. */
static void test_late_events(void)
{
	static struct pf_flight flight;
	struct fake_kernel kernel = { 300 * US };
	uint64_t before;
	unsigned i;

	start(&flight, 4);
	cuda->event_late_ns = 2 * MS;
	for (i = 0; i < 3000; i++)
		(void) launch(&flight, &kernel, NULL);
	before = flight.late;
	tap_ok(before > 5 && flight.margin_ns > MS / 2,
	       "late events widen the margin (%llu late, %.1f ms)",
	       (unsigned long long) before, (double) flight.margin_ns / 1e6);
	for (i = 0; i < 3000; i++)
		(void) launch(&flight, &kernel, NULL);
	tap_ok(flight.late - before <= 2, "until there are few (%llu more)",
	       (unsigned long long) (flight.late - before));
}

static void test_too_long(void)
{
	static struct pf_flight flight;
	struct fake_kernel kernel = { 30 * MS }, small = { 50 * US };
	unsigned i, ran = 0;
	cu_result result = CU_SUCCESS;

	start(&flight, 4);
	for (i = 0; i < 40 && !result; i++, ran += !result)
		result = launch(&flight, &kernel, NULL);
	tap_ok(result == CU_LAUNCH_TIMEOUT && ran == 8 && world.says == 1 &&
		       strstr(world.said, "a launch takes 30.00 ms") &&
		       strstr(world.said, "ms too short"),
	       "a kernel that fits no bubble is refused after %u tries (%s)",
	       ran, world.said);
	tap_ok(!launch(&flight, &small, NULL), "another is not");
}

static void test_failures(void)
{
	static struct pf_flight flight;
	struct fake_kernel kernel = { 100 * US };
	unsigned i, failed = 0;
	uint64_t outside, done;
	unsigned late;

	start(&flight, 4);
	(void) launch(&flight, &kernel, NULL);
	cuda->fail = "cuLaunchKernel";
	cuda->fail_result = 719;
	tap_ok(launch(&flight, &kernel, NULL) == 719,
	       "a launch that fails says so");
	for (i = 0; i < 100; i++)
		failed += launch(&flight, &kernel, NULL) != 0;
	tap_ok(!failed && cuda->log_count == 101,
	       "and those after it go through");
	for (i = 0; i < 300; i++) {
		static const char *const calls[] = { "cuEventRecord",
						     "cuEventCreate",
						     "cuEventQuery",
						     "cuEventElapsedTime" };

		cuda->fail = calls[i % 4];
		cuda->fail_after = (int) (i % 7);
		cuda->fail_result = 1;
		failed += launch(&flight, &kernel, NULL) != 0;
		failed += launch(&flight, &kernel, (void *) 2) != 0;
	}
	cuda->fail = NULL;
	world.now += MS;
	(void) pf_flight_look(&flight);
	account(&outside, &late, &done);
	tap_ok(!failed && !flight.in_flight && late <= 300 / 20,
	       "failing events lose and hold nothing (%u late)", late);
	start(&flight, 4);
	cuda->fail = "cuEventCreate";
	cuda->fail_result = 1;
	(void) launch(&flight, &kernel, NULL);
	tap_ok(cuda->syncs == 1, "a launch without an event is waited for");
	cuda->fail = "cuEventQuery";
	(void) launch(&flight, &kernel, NULL);
	world.now += MS;
	(void) pf_flight_look(&flight);
	tap_ok(!flight.in_flight, "a device that is lost holds nothing up");
}

static void test_capture(void)
{
	static struct pf_flight flight;
	struct fake_stream stream = { 0 };
	struct fake_kernel kernel = { 100 * US };
	unsigned i;

	start(&flight, 4);
	(void) launch(&flight, &kernel, &stream);
	stream.capturing = 1;
	cuda->strict = 1;
	world.shut = 1;
	for (i = 0; i < 1000; i++)
		(void) launch(&flight, &kernel, &stream);
	tap_ok(cuda->log_count == 1 && flight.openings == 1,
	       "what is captured does not wait for the gate");
	cuda->fail = "cuStreamIsCapturing";
	cuda->fail_result = 906;
	(void) launch(&flight, &kernel, &stream);
	tap_ok(flight.openings == 1,
	       "nor what touches stream 0 while another is captured");
	world.shut = 0;
	for (i = 0; i < 1000; i++)
		(void) launch(&flight, &kernel, NULL);
	(void) pf_flight_look(&flight);
	tap_ok(!cuda->spoiled && !cuda->relaxed,
	       "events are looked at in the relaxed mode only");
}

static void test_stop(void)
{
	static struct pf_flight flight;
	struct fake_kernel kernel = { MS };
	uint64_t begin;
	unsigned i, ran = 0;

	start(&flight, 4);
	for (i = 0; i < 200; i++)
		(void) launch(&flight, &kernel, NULL);
	world.stopping = 1;
	begin = world.now;
	while (!launch(&flight, &kernel, NULL) && ran < 10000)
		ran++;
	tap_ok(ran > 100 && ran < 1000 && world.now - begin >= 1000 * MS &&
		       world.now - begin < 1100 * MS,
	       "a job that is told to end has a second of bubbles (%u)", ran);
	tap_ok(launch(&flight, &kernel, NULL) == CU_LAUNCH_TIMEOUT &&
		       world.says == 1 && strstr(world.said, "told to end"),
	       "and then its launches fail, said once");
}

static void test_idle(void)
{
	static struct pf_flight flight;
	struct fake_kernel kernel = { 100 * US };
	uint64_t ns;
	unsigned i;

	start(&flight, 4);
	tap_ok(!pf_flight_look(&flight), "nothing is watched at first");
	(void) launch(&flight, &kernel, NULL);
	(void) context(0);
	for (i = 0; i < 100 && (ns = pf_flight_look(&flight)); i++)
		world.now += ns;
	tap_ok(i > 1 && i < 100 && world.yields == 1 && !world.running,
	       "a program that pauses gives its chunk up (%u looks)", i);
	tap_ok(world.now < 60 * MS + 3 * MS && !flight.late,
	       "soon, and it is not late");
}

static void test_changing_bubbles(void)
{
	static struct pf_flight flight;
	static struct fake_kernel kernels[10];
	uint64_t outside, done;
	unsigned seed = 5, i, late, failed = 0;

	start(&flight, 4);
	new_kernels(kernels, 10, &seed);
	for (i = 0; i < 2000; i++)
		failed += launch(&flight, &kernels[i % 10], NULL) != 0;
	memset(cuda->log, 0, sizeof(cuda->log));
	cuda->log_count = 0;
	world.length = 2 * MS;
	for (i = 0; i < 2000; i++)
		failed += launch(&flight, &kernels[i % 10], NULL) != 0;
	account(&outside, &late, &done);
	tap_ok(!failed && late <= 1,
	       "bubbles that become short are kept to as well (%u)", late);
}

int main(int argc, char **argv)
{
	void *library =
		dlopen(argc > 1 ? argv[1] : "build/tests/driver/libcuda.so.1",
		       RTLD_NOW);

	if (!tap_ok(library != NULL, "the driver loads"))
		return tap_done();
	cuda = dlsym(library, "fake_cuda");
	*(void **) &launch_kernel = dlsym(library, "cuLaunchKernel");
	*(void **) &context = dlsym(library, "fake_cuda_context");
#define FUNCTION(field, name) *(void **) &driver.field = dlsym(library, name)
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
	test_steady();
	test_depth_one();
	test_jitter();
	test_late_events();
	test_too_long();
	test_failures();
	test_capture();
	test_stop();
	test_idle();
	test_changing_bubbles();
	return tap_done();
}
