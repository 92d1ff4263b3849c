/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extended attributes.
 *
 * Concept: one record per attribute in the tree of the attribute fork, found as names in directories are
 * (hash and collision number). A value of up to ASH_XATTR_INLINE_MAX bytes lies in the record. A longer one is
 * written to blocks of its own, never in place: prepare() claims and writes them before the transaction opens
 * (I2), set() logs the claim and frees the blocks of the value that it replaces (I3). Such blocks count
 * in ash_inode.blocks.
 *
 * Distrust (I8): a record is checked by ash_xattr_check() and its extents against the volume before use; a long
 * value must have its checksum.
 *
 * Undo (I9): a call that fails leaves its changes to the abort of the transaction; the caller then gives the
 * prepared blocks back.
 * Locks: the inode's lock owns the fork: shared to read (long values are read under it, so that they
 * cannot be freed meanwhile), exclusive to change. prepare() and unprepare() need none.
 */
#include "xattr.h"

#include <sys/xattr.h>

#include "dir.h"
#include "volume.h"

#define COLLISIONS (1u << ASH_DIR_COLLISION_BITS)
#define RECORD_HEADER ((uint32_t)offsetof(struct ash_xattr_value, name_and_value))
#define EXTERNAL_HEADER ((uint32_t)offsetof(struct ash_xattr_external, extents))
#define EXTENT_SIZE ((uint32_t)sizeof(((struct ash_xattr_external *)0)->extents[0]))
#define RECORD_MAX (RECORD_HEADER + ASH_NAME_MAX + ASH_XATTR_INLINE_MAX)

static_assert(RECORD_MAX <= ASH_TREE_MAX_VALUE, "attribute record");
static_assert(sizeof(struct ash_xattr_external) + ASH_XATTR_MAX_EXTENTS * 12 <= ASH_XATTR_INLINE_MAX, "extent list");
static_assert(ASH_XATTR_SIZE_MAX / ASH_BLOCK_SIZE <= ASH_XATTR_MAX_EXTENTS, "a list of single blocks is enough");

enum { KIND_INLINE, KIND_EXTERNAL };

/* A record taken apart. The extents are copied: they may lie at an odd address behind the name. */
struct attribute {
	uint64_t key;
	const uint8_t *name;
	uint32_t name_length;
	bool external;
	uint32_t size;        /* of the value */
	const uint8_t *value; /* inline */
	uint32_t crc, extent_count, block_count;
	struct ash_extent extents[ASH_XATTR_MAX_EXTENTS];
};

static uint32_t blocks_of(uint32_t size)
{
	return (size + ASH_BLOCK_SIZE - 1) >> ASH_BLOCK_SHIFT;
}

/* ---- Records ---- */

static const char *check_external(const uint8_t *bytes, uint32_t length, uint32_t size)
{
	struct ash_xattr_external external;
	uint32_t extent_count;
	uint64_t blocks = 0;

	if (length < EXTERNAL_HEADER)
		return "attribute record of wrong length";
	memcpy(&external, bytes, EXTERNAL_HEADER);
	extent_count = ash_get32(external.extent_count);
	if (!extent_count || extent_count > ASH_XATTR_MAX_EXTENTS ||
	    length != EXTERNAL_HEADER + extent_count * EXTENT_SIZE)
		return "attribute extent list of wrong length";
	for (uint32_t i = 0; i < extent_count; i++) {
		ash_le32 count;

		memcpy(&count, bytes + EXTERNAL_HEADER + i * EXTENT_SIZE + sizeof(ash_le64), sizeof(count));
		if (!ash_get32(count))
			return "empty attribute extent";
		blocks += ash_get32(count);
	}
	return blocks == blocks_of(size) ? NULL : "attribute extents do not fit the value";
}

const char *ash_xattr_check(const uint8_t *value, uint32_t length)
{
	const struct ash_xattr_value *record = (const void *)value;
	uint32_t size, rest;

	if (length < RECORD_HEADER + 1 || length < RECORD_HEADER + record->name_length)
		return "attribute record of wrong length";
	if (!record->name_length || memchr(record->name_and_value, 0, record->name_length))
		return "attribute without a good name";
	rest = length - RECORD_HEADER - record->name_length;
	size = ash_get32(record->value_length);
	if (record->kind == KIND_INLINE)
		return size == rest && size <= ASH_XATTR_INLINE_MAX ? NULL : "attribute value of wrong length";
	if (record->kind != KIND_EXTERNAL)
		return "attribute of unknown kind";
	if (size <= ASH_XATTR_INLINE_MAX || size > ASH_XATTR_SIZE_MAX)
		return "attribute value of wrong length";
	return check_external(record->name_and_value + record->name_length, rest, size);
}

