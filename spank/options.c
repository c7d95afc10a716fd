/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - the value of --pipefill. */
#include "options.h"

#include "page.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VALID_KEYS                                                             \
	"valid keys: for a main job budget=1%%, reserve=2GiB, share=0.8, "     \
	"allow=user:NAME+account:NAME, move=off, off; for a fill job fill, "   \
	"mem=4GiB, "                                                           \
	"profile=FILE, deadline=TIME, mode=signal|chunked|launch, devices=N"

struct key {
	const char *name;
	enum pf_role role;
	/* NULL for a key without value. 0, or -1 and only the rule. */
	int (*read)(const char *value, struct pf_options *options,
		    struct pf_error *rule);
};

static int only(const char *value, const char *more)
{
	for (; *value; value++)
		if (!isalnum((unsigned char) *value) && !strchr(more, *value))
			return 0;
	return 1;
}

/* A positive decimal with a rest; strtod alone takes "inf", "0x1" and blanks. */
static int number(const char *value, double *out, const char **rest)
{
	char *end;

	if (!isdigit((unsigned char) value[0]) ||
	    (value[0] == '0' && tolower((unsigned char) value[1]) == 'x'))
		return -1;
	errno = 0;
	*out = strtod(value, &end);
	*rest = end;
	return errno || !isfinite(*out) ? -1 : 0;
}

static int read_budget(const char *value, struct pf_options *options,
		       struct pf_error *rule)
{
	const char *rest;
	double percent;

	if (number(value, &percent, &rest) || strcmp(rest, "%") ||
	    percent <= 0 || percent > 20)
		return pf_error_set(rule, "write per cent above 0%% and up to "
					  "20%%, like budget=1%%");
	options->budget_ppm = llround(percent * 10000);
	return 0;
}

static int read_bytes(const char *value, int64_t *bytes, const char *example,
		      struct pf_error *rule)
{
	static const struct {
		const char *name;
		double bytes;
	} units[] = { { "KiB", 1024.0 },
		      { "MiB", 1048576.0 },
		      { "GiB", 1073741824.0 },
		      { "TiB", 1099511627776.0 } };

	const char *rest;
	double amount;
	size_t i;

	if (number(value, &amount, &rest) == 0)
		for (i = 0; i < sizeof(units) / sizeof(units[0]); i++)
			if (!strcmp(rest, units[i].name) &&
			    amount * units[i].bytes < 1e18) {
				*bytes = llround(amount * units[i].bytes);
				return 0;
			}
	return pf_error_set(rule,
			    "write a size with KiB, MiB, GiB or TiB, like %s",
			    example);
}

static int read_reserve(const char *value, struct pf_options *options,
			struct pf_error *rule)
{
	return read_bytes(value, &options->reserve_bytes, "reserve=2GiB", rule);
}

static int read_mem(const char *value, struct pf_options *options,
		    struct pf_error *rule)
{
	return read_bytes(value, &options->mem_bytes, "mem=4GiB", rule);
}

static int read_share(const char *value, struct pf_options *options,
		      struct pf_error *rule)
{
	const char *rest;
	double share;

	if (number(value, &share, &rest) || *rest || share <= 0 || share > 1)
		return pf_error_set(rule, "write a number above 0 and up to 1, "
					  "like share=0.8");
	options->share_ppm = llround(share * 1e6);
	return 0;
}

static int read_allow(const char *value, struct pf_options *options,
		      struct pf_error *rule)
{
	const char *part = value;

	while (part) {
		const char *end = strchr(part, '+');
		size_t length = end ? (size_t) (end - part) : strlen(part);
		size_t prefix = !strncmp(part, "user:", 5)      ? 5
				: !strncmp(part, "account:", 8) ? 8
								: 0;

		if (!prefix || length <= prefix)
			goto wrong;
		part = end ? end + 1 : NULL;
	}
	if (strlen(value) < sizeof(options->allow) && only(value, ":+._-@")) {
		strcpy(options->allow, value);
		return 0;
	}
wrong:
	return pf_error_set(rule, "write users and accounts parted by +, like "
				  "allow=user:ann+account:physics");
}

static int read_move(const char *value, struct pf_options *options,
		     struct pf_error *rule)
{
	static const char *const words[] = { "off", "on", "cache" };
	int i;

	for (i = 0; i < 3; i++)
		if (!strcmp(value, words[i])) {
			options->move = i;
			return 0;
		}
	return pf_error_set(rule, "write move=off, move=on for what the site "
				  "has, or move=cache for cached blocks too");
}

static int read_profile(const char *value, struct pf_options *options,
			struct pf_error *rule)
{
	const char *c;

	for (c = value; *c; c++)
		if (!isprint((unsigned char) *c))
			break;
	if (!*value || *c || strlen(value) >= sizeof(options->profile))
		return pf_error_set(rule, "write a file's path of up to 255 "
					  "printable characters");
	strcpy(options->profile, value);
	return 0;
}

static int read_deadline(const char *value, struct pf_options *options,
			 struct pf_error *rule)
{
	if (!*value || strlen(value) >= sizeof(options->deadline) ||
	    !only(value, ":-/+T"))
		return pf_error_set(rule,
				    "write a time as sbatch --deadline takes "
				    "it, like deadline=2026-12-24T18:00:00");
	strcpy(options->deadline, value);
	return 0;
}

