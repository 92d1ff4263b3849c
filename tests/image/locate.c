/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where things are in an image, read from its bytes: see image.h. Single-threaded. */
#include "image.h"

#include "fs/btree.h"
#include "fs/checksum.h"

struct ash_tree_record *node_record(void *node, unsigned index)
{
	const ash_le16 *slots = (const void *)((uint8_t *)node + sizeof(struct ash_node_header));

	return (void *)((uint8_t *)node + ash_get16(slots[index]));
}

static unsigned node_children(struct image *image, uint8_t *node, uint64_t *blocks, unsigned count, unsigned max)
{
	uint8_t child[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	if (!ash_node_level(node))
		return count;
	for (unsigned i = 0; i < ash_node_count(node) && count < max; i++) {
		ash_le64 pointer;

		memcpy(&pointer, node_record(node, i)->value, sizeof(pointer));
		blocks[count++] = ash_get64(pointer);
		image_read(image, ash_get64(pointer), child);
		count = node_children(image, child + offsetof(struct ash_tree_block, node), blocks, count, max);
	}
	return count;
}

unsigned locate_nodes(struct image *image, uint64_t ino, bool attribute, uint64_t *blocks, unsigned max)
{
	struct ash_inode record;

	inode_get(image, ino, &record);
	if ((attribute ? record.attr_kind : record.data_kind) != ASH_FORK_TREE)
		return 0;
	return node_children(image, attribute ? record.attr : record.data, blocks, 0, max);
}

/* Small images have their table's extents in its inode. */
uint64_t locate_table_block(struct image *image, uint64_t file_block)
{
	uint8_t *root = image->super.table_inode.data;

	if (ash_node_level(root))
		die("the inode table is too scattered for this test");
	for (unsigned i = 0; i < ash_node_count(root); i++) {
		const struct ash_tree_record *record = node_record(root, i);
		const struct ash_extent_value *extent = (const void *)record->value;
		uint64_t first = ash_get64(record->key);

		if (file_block >= first && file_block - first < ash_get32(extent->count))
			return ash_get64(extent->start) + file_block - first;
	}
	die("block %llu of the inode table is not mapped", (unsigned long long)file_block);
}

uint64_t locate_inode(struct image *image, uint64_t ino, uint32_t *offset)
{
	uint32_t per_run = ash_get32(image->super.inodes_per_run);
	uint64_t run_blocks = 1 + per_run / ASH_INODES_PER_BLOCK;

	*offset = (uint32_t)(ino % ASH_INODES_PER_BLOCK) * ASH_INODE_SIZE;
	return locate_table_block(image, ino / per_run * run_blocks + 1 + ino % per_run / ASH_INODES_PER_BLOCK);
}

void inode_get(struct image *image, uint64_t ino, struct ash_inode *out)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	uint32_t offset;
	uint64_t block = locate_inode(image, ino, &offset);

	image_read(image, block, data);
	memcpy(out, data + offset, sizeof(*out));
}

void inode_put(struct image *image, uint64_t ino, const struct ash_inode *record, bool seal)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	struct ash_inode copy = *record;
	uint32_t offset;
	uint64_t block = locate_inode(image, ino, &offset);

	if (seal)
		copy.crc = ash_put32(ash_inode_crc(image->seed, &copy));
	image_read(image, block, data);
	memcpy(data + offset, &copy, sizeof(copy));
	image_write(image, block, data);
}

void block_seal(const struct image *image, void *data)
{
	struct ash_block_header *header = data;
	bool super = ash_get32(header->magic) == ASH_MAGIC_SUPER;

	header->crc = ash_put32(ash_block_crc(super ? 0 : image->seed, data));
}

void block_put(struct image *image, uint64_t block, void *data, bool seal)
{
	if (seal)
		block_seal(image, data);
	image_write(image, block, data);
}

void log_rechain(struct image *image, uint64_t first)
{
	uint64_t start = ash_get64(image->super.log_start) + 2, count = ash_get64(image->super.log_blocks) - 2;
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	struct ash_log_block *block = (void *)data;
	ash_le32 previous = { 0 };

	for (uint64_t i = first; i < count; i++) {
		image_read(image, start + i, data);
		if (ash_get32(block->header.magic) != ASH_MAGIC_LOG_BLOCK)
			return;
		if (i > first)
			block->previous_crc = previous;
		block->header.crc = previous = ash_put32(ash_block_crc(image->seed, data));
		image_write(image, start + i, data);
	}
}
