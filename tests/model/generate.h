/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Random operations that make sense for a model: names and inodes are mostly such as exist, arguments mostly valid,
 * errors of every kind now and then. The same seed gives the same operations as long as the volume answers the same.
 */
#ifndef TESTS_MODEL_GENERATE_H
#define TESTS_MODEL_GENERATE_H

#include "model.h"

struct generator {
	uint64_t state;
	uint32_t next_pattern;
	uint64_t data_limit; /* bytes of file data to stay below */
	unsigned names;      /* different names in a directory */
	bool no_far_offsets; /* no sparse files at huge offsets */
	bool no_sync;        /* the caller decides when to sync */
	uint64_t without;    /* bit set: leave this kind of operation out */
};

void generator_init(struct generator *generator, uint64_t seed);
uint64_t generator_next(struct generator *generator);
/* Number in [0, limit). */
uint64_t generator_below(struct generator *generator, uint64_t limit);
/* The next operation. op_free() it. */
void generate(struct generator *generator, const struct model *model, struct op *op);

#endif
