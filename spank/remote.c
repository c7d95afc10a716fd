/* SPDX-License-Identifier: Apache-2.0 */
/* remote.c - slurmstepd: attaches main and fill jobs to the node daemon.
 *
 * The environment is the user's to forge, so that it only ever makes a job
 * wait: whether it is a fill job, and of which device, the daemon decides.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "message.h"
#include "plugin.h"

#define ASK_AGAIN_MS 200

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void pause_ms(long ms)
{
	struct timespec ts = { .tv_sec = ms / 1000,
			       .tv_nsec = ms % 1000 * 1000000 };

	(void) nanosleep(&ts, NULL);
}

static int64_t item(const struct pf_slurm *slurm, enum pf_item which)
{
	int64_t value = -1;

	if (slurm->item(slurm->context, which, &value))
		return -1;
	return value;
}

static void add_item(const struct pf_slurm *slurm, struct pf_request *request,
		     const char *key, enum pf_item which)
{
	int64_t value = item(slurm, which);

	if (value >= 0)
		pf_message_add_number(request, key, value);
}

static void add_env(const struct pf_slurm *slurm, struct pf_request *request,
		    const char *key, const char *name)
{
	char value[256];

	if (!slurm->get_env(slurm->context, name, value, sizeof(value)) &&
	    !strchr(value, '\n'))
		pf_message_add(request, key, value);
}

/* Begins a question with what names the step. */
static void begin(const struct pf_slurm *slurm, struct pf_request *request,
		  const char *verb)
{
	pf_message_begin(request, verb);
	add_env(slurm, request, "cluster", "SLURM_CLUSTER_NAME");
	add_item(slurm, request, "job", PF_ITEM_JOB_ID);
	add_item(slurm, request, "step", PF_ITEM_STEP_ID);
	add_item(slurm, request, "uid", PF_ITEM_UID);
}

/* Asks attach.sock, and believes only a daemon that runs as root. */
static int ask(const struct pf_remote *remote, const struct pf_request *request,
	       int deadline_ms, struct pf_reply *reply, struct pf_error *error)
{
	char path[256];

	(void) snprintf(path, sizeof(path), "%s/attach.sock", remote->run_dir);
	if (pf_message_call(path, request, deadline_ms, reply, error)) {
		reply->late = reply->late && reply->uid == 0;
		return -1;
	}
	pf_message_close(reply);
	if (reply->uid != 0 && reply->uid != (uint32_t) geteuid())
		return pf_error_set(error, "%s: not served by root", path);
	if (!strcmp(reply->status, "error")) {
		char message[256];

		pf_message_value(reply, "message", message, sizeof(message));
		return pf_error_set(error, "pipefilld: %s", message);
	}
	return 0;
}

/* ask for a fill job, again and again while nobody answers: a job must not be
 * lost to a restart of the daemon. Every verb may be repeated. */
static int ask_patiently(const struct pf_remote *remote,
			 const struct pf_request *request, int deadline_ms,
			 struct pf_reply *reply, struct pf_error *error)
{
	int64_t end_ms = now_ms() + PF_RETRY_MS;

	while (ask(remote, request, deadline_ms, reply, error)) {
		if (reply->status[0] || now_ms() >= end_ms)
			return -1;
		pause_ms(ASK_AGAIN_MS);
	}
	return 0;
}

/* Tells whether partition is in the comma-separated list. */
static int listed(const char *list, const char *partition)
{
	size_t length = strlen(partition);
	const char *p = list;

	while (length && (p = strstr(p, partition))) {
		if ((p == list || p[-1] == ',') &&
		    (!p[length] || p[length] == ','))
			return 1;
		p += length;
	}
	return 0;
}

/* Puts the folder of the hooks' sitecustomize.py in front of PYTHONPATH. A step
 * has its batch script's, with the folder there already. */
static void lead_python(const struct pf_slurm *slurm,
			const struct pf_remote *remote)
{
	const char *dir = remote->site.python_dir;
	size_t length = strlen(dir);
	char old[4096] = "",
	     path[sizeof(old) + sizeof(remote->site.python_dir)];

	if (!length)
		return;
	if (slurm->get_env(slurm->context, "PYTHONPATH", old, sizeof(old)) >
	    0) {
		pf_say(slurm, "job", "PYTHONPATH is not led",
		       "it is longer than 4095 bytes");
		return;
	}
	if (!strncmp(old, dir, length) && (!old[length] || old[length] == ':'))
		return;
	(void) snprintf(path, sizeof(path), "%s%s%s", dir, old[0] ? ":" : "",
			old);
	if (slurm->set_env(slurm->context, "PYTHONPATH", path))
		pf_say(slurm, "job", "PYTHONPATH is not led",
		       "the environment cannot be set");
}

