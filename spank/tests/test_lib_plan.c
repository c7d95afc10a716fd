/* SPDX-License-Identifier: Apache-2.0 */
/* test_lib_plan.c - the execution plan that a fill job is handed. */
#include "fake_daemon.h"
#include "pipefill.h"
#include "tap.h"

static int plan_file(const char *text, int seals)
{
	int fd = memfd_create("plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || write(fd, text, strlen(text)) < 0 ||
	    (seals && fcntl(fd, F_ADD_SEALS, seals)) || lseek(fd, 0, SEEK_SET))
		abort();
	return fd;
}

static void test_taken(struct fake_daemon *d, struct pf_fill *fill)
{
	char text[16] = "";
	uint64_t id = 0;
	int fd;

	tap_ok(pf_fill_plan_id(fill) == 0, "there is none at first");
	d->control->plan = 77;
	d->plan = "ok\nplan=77\n";
	d->plan_fd =
		plan_file("{}", F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
	tap_ok(pf_fill_plan_id(fill) == 77, "then it has a name");
	fd = pf_fill_plan(fill, &id);
	tap_ok(fd >= 0 && id == 77 && read(fd, text, sizeof(text)) == 2 &&
		       !strcmp(text, "{}"),
	       "and can be read");
	close(fd);
	close(d->plan_fd);
	pf_fill_at(fill, 77, 3, 12);
	tap_ok(d->fill->plan == 77 && d->fill->plan_at == (3ull << 32 | 12),
	       "where the job is stands in its page");
}

static void test_refused(struct fake_daemon *d, struct pf_fill *fill)
{
	static const struct {
		const char *what, *reply;
		int seals;
	} bad[] = {
		{ "one that can be changed", "ok\nplan=77\n",
		  F_SEAL_SHRINK | F_SEAL_GROW },
		{ "one that can be cut short", "ok\nplan=77\n", F_SEAL_WRITE },
		{ "one without a name", "ok\n", F_SEAL_WRITE },
		{ "one whose name is no number", "ok\nplan=7x\n", 0 },
		{ "one with the name of none", "ok\nplan=0\n", 0 },
		{ "none", "none\n", -1 },
		{ "one without a descriptor", "ok\nplan=77\n", -1 },
		{ "garbage", "\001\002", -1 },
	};

	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t id;

		d->plan = bad[i].reply;
		d->plan_fd =
			bad[i].seals < 0 ? -1 : plan_file("{}", bad[i].seals);
		tap_ok(pf_fill_plan(fill, &id) == -1 && pf_strerror()[0],
		       "%s is refused: \"%s\"", bad[i].what, pf_strerror());
		if (d->plan_fd >= 0)
			close(d->plan_fd);
	}
}

static void test_bubble(struct fake_daemon *d, struct pf_fill *fill)
{
	uint32_t index = 0;
	uint64_t iteration = 0, now = fake_now();

	d->main->index = 5;
	d->main->iteration = 40;
	d->main->deadline_ns = now + 5000000000ull;
	tap_ok(pf_fill_bubble(fill, &index, &iteration) == -1,
	       "no bubble while the gate is shut");
	d->main->word = 3;
	tap_ok(!pf_fill_bubble(fill, &index, &iteration) && index == 5 &&
		       iteration == 40,
	       "an open one has its index and iteration");
	d->main->deadline_ns = now;
	tap_ok(!pf_fill_bubble(fill, &index, &iteration),
	       "also past its deadline");
	d->main->word = 2;
}

int main(void)
{
	struct fake_daemon d;
	struct pf_fill *fill;
	uint32_t index;
	uint64_t id;

	tap_ok(pf_fill_bubble(NULL, &index, &id) == -1 &&
		       pf_fill_plan_id(NULL) == 0 &&
		       pf_fill_plan(NULL, &id) == -1,
	       "outside a fill job there is no plan");
	pf_fill_at(NULL, 1, 2, 3);
	fake_start(&d, FAKE_NONE);
	setenv("PIPEFILL_ROLE", "fill", 1);
	fill = pf_fill_open();
	if (tap_ok(fill != NULL, "the fill side opens")) {
		test_taken(&d, fill);
		test_refused(&d, fill);
		test_bubble(&d, fill);
	}
	pf_fill_close(fill);
	fake_stop(&d);
	return tap_done();
}
