/* SPDX-License-Identifier: Apache-2.0 */
/* driver.c - loads libcuda. */
#include "driver.h"

#include <dlfcn.h>
#include <string.h>

/* POSIX lets a function's address be kept in a void pointer; C has no cast for
 * it that -Wpedantic takes. */
static void *find(void *library, const char *name)
{
	return dlsym(library, name);
}

#define FIND(field, name)                                                      \
	do {                                                                   \
		void *symbol = find(driver->library, name);                    \
		memcpy(&driver->field, &symbol, sizeof(symbol));               \
	} while (0)

#define NEED(field, name)                                                      \
	do {                                                                   \
		FIND(field, name);                                             \
		if (!driver->field) {                                          \
			pf_error_set(error, "%s has no %s", path, name);       \
			pf_driver_unload(driver);                              \
			return -1;                                             \
		}                                                              \
	} while (0)

int pf_driver_load(struct pf_driver *driver, const char *path,
		   struct pf_error *error)
{
	memset(driver, 0, sizeof(*driver));
	if (!path || !path[0])
		path = "libcuda.so.1";
	driver->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!driver->library)
		return pf_error_set(error, "%s", dlerror());
	NEED(context_get, "cuCtxGetCurrent");
	NEED(context_set, "cuCtxSetCurrent");
	NEED(host_alloc, "cuMemHostAlloc");
	NEED(host_free, "cuMemFreeHost");
	NEED(host_pointer, "cuMemHostGetDevicePointer_v2");
	NEED(stream_is_capturing, "cuStreamIsCapturing");
	NEED(event_create, "cuEventCreate");
	NEED(event_record, "cuEventRecord");
	NEED(event_query, "cuEventQuery");
	NEED(event_destroy, "cuEventDestroy_v2");
	/* The second versions need no module parameter of the driver
	 * (CUDA 11.7 and later); the first are not looked for. */
	FIND(write32, "cuStreamWriteValue32_v2");
	FIND(wait32, "cuStreamWaitValue32_v2");
	if (!driver->write32 || !driver->wait32)
		driver->write32 = driver->wait32 = NULL;
	return 0;
}

void pf_driver_unload(struct pf_driver *driver)
{
	if (driver->library)
		(void) dlclose(driver->library);
	driver->library = NULL;
}
