/* SPDX-License-Identifier: Apache-2.0 */
/* test_plugin_options.c - the value of --pipefill, and what sbatch refuses. */
#include "fake_slurm.h"
#include "options.h"
#include "plugin.h"
#include "tap.h"

static const struct {
	const char *text;
	enum pf_role role;
} good[] = {
	{ NULL, PF_ROLE_MAIN },
	{ "", PF_ROLE_MAIN },
	{ "off", PF_ROLE_NONE },
	{ "budget=1%", PF_ROLE_MAIN },
	{ "budget=0.5%,reserve=2GiB,share=0.8", PF_ROLE_MAIN },
	{ "allow=user:ann+account:physics", PF_ROLE_MAIN },
	{ "move=off,budget=1%", PF_ROLE_MAIN },
	{ "move=on", PF_ROLE_MAIN },
	{ "move=cache", PF_ROLE_MAIN },
	{ "fill", PF_ROLE_FILL },
	{ "fill,mem=4GiB,profile=/a/b.json,deadline=2026-12-24T18:00:00,"
	  "mode=chunked",
	  PF_ROLE_FILL },
	{ "mode=signal,fill", PF_ROLE_FILL },
	{ "fill,devices=1", PF_ROLE_FILL },
	{ "fill,devices=16,mode=chunked", PF_ROLE_FILL },
};

static const struct {
	const char *text;
	const char *says;
} bad[] = {
	{ "bugdet=1%", "unknown key \"bugdet\"; valid keys:" },
	{ "budget", "needs a value" },
	{ "budget=1", "per cent above 0% and up to 20%" },
	{ "budget=0%", "per cent above 0% and up to 20%" },
	{ "budget=nan%", "per cent" },
	{ "budget=0x1%", "per cent" },
	{ "budget=-1%", "per cent" },
	{ "budget=99%", "per cent" },
	{ "reserve=2GB", "reserve=2GB: write a size with KiB" },
	{ "reserve=", "write a size" },
	{ "reserve=9999999999TiB", "write a size" },
	{ "share=1.5", "above 0 and up to 1" },
	{ "share=inf", "above 0 and up to 1" },
	{ "allow=ann", "write users and accounts" },
	{ "allow=user:", "write users and accounts" },
	{ "allow=user:a+", "write users and accounts" },
	{ "allow=user:a b", "write users and accounts" },
	{ "move=yes", "move=yes: write move=off, move=on" },
	{ "move", "the key move needs a value" },
	{ "fill,move=off", "a job is one of the two" },
	{ "off=1", "takes no value" },
	{ "off,budget=1%", "off goes with no other key" },
	{ "fill=yes", "takes no value" },
	{ "mem=4GiB", "begin with fill" },
	{ "fill,budget=1%", "a job is one of the two" },
	{ "fill,mode=kernel", "mode=signal, mode=chunked or mode=launch" },
	{ "fill,mode=launched", "mode=launch" },
	{ "fill,deadline=", "as sbatch --deadline" },
	{ "fill,deadline=now\nuid=0", "as sbatch --deadline" },
	{ "fill,profile=", "a file's path" },
	{ "fill,devices=0", "1 to 16, like devices=2" },
	{ "fill,devices=17", "1 to 16" },
	{ "fill,devices=+2", "1 to 16" },
	{ "fill,devices=2x", "1 to 16" },
	{ "fill,devices=99999999999999999999", "1 to 16" },
	{ "fill,devices=", "1 to 16" },
	{ "devices=2", "begin with fill" },
	{ "devices=2,budget=1%", "a job is one of the two" },
	{ "budget=1%,budget=2%", "given twice" },
	{ "budget=1%,,share=0.5", "empty key" },
	{ ",", "empty key" },
	{ "budget=1%,", "empty key" },
};

static void test_parse(void)
{
	struct pf_options options;
	struct pf_error error;
	size_t i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		tap_ok(!pf_options_parse(good[i].text, &options, &error) &&
			       options.role == good[i].role,
		       "\"%s\" is taken", good[i].text ? good[i].text : "NULL");
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		tap_ok(pf_options_parse(bad[i].text, &options, &error) == -1 &&
			       strstr(error.text, bad[i].says),
		       "\"%.20s\" is refused: %s", bad[i].text, error.text);
	(void) pf_options_parse("budget=0.5%,reserve=1.5MiB,share=0.8",
				&options, &error);
	tap_ok(options.budget_ppm == 5000 && options.reserve_bytes == 1572864 &&
		       options.share_ppm == 800000 && options.mem_bytes == -1 &&
		       options.move == -1,
	       "values arrive");
	(void) pf_options_parse("move=off", &options, &error);
	tap_ok(options.move == 0, "move=off arrives");
	(void) pf_options_parse("move=cache", &options, &error);
	tap_ok(options.move == 2, "and move=cache");
}

static void test_random(void)
{
	static const char letters[] = "budgetofilmsharw=,:+%.0129GiB\n\x80 ";
	struct pf_options options;
	struct pf_error error;
	unsigned seed = 7;
	int i, wrong = 0;

	for (i = 0; i < 200000; i++) {
		char text[64];
		size_t j, n = (size_t) rand_r(&seed) % sizeof(text);

		for (j = 0; j < n; j++)
			text[j] = letters[(size_t) rand_r(&seed) %
					  (sizeof(letters) - 1)];
		text[n < sizeof(text) ? n : n - 1] = '\0';
		error.text[0] = '\0';
		if (pf_options_parse(text, &options, &error) && !error.text[0])
			wrong++;
	}
	tap_ok(!wrong, "200000 random values: taken, or refused with a reason");
}

static void test_too_long(void)
{
	struct pf_options options;
	struct pf_error error;
	char text[5000];

	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	tap_ok(pf_options_parse(text, &options, &error) == -1 &&
		       strstr(error.text, "longer than"),
	       "5000 letters are refused: %s", error.text);
	memcpy(text, "fill,profile=", 13);
	text[1000] = '\0';
	tap_ok(pf_options_parse(text, &options, &error) == -1,
	       "a path of 987 letters is refused: %s", error.text);
}

static void test_environment(void)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);

	setenv("SBATCH_PIPEFILL", "budget=2%", 1);
	tap_ok(pf_allocator_post_opt(&slurm, 0) == 0 &&
		       !strcmp(getenv("PIPEFILL_OPTIONS"), "budget=2%"),
	       "SBATCH_PIPEFILL travels as PIPEFILL_OPTIONS");
	tap_ok(pf_allocator_post_opt(&slurm, 1) == 0 &&
		       !getenv("PIPEFILL_OPTIONS"),
	       "the command line wins");
	setenv("SBATCH_PIPEFILL", "budget", 1);
	tap_ok(pf_allocator_post_opt(&slurm, 0) == 0 &&
		       strstr(fake.errors, "submitted without it") &&
		       !getenv("PIPEFILL_OPTIONS"),
	       "a mistake in it is told, and left aside: %s", fake.errors);
	unsetenv("SBATCH_PIPEFILL");
	tap_ok(pf_allocator_option(&slurm, "wrong") == -1,
	       "one in the option is refused");
	tap_ok(pf_allocator_option(&slurm, NULL) == 0, "bare --pipefill is a "
						       "main job");
}

int main(void)
{
	test_parse();
	test_random();
	test_too_long();
	test_environment();
	return tap_done();
}
