/* SPDX-License-Identifier: Apache-2.0 */
/* fake_daemon.h - a gate.sock in a thread, which can do everything wrong. */
#ifndef PIPEFILL_FAKE_DAEMON_H
#define PIPEFILL_FAKE_DAEMON_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "page.h"

enum fake_fault {
	FAKE_NONE,
	FAKE_HANG,    /* listens, never accepts */
	FAKE_SILENT,  /* accepts, never answers */
	FAKE_CLOSE,   /* closes after the request */
	FAKE_GARBAGE, /* random bytes */
	FAKE_LONG,    /* more than a message may have */
	FAKE_REFUSE,  /* an error with a message */
	FAKE_FEW,     /* fewer pages than promised */
	FAKE_UNSEALED,
	FAKE_WRONG_SIZE,
	FAKE_WRONG_MAGIC,
	FAKE_WRONG_VERSION,
};

struct fake_daemon {
	char dir[64];
	enum fake_fault fault;
	unsigned seed;
	int listener;
	pthread_t thread;
	int fd[5]; /* main, control, fill; main and control of a second device */
	int gang;  /* there is a second device */
	const char *plan; /* the answer to plan, with plan_fd if that is >= 0 */
	int plan_fd;
	struct pf_main_page *main;
	struct pf_control_page *control;
	struct pf_fill_page *fill;
	struct pf_main_page *main2;
	struct pf_control_page *control2;
	char request[4097]; /* the last */
};

static inline uint64_t fake_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static inline void *fake_page(struct fake_daemon *d, int i, uint32_t size,
			      uint32_t magic)
{
	uint32_t *head;
	int fd = memfd_create("page", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 ||
	    ftruncate(fd, d->fault == FAKE_WRONG_SIZE ? size / 2 : size))
		abort();
	if (d->fault != FAKE_UNSEALED &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		abort();
	head = mmap(NULL, d->fault == FAKE_WRONG_SIZE ? size / 2 : size,
		    PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (head == MAP_FAILED)
		abort();
	head[0] = d->fault == FAKE_WRONG_MAGIC ? magic + 1 : magic;
	head[1] = d->fault == FAKE_WRONG_VERSION ? 99 : PF_PAGE_VERSION;
	head[2] = size;
	d->fd[i] = fd;
	return head;
}

/* A descriptor that can only be read, as a fill user gets. */
static inline int fake_read_only(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static inline void fake_send(int client, const char *text, size_t length,
			     const int *fds, size_t count)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(5 * sizeof(int))];
	} control = { 0 };
	struct iovec part = { (void *) text, length };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (count) {
		struct cmsghdr *c;

		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	}
	(void) sendmsg(client, &message, MSG_NOSIGNAL);
}

static inline void fake_answer(struct fake_daemon *d, int client)
{
	char *request = d->request, garbage[4096], text[8192];
	ssize_t n = recv(client, request, sizeof(d->request) - 1, 0);
	int fds[5] = { d->fd[0], d->fd[1], d->fd[2] };
	size_t i, count = 2;

	if (n <= 0)
		return;
	request[n] = '\0';
	switch (d->fault) {
	case FAKE_SILENT:
		/* Until the client gives up and closes. */
		(void) recv(client, text, sizeof(text), 0);
		return;
	case FAKE_CLOSE:
		return;
	case FAKE_GARBAGE:
		for (i = 0; i < sizeof(garbage); i++)
			garbage[i] = (char) rand_r(&d->seed);
		fake_send(client, garbage, 1 + (size_t) rand_r(&d->seed) % 4095,
			  fds, (size_t) rand_r(&d->seed) % 4);
		return;
	case FAKE_LONG:
		memset(text, 'x', sizeof(text));
		memcpy(text, "ok\n", 3);
		fake_send(client, text, sizeof(text), fds, 2);
		return;
	case FAKE_REFUSE:
		fake_send(client, "error\nmessage=not this user\n", 27, NULL,
			  0);
		return;
	default:
		break;
	}
	if (d->plan && !strncmp(request, "pipefill 1 plan\n", 16)) {
		fake_send(client, d->plan, strlen(d->plan), &d->plan_fd,
			  d->plan_fd >= 0);
		return;
	}
	if (!strncmp(request, "pipefill 1 open-fill\n", 21)) {
		count = 3;
		fds[0] = fake_read_only(fds[0]);
		fds[1] = fake_read_only(fds[1]);
		if (d->gang) {
			count = 5;
			fds[3] = fake_read_only(d->fd[3]);
			fds[4] = fake_read_only(d->fd[4]);
		}
	}
	fake_send(client, "ok\ndevice=cpu:0\nmode=chunked\n", 29, fds,
		  d->fault == FAKE_FEW ? count - 1 : count);
	for (i = 0; count >= 3 && i < count; i++)
		if (i != 2)
			close(fds[i]);
}

