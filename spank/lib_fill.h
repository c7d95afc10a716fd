/* SPDX-License-Identifier: Apache-2.0 */
/* lib_fill.h - the fill side, for the launch library that is built with it. */
#ifndef PIPEFILL_LIB_FILL_H
#define PIPEFILL_LIB_FILL_H

#include "page.h"
#include "pipefill.h"

/* The page of a fill job that is its own to write. */
struct pf_fill_page *pf_lib_fill_page(struct pf_fill *fill);

#endif /* PIPEFILL_LIB_FILL_H */
