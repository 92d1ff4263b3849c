/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For a daemon that is linked with --wrap=bdev_open: a device of which each flush, each discard or each write takes
 * its time: ASHLAR_TEST_FLUSH_MS, ASHLAR_TEST_DISCARD_MS, ASHLAR_TEST_WRITE_US, the first that is set.
 */
#include "tests/support/delay.h"

#include <stdlib.h>

int __real_bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);
int __wrap_bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);

/* The rule that the environment asks for; without one it is of no operation. */
static struct delay_rule wanted(void)
{
	static const struct {
		const char *name;
		unsigned op;
		uint64_t unit_ns;
	} delays[] = {
		{ "ASHLAR_TEST_FLUSH_MS", BDEV_FLUSH, 1000000 },
		{ "ASHLAR_TEST_DISCARD_MS", BDEV_DISCARD, 1000000 },
		{ "ASHLAR_TEST_WRITE_US", BDEV_WRITE, 1000 },
	};
	struct delay_rule rule = { 0 };

	for (size_t i = 0; i < sizeof(delays) / sizeof(delays[0]) && !rule.ops; i++) {
		const char *value = getenv(delays[i].name);

		if (value)
			rule = (struct delay_rule){ .ops = DELAY_OP(delays[i].op),
						    .nanoseconds = strtoull(value, NULL, 10) * delays[i].unit_ns };
	}
	return rule;
}

int __wrap_bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error)
{
	const struct delay_rule rule = wanted();
	struct bdev *dev;
	int result = __real_bdev_open(name, options, &dev, error);

	if (result || !rule.ops) {
		*out = dev;
		return result;
	}
	result = delay_open(dev, out);
	if (!result)
		delay_set(*out, &rule);
	return result;
}
