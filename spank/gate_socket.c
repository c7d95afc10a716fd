/* SPDX-License-Identifier: Apache-2.0 */
/* gate_socket.c - asks pipefilld for the shared pages (docs/protocol.md 2). */
#include "gate_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "page.h"

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Waits until the socket is ready for events or end_ms has come. */
static int await(int fd, short events, int64_t end_ms, struct pf_error *error)
{
	struct pollfd p = { .fd = fd, .events = events };
	int64_t left;
	int n;

	do {
		left = end_ms - now_ms();
		if (left <= 0)
			return pf_error_set(error, "pipefilld does not answer");
		n = poll(&p, 1, (int) left);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return pf_error_set(error, "poll: %s", strerror(errno));
	if (n == 0)
		return pf_error_set(error, "pipefilld does not answer");
	return 0;
}

static int dial(const char *dir, struct pf_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;
	int n = snprintf(address.sun_path, sizeof(address.sun_path),
			 "%s/gate.sock", dir);

	if (n < 0 || (size_t) n >= sizeof(address.sun_path))
		return pf_error_set(error, "%s: the path is too long", dir);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return pf_error_set(error, "socket: %s", strerror(errno));
	/* A full backlog gives EAGAIN at once: the daemon hangs. */
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0) {
		pf_error_set(error, "%s: %s", address.sun_path,
			     strerror(errno));
		close(fd);
		return -1;
	}
	return fd;
}

/* Takes the descriptors of a message, closing what is too many. */
static void take_descriptors(struct msghdr *message, struct pf_pages *pages)
{
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		size_t i, count;
		const unsigned char *data = CMSG_DATA(c);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, data + i * sizeof(int), sizeof(fd));
			if (pages->count < PF_PAGES_MAX)
				pages->fd[pages->count++] = fd;
			else
				close(fd);
		}
	}
}

/* Copies the value of key from the reply's lines; "" if it is not there or
 * does not fit. */
static void value_of(const char *reply, const char *key, char *value,
		     size_t size)
{
	size_t key_length = strlen(key);
	const char *line = strchr(reply, '\n');

	value[0] = '\0';
	for (; line; line = strchr(line, '\n')) {
		size_t length;

		line++;
		if (strncmp(line, key, key_length) || line[key_length] != '=')
			continue;
		line += key_length + 1;
		length = strcspn(line, "\n");
		if (length < size) {
			memcpy(value, line, length);
			value[length] = '\0';
		}
		return;
	}
}

static int parse(const char *reply, struct pf_pages *pages,
		 struct pf_error *error)
{
	char message[160];

	if (strncmp(reply, "ok", 2) || (reply[2] && reply[2] != '\n')) {
		value_of(reply, "message", message, sizeof(message));
		if (!strncmp(reply, "error", 5) && message[0])
			return pf_error_set(error, "pipefilld: %s", message);
		if (!strncmp(reply, "none", 4))
			return pf_error_set(error, "pipefilld has no device "
						   "for this process");
		return pf_error_set(error, "pipefilld's reply is not "
					   "understood");
	}
	value_of(reply, "device", pages->device, sizeof(pages->device));
	value_of(reply, "mode", pages->mode, sizeof(pages->mode));
	return 0;
}

static int receive(int fd, int64_t end_ms, struct pf_pages *pages,
		   struct pf_error *error)
{
	char reply[PF_MESSAGE_MAX + 1];

	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(8 * sizeof(int))];
	} control;
	struct iovec part = { .iov_base = reply, .iov_len = PF_MESSAGE_MAX };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	if (await(fd, POLLIN, end_ms, error))
		return -1;
	n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	if (n < 0)
		return pf_error_set(error, "recvmsg: %s", strerror(errno));
	take_descriptors(&message, pages);
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return pf_error_set(error, "pipefilld's reply is too long");
	if (n == 0)
		return pf_error_set(error, "pipefilld closed the socket");
	reply[n] = '\0';
	return parse(reply, pages, error);
}

int pf_gate_socket_open(const char *dir, const char *verb, const char *device,
			int deadline_ms, struct pf_pages *pages,
			struct pf_error *error)
{
	int64_t end_ms = now_ms() + deadline_ms;
	char request[512];
	int fd, n, rc = -1;

	memset(pages, 0, sizeof(*pages));
	pages->fd[0] = pages->fd[1] = pages->fd[2] = -1;
	n = snprintf(request, sizeof(request), "pipefill 1 %s\ndevice=%s\n",
		     verb, device ? device : "");
	if (n < 0 || (size_t) n >= sizeof(request) ||
	    (device && strchr(device, '\n')))
		return pf_error_set(error, "this is no device's name");
	fd = dial(dir, error);
	if (fd < 0)
		return -1;
	if (await(fd, POLLOUT, end_ms, error))
		goto out;
	if (send(fd, request, (size_t) n, MSG_NOSIGNAL) != n) {
		pf_error_set(error, "send: %s", strerror(errno));
		goto out;
	}
	rc = receive(fd, end_ms, pages, error);
out:
	close(fd);
	if (rc)
		pf_gate_socket_close(pages);
	return rc;
}

void pf_gate_socket_close(struct pf_pages *pages)
{
	int i;

	for (i = 0; i < PF_PAGES_MAX; i++) {
		if (pages->fd[i] >= 0)
			close(pages->fd[i]);
		pages->fd[i] = -1;
	}
	pages->count = 0;
}

void *pf_gate_socket_map(int fd, size_t size, unsigned magic, int writable,
			 struct pf_error *error)
{
	const uint32_t *head;
	struct stat st;
	void *map;
	int seals = fcntl(fd, F_GET_SEALS);

	/* Without the seals whoever holds the page could truncate it and kill
	 * this process with SIGBUS. */
	if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) !=
				 (F_SEAL_SHRINK | F_SEAL_GROW)) {
		pf_error_set(error, "a page from pipefilld is not sealed");
		return NULL;
	}
	if (fstat(fd, &st) || st.st_size != (off_t) size) {
		pf_error_set(error, "a page from pipefilld has the wrong size");
		return NULL;
	}
	map = mmap(NULL, size, writable ? PROT_READ | PROT_WRITE : PROT_READ,
		   MAP_SHARED | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED) {
		pf_error_set(error, "mmap: %s", strerror(errno));
		return NULL;
	}
	head = map;
	if (head[0] != magic || head[1] != PF_PAGE_VERSION || head[2] != size) {
		pf_error_set(error,
			     "a page from pipefilld is of another version: "
			     "install the same release of libpipefill and "
			     "pipefilld");
		munmap(map, size);
		return NULL;
	}
	return map;
}
