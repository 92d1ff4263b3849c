/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a scrub finds. Damage is done to the device behind the volume, under blocks that are clean in memory; damage with a
 * right checksum where the cache does not have the block.
 */
#include "scrub_fixture.h"

Test(scrub, sound_volume_is_read_whole_and_clean)
{
	struct fixture f;
	struct result result;

	fixture_open(&f);
	scrub_all(&f, &result);
	cr_expect_eq(result.last.problems, 0, "%s", result.list[0].what);
	cr_expect_eq(result.last.newer, 0);
	cr_expect_eq(result.last.inodes, f.inodes, "%llu", (unsigned long long)result.last.inodes);
	cr_expect_eq(result.last.directories, f.directories);
	cr_expect_eq(result.last.done, result.last.total);
	cr_expect_gt(result.last.blocks, f.inodes / 8);
	cr_expect_eq(f.names.volume->damaged_blocks, 0);
	fixture_close(&f);
}

/* Extents that are joined over the end of a leaf leave the bound behind that is between the two leaves. */
Test(scrub, extents_of_a_file_that_is_written_here_and_there_are_sound)
{
	enum { BLOCKS = 4096, WRITES = 1500 };
	struct fixture f;
	struct result result;
	uint64_t ino;
	uint32_t random = 5;

	fixture_open(&f);
	ino = names_file(&f.names, ASH_INO_ROOT, "database");
	cr_assert_eq(ash_fallocate(f.names.volume, ino, 0, 0, (uint64_t)BLOCKS * ASH_BLOCK_SIZE), 0);
	for (unsigned i = 0; i < WRITES; i++) {
		random = random * 1664525u + 1013904223u;
		write_at(&f.names, ino, (uint64_t)(random >> 8) % BLOCKS * ASH_BLOCK_SIZE, ASH_BLOCK_SIZE);
		if (i % 20 == 19)
			cr_assert_eq(ash_fsync(f.names.volume, ino, false), 0);
	}
	scrub_all(&f, &result);
	cr_expect_eq(result.last.problems, 0, "%s", result.list[0].what);
	fixture_close(&f);
}

Test(scrub, reads_the_device_and_not_the_cache)
{
	struct fixture f;
	struct result result;
	uint32_t offset;

	fixture_open(&f);
	struct {
		const char *what;
		uint64_t ino, block;
		uint32_t byte;
	} cases[] = {
		{ "superblock", 0, 0, 600 },
		{ "group table", 0, f.names.volume->group_table_start, 100 },
		{ "bitmap of group 0", 0, 1, 200 },
		{ "backup", 0, ash_group_start(1), 600 },
		{ "last backup", 0, f.names.volume->block_count - 1, 600 },
		{ "leaf of a directory", f.big, node_of(&f, f.big, 0, 0), 2000 },
		{ "inner node of a directory", f.big, node_of(&f, f.big, 1, 0), 4000 },
		{ "leaf of extents", f.fragments, node_of(&f, f.fragments, 0, 0), 4000 },
		{ "inode record", f.attribute, record_block(&f, f.attribute, &offset), 0 },
	};
	cases[8].byte = offset + 60;
	/* once, so that the cache is warm with what can be cached */
	for (unsigned i = 0; i < ENTRIES; i++) {
		char name[64];

		snprintf(name, sizeof(name), "a name of some length, so that the tree has nodes %u", i);
		cr_assert_gt(names_find(&f.names, f.big, name), 0);
	}
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t good[ASH_BLOCK_SIZE], bad[ASH_BLOCK_SIZE];

		device_get(&f, cases[i].block, good);
		memcpy(bad, good, sizeof(bad));
		bad[cases[i].byte] ^= 0x40;
		device_put(&f, cases[i].block, bad);
		scrub_all(&f, &result);
		cr_expect_eq(result.last.problems, 1, "%s: %llu problems, %s", cases[i].what,
			     (unsigned long long)result.last.problems, result.list[0].what);
		cr_expect_eq(result.list[0].block, cases[i].block, "%s", cases[i].what);
		cr_expect_eq(result.list[0].ino, cases[i].ino, "%s", cases[i].what);
		device_put(&f, cases[i].block, good);
		scrub_all(&f, &result);
		cr_expect_eq(result.last.problems, 0, "%s: %s", cases[i].what, result.list[0].what);
	}
	fixture_close(&f);
}

