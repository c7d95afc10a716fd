/* SPDX-License-Identifier: Apache-2.0 */
/* pipefill_stream.h - the bubble instruction in a GPU stream's order.
 *
 * A program runs ahead of its device, so that it cannot say when the device
 * begins to wait; and a receive of NCCL that was posted spins on the device. So
 * the calls here only enqueue: when the stream comes to them, a thread in this
 * process announces the bubble to pipefilld, and keeps the stream from the
 * receive behind it (a held bubble) until fill work has to be gone. That thread
 * runs no Python and takes no lock of the program's.
 *
 * Whatever fails, nothing is held any more and the stream goes on. A handle
 * belongs to one thread at a time, and its CUDA context to one process.
 */
#ifndef PIPEFILL_STREAM_H
#define PIPEFILL_STREAM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

struct pf_stream;

/* What came of it so far. Times in ns. */
struct pf_stream_figures {
	uint64_t announced; /* bubbles begun */
	uint64_t held;      /* of them, streams that were kept waiting */
	uint64_t late;      /* released later than 100 us after they were due */
	uint64_t latest_ns; /* how late the worst of them was */
	uint64_t unseen;    /* released unseen: the stream was not there */
	uint64_t dropped;   /* not announced: too many enqueued */
	uint64_t thread_ns; /* processor time of the thread */
};

/* Opens the device of this process as pf_open does, with its CUDA context
 * current. driver: path of libcuda (NULL: libcuda.so.1). Returns NULL, with why
 * in pf_stream_why(), where there is no pipefilld or no CUDA. */
struct pf_stream *pf_stream_open(const char *device, const char *driver);

/* Enqueues on a stream (a CUstream) that bubble index (0..255) of a kind (enum
 * pf_kind) begins, with free_bytes of device memory for fill work. hold: the
 * stream waits here, while the bubble is offered, until fill work must be gone;
 * nothing that others wait for may be behind it but the receive. Returns 0, or
 * -1 where nothing was enqueued: a stream that is being captured, a failed or
 * full handle. */
int pf_stream_begin(struct pf_stream *handle, void *stream, int kind,
		    uint32_t index, uint64_t free_bytes, int hold);
int pf_stream_end(struct pf_stream *handle, void *stream);

/* Enqueues that the next iteration begins. */
int pf_stream_iteration(struct pf_stream *handle, void *stream);

/* As pf_moves, of the iteration that was enqueued last, and pf_movable. */
int pf_stream_moves(const struct pf_stream *handle, uint32_t *out,
		    uint32_t *in);
void pf_stream_movable(struct pf_stream *handle, uint64_t bytes,
		       uint64_t out_ns, uint64_t in_ns, uint64_t times);
/* As pf_releases and pf_releasable. */
int pf_stream_releases(const struct pf_stream *handle, uint32_t *bubble);
void pf_stream_releasable(struct pf_stream *handle, uint32_t bubble,
			  uint64_t bytes, uint64_t out_ns, uint64_t in_ns,
			  uint64_t times);

/* What is held now is known to be there: it is released at once. Any thread. */
void pf_stream_ready(struct pf_stream *handle);

/* 1: streams are held; 0: not, because the driver cannot, or since a failure. */
int pf_stream_holds(const struct pf_stream *handle);

/* Why bubbles are not announced any more; NULL while they are. */
const char *pf_stream_failed(const struct pf_stream *handle);

/* Which stage of the pipeline this device computes (pf_stage). */
void pf_stream_stage(struct pf_stream *handle, uint32_t stage);

const char *pf_stream_device(const struct pf_stream *handle);
void pf_stream_figures(const struct pf_stream *handle,
		       struct pf_stream_figures *figures);
void pf_stream_close(struct pf_stream *handle);

/* Why the last pf_stream_open of this thread returned NULL. */
const char *pf_stream_why(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* PIPEFILL_STREAM_H */
