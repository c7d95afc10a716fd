/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.c - the SPANK plugin: which hook is whose.
 *
 * | context            | hook                     | returns              |
 * |--------------------|--------------------------|----------------------|
 * | sbatch salloc srun | option                   | -1 on the user's own |
 * |                    |                          | mistake, so that     |
 * |                    |                          | nothing is queued    |
 * |                    | init_post_opt            | always 0             |
 * | slurmstepd         | init_post_opt,           | always 0: another    |
 * |                    | task_post_fork,          | value drains nodes   |
 * |                    | task_init, task_exit,    | under `required` and |
 * |                    | exit                     | is ignored under     |
 * |                    |                          | `optional`           |
 * | epilog             | job_epilog               | always 0             |
 *
 * A fill job that must not run is held back in task_init (remote.c), never by
 * a return code.
 */
#include <stdlib.h>
#include <string.h>

#include <slurm/spank.h>

#include "plugin.h"
#include "spank_door.h"

SPANK_PLUGIN(pipefill, 1);

static struct pf_remote remote;
static char option_text[PF_OPTIONS_MAX];
static int option_given;

static int take_option(int val, const char *optarg, int is_remote)
{
	struct pf_slurm slurm;

	(void) val;
	/* A bare --pipefill of sbatch reaches the sruns of its script so
	 * (22.05.8). */
	if (optarg && !strcmp(optarg, "(null)"))
		optarg = NULL;
	pf_spank_door(&slurm, NULL);
	/* On the node a mistake is logged by pf_remote_start, not refused. */
	if (!is_remote && pf_allocator_option(&slurm, optarg))
		return -1;
	option_given = 1;
	if (optarg && strlen(optarg) < sizeof(option_text))
		strcpy(option_text, optarg);
	return 0;
}

static struct spank_option pipefill_option = {
	.name = "pipefill",
	.arginfo = "key=value,...",
	.usage =
		"[pipefill] lets other jobs run in this pipeline job's bubbles "
		"(budget=, reserve=, share=, allow=, off), or describes a "
		"fill job (fill, mem=, profile=, deadline=, mode=)",
	.has_arg = 2,
	.val = 0,
	.cb = take_option,
};

int slurm_spank_init(spank_t spank, int argc, char **argv)
{
	struct pf_slurm slurm;

	pf_spank_door(&slurm, spank);
	pf_site_read(&slurm, argc, argv, &remote.site);
	if (spank_context() == S_CTX_SLURMD)
		return 0;
	if (spank_option_register(spank, &pipefill_option) != ESPANK_SUCCESS)
		pf_say(&slurm, "init", "--pipefill is not there",
		       "spank_option_register failed");
	return 0;
}

int slurm_spank_init_post_opt(spank_t spank, int argc, char **argv)
{
	struct pf_slurm slurm;

	(void) argc;
	(void) argv;
	pf_spank_door(&slurm, spank);
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
		return pf_allocator_post_opt(&slurm, option_given);
	case S_CTX_REMOTE:
		pf_remote_start(&slurm, &remote,
				option_given ? option_text : NULL);
		return 0;
	default:
		return 0;
	}
}

int slurm_spank_task_post_fork(spank_t spank, int argc, char **argv)
{
	struct pf_slurm slurm;

	(void) argc;
	(void) argv;
	pf_spank_door(&slurm, spank);
	pf_remote_forked(&slurm, &remote);
	return 0;
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv)
{
	struct pf_slurm slurm;

	(void) argc;
	(void) argv;
	pf_spank_door(&slurm, spank);
	pf_remote_task(&slurm, &remote);
	return 0;
}

int slurm_spank_task_exit(spank_t spank, int argc, char **argv)
{
	struct pf_slurm slurm;

	(void) argc;
	(void) argv;
	pf_spank_door(&slurm, spank);
	pf_remote_task_ended(&slurm, &remote);
	return 0;
}

int slurm_spank_exit(spank_t spank, int argc, char **argv)
{
	struct pf_slurm slurm;

	(void) argc;
	(void) argv;
	pf_spank_door(&slurm, spank);
	if (spank_context() == S_CTX_REMOTE)
		pf_remote_finish(&slurm, &remote);
	return 0;
}

int slurm_spank_job_epilog(spank_t spank, int argc, char **argv)
{
	struct pf_slurm slurm;
	struct pf_site site;

	pf_spank_door(&slurm, spank);
	pf_site_read(&slurm, argc, argv, &site);
	pf_epilog_run(&slurm, &site);
	return 0;
}