Test(scrub, a_home_write_that_never_arrived_is_damage)
{
	struct fixture f;
	struct result result;
	uint8_t old[ASH_BLOCK_SIZE];
	uint32_t offset;
	uint64_t block;
	struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = S_IFREG | 0600 };

	fixture_open(&f);
	block = record_block(&f, f.attribute, &offset);
	device_get(&f, block, old);
	cr_assert_eq(ash_setattr(f.names.volume, f.attribute, &change, NULL), 0);
	cr_assert_eq(ash_checkpoint(f.names.volume), 0);
	device_put(&f, block, old);
	scrub_all(&f, &result);
	expect_problem(&result, f.attribute, block, "not what was written last");
	fixture_close(&f);
}

Test(scrub, newest_control_block_and_live_log_blocks_are_read)
{
	struct fixture f;
	struct result result;
	struct ash_log *log;
	uint8_t data[ASH_BLOCK_SIZE];
	uint64_t block;

	fixture_open(&f);
	log = f.names.volume->log;
	names_file(&f.names, ASH_INO_ROOT, "new");
	cr_assert_eq(ash_sync(f.names.volume), 0);
	block = log->first_block + (log->written - 1) % log->blocks;
	device_get(&f, block, data);
	data[300] ^= 1;
	device_put(&f, block, data);
	scrub_from(&f, 1, &result); /* without the checkpoint, which would free the log */
	expect_problem(&result, 0, block, "checksum");
	block = f.names.volume->log_start + log->sequence % 2;
	memset(data, 0, sizeof(data));
	device_put(&f, block, data);
	scrub_from(&f, 1, &result);
	expect_problem(&result, 0, block, "control block");
	fixture_close(&f);
}

/* The device holds an older state of what is newer in memory, or nothing good at all: no damage. */
Test(scrub, what_is_newer_in_memory_is_not_judged_on_the_device)
{
	struct fixture f;
	struct result result;
	uint8_t zero[ASH_BLOCK_SIZE] = { 0 };
	struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = S_IFREG | 0600 };
	uint32_t offset;

	fixture_open(&f);
	cr_assert_eq(ash_setattr(f.names.volume, f.attribute, &change, NULL), 0);
	device_put(&f, record_block(&f, f.attribute, &offset), zero);
	scrub_from(&f, 1, &result);
	cr_expect_eq(result.last.problems, 0, "%s", result.list[0].what);
	cr_expect_eq(result.last.newer, 1);
	scrub_all(&f, &result); /* its checkpoint writes the block */
	cr_expect_eq(result.last.problems, 0, "%s", result.list[0].what);
	cr_expect_eq(result.last.newer, 0);
	fixture_close(&f);
}

/* ---- Damage with a right checksum ---- */

static struct ash_tree_record *record_at(void *block, unsigned index)
{
	uint8_t *node = (uint8_t *)block + offsetof(struct ash_tree_block, node);
	ash_le16 slot;

	memcpy(&slot, node + sizeof(struct ash_node_header) + index * sizeof(slot), sizeof(slot));
	return (void *)(node + ash_get16(slot));
}

static struct ash_tree_record *first_record(void *block)
{
	return record_at(block, 0);
}

static struct ash_tree_record *last_record(void *block)
{
	return record_at(block, ash_get16(((struct ash_tree_block *)block)->node.count) - 1u);
}

static void change_entry_target(void *block)
{
	struct ash_dirent_value *entry = (void *)first_record(block)->value;

	entry->ino = ash_put64(100000000);
}

static void change_entry_to_free(void *block)
{
	struct ash_dirent_value *entry = (void *)first_record(block)->value;

	entry->ino = ash_put64(ENTRIES + 60); /* in the table, never used */
}

