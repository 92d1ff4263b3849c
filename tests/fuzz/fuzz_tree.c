/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The B+tree against a sorted array: the input is a list of operations on a fork of a file, in transactions that are
 * committed or aborted, with the power cut now and then. The answers must be those of the array.
 *
 * Input: a byte of flags (bit 0: attribute fork; bit 1: ascending keys), then four bytes an operation: what, key, key, size.
 */
#include "fuzz.h"

#include <errno.h>
#include <stdio.h>
#include "fs/btree.h"
#include "fs/inode.h"
#include "fs/volume.h"

#define OPERATIONS_MAX 1500u
#define KEYS 4096u

const struct fuzz_harness fuzz_harness;

/* Values are made from their stamp, so the array need not hold them. */
struct known {
	bool there;
	uint32_t length, stamp;
};

struct run {
	struct image *image;
	struct ash_volume *volume;
	struct ash_record record;
	struct ash_tree tree;
	struct known known[KEYS];
	bool attribute;
	uint32_t stamp;
};

static uint64_t key_of(uint32_t index)
{
	return ((uint64_t)index << 20) + 7;
}

static void value_make(uint8_t value[ASH_TREE_MAX_VALUE], const struct known *known)
{
	for (uint32_t i = 0; i < known->length; i++)
		value[i] = (uint8_t)(known->stamp * 7 + i * 13);
}

static void mount(struct run *run)
{
	struct ash_open_options options = { .no_threads = true, .cache_bytes = 1u << 20, .log = quiet_log };
	char error[BDEV_ERROR_TEXT] = "";

	if (ash_open(run->image->dev, &options, &run->volume, error))
		fuzz_fail("mount: %s", error);
	if (ash_record_get(run->volume, run->image->empty, &run->record))
		fuzz_fail("the inode is not there");
	ash_record_tree(run->volume, &run->record, run->attribute, &run->tree);
}

static void cut(struct run *run)
{
	if (ash_log_force(run->volume, ash_log_end(run->volume)))
		fuzz_fail("the log could not be written");
	ash_record_put(run->volume, &run->record);
	ash_abandon(run->volume);
	mount(run);
}

/* ---- Operations ---- */

static int change(struct run *run, struct ash_txn *txn, unsigned operation, uint32_t index, const struct known *to)
{
	uint8_t value[ASH_TREE_MAX_VALUE];

	value_make(value, to);
	switch (operation) {
	case 0:
		return ash_tree_insert(txn, &run->tree, key_of(index), value, to->length);
	case 1:
		return ash_tree_replace(txn, &run->tree, key_of(index), value, to->length);
	default:
		return ash_tree_delete(txn, &run->tree, key_of(index));
	}
}

static void changing(struct run *run, unsigned operation, uint32_t index, uint32_t length, bool abort)
{
	struct known *known = &run->known[index], to = { operation < 2, length, ++run->stamp };
	int wanted = operation == 0 ? (known->there ? -EEXIST : 0) : (known->there ? 0 : -ENOENT), result;
	struct ash_txn *txn;

	if (ash_txn_begin(run->volume, ASH_TXN_TREE, &txn))
		fuzz_fail("no transaction");
	result = change(run, txn, operation, index, &to);
	if (result == -ENOSPC && !wanted)
		abort = true; /* the claim failed: undone, as any caller does */
	else if (result != wanted)
		fuzz_fail("operation %u of key %u: %d, not %d", operation, index, result, wanted);
	if (abort || result) {
		ash_txn_abort(txn);
		return;
	}
	ash_txn_commit(txn);
	*known = to;
}

static void get(struct run *run, uint32_t index)
{
	const struct known *known = &run->known[index];
	uint8_t value[ASH_TREE_MAX_VALUE], wanted[ASH_TREE_MAX_VALUE];
	int result = ash_tree_get(&run->tree, key_of(index), value, sizeof(value));

	if (result != (known->there ? (int)known->length : -ENOENT))
		fuzz_fail("get of key %u: %d", index, result);
	value_make(wanted, known);
	if (known->there && memcmp(value, wanted, known->length))
		fuzz_fail("key %u has another value", index);
}

static void expect_at(const struct ash_cursor *cursor, int result, const struct run *run, uint32_t index)
{
	if (result < 0 || (result == 1) != (index < KEYS))
		fuzz_fail("the cursor answers %d, and key %u is next", result, index);
	if (result == 1 && (cursor->key != key_of(index) || cursor->length != run->known[index].length))
		fuzz_fail("the cursor is at %llx, not at key %u", (unsigned long long)cursor->key, index);
}

static void seek(struct run *run, uint32_t index)
{
	struct ash_cursor cursor = { 0 };
	uint32_t next = index, before = index;
	int result;

	while (next < KEYS && !run->known[next].there)
		next++;
	result = ash_tree_seek(&run->tree, key_of(index), &cursor);
	expect_at(&cursor, result, run, next);
	ash_cursor_done(&cursor);
	while (before < KEYS && !run->known[before].there)
		before--; /* wraps below zero: none */
	cursor = (struct ash_cursor){ 0 };
	result = ash_tree_seek_before(&run->tree, key_of(index), &cursor);
	expect_at(&cursor, result, run, before < KEYS ? before : KEYS);
	ash_cursor_done(&cursor);
}

static void walk(struct run *run)
{
	struct ash_cursor cursor = { 0 };
	int result = ash_tree_seek(&run->tree, 0, &cursor);

	for (uint32_t index = 0; index <= KEYS; index++) {
		if (index < KEYS && !run->known[index].there)
			continue;
		expect_at(&cursor, result, run, index);
		if (result == 1)
			result = ash_tree_next(&cursor);
	}
	ash_cursor_done(&cursor);
}

/* An empty tree has given back every block. */
static void empty(struct run *run)
{
	for (uint32_t index = 0; index < KEYS; index++)
		if (run->known[index].there)
			changing(run, 2, index, 0, false);
	walk(run);
	if (ash_get64(run->record.inode->blocks))
		fuzz_fail("an empty tree has %llu blocks", (unsigned long long)ash_get64(run->record.inode->blocks));
}

static void step(struct run *run, const uint8_t *bytes, uint32_t ascending)
{
	uint32_t index = ascending ? ascending % KEYS : (uint32_t)(bytes[1] | bytes[2] << 8) % KEYS;
	uint32_t length = bytes[3] * 4u < ASH_TREE_MAX_VALUE ? bytes[3] * 4u : ASH_TREE_MAX_VALUE;
	bool abort = (bytes[0] & 0xf0) == 0xf0;

	switch (bytes[0] % 12) {
	case 0:
	case 1:
	case 2:
	case 3:
	case 4:
		changing(run, 0, index, length, abort);
		break;
	case 5:
		changing(run, 1, index, length, abort);
		break;
	case 6:
	case 7:
	case 8:
		changing(run, 2, index, 0, abort);
		break;
	case 9:
		get(run, index);
		break;
	case 10:
		seek(run, index);
		break;
	default:
		if (abort)
			cut(run);
		else if (bytes[3] == 0xff)
			walk(run);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct run run;
	bool ascending = size && data[0] & 2;
	uint32_t count = 0;

	memset(&run, 0, sizeof(run));
	run.image = fuzz_image(true);
	run.attribute = size && data[0] & 1;
	mount(&run);
	for (size_t at = 1; at + 4 <= size && count < OPERATIONS_MAX; at += 4)
		step(&run, data + at, ascending ? ++count : (count++, 0));
	walk(&run);
	cut(&run);
	walk(&run);
	empty(&run);
	ash_record_put(run.volume, &run.record);
	ash_abandon(run.volume);
	return 0;
}
