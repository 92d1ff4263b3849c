/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Extents and attributes: the check and the engine must agree on what is an attribute. */
#include "forge_fixture.h"

#define VALUE_MAX 1024u

/* The one attribute of sick->file; its tree has a block of its own where `block` is not 0. */
static void attribute_forge(struct sick *sick, const char *name, unsigned kind, uint32_t size, const void *rest,
			    uint32_t rest_length, uint64_t block)
{
	struct engine *engine = &sick->engine;
	uint32_t name_length = (uint32_t)strlen(name), length;
	uint8_t value[sizeof(struct ash_xattr_value) + VALUE_MAX], bytes[ASH_BLOCK_SIZE];
	struct ash_xattr_value header = { .name_length = (uint8_t)name_length,
					  .kind = (uint8_t)kind,
					  .value_length = ash_put32(size) };
	struct ash_inode record;

	memcpy(value, &header, sizeof(header));
	memcpy(value + sizeof(header), name, name_length);
	memcpy(value + sizeof(header) + name_length, rest, rest_length);
	length = (uint32_t)sizeof(header) + name_length + rest_length;
	inode_get(engine, sick->file, &record);
	record.attr_kind = ASH_FORK_TREE;
	node_begin(record.attr, ASH_ATTR_FORK_SIZE, block ? 1 : 0);
	if (block) {
		node_add(tree_block_begin(engine, bytes, block, sick->file, 0), key_of(engine, name), value, length);
		block_seal(engine, bytes);
		node_add_child(record.attr, 0, block);
		record.blocks = ash_put64(ash_get64(record.blocks) + 1);
	} else {
		node_add(record.attr, key_of(engine, name), value, length);
	}
	inode_forge(engine, sick->file, &record);
}

/* The check names it and takes it away; the engine has nothing to say then. */
static void expect_removed(struct sick *sick, const char *name)
{
	uint8_t value[VALUE_MAX];

	check(sick, ASH_CHECK_NO);
	cr_expect(strstr(sick->codes, "xattr"), "%s: %s", name, sick->codes);
	cr_expect_eq(check(sick, ASH_CHECK_YES).left, 0, "%s", sick->codes);
	cr_expect_eq(check(sick, ASH_CHECK_NO).problems, 0, "%s", sick->codes);
	engine_mount(&sick->engine);
	cr_expect_eq(ash_getxattr(sick->engine.volume, sick->file, name, value, sizeof(value)), -ENODATA);
	cr_expect_eq(sick->engine.errors, 0, "%s", sick->engine.last_error);
	engine_close(&sick->engine);
}

Test(fork, attribute_that_is_too_long_for_its_record)
{
	uint8_t value[ASH_XATTR_INLINE_MAX + 1] = { 1 };
	struct sick sick;

	sick_open(&sick, true);
	attribute_forge(&sick, "user.x", 0, sizeof(value), value, sizeof(value), block_take(&sick.engine));
	expect_removed(&sick, "user.x");
}

Test(fork, attribute_that_needs_no_blocks_of_its_own)
{
	uint8_t bytes[ASH_BLOCK_SIZE] = { 2 }, rest[sizeof(struct ash_xattr_external) + 12];
	struct ash_xattr_external external;
	struct ash_super super;
	struct sick sick;
	ash_le64 start;
	ash_le32 count = ash_put32(1);

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	start = ash_put64(block_take(&sick.engine));
	image_write(&sick.engine, ash_get64(start), bytes);
	external.value_crc = ash_put32(ash_crc32c(ash_get32(super.checksum_seed), bytes, 100));
	external.extent_count = ash_put32(1);
	memcpy(rest, &external, sizeof(external));
	memcpy(rest + sizeof(external), &start, sizeof(start));
	memcpy(rest + sizeof(external) + sizeof(start), &count, sizeof(count));
	attribute_forge(&sick, "user.x", 1, 100, rest, sizeof(rest), block_take(&sick.engine));
	expect_removed(&sick, "user.x");
}

Test(fork, access_control_list_that_is_none)
{
	const struct {
		const char *name, *blob;
		uint32_t size;
	} cases[] = {
		{ ASH_ACL_ACCESS, "xxxxx", 5 },
		{ ASH_ACL_ACCESS, "\2\0\0\0", 4 }, /* without entries */
		{ ASH_ACL_ACCESS, "", 0 },
		{ ASH_ACL_DEFAULT, "\2\0\0\0\1\0\7\0\xff\xff\xff\xff", 12 }, /* the owner alone */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sick sick;

		sick_open(&sick, true);
		attribute_forge(&sick, cases[i].name, 0, cases[i].size, cases[i].blob, cases[i].size, 0);
		expect_removed(&sick, cases[i].name);
	}
}