static void change_entry_type(void *block)
{
	struct ash_dirent_value *entry = (void *)first_record(block)->value;

	entry->type = DT_CHR;
}

static void change_entry_name(void *block)
{
	struct ash_dirent_value *entry = (void *)first_record(block)->value;

	entry->name[0] = 'X';
}

static void change_node_count(void *block)
{
	struct ash_tree_block *node = block;

	node->node.count = ash_put16((uint16_t)(ash_get16(node->node.count) - 1));
}

static void change_owner(void *block)
{
	struct ash_block_header *header = block;

	header->owner = ash_put64(4711);
}

static void change_level(void *block)
{
	struct ash_tree_block *node = block;

	node->node.level = ash_put16(1);
}

static void change_extent_outside(void *block)
{
	struct ash_extent_value *extent = (void *)first_record(block)->value;

	extent->start = ash_put64(1ull << 40);
}

static void change_extent_to_log(void *block)
{
	struct ash_extent_value *extent = (void *)first_record(block)->value;

	extent->start = ash_put64(0x1);
}

static void change_extent_to_free(void *block)
{
	struct ash_extent_value *extent = (void *)first_record(block)->value;

	extent->start = ash_put64(ASH_BLOCKS_PER_GROUP - 100);
}

static void change_extent_length(void *block)
{
	struct ash_extent_value *extent = (void *)first_record(block)->value;

	extent->count = ash_put32(0);
}

static void change_extent_overlap(void *block)
{
	struct ash_extent_value *extent = (void *)first_record(block)->value;

	extent->count = ash_put32(4);
}

static void change_extent_over_end(void *block)
{
	struct ash_extent_value *extent = (void *)last_record(block)->value;

	extent->count = ash_put32(4);
}

static void change_key_up(void *block)
{
	last_record(block)->key = ash_put64(1u << 20);
}

static void change_key_down(void *block)
{
	first_record(block)->key = ash_put64(0);
}

Test(scrub, structure_of_trees_is_judged)
{
	static const struct {
		unsigned leaf; /* 0, 1: of the file with extents; 2: of the directory */
		void (*change)(void *block);
		const char *text;
	} cases[] = {
		{ 2, change_entry_target, "not in use" },
		{ 2, change_entry_to_free, "not in use" },
		{ 2, change_entry_type, "another type" },
		{ 2, change_entry_name, "key of another name" },
		{ 2, change_node_count, "free space" },
		{ 2, change_owner, "another owner" },
		{ 2, change_level, "level" },
		{ 0, change_extent_outside, "outside of the volume" },
		{ 0, change_extent_to_log, "volume's own" },
		{ 0, change_extent_to_free, "free in the bitmap" },
		{ 0, change_extent_length, "length" },
		{ 0, change_extent_overlap, "overlap" },
		{ 0, change_extent_over_end, "next leaf" },
		{ 0, change_key_up, "above its parent" },
		{ 1, change_key_down, "below its parent" },
	};
	struct fixture f;
	struct result result;
	uint64_t blocks[3];

	fixture_open(&f);
	blocks[0] = node_of(&f, f.fragments, 0, 0);
	blocks[1] = node_of(&f, f.fragments, 0, 1);
	blocks[2] = node_of(&f, f.big, 0, 0);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t block = blocks[cases[i].leaf], owner = cases[i].leaf == 2 ? f.big : f.fragments;
		struct ash_block_header *header;
		uint8_t good[ASH_BLOCK_SIZE], bad[ASH_BLOCK_SIZE];

		ash_abandon(f.names.volume);
		device_get(&f, block, good);
		memcpy(bad, good, sizeof(bad));
		cases[i].change(bad);
		names_mount(&f.names);
		header = (void *)bad;
		header->crc = ash_put32(ash_block_crc(f.names.volume->checksum_seed, bad));
		device_put(&f, block, bad);
		/* types are compared where the inodes are cached */
		for (uint64_t ino = ASH_INO_FIRST_FREE; ino <= ENTRIES + 8; ino += 8) {
			struct ash_attr attr;

			cr_assert_eq(ash_getattr(f.names.volume, ino, &attr), 0);
		}
		scrub_all(&f, &result);
		expect_problem(&result, owner, block, cases[i].text);
		device_put(&f, block, good);
	}
	fixture_close(&f);
}

