/* SPDX-License-Identifier: Apache-2.0 */
/* lib_main.c - the main side: the bubble instruction.
 *
 * It only stores: a main job never waits for us. All that needs memory or a
 * system call happens in pf_open and pf_close.
 */
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "gate_socket.h"
#include "learn.h"
#include "lib_error.h"
#include "page.h"
#include "pipefill.h"

#define OPEN_DEADLINE_MS 50

struct pf_main {
	/* Zero in a forked child, whose memory of this handle is wiped: the
	 * child of a trainer (a data loader) must not announce bubbles. */
	uint32_t alive;
	uint32_t in_bubble;
	uint32_t index;
	uint32_t kind;
	uint32_t flags;
	uint32_t control_iteration;
	uint32_t next_index; /* the lowest that may still come in this one */
	uint64_t begin_ns;
	uint64_t deadline_ns;
	uint64_t iteration;
	uint64_t iteration_begin_ns;
	uint64_t ring_head;
	struct pf_main_page *page;
	const struct pf_control_page *control;
	struct pf_window iterations;
	struct pf_window lengths[PF_LEARN_INDICES];
	struct pf_window starts[PF_LEARN_INDICES];
	struct pf_presence seen[PF_LEARN_INDICES];
	/* 1: was, or but for a control iteration would have been, offered. */
	uint8_t offered[PF_LEARN_INDICES];
	char device[256];
};

#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define STORE(field, value)                                                    \
	atomic_store_explicit(&(field), (value), memory_order_relaxed)
#define PUBLISH(field, value)                                                  \
	atomic_store_explicit(&(field), (value), memory_order_release)

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

/* What pf_open(NULL) asks for: this process's device, or else its local rank
 * (torchrun's, then Slurm's), which the daemon turns into one. */
static const char *default_device(void)
{
	static const char *const names[] = { "PIPEFILL_DEVICE", "LOCAL_RANK",
					     "SLURM_LOCALID" };
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		const char *value = getenv(names[i]);

		if (value && value[0])
			return value;
	}
	return "";
}

static struct pf_main *new_handle(struct pf_error *error)
{
	/* Populated: the first announcements take no page faults. */
	struct pf_main *main =
		mmap(NULL, sizeof(*main), PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (main == MAP_FAILED) {
		pf_error_set(error, "mmap: %s", strerror(errno));
		return NULL;
	}
	if (madvise(main, sizeof(*main), MADV_WIPEONFORK)) {
		pf_error_set(error, "madvise: %s", strerror(errno));
		munmap(main, sizeof(*main));
		return NULL;
	}
	return main;
}

static int map_pages(struct pf_main *main, const struct pf_reply *pages,
		     struct pf_error *error)
{
	if (pages->fd_count != 2)
		return pf_error_set(error, "pipefilld sent %d pages, not 2",
				    pages->fd_count);
	main->page = pf_gate_socket_map(pages->fd[0], PF_MAIN_SIZE,
					PF_MAIN_MAGIC, 1, error);
	if (!main->page)
		return -1;
	main->control = pf_gate_socket_map(pages->fd[1], PF_CONTROL_SIZE,
					   PF_CONTROL_MAGIC, 0, error);
	if (!main->control) {
		munmap(main->page, PF_MAIN_SIZE);
		return -1;
	}
	/* A child keeps neither: its handle is wiped, nobody would unmap. */
	(void) madvise(main->page, PF_MAIN_SIZE, MADV_DONTFORK);
	(void) madvise((void *) main->control, PF_CONTROL_SIZE, MADV_DONTFORK);
	return 0;
}

/* All devices of a main job decide alike (page.h). */
static void choose_control(struct pf_main *main)
{
	main->control_iteration = (uint32_t) pf_page_is_control(
		LOAD(main->control->seed), main->iteration,
		LOAD(main->control->control_ppm));
}

/* Takes over a page that a handle before this one may have left open. */
static void begin_handle(struct pf_main *main)
{
	struct pf_main_page *page = main->page;

	main->ring_head = LOAD(page->ring_head);
	main->iteration = LOAD(page->iteration);
	main->iteration_begin_ns = now_ns();
	choose_control(main);
	PUBLISH(page->word, LOAD(page->word) & ~PF_WORD_OPEN);
	STORE(page->next_begin_ns, 0);
	STORE(page->move_bytes, 0);
	STORE(page->cache_bytes, 0);
	STORE(page->beat_ns, main->iteration_begin_ns);
	PUBLISH(page->pid, (uint32_t) getpid());
	main->alive = 1;
}

struct pf_main *pf_open(const char *device)
{
	const char *dir = getenv("PIPEFILL_DIR");
	struct pf_error *error = pf_lib_error();
	struct pf_reply pages;
	struct pf_main *main;

