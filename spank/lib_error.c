/* SPDX-License-Identifier: Apache-2.0 */
/* lib_error.c - pf_strerror and pf_version. */
#include "lib_error.h"

#include "pipefill.h"

struct pf_error *pf_lib_error(void)
{
	static _Thread_local struct pf_error error;

	return &error;
}

const char *pf_strerror(void)
{
	return pf_lib_error()->text;
}

const char *pf_version(void)
{
	return PIPEFILL_VERSION;
}
