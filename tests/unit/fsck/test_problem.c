/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each problem by its code: damage under a right checksum is named by a look, repaired by -y, and gone then. What the
 * repair must keep, and what it must not do, is told where it matters.
 */
#include "forge_fixture.h"

#include <dirent.h>

/* A free number: its record was formatted, and nobody had it. */
static uint64_t free_ino(const struct sick *sick)
{
	return sick->file + 1;
}

static uint64_t last_block(struct sick *sick)
{
	struct ash_super super;

	image_read(&sick->engine, 0, &super);
	return ash_get64(super.block_count) - 1;
}

/* ---- Directories ---- */

/* "folder" and "other" in the root. */
static void folders_open(struct sick *sick, uint64_t *folder, uint64_t *other)
{
	struct ash_create create = { .mode = S_IFDIR | 0755 };
	struct ash_attr attr;

	sick_open(sick, true);
	engine_mount(&sick->engine);
	cr_assert_eq(ash_create(sick->engine.volume, ASH_INO_ROOT, "folder", &create, &attr), 0);
	*folder = attr.ino;
	cr_assert_eq(ash_create(sick->engine.volume, ASH_INO_ROOT, "other", &create, &attr), 0);
	*other = attr.ino;
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
}

#define UNUSED UINT64_MAX

struct entry {
	uint64_t ino; /* 0: one of that type; UNUSED: a free number */
	uint64_t key; /* 0: that of the name */
	const char *name;
	uint8_t type;
};

static void entries_forge(struct sick *sick, uint64_t folder, const struct entry *entries, unsigned count,
			  uint64_t size)
{
	struct ash_inode record;

	inode_get(&sick->engine, folder, &record);
	record.data_kind = ASH_FORK_TREE;
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	for (unsigned i = 0; i < count; i++) {
		uint8_t value[sizeof(struct ash_dirent_value) + ASH_NAME_MAX];
		uint8_t length = (uint8_t)strlen(entries[i].name);
		struct ash_dirent_value entry = { .ino = ash_put64(entries[i].ino),
						  .type = entries[i].type,
						  .name_length = length };

		memcpy(value, &entry, sizeof(entry));
		memcpy(value + sizeof(entry), entries[i].name, length);
		node_add(record.data, entries[i].key ? entries[i].key : key_of(&sick->engine, entries[i].name), value,
			 (uint32_t)sizeof(entry) + length);
	}
	record.size = ash_put64(size);
	inode_forge(&sick->engine, folder, &record);
}

Test(problem, parent_of_a_directory)
{
	uint64_t folder, other;
	struct ash_inode record;
	struct sick sick;

	folders_open(&sick, &folder, &other);
	inode_get(&sick.engine, folder, &record);
	cr_assert_eq(ash_get64(record.parent), ASH_INO_ROOT);
	record.parent = ash_put64(other);
	inode_forge(&sick.engine, folder, &record);
	expect_healed(&sick, "directory-parent");
	inode_get(&sick.engine, folder, &record);
	cr_expect_eq(ash_get64(record.parent), ASH_INO_ROOT);
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

Test(problem, number_of_entries)
{
	uint64_t folder, other;
	struct ash_inode record;
	struct sick sick;

	folders_open(&sick, &folder, &other);
	inode_get(&sick.engine, folder, &record);
	record.size = ash_put64(5);
	inode_forge(&sick.engine, folder, &record);
	expect_healed(&sick, "directory-size");
	engine_close(&sick.engine);
}

/* `left`: the name is there after the repair, and leads to the file. */
static void expect_entry(const char *code, struct entry first, const struct entry *second, bool left)
{
	struct entry entries[2] = { first };
	uint64_t folder, other;
	struct ash_attr attr;
	struct sick sick;

	folders_open(&sick, &folder, &other);
	if (second)
		entries[1] = *second;
	for (unsigned i = 0; i < 2; i++)
		if (!entries[i].ino)
			entries[i].ino = entries[i].type == DT_DIR ? other : sick.file;
	if (first.ino == UNUSED)
		entries[0].ino = other + 1;
	if (second)
		entries[1].key = key_of(&sick.engine, second->name) + 1;
	entries_forge(&sick, folder, entries, second ? 2 : 1, second ? 2 : 1);
	expect_healed(&sick, code);
	engine_mount(&sick.engine);
	cr_expect_eq(!ash_lookup(sick.engine.volume, folder, first.name, &attr), left, "%s", code);
	if (left)
		cr_expect_eq(attr.ino, sick.file, "%s", code);
	cr_expect_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "other", &attr), 0, "%s", code);
	engine_close(&sick.engine);
}

