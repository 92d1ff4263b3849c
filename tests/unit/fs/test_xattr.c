/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Extended attributes on a volume in memory: short and long values, flags, lists, freeing, and damage (I8). */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/xattr.h>

#include "fs/xattr.h"
#include "tree_fixture.h"

static void fill(uint8_t *value, uint32_t size, uint64_t seed)
{
	for (uint32_t i = 0; i < size; i++)
		value[i] = (uint8_t)fixture_random(&seed);
}

static int set_bytes(struct fixture *fixture, const char *name, const void *value, uint32_t size, int flags)
{
	struct ash_xattr_prepared prepared;
	struct ash_txn *txn;
	int result = ash_xattr_prepare(fixture->volume, 0, value, size, &prepared);

	if (result)
		return result;
	txn = fixture_begin(fixture, ASH_TXN_NAME);
	result = ash_xattr_set(txn, &fixture->attr, name, &prepared, flags);
	if (!result) {
		ash_txn_commit(txn);
		return 0;
	}
	ash_txn_abort(txn);
	ash_xattr_unprepare(fixture->volume, &prepared);
	return result;
}

static int set(struct fixture *fixture, const char *name, uint32_t size, uint64_t seed, int flags)
{
	static uint8_t value[ASH_XATTR_SIZE_MAX + 1];

	fill(value, size, seed);
	return set_bytes(fixture, name, value, size, flags);
}

static void expect(struct fixture *fixture, const char *name, uint32_t size, uint64_t seed)
{
	static uint8_t value[ASH_XATTR_SIZE_MAX], expected[ASH_XATTR_SIZE_MAX];

	fill(expected, size, seed);
	memset(value, 0xee, sizeof(value));
	cr_assert_eq(ash_xattr_get(&fixture->attr, name, NULL, 0), (int)size);
	cr_assert_eq(ash_xattr_get(&fixture->attr, name, value, sizeof(value)), (int)size);
	cr_assert_eq(memcmp(value, expected, size), 0, "%s of %u bytes", name, size);
	if (size)
		cr_assert_eq(ash_xattr_get(&fixture->attr, name, value, size), (int)size);
	if (size > 1)
		cr_assert_eq(ash_xattr_get(&fixture->attr, name, value, size - 1), -ERANGE);
}

static int drop(struct fixture *fixture, const char *name)
{
	struct ash_txn *txn = fixture_begin(fixture, ASH_TXN_NAME);
	int result = ash_xattr_remove(txn, &fixture->attr, name);

	if (result)
		ash_txn_abort(txn);
	else
		ash_txn_commit(txn);
	return result;
}

Test(xattr, values_of_all_sizes_and_every_change_between_them, .timeout = 60)
{
	static const uint32_t sizes[] = { 0, 1, 60, 511, 512, 513, 4095, 4096, 4097, 12288, 65535, 65536 };
	const unsigned count = sizeof(sizes) / sizeof(sizes[0]);
	struct fixture fixture;
	uint64_t free_blocks;

	fixture_open(&fixture, "mem:64M");
	free_blocks = fixture_free(&fixture);
	for (unsigned from = 0; from < count; from++)
		for (unsigned to = 0; to < count; to++) {
			cr_assert_eq(set(&fixture, "user.a", sizes[from], from, 0), 0);
			expect(&fixture, "user.a", sizes[from], from);
			cr_assert_eq(set(&fixture, "user.a", sizes[to], 100 + to, XATTR_REPLACE), 0);
			expect(&fixture, "user.a", sizes[to], 100 + to);
		}
	cr_assert_eq(drop(&fixture, "user.a"), 0);
	cr_assert_eq(fixture_blocks(&fixture), 0);
	cr_assert_eq(fixture_free(&fixture), free_blocks);
	fixture_close(&fixture);
}

Test(xattr, flags)
{
	struct fixture fixture;

	fixture_open(&fixture, "mem:16M");
	cr_assert_eq(set(&fixture, "user.a", 10, 1, XATTR_REPLACE), -ENODATA);
	cr_assert_eq(set(&fixture, "user.a", 10, 1, XATTR_CREATE), 0);
	cr_assert_eq(set(&fixture, "user.a", 20, 2, XATTR_CREATE), -EEXIST);
	expect(&fixture, "user.a", 10, 1);
	cr_assert_eq(set(&fixture, "user.a", 20, 2, XATTR_REPLACE), 0);
	expect(&fixture, "user.a", 20, 2);
	cr_assert_eq(drop(&fixture, "user.b"), -ENODATA);
	cr_assert_eq(ash_xattr_get(&fixture.attr, "user.b", NULL, 0), -ENODATA);
	fixture_close(&fixture);
}

