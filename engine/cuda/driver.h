/* SPDX-License-Identifier: Apache-2.0 */
/* driver.h - the one door to libcuda here: loaded when it is asked for, since a
 * machine without a GPU has none. */
#ifndef PIPEFILL_CUDA_DRIVER_H
#define PIPEFILL_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

/* As much of the driver interface as is used, declared anew from NVIDIA's CUDA
 * Driver API reference. CUresult and device pointers are what they are there. */
enum {
	PF_CUDA_SUCCESS = 0,
	PF_CUDA_NOT_READY = 600,
	PF_CUDA_NOT_SUPPORTED = 801,
};

#define PF_CUDA_HOST_PORTABLE 1u  /* CU_MEMHOSTALLOC_PORTABLE */
#define PF_CUDA_HOST_DEVICEMAP 2u /* CU_MEMHOSTALLOC_DEVICEMAP */
#define PF_CUDA_WAIT_GEQ 0u       /* (int32_t) (*address - value) >= 0 */
#define PF_CUDA_EVENT_NO_TIMING 2u

typedef uint64_t pf_cuda_pointer;

struct pf_driver {
	void *library;
	int (*context_get)(void **context);
	int (*context_set)(void *context);
	int (*host_alloc)(void **host, size_t size, unsigned int flags);
	int (*host_free)(void *host);
	int (*host_pointer)(pf_cuda_pointer *device, void *host, unsigned int);
	int (*stream_is_capturing)(void *stream, int *status);
	int (*event_create)(void **event, unsigned int flags);
	int (*event_record)(void *event, void *stream);
	int (*event_query)(void *event);
	int (*event_destroy)(void *event);
	/* Both NULL where the driver has no stream memory operations. */
	int (*write32)(void *stream, pf_cuda_pointer, uint32_t, unsigned int);
	int (*wait32)(void *stream, pf_cuda_pointer, uint32_t, unsigned int);
};

/* Loads path (NULL: libcuda.so.1). 0, or -1 with error filled in. */
int pf_driver_load(struct pf_driver *driver, const char *path,
		   struct pf_error *error);

void pf_driver_unload(struct pf_driver *driver);

#endif /* PIPEFILL_CUDA_DRIVER_H */
