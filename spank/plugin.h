/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.h - what the plugin's contexts share. */
#ifndef PIPEFILL_PLUGIN_H
#define PIPEFILL_PLUGIN_H

#include "options.h"
#include "slurm.h"

/* One hook of a main job may take this long. A batch job passes two before its
 * program runs, the script's and its srun's, and 50 ms are all it may lose. */
#define PF_HOOK_MS 20
/* A fill job waits this long for the controller to name its device. */
#define PF_ASSIGN_MS 10000
/* and so long for a daemon that is away: it may be restarting. */
#define PF_RETRY_MS 3000

/* Step numbers that Slurm gives a meaning (slurm/slurm.h). */
#define PF_STEP_EXTERN 0xfffffffcu

struct pf_site {
	char run_dir[128]; /* may hold %n, the node's name */
	char fill_partitions[256];
	char python_dir[256]; /* leads a main job's PYTHONPATH; "": none */
	int hold_wait_s;      /* an unassigned fill job blocks this long */
};

/* Reads the arguments of plugstack.conf; what is wrong is logged and left. */
void pf_site_read(const struct pf_slurm *slurm, int argc, char **argv,
		  struct pf_site *site);

/* allocator.c: sbatch, salloc and srun, as the user. Returns -1 on a mistake
 * of the user's, which the command then fails with. */
int pf_allocator_option(const struct pf_slurm *slurm, const char *value);
int pf_allocator_post_opt(const struct pf_slurm *slurm, int option_given);

/* remote.c: slurmstepd. Nothing here ever fails a job of the main sort. */
struct pf_remote {
	struct pf_site site;
	enum pf_role role;
	int assigned; /* of a fill job */
	int status;   /* wait status of the task that ended last, -1 */
	char run_dir[192];
};

void pf_remote_start(const struct pf_slurm *slurm, struct pf_remote *remote,
		     const char *option);
void pf_remote_forked(const struct pf_slurm *slurm, struct pf_remote *remote);
/* In the task, as the user: returns only if the task may run. */
void pf_remote_task(const struct pf_slurm *slurm, struct pf_remote *remote);
void pf_remote_task_ended(const struct pf_slurm *slurm,
			  struct pf_remote *remote);
void pf_remote_finish(const struct pf_slurm *slurm, struct pf_remote *remote);

/* epilog.c: after the job's last step on this node. */
void pf_epilog_run(const struct pf_slurm *slurm, const struct pf_site *site);

/* Logs "pipefill: place: what: why". */
void pf_say(const struct pf_slurm *slurm, const char *place, const char *what,
	    const char *why);

/* The run directory with %n replaced by the node's name; -1 if it does not
 * fit. */
int pf_site_run_dir(const struct pf_slurm *slurm, const struct pf_site *site,
		    char *dir, size_t size);

#endif /* PIPEFILL_PLUGIN_H */
