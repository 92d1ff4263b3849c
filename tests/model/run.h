/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running operations on a volume and on the model side by side.
 *
 * The clock of the core is replaced (link option --wrap=ash_now): it stands at the time of the running operation,
 * so that images and time stamps are reproducible.
 */
#ifndef TESTS_MODEL_RUN_H
#define TESTS_MODEL_RUN_H

#include "model.h"

#define RUN_FAILURE_TEXT 1024

struct runner {
	struct ash_volume *volume;
	struct model *model;
	uint64_t index;      /* of the next operation */
	int64_t clock;       /* ns */
	bool may_be_full;    /* -ENOSPC is an acceptable answer */
	uint64_t full_count; /* -ENOSPC answers so far */
	char failure[RUN_FAILURE_TEXT];
};

/* Set what ash_now() answers. */
void test_clock_set(int64_t ns);

/* Call the volume API; fills op->result and op->result_ino. `attr` and `data` (of op->length bytes) may be NULL. */
int64_t run_on_volume(struct ash_volume *volume, struct op *op, struct ash_attr *attr, void *data);

/* The second half of runner_do(): apply to the model what the volume answered (`attr`, `data`), and compare. */
bool runner_judge(struct runner *runner, struct op *op, const struct ash_attr *attr, const void *data);

/* Do it on both and compare. False: runner->failure says why. */
bool runner_do(struct runner *runner, struct op *op);

/* Do the attributes fit the node? `text` gets the difference. */
bool attributes_fit(const struct model_node *node, const struct ash_attr *attr, char *text, size_t size);

#endif
