/* SPDX-License-Identifier: Apache-2.0 */
/* times.c - what each launch takes on the device, learned. */
#include "times.h"

#include <string.h>

/* An unknown launch is given at most this part of the longest bubble, in
 * percent, as the fill SDK does. */
#define UNKNOWN_PERCENT 60u
/* Looks for a key before it is given up: the table is nearly full then. */
#define PROBES 64u
/* From so many runs on the slowest is left aside. */
#define SURE 8u

static uint64_t mix(uint64_t hash, uint64_t value)
{
	/* splitmix64's finisher over both. */
	hash = (hash ^ value) + 0x9e3779b97f4a7c15ull;
	hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9ull;
	hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebull;
	return hash ^ (hash >> 31);
}

uint64_t pf_times_key(const void *what, const unsigned *shape, size_t count)
{
	uint64_t hash = mix(0, (uintptr_t) what);
	size_t i;

	for (i = 0; i < count; i++)
		hash = mix(hash, shape[i]);
	return hash ? hash : 1;
}

struct pf_time *pf_times_find(struct pf_times *times, uint64_t key)
{
	uint32_t i;

	for (i = 0; i < PROBES; i++) {
		struct pf_time *time =
			&times->keys[(key + i) & (PF_TIMES_KEYS - 1)];

		if (time->key == key)
			return time;
		if (!time->key) {
			time->key = key;
			return time;
		}
	}
	return NULL;
}

static uint32_t remembered(const struct pf_time *time)
{
	return time->runs < PF_TIMES_RUNS ? time->runs : PF_TIMES_RUNS;
}

uint64_t pf_time_need(const struct pf_time *time)
{
	uint32_t i, slowest = 0, second = 0;

	if (!time || !time->runs)
		return 0;
	for (i = 0; i < remembered(time); i++) {
		uint32_t ns = time->recent_ns[i];

		if (ns > slowest) {
			second = slowest;
			slowest = ns;
		} else if (ns > second) {
			second = ns;
		}
	}
	return time->runs >= SURE ? second : slowest;
}

uint64_t pf_time_least(const struct pf_time *time)
{
	uint32_t i, least;

	if (!time || !time->runs)
		return 0;
	least = time->recent_ns[0];
	for (i = 1; i < remembered(time); i++)
		if (time->recent_ns[i] < least)
			least = time->recent_ns[i];
	return least;
}

uint64_t pf_times_unknown(const struct pf_times *times, uint64_t longest_ns)
{
	uint64_t most = longest_ns / 100 * UNKNOWN_PERCENT, need = 0;
	uint32_t i;

	if (!times->firsts)
		return most;
	for (i = 0; i < PF_TIMES_RUNS && i < times->firsts; i++)
		if (2ull * times->first_ns[i] > need)
			need = 2ull * times->first_ns[i];
	return need < most || !most ? need : most;
}

int pf_time_due(struct pf_time *time)
{
	if (!time)
		return 0;
	if (time->runs >= SURE && ++time->since < PF_TIMES_AGAIN)
		return 0;
	time->since = 0;
	return 1;
}

void pf_times_add(struct pf_times *times, struct pf_time *time, uint64_t ns)
{
	uint32_t known = ns < UINT32_MAX ? (uint32_t) ns : UINT32_MAX;

	if (!time)
		return;
	if (!known)
		known = 1; /* 0 would say that nothing is known */
	if (!time->runs)
		times->first_ns[times->firsts++ % PF_TIMES_RUNS] = known;
	time->recent_ns[time->runs++ % PF_TIMES_RUNS] = known;
	if (time->runs == UINT32_MAX)
		time->runs = UINT32_MAX - PF_TIMES_RUNS;
}

void pf_times_forget(struct pf_times *times, uint64_t key)
{
	struct pf_time *time = pf_times_find(times, key);

	if (!time)
		return;
	/* The key stays, or those found behind it would be lost. */
	memset(time, 0, sizeof(*time));
	time->key = key;
}
