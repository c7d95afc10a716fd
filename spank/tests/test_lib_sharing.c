/* SPDX-License-Identifier: Apache-2.0 */
/* test_lib_sharing.c - what is shared between processes and threads: the futex
 * on a read-only page, snapshots while the main side writes, errors. */
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "fake_daemon.h"
#include "pipefill.h"
#include "tap.h"

#define DEADLINE_NS 10000000000ull

/* A read-only descriptor, mapped read-only: what a fill job has. The wait must
 * end by the wake, not by its own time-out. */
static void test_read_only_futex(void)
{
	struct fake_daemon d;
	int status = -1, woken = 0;
	uint64_t end;
	pid_t child;

	fake_start(&d, FAKE_NONE);
	child = fork();
	if (!child) {
		struct timespec ts = { .tv_sec = 20 };
		const struct pf_main_page *page =
			mmap(NULL, PF_MAIN_SIZE, PROT_READ, MAP_SHARED,
			     fake_read_only(d.fd[0]), 0);

		if (page == MAP_FAILED)
			_exit(2);
		_exit(syscall(SYS_futex, &page->word, FUTEX_WAIT, 0, &ts, NULL,
			      0)
			      ? 1
			      : 0);
	}
	end = fake_now() + DEADLINE_NS;
	while (!woken && fake_now() < end) {
		woken = (int) syscall(SYS_futex, &d.main->word, FUTEX_WAKE,
				      INT_MAX, NULL, NULL, 0);
		sched_yield();
	}
	waitpid(child, &status, 0);
	tap_ok(woken == 1 && WIFEXITED(status) && !WEXITSTATUS(status),
	       "a wake reaches a waiter on a read-only page (woken %d, status "
	       "%x)",
	       woken, status);
	fake_stop(&d);
}

#define CROWD 40

static _Atomic int *awake; /* shared with the children */

static void *wait_once(void *arg)
{
	const struct pf_main_page *page = arg;

	while (syscall(SYS_futex, &page->word, FUTEX_WAIT_BITSET,
		       atomic_load(&page->word), NULL, NULL, PF_EDGE_OPEN))
		;
	atomic_fetch_add(awake, 1);
	return NULL;
}

/* Threads of a fill job that wait without libpipefill. */
static pid_t start_crowd(struct fake_daemon *d)
{
	pid_t child = fork();
	pthread_t threads[CROWD];
	void *page;
	int i;

	if (child)
		return child;
	page = mmap(NULL, PF_MAIN_SIZE, PROT_READ, MAP_SHARED,
		    fake_read_only(d->fd[0]), 0);
	if (page == MAP_FAILED)
		_exit(2);
	for (i = 0; i < CROWD; i++)
		if (pthread_create(&threads[i], NULL, wait_once, page))
			_exit(3);
	for (i = 0; i < CROWD; i++)
		pthread_join(threads[i], NULL);
	_exit(0);
}

/* How many threads of a process sleep, as the kernel says. */
static int sleepers(pid_t pid)
{
	char path[64], line[256];
	FILE *pipe;
	int n = 0;

	snprintf(path, sizeof(path), "cat /proc/%d/task/*/stat", (int) pid);
	pipe = popen(path, "r");
	while (pipe && fgets(line, sizeof(line), pipe)) {
		const char *end = strrchr(line, ')');

		n += end && end[2] == 'S';
	}
	if (pipe)
		pclose(pipe);
	return n;
}

/* However many wait, the main job wakes a few: a crowd must not hold it up. The
 * rest is woken by fill work that starts. */