static inline void *fake_serve(void *arg)
{
	struct fake_daemon *d = arg;

	for (;;) {
		int client = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC);

		if (client < 0)
			return NULL;
		fake_answer(d, client);
		close(client);
	}
}

static inline void fake_start(struct fake_daemon *d, enum fake_fault fault)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	memset(d, 0, sizeof(*d));
	d->fault = fault;
	d->seed = 1;
	d->main = fake_page(d, 0, PF_MAIN_SIZE, PF_MAIN_MAGIC);
	d->control = fake_page(d, 1, PF_CONTROL_SIZE, PF_CONTROL_MAGIC);
	d->fill = fake_page(d, 2, PF_FILL_SIZE, PF_FILL_MAGIC);
	d->control->enabled = 1;
	d->control->share_ppm = 900000;
	d->control->guard_ns = 100000;
	d->control->min_ns = 100000;
	d->control->assignment = 7;
	d->control->beat_ns = fake_now() + 3600000000000ull;
	strcpy(d->dir, "/tmp/pf-test-XXXXXX");
	if (!mkdtemp(d->dir))
		abort();
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/gate.sock",
		 d->dir);
	d->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (bind(d->listener, (struct sockaddr *) &address, sizeof(address)) ||
	    listen(d->listener, 8))
		abort();
	setenv("PIPEFILL_DIR", d->dir, 1);
	if (fault != FAKE_HANG &&
	    pthread_create(&d->thread, NULL, fake_serve, d))
		abort();
}

/* The fill job has a second device. */
static inline void fake_gang(struct fake_daemon *d)
{
	d->main2 = fake_page(d, 3, PF_MAIN_SIZE, PF_MAIN_MAGIC);
	d->control2 = fake_page(d, 4, PF_CONTROL_SIZE, PF_CONTROL_MAGIC);
	d->control2->assignment = 7;
	d->control2->beat_ns = d->control->beat_ns;
	d->gang = 1;
}

static inline void fake_stop(struct fake_daemon *d)
{
	char path[128];
	size_t half = d->fault == FAKE_WRONG_SIZE ? 2 : 1;

	shutdown(d->listener, SHUT_RDWR);
	if (d->fault != FAKE_HANG)
		pthread_join(d->thread, NULL);
	close(d->listener);
	munmap(d->main, PF_MAIN_SIZE / half);
	munmap(d->control, PF_CONTROL_SIZE / half);
	munmap(d->fill, PF_FILL_SIZE / half);
	close(d->fd[0]);
	close(d->fd[1]);
	close(d->fd[2]);
	if (d->gang) {
		munmap(d->main2, PF_MAIN_SIZE);
		munmap(d->control2, PF_CONTROL_SIZE);
		close(d->fd[3]);
		close(d->fd[4]);
	}
	snprintf(path, sizeof(path), "%s/gate.sock", d->dir);
	unlink(path);
	rmdir(d->dir);
	unsetenv("PIPEFILL_DIR");
}

#endif /* PIPEFILL_FAKE_DAEMON_H */