Test(scrub, sums_of_an_inode_are_judged)
{
	static const struct {
		uint32_t field;
		const char *text;
	} cases[] = {
		{ offsetof(struct ash_inode, blocks), "number of blocks" },
		{ offsetof(struct ash_inode, size), "number of entries" },
		{ offsetof(struct ash_inode, nlink), "number of links" },
		{ offsetof(struct ash_inode, parent), "parent" },
	};
	struct fixture f;
	struct result result;
	uint32_t offset;
	uint64_t block;

	fixture_open(&f);
	block = record_block(&f, f.big, &offset);
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t good[ASH_BLOCK_SIZE], bad[ASH_BLOCK_SIZE];
		struct ash_inode *record = (void *)(bad + offset);

		ash_abandon(f.names.volume);
		device_get(&f, block, good);
		memcpy(bad, good, sizeof(bad));
		bad[offset + cases[i].field + 1] ^= 0x40;
		names_mount(&f.names);
		record->crc = ash_put32(ash_inode_crc(f.names.volume->checksum_seed, record));
		device_put(&f, block, bad);
		scrub_all(&f, &result);
		cr_expect_eq(result.last.problems, 1);
		expect_problem(&result, f.big, block, cases[i].text);
		device_put(&f, block, good);
	}
	fixture_close(&f);
}

Test(scrub, long_attribute_values_are_read)
{
	struct fixture f;
	struct result result;
	uint8_t data[ASH_BLOCK_SIZE];
	uint64_t block = 0, found = 0;

	fixture_open(&f);
	for (block = 1; !found && block < f.names.volume->block_count; block++) {
		device_get(&f, block, data);
		if (data[0] == 'v' && data[4095] == 'v')
			found = block;
	}
	cr_assert_gt(found, 0);
	data[77] = 'w';
	device_put(&f, found, data);
	scrub_all(&f, &result);
	cr_expect_eq(result.last.problems, 1);
	cr_expect_eq(result.list[0].ino, f.attribute);
	cr_expect(strstr(result.list[0].what, "checksum of an attribute"), "%s", result.list[0].what);
	fixture_close(&f);
}

/* A bitmap block that is not cached, changed by `change`, with a right checksum. `good` gets it as it was. */
static void bitmap_change(struct fixture *f, uint64_t block, uint8_t good[ASH_BLOCK_SIZE], int64_t bit, int initialized)
{
	uint8_t data[ASH_BLOCK_SIZE];
	struct ash_bitmap_block *bitmap = (void *)data;

	names_remount(&f->names);
	device_get(f, block, good);
	memcpy(data, good, sizeof(data));
	if (bit >= 0)
		bitmap->bits[bit / 8] &= (uint8_t) ~(1u << bit % 8);
	else
		bitmap->initialized = ash_put32((uint32_t)initialized);
	bitmap->header.crc = ash_put32(ash_block_crc(f->names.volume->checksum_seed, data));
	device_put(f, block, data);
}

