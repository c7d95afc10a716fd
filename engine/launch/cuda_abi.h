/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_abi.h - what is used of the CUDA driver's ABI, in our own words after
 * NVIDIA's driver API reference. No header of CUDA's is needed to build.
 *
 * Handles are opaque pointers, device addresses 64 bits.
 */
#ifndef PIPEFILL_CUDA_ABI_H
#define PIPEFILL_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef int cu_result;
typedef void *cu_stream, *cu_event, *cu_context, *cu_function, *cu_graph_exec;
typedef void *cu_pool, *cu_array;
typedef unsigned long long cu_address, cu_allocation;

/* The results that are looked at or returned. */
#define CU_SUCCESS 0
#define CU_INVALID_VALUE 1
#define CU_OUT_OF_MEMORY 2
#define CU_NOT_FOUND 500
#define CU_NOT_READY 600
#define CU_LAUNCH_TIMEOUT 702
#define CU_NOT_PERMITTED 800
/* Results from here to CU_CAPTURE_LAST speak of a capture that goes on. */
#define CU_CAPTURE_FIRST 900
#define CU_CAPTURE_LAST 908

#define CU_CAPTURE_RELAXED 2
#define CU_PER_THREAD_STREAMS 2u /* a flag of cuGetProcAddress */
#define CU_LOCATION_DEVICE 1

struct cu_launch_config {
	unsigned grid[3];
	unsigned block[3];
	unsigned shared_bytes;
	cu_stream stream;
	void *attributes;
	unsigned attribute_count;
};

struct cu_launch_params { /* cuLaunchCooperativeKernelMultiDevice */
	cu_function function;
	unsigned grid[3];
	unsigned block[3];
	unsigned shared_bytes;
	cu_stream stream;
	void **parameters;
};

struct cu_end_2d {
	size_t x_bytes, y;
	int kind;
	void *host;
	cu_address device;
	cu_array array;
	size_t pitch;
};

struct cu_copy_2d {
	struct cu_end_2d from, to;
	size_t width_bytes, height;
};

struct cu_end_3d {
	size_t x_bytes, y, z, lod;
	int kind;
	void *host;
	cu_address device;
	cu_array array;
	void *reserved; /* a context in a copy between devices */
	size_t pitch, height;
};

struct cu_copy_3d {
	struct cu_end_3d from, to;
	size_t width_bytes, height, depth;
};

/* One copy of cuMemcpy3DBatchAsync (CUDA 12.8). */
struct cu_end_batch {
	int kind;
	uint64_t place[4]; /* address and pitches, or array and offsets */
};

struct cu_copy_batch {
	struct cu_end_batch from, to;
	size_t width, height, depth; /* of bytes, or of an array's elements */
	int order;
	unsigned flags;
};

struct cu_array_2d {
	size_t width, height;
	int format;
	unsigned channels;
};

struct cu_array_3d {
	size_t width, height, depth;
	int format;
	unsigned channels, flags;
};

/* The head of CUmemAllocationProp: where the memory is to be. */
struct cu_allocation_prop {
	int type, handle_types;

	struct {
		int type, id;
	} location;
};

#endif /* PIPEFILL_CUDA_ABI_H */
