/* SPDX-License-Identifier: Apache-2.0 */
/* flight.c - launches on their way.
 *
 * The device's work cannot be called back, so nothing is handed to it that is
 * not known, or guessed, to end before the deadline. A short launch joins the
 * group before it, so that one event tells the end of many. The lock is never
 * held while a call of the program is with the driver; it is held while the gate
 * is waited for, as every other launch would wait then too.
 */
#include "flight.h"

#include <stdio.h>
#include <string.h>

#define GROUP_NS 250000u
#define GROUP_LAUNCHES 16u
/* Longest wait for the gate in one call, so that an end is seen soon. */
#define WAIT_NS 250000000
/* So many openings, and so long, before a launch is said to fit into none. */
#define PROBES 48u
#define PROBE_NS 2000000000u
#define PATIENCE_NS 500000000u
/* Runs after which it is sure what a launch takes. */
#define SURE 8u
/* A job that is told to end has two seconds; from here on launches fail, so that
 * a program can still write what it has on the host. */
#define GRACE_NS 1000000000u
/* Longest pause between two looks at the events. */
#define LOOK_NS 50000u
/* A chunk ends when the device has had nothing to do for so long. */
#define IDLE_NS 1000000u
#define FIRST_MARGIN_NS 100000u

void pf_flight_init(struct pf_flight *flight, const struct pf_flight_io *io,
		    const struct pf_flight_driver *driver,
		    const struct pf_admit_limits *limits)
{
	memset(flight, 0, sizeof(*flight));
	flight->io = *io;
	flight->driver = *driver;
	flight->limits = *limits;
	if (flight->limits.groups > PF_FLIGHT_GROUPS)
		flight->limits.groups = PF_FLIGHT_GROUPS;
	flight->margin_ns = FIRST_MARGIN_NS;
	pthread_mutex_init(&flight->lock, NULL);
	pthread_cond_init(&flight->began, NULL);
}

/* While any stream of the process is being captured, a look at an event would
 * spoil the capture, but for a thread in the relaxed mode. */
static int relax(struct pf_flight *flight)
{
	int mode = CU_CAPTURE_RELAXED;

	if (!flight->driver.exchange_mode ||
	    flight->driver.exchange_mode(&mode))
		return -1;
	return mode;
}

static void restore(struct pf_flight *flight, int mode)
{
	if (mode >= 0)
		(void) flight->driver.exchange_mode(&mode);
}

static int is_capturing(struct pf_flight *flight, cu_stream stream)
{
	int status = 0;
	cu_result result;

	if (!flight->driver.stream_capturing)
		return 0;
	result = flight->driver.stream_capturing(stream, &status);
	if (result >= CU_CAPTURE_FIRST && result <= CU_CAPTURE_LAST)
		return 1;
	return result == CU_SUCCESS && status != 0;
}

/* The group's work is over; what it took is learned if it was measured. */
static void conclude(struct pf_flight *flight, struct pf_group *group,
		     int measured)
{
	float ms = 0;

	if (group->time && measured &&
	    !flight->driver.event_elapsed(&ms, group->begin, group->end) &&
	    ms >= 0 && ms < 4000)
		pf_times_add(&flight->times, group->time,
			     (uint64_t) (ms * 1e6f));
	group->used = 0;
	flight->in_flight--;
	if (flight->last == group)
		flight->last = NULL;
}

/* Whether the device is done with a group. An event that cannot be looked at, of
 * a context that is gone or a device that has failed, tells that nothing is to
 * be waited for. */
static int is_done(struct pf_flight *flight, struct pf_group *group,
		   cu_result *result)
{
	cu_context current = NULL, popped;
	int pushed = 0;

	*result = CU_SUCCESS;
	if (group->pending)
		return 0;
	if (group->done)
		return 1;
	if (group->context && flight->driver.context_push) {
		if (flight->driver.context_get)
			(void) flight->driver.context_get(&current);
		if (current != group->context)
			pushed = !flight->driver.context_push(group->context);
	}
	*result = flight->driver.event_query(group->end);
	if (pushed)
		(void) flight->driver.context_pop(&popped);
	return *result != CU_NOT_READY;
}

