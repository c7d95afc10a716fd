/* SPDX-License-Identifier: Apache-2.0 */
/* flight.h - launches on their way: each waits until the gate is open with
 * enough left for it, and few are in flight, so that the device has nothing left
 * to do when the gate shuts.
 */
#ifndef PIPEFILL_LAUNCH_FLIGHT_H
#define PIPEFILL_LAUNCH_FLIGHT_H

#include <pthread.h>

#include "admit.h"
#include "cuda_abi.h"
#include "times.h"

/* The gate and the clock; times in ns of CLOCK_MONOTONIC. */
struct pf_flight_io {
	uint64_t (*now)(void);
	void (*pause)(uint64_t ns);
	/* As pf_fill_wait, pf_fill_left, pf_fill_yield, pf_fill_stopping. */
	int64_t (*wait)(int64_t need_ns, int64_t timeout_ns);
	int64_t (*left)(void);
	void (*yield)(void);
	int (*stopping)(void);
	void (*say)(const char *text); /* to the job's user */
};

/* The driver's own functions; NULL where it has none of that name. */
struct pf_flight_driver {
	cu_result (*event_create)(cu_event *event, unsigned flags);
	cu_result (*event_record)(cu_event event, cu_stream stream);
	cu_result (*event_query)(cu_event event);
	cu_result (*event_elapsed)(float *ms, cu_event begin, cu_event end);
	cu_result (*stream_synchronize)(cu_stream stream);
	cu_result (*stream_capturing)(cu_stream stream, int *status);
	cu_result (*context_get)(cu_context *context);
	cu_result (*context_push)(cu_context context);
	cu_result (*context_pop)(cu_context *context);
	cu_result (*exchange_mode)(int *mode);
};

/* At most so many groups, whatever the limits say. */
#define PF_FLIGHT_GROUPS 64u

/* Launches of one stream whose end one event tells. */
struct pf_group {
	int used;
	cu_context context; /* whose events these are */
	cu_event begin, end;
	cu_stream stream;
	struct pf_time *time; /* of the one launch that is measured, or NULL */
	uint64_t need_ns;     /* of its launches together */
	unsigned launches;
	unsigned pending; /* launches that are not with the driver yet */
	int done;
};

/* A launch between begin and end. */
struct pf_ticket {
	struct pf_group *group; /* NULL: goes by */
};

struct pf_flight {
	struct pf_flight_io io;
	struct pf_flight_driver driver;
	struct pf_admit_limits limits;

	pthread_mutex_t lock;
	pthread_cond_t began; /* running has become 1 */
	struct pf_times times;
	struct pf_group groups[PF_FLIGHT_GROUPS];
	struct pf_group *last; /* the newest */
	unsigned in_flight;    /* groups that are used */
	uint64_t done_ns;      /* when all of it is thought to be done */
	uint64_t idle_ns;      /* since when nothing is in flight */

	int running; /* within a chunk */
	uint64_t deadline_ns;
	uint64_t margin_ns;
	uint64_t longest_ns; /* bubble lately */
	uint64_t openings;   /* waited for */
	uint64_t late;       /* chunks that ended after the deadline */
	uint64_t stopped_ns; /* when it was first seen that the job is to end */
	int said; /* that it is to end, or that something does not fit */
};

void pf_flight_init(struct pf_flight *flight, const struct pf_flight_io *io,
		    const struct pf_flight_driver *driver,
		    const struct pf_admit_limits *limits);

/* Waits until a launch may go. key: of pf_times_key. CU_SUCCESS, and
 * pf_flight_end is to be called with what the driver said; or the result to
 * return in its place. */
cu_result pf_flight_begin(struct pf_flight *flight, struct pf_ticket *ticket,
			  cu_stream stream, uint64_t key);
void pf_flight_end(struct pf_flight *flight, struct pf_ticket *ticket,
		   cu_result result);

/* Ends a chunk whose work is done. Returns how long to wait before the next
 * look, 0: until another chunk begins. */
uint64_t pf_flight_look(struct pf_flight *flight);

/* Looks for ever, in a thread of its own. */
void *pf_flight_watch(void *flight);

#endif /* PIPEFILL_LAUNCH_FLIGHT_H */
