/* SPDX-License-Identifier: Apache-2.0 */
/* fake_slurm.h - a Slurm for unit tests, any call of which can fail. */
#ifndef PIPEFILL_FAKE_SLURM_H
#define PIPEFILL_FAKE_SLURM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "slurm.h"

#define FAKE_VARIABLES 32

struct fake_slurm {
	int64_t items[8];
	int fail_items; /* item() fails */
	int fail_set;   /* set_env() fails */
	char names[FAKE_VARIABLES][64];
	char values[FAKE_VARIABLES][8192];
	int variables;
	char errors[4096];
	char logs[4096];
};

static inline const char *fake_get(struct fake_slurm *f, const char *name)
{
	int i;

	for (i = 0; i < f->variables; i++)
		if (!strcmp(f->names[i], name))
			return f->values[i];
	return NULL;
}

static inline int fake_item(void *context, enum pf_item which, int64_t *value)
{
	struct fake_slurm *f = context;

	if (f->fail_items)
		return -1;
	*value = f->items[which];
	return 0;
}

static inline int fake_get_env(void *context, const char *name, char *value,
			       size_t size)
{
	const char *have = fake_get(context, name);

	if (!have)
		return -1;
	if (strlen(have) >= size)
		return 1;
	strcpy(value, have);
	return 0;
}

static inline int fake_set_env(void *context, const char *name,
			       const char *value)
{
	struct fake_slurm *f = context;
	int i;

	if (f->fail_set)
		return -1;
	for (i = 0; i < f->variables && strcmp(f->names[i], name); i++)
		;
	if (i == FAKE_VARIABLES)
		abort();
	snprintf(f->names[i], sizeof(f->names[i]), "%s", name);
	snprintf(f->values[i], sizeof(f->values[i]), "%s", value);
	if (i == f->variables)
		f->variables++;
	return 0;
}

static inline void fake_error(void *context, const char *text)
{
	struct fake_slurm *f = context;

	strncat(f->errors, text, sizeof(f->errors) - strlen(f->errors) - 1);
	strncat(f->errors, "\n", sizeof(f->errors) - strlen(f->errors) - 1);
}

static inline void fake_log(void *context, const char *text)
{
	struct fake_slurm *f = context;

	strncat(f->logs, text, sizeof(f->logs) - strlen(f->logs) - 1);
	strncat(f->logs, "\n", sizeof(f->logs) - strlen(f->logs) - 1);
}

/* Job 7, batch step, of user 1000 on node n0. */
static inline struct pf_slurm fake_slurm_new(struct fake_slurm *f)
{
	struct pf_slurm slurm = {
		f, fake_item, fake_get_env, fake_set_env, fake_error, fake_log
	};

	memset(f, 0, sizeof(*f));
	f->items[PF_ITEM_UID] = 1000;
	f->items[PF_ITEM_JOB_ID] = 7;
	f->items[PF_ITEM_STEP_ID] = 0xfffffffb;
	f->items[PF_ITEM_LOCAL_TASKS] = 1;
	fake_set_env(f, "SLURMD_NODENAME", "n0");
	fake_set_env(f, "SLURM_CLUSTER_NAME", "test");
	return slurm;
}

#endif /* PIPEFILL_FAKE_SLURM_H */
