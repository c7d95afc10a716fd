/* SPDX-License-Identifier: Apache-2.0 */
/* error.h - why something failed, owned by the caller; nothing here logs. */
#ifndef PIPEFILL_ERROR_H
#define PIPEFILL_ERROR_H

struct pf_error {
	char text[512];
};

/* Writes the reason, cut to what fits; error may be NULL. Returns -1, so that a
 * function can end in `return pf_error_set(...)`. */
int pf_error_set(struct pf_error *error, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif /* PIPEFILL_ERROR_H */
