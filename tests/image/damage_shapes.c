/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Damage that is more than a field: rings, shared blocks, what is lost. See damage.h. */
#include "damage.h"

#include <stdio.h>
#include "fs/btree.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void test_both_controls(struct image *image)
{
	static const uint8_t zero[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	struct test test = { .name = "both log control blocks zeroed", .must_report = true };

	image_write(image, ash_get64(image->super.log_start), zero);
	image_write(image, ash_get64(image->super.log_start) + 1, zero);
	judge(image, &test);
}

/* Two files claim the same blocks. */
static void test_shared_blocks(struct image *image)
{
	struct test test = { .name = "two files share blocks",
			     .must_report = true,
			     .blind = true,
			     .affected = { image->unwritten_file },
			     .affected_count = 1 };
	struct ash_inode victim, thief;
	struct ash_extent_value *mine;
	const struct ash_extent_value *other;

	inode_get(image, image->block_file, &victim);
	inode_get(image, image->unwritten_file, &thief);
	mine = (void *)node_record(thief.data, 0)->value;
	other = (const void *)node_record(victim.data, 0)->value;
	mine->start = other->start;
	inode_put(image, image->unwritten_file, &thief, true);
	judge(image, &test);
}

static void test_extent_over_metadata(struct image *image)
{
	const uint64_t places[] = { ash_get64(image->super.log_start) + 5, ash_group_bitmap(0),
				    locate_table_block(image, 3) };

	for (unsigned i = 0; i < COUNT(places); i++) {
		struct test test = {
			.must_report = true, .blind = true, .affected = { image->unwritten_file }, .affected_count = 1
		};
		struct ash_inode record;

		snprintf(test.name, sizeof(test.name), "a file claims block %llu of the volume's metadata",
			 (unsigned long long)places[i]);
		inode_get(image, image->unwritten_file, &record);
		((struct ash_extent_value *)(void *)node_record(record.data, 0)->value)->start = ash_put64(places[i]);
		inode_put(image, image->unwritten_file, &record, true);
		judge(image, &test);
	}
}

static void test_directory_ring(struct image *image)
{
	struct test test = { .name = "a directory is its own grandchild",
			     .must_report = true,
			     .names_move = true,
			     .affected = { image->child_directory, image->small_directory },
			     .affected_count = 2 };
	struct ash_inode record;
	struct ash_dirent_value *entry;

	/* child/leaf -> small: small has two names, one below itself. */
	inode_get(image, image->child_directory, &record);
	entry = (void *)node_record(record.data, 0)->value;
	entry->ino = ash_put64(image->small_directory);
	entry->type = 4;
	inode_put(image, image->child_directory, &record, true);
	judge(image, &test);
}

static void test_root_lost(struct image *image)
{
	static const struct ash_inode zero;
	struct test test = { .name = "the root is zeroed",
			     .must_report = true,
			     .names_move = true,
			     .affected = { ASH_INO_ROOT },
			     .affected_count = 1 };

	inode_put(image, ASH_INO_ROOT, &zero, false);
	judge(image, &test);
}

static void test_unnamed(struct image *image)
{
	struct test test = { .name = "an inode loses its links count", .must_report = true, .names_move = true };
	struct ash_inode record;

	inode_get(image, image->hard, &record);
	record.nlink = ash_put32(1);
	inode_put(image, image->hard, &record, true);
	judge(image, &test);
}

static void test_inode_block(struct image *image, uint64_t ino)
{
	struct test test = { .must_report = true, .names_move = true };
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	uint32_t offset;
	uint64_t block = locate_inode(image, ino, &offset), first = ino - ino % ASH_INODES_PER_BLOCK;

	for (unsigned i = 0; i < ASH_INODES_PER_BLOCK; i++)
		test.affected[test.affected_count++] = first + i;
	snprintf(test.name, sizeof(test.name), "the block of inodes %llu.. is rubbish", (unsigned long long)first);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 59 + (i >> 4));
	image_write(image, block, data);
	judge(image, &test);
}

/* Two directories, each the other's child, that nothing else names. */
static void test_island(struct image *image)
{
	struct test test = { .name = "two directories name each other and nobody else does",
			     .must_report = true,
			     .names_move = true,
			     .affected = { image->small_directory, image->child_directory, ASH_INO_ROOT },
			     .affected_count = 3 };
	struct ash_inode record;

	inode_get(image, image->child_directory, &record);
	((struct ash_dirent_value *)(void *)node_record(record.data, 0)->value)->ino =
		ash_put64(image->small_directory);
	((struct ash_dirent_value *)(void *)node_record(record.data, 0)->value)->type = 4;
	inode_put(image, image->child_directory, &record, true);
	inode_get(image, image->small_directory, &record);
	record.parent = ash_put64(image->child_directory);
	inode_put(image, image->small_directory, &record, true);
	judge(image, &test);
}