/* Takes out what is done. */
static void settle(struct pf_flight *flight)
{
	uint64_t now = flight->io.now(), left_ns = 0;
	unsigned i;
	int mode;

	if (!flight->in_flight)
		return;
	mode = relax(flight);
	for (i = 0; i < PF_FLIGHT_GROUPS; i++) {
		struct pf_group *group = &flight->groups[i];
		cu_result result;

		if (!group->used)
			continue;
		if (is_done(flight, group, &result))
			conclude(flight, group,
				 !group->done && result == CU_SUCCESS);
		else
			left_ns += group->need_ns;
	}
	restore(flight, mode);
	/* What was asked for is more than what most launches take. */
	if (flight->done_ns > now + left_ns)
		flight->done_ns = now + left_ns;
	if (!flight->in_flight)
		flight->idle_ns = now;
}

static uint64_t queued_ns(const struct pf_flight *flight, uint64_t now)
{
	if (!flight->in_flight || flight->done_ns <= now)
		return 0;
	return flight->done_ns - now;
}

/* The chunk is over: nothing is in flight. over: the bubble too. */
static void end_chunk(struct pf_flight *flight, int over)
{
	if (!flight->running)
		return;
	flight->running = 0;
	if (flight->io.now() > flight->deadline_ns) {
		flight->late++;
		flight->margin_ns = pf_admit_margin(flight->margin_ns, 1);
	} else if (over) {
		flight->margin_ns = pf_admit_margin(flight->margin_ns, 0);
	}
	flight->io.yield();
}

static void opened(struct pf_flight *flight, int64_t left_ns)
{
	flight->running = 1;
	flight->openings++;
	flight->deadline_ns = flight->io.now() + (uint64_t) left_ns;
	flight->idle_ns = flight->io.now();
	/* The longest of late; it falls slowly, for the main job may change. */
	flight->longest_ns -= flight->longest_ns / 256;
	if ((uint64_t) left_ns > flight->longest_ns)
		flight->longest_ns = (uint64_t) left_ns;
	pthread_cond_signal(&flight->began);
}

/* The job is to end: while its grace lasts a launch goes into what bubbles there
 * are, and fails after that. */
static cu_result in_grace(struct pf_flight *flight, uint64_t need_ns)
{
	if (!flight->stopped_ns)
		flight->stopped_ns = flight->io.now();
	while (flight->io.now() - flight->stopped_ns < GRACE_NS) {
		int64_t left_ns = flight->io.left();

		if (left_ns > 0 && (uint64_t) left_ns >= need_ns) {
			flight->deadline_ns =
				flight->io.now() + (uint64_t) left_ns;
			return CU_SUCCESS;
		}
		flight->io.pause(LOOK_NS);
	}
	if (!flight->said)
		flight->io.say("the job is told to end: launches fail from now "
			       "on (CUDA_ERROR_LAUNCH_TIMEOUT)");
	flight->said = 1;
	return CU_LAUNCH_TIMEOUT;
}

static cu_result does_not_fit(struct pf_flight *flight, uint64_t least_ns,
			      uint64_t longest_ns, unsigned seen)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "a launch takes %.2f ms, and the longest of %u bubbles was "
		 "open for %.2f ms, %.2f ms too short: use a smaller batch",
		 (double) least_ns / 1e6, seen, (double) longest_ns / 1e6,
		 (double) (least_ns - longest_ns) / 1e6);
	if (!flight->said)
		flight->io.say(text);
	flight->said = 1;
	return CU_LAUNCH_TIMEOUT;
}

/* No bubble was long enough for what is asked: looks at each, and takes one that
 * may do. A launch that is not sure is run in the longest, late as it may be. */
static cu_result probe(struct pf_flight *flight, const struct pf_time *time)
{
	uint64_t begin = flight->io.now(), longest_ns = 0;
	uint64_t least_ns = pf_time_least(time);
	int sure = time && time->runs >= SURE;
	unsigned seen = 0;

	for (;;) {
		int64_t left_ns = flight->io.wait(0, WAIT_NS);
		uint64_t ns = left_ns < 0 ? 0 : (uint64_t) left_ns;

		if (flight->io.stopping())
			return in_grace(flight, least_ns);
		if (left_ns < 0)
			continue; /* the main job does something else */
		if (seen >= SURE && ns >= longest_ns - longest_ns / 20 &&
		    (ns >= least_ns || !sure)) {
			opened(flight, left_ns);
			return CU_SUCCESS;
		}
		if (ns > longest_ns)
			longest_ns = ns;
		seen++;
		flight->io.yield();
		if (seen >= PROBES && flight->io.now() - begin >= PROBE_NS &&
		    sure && least_ns > longest_ns)
			return does_not_fit(flight, least_ns, longest_ns, seen);
		/* The rest of this bubble is no second one. */
		flight->io.pause(ns);
	}
}

