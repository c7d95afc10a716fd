/* SPDX-License-Identifier: Apache-2.0 */
/* tap.h - tests that say what they hold, in the Test Anything Protocol. */
#ifndef PIPEFILL_TAP_H
#define PIPEFILL_TAP_H

#include <stdarg.h>
#include <stdio.h>

static int tap_count, tap_failed;

/* One check. Returns ok, so that what depends on it can be skipped. */
__attribute__((format(printf, 2, 3), unused)) static int
tap_ok(int ok, const char *format, ...)
{
	va_list args;

	printf("%sok %d - ", ok ? "" : "not ", ++tap_count);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	if (!ok)
		tap_failed++;
	fflush(stdout);
	return ok;
}

/* At the end of main: the plan, and the exit status. */
__attribute__((unused)) static int tap_done(void)
{
	printf("1..%d\n", tap_count);
	if (!tap_count)
		return 1;
	return tap_failed ? 1 : 0;
}

#endif /* PIPEFILL_TAP_H */
