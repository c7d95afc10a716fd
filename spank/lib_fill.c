/* SPDX-License-Identifier: Apache-2.0 */
/* lib_fill.c - the fill side: waits for the gate and keeps to its deadline.
 *
 * Nothing read from the pages is trusted further than "run now or not": a main
 * job that lies about its bubbles slows down itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "gate_socket.h"
#include "lib_error.h"
#include "lib_fill.h"
#include "page.h"
#include "pipefill.h"

/* The daemon may be starting when the job does. */
#define OPEN_DEADLINE_MS 2000
/* A plan is asked for within a bubble. */
#define PLAN_DEADLINE_MS 200
/* A deadline further ahead is nonsense: no bubble is a minute long. */
#define DEADLINE_FAR_NS 60000000000ull
/* Longest spin before an expected opening. */
#define SPIN_NS 200000ull
/* Starts are predicted by their lower quartile, so most openings are late: for
 * this long after the spin it is worth a look every LATE_LOOK_NS (a tenth of a
 * core: a look takes 5 us). */
#define LATE_NS 5000000ull
#define LATE_LOOK_NS 50000ull
/* Between looks when nothing is expected. */
#define LOOK_NS 1000000ull
/* Longest sleep, so that an end or a dead daemon is seen soon. */
#define SLEEP_NS 50000000ull

/* One device's gate. */
struct gate {
	const struct pf_main_page *main;
	const struct pf_control_page *control;
};

/* Of a fill job with several devices the gate is open while those of all are,
 * until the earliest of their deadlines. */
struct pf_fill {
	struct gate gate[PF_DEVICES_MAX];
	int gates;
	struct pf_fill_page *page;
	uint64_t begin_ns;    /* of the chunk that runs, 0: none */
	uint64_t deadline_ns; /* of the bubble it began in */
	uint64_t assignment;
	uint32_t last_opening;
	pid_t pid; /* a forked child's close must not speak for the parent */
};

#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define ACQUIRE(field) atomic_load_explicit(&(field), memory_order_acquire)
#define STORE(field, value)                                                    \
	atomic_store_explicit(&(field), (value), memory_order_relaxed)

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}

static int map_pages(struct pf_fill *fill, const struct pf_reply *pages,
		     struct pf_error *error)
{
	int i;

	/* The fill page stands behind those of the first device. */
	if (pages->fd_count < 3 || !(pages->fd_count & 1))
		return pf_error_set(error,
				    "pipefilld sent %d pages, not 3, 5, ...",
				    pages->fd_count);
	fill->gates = pages->fd_count / 2;
	for (i = 0; i < fill->gates; i++) {
		const int *fd = &pages->fd[i ? 2 * i + 1 : 0];
		struct gate *gate = &fill->gate[i];

		gate->main = pf_gate_socket_map(fd[0], PF_MAIN_SIZE,
						PF_MAIN_MAGIC, 0, error);
		if (!gate->main)
			return -1;
		gate->control = pf_gate_socket_map(fd[1], PF_CONTROL_SIZE,
						   PF_CONTROL_MAGIC, 0, error);
		if (!gate->control)
			return -1;
	}
	fill->page = pf_gate_socket_map(pages->fd[2], PF_FILL_SIZE,
					PF_FILL_MAGIC, 1, error);
	return fill->page ? 0 : -1;
}

static void unmap_pages(struct pf_fill *fill)
{
	int i;

	for (i = 0; i < fill->gates; i++) {
		if (fill->gate[i].main)
			munmap((void *) fill->gate[i].main, PF_MAIN_SIZE);
		if (fill->gate[i].control)
			munmap((void *) fill->gate[i].control, PF_CONTROL_SIZE);
	}
	if (fill->page)
		munmap(fill->page, PF_FILL_SIZE);
}

struct pf_fill *pf_fill_open(void)
{
	const char *dir = getenv("PIPEFILL_DIR");
	const char *role = getenv("PIPEFILL_ROLE");
	struct pf_error *error = pf_lib_error();
	struct pf_reply pages;
	struct pf_fill *fill;

	if (!dir || !dir[0] || !role || strcmp(role, "fill")) {
		pf_error_set(error, "this is no fill job of pipefill");
		return NULL;
	}
	if (pf_gate_socket_open(dir, "open-fill", NULL, OPEN_DEADLINE_MS,
				&pages, error))
		return NULL;
	fill = calloc(1, sizeof(*fill));
	if (!fill) {
		pf_error_set(error, "no memory");
	} else if (map_pages(fill, &pages, error)) {
		unmap_pages(fill);
		free(fill);
		fill = NULL;
	} else {
		fill->assignment = LOAD(fill->gate[0].control->assignment);
		fill->pid = getpid();
		STORE(fill->page->pid, (uint32_t) fill->pid);
		/* 50 us of slack, the default, are a sixth of a short
		 * bubble's guard. */
		(void) prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
	}
	pf_message_close(&pages);
	return fill;
}