/* Copy the extents of a checked record. False: outside of the volume. */
static bool decode_external(const struct ash_volume *volume, const uint8_t *bytes, struct attribute *out)
{
	struct ash_xattr_external external;

	memcpy(&external, bytes, EXTERNAL_HEADER);
	out->crc = ash_get32(external.value_crc);
	out->extent_count = ash_get32(external.extent_count);
	out->block_count = blocks_of(out->size);
	for (uint32_t i = 0; i < out->extent_count; i++) {
		struct ash_extent *extent = &out->extents[i];
		ash_le64 start;
		ash_le32 count;

		memcpy(&start, bytes + EXTERNAL_HEADER + i * EXTENT_SIZE, sizeof(start));
		memcpy(&count, bytes + EXTERNAL_HEADER + i * EXTENT_SIZE + sizeof(start), sizeof(count));
		*extent = (struct ash_extent){ ash_get64(start), ash_get32(count) };
		if (!extent->start || extent->start >= volume->block_count ||
		    extent->count > volume->block_count - extent->start)
			return false;
	}
	return true;
}

static int damaged(const struct ash_cursor *cursor, const char *what)
{
	const struct ash_buffer *buffer = cursor->leaf ? cursor->leaf : cursor->tree.buffer;

	return ash_damaged(cursor->tree.volume, buffer->id.block, what);
}

static int decode(const struct ash_cursor *cursor, struct attribute *out)
{
	const struct ash_xattr_value *record = (const void *)cursor->value;
	const char *wrong = ash_xattr_check(cursor->value, cursor->length);

	if (wrong)
		return damaged(cursor, wrong);
	out->key = cursor->key;
	out->name = record->name_and_value;
	out->name_length = record->name_length;
	out->size = ash_get32(record->value_length);
	out->value = out->name + out->name_length;
	out->external = record->kind == KIND_EXTERNAL;
	if (out->external && !decode_external(cursor->tree.volume, out->value, out))
		return damaged(cursor, "attribute extent outside of the volume");
	return 0;
}

/* The record's bytes in `buffer` (RECORD_MAX); their length. */
static uint32_t encode(uint8_t *buffer, const char *name, uint32_t name_length,
		       const struct ash_xattr_prepared *prepared)
{
	struct ash_xattr_value *record = (void *)buffer;
	uint8_t *to = record->name_and_value + name_length;

	*record = (struct ash_xattr_value){
		.name_length = (uint8_t)name_length,
		.kind = prepared->external ? KIND_EXTERNAL : KIND_INLINE,
		.value_length = ash_put32(prepared->size),
	};
	memcpy(record->name_and_value, name, name_length);
	if (!prepared->external) {
		if (prepared->size)
			memcpy(to, prepared->value, prepared->size);
		return RECORD_HEADER + name_length + prepared->size;
	}
	struct ash_xattr_external external = { ash_put32(prepared->crc), ash_put32(prepared->extent_count) };

	memcpy(to, &external, EXTERNAL_HEADER);
	to += EXTERNAL_HEADER;
	for (uint32_t i = 0; i < prepared->extent_count; i++, to += EXTENT_SIZE) {
		ash_le64 start = ash_put64(prepared->extents[i].start);
		ash_le32 count = ash_put32((uint32_t)prepared->extents[i].count);

		memcpy(to, &start, sizeof(start));
		memcpy(to + sizeof(start), &count, sizeof(count));
	}
	return (uint32_t)(to - buffer);
}

/*
 * Search an attribute. 1: found, the cursor stands on it, `out` is filled; 0: not there, and *unused (may be NULL)
 * is the lowest free key of its hash. The caller ends the cursor.
 */
static int search(const struct ash_tree *tree, const char *name, size_t length, struct ash_cursor *cursor,
		  struct attribute *out, uint64_t *unused)
{
	uint64_t base = ash_name_key(tree->volume, name, length), free_key = base;
	int result = ash_tree_seek(tree, base, cursor);

	while (result > 0 && cursor->key - base < COLLISIONS) {
		result = decode(cursor, out);
		if (result)
			return result;
		if (out->name_length == length && !memcmp(out->name, name, length))
			return 1;
		if (cursor->key == free_key)
			free_key++;
		result = ash_tree_next(cursor);
	}
	if (unused)
		*unused = free_key - base < COLLISIONS ? free_key : 0;
	return result < 0 ? result : 0;
}

/* ---- Long values ---- */