/* Both pointers of an inner node lead to one child; a child holds a copy of its parent. */
static void test_tree_rings(struct image *image)
{
	uint64_t blocks[64];
	unsigned count = locate_nodes(image, image->deep_directory, false, blocks, 64), first = 0;
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	uint8_t *node = data + offsetof(struct ash_tree_block, node);
	struct ash_block_header *header = (void *)data;

	for (unsigned i = 0; i < count; i++) {
		image_read(image, blocks[i], data);
		if (!ash_node_level(node))
			continue;
		first++;
		for (unsigned what = 0; what < 3; what++) {
			struct test test = { .must_report = true,
					     .names_move = true,
					     .affected = { image->deep_directory },
					     .affected_count = 1 };

			image_read(image, blocks[i], data);
			snprintf(test.name, sizeof(test.name), "inner node %u: %s", i,
				 what == 0 ? "two pointers to one child" :
				 what == 1 ? "the first child is a copy of it" :
					     "the last child is a copy of its level below");
			if (what == 0) {
				memcpy(node_record(node, 1)->value, node_record(node, 0)->value, 8);
				block_put(image, blocks[i], data, true);
			} else {
				ash_le64 child;

				memcpy(&child, node_record(node, what == 1 ? 0 : ash_node_count(node) - 1)->value, 8);
				header->address = child;
				if (what == 2)
					((struct ash_node_header *)(void *)node)->level.raw--;
				block_put(image, ash_get64(child), data, true);
			}
			judge(image, &test);
		}
	}
	if (!first)
		die("the deep directory has no inner node below its root");
}

/* Extents of one file that lie over each other, in the file and on the device. */
static void test_overlaps(struct image *image)
{
	struct ash_inode good, bad;

	inode_get(image, image->unwritten_file, &good);
	if (ash_node_count(good.data) < 2)
		die("the unwritten file has one extent only");
	for (unsigned what = 0; what < 3; what++) {
		struct test test = {
			.must_report = true, .blind = true, .affected = { image->unwritten_file }, .affected_count = 1
		};
		struct ash_extent_value *first, *second;

		bad = good;
		first = (void *)node_record(bad.data, 0)->value;
		second = (void *)node_record(bad.data, 1)->value;
		snprintf(test.name, sizeof(test.name), "extents of a file overlap: %s",
			 what == 0 ? "in the file" :
			 what == 1 ? "on the device" :
				     "both");
		if (what != 1)
			first->count = ash_put32(ash_get32(first->count) + 2);
		if (what != 0)
			second->start = first->start;
		inode_put(image, image->unwritten_file, &bad, true);
		judge(image, &test);
	}
}

/* An orphan's number in a clean volume, names in a directory that is none, a root that is a file. */
static void test_types(struct image *image)
{
	const struct {
		const char *name;
		uint64_t ino;
		uint32_t mode;
	} cases[] = {
		{ "the root is a file", ASH_INO_ROOT, S_IFREG | 0755 },
		{ "a directory is a file", image->flat_directory, S_IFREG | 0755 },
		{ "a directory is a link", image->flat_directory, S_IFLNK | 0777 },
		{ "a file is a directory", image->extent_file, S_IFDIR | 0755 },
		{ "a file is a link", image->extent_file, S_IFLNK | 0777 },
		{ "an inline file is a directory", image->inline_file, S_IFDIR | 0755 },
		{ "an inline file is a fifo", image->inline_file, S_IFIFO | 0644 },
		{ "a link is a file", image->long_link, S_IFREG | 0644 },
		{ "a link is a device", image->short_link, S_IFBLK | 0644 },
		{ "a device is a directory", image->device, S_IFDIR | 0755 },
		{ "a file is nothing", image->block_file, 0644 },
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		struct test test = {
			.names_move = true, .must_report = true, .affected = { cases[i].ino }, .affected_count = 1
		};
		struct ash_inode record;

		snprintf(test.name, sizeof(test.name), "%s", cases[i].name);
		inode_get(image, cases[i].ino, &record);
		record.mode = ash_put32(cases[i].mode);
		inode_put(image, cases[i].ino, &record, true);
		judge(image, &test);
	}
}

void damage_shapes(struct image *image)
{
	struct test nothing = { .name = "no damage", .must_not = true };

	judge(image, &nothing);
	test_both_controls(image);
	test_shared_blocks(image);
	test_extent_over_metadata(image);
	test_directory_ring(image);
	test_island(image);
	test_tree_rings(image);
	test_overlaps(image);
	test_types(image);
	test_root_lost(image);
	test_unnamed(image);
	test_inode_block(image, ASH_INO_ROOT);
	test_inode_block(image, image->block_file);
	test_inode_block(image, image->flat_directory);
}
