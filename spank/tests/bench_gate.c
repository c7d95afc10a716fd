/* SPDX-License-Identifier: Apache-2.0 */
/* bench_gate.c - what an announcement costs the main job, and how long fill
 * work takes to start. One JSON row a line on stdout; value is the median, and
 * value and target are in unit. Two processes, as in life; a fake daemon. */
#include <sched.h>
#include <sys/wait.h>

#include "fake_daemon.h"
#include "pipefill.h"

#define ANNOUNCEMENTS 200000u
#define WOKEN 3000u
#define OPENINGS 1000u
#define WARM_UP 20u
#define BUBBLE_NS 2000000u
#define PAUSE_NS 1000000u
#define SPARE_NS 300000u /* a chunk leaves so much of its bubble */

struct bench {
	struct fake_daemon daemon;
	struct pf_main *main;
	pid_t fill;
	int core[2];
	uint64_t *samples;
	size_t count;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void pin(int core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t) core, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

/* The first two cores we may use; the same one twice if there is one only. */
static void choose_cores(struct bench *b)
{
	cpu_set_t set;
	int core, count = 0;

	if (sched_getaffinity(0, sizeof(set), &set))
		die("sched_getaffinity");
	for (core = 0; core < CPU_SETSIZE && count < 2; core++)
		if (CPU_ISSET((size_t) core, &set))
			b->core[count++] = core;
	if (count < 2)
		b->core[1] = b->core[0];
}

static void sleep_ns(uint64_t ns)
{
	struct timespec ts = { .tv_nsec = (long) ns };

	nanosleep(&ts, NULL);
}

static void spin_until(uint64_t end_ns)
{
	while (fake_now() < end_ns)
		;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

	return (x > y) - (x < y);
}

static void report(struct bench *b, const char *name, const char *unit,
		   double unit_ns, double target)
{
	double p50 = 0, p99 = 0;

	if (b->count) {
		qsort(b->samples, b->count, sizeof(b->samples[0]), by_size);
		p50 = (double) b->samples[b->count / 2] / unit_ns;
		p99 = (double) b->samples[b->count * 99 / 100] / unit_ns;
	}
	printf("{\"name\":\"%s\",\"value\":%.3f,\"unit\":\"%s\",\"n\":%zu,"
	       "\"p50\":%.3f,\"p99\":%.3f,\"target\":%.0f}\n",
	       name, p50, unit, b->count, p50, p99, target);
	fflush(stdout);
	b->count = 0;
}

/* A fill job on that core, with chunks of nothing; need_ns beyond every bubble
 * makes it one that is woken and always waits on. */
static void start_fill(struct bench *b, int core, int policy, int64_t need_ns)
{
	struct fake_daemon *d = &b->daemon;

	d->control->fill_stop = 0;
	d->fill->pid = 0;
	b->fill = fork();
	if (b->fill < 0)
		die("fork");
	if (!b->fill) {
		const struct sched_param none = { 0 };
		struct pf_fill *fill;
		int64_t left_ns;

		pin(core);
		if (sched_setscheduler(0, policy, &none))
			_exit(1);
		setenv("PIPEFILL_ROLE", "fill", 1);
		fill = pf_fill_open();
		if (!fill)
			_exit(1);
		while ((left_ns = pf_fill_wait(fill, need_ns, -1)) > 0) {
			/* Ends before its own deadline, as a chunk does. */
			spin_until(fake_now() + (uint64_t) left_ns - SPARE_NS);
			pf_fill_yield(fill);
		}
		_exit(0);
	}
	while (!atomic_load(&d->fill->pid)) {
		if (waitpid(b->fill, NULL, WNOHANG))
			die("the fill side");
		sleep_ns(100000);
	}
}

static void stop_fill(struct bench *b)
{
	atomic_store(&b->daemon.control->fill_stop, 1);
	waitpid(b->fill, NULL, 0);
}

/* begin and end together, nothing between. */
static void announce(struct bench *b)
{
	uint64_t begin = fake_now();

	pf_bubble_begin(b->main, PF_STEADY, 0);
	pf_bubble_end(b->main);
	b->samples[b->count++] = fake_now() - begin;
	pf_iteration(b->main);
}

/* A fill job's waiter on the main job's own core is woken each time. */
static void bench_woken(struct bench *b, const char *name, int policy)
{
	unsigned i;

	b->daemon.control->wake = 1;
	start_fill(b, b->core[0], policy, INT64_MAX);
	for (i = 0; i < WOKEN; i++) {
		sleep_ns(100000);
		announce(b);
	}
	stop_fill(b);
	report(b, name, "us", 1e3, 3);
}

static void bench_announce(struct bench *b)
{
	struct pf_control_page *control = b->daemon.control;
	unsigned i;

	/* However short, it is offered: that is the longer path. */
	control->guard_ns = 0;
	control->min_ns = 0;
	control->wake = 0;
	for (i = 0; i < ANNOUNCEMENTS; i++)
		announce(b);
	report(b, "announce_nobody_waiting", "ns", 1, 200);
	bench_woken(b, "announce_waiter_same_core", SCHED_BATCH);
	bench_woken(b, "announce_idle_waiter_same_core", SCHED_IDLE);
}

/* One bubble; its opening-to-run time if the fill side ran in it. asleep: the
 * main job's core is free meanwhile, as in a blocking receive. */
static void bubble(struct bench *b, int asleep)
{
	struct fake_daemon *d = &b->daemon;
	uint64_t begin = fake_now();

	pf_bubble_begin(b->main, PF_STEADY, 0);
	if (asleep)
		sleep_ns(BUBBLE_NS);
	spin_until(begin + BUBBLE_NS);
	pf_bubble_end(b->main);
	if ((atomic_load(&d->fill->opening) | PF_WORD_OPEN) ==
	    (d->main->word | PF_WORD_OPEN))
		b->samples[b->count++] =
			atomic_load(&d->fill->first_ns) - d->main->begin_ns;
	pf_iteration(b->main);
	spin_until(begin + BUBBLE_NS + PAUSE_NS);
}

static void bench_opening(struct bench *b, const char *name, uint32_t wake,
			  int core, int policy, int asleep, double target_us)
{
	struct pf_control_page *control = b->daemon.control;
	unsigned i;

	control->guard_ns = 100000;
	control->min_ns = 100000;
	control->margin_ns = 200000;
	control->wake = wake;
	start_fill(b, core, policy, SPARE_NS);
	for (i = 0; i < WARM_UP; i++)
		bubble(b, asleep);
	b->count = 0;
	for (i = 0; i < OPENINGS; i++)
		bubble(b, asleep);
	stop_fill(b);
	if (b->count < OPENINGS)
		fprintf(stderr, "%s: %zu of %u openings were missed\n", name,
			OPENINGS - b->count, OPENINGS);
	report(b, name, "us", 1e3, target_us);
}

int main(void)
{
	struct bench b = { 0 };

	choose_cores(&b);
	b.samples = calloc(ANNOUNCEMENTS, sizeof(b.samples[0]));
	if (!b.samples)
		die("calloc");
	/* Before we are pinned: the daemon's thread keeps both cores. */
	fake_start(&b.daemon, FAKE_NONE);
	b.main = pf_open("cpu:0");
	if (!b.main)
		die(pf_strerror());
	pin(b.core[0]);
	bench_announce(&b);
	bench_opening(&b, "open_to_run_futex_same_core", 1, b.core[0],
		      SCHED_BATCH, 1, 10);
	bench_opening(&b, "open_to_run_futex_same_core_idle", 1, b.core[0],
		      SCHED_IDLE, 1, 10);
	if (b.core[1] == b.core[0]) {
		fprintf(stderr, "one core: the other rows need two\n");
	} else {
		bench_opening(&b, "open_to_run_armed_other_core", 0, b.core[1],
			      SCHED_OTHER, 0, 5);
		bench_opening(&b, "open_to_run_asleep_other_core", 1, b.core[1],
			      SCHED_OTHER, 1, 50);
	}
	pf_close(b.main);
	fake_stop(&b.daemon);
	free(b.samples);
	return 0;
}
