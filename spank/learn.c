/* SPDX-License-Identifier: Apache-2.0 */
/* learn.c - the lengths and starts of bubbles, learned per index. */
#include "learn.h"

#include <string.h>

/* Takes one sample out and puts another in, both in order: 16 moves at most. */
static void replace(uint64_t *sorted, uint32_t count, uint64_t out, uint64_t in)
{
	uint32_t i = 0;

	while (i + 1 < count && sorted[i] != out)
		i++;
	for (; i + 1 < count && sorted[i + 1] < in; i++)
		sorted[i] = sorted[i + 1];
	for (; i > 0 && sorted[i - 1] > in; i--)
		sorted[i] = sorted[i - 1];
	sorted[i] = in;
}

void pf_learn_add(struct pf_window *window, uint64_t sample)
{
	uint32_t i;

	if (window->count == PF_LEARN_KEEP) {
		replace(window->sorted, PF_LEARN_KEEP,
			window->arrival[window->next], sample);
		window->arrival[window->next] = sample;
		window->next = (window->next + 1) % PF_LEARN_KEEP;
		return;
	}
	window->arrival[window->count] = sample;
	for (i = window->count; i > 0 && window->sorted[i - 1] > sample; i--)
		window->sorted[i] = window->sorted[i - 1];
	window->sorted[i] = sample;
	window->count++;
}

uint32_t pf_learn_see(struct pf_presence *presence, uint64_t iteration)
{
	const uint32_t kept = (2u << PF_LEARN_KEEP) - 1; /* and this one */
	uint64_t passed = iteration - presence->iteration;

	if (passed > PF_LEARN_KEEP)
		presence->mask = 0; /* or iteration went backwards */
	else
		presence->mask = presence->mask << passed & kept;
	presence->mask |= 1;
	presence->iteration = iteration;
	return (uint32_t) __builtin_popcount(presence->mask) - 1;
}

uint64_t pf_learn_low(const struct pf_window *window)
{
	if (window->count < PF_LEARN_ENOUGH)
		return 0;
	return window->sorted[window->count / 4];
}

uint64_t pf_learn_length(const struct pf_window *window)
{
	uint64_t low = pf_learn_low(window), median, lowest;

	if (low == 0)
		return 0;
	lowest = window->sorted[window->count / 8];
	median = pf_learn_median(window);
	if (lowest < PF_LEARN_SHORT_NS && lowest < median - median / 5)
		return window->sorted[0];
	return lowest < low - low / 10 ? lowest : low;
}

uint64_t pf_learn_median(const struct pf_window *window)
{
	if (window->count < PF_LEARN_ENOUGH)
		return 0;
	return window->sorted[window->count / 2];
}
