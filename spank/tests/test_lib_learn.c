/* SPDX-License-Identifier: Apache-2.0 */
/* test_lib_learn.c - the learned quantiles, against sorting; the page offsets,
 * against the golden file that the Go end reads too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "learn.h"
#include "page.h"
#include "tap.h"

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

	return (x > y) - (x < y);
}

static void test_against_sorting(void)
{
	struct pf_window window = { 0 };
	uint64_t samples[4000], last[PF_LEARN_KEEP];
	unsigned seed = 42;
	int wrong = 0;
	size_t i;

	for (i = 0; i < 4000; i++) {
		size_t n = i + 1 < PF_LEARN_KEEP ? i + 1 : PF_LEARN_KEEP;

		/* Few values, so that equal ones meet. */
		samples[i] = (uint64_t) rand_r(&seed) % 20;
		pf_learn_add(&window, samples[i]);
		memcpy(last, samples + i + 1 - n, n * sizeof(last[0]));
		qsort(last, n, sizeof(last[0]), by_size);
		if (memcmp(window.sorted, last, n * sizeof(last[0])))
			wrong++;
		if (n >= PF_LEARN_ENOUGH &&
		    pf_learn_low(&window) != last[n / 4])
			wrong++;
	}
	tap_ok(!wrong, "4000 samples: the window is always the last %u, sorted",
	       PF_LEARN_KEEP);
}

/* Lengths of which all but so many are 1000 and those are low. */
static uint64_t length_with(unsigned count, uint64_t low)
{
	struct pf_window window = { 0 };
	unsigned i;

	for (i = 0; i < PF_LEARN_KEEP; i++)
		pf_learn_add(&window, i < count ? low : 1000);
	return pf_learn_length(&window);
}

/* The same of three that are low, in order, and all others 1000. */
static uint64_t length_after(uint64_t a, uint64_t b, uint64_t c)
{
	const uint64_t low[] = { a, b, c };
	struct pf_window window = { 0 };
	unsigned i;

	for (i = 0; i < PF_LEARN_KEEP; i++)
		pf_learn_add(&window, i < 3 ? low[i] : 1000);
	return pf_learn_length(&window);
}

/* The same of one least, two of eighth, and the rest twice as long. */
static uint64_t length_of(uint64_t least, uint64_t eighth)
{
	struct pf_window window = { 0 };
	unsigned i;

	for (i = 0; i < PF_LEARN_KEEP; i++)
		pf_learn_add(&window, i == 0  ? least
				      : i < 3 ? eighth
					      : 2 * eighth);
	return pf_learn_length(&window);
}

static void test_length(void)
{
	struct pf_window none = { 0 };

	tap_ok(pf_learn_length(&none) == 0, "no length of no samples");
	tap_ok(length_with(2, 100) == 1000,
	       "two that are shorter do not change a length");
	tap_ok(length_with(3, 100) == 100, "three do");
	tap_ok(length_with(3, 900) == 1000, "but not if they are close");
	tap_ok(length_with(3, 899) == 899, "and a tenth is not close");
	tap_ok(length_after(700, 799, 799) == 700,
	       "of lengths all over the place the least counts");
	tap_ok(length_after(700, 800, 800) == 800,
	       "and not of ones that are somewhat apart");
	tap_ok(length_of(7, PF_LEARN_SHORT_NS - 1) == 7 &&
		       length_of(7, PF_LEARN_SHORT_NS) == PF_LEARN_SHORT_NS,
	       "nor of long ones");
}

static void test_enough(void)
{
	struct pf_window window = { 0 };
	unsigned i;

	for (i = 1; i < PF_LEARN_ENOUGH; i++)
		pf_learn_add(&window, 5);
	tap_ok(pf_learn_low(&window) == 0 && pf_learn_median(&window) == 0,
	       "no prediction from %u samples", PF_LEARN_ENOUGH - 1);
	pf_learn_add(&window, 5);
	tap_ok(pf_learn_low(&window) == 5 && pf_learn_median(&window) == 5,
	       "a prediction from %u", PF_LEARN_ENOUGH);
}

#define FIELD(type, field)                                                     \
	{                                                                      \
#type "." #field, offsetof(struct type, field),                \
			sizeof(((struct type *) 0)->field)                     \
	}

