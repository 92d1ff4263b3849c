/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Wrong content under right checksums: nodes of trees, the inode table's extents in the superblock.
 */
#ifndef TESTS_FORGE_H
#define TESTS_FORGE_H

#include "sick_fixture.h"

#include "fs/checksum.h"

/* Behind the records that the node has. */
static inline void node_add(uint8_t *node, uint64_t key, const void *value, uint32_t length)
{
	struct ash_node_header *header = (void *)node;
	struct ash_tree_record record = { ash_put64(key), ash_put16((uint16_t)length) };
	uint32_t count = ash_get16(header->count), heap = ash_get16(header->heap_start);
	ash_le16 slot;

	heap -= (uint32_t)sizeof(record) + length;
	slot = ash_put16((uint16_t)heap);
	memcpy(node + heap, &record, sizeof(record));
	memcpy(node + heap + sizeof(record), value, length);
	memcpy(node + sizeof(*header) + count * sizeof(slot), &slot, sizeof(slot));
	header->count = ash_put16((uint16_t)(count + 1));
	header->heap_start = ash_put16((uint16_t)heap);
}

static inline void node_begin(uint8_t *node, uint32_t size, uint32_t level)
{
	struct ash_node_header *header = (void *)node;

	memset(node, 0, size);
	header->level = ash_put16((uint16_t)level);
	header->heap_start = ash_put16((uint16_t)size);
}

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
	const struct ash_extent_value value = { ash_put64(start), ash_put32((uint32_t)count), ash_put32(0) };

	node_add(super->table_inode.data, file_block, &value, sizeof(value));
	super->table_inode.blocks = ash_put64(ash_get64(super->table_inode.blocks) + count);
}

#endif
