/* SPDX-License-Identifier: Apache-2.0 */
/* wrap_next.c - another library in LD_PRELOAD, behind ours, that asks for what
 * comes after itself: it would find itself if dlsym took ours for the caller. */
#include <dlfcn.h>
#include <sys/types.h>

__attribute__((visibility("default"))) pid_t getppid(void)
{
	pid_t (*next)(void);

	*(void **) &next = dlsym(RTLD_NEXT, "getppid");
	return next() + 1000000;
}