static int transfer(struct ash_volume *volume, const struct ash_extent *extents, uint32_t extent_count, uint8_t *buffer,
		    bool write)
{
	int result = 0;

	ash_wait_begin(volume);
	for (uint32_t i = 0; i < extent_count && !result; i++) {
		size_t length = (size_t)extents[i].count << ASH_BLOCK_SHIFT;
		uint64_t offset = extents[i].start << ASH_BLOCK_SHIFT;

		if (write)
			result = bdev_write(volume->dev, buffer, length, offset, 0);
		else
			result = bdev_read(volume->dev, buffer, length, offset);
		buffer += length;
	}
	ash_wait_end(volume);
	return result;
}

static int claim_blocks(struct ash_volume *volume, uint64_t goal, struct ash_xattr_prepared *out)
{
	uint64_t wanted = blocks_of(out->size);

	while (wanted) {
		struct ash_extent *extent = &out->extents[out->extent_count];
		int result = ash_claim(volume, goal, wanted, 0, extent);

		if (result)
			return result;
		out->extent_count++;
		wanted -= extent->count;
		goal = extent->start + extent->count;
	}
	return 0;
}

static int write_value(struct ash_volume *volume, const struct ash_xattr_prepared *prepared)
{
	size_t length = (size_t)blocks_of(prepared->size) << ASH_BLOCK_SHIFT;
	uint8_t *buffer = bdev_buffer_alloc(length);
	int result;

	if (!buffer)
		return -ENOMEM;
	memcpy(buffer, prepared->value, prepared->size);
	result = transfer(volume, prepared->extents, prepared->extent_count, buffer, true);
	if (!result)
		ash_log_note_data(volume);
	bdev_buffer_free(buffer, length);
	return result;
}

int ash_xattr_prepare(struct ash_volume *volume, uint64_t goal, const void *value, uint32_t size,
		      struct ash_xattr_prepared *out)
{
	int result;

	*out = (struct ash_xattr_prepared){ .value = value, .size = size };
	if (size > ASH_XATTR_SIZE_MAX)
		return -E2BIG;
	if (size <= ASH_XATTR_INLINE_MAX)
		return 0;
	out->external = true;
	out->crc = ash_crc32c(volume->checksum_seed, value, size);
	result = claim_blocks(volume, goal, out);
	if (!result)
		result = write_value(volume, out);
	if (result)
		ash_xattr_unprepare(volume, out);
	return result;
}

void ash_xattr_unprepare(struct ash_volume *volume, struct ash_xattr_prepared *prepared)
{
	for (uint32_t i = 0; i < prepared->extent_count; i++)
		ash_unclaim(volume, prepared->extents[i], 0);
	prepared->extent_count = 0;
}

static int read_external(const struct ash_cursor *cursor, const struct attribute *attribute, void *value)
{
	struct ash_volume *volume = cursor->tree.volume;
	size_t length = (size_t)attribute->block_count << ASH_BLOCK_SHIFT;
	uint8_t *buffer = bdev_buffer_alloc(length);
	int result;

	if (!buffer)
		return -ENOMEM;
	result = transfer(volume, attribute->extents, attribute->extent_count, buffer, false);
	if (!result && ash_crc32c(volume->checksum_seed, buffer, attribute->size) != attribute->crc)
		result = ash_damaged(volume, attribute->extents[0].start, "attribute value has a wrong checksum");
	if (!result)
		memcpy(value, buffer, attribute->size);
	bdev_buffer_free(buffer, length);
	return result;
}

static int free_external(struct ash_txn *txn, const struct ash_tree *tree, const struct attribute *attribute)
{
	if (!attribute->external)
		return 0;
	for (uint32_t i = 0; i < attribute->extent_count; i++) {
		int result = ash_free(txn, attribute->extents[i], false);

		if (result)
			return result;
	}
	ash_tree_count_blocks(txn, tree, -(int64_t)attribute->block_count);
	return 0;
}

static int log_external(struct ash_txn *txn, const struct ash_tree *tree, const struct ash_xattr_prepared *prepared)
{
	if (!prepared->external)
		return 0;
	for (uint32_t i = 0; i < prepared->extent_count; i++) {
		int result = ash_alloc_log(txn, prepared->extents[i]);

		if (result)
			return result;
	}
	ash_tree_count_blocks(txn, tree, blocks_of(prepared->size));
	return 0;
}

/* ---- Calls ---- */