static const struct {
	const char *name;
	size_t offset, size;
} fields[] = {
	FIELD(pf_event, seq),
	FIELD(pf_event, iteration),
	FIELD(pf_event, begin_ns),
	FIELD(pf_event, end_ns),
	FIELD(pf_event, deadline_ns),
	FIELD(pf_event, free_bytes),
	FIELD(pf_event, index),
	FIELD(pf_event, kind),
	FIELD(pf_event, flags),
	FIELD(pf_main_page, magic),
	FIELD(pf_main_page, version),
	FIELD(pf_main_page, size),
	FIELD(pf_main_page, ring_events),
	FIELD(pf_main_page, word),
	FIELD(pf_main_page, index),
	FIELD(pf_main_page, kind),
	FIELD(pf_main_page, pid),
	FIELD(pf_main_page, begin_ns),
	FIELD(pf_main_page, deadline_ns),
	FIELD(pf_main_page, end_ns),
	FIELD(pf_main_page, free_bytes),
	FIELD(pf_main_page, iteration),
	FIELD(pf_main_page, next_begin_ns),
	FIELD(pf_main_page, beat_ns),
	FIELD(pf_main_page, ring_head),
	FIELD(pf_main_page, iteration_ns),
	FIELD(pf_main_page, stage),
	FIELD(pf_main_page, move_bytes),
	FIELD(pf_main_page, move_out_ns),
	FIELD(pf_main_page, move_in_ns),
	FIELD(pf_main_page, move_times),
	FIELD(pf_main_page, cache_bytes),
	FIELD(pf_main_page, cache_out_ns),
	FIELD(pf_main_page, cache_in_ns),
	FIELD(pf_main_page, cache_times),
	FIELD(pf_main_page, cache_bubble),
	FIELD(pf_main_page, ring),
	FIELD(pf_control_page, magic),
	FIELD(pf_control_page, version),
	FIELD(pf_control_page, size),
	FIELD(pf_control_page, enabled),
	FIELD(pf_control_page, wake),
	FIELD(pf_control_page, share_ppm),
	FIELD(pf_control_page, control_ppm),
	FIELD(pf_control_page, seed),
	FIELD(pf_control_page, guard_ns),
	FIELD(pf_control_page, min_ns),
	FIELD(pf_control_page, beat_ns),
	FIELD(pf_control_page, assignment),
	FIELD(pf_control_page, margin_ns),
	FIELD(pf_control_page, fill_stop),
	FIELD(pf_control_page, recording),
	FIELD(pf_control_page, floor_ns),
	FIELD(pf_control_page, plan),
	FIELD(pf_control_page, move),
	FIELD(pf_control_page, cache),
	FIELD(pf_fill_page, magic),
	FIELD(pf_fill_page, version),
	FIELD(pf_fill_page, size),
	FIELD(pf_fill_page, pid),
	FIELD(pf_fill_page, running),
	FIELD(pf_fill_page, chunks),
	FIELD(pf_fill_page, overruns),
	FIELD(pf_fill_page, beat_ns),
	FIELD(pf_fill_page, run_ns),
	FIELD(pf_fill_page, first_ns),
	FIELD(pf_fill_page, opening),
	FIELD(pf_fill_page, plan),
	FIELD(pf_fill_page, plan_at),
	FIELD(pf_fill_page, process),
	FIELD(pf_fill_process, pid),
	FIELD(pf_fill_process, bytes),
};

/* With PF_GOLDEN_UPDATE set, writes the file instead. */
static void test_offsets(void)
{
	const char *path = "executor/testdata/page-offsets.golden";
	const char *mode = getenv("PF_GOLDEN_UPDATE") ? "w" : "r";
	FILE *file = fopen(path, mode);
	char line[128], want[128];
	size_t i;

	tap_ok(file != NULL, "%s opens", path);
	if (!file)
		return;
	for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		snprintf(want, sizeof(want), "%s %zu %zu\n", fields[i].name,
			 fields[i].offset, fields[i].size);
		if (mode[0] == 'w')
			fputs(want, file);
		else if (!fgets(line, sizeof(line), file) || strcmp(line, want))
			break;
	}
	tap_ok(i == sizeof(fields) / sizeof(fields[0]) &&
		       (mode[0] == 'w' || !fgets(line, sizeof(line), file)),
	       "page.h has the offsets of %s", path);
	fclose(file);
}

int main(void)
{
	test_against_sorting();
	test_length();
	test_enough();
	test_offsets();
	return tap_done();
}
