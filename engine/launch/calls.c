/* SPDX-License-Identifier: Apache-2.0 */
/* calls.c - the functions of the CUDA driver that this library stands in for:
 * whatever starts work on the device, and whatever takes or gives back memory.
 *
 * Each is the driver's own with a wait before it. Parameters are those of
 * NVIDIA's driver API reference; a name with _ptsz or _ptds is the same function
 * for programs whose stream 0 is the thread's own.
 */
#include <string.h>

#include "cuda_abi.h"
#include "gate.h"
#include "lookup.h"

#define EXPORT __attribute__((visibility("default")))

/* Stream 0 of the _ptsz and _ptds functions. */
#define OWN(stream) ((stream) ? (stream) : (cu_stream) 2)

enum call {

#define CALL(name, count) CALL_##name,
#include "calls.def"
#undef CALL
	CALLS
};

/* The driver's function of a name, as a pointer of our declaration's type. */
#define REAL(name) ((__typeof__(&name)) pf_lookup_real(CALL_##name))

/* A copy or a memset is known by its kind and by its bytes to a quarter of their
 * order of magnitude. */
static uint64_t bulk_key(enum call call, uint64_t bytes)
{
	unsigned shape[2] = { (unsigned) call, 0 };
	unsigned log = bytes ? 63 - (unsigned) __builtin_clzll(bytes) : 0;

	shape[1] =
		4 * log + (log >= 2 ? (unsigned) (bytes >> (log - 2)) & 3 : 0);
	return pf_times_key(NULL, shape, 2);
}

static uint64_t kernel_key(cu_function function, const unsigned *grid,
			   const unsigned *block, unsigned shared_bytes)
{
	unsigned shape[7];

	memcpy(shape, grid, 3 * sizeof(*grid));
	memcpy(shape + 3, block, 3 * sizeof(*block));
	shape[6] = shared_bytes;
	return pf_times_key(function, shape, 7);
}

/* Defines name, which waits with key on stream and then calls the driver's. */
#define LAUNCH(name, parameters, arguments, stream, key)                       \
	EXPORT cu_result name parameters;                                      \
	EXPORT cu_result name parameters                                       \
	{                                                                      \
		__typeof__(&name) real = REAL(name);                           \
		struct pf_ticket ticket;                                       \
		cu_result result;                                              \
                                                                               \
		if (!real)                                                     \
			return CU_NOT_FOUND;                                   \
		result = pf_gate_begin(&ticket, stream, key);                  \
		if (result)                                                    \
			return result;                                         \
		result = real arguments;                                       \
		pf_gate_end(&ticket, result);                                  \
		return result;                                                 \
	}

#define KERNEL_PARAMETERS                                                      \
	(cu_function function, unsigned gx, unsigned gy, unsigned gz,          \
	 unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,         \
	 cu_stream stream, void **parameters, void **extra)
#define KERNEL_ARGUMENTS                                                       \
	(function, gx, gy, gz, bx, by, bz, shared_bytes, stream, parameters,   \
	 extra)
#define TOGETHER_PARAMETERS                                                    \
	(cu_function function, unsigned gx, unsigned gy, unsigned gz,          \
	 unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,         \
	 cu_stream stream, void **parameters)
#define TOGETHER_ARGUMENTS                                                     \
	(function, gx, gy, gz, bx, by, bz, shared_bytes, stream, parameters)
#define KERNEL_KEY                                                             \
	kernel_key(function, (unsigned[]){ gx, gy, gz },                       \
		   (unsigned[]){ bx, by, bz }, shared_bytes)

LAUNCH(cuLaunchKernel, KERNEL_PARAMETERS, KERNEL_ARGUMENTS, stream, KERNEL_KEY)
LAUNCH(cuLaunchKernel_ptsz, KERNEL_PARAMETERS, KERNEL_ARGUMENTS, OWN(stream),
       KERNEL_KEY)
LAUNCH(cuLaunchCooperativeKernel, TOGETHER_PARAMETERS, TOGETHER_ARGUMENTS,
       stream, KERNEL_KEY)
LAUNCH(cuLaunchCooperativeKernel_ptsz, TOGETHER_PARAMETERS, TOGETHER_ARGUMENTS,
       OWN(stream), KERNEL_KEY)

#define EX_PARAMETERS                                                          \
	(const struct cu_launch_config *config, cu_function function,          \
	 void **parameters, void **extra)
#define EX_ARGUMENTS (config, function, parameters, extra)
#define EX_STREAM (config ? config->stream : NULL)
#define EX_KEY                                                                 \
	config ? kernel_key(function, config->grid, config->block,             \
			    config->shared_bytes)                              \
	       : 1
