/* SPDX-License-Identifier: Apache-2.0 */
/* page.h - the shared pages of one device of one main job.
 *
 * The Go end is executor/page.go; both ends are held to the offsets asserted
 * below and to executor/testdata/page-offsets.golden. Change PF_PAGE_VERSION
 * with any change here.
 *
 * One writer each. All words are naturally aligned, little endian, and read and
 * written with C11 atomics (or Go's sync/atomic). Times are nanoseconds of
 * CLOCK_MONOTONIC. A reader trusts nothing: sizes are fixed by the version, and
 * indices are masked before use.
 */
#ifndef PIPEFILL_PAGE_H
#define PIPEFILL_PAGE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define PF_MAIN_MAGIC 0x314d4650u    /* "PFM1" */
#define PF_CONTROL_MAGIC 0x31434650u /* "PFC1" */
#define PF_FILL_MAGIC 0x31464650u    /* "PFF1" */
#define PF_PAGE_VERSION 1u

#define PF_MAIN_SIZE 65536u
#define PF_CONTROL_SIZE 4096u
#define PF_FILL_SIZE 4096u

/* The most devices that a fill job has (pipefill.MaxDevices). */
#define PF_DEVICES_MAX 16

#define PF_SHARE_MAX_PPM 2000000u

/* A daemon whose control.beat_ns is older is dead or does not get its core:
 * nobody would stop fill work, so it does not run. */
#define PF_BEAT_STALE_NS 200000000ull

/* control.move: what of the main job's state is to leave the device over
 * bubbles. MOVE_OUT before bubble out, back from the end of bubble in on. */
#define PF_MOVE_TELL 1u /* what could leave is to be told (main.move_bytes) */
#define PF_MOVE_OUT 2u
#define PF_MOVE_OUT_SHIFT 8u /* 8 bits: the index of bubble out */
#define PF_MOVE_IN_SHIFT 16u /* 8 bits: the index of bubble in */
/* control.cache: whether blocks that the main job's allocator keeps are to be
 * given back over bubble out: MOVE_TELL, MOVE_OUT and out as in control.move. */

#define PF_RING_EVENTS 1008u /* 1008 * 64 bytes + 1024 = 65536 */

/* Word: bit 0 open, the rest a count of openings. A futex on cpu devices. */
#define PF_WORD_OPEN 1u

/* Which edge of the word a futex wake of the main side is for, as its bitset: a
 * plain FUTEX_WAIT gets both, the fill side waits for openings only. */
#define PF_EDGE_OPEN 1u
#define PF_EDGE_SHUT 2u

/* So many waiters the main side wakes at an edge. Anybody with the page can
 * wait, and a thousand waiters must not cost it a millisecond: real-time ones,
 * as the supervisor, are first, and fill work that starts wakes the rest. */
#define PF_WAKE_MOST 4

/* Flags of an event. */
#define PF_EVENT_OFFERED 1u /* the gate was opened for it */
#define PF_EVENT_CONTROL 2u /* withheld: a control iteration */
#define PF_EVENT_SHORT 4u   /* withheld: too short, or not learned yet */
#define PF_EVENT_ITERATION                                                     \
	8u /* not a bubble: an iteration mark; begin_ns..
				 end_ns is the iteration that ended */

#define PF_EVENT_WORK                                                          \
	16u /* not a bubble: what the stage computed; kind as enum pf_work, index
				 the micro-batch. Only while recording */

/* One finished bubble, an iteration mark, or work. 64 bytes. */
struct pf_event {
	_Atomic uint64_t
		seq; /* its number + 1 once complete; 0 while written */
	_Atomic uint64_t iteration;
	_Atomic uint64_t begin_ns;
	_Atomic uint64_t end_ns;
	_Atomic uint64_t deadline_ns; /* as announced; 0 if not offered */
	_Atomic uint64_t free_bytes;
	_Atomic uint32_t index;
	_Atomic uint32_t kind; /* BubbleKind of bubble.go */
	_Atomic uint32_t flags;
	uint32_t reserved;
};

/* Main page: the main job writes; fill jobs and the daemon read. */
struct pf_main_page {
	uint32_t magic; /* line 0: set by the daemon before handing out */
	uint32_t version;
	uint32_t size;
	uint32_t ring_events;
	uint8_t pad0[48];

	_Atomic uint32_t word; /* line 1, offset 64: the gate */
	_Atomic uint32_t index;
	_Atomic uint32_t kind;
	_Atomic uint32_t pid; /* of pf_open's caller; 0 after pf_close */
	_Atomic uint64_t begin_ns;
	_Atomic uint64_t deadline_ns; /* fill work must have stopped by then */
	_Atomic uint64_t end_ns;      /* predicted end of the bubble */
	_Atomic uint64_t free_bytes;
	_Atomic uint64_t iteration;
	_Atomic uint64_t next_begin_ns; /* predicted next opening; 0 unknown */

	_Atomic uint64_t beat_ns;      /* line 2, offset 128: last call */
	_Atomic uint64_t ring_head;    /* events written since pf_open */
	_Atomic uint64_t iteration_ns; /* median of recent iterations */
	_Atomic uint32_t stage;        /* of the pipeline, + 1; 0: not said */
	uint8_t pad2[36];

	_Atomic uint64_t move_bytes;  /* line 3, offset 192: of state that could
					 leave the device; 0: none */
	_Atomic uint64_t move_out_ns; /* what its leaving takes */
	_Atomic uint64_t move_in_ns;  /* and its coming back */
	_Atomic uint64_t move_times;  /* how often it has left */

