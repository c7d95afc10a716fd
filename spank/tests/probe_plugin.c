/* SPDX-License-Identifier: Apache-2.0 */
/* probe_plugin.c - the plugin's hooks as they are, with a Slurm of which every
 * call fails; for test/slurm/probe_test.go, which loads it into real daemons.
 *
 * plugstack.conf's arguments: probe=DIR, a folder that any user may write, gets
 * a file for each hook that ran, HOOK.CONTEXT.PID, with what it returned;
 * fail=HOOK.CONTEXT or fail=all makes a hook return -1 whatever it says. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Before Slurm's header, which declares them. */
#define slurm_spank_init ours_init
#define slurm_spank_init_post_opt ours_init_post_opt
#define slurm_spank_task_post_fork ours_task_post_fork
#define slurm_spank_task_init ours_task_init
#define slurm_spank_task_exit ours_task_exit
#define slurm_spank_exit ours_exit
#define slurm_spank_job_epilog ours_job_epilog
#include "../plugin.c"
#undef slurm_spank_init
#undef slurm_spank_init_post_opt
#undef slurm_spank_task_post_fork
#undef slurm_spank_task_init
#undef slurm_spank_task_exit
#undef slurm_spank_exit
#undef slurm_spank_job_epilog

static int no_item(void *context, enum pf_item which, int64_t *value)
{
	(void) context;
	(void) which;
	(void) value;
	return -1;
}

static int no_get_env(void *context, const char *name, char *value, size_t size)
{
	(void) context;
	(void) name;
	(void) value;
	(void) size;
	return -1;
}

static int no_set_env(void *context, const char *name, const char *value)
{
	(void) context;
	(void) name;
	(void) value;
	return -1;
}

static void drop(void *context, const char *text)
{
	(void) context;
	(void) text;
}

void pf_spank_door(struct pf_slurm *slurm, spank_t spank)
{
	struct pf_slurm fails = { spank,      no_item, no_get_env,
				  no_set_env, drop,    drop };

	*slurm = fails;
}

static const char *context_name(void)
{
	switch (spank_context()) {
	case S_CTX_LOCAL:
		return "srun";
	case S_CTX_ALLOCATOR:
		return "sbatch";
	case S_CTX_REMOTE:
		return "step";
	case S_CTX_SLURMD:
		return "slurmd";
	case S_CTX_JOB_SCRIPT:
		return "script";
	default:
		return "none";
	}
}

static int probe(const char *hook, int argc, char **argv, int returned)
{
	char name[64], path[256];
	FILE *file;
	int i;

	snprintf(name, sizeof(name), "%s.%s", hook, context_name());
	for (i = 0; i < argc; i++)
		if (!strcmp(argv[i], "fail=all") ||
		    (!strncmp(argv[i], "fail=", 5) &&
		     !strcmp(argv[i] + 5, name)))
			returned = -1;
	for (i = 0; i < argc; i++) {
		if (strncmp(argv[i], "probe=", 6))
			continue;
		snprintf(path, sizeof(path), "%s/%s.%d", argv[i] + 6, name,
			 (int) getpid());
		file = fopen(path, "we");
		if (!file)
			continue;
		fprintf(file, "%d", returned);
		fclose(file);
	}
	return returned;
}

#define PROBE(hook)                                                            \
	extern spank_f slurm_spank_##hook;                                     \
	int slurm_spank_##hook(spank_t spank, int argc, char **argv)           \
	{                                                                      \
		return probe(#hook, argc, argv,                                \
			     ours_##hook(spank, argc, argv));                  \
	}

PROBE(init)
PROBE(init_post_opt)
PROBE(task_post_fork)
PROBE(task_init)
PROBE(task_exit)
PROBE(exit)
PROBE(job_epilog)
