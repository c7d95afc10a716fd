/* SPDX-License-Identifier: Apache-2.0 */
/* test_lib_gate.c - the gate from both sides. */
#include "fake_daemon.h"
#include "pipefill.h"
#include "tap.h"

static void spin_ns(uint64_t ns)
{
	uint64_t end = fake_now() + ns;

	while (fake_now() < end)
		;
}

/* One iteration of two bubbles of 1 ms. */
static void iterate(struct pf_main *main, int count)
{
	while (count--) {
		pf_bubble_begin(main, PF_FWD_BWD, 0);
		spin_ns(1000000);
		pf_bubble_end(main);
		pf_bubble_begin(main, PF_STEADY, 1);
		spin_ns(1000000);
		pf_bubble_end(main);
		pf_iteration(main);
	}
}

static void test_learning(struct fake_daemon *d, struct pf_main *main)
{
	uint32_t word;

	iterate(main, 7);
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	tap_ok(!(d->main->word & PF_WORD_OPEN),
	       "a bubble seen 7 times is not offered");
	pf_bubble_end(main);
	iterate(main, 8);
	word = d->main->word;
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	tap_ok(d->main->word & PF_WORD_OPEN && d->main->word == (word | 1) + 2,
	       "one seen often is, and the word counts openings");
	tap_ok(d->main->deadline_ns > d->main->begin_ns &&
		       d->main->end_ns - d->main->deadline_ns >=
			       d->control->guard_ns,
	       "its deadline keeps the guard");
	tap_ok(d->main->deadline_ns - d->main->begin_ns <=
		       (d->main->end_ns - d->main->begin_ns) * 9 / 10 + 1,
	       "and the share");
	pf_bubble_end(main);
	tap_ok(!(d->main->word & PF_WORD_OPEN), "its end shuts the gate");
	tap_ok(d->main->next_begin_ns > fake_now() - 1000000000u,
	       "the next opening is predicted");
}

static void test_withheld(struct fake_daemon *d, struct pf_main *main)
{
	pf_bubble_begin(main, PF_COMM, 0);
	tap_ok(!(d->main->word & PF_WORD_OPEN), "comm is never offered");
	pf_bubble_end(main);
	d->control->enabled = 0;
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	tap_ok(!(d->main->word & PF_WORD_OPEN), "nothing while disabled");
	pf_bubble_end(main);
	d->control->enabled = 1;
	d->control->min_ns = 10000000000ull;
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	tap_ok(!(d->main->word & PF_WORD_OPEN), "nothing shorter than min");
	pf_bubble_end(main);
	d->control->min_ns = 100000;
	d->control->guard_ns = UINT64_MAX;
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	tap_ok(!(d->main->word & PF_WORD_OPEN), "nothing within the guard");
	pf_bubble_end(main);
	d->control->guard_ns = 100000;
	d->control->share_ppm = UINT32_MAX;
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	tap_ok(d->main->deadline_ns <= d->main->end_ns - d->control->guard_ns,
	       "a share over all of it is all of it");
	pf_bubble_end(main);
	d->control->share_ppm = 900000;
	d->control->min_ns = 10000000000ull;
	d->control->floor_ns = 5000000;
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	tap_ok(d->main->word & PF_WORD_OPEN, "but the floor");
	tap_ok(d->main->deadline_ns == d->main->begin_ns + 5000000,
	       "and not more");
	pf_bubble_end(main);
	pf_bubble_begin(main, PF_FWD_BWD, 1000);
	tap_ok(d->main->word & PF_WORD_OPEN, "learned or not");
	tap_ok(d->main->deadline_ns == d->main->begin_ns + 5000000,
	       "for as long");
	pf_bubble_end(main);
	pf_bubble_begin(main, PF_COMM, 1001);
	tap_ok(!(d->main->word & PF_WORD_OPEN), "of the kinds offered");
	pf_bubble_end(main);
	d->control->floor_ns = 0;
	pf_bubble_begin(main, PF_FWD_BWD, 1002);
	tap_ok(!(d->main->word & PF_WORD_OPEN), "without one, only learned");
	pf_bubble_end(main);
	d->control->min_ns = 100000;
}

static void test_control_iterations(struct fake_daemon *d, struct pf_main *main)
{
	int i, wrong = 0, control = 0;

	iterate(main, PF_RING_EVENTS / 32);
	d->control->seed = 99;
	d->control->control_ppm = 500000;
	pf_iteration(main);
	for (i = 0; i < 60; i++) {
		int is = pf_page_is_control(99, d->main->iteration, 500000);

		pf_bubble_begin(main, PF_FWD_BWD, 0);
		if (is == (int) (d->main->word & PF_WORD_OPEN))
			wrong++;
		spin_ns(1000000);
		pf_bubble_end(main);
		control += is;
		pf_iteration(main);
	}
	d->control->control_ppm = 0;
	pf_iteration(main);
	tap_ok(!wrong && control > 10 && control < 50,
	       "control iterations are those of the hash (%d of 60)", control);
}

