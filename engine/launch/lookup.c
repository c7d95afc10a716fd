/* SPDX-License-Identifier: Apache-2.0 */
/* lookup.c - the driver's functions, and ours in their place. */
#include "lookup.h"

#include <dlfcn.h>
#include <string.h>

#include "cuda_abi.h"
#include "gate.h"

#define DRIVER "libcuda.so.1"

pf_dlsym pf_lookup_dlsym;

/* dlsym itself is what this library stands in front of, so that it is asked for
 * by its version, which the C library has had since 2.34, or an older one. */
pf_dlsym pf_lookup_true_dlsym(void)
{
	static const char *const versions[] = { "GLIBC_2.34", "GLIBC_2.17",
						"GLIBC_2.2.5" };
	pf_dlsym found = __atomic_load_n(&pf_lookup_dlsym, __ATOMIC_RELAXED);
	size_t i;

	for (i = 0; !found && i < sizeof(versions) / sizeof(versions[0]); i++)
		found = (pf_dlsym) dlvsym(RTLD_NEXT, "dlsym", versions[i]);
	__atomic_store_n(&pf_lookup_dlsym, found, __ATOMIC_RELAXED);
	return found;
}

/* The driver's library, once the program has loaded it. */
static void *driver(void)
{
	static void *found;
	void *handle = __atomic_load_n(&found, __ATOMIC_ACQUIRE);

	if (!handle) {
		handle = dlopen(DRIVER, RTLD_LAZY | RTLD_NOLOAD);
		__atomic_store_n(&found, handle, __ATOMIC_RELEASE);
	}
	return handle;
}

void *pf_lookup_driver(const char *name)
{
	pf_dlsym look = pf_lookup_true_dlsym();
	void *handle = driver();

	return look && handle ? look(handle, name) : NULL;
}

void *pf_lookup_real(size_t i)
{
	void *real = __atomic_load_n(&pf_calls[i].real, __ATOMIC_RELAXED);

	if (!real) {
		real = pf_lookup_driver(pf_calls[i].name);
		__atomic_store_n(&pf_calls[i].real, real, __ATOMIC_RELAXED);
	}
	return real;
}

void *pf_lookup_symbol(void *handle, const char *name)
{
	size_t i;

	/* The first letters decide for nearly every name. */
	if (!name || name[0] != 'c' || name[1] != 'u' || !pf_gate_active())
		return NULL;
	for (i = 0; i < pf_call_count; i++)
		if (!strcmp(name, pf_calls[i].name))
			break;
	if (i == pf_call_count || !pf_lookup_real(i))
		return NULL;
	/* Another library may have a function of that name for itself. */
	if (handle != RTLD_DEFAULT && handle != RTLD_NEXT) {
		void *found = pf_lookup_true_dlsym()(handle, name);

		if (found != pf_calls[i].real)
			return NULL;
	}
	return pf_calls[i].ours;
}

/* Tells whether name is symbol with a version and a kind of default stream. */
static int is_version(const char *name, const char *symbol, int per_thread)
{
	size_t length = strlen(symbol);
	const char *rest = name + length;

	if (strncmp(name, symbol, length))
		return 0;
	if (rest[0] == '_' && rest[1] == 'v' && rest[2] >= '2' &&
	    rest[2] <= '9')
		rest += 3;
	if (per_thread)
		return !strcmp(rest, "_ptsz") || !strcmp(rest, "_ptds");
	return !*rest;
}

void *pf_lookup_address(const char *symbol, void *address, int version,
			uint64_t flags)
{
	int per_thread = (flags & CU_PER_THREAD_STREAMS) != 0, pass;
	size_t i;

	if (!address || !symbol || !pf_gate_active())
		return address;
	for (i = 0; i < pf_call_count; i++)
		if (pf_lookup_real(i) == address)
			return pf_calls[i].ours;
	/* A driver may give another address than that of the name: the same
	 * function in another place. Functions without a default stream have
	 * one name under both flags. */
	if (!strcmp(symbol, "cuGetProcAddress"))
		symbol = version >= 12000 ? "cuGetProcAddress_v2" : symbol;
	/* One parameter fewer since CUDA 13. */
	if (version >= 13000 && !strcmp(symbol, "cuMemcpyBatchAsync"))
		symbol = "cuMemcpyBatchAsync_v2";
	if (version >= 13000 && !strcmp(symbol, "cuMemcpy3DBatchAsync"))
		symbol = "cuMemcpy3DBatchAsync_v2";
	for (pass = per_thread; pass >= 0; pass--)
		for (i = 0; i < pf_call_count; i++)
			if (pf_lookup_real(i) &&
			    is_version(pf_calls[i].name, symbol, pass))
				return pf_calls[i].ours;
	return address;
}
