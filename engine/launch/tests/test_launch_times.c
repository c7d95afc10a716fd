/* SPDX-License-Identifier: Apache-2.0 */
/* test_launch_times.c - what is learned of launches, and the decision. */
#include <stdlib.h>

#include "admit.h"
#include "tap.h"
#include "times.h"

static struct pf_times times;

static void test_learning(void)
{
	uint64_t key = pf_times_key(&times, (unsigned[]){ 1, 2, 3 }, 3);
	struct pf_time *time = pf_times_find(&times, key);
	unsigned i, due = 0;

	tap_ok(key && key != pf_times_key(&times, (unsigned[]){ 1, 3, 2 }, 3) &&
		       pf_times_key(NULL, NULL, 0),
	       "another grid is another launch");
	tap_ok(!pf_time_need(time) && pf_times_unknown(&times, 1000) == 600,
	       "nothing is known at first: a part of the longest bubble");
	pf_times_add(&times, time, 100);
	tap_ok(pf_time_need(time) == 100 && pf_times_find(&times, key) == time,
	       "the first run is known");
	tap_ok(pf_times_unknown(&times, 1000) == 200 &&
		       pf_times_unknown(&times, 0) == 200 &&
		       pf_times_unknown(&times, 300) == 180,
	       "a new launch is given twice what new ones took, and no more "
	       "than before");
	pf_times_add(&times, time, 5000);
	tap_ok(pf_time_need(time) == 5000, "of a few the slowest counts");
	for (i = 0; i < 8; i++)
		pf_times_add(&times, time, 200 + i);
	tap_ok(pf_time_need(time) == 207 && pf_time_least(time) == 100,
	       "of many a single slow one does not");
	for (i = 0; i < PF_TIMES_RUNS; i++)
		pf_times_add(&times, time, 50);
	tap_ok(pf_time_need(time) == 50, "what was long ago is forgotten");
	for (i = 0; i < 10 * PF_TIMES_AGAIN; i++)
		due += (unsigned) pf_time_due(time);
	tap_ok(due == 10, "a known launch is measured now and then");
	pf_times_add(&times, time, 1ull << 40);
	pf_times_add(&times, time, 0);
	tap_ok(pf_time_least(time) == 1,
	       "times beyond what can be kept are kept at the bound");
	pf_times_forget(&times, key);
	tap_ok(!pf_time_need(time) && pf_times_find(&times, key) == time,
	       "a graph that is gone is unknown again");
	tap_ok(!pf_time_need(NULL) && !pf_time_least(NULL) &&
		       !pf_time_due(NULL),
	       "a launch without a place is never known");
}

static void test_full(void)
{
	struct pf_times *full = calloc(1, sizeof(*full));
	unsigned i, placed = 0;

	for (i = 0; full && i < 2 * PF_TIMES_KEYS; i++) {
		uint64_t key = pf_times_key(full, &i, 1);
		struct pf_time *time = pf_times_find(full, key);

		pf_times_add(full, time, i + 1);
		placed += time && time->key == key;
	}
	tap_ok(placed > PF_TIMES_KEYS * 9 / 10 && placed <= PF_TIMES_KEYS,
	       "a full table refuses what is new (%u of %u)", placed, i);
	i = 0;
	tap_ok(pf_time_need(pf_times_find(full, pf_times_key(full, &i, 1))) ==
		       1,
	       "and keeps what is there");
	free(full);
}

static void test_decision(void)
{
	static const struct pf_admit_limits limits = { 4, 1000 };

	static const struct {
		struct pf_admit launch;
		enum pf_admit_answer want;
		const char *what;
	} cases[] = {
		{ { 500, 0, 0, 0, 0, 400, 100 }, PF_ADMIT_GO, "fits exactly" },
		{ { 499, 0, 0, 0, 0, 400, 100 },
		  PF_ADMIT_NEXT,
		  "1 ns too much" },
		{ { 0, 0, 0, 0, 0, 0, 0 }, PF_ADMIT_NEXT, "the deadline" },
		{ { -1, 0, 0, 0, 0, 0, 0 }, PF_ADMIT_NEXT, "a shut gate" },
		{ { 500, 100, 1, 0, 0, 301, 100 },
		  PF_ADMIT_NEXT,
		  "too much behind what is queued" },
		{ { 5000, 100, 3, 0, 0, 300, 100 }, PF_ADMIT_GO, "a fourth" },
		{ { 5000, 100, 4, 0, 0, 300, 100 }, PF_ADMIT_LATER, "a fifth" },
		{ { 5000, 100, 4, 1, 0, 300, 100 },
		  PF_ADMIT_GO,
		  "one that joins the fourth" },
		{ { 5000, 900, 1, 1, 0, 101, 100 },
		  PF_ADMIT_LATER,
		  "more than the window" },
		{ { 5000, 0, 0, 0, 0, 4000, 100 },
		  PF_ADMIT_GO,
		  "a long one by itself" },
		{ { 5000, 10, 1, 0, 1, 100, 100 },
		  PF_ADMIT_LATER,
		  "one that is not known, beside another" },
		{ { 5000, 0, 0, 0, 1, 100, 100 },
		  PF_ADMIT_GO,
		  "one that is not known, alone" },
	};

	uint64_t margin = 0;
	unsigned i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		tap_ok(pf_admit_decide(&limits, &cases[i].launch) ==
			       cases[i].want,
		       "%s", cases[i].what);
	margin = pf_admit_margin(margin, 1);
	for (i = 0; i < 199; i++)
		margin = pf_admit_margin(margin, 0);
	tap_ok(margin == 0, "one late chunk in 200 keeps the margin (%llu)",
	       (unsigned long long) margin);
	for (i = 0; i < 200; i++)
		margin = pf_admit_margin(margin, 1);
	tap_ok(margin == 5000000, "the margin is bounded");
}

int main(void)
{
	test_learning();
	test_full();
	test_decision();
	return tap_done();
}
