/* SPDX-License-Identifier: Apache-2.0 */
/* test_lib_gang.c - a fill job with several devices: its gate is open while
 * those of all are, until the earliest of their deadlines. */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "fake_daemon.h"
#include "pipefill.h"
#include "tap.h"

#define MS 1000000ull
#define LONG_NS (10000 * MS)

static void open_gate(struct pf_main_page *main, uint64_t length_ns)
{
	main->begin_ns = fake_now();
	main->deadline_ns = fake_now() + length_ns;
	main->word = (main->word | PF_WORD_OPEN) + 2;
	(void) syscall(SYS_futex, &main->word, FUTEX_WAKE_BITSET, PF_WAKE_MOST,
		       NULL, NULL, PF_EDGE_OPEN);
}

static void shut_gate(struct pf_main_page *main)
{
	main->word &= ~PF_WORD_OPEN;
}

static void test_together(struct fake_daemon *d, struct pf_fill *fill)
{
	uint32_t index;
	uint64_t iteration;
	int64_t left;

	tap_ok(strstr(d->request, "\ndevices=16\n") != NULL,
	       "the library says how many gates it minds");
	tap_ok(pf_fill_left(fill) == -1, "both are shut");
	open_gate(d->main, LONG_NS);
	tap_ok(pf_fill_left(fill) == -1 &&
		       pf_fill_bubble(fill, &index, &iteration) == -1 &&
		       pf_fill_wait(fill, 0, 0) == -1,
	       "one is open: shut");
	open_gate(d->main2, LONG_NS / 2);
	left = pf_fill_wait(fill, 0, 0);
	tap_ok(left > 0 && left <= (int64_t) LONG_NS / 2 &&
		       !pf_fill_bubble(fill, &index, &iteration),
	       "both are: open, until the earlier deadline");
	tap_ok(pf_fill_wait(fill, (int64_t) LONG_NS / 2 + 1, 0) == -1,
	       "what only fits the later one does not begin");
	tap_ok(d->fill->opening ==
		       (d->main->word & ~1u) + (d->main2->word & ~1u) + 1,
	       "the opening has a number");
	shut_gate(d->main);
	tap_ok(pf_fill_left(fill) == -1, "the first is shut: shut");
	open_gate(d->main, LONG_NS);
	shut_gate(d->main2);
	tap_ok(pf_fill_left(fill) == -1, "the second is shut: shut");
	d->control2->beat_ns = 1;
	open_gate(d->main2, LONG_NS);
	tap_ok(pf_fill_left(fill) == -1, "no beat at the second: shut");
	d->control2->beat_ns = d->control->beat_ns;
	d->control2->fill_stop = 1;
	tap_ok(pf_fill_stopping(fill) == 1, "told to end by the second");
	d->control2->fill_stop = 0;
	d->control2->assignment = 8;
	tap_ok(pf_fill_stopping(fill) == 1, "the second is another's by now");
	d->control2->assignment = 7;
	tap_ok(pf_fill_stopping(fill) == 0, "else not");
	shut_gate(d->main);
	shut_gate(d->main2);
}

/* A waiter on both is woken by whichever opens last, and by none before. */
static void test_woken(struct fake_daemon *d)
{
	int order, prompt = 0;

	d->control->wake = d->control2->wake = 1;
	for (order = 0; order < 8; order++) {
		struct pf_main_page *first = order % 2 ? d->main2 : d->main;
		struct pf_main_page *last = order % 2 ? d->main : d->main2;
		uint32_t before = d->fill->opening;
		uint64_t begin;
		int status = -1;
		pid_t child = fork();

		if (!child) {
			struct pf_fill *fill = pf_fill_open();

			_exit(fill && pf_fill_wait(fill, 0, -1) > 0 ? 0 : 1);
		}
		while (d->fill->pid != (uint32_t) child)
			usleep(100);
		usleep(2000);
		open_gate(first, LONG_NS);
		usleep(2000);
		if (d->fill->opening != before)
			prompt -= 100;
		open_gate(last, LONG_NS);
		begin = fake_now();
		waitpid(child, &status, 0);
		prompt += status == 0 && fake_now() - begin < 25 * MS;
		shut_gate(first);
		shut_gate(last);
	}
	/* Without a wake half of them would sleep on for 25 ms and more. */
	tap_ok(prompt >= 6, "%d of 8 were woken within 25 ms", prompt);
}

int main(void)
{
	struct fake_daemon d;
	struct pf_fill *fill;

	fake_start(&d, FAKE_NONE);
	fake_gang(&d);
	setenv("PIPEFILL_ROLE", "fill", 1);
	fill = pf_fill_open();
	if (tap_ok(fill != NULL, "it opens: %s", pf_strerror()))
		test_together(&d, fill);
	pf_fill_close(fill);
	test_woken(&d);
	fake_stop(&d);
	return tap_done();
}