/* LD_PRELOAD without library, wherever it stands in it: a job that a fill job
 * submits inherits the environment. Returns 1 if it was there. */
static int without(const char *library, const char *value, char *rest,
		   size_t size)
{
	const char *part = value;
	size_t used = 0;
	int found = 0;

	rest[0] = '\0';
	while (*part) {
		size_t length = strcspn(part, ": ");

		if (length == strlen(library) &&
		    !strncmp(part, library, length)) {
			found = 1;
		} else if (length && used + length + 2 < size) {
			if (used)
				rest[used++] = ':';
			memcpy(rest + used, part, length);
			rest[used += length] = '\0';
		}
		part += length;
		part += *part != '\0';
	}
	return found;
}

/* A fill job's program loads the launch library first; "" loads none, and none
 * that this job has from the one that submitted it. */
static void preload(const struct pf_slurm *slurm, const char *library)
{
	char old[4096] = "", inherited[256] = "", rest[4096], value[4352];

	(void) slurm->get_env(slurm->context, "PIPEFILL_PRELOAD", inherited,
			      sizeof(inherited));
	if (!library[0] && !inherited[0])
		return;
	if (slurm->get_env(slurm->context, "LD_PRELOAD", old, sizeof(old)) > 0)
		return; /* longer than we can take apart: the daemon sees that
			   the library is not there, and keeps the job shut */
	if (inherited[0] && without(inherited, old, rest, sizeof(rest)))
		memcpy(old, rest, sizeof(old));
	if (without(library, old, rest, sizeof(rest)))
		memcpy(old, rest, sizeof(old));
	(void) snprintf(value, sizeof(value), "%s%s%s", library,
			library[0] && old[0] ? ":" : "", old);
	(void) slurm->set_env(slurm->context, "LD_PRELOAD", value);
	(void) slurm->set_env(slurm->context, "PIPEFILL_PRELOAD", library);
}

/* What the plugin says to a job elsewhere is not this node's word: srun hands
 * the batch script's environment to the tasks of all nodes, and sbatch to the
 * job that a job submits. */
static void forget(const struct pf_slurm *slurm)
{
	static const char *const names[] = {
		"PIPEFILL_DIR",       "PIPEFILL_DEVICES",
		"PIPEFILL_MODE",      "PIPEFILL_ROLE",
		"PIPEFILL_MEM_BYTES", "PIPEFILL_DEVICE", /* the last */
	};
	char value[256];
	size_t i, count = sizeof(names) / sizeof(names[0]);

	/* A trainer may name the device of a task; a fill job's is not its. */
	if (slurm->get_env(slurm->context, "PIPEFILL_ROLE", value,
			   sizeof(value)) ||
	    strcmp(value, "fill"))
		count--;
	for (i = 0; i < count; i++) {
		int unset = slurm->get_env(slurm->context, names[i], value,
					   sizeof(value));

		if (unset > 0 || (!unset && value[0]))
			(void) slurm->set_env(slurm->context, names[i], "");
	}
}

static void attach_main(const struct pf_slurm *slurm, struct pf_remote *remote,
			const char *text, int deadline_ms)
{
	struct pf_request request;
	struct pf_reply reply;
	struct pf_error error = { "" };
	char dir[256], devices[1024] = "";

	begin(slurm, &request, "main");
	add_env(slurm, &request, "node", "SLURMD_NODENAME");
	add_item(slurm, &request, "tasks", PF_ITEM_LOCAL_TASKS);
	add_item(slurm, &request, "restarts", PF_ITEM_RESTARTS);
	add_env(slurm, &request, "gpus", "SLURM_JOB_GPUS");
	pf_message_add(&request, "options", text);
	if (!ask(remote, &request, deadline_ms, &reply, &error)) {
		if (strcmp(reply.status, "ok")) {
			remote->role = PF_ROLE_NONE;
			return;
		}
		pf_message_value(&reply, "dir", dir, sizeof(dir));
		pf_message_value(&reply, "devices", devices, sizeof(devices));
	} else if (reply.late) {
		/* The daemon has the question, and a busy one attaches the job
		 * later: its program still asks for its pages by itself. */
		pf_say(slurm, "main job", "is attached late, if at all",
		       error.text);
		(void) snprintf(dir, sizeof(dir), "%s", remote->run_dir);
	} else {
		pf_say(slurm, "main job", "runs without fill jobs", error.text);
		remote->role = PF_ROLE_NONE;
		return;
	}
	if (slurm->set_env(slurm->context, "PIPEFILL_DIR", dir) ||
	    slurm->set_env(slurm->context, "PIPEFILL_ROLE", "main") ||
	    (devices[0] &&
	     slurm->set_env(slurm->context, "PIPEFILL_DEVICES", devices)))
		pf_say(slurm, "main job", "runs without fill jobs",
		       "the environment cannot be set");
	else
		lead_python(slurm, remote);
}