/* What is damaged in a bitmap is seen where it is, and where somebody depends on it. */
Test(scrub, bits_of_what_is_in_use_are_judged)
{
	uint8_t good[ASH_BLOCK_SIZE];
	struct ash_block_id run;
	struct fixture f;
	struct result result;
	uint64_t node, record;
	uint32_t offset;

	fixture_open(&f);
	cr_assert(ash_itable_bitmap(f.names.volume, 0, &run));
	node = node_of(&f, f.big, 0, 0);
	record = record_block(&f, f.big, &offset);

	bitmap_change(&f, 1, good, 0, 0); /* block 0: the superblock */
	scrub_all(&f, &result);
	expect_problem(&result, 0, 1, "own blocks are free");
	device_put(&f, 1, good);

	bitmap_change(&f, 1, good, (int64_t)node, 0);
	scrub_all(&f, &result);
	expect_problem(&result, f.big, node, "tree node in a block that is free");
	device_put(&f, 1, good);

	bitmap_change(&f, run.block, good, (int64_t)f.big, 0);
	scrub_all(&f, &result);
	expect_problem(&result, f.big, record, "inode in use is free in the bitmap");
	expect_problem(&result, ASH_INO_ROOT, record_block(&f, ASH_INO_ROOT, &offset),
		       "names an inode that is not in use");
	device_put(&f, run.block, good);

	bitmap_change(&f, run.block, good, -1, 5000);
	scrub_all(&f, &result);
	expect_problem(&result, 0, run.block, "initialized");
	device_put(&f, run.block, good);

	names_remount(&f.names);
	scrub_all(&f, &result);
	cr_expect_eq(result.last.problems, 0, "%s", result.list[0].what);
	fixture_close(&f);
}

Test(scrub, damage_is_treated_as_the_options_say)
{
	struct fixture f;
	struct result result;
	uint8_t data[ASH_BLOCK_SIZE];
	uint64_t block;

	for (unsigned go_on = 0; go_on < 2; go_on++) {
		fixture_open(&f);
		f.names.options.continue_on_damage = go_on;
		names_remount(&f.names);
		block = node_of(&f, f.big, 0, 0);
		device_get(&f, block, data);
		data[1000] ^= 1;
		device_put(&f, block, data);
		scrub_all(&f, &result);
		cr_expect_eq(result.last.problems, 1);
		cr_expect_eq(f.names.volume->damaged_blocks, 1);
		cr_expect_eq(names_make(&f.names, ASH_INO_ROOT, "x", S_IFREG | 0644) > 0, go_on);
		cr_expect_gt(names_find(&f.names, ASH_INO_ROOT, "fragments"), 0, "reading goes on");
		fixture_close(&f);
	}
}

Test(scrub, read_only_volume_with_a_log_to_overlay)
{
	struct fixture f;
	struct result result;

	fixture_open(&f);
	names_file(&f.names, ASH_INO_ROOT, "new");
	cr_assert_eq(ash_sync(f.names.volume), 0);
	f.names.options.no_write = true;
	names_crash(&f.names);
	scrub_all(&f, &result);
	cr_expect_eq(result.last.problems, 0, "%s", result.list[0].what);
	cr_expect_gt(result.last.newer, 0);
	cr_expect_eq(result.last.inodes, f.inodes + 1);
	fixture_close(&f);
}

Test(scrub, state_of_a_stranger_is_not_trusted)
{
	struct fixture f;
	struct ash_scrub scrub = { 0 };
	uint64_t random = 1;

	fixture_open(&f);
	cr_expect_eq(ash_scrub(f.names.volume, &scrub), -EINVAL);
	scrub = (struct ash_scrub){ .version = ASH_SCRUB_VERSION, .phase = 6 };
	cr_expect_eq(ash_scrub(f.names.volume, &scrub), -EINVAL);
	scrub = (struct ash_scrub){ .version = ASH_SCRUB_VERSION, .fork = 3 };
	cr_expect_eq(ash_scrub(f.names.volume, &scrub), -EINVAL);
	for (unsigned i = 0; i < 400; i++) {
		uint64_t words[sizeof(scrub) / 8];

		for (unsigned w = 0; w < sizeof(scrub) / 8; w++) {
			random = random * 6364136223846793005u + 1442695040888963407u;
			words[w] = random >> (random >> 58);
		}
		memcpy(&scrub, words, sizeof(scrub));
		scrub.version = ASH_SCRUB_VERSION;
		scrub.phase = i % 6;
		scrub.fork %= 3;
		cr_expect_eq(ash_scrub(f.names.volume, &scrub), 0);
		cr_expect_eq(scrub.listed, 0, "%s", scrub.list[0].what);
	}
	fixture_close(&f);
}
