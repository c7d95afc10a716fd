/* SPDX-License-Identifier: Apache-2.0 */
/* allocator.c - sbatch, salloc and srun, as the user: checks --pipefill before
 * anything is queued. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

int pf_allocator_option(const struct pf_slurm *slurm, const char *value)
{
	struct pf_options options;
	struct pf_error error;

	if (pf_options_parse(value, &options, &error)) {
		slurm->error(slurm->context, error.text);
		return -1;
	}
	return 0;
}

/* Slurm ignores SBATCH_PIPEFILL, since options of plugins have no variable, so
 * that the plugin reads it: the job finds it as PIPEFILL_OPTIONS, which is also
 * what jobs that come through slurmrestd set. */
int pf_allocator_post_opt(const struct pf_slurm *slurm, int option_given)
{
	static const char *const names[] = { "SBATCH_PIPEFILL",
					     "SALLOC_PIPEFILL",
					     "SLURM_PIPEFILL",
					     "PIPEFILL_OPTIONS" };
	size_t i;

	if (option_given) {
		/* The command line wins, on the node too. */
		(void) unsetenv("PIPEFILL_OPTIONS");
		return 0;
	}
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *value = getenv(names[i]);
		struct pf_options options;
		struct pf_error error;
		char text[704];

		if (!value)
			continue;
		if (pf_options_parse(value, &options, &error)) {
			/* Here a return code is ignored under `optional`, so
			 * that the user must be told what happens. */
			(void) snprintf(text, sizeof(text),
					"%s: %s; submitted without it",
					names[i], error.text);
			slurm->error(slurm->context, text);
			(void) unsetenv("PIPEFILL_OPTIONS");
			return 0;
		}
		if (setenv("PIPEFILL_OPTIONS", value, 1)) {
			slurm->error(slurm->context,
				     "pipefill: no memory for the "
				     "environment");
			return 0;
		}
		return 0;
	}
	return 0;
}
