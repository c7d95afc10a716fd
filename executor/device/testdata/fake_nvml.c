// SPDX-License-Identifier: Apache-2.0
// An NVML for tests of the real bindings: two GPUs, and FAKE_NVML names the calls that fail, parted by blanks.
#include <stdlib.h>
#include <string.h>

typedef struct {
	unsigned long long total, free, used;
} memory;

static const char *const uuids[] = { "GPU-aaaa", "GPU-bbbb" };

static int fails(const char *call)
{
	const char *which = getenv("FAKE_NVML");
	size_t length = strlen(call);

	for (; which && *which; which += strcspn(which, " "), which += strspn(which, " "))
		if (strcspn(which, " ") == length && !strncmp(which, call, length))
			return 1;
	return 0;
}

int nvmlInit_v2(void)
{
	return fails("init") ? 9 : 0; /* NVML_ERROR_DRIVER_NOT_LOADED */
}

int nvmlShutdown(void)
{
	return 0;
}

const char *nvmlErrorString(int code)
{
	return code == 15 ? "GPU is lost" : code == 9 ? "Driver Not Loaded" : "another error";
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
	*count = 2;
	return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
	*device = (void *) &uuids[index];
	return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
	if (fails("handle"))
		return 15; /* NVML_ERROR_GPU_IS_LOST */
	for (int i = 0; i < 2; i++)
		if (!strcmp(uuid, uuids[i]))
			return nvmlDeviceGetHandleByIndex_v2(i, device);
	return 6; /* NVML_ERROR_NOT_FOUND */
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length)
{
	strncpy(uuid, *(const char **) device, length);
	return 0;
}

int nvmlDeviceGetMinorNumber(void *device, unsigned *minor)
{
	*minor = 6 + ((const char *const *) device == &uuids[1]);
	return fails("minor") ? 15 : 0;
}

int nvmlDeviceGetMemoryInfo(void *device, memory *info)
{
	(void) device;
	info->total = 80ull << 30;
	return fails("memory") ? 15 : 0;
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeMode(void *device, int *mode)
{
	(void) device;
	*mode = fails("exclusive") ? 3 : 0;
	return fails("mode") ? 15 : 0;
}
#endif

struct process {
	unsigned pid;
	unsigned long long bytes;
	unsigned instances[2];
};

/* Two processes on GPU-aaaa. */
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *list)
{
	unsigned room = *count;

	if (fails("processes"))
		return 15;
	*count = 2;
	if (room < 2)
		return 7; /* NVML_ERROR_INSUFFICIENT_SIZE */
	list[0] = (struct process){ .pid = 11, .bytes = fails("unknown") ? ~0ull : 3ull << 30 };
	list[1] = (struct process){ .pid = 12, .bytes = 1ull << 30 };
	(void) device;
	return 0;
}

#ifdef LIMITS
struct limits {
	const char *group;
	unsigned long long soft, hard;
};

int nvmlDeviceSetMemoryLimits_v1(void *device, struct limits *limits)
{
	(void) device;
	return fails("limits") || strcmp(limits->group, "/sys/fs/cgroup/x") || limits->soft || limits->hard != 5 ? 15 : 0;
}
#endif

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons)
{
	(void) device;
	*reasons = fails("slowdown") ? 0x8 : fails("hot") ? 0x40 | 0x8 : fails("swhot") ? 0x20 : fails("brake") ? 0x80 : fails("powercap") ? 0x4 : 0x1;
	return fails("clocks") ? 15 : fails("unsupported") ? 3 : 0; /* NVML_ERROR_NOT_SUPPORTED */
}
