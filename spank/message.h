/* SPDX-License-Identifier: Apache-2.0 */
/* message.h - one question to a socket of pipefilld and its answer
 * (docs/protocol.md 2). */
#ifndef PIPEFILL_MESSAGE_H
#define PIPEFILL_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"
#include "page.h"

#define PF_MESSAGE_MAX 4096
/* Main, control and fill page, then main and control of each other device. */
#define PF_MESSAGE_FDS (1 + 2 * PF_DEVICES_MAX)

struct pf_request {
	char text[PF_MESSAGE_MAX];
	size_t length;
	int overflow;
};

struct pf_reply {
	char text[PF_MESSAGE_MAX + 1];
	char status[16]; /* the first line: ok, none, wait, other, error */
	int fd[PF_MESSAGE_FDS]; /* close-on-exec; -1: none */
	int fd_count;
	uint32_t uid; /* of who answered */
	int late;     /* the question was taken, and no answer came in time */
};

void pf_message_begin(struct pf_request *request, const char *verb);
void pf_message_add(struct pf_request *request, const char *key,
		    const char *value);
void pf_message_add_number(struct pf_request *request, const char *key,
			   int64_t value);

/* Sends the request to the socket at path and takes the reply within
 * deadline_ms. 0, or -1 and why: then no descriptor is left open. */
int pf_message_call(const char *path, const struct pf_request *request,
		    int deadline_ms, struct pf_reply *reply,
		    struct pf_error *error);

/* Closes the descriptors that came with a reply. */
void pf_message_close(struct pf_reply *reply);

/* Copies the value of key; "" if it is not there or does not fit. */
void pf_message_value(const struct pf_reply *reply, const char *key,
		      char *value, size_t size);

#endif /* PIPEFILL_MESSAGE_H */
