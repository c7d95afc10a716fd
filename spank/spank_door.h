/* SPDX-License-Identifier: Apache-2.0 */
/* spank_door.h - the real Slurm behind struct pf_slurm. */
#ifndef PIPEFILL_SPANK_DOOR_H
#define PIPEFILL_SPANK_DOOR_H

#include <slurm/spank.h>

#include "slurm.h"

/* spank may be NULL where Slurm hands none out (option callbacks). */
void pf_spank_door(struct pf_slurm *slurm, spank_t spank);

#endif /* PIPEFILL_SPANK_DOOR_H */