/* And those that the engine stores are left. */
Test(fork, good_attributes_are_left)
{
	static const uint8_t acl[] = "\2\0\0\0\1\0\6\0\xff\xff\xff\xff\2\0\4\0\1\0\0\0\4\0\4\0\xff\xff\xff\xff"
				     "\20\0\4\0\xff\xff\xff\xff\40\0\4\0\xff\xff\xff\xff";
	uint8_t value[2000] = { 3 };
	struct sick sick;

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_setxattr(sick.engine.volume, sick.file, ASH_ACL_ACCESS, acl, sizeof(acl) - 1, 0), 0);
	cr_assert_eq(ash_setxattr(sick.engine.volume, sick.file, "user.empty", "", 0, 0), 0);
	cr_assert_eq(ash_setxattr(sick.engine.volume, sick.file, "user.record", value, ASH_XATTR_INLINE_MAX, 0), 0);
	cr_assert_eq(ash_setxattr(sick.engine.volume, sick.file, "user.block", value, ASH_XATTR_INLINE_MAX + 1, 0), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	cr_expect_eq(check(&sick, ASH_CHECK_YES).problems, 0, "%s", sick.codes);
	engine_close(&sick.engine);
}

/* ---- Attributes that the engine stored, and what became of them ---- */

/* sick->file has "user.x" of `size` bytes; its record in the node, and in that the attribute. */
static uint8_t *attribute_open(struct sick *sick, struct ash_inode *record, uint32_t size)
{
	static const uint8_t bytes[VALUE_MAX] = "value";
	const uint8_t *value;
	uint32_t length;
	uint64_t key;

	sick_open(sick, true);
	engine_mount(&sick->engine);
	cr_assert_eq(ash_setxattr(sick->engine.volume, sick->file, "user.x", bytes, size, 0), 0);
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
	inode_get(&sick->engine, sick->file, record);
	cr_assert_eq(ash_node_level(record->attr), 0);
	cr_assert_eq(ash_node_count(record->attr), 1);
	ash_node_record(record->attr, 0, &key, &value, &length);
	return record->attr + (value - record->attr);
}

static void expect_value(struct sick *sick, int64_t size)
{
	uint8_t value[VALUE_MAX];

	engine_mount(&sick->engine);
	cr_expect_eq(ash_getxattr(sick->engine.volume, sick->file, "user.x", value, sizeof(value)), size);
	cr_expect_eq(sick->engine.errors, 0, "%s", sick->engine.last_error);
	engine_close(&sick->engine);
}

Test(fork, attribute_under_a_wrong_key)
{
	struct ash_inode record;
	struct sick sick;
	uint8_t *value = attribute_open(&sick, &record, 8);
	struct ash_tree_record *node = (void *)(value - sizeof(struct ash_tree_record));

	node->key = ash_put64(key_of(&sick.engine, "user.y"));
	inode_forge(&sick.engine, sick.file, &record);
	expect_healed(&sick, "xattr-key");
	expect_value(&sick, 8);
}

Test(fork, attribute_that_occurs_twice)
{
	struct ash_inode record;
	struct sick sick;
	uint8_t *value = attribute_open(&sick, &record, 8), copy[VALUE_MAX];
	uint32_t length =
		ash_get16(((struct ash_tree_record *)(void *)(value - sizeof(struct ash_tree_record)))->length);

	memcpy(copy, value, length);
	node_add(record.attr, key_of(&sick.engine, "user.x") + 1, copy, length);
	inode_forge(&sick.engine, sick.file, &record);
	expect_healed(&sick, "xattr-value");
	expect_value(&sick, 8);
}

Test(fork, value_with_a_wrong_checksum)
{
	const size_t at = sizeof(struct ash_xattr_value) + strlen("user.x") + sizeof(struct ash_xattr_external);
	struct ash_inode record;
	struct sick sick;
	uint8_t *value = attribute_open(&sick, &record, ASH_XATTR_INLINE_MAX + 1);
	ash_le64 start;

	memcpy(&start, value + at, sizeof(start));
	image_spoil(&sick.engine, ash_get64(start), 100);
	expect_healed(&sick, "xattr-value");
	expect_value(&sick, -ENODATA);
}

Test(fork, leaf_of_attributes_that_is_damaged)
{
	uint8_t value[] = { 1, 2, 3 };
	uint64_t block;
	struct sick sick;

	sick_open(&sick, true);
	block = block_take(&sick.engine);
	attribute_forge(&sick, "user.x", 0, sizeof(value), value, sizeof(value), block);
	check(&sick, ASH_CHECK_NO);
	cr_expect(!strstr(sick.codes, "attr"), "%s", sick.codes);
	image_spoil(&sick.engine, block, 1000);
	expect_healed(&sick, "tree-attribute");
	expect_value(&sick, -ENODATA);
}
