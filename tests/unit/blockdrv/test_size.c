/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes as people write them. */
#include <ashlar/blockdev.h>
#include <criterion/criterion.h>

#include <errno.h>

static const struct {
	const char *text;
	int result;
	uint64_t size;
} cases[] = {
	{ "0", 0, 0 },
	{ "4096", 0, 4096 },
	{ "4096B", 0, 4096 },
	{ "10k", 0, 10240 },
	{ "10K", 0, 10240 },
	{ "512M", 0, 512ull << 20 },
	{ "512MB", 0, 512ull << 20 },
	{ "4GiB", 0, 4ull << 30 },
	{ "4gib", 0, 4ull << 30 },
	{ "3T", 0, 3ull << 40 },
	{ "2P", 0, 2ull << 50 },
	{ "15E", 0, 15ull << 60 },
	{ "16E", -ERANGE, 0 },
	{ "18446744073709551615", 0, UINT64_MAX },
	{ "18446744073709551616", -ERANGE, 0 },
	{ "99999999999999999999999", -ERANGE, 0 },
	{ "", -EINVAL, 0 },
	{ "k", -EINVAL, 0 },
	{ "-1", -EINVAL, 0 },
	{ "+1", -EINVAL, 0 },
	{ " 1", -EINVAL, 0 },
	{ "1 ", -EINVAL, 0 },
	{ "1.5G", -EINVAL, 0 },
	{ "1x", -EINVAL, 0 },
	{ "1iB", -EINVAL, 0 },
	{ "1Ki", -EINVAL, 0 },
	{ "1KiBx", -EINVAL, 0 },
	{ "0x10", -EINVAL, 0 },
};

Test(size, table)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t size = 77;
		int result = bdev_parse_size(cases[i].text, &size);

		cr_expect_eq(result, cases[i].result, "'%s' gives %d", cases[i].text, result);
		cr_expect_eq(size, result ? 77 : cases[i].size, "'%s'", cases[i].text);
	}
}
