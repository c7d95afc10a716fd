/* SPDX-License-Identifier: Apache-2.0 */
/* site.c - the plugin's arguments in plugstack.conf. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

void pf_say(const struct pf_slurm *slurm, const char *place, const char *what,
	    const char *why)
{
	char text[768], *c;

	(void) snprintf(text, sizeof(text), "pipefill: %s: %s: %s", place, what,
			why);
	/* why may be a user's: it must not look like a line of slurmd's own. */
	for (c = text; *c; c++)
		if (iscntrl((unsigned char) *c))
			*c = '?';
	slurm->log(slurm->context, text);
}

void pf_site_read(const struct pf_slurm *slurm, int argc, char **argv,
		  struct pf_site *site)
{
	int i;

	strcpy(site->run_dir, "/run/pipefill");
	strcpy(site->fill_partitions, "pipefill");
	site->python_dir[0] = '\0';
	site->hold_wait_s = 60;
	for (i = 0; i < argc; i++) {
		const char *value = strchr(argv[i], '=');
		size_t key = value ? (size_t) (value - argv[i]) : 0;

		value = value ? value + 1 : "";
		if (key == 7 && !strncmp(argv[i], "run_dir", key) &&
		    value[0] == '/' && strlen(value) < sizeof(site->run_dir))
			strcpy(site->run_dir, value);
		else if (key == 15 &&
			 !strncmp(argv[i], "fill_partitions", key) &&
			 value[0] &&
			 strlen(value) < sizeof(site->fill_partitions))
			strcpy(site->fill_partitions, value);
		else if (key == 10 && !strncmp(argv[i], "python_dir", key) &&
			 value[0] == '/' && !strchr(value, ':') &&
			 strlen(value) < sizeof(site->python_dir))
			strcpy(site->python_dir, value);
		else if (key == 11 && !strncmp(argv[i], "hold_wait_s", key) &&
			 atoi(value) > 0 && atoi(value) <= 3600)
			site->hold_wait_s = atoi(value);
		else
			pf_say(slurm, "plugstack.conf",
			       "this argument is left aside (write "
			       "run_dir=/PATH, fill_partitions=A,B, "
			       "python_dir=/PATH, hold_wait_s=1..3600)",
			       argv[i]);
	}
}

/* A node's name may not leave the directory it names. */
static int is_name(const char *name)
{
	if (!*name || *name == '.')
		return 0;
	for (; *name; name++)
		if (!isalnum((unsigned char) *name) && !strchr("._-", *name))
			return 0;
	return 1;
}

int pf_site_run_dir(const struct pf_slurm *slurm, const struct pf_site *site,
		    char *dir, size_t size)
{
	const char *mark = strstr(site->run_dir, "%n");
	char node[128];
	int n;

	if (!mark) {
		n = snprintf(dir, size, "%s", site->run_dir);
		return n < 0 || (size_t) n >= size ? -1 : 0;
	}
	if (slurm->get_env(slurm->context, "SLURMD_NODENAME", node,
			   sizeof(node)) ||
	    !is_name(node))
		return -1;
	n = snprintf(dir, size, "%.*s%s%s", (int) (mark - site->run_dir),
		     site->run_dir, node, mark + 2);
	return n < 0 || (size_t) n >= size ? -1 : 0;
}