	/* line 3 goes on, offset 224: of blocks that the allocator keeps */
	_Atomic uint64_t cache_bytes;  /* what could be given back; 0: none */
	_Atomic uint64_t cache_out_ns; /* what giving back takes */
	_Atomic uint64_t cache_in_ns;  /* and taking again */
	_Atomic uint64_t cache_times;  /* how often they were given back */
	_Atomic uint32_t cache_bubble; /* the index of the bubble for that */
	uint8_t pad4[764];

	struct pf_event ring[PF_RING_EVENTS]; /* offset 1024 */
};

/* Control page: the daemon writes; main and fill read. */
struct pf_control_page {
	uint32_t magic;
	uint32_t version;
	uint32_t size;
	uint32_t pad;
	_Atomic uint32_t enabled;     /* 16: 0 keeps the gate shut */
	_Atomic uint32_t wake;        /* 20: 1: futex-wake on word (cpu device
					 shared by main and fill) */
	_Atomic uint32_t share_ppm;   /* 24: most of a predicted bubble offered;
					 over 1e6: beyond its predicted end */
	_Atomic uint32_t control_ppm; /* 28: chance of a control iteration */
	_Atomic uint64_t seed;        /* 32: of the control hash, equal on all
					 devices of a main job */
	_Atomic uint64_t guard_ns;    /* 40: deadline = end - guard */
	_Atomic uint64_t min_ns;      /* 48: shorter bubbles are not offered */
	_Atomic uint64_t beat_ns;     /* 56: the daemon lives; a chunked fill
					 job stops when it is 200 ms old */
	_Atomic uint64_t
		assignment; /* 64: id the fill side belongs to, 0 none */
	_Atomic uint64_t margin_ns; /* 72: arm this long before next_begin_ns */
	_Atomic uint32_t fill_stop; /* 80: 1: the fill job is to end */
	_Atomic uint32_t recording; /* 84: 1: work is announced too */
	_Atomic uint64_t floor_ns;  /* 88: what is offered of a bubble, however
				      short, learned or not; 0: none */
	_Atomic uint64_t plan;      /* 96: names the fill job's execution plan,
				      which gate.sock hands out; 0: none */
	_Atomic uint32_t move;      /* 104: PF_MOVE_...; 0: nothing of it */
	_Atomic uint32_t cache;     /* 108: likewise */
	uint8_t pad2[3984];
};

#define PF_FILL_PROCESSES 64u

/* A process of a fill job with the launch library (engine/launch). */
struct pf_fill_process {
	_Atomic uint32_t pid; /* as it sees itself; 0: free */
	uint32_t reserved;
	_Atomic uint64_t bytes; /* of device memory that it has allocated */
};

/* Fill page: the fill job writes; only the daemon reads. */
struct pf_fill_page {
	uint32_t magic;
	uint32_t version;
	uint32_t size;
	uint32_t pad;
	_Atomic uint32_t pid;      /* 16 */
	_Atomic uint32_t running;  /* 20: 1 while a chunk runs */
	_Atomic uint64_t chunks;   /* 24: finished */
	_Atomic uint64_t overruns; /* 32: of them, past the deadline */
	_Atomic uint64_t beat_ns;  /* 40 */
	_Atomic uint64_t run_ns;   /* 48: sum of chunk times */
	_Atomic uint64_t first_ns; /* 56: first instruction after the opening
				      with number opening */
	_Atomic uint64_t opening;  /* 64: word of that opening */
	_Atomic uint64_t plan;     /* 72: the plan that it follows; 0: none */
	_Atomic uint64_t plan_at;  /* 80: where it is in it: config << 32 | op,
				      the next one of a pass */
	uint8_t pad1[40];
	struct pf_fill_process process[PF_FILL_PROCESSES]; /* 128 */
	uint8_t pad2[2944];
};

_Static_assert(sizeof(struct pf_event) == 64, "event size");
_Static_assert(offsetof(struct pf_main_page, word) == 64, "word");
_Static_assert(offsetof(struct pf_main_page, begin_ns) == 80, "begin_ns");
_Static_assert(offsetof(struct pf_main_page, next_begin_ns) == 120, "next");
_Static_assert(offsetof(struct pf_main_page, beat_ns) == 128, "beat_ns");
_Static_assert(offsetof(struct pf_main_page, stage) == 152, "stage");
_Static_assert(offsetof(struct pf_main_page, move_bytes) == 192, "move_bytes");
_Static_assert(offsetof(struct pf_main_page, cache_bytes) == 224, "cache");
_Static_assert(offsetof(struct pf_main_page, ring) == 1024, "ring");
_Static_assert(sizeof(struct pf_main_page) == PF_MAIN_SIZE, "main size");
_Static_assert(offsetof(struct pf_control_page, seed) == 32, "seed");
_Static_assert(offsetof(struct pf_control_page, fill_stop) == 80, "stop");
_Static_assert(offsetof(struct pf_control_page, recording) == 84, "recording");
_Static_assert(offsetof(struct pf_control_page, move) == 104, "move");
_Static_assert(offsetof(struct pf_control_page, cache) == 108, "cache");
_Static_assert(sizeof(struct pf_control_page) == PF_CONTROL_SIZE, "control");
_Static_assert(offsetof(struct pf_fill_page, opening) == 64, "opening");
_Static_assert(offsetof(struct pf_fill_page, process) == 128, "process");
_Static_assert(sizeof(struct pf_fill_page) == PF_FILL_SIZE, "fill size");

/* A control iteration: all devices of a main job decide alike, without a word
 * between them. splitmix64 of seed and iteration, as executor/governor.go. */
static inline int pf_page_is_control(uint64_t seed, uint64_t iteration,
				     uint32_t control_ppm)
{
	uint64_t x = seed + iteration * 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	x ^= x >> 31;
	return (uint32_t) ((x >> 32) % 1000000u) < control_ppm;
}

#endif /* PIPEFILL_PAGE_H */