/* Waits for a bubble in which need_ns fit. Nothing is in flight. */
static cu_result next_bubble(struct pf_flight *flight, struct pf_time *time,
			     uint64_t need_ns)
{
	uint64_t begin = flight->io.now(), wanted_ns = need_ns;
	uint64_t patience_ns = PATIENCE_NS + 20 * need_ns;

	end_chunk(flight, 1);
	if (flight->io.stopping())
		return in_grace(flight, need_ns);
	wanted_ns += flight->margin_ns;
	/* What is longer than all is asked for only if it must be. */
	if (flight->longest_ns && wanted_ns > flight->longest_ns &&
	    (!time || time->runs < SURE ||
	     pf_time_least(time) < flight->longest_ns))
		wanted_ns = flight->longest_ns / 10 * 9;
	if (flight->openings > PROBES &&
	    wanted_ns > flight->longest_ns / 10 * 11)
		patience_ns = 0;
	while (flight->io.now() - begin < patience_ns) {
		int64_t left_ns = flight->io.wait((int64_t) wanted_ns, WAIT_NS);

		if (left_ns >= 0) {
			opened(flight, left_ns);
			return CU_SUCCESS;
		}
		if (flight->io.stopping())
			return in_grace(flight, need_ns);
	}
	return probe(flight, time);
}

/* Whether a launch may be part of the newest group. */
static int joins(const struct pf_flight *flight, cu_context context,
		 cu_stream stream, uint64_t need_ns)
{
	const struct pf_group *last = flight->last;

	return last && last->used && !last->time && !last->done &&
	       last->stream == stream && last->context == context &&
	       last->launches < GROUP_LAUNCHES &&
	       last->need_ns + need_ns <= GROUP_NS;
}

static struct pf_group *free_group(struct pf_flight *flight)
{
	unsigned i;

	for (i = 0; i < PF_FLIGHT_GROUPS; i++)
		if (!flight->groups[i].used)
			return &flight->groups[i];
	return NULL; /* not reached: limits.groups are in flight at most */
}

/* Gives a group events of a context. -1: it has none, and is waited for by its
 * stream. */
static int equip(struct pf_flight *flight, struct pf_group *group,
		 cu_context context)
{
	if (group->begin && group->end && group->context == context)
		return 0;
	group->context = context;
	group->begin = group->end = NULL;
	if (flight->driver.event_create(&group->begin, 0) ||
	    flight->driver.event_create(&group->end, 0)) {
		group->begin = group->end = NULL;
		return -1;
	}
	return 0;
}

/* Waits until it may go, by the decision of admit.c. */
static cu_result await_turn(struct pf_flight *flight, struct pf_time *time,
			    struct pf_admit *launch, cu_context context,
			    cu_stream stream, int own_group)
{
	for (;;) {
		uint64_t now, pause_ns;

		settle(flight);
		now = flight->io.now();
		launch->left_ns = flight->running ? flight->io.left() : -1;
		launch->queued_ns = queued_ns(flight, now);
		launch->groups = flight->in_flight;
		launch->margin_ns = flight->margin_ns;
		launch->joins = !own_group &&
				joins(flight, context, stream, launch->need_ns);
		switch (pf_admit_decide(&flight->limits, launch)) {
		case PF_ADMIT_GO:
			return CU_SUCCESS;
		case PF_ADMIT_NEXT:
			if (!flight->in_flight) {
				launch->joins = 0;
				return next_bubble(flight, time,
						   launch->need_ns);
			}
			break;
		case PF_ADMIT_LATER:
			break;
		}
		pause_ns = launch->queued_ns / 2;
		if (pause_ns > LOOK_NS || !pause_ns)
			pause_ns = LOOK_NS;
		pthread_mutex_unlock(&flight->lock);
		flight->io.pause(pause_ns);
		pthread_mutex_lock(&flight->lock);
	}
}

