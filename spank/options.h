/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - the value of --pipefill. Pure: no Slurm, no log. */
#ifndef PIPEFILL_OPTIONS_H
#define PIPEFILL_OPTIONS_H

#include <stdint.h>

#include "error.h"

#define PF_OPTIONS_MAX 1024

enum pf_role {
	PF_ROLE_NONE, /* "off" */
	PF_ROLE_MAIN,
	PF_ROLE_FILL,
};

/* Numbers are -1 and strings empty where the user said nothing. */
struct pf_options {
	enum pf_role role;
	int64_t budget_ppm;    /* budget=1% */
	int64_t reserve_bytes; /* reserve=2GiB */
	int64_t share_ppm;     /* share=0.8 */
	char allow[256];       /* allow=user:NAME+account:NAME */
	int move;              /* move=off|on|cache: 0, 1, 2 */
	int64_t mem_bytes;     /* mem=4GiB */
	char profile[256];     /* profile=FILE */
	char deadline[64];     /* deadline=TIME, as Slurm's --deadline */
	char mode[16];         /* mode=signal|chunked */
	int devices;           /* devices=2 */
};

/* Reads text ("" or NULL: a main job without wishes). 0, or -1 and which key,
 * which value, the rule, and the keys there are. */
int pf_options_parse(const char *text, struct pf_options *options,
		     struct pf_error *error);

#endif /* PIPEFILL_OPTIONS_H */
