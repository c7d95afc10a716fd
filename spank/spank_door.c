/* SPDX-License-Identifier: Apache-2.0 */
/* spank_door.c - the real Slurm behind struct pf_slurm: every SPANK call is
 * here or in plugin.c's hooks. */
#include "spank_door.h"

#include <stdlib.h>
#include <string.h>

static int get_u32(spank_t spank, spank_item_t which, int64_t *value)
{
	uint32_t number;

	if (spank_get_item(spank, which, &number) != ESPANK_SUCCESS)
		return -1;
	*value = number;
	return 0;
}

/* In prolog and epilog there is no job to ask, only the environment. */
static int from_environment(const char *name, int64_t *value)
{
	const char *text = getenv(name);
	char *end;

	if (!text || !*text)
		return -1;
	*value = strtoll(text, &end, 10);
	return *end || *value < 0 ? -1 : 0;
}

static int door_item(void *context, enum pf_item which, int64_t *value)
{
	spank_t spank = context;
	uid_t uid;
	pid_t pid;
	int status;

	if (!spank)
		return -1;
	switch (which) {
	case PF_ITEM_UID:
		if (spank_context() == S_CTX_JOB_SCRIPT)
			return from_environment("SLURM_JOB_UID", value);
		if (spank_get_item(spank, S_JOB_UID, &uid) != ESPANK_SUCCESS)
			return -1;
		*value = uid;
		return 0;
	case PF_ITEM_JOB_ID:
		if (spank_context() == S_CTX_JOB_SCRIPT)
			return from_environment("SLURM_JOB_ID", value);
		return get_u32(spank, S_JOB_ID, value);
	case PF_ITEM_STEP_ID:
		return get_u32(spank, S_JOB_STEPID, value);
	case PF_ITEM_RESTARTS:
		return get_u32(spank, S_SLURM_RESTART_COUNT, value);
	case PF_ITEM_LOCAL_TASKS:
		return get_u32(spank, S_JOB_LOCAL_TASK_COUNT, value);
	case PF_ITEM_TASK_PID:
		if (spank_get_item(spank, S_TASK_PID, &pid) != ESPANK_SUCCESS)
			return -1;
		*value = pid;
		return 0;
	case PF_ITEM_TASK_STATUS:
		if (spank_get_item(spank, S_TASK_EXIT_STATUS, &status) !=
		    ESPANK_SUCCESS)
			return -1;
		*value = status;
		return 0;
	}
	return -1;
}

static int door_get_env(void *context, const char *name, char *value,
			size_t size)
{
	spank_err_t error;

	/* slurmd's own word on the node's name: the job's can be forged, and in
	 * prolog and epilog there is none. */
	if (!strcmp(name, "SLURMD_NODENAME") ||
	    spank_context() == S_CTX_JOB_SCRIPT) {
		const char *text = getenv(name);

		if (text && strlen(text) < size) {
			strcpy(value, text);
			return 0;
		}
	}
	if (!context)
		return -1;
	error = spank_getenv(context, name, value, (int) size);
	if (error == ESPANK_SUCCESS)
		return 0;
	return error == ESPANK_NOSPACE ? 1 : -1;
}

static int door_set_env(void *context, const char *name, const char *value)
{
	if (!context || spank_setenv(context, name, value, 1) != ESPANK_SUCCESS)
		return -1;
	return 0;
}

static void door_error(void *context, const char *text)
{
	(void) context;
	slurm_error("%s", text);
}

static void door_log(void *context, const char *text)
{
	(void) context;
	slurm_info("%s", text);
}

void pf_spank_door(struct pf_slurm *slurm, spank_t spank)
{
	slurm->context = spank;
	slurm->item = door_item;
	slurm->get_env = door_get_env;
	slurm->set_env = door_set_env;
	slurm->error = door_error;
	slurm->log = door_log;
}
