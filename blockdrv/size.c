/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sizes as people write them: digits, then optionally one of K M G T P E (any case), then
 * optionally "B" or "iB". All are powers of 1024, as in e2fsprogs and xfsprogs.
 *
 * Locking: none, no state.
 */
#include <ashlar/blockdev.h>

#include <errno.h>
#include <string.h>
#include <strings.h>

static int parse_digits(const char **text, uint64_t *out)
{
	const char *at = *text;
	uint64_t value = 0;

	if (*at < '0' || *at > '9')
		return -EINVAL;
	for (; *at >= '0' && *at <= '9'; at++) {
		if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
			return -ERANGE;
	}
	*text = at;
	*out = value;
	return 0;
}

int bdev_parse_size(const char *text, uint64_t *out)
{
	static const char units[] = "kmgtpe";
	const char *unit;
	uint64_t value;
	unsigned shift = 0;
	int result;

	result = parse_digits(&text, &value);
	if (result)
		return result;
	unit = *text ? strchr(units, *text | 0x20) : NULL;
	if (unit) {
		shift = 10 * (unsigned)(unit - units + 1);
		text++;
	}
	if (*text && strcasecmp(text, "b") != 0 && !(unit && strcasecmp(text, "ib") == 0))
		return -EINVAL;
	if (shift && value > (UINT64_MAX >> shift))
		return -ERANGE;
	*out = value << shift;
	return 0;
}
