/* SPDX-License-Identifier: Apache-2.0 */
/* gate_socket.h - asks pipefilld for the shared pages (docs/protocol.md 2). */
#ifndef PIPEFILL_GATE_SOCKET_H
#define PIPEFILL_GATE_SOCKET_H

#include <stddef.h>

#include "error.h"

#include "message.h"

/* Sends verb (with device=, if not NULL) to dir/gate.sock and takes the reply,
 * all within deadline_ms. 0 and the descriptors, which the caller closes with
 * pf_message_close, or -1 and why. */
int pf_gate_socket_open(const char *dir, const char *verb, const char *device,
			int deadline_ms, struct pf_reply *reply,
			struct pf_error *error);

/* Maps a page after checking that it has that size, that nobody can resize it,
 * and its magic and version. writable: also for writing. NULL and why. */
void *pf_gate_socket_map(int fd, size_t size, unsigned magic, int writable,
			 struct pf_error *error);

#endif /* PIPEFILL_GATE_SOCKET_H */
