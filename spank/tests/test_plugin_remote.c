/* SPDX-License-Identifier: Apache-2.0 */
/* test_plugin_remote.c - slurmstepd's side against daemons of every sort. */
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fake_slurm.h"
#include "plugin.h"
#include "tap.h"

/* An attach.sock that gives one reply after the other, the last again. */
struct daemon {
	char dir[64];
	int listener;
	const char *replies[4];
	char requests[16][4097];
	int count;
	pthread_t thread;
};

static void *serve(void *arg)
{
	struct daemon *d = arg;

	for (;;) {
		int client = accept(d->listener, NULL, NULL);
		int i = d->count < 3 ? d->count : 3;
		ssize_t n;

		if (client < 0)
			return NULL;
		n = recv(client, d->requests[d->count % 16], 4096, 0);
		if (n > 0) {
			d->requests[d->count % 16][n] = '\0';
			while (i > 0 && !d->replies[i])
				i--;
			d->count++;
			(void) send(client, d->replies[i],
				    strlen(d->replies[i]), MSG_NOSIGNAL);
		}
		close(client);
	}
}

/* With no first reply: listens and never accepts. */
static void start(struct daemon *d, const char *first, const char *second)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	memset(d, 0, sizeof(*d));
	strcpy(d->dir, "/tmp/pf-plugin-XXXXXX");
	if (!mkdtemp(d->dir))
		abort();
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/attach.sock",
		 d->dir);
	d->replies[0] = first;
	d->replies[1] = second;
	d->listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	if (bind(d->listener, (struct sockaddr *) &address, sizeof(address)) ||
	    listen(d->listener, 4))
		abort();
	if (first && pthread_create(&d->thread, NULL, serve, d))
		abort();
}

static void stop(struct daemon *d)
{
	char path[128];

	shutdown(d->listener, SHUT_RDWR);
	if (d->replies[0])
		pthread_join(d->thread, NULL);
	close(d->listener);
	snprintf(path, sizeof(path), "%s/attach.sock", d->dir);
	unlink(path);
	rmdir(d->dir);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static struct pf_remote new_remote(const char *dir)
{
	struct pf_remote remote = { .site = { .hold_wait_s = 1 } };

	strcpy(remote.site.run_dir, dir);
	strcpy(remote.site.fill_partitions, "spare,pipefill");
	return remote;
}

static void test_main_attaches(void)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;

	start(&d, "ok\ndir=/run/pf\ndevices=cpu:0 cpu:1\n", NULL);
	remote = new_remote(d.dir);
	fake_set_env(&fake, "SLURM_JOB_GPUS", "0,3");
	pf_remote_start(&slurm, &remote, "budget=1%");
	tap_ok(remote.role == PF_ROLE_MAIN &&
		       !strcmp(fake_get(&fake, "PIPEFILL_DIR"), "/run/pf") &&
		       !strcmp(fake_get(&fake, "PIPEFILL_DEVICES"),
			       "cpu:0 cpu:1") &&
		       !strcmp(fake_get(&fake, "PIPEFILL_ROLE"), "main"),
	       "a main job gets its devices");
	tap_ok(!strcmp(d.requests[0],
		       "pipefill 1 main\ncluster=test\njob=7\n"
		       "step=4294967291\nuid=1000\nnode=n0\ntasks=1\n"
		       "restarts=0\ngpus=0,3\noptions=budget=1%\n"),
	       "and is named whole");
	remote.status = 256;
	pf_remote_finish(&slurm, &remote);
	tap_ok(strstr(d.requests[1], "pipefill 1 leave\n") &&
		       strstr(d.requests[1], "status=256\n"),
	       "its end is told");
	stop(&d);
}

/* A main job must not notice: in time, no role, nothing set, one line. */
static void test_main_unharmed(const char *what, const char *reply,
			       const char *dir)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;
	int64_t begin;

	start(&d, reply, NULL);
	remote = new_remote(dir ? dir : d.dir);
	begin = now_ms();
	pf_remote_start(&slurm, &remote, "");
	pf_remote_forked(&slurm, &remote);
	pf_remote_task(&slurm, &remote);
	pf_remote_finish(&slurm, &remote);
	/* 50 ms are the deadline, the rest is for a busy machine. */
	tap_ok(now_ms() - begin < 500 && remote.role == PF_ROLE_NONE &&
		       !fake_get(&fake, "PIPEFILL_ROLE"),
	       "%s: a main job runs on after %d ms: %s", what,
	       (int) (now_ms() - begin), fake.logs);
	stop(&d);
}

