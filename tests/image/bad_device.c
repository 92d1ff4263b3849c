/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For a tool that is linked with --wrap=bdev_open: a device of which some ranges cannot be read, as ASHLAR_TEST_BAD
 * says: "OFFSET:LENGTH,..." in bytes.
 */
#include "tests/support/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int __real_bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);
int __wrap_bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);

static int add_rules(struct bdev *dev, const char *list)
{
	int result = 0;

	while (list && !result) {
		struct fault_rule rule = { .ops = FAULT_OP(BDEV_READ) };

		if (sscanf(list, "%lu:%lu", &rule.offset, &rule.length) != 2)
			abort();
		result = fault_add(dev, &rule);
		list = strchr(list, ',');
		list = list ? list + 1 : NULL;
	}
	return result;
}

int __wrap_bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error)
{
	struct bdev *dev;
	int result = __real_bdev_open(name, options, &dev, error);

	if (!result)
		result = fault_open(dev, out);
	return result ? result : add_rules(*out, getenv("ASHLAR_TEST_BAD"));
}
