/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For a daemon that is linked with --wrap=bdev_open: a device whose flush takes ASHLAR_TEST_FLUSH_MS milliseconds, or
 * whose discard takes ASHLAR_TEST_DISCARD_MS.
 */
#include "tests/support/delay.h"

#include <stdlib.h>

int __real_bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);
int __wrap_bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);

int __wrap_bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error)
{
	const char *flush = getenv("ASHLAR_TEST_FLUSH_MS"), *discard = getenv("ASHLAR_TEST_DISCARD_MS");
	const char *milliseconds = discard ? discard : flush;
	struct delay_rule rule = { .ops = DELAY_OP(discard ? BDEV_DISCARD : BDEV_FLUSH) };
	struct bdev *dev;
	int result = __real_bdev_open(name, options, &dev, error);

	if (result || !milliseconds) {
		*out = dev;
		return result;
	}
	rule.nanoseconds = strtoull(milliseconds, NULL, 10) * 1000000u;
	result = delay_open(dev, out);
	if (!result)
		delay_set(*out, &rule);
	return result;
}
