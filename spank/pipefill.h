/* SPDX-License-Identifier: Apache-2.0 */
/* pipefill.h - libpipefill: the bubble instruction and the fill side's gate.
 *
 * Every call is safe without a daemon: pf_open then returns NULL, and every
 * other call takes NULL and does nothing, so that a program need not test.
 * Handles belong to one thread at a time.
 */
#ifndef PIPEFILL_H
#define PIPEFILL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The library itself is built with hidden visibility. */
#pragma GCC visibility push(default)

/* Kinds of bubble; the first three are offered to fill jobs. */
enum pf_kind {
	PF_FILL_DRAIN = 0,
	PF_FWD_BWD = 1,
	PF_STEADY = 2,
	PF_COMM = 3,
	PF_OTHER = 4,
};

/* What a stage does (pf_work). */
enum pf_work {
	PF_FORWARD = 0,
	PF_BACKWARD = 1,
	PF_STEP = 2,       /* the optimizer's */
	PF_EVALUATION = 3, /* these two name a phase, which is announced as a */
	PF_CHECKPOINT = 4, /* bubble of PF_OTHER beside, for reports */
};

/* pf_work's micro_batch where there is none. */
#define PF_NO_MICRO_BATCH UINT32_MAX

struct pf_main;
struct pf_fill;

/* Main side. device: "cpu:0-3", "gpu:<uuid>", a local rank in digits, or NULL
 * for $PIPEFILL_DEVICE or else the task's local rank. Returns NULL and leaves
 * why in pf_strerror() when there is no daemon or it refuses. Waits 50 ms at
 * most. */
struct pf_main *pf_open(const char *device);

/* Announces that bubble index (0..255, in order within the iteration) begins
 * now. Stores only: no system call but one futex wake on a cpu device that a
 * fill job shares. */
void pf_bubble_begin(struct pf_main *main, enum pf_kind kind, uint32_t index);
void pf_bubble_end(struct pf_main *main);

/* Nanoseconds until fill work must be gone from the bubble that is announced; 0
 * when that has passed, -1 when it is not offered, or none is announced. */
int64_t pf_bubble_left(const struct pf_main *main);

/* Marks the start of the next iteration (after the optimizer step). */
void pf_iteration(struct pf_main *main);

/* Which stage of the pipeline this device computes, from 0: timelines are
 * sorted by it. */
void pf_stage(struct pf_main *main, uint32_t stage);

/* 1 while the node records timelines: only then pf_work is worth its call. */
int pf_recording(const struct pf_main *main);

/* Notes for timelines what the stage computed from begin_ns (of
 * CLOCK_MONOTONIC) until now. Stores only, and nothing unless the node records. */
void pf_work(struct pf_main *main, enum pf_work work, uint32_t micro_batch,
	     uint64_t begin_ns);

/* Device memory that fill jobs may use from the next bubble on, in bytes. */
void pf_free_bytes(struct pf_main *main, uint64_t free_bytes);

/* pf_moves's iteration that has begun last. */
#define PF_THIS_ITERATION UINT64_MAX

/* Whether optimizer state is to leave the device over bubbles of an iteration
 * (0, 1, ...: pf_iteration_number says which one it is now), because a fill
 * job's plan finds that it pays. Ask once an iteration. -1: nothing of it is
 * wanted; 0: not in this one, but what could leave is to be told
 * (pf_movable); 1: it is to be gone before bubble *out begins, and may come
 * back once bubble *in is over. 0 for control iterations, and where pipefilld
 * has not lived for 200 ms. Any thread. */
int pf_moves(const struct pf_main *main, uint64_t iteration, uint32_t *out,
	     uint32_t *in);
uint64_t pf_iteration_number(const struct pf_main *main);

/* Tells of how many bytes could leave, what leaving and coming back take, and
 * how often they have left. 0 bytes: they stay from now on, whatever pf_moves
 * says, and a fill job that counts on their room has to go. Stores only. Any
 * thread, one at a time. */
void pf_movable(struct pf_main *main, uint64_t bytes, uint64_t out_ns,
		uint64_t in_ns, uint64_t times);

/* The same of memory that the program's allocator keeps without using it, where
 * the trainer lets it (move=cache). 1: it is to be given back before *bubble
 * begins, and taken again once that is over, before anything else of the
 * program's goes on. pf_releasable tells of one bubble. */
int pf_releases(const struct pf_main *main, uint64_t iteration,
		uint32_t *bubble);
void pf_releasable(struct pf_main *main, uint32_t bubble, uint64_t bytes,
		   uint64_t out_ns, uint64_t in_ns, uint64_t times);
void pf_close(struct pf_main *main);

/* The device's name ("cpu:0-3"), valid until pf_close. */
const char *pf_device(const struct pf_main *main);

/* Fill side. Returns NULL outside a fill job; then every wait returns at once
 * with time left INT64_MAX, so that the program runs unchanged anywhere. Of a
 * job with several devices the gate is open while those of all are, until the
 * earliest of their deadlines. */
struct pf_fill *pf_fill_open(void);

/* Waits until the gate is open with at least need_ns left (0: any). Returns
 * the nanoseconds left, or -1: told to end, or timeout_ns passed (< 0: wait for
 * ever). A chunk begins when this returns. */
int64_t pf_fill_wait(struct pf_fill *fill, int64_t need_ns, int64_t timeout_ns);

/* Nanoseconds until the deadline of the open bubble; 0 when it has passed, -1
 * when the gate is shut. */
int64_t pf_fill_left(struct pf_fill *fill);

/* The chunk is over: says so to the daemon. pf_fill_wait does it as well. */
void pf_fill_yield(struct pf_fill *fill);

/* 1 when the fill job was told to end (see docs/protocol.md, eviction). */
int pf_fill_stopping(struct pf_fill *fill);

/* Which bubble is open: its index and its iteration's number, of the first
 * device where there are several. 0; -1 when the gate is shut, and outside a
 * fill job. */
int pf_fill_bubble(struct pf_fill *fill, uint32_t *index, uint64_t *iteration);

/* Names the execution plan that was made for this fill job; another one has
 * another name. 0: none, or none yet. One load. */
uint64_t pf_fill_plan_id(struct pf_fill *fill);

/* The plan (docs/plans.md, "handed to the job"): a descriptor to read it from,
 * which the caller closes, and its name in *id. -1: none, and why in
 * pf_strerror(). Asks the daemon, and waits 200 ms at most. */
int pf_fill_plan(struct pf_fill *fill, uint64_t *id);

/* Tells where this job is in the plan id: next is op of a pass of config. Plans
 * that follow begin there. Stores only. */
void pf_fill_at(struct pf_fill *fill, uint64_t id, uint32_t config,
		uint32_t op);
void pf_fill_close(struct pf_fill *fill);

/* Why the last pf_open or pf_fill_open of this thread returned NULL. */
const char *pf_strerror(void);

/* The version of this library, as in the file VERSION. */
const char *pf_version(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* PIPEFILL_H */
