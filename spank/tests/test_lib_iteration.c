/* SPDX-License-Identifier: Apache-2.0 */
/* test_lib_iteration.c - bubbles and the iteration mark: wrapping around it,
 * control iterations, what counts as learned, the next opening. */
#include "fake_daemon.h"
#include "learn.h"
#include "pipefill.h"
#include "tap.h"

#define BUBBLE_NS 300000u

static void spin_ns(uint64_t ns)
{
	uint64_t end = fake_now() + ns;

	while (fake_now() < end)
		;
}

static void bubble(struct pf_main *main, enum pf_kind kind, uint32_t index)
{
	pf_bubble_begin(main, kind, index);
	spin_ns(BUBBLE_NS);
	pf_bubble_end(main);
}

static struct pf_main *start(struct fake_daemon *d)
{
	struct pf_main *main;

	fake_start(d, FAKE_NONE);
	d->control->guard_ns = 10000;
	d->control->min_ns = 10000;
	main = pf_open("cpu:0");
	tap_ok(main != NULL, "opens (%s)", pf_strerror());
	return main;
}

static void stop(struct fake_daemon *d, struct pf_main *main)
{
	pf_close(main);
	tap_ok(d->main->next_begin_ns == 0 && !(d->main->word & PF_WORD_OPEN),
	       "closing leaves the gate shut and no opening expected");
	fake_stop(d);
}

static void test_presence(void)
{
	struct pf_presence seen = { 0 };
	uint64_t i;
	int wrong = 0;

	for (i = 0; i < 40; i++) {
		uint64_t want = i < PF_LEARN_KEEP ? i : PF_LEARN_KEEP;

		if (pf_learn_see(&seen, i) != want ||
		    pf_learn_see(&seen, i) != want)
			wrong++;
	}
	tap_ok(!wrong, "presence counts each of the last 16 iterations once");
	tap_ok(pf_learn_see(&seen, 39 + 10) == 7, "and forgets older ones");
	tap_ok(pf_learn_see(&seen, 1000) == 0, "all of them after a pause");
	tap_ok(pf_learn_see(&seen, 5) == 0, "or when the count begins anew");
}

/* Work reaches the ring while the node records, and only then. */
static void test_work(void)
{
	struct fake_daemon d;
	struct pf_main *main = start(&d);
	uint64_t begin_ns = fake_now(), head;
	const struct pf_event *event;

	pf_stage(main, 0);
	tap_ok(d.main->stage == 1, "the stage is told, from 1");
	pf_stage(main, UINT32_MAX);
	tap_ok(d.main->stage == 1, "one that is none is not");
	head = d.main->ring_head;
	pf_work(main, PF_BACKWARD, 3, begin_ns);
	tap_ok(!pf_recording(main) && d.main->ring_head == head,
	       "not recorded: nothing is noted");
	d.control->recording = 1;
	pf_work(main, PF_BACKWARD, 3, begin_ns);
	event = &d.main->ring[head % PF_RING_EVENTS];
	tap_ok(pf_recording(main) && d.main->ring_head == head + 1 &&
		       event->flags == PF_EVENT_WORK &&
		       event->kind == PF_BACKWARD && event->index == 3 &&
		       event->begin_ns == begin_ns && event->end_ns >= begin_ns,
	       "recorded: what, of which micro-batch, from when to now");
	pf_work(main, PF_STEP, PF_NO_MICRO_BATCH, fake_now() + 1000000000);
	tap_ok(d.main->ring_head == head + 1, "work cannot begin later");
	tap_ok(!pf_recording(NULL), "without a handle nothing is recorded");
	pf_work(NULL, PF_STEP, 0, begin_ns);
	pf_stage(NULL, 1);
	stop(&d, main);
}

/* A bubble seen often, but not lately, is not learned any more. */
static void test_absence(void)
{
	struct fake_daemon d;
	struct pf_main *main = start(&d);
	int i;

	for (i = 0; i < 12; i++) {
		bubble(main, PF_STEADY, 3);
		pf_iteration(main);
	}
	pf_bubble_begin(main, PF_STEADY, 3);
	tap_ok(d.main->word & PF_WORD_OPEN, "12 iterations: offered");
	pf_bubble_end(main);
	for (i = 0; i < 20; i++)
		pf_iteration(main);
	pf_bubble_begin(main, PF_STEADY, 3);
	tap_ok(!(d.main->word & PF_WORD_OPEN),
	       "20 iterations without it: not offered");
	pf_bubble_end(main);
	stop(&d, main);
}