static void test_ring(struct fake_daemon *d, struct pf_main *main)
{
	uint64_t head = d->main->ring_head, i;
	int wrong = 0;

	for (i = 0; i < 3 * PF_RING_EVENTS; i++) {
		pf_bubble_begin(main, PF_OTHER, 300);
		pf_bubble_end(main);
	}
	tap_ok(d->main->ring_head == head + 3 * PF_RING_EVENTS,
	       "the ring counts all");
	for (i = d->main->ring_head - PF_RING_EVENTS; i < d->main->ring_head;
	     i++) {
		struct pf_event *e = &d->main->ring[i % PF_RING_EVENTS];

		if (e->seq != i + 1 || e->kind != PF_OTHER ||
		    e->index != 300 % 256 || e->end_ns < e->begin_ns)
			wrong++;
	}
	tap_ok(!wrong, "and holds the last %u whole", PF_RING_EVENTS);
}

static void open_gate(struct fake_daemon *d, uint64_t ns)
{
	d->main->begin_ns = fake_now();
	d->main->deadline_ns = fake_now() + ns;
	d->main->word = (d->main->word | 1) + 2;
}

static void test_fill(struct fake_daemon *d)
{
	struct pf_fill *fill;
	int64_t left;

	setenv("PIPEFILL_ROLE", "fill", 1);
	fill = pf_fill_open();
	if (!tap_ok(fill != NULL, "the fill side opens (%s)", pf_strerror()))
		return;
	tap_ok(pf_fill_wait(fill, 0, 2000000) == -1,
	       "a shut gate: the wait ends at its timeout");
	open_gate(d, 500000000);
	left = pf_fill_wait(fill, 1000000, 0);
	tap_ok(left > 0 && left <= 500000000 && d->fill->running == 1 &&
		       d->fill->opening == d->main->word,
	       "an open one: at once, and the page says so");
	tap_ok(pf_fill_left(fill) > 0, "time is left");
	tap_ok(pf_fill_wait(fill, 600000000, 1000000) == -1,
	       "not if more is needed than is left");
	tap_ok(d->fill->chunks == 1 && !d->fill->running &&
		       d->fill->overruns == 0,
	       "the chunk before is counted");
	open_gate(d, 2000000);
	(void) pf_fill_wait(fill, 0, 0);
	spin_ns(3000000);
	tap_ok(pf_fill_left(fill) == 0, "0 once the deadline has passed");
	pf_fill_yield(fill);
	tap_ok(d->fill->overruns == 1, "a chunk past it is an overrun");
	open_gate(d, 3600000000000ull);
	tap_ok(pf_fill_left(fill) == -1, "a deadline of an hour is nonsense");
	open_gate(d, 500000000);
	d->control->beat_ns = fake_now() - 300000000;
	tap_ok(pf_fill_wait(fill, 0, 1000000) == -1,
	       "nothing runs under a dead daemon");
	d->control->beat_ns = fake_now() + 3600000000000ull;
	tap_ok(!pf_fill_stopping(fill), "not stopping");
	d->control->fill_stop = 1;
	tap_ok(pf_fill_stopping(fill) && pf_fill_wait(fill, 0, -1) == -1,
	       "told to end, a wait for ever returns");
	d->control->fill_stop = 0;
	d->control->assignment = 8;
	tap_ok(pf_fill_stopping(fill), "another's turn: this one ends");
	pf_fill_close(fill);
	tap_ok(d->fill->pid == 0, "closing says so");
	unsetenv("PIPEFILL_ROLE");
}

static void *open_later(void *arg)
{
	struct fake_daemon *d = arg;
	struct pf_main *main = pf_open("cpu:0");

	d->control->control_ppm = 0;
	iterate(main, 30);
	pf_close(main);
	return NULL;
}

/* Real waits of one side for the other, armed and by futex. */
static void test_waking(struct fake_daemon *d, uint32_t by_futex)
{
	struct pf_fill *fill;
	pthread_t thread;
	int i, opened = 0;

	setenv("PIPEFILL_ROLE", "fill", 1);
	d->control->wake = by_futex;
	d->control->margin_ns = 100000;
	d->control->fill_stop = 0;
	fill = pf_fill_open();
	if (!tap_ok(fill != NULL, "the fill side opens"))
		return;
	pthread_create(&thread, NULL, open_later, d);
	for (i = 0; i < 20; i++)
		if (pf_fill_wait(fill, 0, 2000000000) > 0)
			opened++;
	pthread_join(thread, NULL);
	tap_ok(opened == 20, "20 waits %s all see an opening",
	       by_futex ? "by futex" : "armed");
	pf_fill_close(fill);
	unsetenv("PIPEFILL_ROLE");
}

int main(void)
{
	struct fake_daemon d;
	struct pf_main *main;

	fake_start(&d, FAKE_NONE);
	main = pf_open("cpu:0");
	if (tap_ok(main && !strcmp(pf_device(main), "cpu:0"), "opens")) {
		test_learning(&d, main);
		test_withheld(&d, main);
		test_control_iterations(&d, main);
		test_ring(&d, main);
	}
	pf_close(main);
	test_fill(&d);
	test_waking(&d, 0);
	test_waking(&d, 1);
	fake_stop(&d);
	return tap_done();
}