Test(problem, entries)
{
	const struct entry again = { .name = "x", .type = DT_REG };

	expect_entry("dirent-target", (struct entry){ .name = "x", .type = DT_REG, .ino = UNUSED }, NULL, false);
	expect_entry("dirent-type", (struct entry){ .name = "x", .type = DT_FIFO }, NULL, true);
	expect_entry("dirent-key", (struct entry){ .name = "x", .type = DT_REG, .key = 0x12300 }, NULL, true);
	expect_entry("dirent-duplicate", (struct entry){ .name = "x", .type = DT_REG }, &again, true);
	expect_entry("dirent-second-parent", (struct entry){ .name = "x", .type = DT_DIR }, NULL, false);
	expect_entry("dirent ", (struct entry){ .name = "a/b", .type = DT_REG }, NULL, false);
}

Test(problem, root_that_is_missing)
{
	struct ash_inode record = { 0 };
	struct ash_attr attr;
	struct sick sick;

	sick_open(&sick, true);
	inode_put(&sick.engine, ASH_INO_ROOT, &record);
	expect_healed(&sick, "root-missing");
	engine_mount(&sick.engine);
	cr_expect_eq(ash_getattr(sick.engine.volume, sick.file, &attr), 0);
	cr_expect_eq(attr.nlink, 1);
	engine_close(&sick.engine);
}

/* ---- Inodes ---- */

/* A file with a record of its own, but neither a name nor a bit. */
static void nameless_forge(struct sick *sick, uint32_t links)
{
	struct ash_inode record;

	inode_get(&sick->engine, sick->file, &record);
	record.ino = ash_put64(free_ino(sick));
	record.nlink = ash_put32(links);
	inode_forge(&sick->engine, free_ino(sick), &record);
}

