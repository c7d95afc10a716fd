/* SPDX-License-Identifier: Apache-2.0 */
/* test_nccl_profiler.c - the plugin under a host that calls it as NCCL does, and
 * a fake daemon that sees what it announces. */
#include <pthread.h>

#include "../cycle.h"
#include "../nccl_abi.h"
#include "fake_daemon.h"
#include "pipefill.h"
#include "tap.h"

extern struct pf_nccl_profiler ncclProfiler_v4;

static struct pf_nccl_profiler *const nccl = &ncclProfiler_v4;

static void *join(int ranks, int rank)
{
	void *context = NULL;
	int mask = 0;

	if (nccl->init(&context, &mask, "pp", 1, 1, ranks, rank, NULL) ||
	    mask != (PF_NCCL_COLL | PF_NCCL_P2P | PF_NCCL_KERNEL))
		return NULL;
	return context;
}

static void *enqueue(void *context, const char *function, int peer)
{
	struct pf_nccl_event event = { .type = PF_NCCL_P2P };
	void *handle = NULL;

	event.p2p.function = function;
	event.p2p.peer = peer;
	nccl->start(context, &handle, &event);
	if (handle)
		nccl->stop(handle); /* enqueued, not done */
	return handle;
}

static void *run(void *context, void *parent)
{
	struct pf_nccl_event event = { .type = PF_NCCL_KERNEL,
				       .parent = parent };
	void *handle = NULL;

	nccl->start(context, &handle, &event);
	return handle;
}

static void collective(void *context)
{
	struct pf_nccl_event event = { .type = PF_NCCL_COLL };
	void *handle = NULL;

	nccl->start(context, &handle, &event);
	if (handle)
		nccl->stop(handle);
}

/* One receive from its enqueueing to its end. */
static void receive(void *context, int peer)
{
	void *handle = enqueue(context, "Recv", peer);
	void *channel[2] = { run(context, handle), run(context, handle) };

	nccl->stop(channel[1]);
	nccl->stop(channel[0]);
}

/* The events so far that are bubbles, or marks. */
static unsigned count(const struct fake_daemon *d, int marks)
{
	uint64_t head = d->main->ring_head, i;
	unsigned n = 0;

	for (i = 0; i < head && i < PF_RING_EVENTS; i++)
		n += !(d->main->ring[i].flags & PF_EVENT_ITERATION) == !marks;
	return n;
}

static const struct pf_event *bubble(const struct fake_daemon *d,
				     unsigned which)
{
	uint64_t i;

	for (i = 0; i < d->main->ring_head; i++)
		if (!(d->main->ring[i].flags & PF_EVENT_ITERATION) && !which--)
			return &d->main->ring[i];
	return NULL;
}

static void test_announces(void)
{
	struct fake_daemon d = { 0 };
	void *pipeline, *replicas;
	const struct pf_event *event;
	int i;

	fake_start(&d, FAKE_NONE);
	pipeline = join(3, 1);
	replicas = join(2, 0);
	tap_ok(pipeline && replicas && pipeline != replicas,
	       "two communicators are taken on");
	for (i = 0; i < 3; i++)
		receive(pipeline, 0);
	tap_ok(count(&d, 0) == 0, "nothing is announced before an iteration "
				  "was marked");
	for (i = 0; i < 4; i++) {
		collective(replicas);
		collective(replicas); /* the next bucket */
		receive(pipeline, 0);
		receive(pipeline, 2);
		receive(pipeline, 0);
	}
	tap_ok(count(&d, 0) == 12, "every receive is a bubble (%u)",
	       count(&d, 0));
	tap_ok(count(&d, 1) == 4, "collectives mark iterations (%u)",
	       count(&d, 1));
	event = bubble(&d, 9);
	tap_ok(event && event->index == 0 && event->kind == PF_FILL_DRAIN,
	       "the first from before is filling");
	event = bubble(&d, 10);
	tap_ok(event && event->index == 1 && event->kind == PF_FWD_BWD,
	       "the first from after is the turn");
	event = bubble(&d, 11);
	tap_ok(event && event->index == 2 && event->kind == PF_STEADY,
	       "others are steady");
	nccl->finalize(replicas);
	tap_ok(d.main->pid != 0, "one communicator's end is not the last's");
	nccl->finalize(pipeline);
	tap_ok(d.main->pid == 0, "the last one's end closes the gate");
	fake_stop(&d);
}

