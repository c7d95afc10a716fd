/* SPDX-License-Identifier: Apache-2.0 */
/* message.c - one question to a socket of pipefilld and its answer. */
#include "message.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void append(struct pf_request *request, const char *text)
{
	size_t length = strlen(text);

	if (request->length + length >= sizeof(request->text)) {
		request->overflow = 1;
		return;
	}
	memcpy(request->text + request->length, text, length + 1);
	request->length += length;
}

void pf_message_begin(struct pf_request *request, const char *verb)
{
	request->length = 0;
	request->overflow = 0;
	append(request, "pipefill 1 ");
	append(request, verb);
	append(request, "\n");
}

void pf_message_add(struct pf_request *request, const char *key,
		    const char *value)
{
	/* A line break would begin a key of the user's own. */
	if (strchr(value, '\n')) {
		request->overflow = 1;
		return;
	}
	append(request, key);
	append(request, "=");
	append(request, value);
	append(request, "\n");
}

void pf_message_add_number(struct pf_request *request, const char *key,
			   int64_t value)
{
	char text[24];

	(void) snprintf(text, sizeof(text), "%" PRId64, value);
	pf_message_add(request, key, text);
}

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

static int dial(const char *path, uint32_t *uid, struct pf_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct ucred peer;
	socklen_t size = sizeof(peer);
	int fd;

	if (strlen(path) >= sizeof(address.sun_path))
		return pf_error_set(error, "%s: the path is too long", path);
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return pf_error_set(error, "socket: %s", strerror(errno));
	/* A full backlog gives EAGAIN at once: the daemon hangs. */
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
		pf_error_set(error, "%s: %s", path, strerror(errno));
		close(fd);
		return -1;
	}
	*uid = peer.uid;
	return fd;
}

/* Takes the descriptors of a message, closing what is too many. */
static void take_descriptors(struct msghdr *message, struct pf_reply *reply)
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
			if (reply->fd_count < PF_MESSAGE_FDS)
				reply->fd[reply->fd_count++] = fd;
			else
				close(fd);
		}
	}
}

static int receive(int fd, struct pf_reply *reply, struct pf_error *error)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE((PF_MESSAGE_FDS + 5) * sizeof(int))];
	} control;
	struct iovec part = { reply->text, PF_MESSAGE_MAX };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	size_t length;
	ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);

	if (n < 0)
		return pf_error_set(error, "recvmsg: %s", strerror(errno));
	take_descriptors(&message, reply);
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return pf_error_set(error, "pipefilld's reply is too long");
	if (n == 0)
		return pf_error_set(error, "pipefilld closed the socket");
	reply->text[n] = '\0';
	length = strcspn(reply->text, "\n");
	if (strlen(reply->text) != (size_t) n || !length ||
	    length >= sizeof(reply->status))
		return pf_error_set(error, "pipefilld's reply is not "
					   "understood");
	memcpy(reply->status, reply->text, length);
	reply->status[length] = '\0';
	return 0;
}

int pf_message_call(const char *path, const struct pf_request *request,
		    int deadline_ms, struct pf_reply *reply,
		    struct pf_error *error)
{
	int64_t end_ms = now_ms() + deadline_ms;
	int fd, rc = -1;

	int i;

	memset(reply, 0, sizeof(*reply));
	for (i = 0; i < PF_MESSAGE_FDS; i++)
		reply->fd[i] = -1;
	if (request->overflow)
		return pf_error_set(error, "the question does not fit, or "
					   "holds a line break");
	fd = dial(path, &reply->uid, error);
	if (fd < 0)
		return -1;
	if (await(fd, POLLOUT, end_ms, error))
		goto out;
	if (send(fd, request->text, request->length, MSG_NOSIGNAL) !=
	    (ssize_t) request->length) {
		pf_error_set(error, "send: %s", strerror(errno));
		goto out;
	}
	if (await(fd, POLLIN, end_ms, error)) {
		reply->late = 1;
		goto out;
	}
	rc = receive(fd, reply, error);
out:
	close(fd);
	if (rc)
		pf_message_close(reply);
	return rc;
}

void pf_message_close(struct pf_reply *reply)
{
	int i;

	for (i = 0; i < PF_MESSAGE_FDS; i++) {
		if (reply->fd[i] >= 0)
			close(reply->fd[i]);
		reply->fd[i] = -1;
	}
	reply->fd_count = 0;
}

void pf_message_value(const struct pf_reply *reply, const char *key,
		      char *value, size_t size)
{
	size_t key_length = strlen(key);
	const char *line = strchr(reply->text, '\n');

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
