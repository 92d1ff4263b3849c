/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 1 for the two forks of an inode: extents, tree blocks, attributes. Every block that a fork uses is marked in
 * the map of found blocks; a block marked before goes to the map of those claimed twice (claim.c finds
 * the owners). What is wrong is reported once, and the fork is put on the list of rebuilds, which takes
 * only what is right (rebuild.c uses the same *_wrong functions). No locks: one thread.
 */
#include "internal.h"

#include <stdlib.h>
#include "fs/names.h"
#include "fs/xattr.h"

struct fork_walk {
	struct checker *checker;
	uint64_t ino;
	const struct ash_inode *record;
	struct fork_result *result;
	bool attribute, directory, quiet;
	uint64_t floor;     /* first file block not yet mapped */
	uint64_t eof_block; /* first file block wholly behind the end of file */
	struct name_set set;
};

/* The table's own may come before there is a state of any inode, among few others. */
static bool table_is_scheduled(const struct checker *checker)
{
	for (size_t i = 0; i < checker->rebuilds.count; i++)
		if (checker->rebuilds.items[i].ino == ASH_INO_TABLE)
			return true;
	return false;
}

/* Once: what is added to a directory would be added again. */
int rebuild_schedule(struct checker *checker, uint64_t ino, bool attribute)
{
	uint8_t scheduled = attribute ? INODE_REBUILD_ATTRIBUTE : INODE_REBUILD_DATA;

	if (ino == ASH_INO_TABLE)
		return table_is_scheduled(checker) ? 0 :
						     LIST_ADD(&checker->rebuilds, (struct rebuild){ ino, attribute });
	if (inode_state(checker, ino) & scheduled)
		return 0;
	if (inode_state_add(checker, ino, scheduled))
		return -ENOMEM;
	return LIST_ADD(&checker->rebuilds, (struct rebuild){ ino, attribute });
}

uint64_t name_key(const struct checker *checker, const void *name, size_t length)
{
	uint64_t hash = ash_siphash(checker->super->hash_key, name, length) >> 9;

	return (hash ? hash : 1) << ASH_DIR_COLLISION_BITS;
}

/* Names of equal hash follow each other in a tree, so that only those need be remembered. */
int name_set_add(struct checker *checker, struct name_set *set, uint64_t key, const uint8_t *name, uint8_t length,
		 bool *seen)
{
	uint64_t hash = key & ~KEY_COLLISION_MASK;

	*seen = false;
	if (!checker->names)
		checker->names = malloc(256 << ASH_DIR_COLLISION_BITS);
	if (!checker->names)
		return -ENOMEM;
	if (set->hash != hash) {
		set->hash = hash;
		set->used = 0;
	}
	for (uint32_t at = 0; at < set->used; at += 1u + checker->names[at])
		if (checker->names[at] == length && !memcmp(checker->names + at + 1, name, length)) {
			*seen = true;
			return 0;
		}
	checker->names[set->used] = length;
	memcpy(checker->names + set->used + 1, name, length);
	set->used += 1u + length;
	return 0;
}

/* Report (unless quiet) and schedule the fork for a rebuild. */
static int fork_problem(struct fork_walk *walk, enum problem_code code, struct problem_context *context)
{
	walk->result->damaged = true;
	context->ino = walk->ino;
	if (walk->quiet || !problem(walk->checker, code, context))
		return 0;
	return rebuild_schedule(walk->checker, walk->ino, walk->attribute);
}

static int mark(struct fork_walk *walk, uint64_t start, uint64_t count)
{
	struct checker *checker = walk->checker;
	uint64_t hits = 0;
	int result = map_set(&checker->found, start, count, &checker->twice, &hits);

	checker->twice_count += hits;
	walk->result->blocks += count;
	return result;
}

static int fork_node(void *context, uint64_t block)
{
	return mark(context, block, 1);
}

static int fork_bad(void *context, uint64_t block, const char *why)
{
	struct fork_walk *walk = context;
	struct problem_context at = { .block = block, .why = why };

	if (walk->attribute)
		return fork_problem(walk, PROBLEM_TREE_ATTRIBUTE, &at);
	return fork_problem(walk, walk->directory ? PROBLEM_TREE_DIRECTORY : PROBLEM_TREE_DATA, &at);
}

/* ---- Extents ---- */