int pf_fill_stopping(struct pf_fill *fill)
{
	int i;

	if (!fill)
		return 0;
	for (i = 0; i < fill->gates; i++) {
		const struct pf_control_page *control = fill->gate[i].control;

		if (LOAD(control->fill_stop) != 0 ||
		    LOAD(control->assignment) != fill->assignment)
			return 1;
	}
	return 0;
}

/* ns left of one device's open bubble; -1: shut; 0: open, its deadline has
 * passed. The word is read on both sides of the deadline, so that the two belong
 * to one opening. */
static int64_t gate_left(const struct gate *gate, uint64_t now, uint32_t *word)
{
	uint64_t deadline_ns, beat_ns;

	*word = ACQUIRE(gate->main->word);
	deadline_ns = LOAD(gate->main->deadline_ns);
	beat_ns = LOAD(gate->control->beat_ns);
	atomic_thread_fence(memory_order_acquire);
	if (!(*word & PF_WORD_OPEN) || LOAD(gate->main->word) != *word)
		return -1;
	if (now > beat_ns && now - beat_ns > PF_BEAT_STALE_NS)
		return -1;
	if (deadline_ns > now + DEADLINE_FAR_NS)
		return -1;
	return deadline_ns > now ? (int64_t) (deadline_ns - now) : 0;
}

/* What the gates say together (executor/runner.go has the same). */
struct look {
	int64_t left_ns;  /* the least; -1: one is shut */
	uint32_t opening; /* as a gate's word: counts openings of any */
	uint32_t word;    /* of the gate that decides, at */
	int at;
};

static struct look look(const struct pf_fill *fill, uint64_t now)
{
	struct look all = { .left_ns = INT64_MAX };
	int i;

	for (i = 0; i < fill->gates; i++) {
		uint32_t word;
		int64_t left_ns = gate_left(&fill->gate[i], now, &word);

		all.opening += word & ~PF_WORD_OPEN;
		if (left_ns >= all.left_ns)
			continue;
		all.left_ns = left_ns;
		all.word = word;
		all.at = i;
	}
	all.opening |= PF_WORD_OPEN;
	return all;
}

int64_t pf_fill_left(struct pf_fill *fill)
{
	if (!fill)
		return INT64_MAX;
	return look(fill, now_ns()).left_ns;
}

void pf_fill_yield(struct pf_fill *fill)
{
	uint64_t now;

	if (!fill || !fill->begin_ns)
		return;
	now = now_ns();
	STORE(fill->page->running, 0);
	STORE(fill->page->chunks, LOAD(fill->page->chunks) + 1);
	STORE(fill->page->run_ns,
	      LOAD(fill->page->run_ns) + now - fill->begin_ns);
	if (now > fill->deadline_ns)
		STORE(fill->page->overruns, LOAD(fill->page->overruns) + 1);
	STORE(fill->page->beat_ns, now);
	fill->begin_ns = 0;
}

static void begin_chunk(struct pf_fill *fill, uint64_t now, uint32_t opening,
			int64_t left_ns)
{
	if (opening != fill->last_opening) {
		fill->last_opening = opening;
		STORE(fill->page->first_ns, now);
		atomic_store_explicit(&fill->page->opening, opening,
				      memory_order_release);
	}
	fill->begin_ns = now;
	fill->deadline_ns = now + (uint64_t) left_ns;
	STORE(fill->page->running, 1);
	STORE(fill->page->beat_ns, now);
}

/* The main side wakes PF_WAKE_MOST waiters: who starts wakes the others. */
static void pass_on(const struct pf_fill *fill)
{
	int i;

	for (i = 0; i < fill->gates; i++)
		if (LOAD(fill->gate[i].control->wake))
			(void) syscall(SYS_futex, &fill->gate[i].main->word,
				       FUTEX_WAKE_BITSET, INT_MAX, NULL, NULL,
				       PF_EDGE_OPEN);
}

/* Sleeps until the word is not word, or ns have passed. Only openings wake: a
 * wake at the shutting would take the core from the main job just when it needs
 * it. */