/* "gpu:UUID gpu:UUID" as CUDA writes it, "UUID,UUID"; in place. */
static const char *gpus(char *devices)
{
	char *from = devices, *to = devices;

	while (*from) {
		if (!strncmp(from, "gpu:", 4))
			from += 4;
		while (*from && *from != ' ')
			*to++ = *from++;
		if (*from)
			*to++ = ',', from++;
	}
	*to = '\0';
	return devices;
}

static void export_fill(const struct pf_slurm *slurm,
			const struct pf_remote *remote,
			const struct pf_reply *reply)
{
	static const char *const pairs[][2] = {
		{ "dir", "PIPEFILL_DIR" },
		{ "device", "PIPEFILL_DEVICE" },
		{ "mode", "PIPEFILL_MODE" },
	};
	char value[256], devices[1024];
	size_t i;

	for (i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		pf_message_value(reply, pairs[i][0], value, sizeof(value));
		(void) slurm->set_env(slurm->context, pairs[i][1], value);
	}
	pf_message_value(reply, "devices", devices, sizeof(devices));
	if (devices[0]) /* a daemon of an earlier release does not say */
		(void) slurm->set_env(slurm->context, "PIPEFILL_DEVICES",
				      devices);
	pf_message_value(reply, "mem_bytes", value, sizeof(value));
	if (strcmp(value, "") && strcmp(value, "0"))
		(void) slurm->set_env(slurm->context, "PIPEFILL_MEM_BYTES",
				      value);
	(void) slurm->set_env(slurm->context, "PIPEFILL_ROLE", "fill");
	pf_message_value(reply, "preload", value, sizeof(value));
	preload(slurm, value[0] == '/' ? value : "");
	pf_message_value(reply, "device", value, sizeof(value));
	if (!strncmp(value, "gpu:", 4)) {
		(void) slurm->set_env(slurm->context, "CUDA_VISIBLE_DEVICES",
				      gpus(devices[0] ? devices : value));
		/* PyTorch is kept within its memory from there. */
		lead_python(slurm, remote);
	}
}

/* Asks for the job's assignment. is_fill: its partition says it is a fill job,
 * so that without a daemon it must not run. */
static void attach_fill(const struct pf_slurm *slurm, struct pf_remote *remote,
			const char *partition, const char *text, int is_fill)
{
	int64_t end_ms = now_ms() + (is_fill ? PF_ASSIGN_MS : PF_HOOK_MS);
	struct pf_request request;
	struct pf_reply reply = { .status = "" };
	struct pf_error error = { "" };

	begin(slurm, &request, "fill");
	add_env(slurm, &request, "node", "SLURMD_NODENAME");
	add_item(slurm, &request, "restarts", PF_ITEM_RESTARTS);
	pf_message_add_number(&request, "pid", (int64_t) getpid());
	pf_message_add(&request, "partition", partition);
	pf_message_add(&request, "options", text);
	remote->role = is_fill ? PF_ROLE_FILL : PF_ROLE_NONE;
	do {
		int64_t left = end_ms - now_ms();
		int fill = remote->role == PF_ROLE_FILL;

		if ((fill ? ask_patiently : ask)(remote, &request,
						 left > 1 ? (int) left : 1,
						 &reply, &error)) {
			if (fill)
				pf_say(slurm, "fill job", "does not run",
				       error.text);
			return;
		}
		if (strcmp(reply.status, "wait"))
			break;
		remote->role = PF_ROLE_FILL;
		pause_ms(ASK_AGAIN_MS);
	} while (now_ms() < end_ms);
	if (!strcmp(reply.status, "other") && !is_fill) {
		remote->role = PF_ROLE_NONE;
	} else if (!strcmp(reply.status, "ok")) {
		remote->role = PF_ROLE_FILL;
		remote->assigned = 1;
		export_fill(slurm, remote, &reply);
	} else {
		remote->role = PF_ROLE_FILL;
		pf_say(slurm, "fill job", "does not run",
		       "it has no assignment");
	}
}