/* srun hands the environment of the batch script, of another node, to a task
 * whose own node has refused it: it must not announce to the other's daemon. */
static void test_inherited(const char *role, const char *device)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;

	start(&d, "none\n", NULL);
	remote = new_remote(d.dir);
	fake_set_env(&fake, "PIPEFILL_DIR", "/run/other");
	fake_set_env(&fake, "PIPEFILL_ROLE", role);
	fake_set_env(&fake, "PIPEFILL_DEVICE", "cpu:1");
	pf_remote_start(&slurm, &remote, "");
	tap_ok(remote.role == PF_ROLE_NONE &&
		       !strcmp(fake_get(&fake, "PIPEFILL_DIR"), "") &&
		       !strcmp(fake_get(&fake, "PIPEFILL_ROLE"), "") &&
		       !strcmp(fake_get(&fake, "PIPEFILL_DEVICE"), device),
	       "a refused step forgets what a %s job elsewhere was told", role);
	stop(&d);
}

/* A daemon that is busy may attach the job later: the program asks itself. */
static void test_main_late(void)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;
	int64_t begin;

	start(&d, NULL, NULL);
	remote = new_remote(d.dir);
	begin = now_ms();
	pf_remote_start(&slurm, &remote, "");
	pf_remote_forked(&slurm, &remote);
	pf_remote_task(&slurm, &remote);
	tap_ok(now_ms() - begin < 500, "no answer: it starts after %d ms",
	       (int) (now_ms() - begin));
	tap_ok(remote.role == PF_ROLE_MAIN && strstr(fake.logs, "late") &&
		       !strcmp(fake_get(&fake, "PIPEFILL_DIR"), d.dir) &&
		       !strcmp(fake_get(&fake, "PIPEFILL_ROLE"), "main") &&
		       !fake_get(&fake, "PIPEFILL_DEVICES"),
	       "and finds its daemon later: %s", fake.logs);
	begin = now_ms();
	pf_remote_finish(&slurm, &remote);
	tap_ok(now_ms() - begin < 500, "nor does its end wait");
	stop(&d);
}

static void test_fill(void)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;

	fake_set_env(&fake, "SLURM_JOB_PARTITION", "pipefill");
	start(&d, "wait\n",
	      "ok\nassignment=3\ndevice=gpu:GPU-1\nmode=chunked\nmem_bytes=4096\n"
	      "dir=/r\ndevices=gpu:GPU-1 gpu:GPU-2\n");
	remote = new_remote(d.dir);
	pf_remote_start(&slurm, &remote, "fill,mode=chunked");
	tap_ok(remote.assigned && d.count == 2 &&
		       !strcmp(fake_get(&fake, "PIPEFILL_ROLE"), "fill") &&
		       !strcmp(fake_get(&fake, "PIPEFILL_MODE"), "chunked") &&
		       !strcmp(fake_get(&fake, "PIPEFILL_MEM_BYTES"), "4096") &&
		       !strcmp(fake_get(&fake, "CUDA_VISIBLE_DEVICES"),
			       "GPU-1,GPU-2") &&
		       !strcmp(fake_get(&fake, "PIPEFILL_DEVICE"),
			       "gpu:GPU-1") &&
		       !strcmp(fake_get(&fake, "PIPEFILL_DEVICES"),
			       "gpu:GPU-1 gpu:GPU-2"),
	       "a fill job waits for its devices and is told them");
	fake.items[PF_ITEM_TASK_PID] = 0;
	pf_remote_forked(&slurm, &remote);
	tap_ok(strstr(d.requests[2], "pipefill 1 task\n") != NULL,
	       "its task is handed over");
	pf_remote_task(&slurm, &remote);
	tap_ok(1, "and runs");
	stop(&d);
}

static void test_fill_held_back(const char *what, const char *reply)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;
	int status = 0;
	pid_t task;

	fake_set_env(&fake, "SLURM_JOB_PARTITION", "spare");
	start(&d, reply ? reply : "ok\n", NULL);
	remote = new_remote(reply ? d.dir : "/nonexistent");
	/* Even if its owner says it is a main job. */
	pf_remote_start(&slurm, &remote, "budget=1%");
	task = fork();
	if (!task) {
		close(STDERR_FILENO);
		pf_remote_task(&slurm, &remote);
		_exit(0);
	}
	waitpid(task, &status, 0);
	tap_ok(WIFEXITED(status) && WEXITSTATUS(status) == 199,
	       "%s: a fill job does not run: %s", what, fake.logs);
	stop(&d);
}