LAUNCH(cuLaunchKernelEx, EX_PARAMETERS, EX_ARGUMENTS, EX_STREAM, EX_KEY)
LAUNCH(cuLaunchKernelEx_ptsz, EX_PARAMETERS, EX_ARGUMENTS, OWN(EX_STREAM),
       EX_KEY)

/* One list is one launch on several devices; a fill job has one. */
LAUNCH(cuLaunchCooperativeKernelMultiDevice,
       (struct cu_launch_params * list, unsigned count, unsigned flags),
       (list, count, flags), count ? list->stream : NULL,
       count ? kernel_key(list->function, list->grid, list->block,
			  list->shared_bytes)
	     : 1)

/* Functions of CUDA 3. */
LAUNCH(cuLaunch, (cu_function function), (function), NULL,
       pf_times_key(function, NULL, 0))
LAUNCH(cuLaunchGrid, (cu_function function, int width, int height),
       (function, width, height), NULL,
       pf_times_key(function,
		    (unsigned[]){ (unsigned) width, (unsigned) height }, 2))
LAUNCH(cuLaunchGridAsync,
       (cu_function function, int width, int height, cu_stream stream),
       (function, width, height, stream), stream,
       pf_times_key(function,
		    (unsigned[]){ (unsigned) width, (unsigned) height }, 2))

static uint64_t graph_key(cu_graph_exec graph)
{
	return pf_times_key(graph, (unsigned[]){ CALL_cuGraphLaunch }, 1);
}

LAUNCH(cuGraphLaunch, (cu_graph_exec graph, cu_stream stream), (graph, stream),
       stream, graph_key(graph))
LAUNCH(cuGraphLaunch_ptsz, (cu_graph_exec graph, cu_stream stream),
       (graph, stream), OWN(stream), graph_key(graph))

EXPORT cu_result cuGraphExecDestroy(cu_graph_exec graph);

EXPORT cu_result cuGraphExecDestroy(cu_graph_exec graph)
{
	__typeof__(&cuGraphExecDestroy) real = REAL(cuGraphExecDestroy);

	pf_gate_forget(graph_key(graph));
	return real ? real(graph) : CU_NOT_FOUND;
}

/* Copies and memsets. A call without a stream is one of stream 0: many return
 * before the device is done with it. */
