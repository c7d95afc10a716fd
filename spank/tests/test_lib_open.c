/* SPDX-License-Identifier: Apache-2.0 */
/* test_lib_open.c - opening with daemons that do everything wrong. */
#include <sys/wait.h>

#include "fake_daemon.h"
#include "gate_socket.h"
#include "pipefill.h"
#include "tap.h"

static int count_descriptors(void)
{
	int fd, count = 0;

	for (fd = 0; fd < 256; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			count++;
	return count;
}

static void test_fault(enum fake_fault fault, const char *what,
		       const char *reason)
{
	struct fake_daemon d;
	struct pf_main *main;
	uint64_t begin, took;
	int before;

	fake_start(&d, fault);
	before = count_descriptors();
	begin = fake_now();
	main = pf_open("cpu:0");
	took = fake_now() - begin;
	tap_ok(!main && strstr(pf_strerror(), reason), "%s: \"%s\"", what,
	       pf_strerror());
	/* The deadline is 50 ms; the rest is for a busy machine. */
	tap_ok(took < 1000000000u, "%s: within its deadline (%d ms)", what,
	       (int) (took / 1000000));
	/* The fake closes its side in its own time. */
	fake_stop(&d);
	tap_ok(count_descriptors() <= before, "%s: no descriptor stays open",
	       what);
	pf_close(main);
}

/* A daemon that hangs while others ask: no room in its backlog. */
static void test_backlog(void)
{
	struct fake_daemon d;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int client[8], i;
	uint64_t begin;

	fake_start(&d, FAKE_HANG);
	listen(d.listener, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/gate.sock",
		 d.dir);
	for (i = 0; i < 8; i++) {
		client[i] = socket(
			AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC,
			0);
		(void) connect(client[i], (struct sockaddr *) &address,
			       sizeof(address));
	}
	begin = fake_now();
	tap_ok(!pf_open("cpu:0") && fake_now() - begin < 1000000000u,
	       "a full backlog does not block: \"%s\"", pf_strerror());
	for (i = 0; i < 8; i++)
		close(client[i]);
	fake_stop(&d);
}

static void test_garbage(void)
{
	struct fake_daemon d;
	int i, opened = 0, before;

	fake_start(&d, FAKE_GARBAGE);
	before = count_descriptors();
	for (i = 0; i < 300; i++) {
		struct pf_main *main = pf_open("cpu:0");

		if (main)
			opened++;
		pf_close(main);
	}
	tap_ok(!opened, "300 replies of random bytes open nothing");
	tap_ok(count_descriptors() <= before + 1, "and leak no descriptor");
	fake_stop(&d);
}

static void test_absent(void)
{
	struct pf_main *main;

	unsetenv("PIPEFILL_DIR");
	tap_ok(!pf_open(NULL) && strstr(pf_strerror(), "PIPEFILL_DIR"),
	       "without PIPEFILL_DIR: \"%s\"", pf_strerror());
	setenv("PIPEFILL_DIR", "/nonexistent", 1);
	main = pf_open(NULL);
	tap_ok(!main && strstr(pf_strerror(), "/nonexistent/gate.sock"),
	       "without a daemon: \"%s\"", pf_strerror());
	pf_bubble_begin(main, PF_STEADY, 0);
	pf_bubble_end(main);
	pf_iteration(main);
	pf_free_bytes(main, 1);
	pf_close(main);
	tap_ok(!pf_device(main), "every call takes the NULL handle");
	tap_ok(!pf_open("a\nb"), "a device with a line break: \"%s\"",
	       pf_strerror());
	tap_ok(!pf_fill_open() && pf_fill_wait(NULL, 5, -1) == INT64_MAX &&
		       pf_fill_left(NULL) == INT64_MAX &&
		       !pf_fill_stopping(NULL),
	       "outside a fill job every wait returns at once");
	pf_fill_yield(NULL);
	pf_fill_close(NULL);
	unsetenv("PIPEFILL_DIR");
}

static void test_fork(void)
{
	struct fake_daemon d;
	struct pf_main *main;
	uint64_t head;
	int status = -1;
	pid_t child;

	fake_start(&d, FAKE_NONE);
	main = pf_open("cpu:0");
	if (!tap_ok(main != NULL, "opens")) {
		fake_stop(&d);
		return;
	}
	head = d.main->ring_head;
	child = fork();
	if (!child) {
		pf_bubble_begin(main, PF_STEADY, 0);
		pf_bubble_end(main);
		pf_iteration(main);
		pf_close(main);
		_exit(0);
	}
	waitpid(child, &status, 0);
	tap_ok(status == 0 && d.main->ring_head == head,
	       "a forked child's calls do nothing");
	pf_bubble_begin(main, PF_STEADY, 0);
	pf_bubble_end(main);
	tap_ok(d.main->ring_head == head + 1, "the parent's still do");
	pf_close(main);
	tap_ok(d.main->pid == 0, "closing says so");
	fake_stop(&d);
}

static void test_read_only(void)
{
	struct fake_daemon d;
	struct pf_reply pages;
	struct pf_error error;

	fake_start(&d, FAKE_NONE);
	if (tap_ok(!pf_gate_socket_open(d.dir, "open-fill", NULL, 1000, &pages,
					&error),
		   "open-fill is answered")) {
		char mode[16], device[32];

		pf_message_value(&pages, "mode", mode, sizeof(mode));
		pf_message_value(&pages, "device", device, sizeof(device));
		tap_ok(pages.fd_count == 3 && !strcmp(mode, "chunked") &&
			       !strcmp(device, "cpu:0"),
		       "with three pages, device and mode");
		tap_ok(mmap(NULL, PF_MAIN_SIZE, PROT_READ | PROT_WRITE,
			    MAP_SHARED, pages.fd[0], 0) == MAP_FAILED &&
			       errno == EACCES,
		       "a fill job cannot map the main page for writing");
		tap_ok(ftruncate(pages.fd[2], 0) && errno == EPERM,
		       "nor shrink its own page under the daemon");
		pf_message_close(&pages);
	}
	fake_stop(&d);
}

int main(void)
{
	test_absent();
	test_fault(FAKE_HANG, "hangs before accept", "does not answer");
	test_fault(FAKE_SILENT, "never answers", "does not answer");
	test_fault(FAKE_CLOSE, "closes", "closed the socket");
	test_fault(FAKE_LONG, "a reply too long", "too long");
	test_fault(FAKE_REFUSE, "a refusal", "not this user");
	test_fault(FAKE_FEW, "a page missing", "1 pages, not 2");
	test_fault(FAKE_UNSEALED, "a page not sealed", "not sealed");
	test_fault(FAKE_WRONG_SIZE, "a truncated page", "wrong size");
	test_fault(FAKE_WRONG_MAGIC, "a forged page", "another version");
	test_fault(FAKE_WRONG_VERSION, "a page of tomorrow", "another version");
	test_backlog();
	test_garbage();
	test_fork();
	test_read_only();
	return tap_done();
}
