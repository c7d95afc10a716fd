/* SPDX-License-Identifier: Apache-2.0 */
/* lookup.h - the driver's functions, and ours in their place.
 *
 * A program gets at a function of the driver by its name in a library that it
 * links or opens (dlsym), or by asking the driver (cuGetProcAddress), which is
 * what CUDA's runtime does, linked in or not. Both ways lead here.
 */
#ifndef PIPEFILL_LAUNCH_LOOKUP_H
#define PIPEFILL_LAUNCH_LOOKUP_H

#include <stddef.h>
#include <stdint.h>

/* A function of the driver that is held back or counted. */
struct pf_call {
	const char *name;
	void *ours;
	void *real; /* the driver's; NULL until it is asked for */
};

/* All of them: calls.c. */
extern struct pf_call pf_calls[];
extern const size_t pf_call_count;

/* The driver's function behind pf_calls[i]; NULL: it has none. */
void *pf_lookup_real(size_t i);
/* Any function of the driver; NULL: it has none, or there is no driver. */
void *pf_lookup_driver(const char *name);

/* For dlsym: ours in place of name in the library of handle, or NULL: what the
 * true dlsym says. */
void *pf_lookup_symbol(void *handle, const char *name);

/* For cuGetProcAddress, which gave address for symbol (a name without its
 * version) of a CUDA version (12.4 is 12040) under flags: ours in its place, or
 * address. */
void *pf_lookup_address(const char *symbol, void *address, int version,
			uint64_t flags);

/* glibc's dlsym. */
typedef void *(*pf_dlsym)(void *handle, const char *name);
extern pf_dlsym pf_lookup_dlsym;
pf_dlsym pf_lookup_true_dlsym(void);

#endif /* PIPEFILL_LAUNCH_LOOKUP_H */
