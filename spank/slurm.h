/* SPDX-License-Identifier: Apache-2.0 */
/* slurm.h - all that the plugin asks of Slurm, in one table, so that the rest is
 * tested against a fake. The real one is in spank_door.c. */
#ifndef PIPEFILL_SLURM_H
#define PIPEFILL_SLURM_H

#include <stdint.h>
#include <sys/types.h>

enum pf_item {
	PF_ITEM_UID,
	PF_ITEM_JOB_ID,
	PF_ITEM_STEP_ID,
	PF_ITEM_RESTARTS,
	PF_ITEM_LOCAL_TASKS,
	PF_ITEM_TASK_PID,
	PF_ITEM_TASK_STATUS,
};

struct pf_slurm {
	void *context; /* handed to each */
	/* 0, or -1 where Slurm does not tell. */
	int (*item)(void *context, enum pf_item item, int64_t *value);
	/* Of the job's environment: 0, -1 if unset, 1 if longer than size. */
	int (*get_env)(void *context, const char *name, char *value,
		       size_t size);
	int (*set_env)(void *context, const char *name, const char *value);
	/* To the user's terminal or the daemon's log. */
	void (*error)(void *context, const char *text);
	void (*log)(void *context, const char *text);
};

#endif /* PIPEFILL_SLURM_H */
