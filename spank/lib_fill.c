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

struct pf_fill {
	const struct pf_main_page *main;
	const struct pf_control_page *control;
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
	if (pages->fd_count != 3)
		return pf_error_set(error, "pipefilld sent %d pages, not 3",
				    pages->fd_count);
	fill->main = pf_gate_socket_map(pages->fd[0], PF_MAIN_SIZE,
					PF_MAIN_MAGIC, 0, error);
	if (!fill->main)
		return -1;
	fill->control = pf_gate_socket_map(pages->fd[1], PF_CONTROL_SIZE,
					   PF_CONTROL_MAGIC, 0, error);
	if (!fill->control)
		return -1;
	fill->page = pf_gate_socket_map(pages->fd[2], PF_FILL_SIZE,
					PF_FILL_MAGIC, 1, error);
	return fill->page ? 0 : -1;
}

static void unmap_pages(struct pf_fill *fill)
{
	if (fill->main)
		munmap((void *) fill->main, PF_MAIN_SIZE);
	if (fill->control)
		munmap((void *) fill->control, PF_CONTROL_SIZE);
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
		fill->assignment = LOAD(fill->control->assignment);
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
	if (!fill)
		return 0;
	return LOAD(fill->control->fill_stop) != 0 ||
	       LOAD(fill->control->assignment) != fill->assignment;
}

/* ns left of the open bubble; -1: shut; 0: open, its deadline has passed. The
 * word is read on both sides of the deadline, so that the two belong to one
 * opening. */
static int64_t left(const struct pf_fill *fill, uint64_t now, uint32_t *opening)
{
	uint32_t word = ACQUIRE(fill->main->word);
	uint64_t deadline_ns = LOAD(fill->main->deadline_ns);
	uint64_t beat_ns = LOAD(fill->control->beat_ns);

	atomic_thread_fence(memory_order_acquire);
	if (!(word & PF_WORD_OPEN) || LOAD(fill->main->word) != word)
		return -1;
	if (now > beat_ns && now - beat_ns > PF_BEAT_STALE_NS)
		return -1;
	if (deadline_ns > now + DEADLINE_FAR_NS)
		return -1;
	*opening = word;
	return deadline_ns > now ? (int64_t) (deadline_ns - now) : 0;
}

int64_t pf_fill_left(struct pf_fill *fill)
{
	uint32_t opening;

	if (!fill)
		return INT64_MAX;
	return left(fill, now_ns(), &opening);
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
	if (LOAD(fill->control->wake))
		(void) syscall(SYS_futex, &fill->main->word, FUTEX_WAKE_BITSET,
			       INT_MAX, NULL, NULL, PF_EDGE_OPEN);
}

/* Sleeps until the word is not word, or ns have passed. Only openings wake: a
 * wake at the shutting would take the core from the main job just when it needs
 * it. */
static void futex_wait(const struct pf_fill *fill, uint32_t word, uint64_t now,
		       uint64_t ns)
{
	uint64_t end_ns = now + ns;
	struct timespec ts = { .tv_sec = (time_t) (end_ns / 1000000000u),
			       .tv_nsec = (long) (end_ns % 1000000000u) };

	if (!syscall(SYS_futex, &fill->main->word, FUTEX_WAIT_BITSET, word, &ts,
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

static void spin(const struct pf_fill *fill, uint32_t word, uint64_t end_ns)
{
	while (ACQUIRE(fill->main->word) == word && now_ns() < end_ns) {
#if defined(__x86_64__)
		__builtin_ia32_pause();
#elif defined(__aarch64__)
		__asm__ volatile("yield");
#endif
	}
}

/* Where the main side does not wake: how long to sleep at now; 0: spin. */
static uint64_t sleep_armed(const struct pf_fill *fill, uint64_t now)
{
	uint64_t margin_ns = LOAD(fill->control->margin_ns);
	uint64_t next_ns = LOAD(fill->main->next_begin_ns);

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
static void await_change(const struct pf_fill *fill, uint32_t word,
			 uint64_t now, uint64_t end_ns)
{
	uint64_t sleep_ns = SLEEP_NS;

	if (!LOAD(fill->control->wake))
		sleep_ns = sleep_armed(fill, now);
	if (!sleep_ns) {
		spin(fill, word,
		     end_ns - now < SPIN_NS ? end_ns : now + SPIN_NS);
		return;
	}
	if (sleep_ns > SLEEP_NS)
		sleep_ns = SLEEP_NS;
	if (sleep_ns > end_ns - now)
		sleep_ns = end_ns - now;
	futex_wait(fill, word, now, sleep_ns);
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
		uint32_t word = ACQUIRE(fill->main->word);
		uint32_t opening = 0;
		int64_t left_ns;

		if (pf_fill_stopping(fill))
			return -1;
		left_ns = left(fill, now, &opening);
		if (left_ns > 0 && left_ns >= need_ns) {
			begin_chunk(fill, now, opening, left_ns);
			if (waited)
				pass_on(fill);
			return left_ns;
		}
		if (now >= end_ns)
			return -1;
		waited = 1;
		await_change(fill, word, now, end_ns);
	}
}

int pf_fill_bubble(struct pf_fill *fill, uint32_t *index, uint64_t *iteration)
{
	uint32_t word, opening;
	int64_t left_ns;

	if (!fill)
		return -1;
	word = ACQUIRE(fill->main->word);
	*index = LOAD(fill->main->index);
	*iteration = LOAD(fill->main->iteration);
	left_ns = left(fill, now_ns(), &opening);
	/* All of it is of one opening, or it is shut by now. */
	return left_ns >= 0 && opening == word ? 0 : -1;
}

uint64_t pf_fill_plan_id(struct pf_fill *fill)
{
	return fill ? LOAD(fill->control->plan) : 0;
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