	if (!dir || !dir[0]) {
		pf_error_set(error, "PIPEFILL_DIR is not set: this is no main "
				    "job of pipefill");
		return NULL;
	}
	if (!device)
		device = default_device();
	if (pf_gate_socket_open(dir, "open-main", device, OPEN_DEADLINE_MS,
				&pages, error))
		return NULL;
	main = new_handle(error);
	if (main && map_pages(main, &pages, error)) {
		munmap(main, sizeof(*main));
		main = NULL;
	}
	pf_message_close(&pages);
	if (!main)
		return NULL;
	pf_message_value(&pages, "device", main->device, sizeof(main->device));
	begin_handle(main);
	return main;
}

const char *pf_device(const struct pf_main *main)
{
	return main && main->alive ? main->device : NULL;
}

static void record(struct pf_main *main, const struct pf_event *values)
{
	struct pf_event *event =
		&main->page->ring[main->ring_head % PF_RING_EVENTS];

	STORE(event->seq, 0);
	atomic_thread_fence(memory_order_release);
	STORE(event->iteration, values->iteration);
	STORE(event->begin_ns, values->begin_ns);
	STORE(event->end_ns, values->end_ns);
	STORE(event->deadline_ns, values->deadline_ns);
	STORE(event->free_bytes, values->free_bytes);
	STORE(event->index, values->index);
	STORE(event->kind, values->kind);
	STORE(event->flags, values->flags);
	main->ring_head++;
	PUBLISH(event->seq, main->ring_head);
	PUBLISH(main->page->ring_head, main->ring_head);
}

/* Wakes who waits for that edge (lib_fill.c, executor/freezer.go). */
static void wake(const struct pf_main *main, uint32_t edge)
{
	/* Without FUTEX_PRIVATE: the waiters are other processes. */
	if (LOAD(main->control->wake))
		(void) syscall(SYS_futex, &main->page->word, FUTEX_WAKE_BITSET,
			       PF_WAKE_MOST, NULL, NULL, edge);
}

/* How much of a bubble is usable, 0: not worth an opening. */
static uint64_t usable(const struct pf_main *main, uint64_t predicted_ns)
{
	uint64_t guard_ns = LOAD(main->control->guard_ns);
	uint64_t share_ppm = LOAD(main->control->share_ppm);
	uint64_t floor_ns = LOAD(main->control->floor_ns);
	uint64_t usable_ns;

	/* Fill work that gives way by itself (the floor) costs next to nothing
	 * in a bubble that turns out shorter, or that was never seen before,
	 * and one often turns out longer. */
	if (!predicted_ns || predicted_ns <= guard_ns)
		return floor_ns;
	if (share_ppm > PF_SHARE_MAX_PPM)
		share_ppm = PF_SHARE_MAX_PPM;
	usable_ns = predicted_ns / 1000000u * share_ppm +
		    predicted_ns % 1000000u * share_ppm / 1000000u;
	/* Both bounds count from the start: at most the share of the bubble,
	 * and nothing within the guard. A share over one is for fill work that
	 * gives way by itself, and moves the guard beyond the predicted end. */
	if (share_ppm > 1000000u)
		usable_ns -= guard_ns;
	else if (usable_ns > predicted_ns - guard_ns)
		usable_ns = predicted_ns - guard_ns;
	if (usable_ns < LOAD(main->control->min_ns))
		usable_ns = 0;
	return usable_ns < floor_ns ? floor_ns : usable_ns;
}

/* Decides whether the bubble is offered, and until when. */
static uint32_t offer(struct pf_main *main, uint64_t predicted_ns)
{
	uint64_t usable_ns;

	main->deadline_ns = 0;
	main->offered[main->index] = 0;
	if (!LOAD(main->control->enabled) || main->kind > PF_STEADY)
		return 0;
	usable_ns = usable(main, predicted_ns);
	main->offered[main->index] = usable_ns != 0;
	if (main->control_iteration)
		return PF_EVENT_CONTROL;
	if (!usable_ns)
		return PF_EVENT_SHORT;
	main->deadline_ns = main->begin_ns + usable_ns;
	return PF_EVENT_OFFERED;
}

/* When the next opening is expected, for the fill side to arm itself; 0: not
 * known. */
static uint64_t next_begin(const struct pf_main *main)
{
	const uint8_t *next = NULL;
	uint64_t iteration_ns = 0;

	if (!main->control_iteration && main->next_index < PF_LEARN_INDICES)
		next = memchr(main->offered + main->next_index, 1,
			      PF_LEARN_INDICES - main->next_index);
	if (!next) {
		next = memchr(main->offered, 1, PF_LEARN_INDICES);
		iteration_ns = pf_learn_median(&main->iterations);
		if (!next || !iteration_ns)
			return 0;
	}
	return main->iteration_begin_ns + iteration_ns +
	       pf_learn_low(&main->starts[next - main->offered]);
}

static void open_gate(struct pf_main *main, uint64_t predicted_ns)
{
	struct pf_main_page *page = main->page;

	/* Whoever sees a new field sees the shut word before it. */
	atomic_thread_fence(memory_order_release);
	STORE(page->index, main->index);
	STORE(page->kind, main->kind);
	STORE(page->begin_ns, main->begin_ns);
	STORE(page->end_ns, main->begin_ns + predicted_ns);
	STORE(page->deadline_ns, main->deadline_ns);
	PUBLISH(page->word, (LOAD(page->word) | PF_WORD_OPEN) + 2);
	wake(main, PF_EDGE_OPEN);
}

static void shut_gate(struct pf_main *main)
{
	uint32_t word = LOAD(main->page->word);

	if (!(word & PF_WORD_OPEN))
		return;
	PUBLISH(main->page->word, word & ~PF_WORD_OPEN);
	wake(main, PF_EDGE_SHUT);
}

void pf_bubble_begin(struct pf_main *main, enum pf_kind kind, uint32_t index)
{
	uint64_t predicted_ns = 0;

	if (!main || !main->alive)
		return;
	if (main->in_bubble)
		pf_bubble_end(main);
	main->in_bubble = 1;
	main->index = index % PF_LEARN_INDICES;
	main->kind = (uint32_t) kind;
	main->begin_ns = now_ns();
	main->next_index = main->index + 1;
	if (pf_learn_see(&main->seen[main->index], main->iteration) >=
	    PF_LEARN_ENOUGH)
		predicted_ns = pf_learn_length(&main->lengths[main->index]);
	main->flags = offer(main, predicted_ns);
	/* Before the gate opens, so that who finds too little time left knows
	 * already when to look again. */
	STORE(main->page->next_begin_ns, next_begin(main));
	STORE(main->page->beat_ns, main->begin_ns);
	if (main->flags & PF_EVENT_OFFERED)
		open_gate(main, predicted_ns);
	pf_learn_add(&main->starts[main->index],
		     main->begin_ns - main->iteration_begin_ns);
}

void pf_bubble_end(struct pf_main *main)
{
	uint64_t end_ns;

	if (!main || !main->alive || !main->in_bubble)
		return;
	shut_gate(main);
	end_ns = now_ns();
	main->in_bubble = 0;
	STORE(main->page->beat_ns, end_ns);
	record(main, &(struct pf_event){
			     .iteration = main->iteration,
			     .begin_ns = main->begin_ns,
			     .end_ns = end_ns,
			     .deadline_ns = main->deadline_ns,
			     .free_bytes = LOAD(main->page->free_bytes),
			     .index = main->index,
			     .kind = main->kind,
			     .flags = main->flags,
		     });
	pf_learn_add(&main->lengths[main->index], end_ns - main->begin_ns);
}

int64_t pf_bubble_left(const struct pf_main *main)
{
	uint64_t now;

	if (!main || !main->alive || !main->in_bubble || !main->deadline_ns)
		return -1;
	now = now_ns();
	return now < main->deadline_ns ? (int64_t) (main->deadline_ns - now)
				       : 0;
}

void pf_iteration(struct pf_main *main)
{
	struct pf_main_page *page;
	uint64_t now;

	if (!main || !main->alive)
		return;
	page = main->page;
	now = now_ns();
	record(main,
	       &(struct pf_event){
		       .iteration = main->iteration,
		       .begin_ns = main->iteration_begin_ns,
		       .end_ns = now,
		       .flags =
			       PF_EVENT_ITERATION |
			       (main->control_iteration ? PF_EVENT_CONTROL : 0),
	       });
	pf_learn_add(&main->iterations, now - main->iteration_begin_ns);
	main->iteration++;
	main->iteration_begin_ns = now;
	main->next_index = 0;
	choose_control(main);
	/* A bubble that wraps around the mark ends for the fill side here, so
	 * that nothing runs in a control iteration. */
	if (main->control_iteration) {
		shut_gate(main);
		if (main->deadline_ns > now)
			main->deadline_ns = now; /* as its event will say */
	}
	STORE(page->iteration, main->iteration);
	STORE(page->iteration_ns, pf_learn_median(&main->iterations));
	STORE(page->next_begin_ns, next_begin(main));
	STORE(page->beat_ns, now);
}

void pf_stage(struct pf_main *main, uint32_t stage)
{
	if (main && main->alive && stage < UINT32_MAX)
		STORE(main->page->stage, stage + 1);
}

int pf_recording(const struct pf_main *main)
{
	return main && main->alive && LOAD(main->control->recording) != 0;
}

void pf_work(struct pf_main *main, enum pf_work work, uint32_t micro_batch,
	     uint64_t begin_ns)
{
	uint64_t now;

	if (!pf_recording(main))
		return;
	now = now_ns();
	if (begin_ns > now)
		return;
	record(main, &(struct pf_event){
			     .iteration = main->iteration,
			     .begin_ns = begin_ns,
			     .end_ns = now,
			     .index = micro_batch,
			     .kind = (uint32_t) work,
			     .flags = PF_EVENT_WORK,
		     });
}

void pf_free_bytes(struct pf_main *main, uint64_t free_bytes)
{
	if (main && main->alive)
		STORE(main->page->free_bytes, free_bytes);
}

uint64_t pf_iteration_number(const struct pf_main *main)
{
	return main && main->alive ? LOAD(main->page->iteration) : 0;
}

/* What a word of the control page says of an iteration: -1, 0 or 1. */
static int moves(const struct pf_main *main, uint32_t move, uint64_t iteration)
{
	const struct pf_control_page *control = main->control;

	if (!(move & PF_MOVE_TELL))
		return -1;
	if (iteration == PF_THIS_ITERATION)
		iteration = LOAD(main->page->iteration);
	/* What moving costs the main job is seen by what iterations take in
	 * which it is not done. */
	if (!(move & PF_MOVE_OUT) || !LOAD(control->enabled) ||
	    pf_page_is_control(LOAD(control->seed), iteration,
			       LOAD(control->control_ppm)) ||
	    LOAD(control->beat_ns) + PF_BEAT_STALE_NS < now_ns())
		return 0;
	return 1;
}

int pf_moves(const struct pf_main *main, uint64_t iteration, uint32_t *out,
	     uint32_t *in)
{
	uint32_t move;
	int said;

	if (!main || !main->alive)
		return -1;
	move = LOAD(main->control->move);
	said = moves(main, move, iteration);
	if (said <= 0)
		return said;
	*out = move >> PF_MOVE_OUT_SHIFT & 0xffu;
	*in = move >> PF_MOVE_IN_SHIFT & 0xffu;
	return *out <= *in;
}

int pf_releases(const struct pf_main *main, uint64_t iteration,
		uint32_t *bubble)
{
	uint32_t move;
	int said;

	if (!main || !main->alive)
		return -1;
	move = LOAD(main->control->cache);
	said = moves(main, move, iteration);
	if (said > 0)
		*bubble = move >> PF_MOVE_OUT_SHIFT & 0xffu;
	return said;
}

void pf_movable(struct pf_main *main, uint64_t bytes, uint64_t out_ns,
		uint64_t in_ns, uint64_t times)
{
	if (!main || !main->alive)
		return;
	STORE(main->page->move_out_ns, out_ns);
	STORE(main->page->move_in_ns, in_ns);
	PUBLISH(main->page->move_bytes, bytes);
	PUBLISH(main->page->move_times, times);
}

void pf_releasable(struct pf_main *main, uint32_t bubble, uint64_t bytes,
		   uint64_t out_ns, uint64_t in_ns, uint64_t times)
{
	if (!main || !main->alive)
		return;
	STORE(main->page->cache_bubble, bubble);
	STORE(main->page->cache_out_ns, out_ns);
	STORE(main->page->cache_in_ns, in_ns);
	PUBLISH(main->page->cache_bytes, bytes);
	PUBLISH(main->page->cache_times, times);
}

void pf_close(struct pf_main *main)
{
	if (!main)
		return;
	if (main->alive) {
		pf_bubble_end(main);
		STORE(main->page->next_begin_ns, 0);
		STORE(main->page->move_bytes, 0);
		STORE(main->page->cache_bytes, 0);
		PUBLISH(main->page->pid, 0);
		munmap(main->page, PF_MAIN_SIZE);
		munmap((void *) main->control, PF_CONTROL_SIZE);
	}
	munmap(main, sizeof(*main));
}