static void test_crowd(void)
{
	struct fake_daemon d;
	struct pf_main *main;
	struct pf_fill *fill;
	uint64_t end = fake_now() + DEADLINE_NS;
	pid_t crowd, waiter;

	fake_start(&d, FAKE_NONE);
	awake = mmap(NULL, sizeof(*awake), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	main = pf_open("cpu:0");
	d.control->wake = 1;
	d.control->floor_ns = DEADLINE_NS;
	crowd = start_crowd(&d);
	while (sleepers(crowd) < CROWD + 1 && fake_now() < end)
		sched_yield();
	pf_bubble_begin(main, PF_STEADY, 0);
	while (atomic_load(awake) < PF_WAKE_MOST && fake_now() < end)
		sched_yield();
	pf_bubble_end(main);
	tap_ok(atomic_load(awake) == PF_WAKE_MOST,
	       "of %d waiters the main job wakes %d", CROWD,
	       atomic_load(awake));
	setenv("PIPEFILL_ROLE", "fill", 1);
	waiter = fork();
	if (!waiter) {
		fill = pf_fill_open();
		_exit(pf_fill_wait(fill, 0, -1) > 0 ? 0 : 1);
	}
	/* It waits before the gate opens, or it has nobody to thank. */
	while (!atomic_load(&d.fill->pid) && fake_now() < end)
		sched_yield();
	while (sleepers(waiter) < 1 && fake_now() < end)
		sched_yield();
	pf_bubble_begin(main, PF_STEADY, 0);
	while (atomic_load(awake) < CROWD && fake_now() < end)
		sched_yield();
	pf_bubble_end(main);
	tap_ok(atomic_load(awake) == CROWD,
	       "fill work that starts wakes the rest (%d)", atomic_load(awake));
	kill(crowd, SIGKILL);
	while (wait(NULL) > 0)
		;
	pf_close(main);
	munmap((void *) awake, sizeof(*awake));
	fake_stop(&d);
}

/* Until what the child stored is there, or a while has passed. */
static uint64_t await_opening(struct fake_daemon *d, uint32_t opening)
{
	uint64_t begin = fake_now(), now = begin;

	while (atomic_load(&d->fill->opening) != opening &&
	       now - begin < 100000000u) {
		usleep(20);
		now = fake_now();
	}
	return now - begin;
}

/* The child's: runs chunks of nothing until it is told to end. */
static int run_chunks(void)
{
	struct pf_fill *fill = pf_fill_open();

	if (!fill)
		return 1;
	while (pf_fill_wait(fill, 0, -1) > 0)
		pf_fill_yield(fill);
	return 0;
}

/* Through the library: a wait by futex ends long before its 50 ms sleep. */
static void test_wake_is_prompt(void)
{
	struct fake_daemon d;
	struct pf_main *main;
	uint64_t slowest_ns = 0;
	int i, prompt = 0, status = -1;
	pid_t child;

	fake_start(&d, FAKE_NONE);
	d.control->wake = 1;
	d.control->min_ns = 0;
	d.control->guard_ns = 0;
	main = pf_open("cpu:0");
	for (i = 0; i < 16; i++) {
		pf_bubble_begin(main, PF_STEADY, 0);
		usleep(20000);
		pf_bubble_end(main);
		pf_iteration(main);
	}
	setenv("PIPEFILL_ROLE", "fill", 1);
	child = fork();
	if (!child)
		_exit(run_chunks());
	while (!atomic_load(&d.fill->pid) && !waitpid(child, NULL, WNOHANG))
		usleep(100);
	for (i = 0; i < 15; i++) {
		uint64_t took_ns;

		usleep(3000);
		pf_bubble_begin(main, PF_STEADY, 0);
		took_ns = await_opening(&d, d.main->word);
		usleep(10000);
		pf_bubble_end(main);
		pf_iteration(main);
		if (took_ns < 10000000u)
			prompt++;
		if (took_ns > slowest_ns)
			slowest_ns = took_ns;
	}
	d.control->fill_stop = 1;
	waitpid(child, &status, 0);
	/* Without a wake one in five would be. */
	tap_ok(prompt >= 12 && status == 0,
	       "%d of 15 openings are seen within 10 ms (slowest %d us)",
	       prompt, (int) (slowest_ns / 1000));
	unsetenv("PIPEFILL_ROLE");
	pf_close(main);
	fake_stop(&d);
}

struct reader {
	const struct pf_main_page *page;
	_Atomic int stop;
	_Atomic uint64_t snapshots;
	uint64_t torn, events, bad_events;
};

static void read_event(struct reader *r, uint64_t i)
{
	const struct pf_event *e = &r->page->ring[i % PF_RING_EVENTS];
	uint64_t seq = atomic_load(&e->seq);
	uint64_t begin = atomic_load(&e->begin_ns);
	uint64_t end = atomic_load(&e->end_ns);
	uint64_t iteration = atomic_load(&e->iteration);
	uint64_t free_bytes = atomic_load(&e->free_bytes);
	uint32_t index = atomic_load(&e->index);
	uint32_t flags = atomic_load(&e->flags);

	if (seq != i + 1 || atomic_load(&e->seq) != seq)
		return;
	r->events++;
	/* The writer below sets free_bytes so. */
	if (end < begin || (!(flags & PF_EVENT_ITERATION) &&
			    free_bytes != iteration * 8 + index))
		r->bad_events++;
}

/* Reads as executor/gate.go and executor/drain.go do. */
static void *read_along(void *arg)
{
	struct reader *r = arg;

	while (!atomic_load(&r->stop)) {
		uint32_t word = atomic_load(&r->page->word);
		uint64_t begin = atomic_load(&r->page->begin_ns);
		uint64_t deadline = atomic_load(&r->page->deadline_ns);
		uint64_t end = atomic_load(&r->page->end_ns);
		uint64_t head = atomic_load(&r->page->ring_head);

		if (head)
			read_event(r, head - 1);
		if (!(word & PF_WORD_OPEN) ||
		    atomic_load(&r->page->word) != word)
			continue;
		r->snapshots++;
		if (deadline < begin || deadline > end)
			r->torn++;
	}
	return NULL;
}

static void announce(struct pf_main *main, uint64_t iteration, uint32_t index)
{
	pf_free_bytes(main, iteration * 8 + index);
	pf_bubble_begin(main, PF_STEADY, index);
}

static void test_snapshots(void)
{
	struct fake_daemon d;
	struct reader r = { 0 };
	struct pf_main *main;
	pthread_t thread;
	uint64_t i, end;
	uint32_t index;

	fake_start(&d, FAKE_NONE);
	d.control->guard_ns = 0;
	d.control->min_ns = 0;
	main = pf_open("cpu:0");
	r.page = d.main;
	pthread_create(&thread, NULL, read_along, &r);
	end = fake_now() + 300000000u;
	for (i = 0; fake_now() < end; i++) {
		for (index = 0; index < 7; index++) {
			announce(main, i, index);
			pf_bubble_end(main);
		}
		pf_iteration(main);
	}
	/* On one loaded core the two hardly meet: leave one open. */
	announce(main, i, 0);
	end = fake_now() + 5000000000u;
	while (!atomic_load(&r.snapshots) && fake_now() < end)
		sched_yield();
	pf_bubble_end(main);
	atomic_store(&r.stop, 1);
	pthread_join(thread, NULL);
	tap_ok(!r.torn && r.snapshots,
	       "no torn opening among %d read while %d were written",
	       (int) r.snapshots, (int) i * 7);
	tap_ok(!r.bad_events && r.events, "no torn event among %d",
	       (int) r.events);
	pf_close(main);
	fake_stop(&d);
}

static void *fail_elsewhere(void *arg)
{
	(void) arg;
	unsetenv("PIPEFILL_ROLE");
	return pf_fill_open();
}

static void test_errors_per_thread(void)
{
	pthread_t thread;
	void *opened = NULL;
	char before[128];

	setenv("PIPEFILL_DIR", "/nonexistent", 1);
	tap_ok(!pf_open(NULL), "no daemon");
	snprintf(before, sizeof(before), "%s", pf_strerror());
	pthread_create(&thread, NULL, fail_elsewhere, NULL);
	pthread_join(thread, &opened);
	tap_ok(!opened && !strcmp(before, pf_strerror()),
	       "another thread's error leaves this one's: \"%s\"", before);
	unsetenv("PIPEFILL_DIR");
}

/* The child of a fill job closes its copy: the parent's chunk goes on. */
static void test_fill_fork(void)
{
	struct fake_daemon d;
	struct pf_fill *fill;
	int status = -1;
	pid_t child;

	fake_start(&d, FAKE_NONE);
	setenv("PIPEFILL_ROLE", "fill", 1);
	fill = pf_fill_open();
	d.main->begin_ns = fake_now();
	d.main->deadline_ns = fake_now() + 30000000000ull;
	d.main->word = 3;
	if (tap_ok(pf_fill_wait(fill, 0, 0) > 0, "a chunk runs")) {
		child = fork();
		if (!child) {
			pf_fill_close(fill);
			_exit(0);
		}
		waitpid(child, &status, 0);
		tap_ok(status == 0 && d.fill->running == 1 &&
			       d.fill->pid == (uint32_t) getpid(),
		       "a child that closes does not end it");
	}
	pf_fill_close(fill);
	tap_ok(d.fill->running == 0 && d.fill->chunks == 1 && d.fill->pid == 0,
	       "the parent does");
	unsetenv("PIPEFILL_ROLE");
	fake_stop(&d);
}

int main(void)
{
	test_crowd();
	test_read_only_futex();
	test_wake_is_prompt();
	test_snapshots();
	test_errors_per_thread();
	test_fill_fork();
	return tap_done();
}