/* The last bubble of the iteration lasts past the mark, as a flush does. */
static void test_wrap(void)
{
	struct fake_daemon d;
	struct pf_main *main = start(&d);
	const struct pf_event *event;
	uint64_t mark = 0;
	int i;

	for (i = 0; i < 12; i++) {
		bubble(main, PF_FWD_BWD, 0);
		spin_ns(BUBBLE_NS);
		pf_bubble_begin(main, PF_FILL_DRAIN, 1);
		spin_ns(BUBBLE_NS);
		mark = fake_now();
		pf_iteration(main);
		if (i == 11)
			tap_ok(d.main->word & PF_WORD_OPEN,
			       "the mark leaves a wrapping bubble open");
		spin_ns(BUBBLE_NS);
		pf_bubble_end(main);
		spin_ns(BUBBLE_NS);
	}
	event = &d.main->ring[(d.main->ring_head - 1) % PF_RING_EVENTS];
	tap_ok(event->index == 1 && event->end_ns - event->begin_ns >=
					    2 * (uint64_t) BUBBLE_NS,
	       "its event is whole");
	tap_ok(d.main->next_begin_ns > mark &&
		       d.main->next_begin_ns <
			       mark + 3 * (uint64_t) BUBBLE_NS + 20000000u,
	       "the next opening is this iteration's first, %d us after the "
	       "mark",
	       (int) ((d.main->next_begin_ns - mark) / 1000));
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	pf_bubble_end(main);
	pf_bubble_begin(main, PF_FILL_DRAIN, 1);
	d.control->control_ppm = 1000000;
	pf_iteration(main);
	tap_ok(!(d.main->word & PF_WORD_OPEN),
	       "the mark of a control iteration shuts it");
	mark = fake_now();
	pf_bubble_end(main);
	event = &d.main->ring[(d.main->ring_head - 1) % PF_RING_EVENTS];
	tap_ok(event->flags == PF_EVENT_OFFERED && event->deadline_ns <= mark,
	       "and its event says until when it was open");
	stop(&d, main);
}

static void test_next(void)
{
	struct fake_daemon d;
	struct pf_main *main = start(&d);
	uint64_t begin = 0;
	int i;

	for (i = 0; i < 12; i++) {
		bubble(main, PF_FWD_BWD, 0);
		bubble(main, PF_COMM, 1);
		bubble(main, PF_STEADY, 2);
		spin_ns(BUBBLE_NS);
		/* Before the mark: a busy machine may stop us after it. */
		begin = fake_now();
		pf_iteration(main);
	}
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	tap_ok(d.main->next_begin_ns >= begin + 2 * (uint64_t) BUBBLE_NS,
	       "the opening after a bubble is known when it begins, and a comm "
	       "bubble is none");
	pf_bubble_end(main);
	pf_bubble_begin(main, PF_STEADY, 2);
	pf_bubble_end(main);
	tap_ok(d.main->next_begin_ns >= begin + 4 * (uint64_t) BUBBLE_NS,
	       "after the last one it is the next iteration's first");
	d.control->control_ppm = 1000000;
	begin = fake_now();
	pf_iteration(main);
	tap_ok(d.main->next_begin_ns >= begin + 4 * (uint64_t) BUBBLE_NS,
	       "none is expected within a control iteration");
	pf_bubble_begin(main, PF_FWD_BWD, 0);
	pf_bubble_end(main);
	tap_ok(d.main->ring[(d.main->ring_head - 1) % PF_RING_EVENTS].flags ==
		       PF_EVENT_CONTROL,
	       "whose bubbles are withheld as such");
	stop(&d, main);
}

/* A second handle on a page whose first died with the gate open. */
static void test_takeover(void)
{
	struct fake_daemon d;
	struct pf_main *main;

	fake_start(&d, FAKE_NONE);
	d.main->word = 41;
	d.main->ring_head = 17;
	d.main->iteration = 5;
	d.main->next_begin_ns = 1;
	main = pf_open("cpu:0");
	tap_ok(main && d.main->word == 40, "opening shuts a gate left open");
	pf_bubble_begin(main, PF_STEADY, 0);
	pf_bubble_begin(main, PF_STEADY, 1);
	tap_ok(d.main->ring_head == 18 && d.main->ring[17].seq == 18,
	       "the ring goes on; a begin within a bubble ends it");
	pf_bubble_end(main);
	pf_bubble_end(main);
	tap_ok(d.main->ring_head == 19, "a second end does nothing");
	pf_iteration(main);
	tap_ok(d.main->iteration == 6, "and so does the count of iterations");
	stop(&d, main);
}

int main(void)
{
	test_presence();
	test_work();
	test_absence();
	test_wrap();
	test_next();
	test_takeover();
	return tap_done();
}
