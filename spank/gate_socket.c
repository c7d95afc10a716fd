/* SPDX-License-Identifier: Apache-2.0 */
/* gate_socket.c - asks pipefilld for the shared pages (docs/protocol.md 2). */
#include "gate_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "page.h"

/* What a reply that is not ok says. */
static int refused(const struct pf_reply *reply, struct pf_error *error)
{
	char message[160];

	pf_message_value(reply, "message", message, sizeof(message));
	if (!strcmp(reply->status, "error") && message[0])
		return pf_error_set(error, "pipefilld: %s", message);
	if (!strcmp(reply->status, "none"))
		return pf_error_set(error, "pipefilld has no device for this "
					   "process");
	return pf_error_set(error, "pipefilld's reply is not understood");
}

int pf_gate_socket_open(const char *dir, const char *verb, const char *device,
			int deadline_ms, struct pf_reply *reply,
			struct pf_error *error)
{
	struct pf_request request;
	char path[256];
	int n = snprintf(path, sizeof(path), "%s/gate.sock", dir);

	if (n < 0 || (size_t) n >= sizeof(path))
		return pf_error_set(error, "%.200s: the path is too long", dir);
	pf_message_begin(&request, verb);
	pf_message_add(&request, "device", device ? device : "");
	/* So many gates the fill side minds at once. */
	pf_message_add_number(&request, "devices", PF_DEVICES_MAX);
	if (pf_message_call(path, &request, deadline_ms, reply, error))
		return -1;
	if (strcmp(reply->status, "ok")) {
		pf_message_close(reply);
		return refused(reply, error);
	}
	return 0;
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