/* Puts a launch that may go into a group. */
static struct pf_group *board(struct pf_flight *flight, struct pf_time *time,
			      const struct pf_admit *launch, cu_context context,
			      cu_stream stream, int measure)
{
	uint64_t now = flight->io.now();
	struct pf_group *group = flight->last;

	if (!launch->joins) {
		group = free_group(flight);
		group->used = 1;
		group->stream = stream;
		group->need_ns = group->launches = group->pending = 0;
		group->done = 0;
		group->time = NULL;
		if (!equip(flight, group, context) && measure)
			group->time = time;
		flight->in_flight++;
		flight->last = group;
	}
	group->need_ns += launch->need_ns;
	group->launches++;
	group->pending++;
	if (flight->done_ns < now)
		flight->done_ns = now;
	flight->done_ns += launch->need_ns;
	return group;
}

cu_result pf_flight_begin(struct pf_flight *flight, struct pf_ticket *ticket,
			  cu_stream stream, uint64_t key)
{
	struct pf_admit launch = { 0 };
	cu_context context = NULL;
	struct pf_time *time;
	cu_result result;
	int measure, mode;

	memset(ticket, 0, sizeof(*ticket));
	/* A launch that is captured computes nothing: the graph's will. */
	if (is_capturing(flight, stream))
		return CU_SUCCESS;
	if (flight->driver.context_get)
		(void) flight->driver.context_get(&context);
	pthread_mutex_lock(&flight->lock);
	time = pf_times_find(&flight->times, key);
	launch.need_ns = pf_time_need(time);
	launch.alone = !launch.need_ns;
	measure = pf_time_due(time);
	if (!launch.need_ns)
		launch.need_ns =
			pf_times_unknown(&flight->times, flight->longest_ns);
	result = await_turn(flight, time, &launch, context, stream, measure);
	if (result) {
		pthread_mutex_unlock(&flight->lock);
		return result;
	}
	ticket->group = board(flight, time, &launch, context, stream, measure);
	if (ticket->group->time) {
		mode = relax(flight);
		if (flight->driver.event_record(ticket->group->begin, stream))
			ticket->group->time = NULL; /* not measured then */
		restore(flight, mode);
	}
	pthread_mutex_unlock(&flight->lock);
	return CU_SUCCESS;
}

void pf_flight_end(struct pf_flight *flight, struct pf_ticket *ticket,
		   cu_result result)
{
	struct pf_group *group = ticket->group;
	int unknown_end = 0, mode;

	if (!group)
		return;
	pthread_mutex_lock(&flight->lock);
	if (result && group->time)
		group->time = NULL;
	if (!result || group->launches > 1) {
		mode = relax(flight);
		unknown_end = !group->end || flight->driver.event_record(
						     group->end, group->stream);
		restore(flight, mode);
	} else {
		group->done = 1;
	}
	if (!unknown_end) {
		group->pending--;
		pthread_mutex_unlock(&flight->lock);
		return;
	}
	/* Without an event its end is waited for here. */
	pthread_mutex_unlock(&flight->lock);
	(void) flight->driver.stream_synchronize(group->stream);
	pthread_mutex_lock(&flight->lock);
	group->done = 1;
	group->pending--;
	pthread_mutex_unlock(&flight->lock);
}

/* With the lock. */
static uint64_t look(struct pf_flight *flight)
{
	uint64_t now, queued;

	if (!flight->running)
		return 0;
	settle(flight);
	now = flight->io.now();
	queued = queued_ns(flight, now);
	if (!flight->in_flight) {
		if (now + flight->margin_ns >= flight->deadline_ns ||
		    now - flight->idle_ns >= IDLE_NS) {
			end_chunk(flight, now >= flight->deadline_ns);
			return 0;
		}
		queued = flight->deadline_ns - flight->margin_ns - now;
	}
	return queued < LOOK_NS ? LOOK_NS : queued < IDLE_NS ? queued : IDLE_NS;
}

uint64_t pf_flight_look(struct pf_flight *flight)
{
	uint64_t ns;

	pthread_mutex_lock(&flight->lock);
	ns = look(flight);
	pthread_mutex_unlock(&flight->lock);
	return ns;
}

void *pf_flight_watch(void *argument)
{
	struct pf_flight *flight = argument;

	pthread_mutex_lock(&flight->lock);
	for (;;) {
		uint64_t ns = look(flight);

		if (!ns) {
			pthread_cond_wait(&flight->began, &flight->lock);
			continue;
		}
		pthread_mutex_unlock(&flight->lock);
		flight->io.pause(ns);
		pthread_mutex_lock(&flight->lock);
	}
	return NULL;
}
