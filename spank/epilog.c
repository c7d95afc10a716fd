/* SPDX-License-Identifier: Apache-2.0 */
/* epilog.c - after a job's last step: no fill process may be left. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "message.h"
#include "plugin.h"

#define EPILOG_MS 5000

void pf_epilog_run(const struct pf_slurm *slurm, const struct pf_site *site)
{
	struct pf_request request;
	struct pf_reply reply;
	struct pf_error error;
	char dir[192], path[256];
	int64_t job, uid;

	if (slurm->item(slurm->context, PF_ITEM_JOB_ID, &job) ||
	    slurm->item(slurm->context, PF_ITEM_UID, &uid) ||
	    pf_site_run_dir(slurm, site, dir, sizeof(dir)))
		return;
	/* pipefilld marks the jobs that it knows (executor/mark.go). No other
	 * job's end may wait for it, however it hangs. */
	(void) snprintf(path, sizeof(path), "%s/jobs/%lld", dir,
			(long long) job);
	if (access(path, F_OK))
		return;
	(void) snprintf(path, sizeof(path), "%s/attach.sock", dir);
	pf_message_begin(&request, "epilog");
	pf_message_add_number(&request, "job", job);
	pf_message_add_number(&request, "uid", uid);
	/* A daemon that is not there has no fill process either: its
	 * supervisors stopped theirs. */
	if (!pf_message_call(path, &request, EPILOG_MS, &reply, &error)) {
		pf_message_close(&reply);
		if (strcmp(reply.status, "ok"))
			pf_say(slurm, "epilog", "pipefilld says", reply.status);
	}
}