Test(xattr, too_long_values_and_names)
{
	struct fixture fixture;
	char name[300];

	fixture_open(&fixture, "mem:16M");
	cr_assert_eq(set(&fixture, "user.a", ASH_XATTR_SIZE_MAX + 1, 1, 0), -E2BIG);
	memset(name, 'n', sizeof(name));
	name[256] = 0;
	cr_assert_eq(set(&fixture, name, 1, 1, 0), -ERANGE);
	cr_assert_eq(set(&fixture, "", 1, 1, 0), -ERANGE);
	name[255] = 0;
	cr_assert_eq(set(&fixture, name, 512, 1, 0), 0);
	expect(&fixture, name, 512, 1);
	cr_assert_eq(set(&fixture, name, 65536, 2, 0), 0);
	expect(&fixture, name, 65536, 2);
	fixture_close(&fixture);
}

/* More than listxattr(2) can give would hide all of them. */
Test(xattr, names_fit_a_list)
{
	static char list[ASH_XATTR_SIZE_MAX];
	struct fixture fixture;
	char name[300];
	int result;

	fixture_open(&fixture, "mem:16M");
	memset(name, 'n', sizeof(name));
	for (unsigned i = 0; i < ASH_XATTR_SIZE_MAX / 256; i++) {
		snprintf(name + 247, 9, "%08u", i);
		cr_assert_eq(set(&fixture, name, 1, i, XATTR_CREATE), 0, "number %u", i);
	}
	cr_assert_eq(set(&fixture, name, 2, 7, XATTR_REPLACE), 0);
	cr_assert_eq(set(&fixture, "", 1, 1, 0), -ERANGE);
	result = set(&fixture, "user.one.too.many", 1, 1, 0);
	cr_assert_eq(result, -ENOSPC);
	cr_assert_eq(ash_xattr_list(&fixture.attr, list, sizeof(list)), ASH_XATTR_SIZE_MAX);
	fixture_close(&fixture);
}

/* A refused set gives the blocks of the long value back (I9). */
Test(xattr, a_refused_long_value_costs_nothing)
{
	struct fixture fixture;
	uint64_t free_blocks;

	fixture_open(&fixture, "mem:16M");
	free_blocks = fixture_free(&fixture);
	for (unsigned i = 0; i < 1000; i++)
		cr_assert_eq(set(&fixture, "user.a", 65536, 1, XATTR_REPLACE), -ENODATA);
	cr_assert_eq(fixture_free(&fixture), free_blocks);
	cr_assert_eq(fixture_blocks(&fixture), 0);
	fixture_close(&fixture);
}

Test(xattr, list)
{
	struct fixture fixture;
	char list[200];
	int length;

	fixture_open(&fixture, "mem:16M");
	cr_assert_eq(ash_xattr_list(&fixture.attr, NULL, 0), 0);
	set(&fixture, "user.one", 5, 1, 0);
	set(&fixture, "trusted.two", 5000, 1, 0);
	length = ash_xattr_list(&fixture.attr, NULL, 0);
	cr_assert_eq(length, 9 + 12);
	cr_assert_eq(ash_xattr_list(&fixture.attr, list, 20), -ERANGE);
	cr_assert_eq(ash_xattr_list(&fixture.attr, list, 21), 21);
	cr_assert(!strcmp(list, "user.one") || !strcmp(list, "trusted.two"));
	cr_assert(!strcmp(list + strlen(list) + 1, "user.one") || !strcmp(list + strlen(list) + 1, "trusted.two"));
	cr_assert_str_neq(list, list + strlen(list) + 1);
	fixture_close(&fixture);
}

Test(xattr, many_attributes_and_clear_in_pieces, .timeout = 60)
{
	struct fixture fixture;
	uint64_t free_blocks;
	unsigned pieces = 0;
	int more = 1;

	fixture_open(&fixture, "mem:64M");
	free_blocks = fixture_free(&fixture);
	for (unsigned i = 0; i < 400; i++) {
		char name[32];

		snprintf(name, sizeof(name), "user.attribute%u", i);
		cr_assert_eq(set(&fixture, name, i % 10 ? i : i * 100, i, 0), 0);
	}
	for (unsigned i = 0; i < 400; i++) {
		char name[32];

		snprintf(name, sizeof(name), "user.attribute%u", i);
		expect(&fixture, name, i % 10 ? i : i * 100, i);
	}
	while (more) {
		struct ash_txn *txn = fixture_begin(&fixture, ASH_TXN_RENAME);

		more = ash_xattr_clear(txn, &fixture.attr, 2000);
		cr_assert(more >= 0);
		cr_assert(ash_txn_bytes(txn) < ASH_TXN_RENAME);
		ash_txn_commit(txn);
		pieces++;
	}
	cr_assert(pieces > 3);
	cr_assert_eq(ash_xattr_list(&fixture.attr, NULL, 0), 0);
	cr_assert_eq(fixture_blocks(&fixture), 0);
	cr_assert_eq(fixture_free(&fixture), free_blocks);
	fixture_close(&fixture);
}

