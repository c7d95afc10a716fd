/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_abi.h - version 4 of NCCL's profiler plugin interface, declared anew from
 * its documentation: as much of it as is used here. NCCL 2.27 brought it; later
 * ones up to 2.30 load it too. */
#ifndef PIPEFILL_NCCL_ABI_H
#define PIPEFILL_NCCL_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { PF_NCCL_SUCCESS = 0, PF_NCCL_REFUSED = 5 /* invalid usage */ };

/* Events, as bits of the activation mask and as an event's type. */
enum {
	PF_NCCL_COLL = 1 << 1,
	PF_NCCL_P2P = 1 << 2,
	PF_NCCL_KERNEL = 1 << 6, /* one channel of a kernel, on the device */
};

struct pf_nccl_event {
	uint8_t type;
	void *parent; /* what we returned for the event above it */
	int rank;

	union {
		struct {
			uint64_t sequence;
			const char *function;
			const void *send_buffer;
			void *receive_buffer;
			size_t count;
			int root;
			const char *datatype;
			uint8_t channels;
			uint8_t warps;
			const char *algorithm;
			const char *protocol;
		} coll;

		struct {
			const char *function; /* "Send", "Recv" */
			void *buffer;
			const char *datatype;
			size_t count;
			int peer;
			uint8_t channels; /* not filled in by NCCL 2.28 on */
		} p2p;

		struct {
			uint8_t channel;
			uint64_t device_ns;
		} kernel;
	};
};

struct pf_nccl_profiler {
	const char *name;
	/* Once for each communicator; anything but success switches us off. */
	int (*init)(void **context, int *mask, const char *name, uint64_t hash,
		    int nodes, int ranks, int rank, void *log);
	int (*start)(void *context, void **handle, struct pf_nccl_event *event);
	int (*stop)(void *handle);
	int (*state)(void *handle, int state, void *arguments);
	int (*finalize)(void *context);
};

_Static_assert(offsetof(struct pf_nccl_event, parent) == 8, "parent");
_Static_assert(offsetof(struct pf_nccl_event, rank) == 16, "rank");
_Static_assert(offsetof(struct pf_nccl_event, p2p.function) == 24, "p2p");
_Static_assert(offsetof(struct pf_nccl_event, p2p.count) == 48, "count");
_Static_assert(offsetof(struct pf_nccl_event, p2p.peer) == 56, "peer");
_Static_assert(offsetof(struct pf_nccl_event, kernel.device_ns) == 32, "ns");

#endif /* PIPEFILL_NCCL_ABI_H */