void pf_remote_start(const struct pf_slurm *slurm, struct pf_remote *remote,
		     const char *option)
{
	struct pf_options options;
	struct pf_error error = { "" };
	char partition[128] = "", text[PF_OPTIONS_MAX] = "";
	int given = option != NULL;

	remote->status = -1;
	remote->role = PF_ROLE_NONE;
	if (item(slurm, PF_ITEM_STEP_ID) == PF_STEP_EXTERN)
		return;
	preload(slurm, "");
	forget(slurm);
	if (pf_site_run_dir(slurm, &remote->site, remote->run_dir,
			    sizeof(remote->run_dir))) {
		pf_say(slurm, "node", "run_dir is too long",
		       remote->site.run_dir);
		return;
	}
	(void) slurm->get_env(slurm->context, "SLURM_JOB_PARTITION", partition,
			      sizeof(partition));
	if (option)
		(void) snprintf(text, sizeof(text), "%s", option);
	else
		given = !slurm->get_env(slurm->context, "PIPEFILL_OPTIONS",
					text, sizeof(text));
	if (given && pf_options_parse(text, &options, &error)) {
		/* Checked at submission; from slurmrestd it may be anything. */
		pf_say(slurm, "job", "its options are left aside", error.text);
		given = 0;
		text[0] = '\0';
	}
	if (listed(remote->site.fill_partitions, partition)) {
		attach_fill(slurm, remote, partition, text, 1);
	} else if (given && options.role == PF_ROLE_MAIN) {
		remote->role = PF_ROLE_MAIN;
		attach_main(slurm, remote, text, PF_HOOK_MS);
	} else {
		attach_fill(slurm, remote, partition, text, 0);
	}
}

void pf_remote_forked(const struct pf_slurm *slurm, struct pf_remote *remote)
{
	struct pf_request request;
	struct pf_reply reply;
	struct pf_error error = { "" };

	if (remote->role != PF_ROLE_FILL || !remote->assigned)
		return;
	begin(slurm, &request, "task");
	add_item(slurm, &request, "pid", PF_ITEM_TASK_PID);
	if (!ask_patiently(remote, &request, PF_ASSIGN_MS, &reply, &error) &&
	    !strcmp(reply.status, "ok"))
		return;
	/* Outside its cgroup nobody could stop it: it must not run. */
	pf_say(slurm, "fill job", "its task is ended",
	       strcmp(reply.status, "none") ? error.text
					    : "it has no assignment");
	if (item(slurm, PF_ITEM_TASK_PID) > 1)
		(void) kill((pid_t) item(slurm, PF_ITEM_TASK_PID), SIGKILL);
}

void pf_remote_task(const struct pf_slurm *slurm, struct pf_remote *remote)
{
	static const char reason[] =
		"pipefill: this job has no bubble to run in; it goes back to "
		"the queue, held\n";
	int64_t end_ms = now_ms() + (int64_t) remote->site.hold_wait_s * 1000;

	(void) slurm;
	if (remote->role != PF_ROLE_FILL || remote->assigned)
		return;
	/* The controller sends it back (requeuehold), which kills us here. A
	 * return code would do nothing, or drain the node. */
	if (write(STDERR_FILENO, reason, sizeof(reason) - 1) < 0)
		errno = 0;
	while (now_ms() < end_ms)
		pause_ms(ASK_AGAIN_MS);
	_exit(199); /* RequeueExitHold=199 in slurm.conf */
}

void pf_remote_task_ended(const struct pf_slurm *slurm,
			  struct pf_remote *remote)
{
	remote->status = (int) item(slurm, PF_ITEM_TASK_STATUS);
}

void pf_remote_finish(const struct pf_slurm *slurm, struct pf_remote *remote)
{
	struct pf_request request;
	struct pf_reply reply;
	struct pf_error error = { "" };

	if (remote->role == PF_ROLE_NONE ||
	    (remote->role == PF_ROLE_FILL && !remote->assigned))
		return;
	begin(slurm, &request, "leave");
	pf_message_add_number(&request, "status", remote->status);
	/* The daemon sees an end by itself, later. */
	if (remote->role == PF_ROLE_FILL)
		(void) ask_patiently(remote, &request, 2000, &reply, &error);
	else
		(void) ask(remote, &request, PF_HOOK_MS, &reply, &error);
}
