/* SPDX-License-Identifier: Apache-2.0 */
/* test_lib_move.c - whether state of the main job is to leave the device. */
#include "fake_daemon.h"
#include "pipefill.h"
#include "tap.h"

static uint32_t order(uint32_t out, uint32_t in)
{
	return PF_MOVE_TELL | PF_MOVE_OUT | out << PF_MOVE_OUT_SHIFT |
	       in << PF_MOVE_IN_SHIFT;
}

static void test_asked(struct fake_daemon *d, struct pf_main *main)
{
	uint32_t out = 77, in = 77;

	tap_ok(pf_moves(main, PF_THIS_ITERATION, &out, &in) == -1,
	       "nothing of it is wanted at first");
	d->control->move = order(2, 5) & ~PF_MOVE_TELL;
	tap_ok(pf_moves(main, PF_THIS_ITERATION, &out, &in) == -1,
	       "nor without being asked to tell");
	d->control->move = PF_MOVE_TELL;
	tap_ok(pf_moves(main, PF_THIS_ITERATION, &out, &in) == 0 && out == 77,
	       "what could leave is to be told");
	d->control->move = order(2, 255);
	tap_ok(pf_moves(main, PF_THIS_ITERATION, &out, &in) == 1 && out == 2 &&
		       in == 255,
	       "and leaves over bubbles 2 to 255");
	d->control->move = order(5, 2);
	tap_ok(pf_moves(main, PF_THIS_ITERATION, &out, &in) == 0,
	       "never over none");
}

static void test_cache(struct fake_daemon *d, struct pf_main *main)
{
	uint32_t bubble = 77;

	tap_ok(pf_releases(main, PF_THIS_ITERATION, &bubble) == -1,
	       "the allocator keeps what it has at first");
	d->control->move = order(2, 5);
	tap_ok(pf_releases(main, PF_THIS_ITERATION, &bubble) == -1,
	       "also when optimizer state leaves");
	d->control->cache = PF_MOVE_TELL;
	tap_ok(!pf_releases(main, PF_THIS_ITERATION, &bubble) && bubble == 77,
	       "what it could give back is to be told");
	d->control->cache =
		PF_MOVE_TELL | PF_MOVE_OUT | 3u << PF_MOVE_OUT_SHIFT;
	tap_ok(pf_releases(main, PF_THIS_ITERATION, &bubble) == 1 &&
		       bubble == 3,
	       "and is given back over bubble 3");
	d->control->enabled = 0;
	tap_ok(!pf_releases(main, PF_THIS_ITERATION, &bubble),
	       "not where nothing is filled");
	d->control->enabled = 1;
	d->control->move = 0;
	tap_ok(pf_moves(main, PF_THIS_ITERATION, &bubble, &bubble) == -1,
	       "which has no optimizer state leave");
	d->control->cache = 0;
	pf_releasable(main, 9, 1, 2, 3, 4);
	tap_ok(d->main->cache_bubble == 9 && d->main->cache_bytes == 1 &&
		       d->main->cache_out_ns == 2 &&
		       d->main->cache_in_ns == 3 && d->main->cache_times == 4,
	       "what could be given back stands in its page");
}

static void test_taken_back(struct fake_daemon *d, struct pf_main *main)
{
	uint32_t out, in;

	d->control->move = order(2, 5);
	d->control->enabled = 0;
	tap_ok(pf_moves(main, PF_THIS_ITERATION, &out, &in) == 0,
	       "it stays where nothing is filled");
	d->control->enabled = 1;
	d->control->beat_ns = fake_now() - 300000000u;
	tap_ok(pf_moves(main, PF_THIS_ITERATION, &out, &in) == 0,
	       "and where the daemon is dead");
	d->control->beat_ns = fake_now() + 1000000000u;
	tap_ok(pf_moves(main, PF_THIS_ITERATION, &out, &in) == 1,
	       "until it lives again");
}

static void test_control(struct fake_daemon *d, struct pf_main *main)
{
	uint64_t i, moved = 0, wrong = 0;
	uint32_t out, in;

	d->control->move = order(0, 0);
	d->control->control_ppm = 300000;
	for (i = 0; i < 1000; i++) {
		int moves = pf_moves(main, i, &out, &in);

		moved += moves == 1;
		wrong += moves ==
			 pf_page_is_control(d->control->seed, i, 300000);
	}
	tap_ok(!wrong && moved > 600 && moved < 800,
	       "%llu of 1000 iterations move: all but the control iterations",
	       (unsigned long long) moved);
	wrong = 0;
	for (i = pf_iteration_number(main); i < 50; i++) {
		wrong += pf_moves(main, PF_THIS_ITERATION, &out, &in) !=
			 pf_moves(main, i, &out, &in);
		pf_iteration(main);
	}
	tap_ok(!wrong && pf_iteration_number(main) == 50,
	       "this iteration is the one that has begun");
}

int main(void)
{
	struct fake_daemon d;
	struct pf_main *main;
	uint32_t out, in;

	tap_ok(pf_moves(NULL, 0, &out, &in) == -1 && !pf_iteration_number(NULL),
	       "without a daemon nothing moves");
	pf_movable(NULL, 1, 2, 3, 4);
	tap_ok(pf_releases(NULL, 0, &out) == -1, "and nothing is given back");
	pf_releasable(NULL, 1, 2, 3, 4, 5);
	fake_start(&d, FAKE_NONE);
	d.control->enabled = 1;
	d.control->beat_ns = fake_now() + 1000000000u;
	d.main->move_bytes = 99; /* of a handle before this one */
	d.main->cache_bytes = 99;
	main = pf_open(NULL);
	if (tap_ok(main && !d.main->move_bytes && !d.main->cache_bytes,
		   "the main side opens")) {
		test_asked(&d, main);
		test_cache(&d, main);
		test_taken_back(&d, main);
		test_control(&d, main);
		pf_movable(main, 1, 2, 3, 4);
		tap_ok(d.main->move_bytes == 1 && d.main->move_out_ns == 2 &&
			       d.main->move_in_ns == 3 &&
			       d.main->move_times == 4,
		       "what could leave stands in its page");
	}
	pf_close(main);
	tap_ok(!d.main->move_bytes && !d.main->cache_bytes,
	       "and is gone with it");
	fake_stop(&d);
	return tap_done();
}
