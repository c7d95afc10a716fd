/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_profiler.c - announces the receives that a pipeline's device waits in,
 * from inside NCCL: no engine and no Python is touched.
 *
 *	NCCL_PROFILER_PLUGIN=/path/libnccl-profiler-pipefill.so
 *
 * A receive's kernel event begins when the device's stream has come to it, and
 * ends when the data is in: that is the bubble, in the device's own time. Events
 * of kernels come from NCCL's proxy thread, the others from the threads that
 * enqueue. Errors never reach NCCL, whose work goes on as without us; where
 * there is no pipefilld it is told at once not to call us any more.
 *
 * PIPEFILL_NCCL_RECEIVES=N says how many receives an iteration has, for jobs
 * without collectives, from which it is learned otherwise (cycle.h).
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cycle.h"
#include "nccl_abi.h"
#include "pipefill.h"

/* Receives under way at a time: NCCL has at most a few hundred enqueued. */
#define SLOTS 1024u
#define INDICES 256
/* More receives than this in flight are no pipeline's: an all-to-all. */
#define FUSED_MOST 4u

/* One receive; a handle of NCCL's points to it or to one of its channels. */
struct slot {
	uint64_t iteration;
	int64_t place;         /* in its iteration; -1: not announced */
	int from_before;       /* its peer is a stage before this one */
	unsigned int channels; /* of its kernel that run */
};

struct communicator {
	unsigned int number;
	int rank;
};

static struct {
	pthread_mutex_t lock;
	struct pf_main *main; /* one for all communicators of the process */
	unsigned int communicators; /* alive */
	unsigned int numbers;       /* given so far */
	struct pf_cycle cycle;
	struct slot slots[SLOTS];
	uint64_t next_slot;
	unsigned int running;        /* receives whose kernel runs */
	int announced;               /* a bubble is */
	uint64_t iteration;          /* the last that was marked */
	int seen_before, seen_after; /* a receive of that side in it */
} plugin = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int plugin_init(void **context, int *mask, const char *name,
		       uint64_t hash, int nodes, int ranks, int rank, void *log)
{
	const char *receives = getenv("PIPEFILL_NCCL_RECEIVES");
	struct communicator *communicator;
	int result = PF_NCCL_REFUSED;

	(void) name, (void) hash, (void) nodes, (void) ranks, (void) log;
	*context = NULL;
	communicator = calloc(1, sizeof(*communicator));
	if (!communicator)
		return result;
	pthread_mutex_lock(&plugin.lock);
	if (!plugin.main)
		plugin.main = pf_open(NULL);
	if (plugin.main) {
		if (receives && atoi(receives) > 0)
			plugin.cycle.fixed = (uint32_t) atoi(receives);
		plugin.communicators++;
		communicator->number = plugin.numbers++;
		communicator->rank = rank;
		*context = communicator;
		__atomic_store_n(mask,
				 PF_NCCL_COLL | PF_NCCL_P2P | PF_NCCL_KERNEL,
				 __ATOMIC_RELAXED);
		result = PF_NCCL_SUCCESS;
	}
	pthread_mutex_unlock(&plugin.lock);
	if (result != PF_NCCL_SUCCESS)
		free(communicator);
	return result;
}

/* A receive was enqueued: gives it its place. */
static struct slot *enqueue(const struct communicator *communicator,
			    const struct pf_nccl_event *event)
{
	struct slot *slot = &plugin.slots[plugin.next_slot++ % SLOTS];

	slot->place = pf_cycle_receive(&plugin.cycle);
	slot->iteration = plugin.cycle.iteration;
	slot->from_before = event->p2p.peer < communicator->rank;
	slot->channels = 0;
	return slot;
}

/* The kinds of schedule.py, as far as they are seen from here. */
static enum pf_kind kind_of(const struct slot *slot)
{
	int *seen =
		slot->from_before ? &plugin.seen_before : &plugin.seen_after;

	if (*seen)
		return PF_STEADY;
	*seen = 1;
	return slot->from_before ? PF_FILL_DRAIN : PF_FWD_BWD;
}

static void withdraw(void)
{
	if (plugin.announced)
		pf_bubble_end(plugin.main);
	plugin.announced = 0;
}

/* The device has come to a receive. */
static void begin(struct slot *slot)
{
	if (slot->channels++)
		return;
	if (slot->iteration != plugin.iteration) {
		plugin.iteration = slot->iteration;
		plugin.seen_before = plugin.seen_after = 0;
		if (!plugin.announced)
			pf_iteration(plugin.main);
	}
	plugin.running++;
	if (plugin.running > FUSED_MOST)
		withdraw();
	if (plugin.running > 1 || slot->place < 0 || slot->place >= INDICES)
		return;
	pf_bubble_begin(plugin.main, kind_of(slot), (uint32_t) slot->place);
	plugin.announced = 1;
}

/* One channel has its data. */
static void end(struct slot *slot)
{
	if (!slot->channels || --slot->channels || !plugin.running)
		return;
	if (!--plugin.running)
		withdraw();
}

static int plugin_start(void *context, void **handle,
			struct pf_nccl_event *event)
{
	struct communicator *communicator = context;

	*handle = NULL;
	if (!communicator || !event)
		return PF_NCCL_SUCCESS;
	pthread_mutex_lock(&plugin.lock);
	if (event->type == PF_NCCL_COLL) {
		pf_cycle_collective(&plugin.cycle, communicator->number);
	} else if (event->type == PF_NCCL_P2P) {
		if (event->p2p.function && !strcmp(event->p2p.function, "Recv"))
			*handle = enqueue(communicator, event);
	} else if (event->type == PF_NCCL_KERNEL && event->parent) {
		begin(event->parent);
		/* Odd: the channel of a receive, and not the receive. */
		*handle = (char *) event->parent + 1;
	}
	pthread_mutex_unlock(&plugin.lock);
	return PF_NCCL_SUCCESS;
}

static int plugin_stop(void *handle)
{
	if (!((uintptr_t) handle & 1))
		return PF_NCCL_SUCCESS;
	pthread_mutex_lock(&plugin.lock);
	end((struct slot *) ((char *) handle - 1));
	pthread_mutex_unlock(&plugin.lock);
	return PF_NCCL_SUCCESS;
}

static int plugin_state(void *handle, int state, void *arguments)
{
	(void) handle, (void) state, (void) arguments;
	return PF_NCCL_SUCCESS;
}

static int plugin_finalize(void *context)
{
	if (!context)
		return PF_NCCL_SUCCESS;
	pthread_mutex_lock(&plugin.lock);
	free(context);
	if (!--plugin.communicators) {
		pf_close(plugin.main);
		plugin.main = NULL;
		plugin.running = 0;
		plugin.announced = 0;
	}
	pthread_mutex_unlock(&plugin.lock);
	return PF_NCCL_SUCCESS;
}

__attribute__((
	visibility("default"))) struct pf_nccl_profiler ncclProfiler_v4 = {
	"pipefill",  plugin_init,  plugin_start,
	plugin_stop, plugin_state, plugin_finalize,
};