static void test_task_not_taken(void)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;
	int status = 0;
	pid_t task;

	fake_set_env(&fake, "SLURM_JOB_PARTITION", "pipefill");
	start(&d, "ok\nassignment=3\ndevice=cpu:0\nmode=signal\ndir=/r\n",
	      "error\nmessage=no such cgroup\n");
	remote = new_remote(d.dir);
	pf_remote_start(&slurm, &remote, NULL);
	task = fork();
	if (!task) {
		pause();
		_exit(0);
	}
	fake.items[PF_ITEM_TASK_PID] = task;
	pf_remote_forked(&slurm, &remote);
	waitpid(task, &status, 0);
	tap_ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
	       "a task that cannot be stopped later does not start: %s",
	       fake.logs);
	stop(&d);
}

static void test_others(void)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;

	start(&d, "other\n", NULL);
	remote = new_remote(d.dir);
	pf_remote_start(&slurm, &remote, NULL);
	pf_remote_task(&slurm, &remote);
	tap_ok(remote.role == PF_ROLE_NONE && d.count == 1,
	       "a job of neither sort is asked about once and left alone");
	stop(&d);
	start(&d, "none\n", NULL);
	remote = new_remote(d.dir);
	pf_remote_start(&slurm, &remote, NULL);
	tap_ok(remote.role == PF_ROLE_FILL && !remote.assigned,
	       "a forged partition does not free a fill job's step");
	stop(&d);
	fake_set_env(&fake, "PIPEFILL_OPTIONS", "no\nerror: such\x1b key");
	start(&d, "other\n", NULL);
	remote = new_remote(d.dir);
	pf_remote_start(&slurm, &remote, NULL);
	tap_ok(remote.role == PF_ROLE_NONE && strstr(fake.logs, "left aside"),
	       "a mistake that came through slurmrestd harms nobody: %s",
	       fake.logs);
	tap_ok(strstr(fake.logs, "no?error: such? key") != NULL,
	       "nor does it forge a line of the log");
	fake.fail_items = 1;
	fake.fail_set = 1;
	pf_remote_start(&slurm, &remote, "");
	pf_remote_forked(&slurm, &remote);
	pf_remote_task_ended(&slurm, &remote);
	pf_remote_finish(&slurm, &remote);
	tap_ok(1, "a Slurm that fails every call is survived");
	stop(&d);
	fake.fail_items = 0;
	fake.items[PF_ITEM_STEP_ID] = PF_STEP_EXTERN;
	remote = new_remote("/nonexistent");
	pf_remote_start(&slurm, &remote, "");
	tap_ok(remote.role == PF_ROLE_NONE, "the extern step is left alone");
}

/* What PYTHONPATH is after a main job with old has attached. */
static void leads_python(const char *dir, const char *old, const char *want,
			 const char *logged, const char *what)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;
	const char *got;

	start(&d, "ok\ndir=/run/pf\ndevices=cpu:0\n", NULL);
	remote = new_remote(d.dir);
	strcpy(remote.site.python_dir, dir);
	if (old)
		fake_set_env(&fake, "PYTHONPATH", old);
	pf_remote_start(&slurm, &remote, "budget=1%");
	got = fake_get(&fake, "PYTHONPATH");
	tap_ok(remote.role == PF_ROLE_MAIN && !got == !want &&
		       (!got || !strcmp(got, want)) &&
		       strstr(fake.logs, logged),
	       what);
	stop(&d);
}

static void test_python(void)
{
	static char longest[4200];

	memset(longest, 'x', sizeof(longest) - 1);
	leads_python("", "/a", "/a", "", "without python_dir= it stays");
	leads_python("/pf", NULL, "/pf", "", "PYTHONPATH is made");
	leads_python("/pf", "/a:/b", "/pf:/a:/b", "", "PYTHONPATH is led");
	leads_python("/pf", "/pf:/a", "/pf:/a", "", "it is led once");
	leads_python("/pf", "/pfx", "/pf:/pfx", "", "another name is another");
	leads_python("/pf", longest, longest, "not led",
		     "a PYTHONPATH too long is left alone");
}

/* What LD_PRELOAD is after a job with old, inherited from a fill job that had
 * inherited, has started. */
