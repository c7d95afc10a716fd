/* SPDX-License-Identifier: Apache-2.0 */
/* error.c - why something failed. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

int pf_error_set(struct pf_error *error, const char *format, ...)
{
	va_list args;

	if (!error)
		return -1;
	va_start(args, format);
	(void) vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	return -1;
}