static int read_mode(const char *value, struct pf_options *options,
		     struct pf_error *rule)
{
	if (strcmp(value, "signal") && strcmp(value, "chunked") &&
	    strcmp(value, "launch"))
		return pf_error_set(rule, "write mode=signal, mode=chunked or "
					  "mode=launch");
	strcpy(options->mode, value);
	return 0;
}

static int read_devices(const char *value, struct pf_options *options,
			struct pf_error *rule)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(value, &end, 10);
	if (!isdigit((unsigned char) value[0]) || *end || errno || n < 1 ||
	    n > PF_DEVICES_MAX)
		return pf_error_set(rule,
				    "write how many devices of one node, 1 to "
				    "%d, like devices=2",
				    PF_DEVICES_MAX);
	options->devices = (int) n;
	return 0;
}

static const struct key keys[] = {
	{ "budget", PF_ROLE_MAIN, read_budget },
	{ "reserve", PF_ROLE_MAIN, read_reserve },
	{ "share", PF_ROLE_MAIN, read_share },
	{ "allow", PF_ROLE_MAIN, read_allow },
	{ "move", PF_ROLE_MAIN, read_move },
	{ "off", PF_ROLE_NONE, NULL },
	{ "fill", PF_ROLE_FILL, NULL },
	{ "mem", PF_ROLE_FILL, read_mem },
	{ "profile", PF_ROLE_FILL, read_profile },
	{ "deadline", PF_ROLE_FILL, read_deadline },
	{ "mode", PF_ROLE_FILL, read_mode },
	{ "devices", PF_ROLE_FILL, read_devices },
};

#define KEY_COUNT (sizeof(keys) / sizeof(keys[0]))

static int read_pair(char *pair, unsigned *seen, struct pf_options *options,
		     struct pf_error *error)
{
	char *value = strchr(pair, '=');
	struct pf_error rule;
	size_t i;

	if (value)
		*value++ = '\0';
	for (i = 0; i < KEY_COUNT && strcmp(pair, keys[i].name); i++)
		;
	if (i == KEY_COUNT)
		return pf_error_set(
			error, "--pipefill: unknown key \"%.40s\"; " VALID_KEYS,
			pair);
	if (*seen & 1u << i)
		return pf_error_set(error,
				    "--pipefill: the key %s is given "
				    "twice: write it once",
				    pair);
	*seen |= 1u << i;
	if (!keys[i].read && value)
		return pf_error_set(error,
				    "--pipefill: the key %s takes no value, "
				    "not \"%.40s\"",
				    pair, value);
	if (keys[i].read && !value)
		return pf_error_set(
			error,
			"--pipefill: the key %s needs a value; " VALID_KEYS,
			pair);
	if (keys[i].read && keys[i].read(value, options, &rule))
		return pf_error_set(error, "--pipefill: %s=%.60s: %s", pair,
				    value, rule.text);
	return 0;
}

/* The role that the keys make, or -1 where they contradict each other. */
static int role_of(unsigned seen, struct pf_options *options,
		   struct pf_error *error)
{
	const char *of_main = NULL, *of_fill = NULL;
	int fill = 0, off = 0;
	size_t i;

	for (i = 0; i < KEY_COUNT; i++) {
		if (!(seen & 1u << i))
			continue;
		if (keys[i].role == PF_ROLE_MAIN)
			of_main = keys[i].name;
		else if (keys[i].role == PF_ROLE_FILL)
			of_fill = keys[i].name;
		fill |= !strcmp(keys[i].name, "fill");
		off |= !strcmp(keys[i].name, "off");
	}
	if (off && (of_main || of_fill))
		return pf_error_set(error,
				    "--pipefill: off goes with no other "
				    "key, not with %s",
				    of_main ? of_main : of_fill);
	if (of_main && of_fill)
		return pf_error_set(error,
				    "--pipefill: %s is a main job's key and %s "
				    "a fill job's: a job is one of the two",
				    of_main, of_fill);
	if (of_fill && !fill)
		return pf_error_set(error,
				    "--pipefill: %s is a fill job's key: begin "
				    "with fill, like --pipefill=fill,%s=...",
				    of_fill, of_fill);
	options->role = off       ? PF_ROLE_NONE
			: of_fill ? PF_ROLE_FILL
				  : PF_ROLE_MAIN;
	return 0;
}

int pf_options_parse(const char *text, struct pf_options *options,
		     struct pf_error *error)
{
	char copy[PF_OPTIONS_MAX], *pair, *next;
	unsigned seen = 0;

	memset(options, 0, sizeof(*options));
	options->budget_ppm = options->reserve_bytes = -1;
	options->share_ppm = options->mem_bytes = -1;
	options->move = options->devices = -1;
	if (!text)
		text = "";
	if (strlen(text) >= sizeof(copy))
		return pf_error_set(error,
				    "--pipefill: longer than %d characters",
				    PF_OPTIONS_MAX - 1);
	strcpy(copy, text);
	for (pair = copy; pair && *text; pair = next) {
		next = strchr(pair, ',');
		if (next)
			*next++ = '\0';
		if (!*pair)
			return pf_error_set(error,
					    "--pipefill: an empty key "
					    "beside a comma; " VALID_KEYS);
		if (read_pair(pair, &seen, options, error))
			return -1;
	}
	return role_of(seen, options, error);
}