int ash_xattr_get(const struct ash_tree *tree, const char *name, void *value, size_t size)
{
	struct ash_cursor cursor = { 0 };
	struct attribute attribute;
	int result = search(tree, name, strlen(name), &cursor, &attribute, NULL);

	if (!result)
		result = -ENODATA;
	if (result > 0) {
		result = 0;
		if (size && attribute.size > size)
			result = -ERANGE;
		else if (size && attribute.external)
			result = read_external(&cursor, &attribute, value);
		else if (size && attribute.size)
			memcpy(value, attribute.value, attribute.size);
		if (!result)
			result = (int)attribute.size;
	}
	ash_cursor_done(&cursor);
	return result;
}

/* listxattr(2) gives ASH_XATTR_SIZE_MAX bytes or nothing, so that is what all names together may have. */
static int check_list_room(const struct ash_tree *tree, size_t name_length)
{
	int used = ash_xattr_list(tree, NULL, 0);

	if (used < 0)
		return used == -E2BIG ? -ENOSPC : used;
	return (size_t)used + name_length + 1 > ASH_XATTR_SIZE_MAX ? -ENOSPC : 0;
}

int ash_xattr_set(struct ash_txn *txn, struct ash_tree *tree, const char *name,
		  const struct ash_xattr_prepared *prepared, int flags)
{
	uint8_t record[RECORD_MAX] __attribute__((aligned(8)));
	size_t name_length = strlen(name);
	struct ash_cursor cursor = { 0 };
	struct attribute old;
	uint64_t unused;
	uint32_t length;
	int result, found;

	if (!name_length || name_length > ASH_NAME_MAX)
		return -ERANGE;
	found = search(tree, name, name_length, &cursor, &old, &unused);
	ash_cursor_done(&cursor);
	if (found < 0)
		return found;
	if (found && flags & XATTR_CREATE)
		return -EEXIST;
	if (!found && flags & XATTR_REPLACE)
		return -ENODATA;
	if (!found && !unused)
		return -ENOSPC;
	result = found ? 0 : check_list_room(tree, name_length);
	if (!result)
		result = log_external(txn, tree, prepared);
	if (!result && found)
		result = free_external(txn, tree, &old);
	if (result)
		return result;
	length = encode(record, name, (uint32_t)name_length, prepared);
	if (found)
		return ash_tree_replace(txn, tree, old.key, record, length);
	return ash_tree_insert(txn, tree, unused, record, length);
}

int ash_xattr_remove(struct ash_txn *txn, struct ash_tree *tree, const char *name)
{
	struct ash_cursor cursor = { 0 };
	struct attribute attribute;
	int result = search(tree, name, strlen(name), &cursor, &attribute, NULL);

	ash_cursor_done(&cursor);
	if (result <= 0)
		return result ? result : -ENODATA;
	result = free_external(txn, tree, &attribute);
	return result ? result : ash_tree_delete(txn, tree, attribute.key);
}

int ash_xattr_list(const struct ash_tree *tree, char *list, size_t size)
{
	struct ash_cursor cursor = { 0 };
	size_t used = 0;
	int result = ash_tree_seek(tree, 0, &cursor);

	while (result > 0) {
		struct attribute attribute;

		result = decode(&cursor, &attribute);
		if (result)
			break;
		if (size && used + attribute.name_length + 1 > size) {
			result = -ERANGE;
			break;
		}
		if (size) {
			memcpy(list + used, attribute.name, attribute.name_length);
			list[used + attribute.name_length] = 0;
		}
		used += attribute.name_length + 1;
		result = ash_tree_next(&cursor);
	}
	ash_cursor_done(&cursor);
	if (!result && used > ASH_XATTR_SIZE_MAX)
		result = -E2BIG; /* XATTR_LIST_MAX: listxattr(2) cannot give more */
	return result ? result : (int)used;
}

int ash_xattr_clear(struct ash_txn *txn, struct ash_tree *tree, uint32_t byte_limit)
{
	for (;;) {
		struct ash_cursor cursor = { 0 };
		struct attribute attribute;
		int result = ash_tree_seek_before(tree, UINT64_MAX, &cursor);

		if (result > 0) {
			int error = decode(&cursor, &attribute);

			result = error ? error : 1;
		}
		ash_cursor_done(&cursor);
		if (result <= 0)
			return result;
		result = free_external(txn, tree, &attribute);
		if (!result)
			result = ash_tree_delete(txn, tree, attribute.key);
		if (result)
			return result;
		/* One attribute at least for each call, so that a chain of calls always gets on. */
		if (ash_txn_bytes(txn) >= byte_limit)
			return tree->buffer->data[tree->kind_offset] != ASH_FORK_EMPTY;
	}
}
