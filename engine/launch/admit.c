/* SPDX-License-Identifier: Apache-2.0 */
/* admit.c - whether a launch may go to the device now. */
#include "admit.h"

#define MARGIN_MOST_NS 5000000u
#define MARGIN_STEP_NS 100000u /* up by 199/200 of it, down by 1/200 */

enum pf_admit_answer pf_admit_decide(const struct pf_admit_limits *limits,
				     const struct pf_admit *launch)
{
	uint64_t wanted_ns =
		launch->queued_ns + launch->need_ns + launch->margin_ns;

	if (launch->left_ns <= 0 || wanted_ns > (uint64_t) launch->left_ns)
		return PF_ADMIT_NEXT;
	if (!launch->groups)
		return PF_ADMIT_GO;
	if (launch->alone)
		return PF_ADMIT_LATER;
	if (launch->queued_ns + launch->need_ns > limits->window_ns)
		return PF_ADMIT_LATER;
	if (!launch->joins && launch->groups >= limits->groups)
		return PF_ADMIT_LATER;
	return PF_ADMIT_GO;
}

uint64_t pf_admit_margin(uint64_t margin_ns, int late)
{
	if (late) {
		margin_ns += MARGIN_STEP_NS / 200 * 199;
		return margin_ns < MARGIN_MOST_NS ? margin_ns : MARGIN_MOST_NS;
	}
	return margin_ns > MARGIN_STEP_NS / 200
		       ? margin_ns - MARGIN_STEP_NS / 200
		       : 0;
}