static void test_fused(void)
{
	struct fake_daemon d = { 0 };
	void *context, *handle[8], *channel[8];
	int i;

	setenv("PIPEFILL_NCCL_RECEIVES", "2", 1);
	fake_start(&d, FAKE_NONE);
	context = join(2, 0);
	tap_ok(enqueue(context, "Send", 1) == NULL &&
		       run(context, NULL) == NULL,
	       "sends are left alone");
	for (i = 0; i < 2; i++)
		handle[i] = enqueue(context, "Recv", 1);
	for (i = 0; i < 2; i++)
		channel[i] = run(context, handle[i]);
	nccl->stop(channel[0]);
	tap_ok(count(&d, 0) == 0, "two at a time are one bubble,");
	nccl->stop(channel[1]);
	tap_ok(count(&d, 0) == 1, "which ends with the second");
	for (i = 0; i < 8; i++)
		handle[i] = enqueue(context, "Recv", i);
	for (i = 0; i < 8; i++)
		channel[i] = run(context, handle[i]);
	tap_ok(!(d.main->word & PF_WORD_OPEN),
	       "an all-to-all leaves no gate open");
	for (i = 0; i < 8; i++)
		nccl->stop(channel[i]);
	nccl->stop(NULL);
	nccl->finalize(context);
	fake_stop(&d);
	unsetenv("PIPEFILL_NCCL_RECEIVES");
}

static void test_refuses(void)
{
	void *context = &context;
	int mask = 0;

	setenv("PIPEFILL_DIR", "/nonexistent", 1);
	tap_ok(nccl->init(&context, &mask, NULL, 1, 1, 2, 0, NULL) &&
		       !context && !mask,
	       "without a daemon NCCL is told to go without us");
	unsetenv("PIPEFILL_DIR");
	tap_ok(nccl->init(&context, &mask, NULL, 1, 1, 2, 0, NULL) && !context,
	       "outside a main job too");
	tap_ok(!nccl->start(NULL, &context, NULL) && !context &&
		       !nccl->finalize(NULL) && !nccl->state(NULL, 22, NULL),
	       "calls after that do nothing");
}

static void *enqueue_many(void *context)
{
	int i;

	for (i = 0; i < 2000; i++)
		receive(context, i & 2);
	return NULL;
}

static void test_threads(void)
{
	struct fake_daemon d = { 0 };
	pthread_t thread[4];
	void *context[4];
	int i;

	setenv("PIPEFILL_NCCL_RECEIVES", "8", 1);
	fake_start(&d, FAKE_NONE);
	for (i = 0; i < 4; i++) {
		context[i] = join(3, 1);
		if (pthread_create(&thread[i], NULL, enqueue_many, context[i]))
			abort();
	}
	for (i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	tap_ok(!(d.main->word & PF_WORD_OPEN) && d.main->ring_head,
	       "four threads at once leave the gate shut (%llu events)",
	       (unsigned long long) d.main->ring_head);
	for (i = 0; i < 4; i++)
		nccl->finalize(context[i]);
	fake_stop(&d);
	unsetenv("PIPEFILL_NCCL_RECEIVES");
}

/* iterations of receives, each followed by buckets of collectives of group 1;
 * every receive has between collectives of group 0. Returns how many marks. */
static uint64_t cycle_marks(struct pf_cycle *cycle, int iterations,
			    int receives, int buckets, int between)
{
	uint64_t before = cycle->iteration;
	int i, r, c;

	for (i = 0; i < iterations; i++) {
		for (r = 0; r < receives; r++) {
			(void) pf_cycle_receive(cycle);
			for (c = 0; c < between; c++)
				pf_cycle_collective(cycle, 0);
		}
		for (c = 0; c < buckets; c++)
			pf_cycle_collective(cycle, 1);
	}
	return cycle->iteration - before;
}

static void test_cycle(void)
{
	struct pf_cycle cycle = { 0 };
	int64_t last = -1;
	int i;

	(void) cycle_marks(&cycle, 3, 8, 50, 6);
	tap_ok(cycle_marks(&cycle, 20, 8, 50, 6) == 20,
	       "beside tensor-parallel collectives and in buckets: one mark");
	(void) cycle_marks(&cycle, 20, 2, 50, 6);
	tap_ok(cycle_marks(&cycle, 20, 2, 50, 6) == 20,
	       "a shorter schedule is followed");
	(void) cycle_marks(&cycle, 3, 32, 50, 6);
	tap_ok(cycle_marks(&cycle, 20, 32, 50, 6) == 20, "a longer one too");
	pf_cycle_collective(&cycle, PF_CYCLE_GROUPS);
	tap_ok(pf_cycle_receive(&cycle) == 0,
	       "too many communicators are left");
	cycle = (struct pf_cycle){ .fixed = 3 };
	for (i = 0; i < 7; i++)
		last = pf_cycle_receive(&cycle);
	tap_ok(last == 0 && cycle.iteration == 3, "a fixed number is kept");
}

int main(void)
{
	test_cycle();
	test_announces();
	test_fused();
	test_threads();
	test_refuses();
	return tap_done();
}
