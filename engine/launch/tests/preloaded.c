/* SPDX-License-Identifier: Apache-2.0 */
/* preloaded.c - a CUDA program as fill jobs are: linked with the driver, and with
 * libpipefill_launch.so in LD_PRELOAD. launch.mk runs it in mode launch and with
 * the library off: argument "on" or "off". */
#include <dlfcn.h>

#include "fake_daemon.h"
#include "tap.h"
#include "tests/fake_cuda.h"

extern cu_result cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned,
				unsigned, unsigned, unsigned, cu_stream,
				void **, void **);

typedef __typeof__(&cuLaunchKernel) launcher;

/* Which library has an address. */
static int is_in(void *address, const char *name)
{
	Dl_info info;

	return address && dladdr(address, &info) &&
	       strstr(info.dli_fname, name);
}

int main(int argc, char **argv)
{
	int on = argc > 1 && !strcmp(argv[1], "on");
	const char *want = on ? "libpipefill_launch" : "libcuda.so.1";
	void *library = dlopen("libcuda.so.1", RTLD_NOW), *address = NULL;
	cu_result (*find)(const char *, void **, int, uint64_t, int *);
	struct fake_kernel kernel = { 50000 };
	struct fake_daemon d;
	struct fake_cuda *cuda = dlsym(library, "fake_cuda");
	launcher launch;
	unsigned i;

	fake_start(&d, FAKE_NONE);
	atomic_store(&d.main->deadline_ns, fake_now() + 30000000000ull);
	atomic_store(&d.main->word, 1);
	*(void **) &launch = dlsym(library, "cuLaunchKernel");
	tap_ok(is_in((void *) launch, want), "dlsym finds %s's", want);
	*(void **) &find = dlsym(library, "cuGetProcAddress_v2");
	(void) find("cuLaunchKernel", &address, 12000, 0, NULL);
	tap_ok(is_in((void *) find, want) && is_in(address, want),
	       "cuGetProcAddress finds %s's", want);
	tap_ok(is_in(dlsym(library, "cuInit"), "libcuda.so.1") &&
		       is_in(dlsym(RTLD_DEFAULT, "getpid"), "libc") &&
		       !dlsym(library, "cuNoSuchThing") && dlerror(),
	       "anything else is where it was");
	tap_ok(getppid() > 1000000,
	       "a library behind ours finds what comes after itself");
	for (i = 0; i < 10; i++)
		(void) launch(&kernel, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
	tap_ok(cuda->log_count == 10 && !cuda->events == !on &&
		       !atomic_load(&d.fill->opening) == !on,
	       "launches %s", on ? "go through the gate" : "go by");
	(void) cuLaunchKernel(&kernel, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
	tap_ok(cuda->log_count == 11, "also those of a linked program");
	fake_stop(&d);
	return tap_done();
}
