/* SPDX-License-Identifier: Apache-2.0 */
/* gate.h - this process's gate: whether it has one, its flight and its memory. */
#ifndef PIPEFILL_LAUNCH_GATE_H
#define PIPEFILL_LAUNCH_GATE_H

#include "cuda_abi.h"
#include "flight.h"
#include "memory.h"

/* 1 in a fill job of mode launch. Elsewhere, and with PIPEFILL_LAUNCH=off,
 * nothing is held back, counted or stood in for. */
int pf_gate_active(void);

/* Around a launch, as pf_flight_begin and pf_flight_end. */
cu_result pf_gate_begin(struct pf_ticket *ticket, cu_stream stream,
			uint64_t key);
void pf_gate_end(struct pf_ticket *ticket, cu_result result);
void pf_gate_forget(uint64_t key);

/* Around an allocation: 0, or CU_OUT_OF_MEMORY with a word to the user. */
cu_result pf_gate_take(uint64_t bytes);
struct pf_memory *pf_gate_memory(void);

#endif /* PIPEFILL_LAUNCH_GATE_H */
