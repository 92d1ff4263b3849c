/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * In-core inodes come and go; lookup counts are exact and cheap, also in great number. The core's calloc() is wrapped
 * (meson.build): it refuses memory on demand.
 */
#include <malloc.h>

#include "fs/names.h"
#include "names_fixture.h"

static bool no_memory;

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);

void *__wrap_calloc(size_t count, size_t size)
{
	return no_memory ? NULL : __real_calloc(count, size);
}

Test(icache, memory_is_not_a_function_of_lookups)
{
	struct ash_attr attr;
	struct ash_counters counters;
	struct names names;
	char name[16];

	names_open(&names, "mem:256M", false);
	for (int i = 0; i < 20000; i++) {
		struct ash_create create = { .mode = S_IFREG | 0644 };

		snprintf(name, sizeof(name), "%d", i);
		cr_assert_eq(ash_create(names.volume, 1, name, &create, &attr), 0);
	}
	ash_counters(names.volume, &counters);
	cr_assert_leq(counters.inodes_in_core, 64u * 32);
	names_close(&names);
}

Test(icache, one_in_core_inode_for_a_number)
{
	struct ash_icore *a, *b;
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	cr_assert_eq(ash_icore_get(names.volume, f, &a), 0);
	cr_assert_eq(ash_icore_get(names.volume, f, &b), 0);
	cr_assert_eq(a, b);
	ash_icore_put(names.volume, a);
	ash_icore_put(names.volume, b);
	cr_assert_eq(ash_icore_get(names.volume, 0, &a), -ESTALE);
	cr_assert_eq(ash_icore_get(names.volume, 250, &a), -ESTALE);
	names_close(&names);
}

/* Against a plain array: random additions and removals on numbers that fall together. */
Test(icache, lookup_counts_are_exact)
{
	static uint32_t model[5000];
	struct names names;
	uint64_t random = 1;

	names_open(&names, "mem:64M", false);
	for (int i = 0; i < 400000; i++) {
		uint32_t at, count;

		random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
		at = (uint32_t)(random >> 33) % 5000;
		count = (uint32_t)(random >> 50) % 4;
		if (i < 200000 ? count : !count) {
			cr_assert_eq(ash_lookup_take(names.volume, 1000 + at * 64ull, count), 0);
			model[at] += count;
		} else {
			uint32_t drop = count < model[at] ? count : model[at];

			cr_assert_eq(ash_lookup_drop(names.volume, 1000 + at * 64ull, drop), model[at] - drop);
			model[at] -= drop;
		}
	}
	for (uint32_t at = 0; at < 5000; at++)
		cr_assert_eq(ash_lookup_count(names.volume, 1000 + at * 64ull), model[at], "%u", at);
	names_close(&names);
}

Test(icache, three_million_lookups_cost_little_and_give_it_back, .timeout = 120)
{
	struct mallinfo2 before, full, after;
	struct names names;

	names_open(&names, "mem:64M", false);
	before = mallinfo2();
	for (uint64_t i = 0; i < 3000000; i++)
		cr_assert_eq(ash_lookup_take(names.volume, 1000 + i, 1), 0);
	full = mallinfo2();
	cr_assert_lt(full.uordblks + full.hblkhd - before.uordblks - before.hblkhd, 3000000u * 32);
	for (uint64_t i = 0; i < 3000000; i++)
		cr_assert_eq(ash_lookup_drop(names.volume, 1000 + i, 1), 0u);
	after = mallinfo2();
	cr_assert_lt(after.uordblks + after.hblkhd, before.uordblks + before.hblkhd + 1000000);
	names_close(&names);
}

/* Who would answer with the inode fails instead (I9): nobody has it, and it is freed with its last name. */
Test(icache, a_count_without_memory_is_refused)
{
	struct ash_attr attr;
	struct names names;
	uint64_t f, used;

	names_open(&names, "mem:64M", false);
	used = names_used_inodes(&names);
	f = names_file(&names, 1, "f");
	names_remount(&names); /* no memory for counts yet */
	no_memory = true;
	cr_expect_eq(ash_lookup_take(names.volume, f, 1), -ENOMEM);
	no_memory = false;
	cr_expect_eq(ash_lookup_count(names.volume, f), 0u);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	cr_expect_eq(ash_getattr(names.volume, f, &attr), -ESTALE);
	cr_expect_eq(names_used_inodes(&names), used);
	names_close(&names);
}
