/* SPDX-License-Identifier: Apache-2.0 */
/* dlsym.c - dlsym, in front of the C library's.
 *
 * The C library finds the caller's library by the address that dlsym returns to
 * (RTLD_NEXT: the libraries after that one), so that its own must be jumped to,
 * not called: the program's address is then still where it looks.
 */
#include "lookup.h"

/* What dlsym asks first. Never NULL afterwards: pf_lookup_dlsym. */
__attribute__((visibility("hidden"), used)) void *
pf_dlsym_filter(void *handle, const char *name);

__attribute__((visibility("hidden"), used)) void *
pf_dlsym_filter(void *handle, const char *name)
{
	if (!pf_lookup_true_dlsym())
		__builtin_trap(); /* a C library without dlsym */
	return pf_lookup_symbol(handle, name);
}

#if defined(__x86_64__)
__asm__(".pushsection .text\n"
	".globl dlsym\n"
	".type dlsym, @function\n"
	"dlsym:\n"
	"	.cfi_startproc\n"
	"	endbr64\n"
	"	pushq %rdi\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	pushq %rsi\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	subq $8, %rsp\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	call pf_dlsym_filter\n"
	"	addq $8, %rsp\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	popq %rsi\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	popq %rdi\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	testq %rax, %rax\n"
	"	jne 1f\n"
	"	jmpq *pf_lookup_dlsym(%rip)\n"
	"1:	ret\n"
	"	.cfi_endproc\n"
	".size dlsym, . - dlsym\n"
	".popsection\n");
#else
__attribute__((visibility("default"))) void *dlsym(void *handle,
						   const char *name);

/* gcc makes the last call a jump where it optimizes, which this needs. */
__attribute__((visibility("default"), optimize("O2"))) void *
dlsym(void *handle, const char *name)
{
	void *ours = pf_dlsym_filter(handle, name);

	if (ours)
		return ours;
	return pf_lookup_dlsym(handle, name);
}
#endif
