/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Damage under right checksums: superblocks, records and tree blocks of a volume that is not mounted, written by hand. Numbers of
 * inodes must lie in the first run, and the table in one extent, as in any small volume.
 */
#ifndef TESTS_FORGE_FIXTURE_H
#define TESTS_FORGE_FIXTURE_H

#include "sick_fixture.h"

#include "fs/checksum.h"

/* ---- Nodes ---- */

static inline void node_begin(uint8_t *node, uint32_t size, uint32_t level)
{
	struct ash_node_header *header = (void *)node;

	memset(node, 0, size);
	header->level = ash_put16((uint16_t)level);
	header->heap_start = ash_put16((uint16_t)size);
}

/* Behind the records that the node has. */
static inline void node_add(uint8_t *node, uint64_t key, const void *value, uint32_t length)
{
	struct ash_node_header *header = (void *)node;
	struct ash_tree_record record = { ash_put64(key), ash_put16((uint16_t)length) };
	uint32_t count = ash_get16(header->count), heap = ash_get16(header->heap_start);
	ash_le16 slot;

	heap -= ((uint32_t)sizeof(record) + length + 1) & ~1u;
	slot = ash_put16((uint16_t)heap);
	memcpy(node + heap, &record, sizeof(record));
	memcpy(node + heap + sizeof(record), value, length);
	memcpy(node + sizeof(*header) + count * sizeof(slot), &slot, sizeof(slot));
	header->count = ash_put16((uint16_t)(count + 1));
	header->heap_start = ash_put16((uint16_t)heap);
}

static inline void node_add_child(uint8_t *node, uint64_t key, uint64_t block)
{
	ash_le64 child = ash_put64(block);

	node_add(node, key, &child, sizeof(child));
}

static inline void node_add_extent(uint8_t *node, uint64_t key, uint64_t start, uint32_t count)
{
	struct ash_extent_value value = { ash_put64(start), ash_put32(count), ash_put32(0) };

	node_add(node, key, &value, sizeof(value));
}

/* A tree block with a node of the level; fill it with node_add() and write it with block_seal(). */
static inline uint8_t *tree_block_begin(struct engine *engine, uint8_t bytes[ASH_BLOCK_SIZE], uint64_t block,
					uint64_t owner, uint32_t level)
{
	struct ash_tree_block *node = (void *)bytes;
	struct ash_super super;

	image_read(engine, 0, &super);
	memset(bytes, 0, ASH_BLOCK_SIZE);
	node->header = super.header;
	node->header.magic = ash_put32(ASH_MAGIC_TREE_NODE);
	node->header.address = ash_put64(block);
	node->header.owner = ash_put64(owner);
	node_begin(bytes + offsetof(struct ash_tree_block, node), ASH_TREE_NODE_SIZE, level);
	return bytes + offsetof(struct ash_tree_block, node);
}

/* Any block with a header but a superblock. */
static inline void block_seal(struct engine *engine, uint8_t bytes[ASH_BLOCK_SIZE])
{
	struct ash_block_header *header = (void *)bytes;
	struct ash_super super;

	image_read(engine, 0, &super);
	header->crc = ash_put32(ash_block_crc(ash_get32(super.checksum_seed), bytes));
	image_write(engine, ash_get64(header->address), bytes);
}

/* ---- The inode table in a superblock ---- */

/* Seal a superblock and write it. */
static inline void super_put(struct engine *engine, uint64_t block, struct ash_super *super)
{
	super->header.address = ash_put64(block);
	super->header.crc = ash_put32(ash_block_crc(0, super));
	image_write(engine, block, super);
}

/* The table's only extent. */
static inline void table_extent(const struct ash_super *super, uint64_t *start, uint64_t *count)
{
	const struct ash_extent_value *extent;
	const uint8_t *value;
	uint32_t length;
	uint64_t key;

	cr_assert_eq(ash_node_count(super->table_inode.data), 1);
	ash_node_record(super->table_inode.data, 0, &key, &value, &length);
	extent = (const void *)value;
	*start = ash_get64(extent->start);
	*count = ash_get32(extent->count);
}

static inline void table_begin(struct ash_super *super)
{
	node_begin(super->table_inode.data, ASH_DATA_FORK_SIZE, 0);
	super->table_inode.blocks = ash_put64(0);
}

static inline void table_add(struct ash_super *super, uint64_t file_block, uint64_t start, uint64_t count)
{
	node_add_extent(super->table_inode.data, file_block, start, (uint32_t)count);
	super->table_inode.blocks = ash_put64(ash_get64(super->table_inode.blocks) + count);
}

/* ---- Records ---- */

/* Where the first run begins: its bitmap block, and the records behind it. */
static inline uint64_t run_start(struct engine *engine)
{
	struct ash_super super;
	const uint8_t *value;
	uint32_t length;
	uint64_t key;

	image_read(engine, 0, &super);
	cr_assert_eq(ash_node_level(super.table_inode.data), 0);
	ash_node_record(super.table_inode.data, 0, &key, &value, &length);
	return ash_get64(((const struct ash_extent_value *)(const void *)value)->start);
}

static inline uint64_t inode_block(struct engine *engine, uint64_t ino)
{
	return run_start(engine) + 1 + ino / ASH_INODES_PER_BLOCK;
}

static inline void inode_get(struct engine *engine, uint64_t ino, struct ash_inode *record)
{
	struct ash_inode records[ASH_INODES_PER_BLOCK];

	image_read(engine, inode_block(engine, ino), records);
	*record = records[ino % ASH_INODES_PER_BLOCK];
}

/* As it is. */
static inline void inode_put(struct engine *engine, uint64_t ino, const struct ash_inode *record)
{
	struct ash_inode records[ASH_INODES_PER_BLOCK];

	image_read(engine, inode_block(engine, ino), records);
	records[ino % ASH_INODES_PER_BLOCK] = *record;
	image_write(engine, inode_block(engine, ino), records);
}

/* With a right checksum. */
static inline void inode_forge(struct engine *engine, uint64_t ino, struct ash_inode *record)
{
	struct ash_super super;

	image_read(engine, 0, &super);
	record->crc = ash_put32(ash_inode_crc(ash_get32(super.checksum_seed), record));
	inode_put(engine, ino, record);
}

/* ---- Blocks ---- */

/* A free block of the first group, and its bit set. */
static inline uint64_t block_take(struct engine *engine)
{
	struct ash_bitmap_block bitmap;
	struct ash_super super;
	uint64_t block = 0;

	image_read(engine, 0, &super);
	image_read(engine, ash_group_bitmap(0), &bitmap);
	while (bitmap.bits[block / 8] & 1u << block % 8)
		block++;
	cr_assert_lt(block, ash_get64(super.block_count));
	bitmap.bits[block / 8] |= (uint8_t)(1u << block % 8);
	block_seal(engine, (uint8_t *)&bitmap);
	return block;
}

static inline uint64_t key_of(struct engine *engine, const char *name)
{
	struct ash_super super;
	uint64_t hash;

	image_read(engine, 0, &super);
	hash = ash_siphash(super.hash_key, name, strlen(name)) >> 9;
	return (hash ? hash : 1) << ASH_DIR_COLLISION_BITS;
}

#endif
