/* SPDX-License-Identifier: Apache-2.0 */
/* lib_error.h - the library's one piece of state: why an open failed. */
#ifndef PIPEFILL_LIB_ERROR_H
#define PIPEFILL_LIB_ERROR_H

#include "error.h"

/* This thread's. */
struct pf_error *pf_lib_error(void);

#endif /* PIPEFILL_LIB_ERROR_H */