const char *extent_wrong(const struct checker *checker, uint64_t file_block, const uint8_t *value, uint32_t length,
			 uint64_t floor)
{
	const struct ash_extent_value *extent = (const void *)value;
	uint32_t count;

	if (length != sizeof(*extent))
		return "record of wrong length";
	count = ash_get32(extent->count);
	if (!count || count > ASH_EXTENT_MAX_BLOCKS)
		return "impossible number of blocks";
	if (ash_get32(extent->flags) & ~ASH_EXTENT_UNWRITTEN)
		return "unknown flags";
	if (file_block >= MAX_FILE_BLOCK || count > MAX_FILE_BLOCK - file_block)
		return "behind the largest file size";
	if (file_block < floor)
		return "overlaps the one before";
	if (!ash_get64(extent->start) || !extent_inside(checker, ash_get64(extent->start), count))
		return "outside the volume";
	return NULL;
}

static int fork_extent(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct fork_walk *walk = context;
	const struct ash_extent_value *extent = (const void *)value;
	struct problem_context at = { .have = key,
				      .why = extent_wrong(walk->checker, key, value, length, walk->floor) };
	uint32_t count;

	if (!at.why && S_ISLNK(ash_get32(walk->record->mode)) && (ash_get32(extent->flags) & ASH_EXTENT_UNWRITTEN))
		at.why = "unwritten part of a symbolic link";
	if (at.why)
		return fork_problem(walk, PROBLEM_EXTENT, &at);
	count = ash_get32(extent->count);
	walk->floor = walk->result->end = key + count;
	if (!(ash_get32(extent->flags) & ASH_EXTENT_UNWRITTEN))
		walk->result->written = key + count;
	if (key + count > walk->eof_block && !(ash_get32(extent->flags) & ASH_EXTENT_UNWRITTEN) &&
	    !walk->result->beyond_eof)
		walk->result->beyond_eof = 1 + (key > walk->eof_block ? key : walk->eof_block);
	walk->result->records++;
	return mark(walk, ash_get64(extent->start), count);
}

/* ---- Attributes ---- */

static bool attribute_name_good(const uint8_t *name, uint32_t length)
{
	static const char *const spaces[] = { "user.", "trusted.", "security.", "system." };

	for (unsigned i = 0; i < 4; i++)
		if (length > strlen(spaces[i]) && !memcmp(name, spaces[i], strlen(spaces[i])))
			return true;
	return false;
}

void external_get(const struct ash_xattr_value *attribute, struct external *out)
{
	const uint8_t *bytes = attribute->name_and_value + attribute->name_length;
	struct ash_xattr_external header;

	out->count = 0;
	if (attribute->kind == 0)
		return;
	memcpy(&header, bytes, sizeof(header));
	out->crc = ash_get32(header.value_crc);
	out->count = ash_get32(header.extent_count);
	for (uint32_t i = 0; i < out->count; i++) {
		__typeof__(header.extents[0]) extent;

		memcpy(&extent, bytes + sizeof(header) + i * sizeof(extent), sizeof(extent));
		out->extents[i] = (struct block_run){ ash_get64(extent.start), ash_get32(extent.count) };
	}
}

static const char *external_wrong(const struct checker *checker, const struct ash_xattr_value *attribute)
{
	struct external external;

	external_get(attribute, &external);
	for (uint32_t i = 0; i < external.count; i++)
		if (!external.extents[i].start ||
		    !extent_inside(checker, external.extents[i].start, external.extents[i].count))
			return "value outside the volume";
	return NULL;
}

static bool is_acl(const struct ash_xattr_value *attribute)
{
	static const char *const names[] = { ASH_ACL_ACCESS, ASH_ACL_DEFAULT };

	for (unsigned i = 0; i < 2; i++)
		if (attribute->name_length == strlen(names[i]) &&
		    !memcmp(attribute->name_and_value, names[i], attribute->name_length))
			return true;
	return false;
}

/* It gives rights, so the engine takes none that it would not have stored. */
static const char *acl_wrong(const struct ash_xattr_value *attribute)
{
	_Alignas(8) uint8_t blob[ASH_ACL_SIZE_MAX]; /* on disk it follows the name and so has no alignment */
	uint32_t size = ash_get32(attribute->value_length);

	if (attribute->kind || size > sizeof(blob) || ash_acl_is_empty(size))
		return "impossible access control list";
	memcpy(blob, attribute->name_and_value + attribute->name_length, size);
	return ash_acl_check(blob, size) ? "impossible access control list" : NULL;
}

const char *attribute_wrong(const struct checker *checker, const uint8_t *value, uint32_t length)
{
	const struct ash_xattr_value *attribute = (const void *)value;
	const char *why = ash_xattr_check(value, length);

	if (why)
		return why;
	if (!attribute_name_good(attribute->name_and_value, attribute->name_length))
		return "impossible name";
	if (is_acl(attribute))
		return acl_wrong(attribute);
	return external_wrong(checker, attribute);
}