Test(xattr, an_aborted_change_leaves_the_old_value)
{
	struct fixture fixture;
	struct ash_xattr_prepared prepared;
	struct ash_txn *txn;
	uint8_t value[3000] = { 7 };
	uint64_t free_blocks;

	fixture_open(&fixture, "mem:16M");
	cr_assert_eq(set(&fixture, "user.a", 9000, 1, 0), 0);
	free_blocks = fixture_free(&fixture);
	cr_assert_eq(ash_xattr_prepare(fixture.volume, 0, value, sizeof(value), &prepared), 0);
	txn = fixture_begin(&fixture, ASH_TXN_NAME);
	cr_assert_eq(ash_xattr_set(txn, &fixture.attr, "user.a", &prepared, 0), 0);
	ash_txn_abort(txn);
	ash_xattr_unprepare(fixture.volume, &prepared);
	expect(&fixture, "user.a", 9000, 1);
	cr_assert_eq(fixture_free(&fixture), free_blocks);
	fixture_close(&fixture);
}

/* ---- Damage ---- */

Test(xattr, a_changed_long_value_is_noticed)
{
	struct fixture fixture;
	uint8_t *block = bdev_buffer_alloc(ASH_BLOCK_SIZE), record[ASH_TREE_MAX_VALUE];
	struct ash_cursor cursor = { 0 };
	ash_le64 start;
	static uint8_t value[9000];

	fixture_open(&fixture, "mem:16M");
	cr_assert_eq(set(&fixture, "user.a", 9000, 1, 0), 0);
	cr_assert_eq(ash_tree_seek(&fixture.attr, 0, &cursor), 1);
	cr_assert_eq(ash_tree_get(&fixture.attr, cursor.key, record, sizeof(record)), 8 + 6 + 8 + 12);
	ash_cursor_done(&cursor);
	memcpy(&start, record + 8 + 6 + 8, 8);
	cr_assert_eq(bdev_read(fixture.dev, block, ASH_BLOCK_SIZE, ash_get64(start) * ASH_BLOCK_SIZE), 0);
	block[100] ^= 1;
	cr_assert_eq(bdev_write(fixture.dev, block, ASH_BLOCK_SIZE, ash_get64(start) * ASH_BLOCK_SIZE, 0), 0);
	cr_assert_eq(ash_xattr_get(&fixture.attr, "user.a", value, sizeof(value)), -EUCLEAN);
	cr_assert_eq(ash_xattr_get(&fixture.attr, "user.a", NULL, 0), 9000);
	bdev_buffer_free(block, ASH_BLOCK_SIZE);
	fixture_close(&fixture);
}

Test(xattr, extents_outside_of_the_volume_are_refused)
{
	struct fixture fixture;
	uint8_t record[ASH_TREE_MAX_VALUE];
	struct ash_cursor cursor = { 0 };
	struct ash_txn *txn;
	int length;

	fixture_open(&fixture, "mem:16M");
	cr_assert_eq(set(&fixture, "user.a", 9000, 1, 0), 0);
	cr_assert_eq(ash_tree_seek(&fixture.attr, 0, &cursor), 1);
	length = ash_tree_get(&fixture.attr, cursor.key, record, sizeof(record));
	record[8 + 6 + 8 + 5] = 0x7f;
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_tree_replace(txn, &fixture.attr, cursor.key, record, (uint32_t)length), 0);
	ash_txn_commit(txn);
	ash_cursor_done(&cursor);
	cr_assert_eq(ash_xattr_get(&fixture.attr, "user.a", NULL, 0), -EUCLEAN);
	txn = fixture_begin(&fixture, ASH_TXN_TREE);
	cr_assert_eq(ash_xattr_remove(txn, &fixture.attr, "user.a"), -EUCLEAN);
	ash_txn_abort(txn);
	fixture_close(&fixture);
}

Test(xattr_check, never_reads_behind_the_record)
{
	uint64_t random = 6;

	for (unsigned round = 0; round < 300000; round++) {
		uint32_t length = (uint32_t)(fixture_random(&random) % 60);
		uint8_t *exact = malloc(length ? length : 1);

		for (uint32_t i = 0; i < length; i++)
			exact[i] = (uint8_t)(fixture_random(&random) % (i < 8 ? 6 : 256));
		ash_xattr_check(exact, length);
		free(exact);
	}
}

Test(xattr_check, names_what_is_wrong)
{
	uint8_t good[] = { 1, 0, 0, 0, 2, 0, 0, 0, 'n', 'v', 'w' };

	cr_assert_null(ash_xattr_check(good, 11));
	cr_assert_str_eq(ash_xattr_check(good, 10), "attribute value of wrong length");
	cr_assert_str_eq(ash_xattr_check(good, 8), "attribute record of wrong length");
	good[1] = 2;
	cr_assert_str_eq(ash_xattr_check(good, 11), "attribute of unknown kind");
	good[1] = 1;
	cr_assert_str_eq(ash_xattr_check(good, 11), "attribute value of wrong length");
	good[5] = 4;
	cr_assert_str_eq(ash_xattr_check(good, 11), "attribute record of wrong length");
	good[0] = 0;
	cr_assert_str_eq(ash_xattr_check(good, 11), "attribute without a good name");
}