static void preloads(const char *reply, int fill, const char *inherited,
		     const char *old, const char *want, const char *what)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	struct daemon d;
	struct pf_remote remote;
	const char *got;

	start(&d, reply, NULL);
	remote = new_remote(d.dir);
	fake_set_env(&fake, "SLURM_JOB_PARTITION", fill ? "pipefill" : "main");
	if (old)
		fake_set_env(&fake, "LD_PRELOAD", old);
	if (inherited)
		fake_set_env(&fake, "PIPEFILL_PRELOAD", inherited);
	pf_remote_start(&slurm, &remote, fill ? NULL : "budget=1%");
	got = fake_get(&fake, "LD_PRELOAD");
	tap_ok(!got == !want && (!got || !strcmp(got, want)), "%s (%s)", what,
	       got ? got : "none");
	stop(&d);
}

static void test_preload(void)
{
	static const char fill[] = "ok\nassignment=3\ndevice=gpu:GPU-1\n"
				   "mode=launch\nmem_bytes=0\ndir=/run/pf\n"
				   "preload=/lib/launch.so\n";
	static const char chunked[] = "ok\nassignment=3\ndevice=gpu:GPU-1\n"
				      "mode=chunked\nmem_bytes=0\n"
				      "dir=/run/pf\n";
	static const char main_job[] = "ok\ndir=/run/pf\ndevices=gpu:GPU-1\n";
	static char longest[4200];

	memset(longest, 'x', sizeof(longest) - 1);
	preloads(fill, 1, NULL, NULL, "/lib/launch.so",
		 "a fill job of mode launch loads the library");
	preloads(fill, 1, NULL, "/a.so /b.so", "/lib/launch.so:/a.so /b.so",
		 "before what its user has");
	preloads(fill, 1, "/lib/launch.so", "/lib/launch.so:/a.so",
		 "/lib/launch.so:/a.so", "and once");
	preloads(chunked, 1, NULL, "/a.so", "/a.so",
		 "a chunked fill job loads nothing");
	preloads(main_job, 0, NULL, "/lib/launch.so", "/lib/launch.so",
		 "a main job's own LD_PRELOAD is left alone");
	preloads(main_job, 0, "/lib/launch.so", "/a.so:/lib/launch.so:/b.so",
		 "/a.so:/b.so", "a main job does not inherit the library");
	preloads("other\n", 0, "/lib/launch.so", "/lib/launch.so", "",
		 "nor does any other job");
	preloads(fill, 1, NULL, longest, longest,
		 "an LD_PRELOAD too long is left alone");
}

static void test_site(void)
{
	struct fake_slurm fake = { 0 };
	struct pf_slurm slurm = fake_slurm_new(&fake);
	char *args[] = { "run_dir=/run/x/%n", "fill_partitions=a,b",
			 "hold_wait_s=5",     "colour=blue",
			 "run_dir=relative",  "hold_wait_s=0" };
	struct pf_site site;
	char dir[64];

	pf_site_read(&slurm, 6, args, &site);
	tap_ok(!strcmp(site.run_dir, "/run/x/%n") &&
		       !strcmp(site.fill_partitions, "a,b") &&
		       site.hold_wait_s == 5,
	       "the arguments of plugstack.conf arrive");
	tap_ok(strstr(fake.logs, "colour=blue") &&
		       strstr(fake.logs, "run_dir=relative") &&
		       strstr(fake.logs, "hold_wait_s=0"),
	       "wrong ones are named and left aside");
	tap_ok(!pf_site_run_dir(&slurm, &site, dir, sizeof(dir)) &&
		       !strcmp(dir, "/run/x/n0"),
	       "%%n is the node");
	fake_set_env(&fake, "SLURMD_NODENAME", "../../tmp/mine");
	tap_ok(pf_site_run_dir(&slurm, &site, dir, sizeof(dir)) == -1,
	       "a node's name leaves no directory");
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	test_main_attaches();
	test_main_unharmed("no daemon", "ok\n", "/nonexistent");
	test_inherited("main", "cpu:1");
	test_inherited("fill", "");
	test_main_late();
	test_main_unharmed("garbage", "\x01\x02 no line at all, and long",
			   NULL);
	test_main_unharmed("refuses", "error\nmessage=full\n", NULL);
	test_main_unharmed("has no device", "none\n", NULL);
	test_fill();
	test_fill_held_back("no daemon", NULL);
	test_fill_held_back("no assignment", "none\n");
	test_fill_held_back("garbage", "\x01\x02\x03");
	test_task_not_taken();
	test_others();
	test_python();
	test_preload();
	test_site();
	return tap_done();
}