/* The log has no orphan of that number: nobody would ever free it. */
Test(problem, nameless_file_without_links)
{
	struct ash_inode record;
	struct sick sick;

	sick_open(&sick, true);
	nameless_forge(&sick, 0);
	expect_healed(&sick, "lost-orphan");
	inode_get(&sick.engine, free_ino(&sick), &record);
	cr_expect_eq(ash_get32(record.mode), 0);
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

Test(problem, nameless_file_with_a_link)
{
	struct ash_attr attr;
	struct sick sick;

	sick_open(&sick, true);
	nameless_forge(&sick, 1);
	expect_healed(&sick, "unreachable-inode");
	engine_mount(&sick.engine);
	cr_expect_eq(ash_getattr(sick.engine.volume, free_ino(&sick), &attr), 0);
	engine_close(&sick.engine);
}

Test(problem, reserved_inode)
{
	struct ash_inode record;
	struct sick sick;

	sick_open(&sick, true);
	inode_get(&sick.engine, sick.file, &record);
	record.ino = ash_put64(5);
	inode_forge(&sick.engine, 5, &record);
	expect_healed(&sick, "reserved-inode");
	engine_close(&sick.engine);
}

Test(problem, inode_that_is_none)
{
	struct ash_inode record;
	struct sick sick;

	sick_open(&sick, true);
	memset(&record, 0x3c, sizeof(record));
	inode_put(&sick.engine, sick.file, &record);
	expect_healed(&sick, "inode-damaged");
	expect_files(&sick, false);
	engine_close(&sick.engine);
}

static void expect_record(const char *code, void (*change)(struct ash_inode *record))
{
	struct ash_inode record;
	struct sick sick;

	sick_open(&sick, true);
	inode_get(&sick.engine, sick.file, &record);
	change(&record);
	inode_forge(&sick.engine, sick.file, &record);
	expect_healed(&sick, code);
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

static void change_blocks(struct ash_inode *record)
{
	record->blocks = ash_put64(9);
}

static void change_flags(struct ash_inode *record)
{
	record->flags = ash_put32(0x80000000u);
}

static void change_links(struct ash_inode *record)
{
	record->nlink = ash_put32(3);
}

Test(problem, fields_of_an_inode)
{
	expect_record("inode-blocks", change_blocks);
	expect_record("inode-field", change_flags);
	expect_record("link-count", change_links);
}

/* ---- Extents ---- */

/* A file with two extents of two blocks each; the number of its first block. */
static uint64_t extents_forge(struct sick *sick, uint64_t second_key, uint64_t size)
{
	struct ash_inode record;
	uint8_t bytes[ASH_BLOCK_SIZE] = "content";
	uint64_t blocks[4];

	for (unsigned i = 0; i < 4; i++) {
		blocks[i] = block_take(&sick->engine);
		bytes[100] = (uint8_t)i;
		image_write(&sick->engine, blocks[i], bytes);
	}
	cr_assert_eq(blocks[3], blocks[0] + 3);
	inode_get(&sick->engine, sick->file, &record);
	record.data_kind = ASH_FORK_TREE;
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	node_add_extent(record.data, 0, blocks[0], 2);
	node_add_extent(record.data, second_key, blocks[2], 2);
	record.size = ash_put64(size);
	record.blocks = ash_put64(4);
	inode_forge(&sick->engine, sick->file, &record);
	return blocks[0];
}

static bool has_content(struct sick *sick, uint64_t file_block, uint8_t number)
{
	uint8_t bytes[ASH_BLOCK_SIZE] = "";

	return ash_read(sick->engine.volume, sick->file, bytes, sizeof(bytes), file_block * sizeof(bytes)) ==
		       sizeof(bytes) &&
	       !strcmp((char *)bytes, "content") && bytes[100] == number;
}

/* No block is claimed twice: only the keys say that something is wrong. */
Test(problem, extents_that_overlap)
{
	struct sick sick;

	sick_open(&sick, true);
	extents_forge(&sick, 1, 3 * ASH_BLOCK_SIZE);
	expect_healed(&sick, "extent ");
	cr_expect(!strstr(sick.codes, "duplicate"), "%s", sick.codes);
	engine_mount(&sick.engine);
	cr_expect(has_content(&sick, 0, 0));
	cr_expect(has_content(&sick, 1, 1), "the first one's");
	engine_close(&sick.engine);
}

Test(problem, extents_that_touch_are_good)
{
	struct sick sick;

	sick_open(&sick, true);
	extents_forge(&sick, 2, 4 * ASH_BLOCK_SIZE);
	check(&sick, ASH_CHECK_NO);
	cr_expect(!strstr(sick.codes, "extent"), "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	for (uint8_t i = 0; i < 4; i++)
		cr_expect(has_content(&sick, i, i), "%u", i);
	engine_close(&sick.engine);
}

Test(problem, blocks_behind_the_end_of_file)
{
	struct sick sick;

	sick_open(&sick, true);
	extents_forge(&sick, 2, 2 * ASH_BLOCK_SIZE);
	expect_healed(&sick, "extent-beyond-eof");
	engine_mount(&sick.engine);
	cr_expect(has_content(&sick, 1, 1));
	engine_close(&sick.engine);
}

/* ---- Records whose checksum is wrong ---- */

/* It is not believed, and all else of the record is. */
Test(problem, doubtful_rights)
{
	struct ash_inode record;
	struct sick sick;

	sick_open(&sick, true);
	inode_get(&sick.engine, sick.file, &record);
	record.mode = ash_put32(ash_get32(record.mode) | S_ISUID);
	inode_put(&sick.engine, sick.file, &record);
	expect_healed(&sick, "inode-doubt");
	inode_get(&sick.engine, sick.file, &record);
	cr_expect_eq(ash_get32(record.mode), S_IFREG | 0600, "%o", ash_get32(record.mode));
	engine_close(&sick.engine);
}

Test(problem, doubtful_time)
{
	struct ash_inode record;
	struct sick sick;

	sick_open(&sick, true);
	inode_get(&sick.engine, sick.file, &record);
	record.mtime = ash_put64(1ull << 50);
	inode_put(&sick.engine, sick.file, &record);
	expect_healed(&sick, "inode-doubt");
	inode_get(&sick.engine, sick.file, &record);
	cr_expect_lt(ash_get64(record.mtime), 1ull << 34);
	engine_close(&sick.engine);
}

/* One that would free what is written, and one that would make a hole. */
Test(problem, doubtful_size)
{
	for (uint64_t blocks = 1; blocks < 10; blocks += 8) {
		struct ash_inode record;
		struct sick sick;

		sick_open(&sick, true);
		extents_forge(&sick, 2, 4 * ASH_BLOCK_SIZE);
		inode_get(&sick.engine, sick.file, &record);
		record.size = ash_put64(blocks * ASH_BLOCK_SIZE);
		inode_put(&sick.engine, sick.file, &record);
		expect_healed(&sick, "inode-size");
		inode_get(&sick.engine, sick.file, &record);
		cr_expect_eq(ash_get64(record.size), 4 * ASH_BLOCK_SIZE);
		engine_mount(&sick.engine);
		for (uint8_t i = 0; i < 4; i++)
			cr_expect(has_content(&sick, i, i), "%u", i);
		engine_close(&sick.engine);
	}
}

/* ---- An extent where it must not be ---- */

/* The last block is a copy of the superblock: no file's. */
Test(problem, extent_over_the_last_block)
{
	static const char text[2 * ASH_BLOCK_SIZE] = "written over it";
	struct ash_inode record;
	struct ash_super super;
	uint64_t last;
	struct sick sick;

	sick_open(&sick, true);
	last = last_block(&sick);
	inode_get(&sick.engine, sick.file, &record);
	record.data_kind = ASH_FORK_TREE;
	node_begin(record.data, ASH_DATA_FORK_SIZE, 0);
	node_add_extent(record.data, 0, last - 1, 2);
	record.size = ash_put64(sizeof(text));
	record.blocks = ash_put64(2);
	inode_forge(&sick.engine, sick.file, &record);
	expect_healed(&sick, "duplicate-blocks");
	inode_get(&sick.engine, sick.file, &record);
	cr_expect_eq(ash_get64(record.blocks), 1, "a hole");
	engine_mount(&sick.engine);
	cr_expect_eq(ash_write(sick.engine.volume, sick.file, text, sizeof(text), 0, 0), sizeof(text));
	cr_expect_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	image_read(&sick.engine, last, &super);
	cr_expect_eq(ash_get32(super.header.magic), ASH_MAGIC_SUPER);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_close(&sick.engine);
}

/* ---- Bitmaps ---- */

static bool refuse_tree(void *context, const struct ash_check_problem *problem)
{
	(void)context;
	return strcmp(problem->code, "tree-data") != 0;
}

/*
 * The leaf of a file's tree is damaged and is to stay so: what it leads to looks unused. It is not freed, for when the
 * leaf comes back, so does the file.
 */
Test(problem, blocks_are_not_freed_while_something_is_left)
{
	struct ash_check_options options = { .mode = ASH_CHECK_ASK, .force = true, .no_threads = true };
	uint8_t leaf[ASH_BLOCK_SIZE], *node;
	uint64_t block, first;
	struct ash_check_result result;
	struct ash_bitmap_block bitmap;
	struct ash_inode record;
	struct sick sick;

	sick_open(&sick, true);
	block = block_take(&sick.engine);
	first = extents_forge(&sick, 2, 4 * ASH_BLOCK_SIZE);
	inode_get(&sick.engine, sick.file, &record);
	node = tree_block_begin(&sick.engine, leaf, block, sick.file, 0);
	node_add_extent(node, 0, first, 2);
	node_add_extent(node, 2, first + 2, 2);
	block_seal(&sick.engine, leaf);
	node_begin(record.data, ASH_DATA_FORK_SIZE, 1);
	node_add_child(record.data, 0, block);
	record.blocks = ash_put64(5);
	inode_forge(&sick.engine, sick.file, &record);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);

	image_spoil(&sick.engine, block, 1000);
	options.ask = refuse_tree;
	options.report = note_code;
	options.context = &sick;
	sick.codes[0] = 0;
	cr_assert_eq(ash_check(sick.engine.dev, &options, &result), 0, "%s", result.error);
	cr_expect(strstr(sick.codes, "tree-data"), "%s", sick.codes);
	cr_expect(!strstr(sick.codes, "bitmap-extra"), "%s", sick.codes);
	cr_expect_eq(result.left, 1, "%s", sick.codes);
	image_read(&sick.engine, ash_group_bitmap(0), &bitmap);
	for (uint64_t i = first; i < first + 4; i++)
		cr_expect(bitmap.bits[i / 8] & 1u << i % 8, "block %d", (int)(i - first));
	image_spoil(&sick.engine, block, 1000);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	for (uint8_t i = 0; i < 4; i++)
		cr_expect(has_content(&sick, i, i), "%u", i);
	engine_close(&sick.engine);
}

/* Change a block with a header, under a right checksum. */
static void block_forge(struct sick *sick, uint64_t block, void (*change)(uint8_t *bytes))
{
	_Alignas(8) uint8_t bytes[ASH_BLOCK_SIZE];

	image_read(&sick->engine, block, bytes);
	change(bytes);
	block_seal(&sick->engine, bytes);
}

static uint64_t group_table(struct sick *sick)
{
	struct ash_super super;

	image_read(&sick->engine, 0, &super);
	return ash_get64(super.group_table_start);
}

static uint64_t group_bitmap(struct sick *sick)
{
	(void)sick;
	return ash_group_bitmap(0);
}

static uint64_t run_bitmap(struct sick *sick)
{
	return run_start(&sick->engine);
}

static void expect_block(const char *code, uint64_t (*where)(struct sick *sick), void (*change)(uint8_t *bytes))
{
	struct sick sick;

	sick_open(&sick, true);
	block_forge(&sick, where(&sick), change);
	expect_healed(&sick, code);
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

static void set_far_bit(uint8_t *bytes)
{
	((struct ash_bitmap_block *)(void *)bytes)->bits[400] |= 0x10;
}

static void clear_first_bits(uint8_t *bytes)
{
	((struct ash_bitmap_block *)(void *)bytes)->bits[0] = 0;
}

static void set_inode_bit(uint8_t *bytes)
{
	((struct ash_bitmap_block *)(void *)bytes)->bits[(8 + FILES) / 8 + 1] |= 0x10;
}

static void clear_inode_bit(uint8_t *bytes)
{
	((struct ash_bitmap_block *)(void *)bytes)->bits[2] &= 0xfe;
}

static void set_unknown_flag(uint8_t *bytes)
{
	((struct ash_group_table_block *)(void *)bytes)->flags[0] = ash_put32(0x100);
}

static void set_untouched(uint8_t *bytes)
{
	((struct ash_group_table_block *)(void *)bytes)->flags[0] = ash_put32(ASH_GROUP_UNINIT);
}

static void change_free_count(uint8_t *bytes)
{
	((struct ash_group_table_block *)(void *)bytes)->free_blocks[0] = ash_put32(7);
}

static void spoil_contents(uint8_t *bytes)
{
	((struct ash_block_header *)(void *)bytes)->magic = ash_put32(ASH_MAGIC_TREE_NODE);
}

Test(problem, bitmaps)
{
	expect_block("bitmap-extra", group_bitmap, set_far_bit);
	expect_block("bitmap-missing", group_bitmap, clear_first_bits);
	expect_block("bitmap-bad", group_bitmap, spoil_contents);
	expect_block("inode-bitmap-extra", run_bitmap, set_inode_bit);
	expect_block("inode-bitmap-missing", run_bitmap, clear_inode_bit);
	expect_block("run-bitmap", run_bitmap, spoil_contents);
	expect_block("group-flags", group_table, set_unknown_flag);
	expect_block("group-uninit-used", group_table, set_untouched);
	expect_block("group-free-count", group_table, change_free_count);
}

/* ---- Superblock and log ---- */

Test(problem, backups)
{
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	image_spoil(&sick.engine, last_block(&sick), 2500);
	expect_healed(&sick, "backup-bad");
	image_read(&sick.engine, 0, &super);
	memcpy(super.label, "old", 4);
	super_put(&sick.engine, last_block(&sick), &super);
	expect_healed(&sick, "backup-stale");
	image_read(&sick.engine, last_block(&sick), &super);
	cr_expect_neq(memcmp(super.label, "old", 4), 0);
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

static void note_told(void *context, const struct ash_check_problem *problem)
{
	*(unsigned *)context += problem->told && !problem->fixed && problem->severity == ASH_CHECK_NOTE;
}

/* No inconsistency, but who only looks wants to know of it. */
Test(problem, mark)
{
	unsigned told = 0;
	const struct ash_check_options look = {
		.mode = ASH_CHECK_NO, .no_threads = true, .report = note_told, .context = &told
	};
	struct ash_check_result result;
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	image_read(&sick.engine, 0, &super);
	super.state = ash_put32(ASH_STATE_ERRORS);
	super_put(&sick.engine, 0, &super);
	cr_assert_eq(ash_check(sick.engine.dev, &look, &result), 0, "%s", result.error);
	cr_expect_eq(told, 1);
	cr_expect_eq(result.problems, 0);
	expect_healed(&sick, "super-errors");
	image_read(&sick.engine, 0, &super);
	cr_expect_eq(ash_get32(super.state), 0);
	engine_close(&sick.engine);
}

/* No copy of the table's inode is good: the run is found by its bitmap. */
Test(problem, table_inode_that_is_lost)
{
	struct ash_super super;
	uint64_t last;
	struct sick sick;

	sick_open(&sick, true);
	last = last_block(&sick);
	image_read(&sick.engine, 0, &super);
	super.table_inode.magic = ash_put32(0);
	super_put(&sick.engine, 0, &super);
	super_put(&sick.engine, last, &super);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes); /* one that only looks gets no further */
	cr_expect(strstr(sick.codes, "super-table-lost"), "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

Test(problem, controls_that_are_both_bad)
{
	struct sick sick;

	sick_open(&sick, true);
	image_spoil(&sick.engine, sick.log_start, 100);
	image_spoil(&sick.engine, sick.log_start + 1, 100);
	expect_healed(&sick, "log-control ");
	expect_files(&sick, true);
	engine_close(&sick.engine);
}

static void change_total_blocks(uint8_t *bytes)
{
	((struct ash_log_control *)(void *)bytes)->free_blocks = ash_put64(5);
}

static void change_total_inodes(uint8_t *bytes)
{
	((struct ash_log_control *)(void *)bytes)->used_inodes = ash_put64(5);
}

Test(problem, totals)
{
	static void (*const changes[])(uint8_t * bytes) = { change_total_blocks, change_total_inodes };

	for (unsigned c = 0; c < 2; c++) {
		struct sick sick;

		sick_open(&sick, true);
		for (unsigned i = 0; i < 2; i++)
			block_forge(&sick, sick.log_start + i, changes[c]);
		expect_healed(&sick, c ? "total-inodes" : "total-blocks");
		expect_files(&sick, true);
		engine_close(&sick.engine);
	}
}