#define BULK(name, parameters, arguments, stream, bytes)                       \
	LAUNCH(name, parameters, arguments, stream,                            \
	       bulk_key(CALL_##name, bytes))
/* name with a stream, in both kinds. */
#define ASYNC(name, parameters, arguments, bytes)                              \
	BULK(name, parameters, arguments, stream, bytes)                       \
	BULK(name##_ptsz, parameters, arguments, OWN(stream), bytes)
#define SYNC(name, parameters, arguments, bytes)                               \
	BULK(name, parameters, arguments, NULL, bytes)                         \
	BULK(name##_ptds, parameters, arguments, (cu_stream) 2, bytes)

#define AREA(copy) ((copy) ? (copy)->width_bytes * (copy)->height : 0)
#define VOLUME(copy) (AREA(copy) * ((copy) ? (copy)->depth : 0))

ASYNC(cuMemcpyAsync,
      (cu_address to, cu_address from, size_t bytes, cu_stream stream),
      (to, from, bytes, stream), bytes)
ASYNC(cuMemcpyPeerAsync,
      (cu_address to, cu_context there, cu_address from, cu_context here,
       size_t bytes, cu_stream stream),
      (to, there, from, here, bytes, stream), bytes)
ASYNC(cuMemcpyHtoDAsync_v2,
      (cu_address to, const void *from, size_t bytes, cu_stream stream),
      (to, from, bytes, stream), bytes)
ASYNC(cuMemcpyDtoHAsync_v2,
      (void *to, cu_address from, size_t bytes, cu_stream stream),
      (to, from, bytes, stream), bytes)
ASYNC(cuMemcpyDtoDAsync_v2,
      (cu_address to, cu_address from, size_t bytes, cu_stream stream),
      (to, from, bytes, stream), bytes)
ASYNC(cuMemcpyHtoAAsync_v2,
      (cu_array to, size_t offset, const void *from, size_t bytes,
       cu_stream stream),
      (to, offset, from, bytes, stream), bytes)
ASYNC(cuMemcpyAtoHAsync_v2,
      (void *to, cu_array from, size_t offset, size_t bytes, cu_stream stream),
      (to, from, offset, bytes, stream), bytes)
ASYNC(cuMemcpy2DAsync_v2, (const struct cu_copy_2d *copy, cu_stream stream),
      (copy, stream), AREA(copy))
ASYNC(cuMemcpy3DAsync_v2, (const struct cu_copy_3d *copy, cu_stream stream),
      (copy, stream), VOLUME(copy))
ASYNC(cuMemcpy3DPeerAsync, (const struct cu_copy_3d *copy, cu_stream stream),
      (copy, stream), VOLUME(copy))
/* Batches of copies: as one copy of all their bytes. What a fill job hands over
 * as its sizes is read for so many of them, as the driver reads it; a longer
 * batch is taken to go on as it begins. */
#define BATCH_READ 4096u

static uint64_t scaled(uint64_t bytes, size_t read, size_t count)
{
	return read && count > read ? bytes / read * count : bytes;
}

static uint64_t batch_bytes(const size_t *sizes, size_t count)
{
	size_t read = count < BATCH_READ ? count : BATCH_READ, i;
	uint64_t bytes = 0;

	for (i = 0; sizes && i < read; i++)
		bytes += sizes[i];
	return scaled(bytes, read, count);
}

static uint64_t volume_bytes(const struct cu_copy_batch *copies, size_t count)
{
	size_t most = BATCH_READ / 16, read = count < most ? count : most, i;
	uint64_t bytes = 0;

	for (i = 0; copies && i < read; i++)
		bytes += copies[i].width * copies[i].height * copies[i].depth;
	return scaled(bytes, read, count);
}

/* CUDA 12.8, and without where it failed CUDA 13. */
ASYNC(cuMemcpyBatchAsync,
      (cu_address * to, cu_address *from, size_t *sizes, size_t count,
       void *attributes, size_t *first, size_t attribute_count, size_t *failed,
       cu_stream stream),
      (to, from, sizes, count, attributes, first, attribute_count, failed,
       stream),
      batch_bytes(sizes, count))
ASYNC(cuMemcpyBatchAsync_v2,
      (cu_address * to, cu_address *from, size_t *sizes, size_t count,
       void *attributes, size_t *first, size_t attribute_count,
       cu_stream stream),
      (to, from, sizes, count, attributes, first, attribute_count, stream),
      batch_bytes(sizes, count))
ASYNC(cuMemcpy3DBatchAsync,
      (size_t count, struct cu_copy_batch *copies, size_t *failed,
       unsigned long long flags, cu_stream stream),
      (count, copies, failed, flags, stream), volume_bytes(copies, count))
ASYNC(cuMemcpy3DBatchAsync_v2,
      (size_t count, struct cu_copy_batch *copies, unsigned long long flags,
       cu_stream stream),
      (count, copies, flags, stream), volume_bytes(copies, count))
ASYNC(cuMemPrefetchAsync,
      (cu_address at, size_t bytes, int device, cu_stream stream),
      (at, bytes, device, stream), bytes)
ASYNC(cuMemsetD8Async,
      (cu_address at, unsigned char value, size_t count, cu_stream stream),
      (at, value, count, stream), count)
ASYNC(cuMemsetD16Async,
      (cu_address at, unsigned short value, size_t count, cu_stream stream),
      (at, value, count, stream), 2 * count)
ASYNC(cuMemsetD32Async,
      (cu_address at, unsigned value, size_t count, cu_stream stream),
      (at, value, count, stream), 4 * count)
ASYNC(cuMemsetD2D8Async,
      (cu_address at, size_t pitch, unsigned char value, size_t width,
       size_t height, cu_stream stream),
      (at, pitch, value, width, height, stream), width *height)
ASYNC(cuMemsetD2D16Async,
      (cu_address at, size_t pitch, unsigned short value, size_t width,
       size_t height, cu_stream stream),
      (at, pitch, value, width, height, stream), 2 * width * height)
ASYNC(cuMemsetD2D32Async,
      (cu_address at, size_t pitch, unsigned value, size_t width, size_t height,
       cu_stream stream),
      (at, pitch, value, width, height, stream), 4 * width * height)

SYNC(cuMemcpy, (cu_address to, cu_address from, size_t bytes),
     (to, from, bytes), bytes)
SYNC(cuMemcpyPeer,
     (cu_address to, cu_context there, cu_address from, cu_context here,
      size_t bytes),
     (to, there, from, here, bytes), bytes)
SYNC(cuMemcpyHtoD_v2, (cu_address to, const void *from, size_t bytes),
     (to, from, bytes), bytes)
SYNC(cuMemcpyDtoH_v2, (void *to, cu_address from, size_t bytes),
     (to, from, bytes), bytes)
SYNC(cuMemcpyDtoD_v2, (cu_address to, cu_address from, size_t bytes),
     (to, from, bytes), bytes)
SYNC(cuMemcpyHtoA_v2,
     (cu_array to, size_t offset, const void *from, size_t bytes),
     (to, offset, from, bytes), bytes)
SYNC(cuMemcpyAtoH_v2, (void *to, cu_array from, size_t offset, size_t bytes),
     (to, from, offset, bytes), bytes)
SYNC(cuMemcpyDtoA_v2,
     (cu_array to, size_t offset, cu_address from, size_t bytes),
     (to, offset, from, bytes), bytes)
SYNC(cuMemcpyAtoD_v2,
     (cu_address to, cu_array from, size_t offset, size_t bytes),
     (to, from, offset, bytes), bytes)
SYNC(cuMemcpy2D_v2, (const struct cu_copy_2d *copy), (copy), AREA(copy))
SYNC(cuMemcpy2DUnaligned_v2, (const struct cu_copy_2d *copy), (copy),
     AREA(copy))
SYNC(cuMemcpy3D_v2, (const struct cu_copy_3d *copy), (copy), VOLUME(copy))
SYNC(cuMemcpy3DPeer, (const struct cu_copy_3d *copy), (copy), VOLUME(copy))
SYNC(cuMemsetD8_v2, (cu_address at, unsigned char value, size_t count),
     (at, value, count), count)
SYNC(cuMemsetD16_v2, (cu_address at, unsigned short value, size_t count),
     (at, value, count), 2 * count)
SYNC(cuMemsetD32_v2, (cu_address at, unsigned value, size_t count),
     (at, value, count), 4 * count)
SYNC(cuMemsetD2D8_v2,
     (cu_address at, size_t pitch, unsigned char value, size_t width,
      size_t height),
     (at, pitch, value, width, height), width *height)
SYNC(cuMemsetD2D16_v2,
     (cu_address at, size_t pitch, unsigned short value, size_t width,
      size_t height),
     (at, pitch, value, width, height), 2 * width * height)
SYNC(cuMemsetD2D32_v2,
     (cu_address at, size_t pitch, unsigned value, size_t width, size_t height),
     (at, pitch, value, width, height), 4 * width * height)

/* Memory. A handle is no address: the top bit keeps the two apart. */
#define HANDLE(handle) ((uint64_t) (handle) | 1ull << 63)

static uint64_t array_bytes(size_t width, size_t height, size_t depth,
			    int format, unsigned channels)
{
	/* CUarray_format: 8, 16 and 32 bits in this order; what is newer is
	 * counted as 32. */
	uint64_t size = format == 0x01 || format == 0x08 ? 1
			: format == 0x02 || format == 0x09 || format == 0x10
				? 2
				: 4;

	return size * channels * width * (height ? height : 1) *
	       (depth ? depth : 1);
}

/* Defines name, which takes bytes out of the cap and notes where they are. */
#define ALLOCATE(name, parameters, arguments, size, where)                     \
	EXPORT cu_result name parameters;                                      \
	EXPORT cu_result name parameters                                       \
	{                                                                      \
		__typeof__(&name) real = REAL(name);                           \
		uint64_t taken = size;                                         \
		cu_result result;                                              \
                                                                               \
		if (!real)                                                     \
			return CU_NOT_FOUND;                                   \
		if (!pf_gate_active())                                         \
			return real arguments;                                 \
		result = pf_gate_take(taken);                                  \
		if (result)                                                    \
			return result;                                         \
		result = real arguments;                                       \
		pf_memory_note(pf_gate_memory(),                               \
			       result ? 0 : (uint64_t) (where), taken);        \
		return result;                                                 \
	}

#define FREE(name, parameters, arguments, where)                               \
	EXPORT cu_result name parameters;                                      \
	EXPORT cu_result name parameters                                       \
	{                                                                      \
		__typeof__(&name) real = REAL(name);                           \
		struct pf_memory *memory = pf_gate_memory();                   \
		uint64_t bytes = 0;                                            \
		cu_result result;                                              \
                                                                               \
		if (!real)                                                     \
			return CU_NOT_FOUND;                                   \
		/* Before it is another's. */                                  \
		if (memory)                                                    \
			bytes = pf_memory_forget(memory, (uint64_t) (where));  \
		result = real arguments;                                       \
		if (memory && result)                                          \
			pf_memory_note(memory, (uint64_t) (where), bytes);     \
		else if (memory)                                               \
			pf_memory_note(memory, 0, bytes);                      \
		return result;                                                 \
	}

ALLOCATE(cuMemAlloc_v2, (cu_address * at, size_t bytes), (at, bytes), bytes,
	 *at)
ALLOCATE(cuMemAllocPitch_v2,
	 (cu_address * at, size_t *pitch, size_t width_bytes, size_t height,
	  unsigned element_bytes),
	 (at, pitch, width_bytes, height, element_bytes),
	 (width_bytes + 511) / 512 * 512 * height, *at)
ALLOCATE(cuMemAllocManaged, (cu_address * at, size_t bytes, unsigned flags),
	 (at, bytes, flags), bytes, *at)
ALLOCATE(cuMemAllocAsync, (cu_address * at, size_t bytes, cu_stream stream),
	 (at, bytes, stream), bytes, *at)
ALLOCATE(cuMemAllocAsync_ptsz,
	 (cu_address * at, size_t bytes, cu_stream stream), (at, bytes, stream),
	 bytes, *at)
ALLOCATE(cuMemAllocFromPoolAsync,
	 (cu_address * at, size_t bytes, cu_pool pool, cu_stream stream),
	 (at, bytes, pool, stream), bytes, *at)
ALLOCATE(cuMemAllocFromPoolAsync_ptsz,
	 (cu_address * at, size_t bytes, cu_pool pool, cu_stream stream),
	 (at, bytes, pool, stream), bytes, *at)
/* Virtual memory management: physical memory, wherever it is mapped; on the host
 * it is none of the device's. */
ALLOCATE(cuMemCreate,
	 (cu_allocation * handle, size_t bytes,
	  const struct cu_allocation_prop *prop, unsigned long long flags),
	 (handle, bytes, prop, flags),
	 prop && prop->location.type == CU_LOCATION_DEVICE ? bytes : 0,
	 HANDLE(*handle))
ALLOCATE(cuArrayCreate_v2, (cu_array * array, const struct cu_array_2d *shape),
	 (array, shape),
	 shape ? array_bytes(shape->width, shape->height, 1, shape->format,
			     shape->channels)
	       : 0,
	 *array)
ALLOCATE(cuArray3DCreate_v2,
	 (cu_array * array, const struct cu_array_3d *shape), (array, shape),
	 shape ? array_bytes(shape->width, shape->height, shape->depth,
			     shape->format, shape->channels)
	       : 0,
	 *array)

FREE(cuMemFree_v2, (cu_address at), (at), at)
FREE(cuMemFreeAsync, (cu_address at, cu_stream stream), (at, stream), at)
FREE(cuMemFreeAsync_ptsz, (cu_address at, cu_stream stream), (at, stream), at)
FREE(cuMemRelease, (cu_allocation handle), (handle), HANDLE(handle))
FREE(cuArrayDestroy, (cu_array array), (array), array)

/* What a program is told is there is what it may have, so that one that takes a
 * part of all takes a part of that. */
EXPORT cu_result cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes);

EXPORT cu_result cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
	__typeof__(&cuMemGetInfo_v2) real = REAL(cuMemGetInfo_v2);
	cu_result result;
	struct pf_memory *memory;
	uint64_t left;

	if (!real)
		return CU_NOT_FOUND;
	result = real(free_bytes, total_bytes);
	if (result || !pf_gate_active())
		return result;
	memory = pf_gate_memory();
	left = pf_memory_left(memory);
	if (free_bytes && left < *free_bytes)
		*free_bytes = left;
	if (total_bytes && memory->cap_bytes &&
	    memory->cap_bytes < *total_bytes)
		*total_bytes = memory->cap_bytes;
	return result;
}

EXPORT cu_result cuGetProcAddress(const char *symbol, void **address,
				  int version, uint64_t flags);

EXPORT cu_result cuGetProcAddress(const char *symbol, void **address,
				  int version, uint64_t flags)
{
	__typeof__(&cuGetProcAddress) real = REAL(cuGetProcAddress);
	cu_result result =
		real ? real(symbol, address, version, flags) : CU_NOT_FOUND;

	if (!result && address)
		*address = pf_lookup_address(symbol, *address, version, flags);
	return result;
}

EXPORT cu_result cuGetProcAddress_v2(const char *symbol, void **address,
				     int version, uint64_t flags, int *status);

EXPORT cu_result cuGetProcAddress_v2(const char *symbol, void **address,
				     int version, uint64_t flags, int *status)
{
	__typeof__(&cuGetProcAddress_v2) real = REAL(cuGetProcAddress_v2);
	cu_result result = real ? real(symbol, address, version, flags, status)
				: CU_NOT_FOUND;

	if (!result && address)
		*address = pf_lookup_address(symbol, *address, version, flags);
	return result;
}

struct pf_call pf_calls[] = {
#define CALL(name, count) { #name, (void *) name, NULL },
#include "calls.def"
#undef CALL
};

const size_t pf_call_count = CALLS;