const char *attribute_value_wrong(struct checker *checker, const uint8_t *value, int *error)
{
	const struct ash_xattr_value *attribute = (const void *)value;
	uint32_t value_length = ash_get32(attribute->value_length);
	bool bad[ASH_XATTR_SIZE_MAX >> ASH_BLOCK_SHIFT] = { false };
	struct external external;
	uint64_t at = 0;

	*error = 0;
	if (!checker->value)
		checker->value = bdev_buffer_alloc(ASH_XATTR_SIZE_MAX);
	if (!checker->value) {
		*error = -ENOMEM;
		return NULL;
	}
	external_get(attribute, &external);
	for (uint32_t i = 0; i < external.count && !*error; i++) {
		*error = blocks_read(checker, external.extents[i].start, external.extents[i].count,
				     checker->value + (at << ASH_BLOCK_SHIFT), bad + at);
		at += external.extents[i].count;
	}
	if (*error)
		return NULL;
	for (uint64_t i = 0; i < at; i++)
		if (bad[i])
			return "value cannot be read";
	if (ash_crc32c(checker->seed, checker->value, value_length) != external.crc)
		return "value has a wrong checksum";
	return NULL;
}

static int mark_external(struct fork_walk *walk, const struct ash_xattr_value *attribute)
{
	struct external external;
	int result = 0;

	external_get(attribute, &external);
	for (uint32_t i = 0; i < external.count && !result; i++)
		result = mark(walk, external.extents[i].start, external.extents[i].count);
	return result;
}

static int fork_attribute(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct fork_walk *walk = context;
	struct checker *checker = walk->checker;
	const struct ash_xattr_value *attribute = (const void *)value;
	struct problem_context at = { .why = attribute_wrong(checker, value, length) };
	bool seen;
	int result;

	if (at.why)
		return fork_problem(walk, PROBLEM_XATTR, &at);
	at.name = attribute->name_and_value;
	at.name_length = attribute->name_length;
	if ((key & ~KEY_COLLISION_MASK) != name_key(checker, at.name, at.name_length))
		return fork_problem(walk, PROBLEM_XATTR_KEY, &at);
	result = name_set_add(checker, &walk->set, key, at.name, attribute->name_length, &seen);
	if (result)
		return result;
	if (seen) {
		at.why = "occurs twice";
		return fork_problem(walk, PROBLEM_XATTR_VALUE, &at);
	}
	walk->result->records++;
	if (attribute->kind == 0)
		return 0;
	if (!walk->quiet)
		at.why = attribute_value_wrong(checker, value, &result);
	if (!result && at.why)
		result = fork_problem(walk, PROBLEM_XATTR_VALUE, &at);
	return result ? result : mark_external(walk, attribute);
}

/* ---- Both ---- */

static int fork_count(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct fork_walk *walk = context;

	(void)key;
	(void)value;
	(void)length;
	walk->result->records++;
	return 0;
}

int forks_check(struct checker *checker, uint64_t ino, const struct ash_inode *record, bool quiet,
		struct fork_result *data, struct fork_result *attribute)
{
	uint32_t type = ash_get32(record->mode) & S_IFMT;
	uint64_t size = ash_get64(record->size);
	bool orphan = inode_state(checker, ino) & INODE_ORPHAN;
	struct fork_walk context = { .checker = checker,
				     .ino = ino,
				     .record = record,
				     .result = data,
				     .quiet = quiet,
				     .directory = type == S_IFDIR };
	struct tree_walk walk = { .checker = checker,
				  .owner = ino,
				  .context = &context,
				  .node = fork_node,
				  .bad = fork_bad,
				  .record = context.directory ? fork_count : fork_extent };
	int result = 0;

	/* A truncation that the log will finish leaves blocks behind the end of file. */
	context.eof_block = orphan ? MAX_FILE_BLOCK : size / ASH_BLOCK_SIZE + (size % ASH_BLOCK_SIZE != 0);
	memset(data, 0, sizeof(*data));
	memset(attribute, 0, sizeof(*attribute));
	if (record->data_kind == ASH_FORK_TREE)
		result = tree_walk(&walk, record->data, ASH_DATA_FORK_SIZE);
	if (result || record->attr_kind != ASH_FORK_TREE)
		return result;
	context.result = attribute;
	context.attribute = true;
	walk.record = fork_attribute;
	return tree_walk(&walk, record->attr, ASH_ATTR_FORK_SIZE);
}