static void futex_wait(const struct gate *gate, uint32_t word, uint64_t now,
		       uint64_t ns)
{
	uint64_t end_ns = now + ns;
	struct timespec ts = { .tv_sec = (time_t) (end_ns / 1000000000u),
			       .tv_nsec = (long) (end_ns % 1000000000u) };

	if (!syscall(SYS_futex, &gate->main->word, FUTEX_WAIT_BITSET, word, &ts,
		     NULL, PF_EDGE_OPEN))
		return;
	if (errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT)
		return;
	/* A kernel or a sandbox without futexes on read-only pages: look
	 * again soon, but do not eat the main job's core. */
	if (ns > LOOK_NS)
		ns = LOOK_NS;
	ts = (struct timespec){ .tv_nsec = (long) ns };
	(void) clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

static void spin(const struct gate *gate, uint32_t word, uint64_t end_ns)
{
	while (ACQUIRE(gate->main->word) == word && now_ns() < end_ns) {
#if defined(__x86_64__)
		__builtin_ia32_pause();
#elif defined(__aarch64__)
		__asm__ volatile("yield");
#endif
	}
}

/* Where the main side does not wake: how long to sleep at now; 0: spin. */
static uint64_t sleep_armed(const struct gate *gate, uint64_t now)
{
	uint64_t margin_ns = LOAD(gate->control->margin_ns);
	uint64_t next_ns = LOAD(gate->main->next_begin_ns);

	/* Half of the spin at least is for openings after the expected time:
	 * three of four, as the prediction is a lower quartile. */
	if (margin_ns > SPIN_NS / 2)
		margin_ns = SPIN_NS / 2;
	if (next_ns >= now)
		return next_ns - now > margin_ns ? next_ns - now - margin_ns
						 : 0;
	if (now - next_ns < SPIN_NS - margin_ns)
		return 0;
	return now - next_ns < LATE_NS ? LATE_LOOK_NS : LOOK_NS;
}

/* Waits a while for the word to change, at most until end_ns. */
static void await_change(const struct gate *gate, uint32_t word, uint64_t now,
			 uint64_t end_ns)
{
	uint64_t sleep_ns = SLEEP_NS;

	if (!LOAD(gate->control->wake))
		sleep_ns = sleep_armed(gate, now);
	if (!sleep_ns) {
		spin(gate, word,
		     end_ns - now < SPIN_NS ? end_ns : now + SPIN_NS);
		return;
	}
	if (sleep_ns > SLEEP_NS)
		sleep_ns = SLEEP_NS;
	if (sleep_ns > end_ns - now)
		sleep_ns = end_ns - now;
	futex_wait(gate, word, now, sleep_ns);
}

int64_t pf_fill_wait(struct pf_fill *fill, int64_t need_ns, int64_t timeout_ns)
{
	uint64_t end_ns = UINT64_MAX;
	uint64_t now;
	int waited = 0;

	if (!fill)
		return INT64_MAX;
	pf_fill_yield(fill);
	now = now_ns();
	if (timeout_ns >= 0)
		end_ns = now + (uint64_t) timeout_ns;
	for (;; now = now_ns()) {
		struct look seen;

		if (pf_fill_stopping(fill))
			return -1;
		seen = look(fill, now);
		if (seen.left_ns > 0 && seen.left_ns >= need_ns) {
			begin_chunk(fill, now, seen.opening, seen.left_ns);
			if (waited)
				pass_on(fill);
			return seen.left_ns;
		}
		if (now >= end_ns)
			return -1;
		waited = 1;
		/* The gate that is shut, or shuts first, decides. */
		await_change(&fill->gate[seen.at], seen.word, now, end_ns);
	}
}

int pf_fill_bubble(struct pf_fill *fill, uint32_t *index, uint64_t *iteration)
{
	const struct pf_main_page *main;
	struct look before, after;

	if (!fill)
		return -1;
	main = fill->gate[0].main;
	before = look(fill, now_ns());
	*index = LOAD(main->index);
	*iteration = LOAD(main->iteration);
	after = look(fill, now_ns());
	/* All of it is of one opening, or it is shut by now. */
	return after.left_ns >= 0 && after.opening == before.opening ? 0 : -1;
}

uint64_t pf_fill_plan_id(struct pf_fill *fill)
{
	return fill ? LOAD(fill->gate[0].control->plan) : 0;
}

/* A plan that somebody could still change is none. */
static int is_fixed(int fd)
{
	const int needed = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
	int seals = fcntl(fd, F_GET_SEALS);

	return seals >= 0 && (seals & needed) == needed;
}

int pf_fill_plan(struct pf_fill *fill, uint64_t *id)
{
	const char *dir = getenv("PIPEFILL_DIR");
	struct pf_error *error = pf_lib_error();
	struct pf_reply reply;
	char name[24], *end;
	int fd = -1;

	if (!fill || !dir)
		return pf_error_set(error, "this is no fill job of pipefill");
	if (pf_gate_socket_open(dir, "plan", NULL, PLAN_DEADLINE_MS, &reply,
				error))
		return -1;
	pf_message_value(&reply, "plan", name, sizeof(name));
	errno = 0;
	*id = strtoull(name, &end, 10);
	if (reply.fd_count != 1 || !name[0] || *end || errno || !*id) {
		pf_error_set(error, "pipefilld's reply is not understood");
	} else if (!is_fixed(reply.fd[0])) {
		pf_error_set(error, "a plan from pipefilld is not sealed");
	} else {
		fd = reply.fd[0];
		reply.fd[0] = -1;
	}
	pf_message_close(&reply);
	return fd;
}

void pf_fill_at(struct pf_fill *fill, uint64_t id, uint32_t config, uint32_t op)
{
	if (!fill)
		return;
	STORE(fill->page->plan_at, (uint64_t) config << 32 | op);
	STORE(fill->page->plan, id);
}

struct pf_fill_page *pf_lib_fill_page(struct pf_fill *fill)
{
	return fill->page;
}

void pf_fill_close(struct pf_fill *fill)
{
	if (!fill)
		return;
	if (fill->pid == getpid()) {
		pf_fill_yield(fill);
		/* Of several processes with the gate the last one is named. */
		if (LOAD(fill->page->pid) == (uint32_t) fill->pid)
			STORE(fill->page->pid, 0);
	}
	unmap_pages(fill);
	free(fill);
}
