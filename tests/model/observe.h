/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a whole volume into a model, and comparing two models.
 */
#ifndef TESTS_MODEL_OBSERVE_H
#define TESTS_MODEL_OBSERVE_H

#include "model.h"

/*
 * Walk everything reachable: attributes, names, targets, attribute values, data. `out` is filled also on failure.
 * 0, or negative errno with what failed in `text`. Reading must not update access times: open with ASH_ATIME_NONE.
 */
int observe(struct ash_volume *volume, struct model *out, char *text, size_t size);

#define COMPARE_CONTENT 1u    /* sizes and data of files must be equal */
#define COMPARE_REFERENCED 2u /* unlinked nodes that the test holds count as well */

/* Is `observed` what `expected` says? A node without links is not expected to be seen. */
bool models_equal(const struct model *expected, const struct model *observed, unsigned what, char *text, size_t size);
/* All but size, data and time stamps, for one pair. */
bool nodes_equal(const struct model_node *expected, const struct model_node *observed, char *text, size_t size);
bool times_equal(const struct model_node *expected, const struct model_node *observed, char *text, size_t size);

#endif
