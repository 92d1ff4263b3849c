/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ash_mkfs(): the layout invariants, read back by a reader that knows only docs/FORMAT.md: raw byte offsets and its
 * own bitwise CRC32C, none of the structures or helpers that wrote the volume.
 */
#include <ashlar/ashlar.h>
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/checksum.h"
#include "fs/mkvolume.h"
#include "tests/support/fault.h"

#define BLOCK 4096u
#define GROUP 32256u /* blocks */

enum { NODE_OFFSET = 128, RECORD_TABLE = 2048 };

/* ---- The reader ---- */

static uint64_t number(const uint8_t *p, unsigned bytes)
{
	uint64_t value = 0;

	while (bytes--)
		value = value << 8 | p[bytes];
	return value;
}

static uint32_t crc32c(uint32_t crc, const uint8_t *p, size_t length)
{
	crc = ~crc;
	while (length--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
	}
	return ~crc;
}

/* Over `length` bytes with the 4 bytes at offset 4 as zero. */
static uint32_t crc_of(uint32_t seed, const uint8_t *p, size_t length)
{
	static const uint8_t zero[4];

	return crc32c(crc32c(crc32c(seed, p, 4), zero, 4), p + 8, length - 8);
}

struct reader {
	struct bdev *dev;
	uint8_t *super, *block;
	uint64_t blocks, groups, table_start, table_blocks, log_start, log_blocks;
	uint64_t run_start, run_blocks, per_run;
	uint32_t seed;
};

static void load(struct reader *reader, uint64_t block, uint8_t *out)
{
	cr_assert_eq(bdev_read(reader->dev, out, BLOCK, block * BLOCK), 0, "read of block %lu", block);
}

static void check_header(const struct reader *reader, const uint8_t *p, const char *magic, uint64_t address,
			 uint64_t owner, uint32_t seed, size_t length)
{
	cr_assert_arr_eq(p, magic, 4, "magic of block %lu", address);
	cr_assert_eq(number(p + 4, 4), crc_of(seed, p, length), "checksum of block %lu", address);
	cr_assert_eq(number(p + 8, 8), address);
	cr_assert_eq(number(p + 16, 8), owner);
	cr_assert_arr_eq(p + 24, reader->super + 24, 16, "metadata UUID of block %lu", address);
}

static uint8_t *load_checked(struct reader *reader, const char *magic, uint64_t address, uint64_t owner)
{
	load(reader, address, reader->block);
	check_header(reader, reader->block, magic, address, owner, reader->seed,
		     strcmp(magic, "ASGT") == 0 ? 64 + 504 * 4 : BLOCK);
	return reader->block;
}

static bool power_of(uint64_t n, uint64_t base)
{
	uint64_t p = base;

	while (p < n)
		p *= base;
	return p == n;
}

static bool has_super(uint64_t group)
{
	return group <= 1 || power_of(group, 3) || power_of(group, 5) || power_of(group, 7);
}

/* The record of the inode table: one extent that begins at file block 0. */
static void read_table_inode(struct reader *reader)
{
	const uint8_t *record = reader->super + RECORD_TABLE, *node = record + NODE_OFFSET;
	unsigned offset = (unsigned)number(node + 8, 2);

	cr_assert_arr_eq(record, "ASIN", 4);
	cr_assert_eq(number(record + 4, 4), crc_of(reader->seed, record, 512), "checksum of the table's inode");
	cr_assert_eq(number(record + 8, 8), 0);
	cr_assert_eq(number(record + 24, 4), 0, "mode");
	cr_assert_eq(record[124], 2, "the data fork is a tree");
	cr_assert_eq(number(node, 2), 0, "level");
	cr_assert_eq(number(node + 2, 2), 1, "count");
	cr_assert_eq(number(node + 4, 2), offset);
	cr_assert_eq(number(node + 6, 2), 0);
	cr_assert_eq(offset + 26, 256, "the record ends with the fork");
	cr_assert_eq(number(node + offset, 8), 0, "key");
	cr_assert_eq(number(node + offset + 8, 2), 16, "length of the value");
	reader->run_start = number(node + offset + 10, 8);
	reader->run_blocks = number(node + offset + 18, 4);
	cr_assert_eq(number(node + offset + 22, 4), 0, "written");
	cr_assert_eq(number(record + 40, 8), reader->run_blocks * BLOCK, "size");
	cr_assert_eq(number(record + 48, 8), reader->run_blocks, "blocks");
}

static void open_reader(struct reader *reader, struct bdev *dev)
{
	const uint8_t *super;

	memset(reader, 0, sizeof(*reader));
	reader->dev = dev;
	super = reader->super = bdev_buffer_alloc(BLOCK);
	reader->block = bdev_buffer_alloc(BLOCK);
	load(reader, 0, reader->super);
	check_header(reader, super, "ASSB", 0, 0, 0, BLOCK);
	cr_assert_arr_eq(super + 40, "ASHLARFS", 8);
	cr_assert_eq(number(super + 48, 4), 1, "version");
	cr_assert_eq(number(super + 52, 4), 12, "block shift");
	for (unsigned at = 136; at < 160; at += 8)
		cr_assert_eq(number(super + at, 8), 0, "no feature bits");
	reader->blocks = number(super + 160, 8);
	reader->groups = number(super + 168, 4);
	cr_assert_eq(number(super + 172, 4), GROUP);
	reader->table_start = number(super + 176, 8);
	reader->table_blocks = number(super + 184, 8);
	reader->log_start = number(super + 192, 8);
	reader->log_blocks = number(super + 200, 8);
	reader->seed = (uint32_t)number(super + 208, 4);
	reader->per_run = number(super + 212, 4);
	cr_assert_eq(number(super + 264, 8), 1, "one run of inodes");
	read_table_inode(reader);
}

static void close_reader(struct reader *reader)
{
	bdev_buffer_free(reader->super, BLOCK);
	bdev_buffer_free(reader->block, BLOCK);
}

/* ---- What must be in use ---- */

static bool within(uint64_t block, uint64_t start, uint64_t count)
{
	return block >= start && block - start < count;
}

static bool must_be_used(const struct reader *reader, uint64_t group, uint64_t block)
{
	uint64_t in_group = block - group * GROUP;

	return in_group <= (has_super(group) ? 1 : 0) || block >= reader->blocks - 1 ||
	       within(block, reader->table_start, reader->table_blocks) ||
	       within(block, reader->log_start, reader->log_blocks) ||
	       within(block, reader->run_start, reader->run_blocks);
}

static uint64_t check_group(struct reader *reader, uint64_t group, bool uninit)
{
	uint64_t free_blocks = 0, start = group * GROUP;
	uint8_t *bits = NULL;

	if (!uninit)
		bits = load_checked(reader, "ASBB", start + (has_super(group) ? 1 : 0), group) + 64;
	for (uint64_t i = 0; i < GROUP; i++) {
		bool used = must_be_used(reader, group, start + i);

		if (uninit)
			cr_assert_eq(used, i <= (has_super(group) ? 1 : 0), "group %lu is not as UNINIT says", group);
		else
			cr_assert_eq((bits[i / 8] >> (i % 8)) & 1, used, "bit %lu of group %lu", i, group);
		free_blocks += !used;
	}
	return free_blocks;
}

/* Looks into every bitmap of few groups; of many, only into those that are on disk and the first hundred. */
static uint64_t check_groups(struct reader *reader)
{
	uint8_t *table = bdev_buffer_alloc(BLOCK);
	uint64_t total = 0, uninit_groups = 0;

	cr_assert_geq(reader->table_blocks * 504, 2 * reader->groups < 504 ? 504 : 2 * reader->groups);
	for (uint64_t group = 0; group < reader->groups; group++) {
		uint64_t slot = group % 504, count;
		bool uninit;

		if (slot == 0) {
			memcpy(table, load_checked(reader, "ASGT", reader->table_start + group / 504, 0), BLOCK);
			cr_assert_eq(number(table + 40, 8), group, "first group of the table block");
		}
		count = number(table + 64 + 504 * 4 + slot * 4, 4);
		uninit = number(table + 64 + slot * 4, 4) & 1;
		uninit_groups += uninit;
		if (!uninit || group < 100)
			cr_assert_eq(check_group(reader, group, uninit), count, "free count of group %lu", group);
		total += count;
	}
	cr_assert(reader->groups < 5 || uninit_groups + 4 >= reader->groups, "few bitmaps are written");
	bdev_buffer_free(table, BLOCK);
	return total;
}

static void check_spare_table_blocks(struct reader *reader)
{
	for (uint64_t i = (reader->groups + 503) / 504; i < reader->table_blocks; i++) {
		const uint8_t *table = load_checked(reader, "ASGT", reader->table_start + i, 0);

		cr_assert_eq(number(table + 40, 8), i * 504);
		for (unsigned at = 64; at < BLOCK; at++)
			cr_assert_eq(table[at], 0);
	}
}

static void check_log(struct reader *reader, uint64_t free_blocks)
{
	const uint8_t *block;

	for (unsigned i = 0; i < 2; i++) {
		block = load_checked(reader, "ASLC", reader->log_start + i, 0);
		cr_assert_eq(number(block + 40, 8), i + 1, "sequence");
		cr_assert_eq(number(block + 48, 8), 1, "epoch");
		cr_assert_eq(number(block + 56, 8), 0, "tail position");
		cr_assert_eq(number(block + 64, 8), 0, "tail LSN");
		cr_assert_eq(number(block + 76, 4), 1, "clean");
		cr_assert_eq(number(block + 88, 8), free_blocks);
		cr_assert_eq(number(block + 96, 8), 8, "inode bits in use");
	}
	load(reader, reader->log_start + 2, reader->block);
	for (unsigned i = 0; i < BLOCK; i++)
		cr_assert_eq(reader->block[i], 0, "first log block");
}

static void check_inodes(struct reader *reader)
{
	const uint8_t *block = load_checked(reader, "ASIB", reader->run_start, 0), *root;

	cr_assert_eq(reader->run_blocks, 1 + reader->per_run / 8);
	cr_assert_eq(number(block + 40, 4), 1, "one inode block is formatted");
	cr_assert_eq(block[64], 0xff, "inodes 0 to 7 are in use");
	for (unsigned i = 65; i < BLOCK; i++)
		cr_assert_eq(block[i], 0);
	load(reader, reader->run_start + 1, reader->block);
	root = reader->block + 512;
	cr_assert_arr_eq(root, "ASIN", 4);
	cr_assert_eq(number(root + 4, 4), crc_of(reader->seed, root, 512));
	cr_assert_eq(number(root + 8, 8), 1, "number of the root");
	cr_assert_eq(number(root + 28, 4), 2, "links of the root");
	cr_assert_eq(number(root + 40, 8), 0, "entries of the root");
	cr_assert_eq(number(root + 112, 8), 1, "parent of the root");
	cr_assert_eq(root[124], 0, "data fork of the root");
	for (unsigned i = 0; i < BLOCK; i++)
		cr_assert(i / 512 == 1 || reader->block[i] == 0, "byte %u of the first inode block", i);
}

static void check_backup(struct reader *reader, uint64_t address)
{
	const uint8_t *block;

	load(reader, address, reader->block);
	block = reader->block;
	check_header(reader, block, "ASSB", address, 0, 0, BLOCK);
	cr_assert_arr_eq(block + 16, reader->super + 16, BLOCK - 16, "backup at block %lu", address);
}

static void check_volume(struct bdev *dev)
{
	struct reader reader;
	uint64_t free_blocks;

	open_reader(&reader, dev);
	cr_assert_eq(reader.groups, (reader.blocks + GROUP - 1) / GROUP);
	cr_assert_eq(reader.table_start, 2, "the table lies behind superblock and bitmap");
	cr_assert_lt(reader.table_start + reader.table_blocks, GROUP);
	cr_assert_eq(reader.log_start / GROUP, (reader.log_start + reader.log_blocks - 1) / GROUP, "log in one group");
	cr_assert_eq(reader.run_start / GROUP, (reader.run_start + reader.run_blocks - 1) / GROUP, "run in one group");
	free_blocks = check_groups(&reader);
	check_spare_table_blocks(&reader);
	check_log(&reader, free_blocks);
	check_inodes(&reader);
	for (uint64_t group = 1; group < reader.groups; group++)
		if (has_super(group))
			check_backup(&reader, group * GROUP);
	check_backup(&reader, reader.blocks - 1);
	cr_assert_null(ash_geometry_wrong((const void *)reader.super), "%s",
		       ash_geometry_wrong((const void *)reader.super));
	close_reader(&reader);
}

/* ---- Tests ---- */

static struct bdev *open_device(const char *name)
{
	char error[BDEV_ERROR_TEXT] = "";
	struct bdev *dev = NULL;

	cr_assert_eq(bdev_open(name, &(struct bdev_open_options){ 0 }, &dev, error), 0, "%s", error);
	return dev;
}

static void make(struct bdev *dev, const struct ash_mkfs_options *options)
{
	char error[BDEV_ERROR_TEXT] = "";

	cr_assert_eq(ash_mkfs(dev, options, error), 0, "%s", error);
}

static uint64_t super_number(struct bdev *dev, unsigned offset, unsigned bytes)
{
	uint8_t *block = bdev_buffer_alloc(BLOCK);
	uint64_t value;

	cr_assert_eq(bdev_read(dev, block, BLOCK, 0), 0);
	value = number(block + offset, bytes);
	bdev_buffer_free(block, BLOCK);
	return value;
}

ParameterizedTestParameters(mkvolume, layout_of_sizes)
{
	/* From the least volume over the edges of groups to several with backups. */
	static uint64_t blocks[] = {
		1024,       1032,       4096,      16384,           GROUP - 1,  GROUP,
		GROUP + 63, GROUP + 64, 2 * GROUP, 3 * GROUP + 100, 10 * GROUP,
	};

	return cr_make_param_array(uint64_t, blocks, sizeof(blocks) / sizeof(blocks[0]));
}

ParameterizedTest(uint64_t *blocks, mkvolume, layout_of_sizes)
{
	char name[64];
	struct bdev *dev;

	snprintf(name, sizeof(name), "mem:%luk", *blocks * 4);
	dev = open_device(name);
	make(dev, NULL);
	check_volume(dev);
	bdev_close(dev);
}

Test(mkvolume, rest_too_short_for_a_group_is_left)
{
	struct bdev *dev = open_device("mem:129276k"); /* a group and 63 blocks */

	make(dev, NULL);
	cr_assert_eq(super_number(dev, 160, 8), GROUP);
	bdev_close(dev);
}

static bool end_is_zero(const char *name, const struct ash_mkfs_options *options)
{
	struct bdev *dev = open_device(name);
	uint64_t size = bdev_geometry(dev)->size;
	uint8_t *sector = bdev_buffer_alloc(512);
	bool zero = true;

	memset(sector, 'x', 512);
	cr_assert_eq(bdev_write(dev, sector, 512, size - 512, 0), 0);
	make(dev, options);
	cr_assert_eq(bdev_read(dev, sector, 512, size - 512), 0);
	for (unsigned i = 0; i < 512; i++)
		zero = zero && !sector[i];
	bdev_buffer_free(sector, 512);
	bdev_close(dev);
	return zero;
}

Test(mkvolume, the_very_end_of_the_device_is_zeroed)
{
	cr_assert(end_is_zero("mem:129276k", NULL), "a group and 63 blocks");
	cr_assert(end_is_zero("mem:16779776", NULL), "16 MiB and 5 sectors");
}

Test(mkvolume, with_a_size_nothing_behind_it_is_touched)
{
	cr_assert_not(end_is_zero("mem:129276k", &(struct ash_mkfs_options){ .block_count = GROUP }));
}

Test(mkvolume, a_failing_discard_is_no_failure)
{
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_DISCARD) };
	struct bdev *dev;

	cr_assert_eq(fault_open(open_device("mem:16M"), &dev), 0);
	cr_assert_eq(fault_add(dev, &rule), 0);
	make(dev, NULL);
	cr_assert_gt(fault_hits(dev), 0);
	check_volume(dev);
	bdev_close(dev);
}

Test(mkvolume, huge_sparse_file)
{
	char path[] = "/tmp/ashlar-mkvolume-XXXXXX";
	int fd = mkstemp(path);
	struct bdev *dev;

	cr_assert_geq(fd, 0);
	if (ftruncate(fd, 15ll << 40)) {
		unlink(path);
		cr_skip_test("no sparse file of 15 TiB can be made in /tmp");
	}
	dev = open_device(path);
	unlink(path);
	make(dev, NULL);
	check_volume(dev);
	bdev_close(dev);
	close(fd);
}

Test(mkvolume, default_log_is_a_64th_within_limits)
{
	struct ash_mkfs_plan plan;

	cr_assert_eq(ash_mkfs_plan("x", 1024, NULL, &plan, NULL), 0);
	cr_assert_eq(plan.log_blocks, 258);
	cr_assert_eq(ash_mkfs_plan("x", 262144, NULL, &plan, NULL), 0); /* 1 GiB */
	cr_assert_eq(plan.log_blocks, 4096);
	cr_assert_eq(ash_mkfs_plan("x", 1ull << 30, NULL, &plan, NULL), 0); /* 4 TiB */
	cr_assert_eq(plan.log_blocks, 16384);
}

Test(mkvolume, plan_is_what_is_written)
{
	struct bdev *dev = open_device("mem:200M");
	struct ash_mkfs_options options = { .log_blocks = 1000 };
	struct ash_mkfs_plan plan;

	cr_assert_eq(ash_mkfs_plan("x", 51200, &options, &plan, NULL), 0);
	make(dev, &options);
	cr_assert_eq(super_number(dev, 160, 8), plan.block_count);
	cr_assert_eq(super_number(dev, 192, 8), plan.log_start);
	cr_assert_eq(super_number(dev, 200, 8), plan.log_blocks);
	cr_assert_eq(plan.log_blocks, 1000);
	bdev_close(dev);
}

Test(mkvolume, log_that_does_not_fit_the_first_group_goes_to_the_next)
{
	struct bdev *dev = open_device("mem:400M");
	struct ash_mkfs_options options = { .log_blocks = 32000, .inodes_per_run = 16384 };
	struct reader reader;

	make(dev, &options);
	open_reader(&reader, dev);
	cr_assert_eq(reader.log_start, 3);
	cr_assert_eq(reader.run_start, GROUP + 2, "the run has no room behind the log");
	close_reader(&reader);
	check_volume(dev);
	bdev_close(dev);
}

Test(mkvolume, options_are_written)
{
	static const uint8_t uuid[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };
	struct bdev *dev = open_device("mem:16M");
	struct ash_mkfs_options options = {
		.label = "masonry",
		.uuid = uuid,
		.block_count = 2048,
		.root_mode = 01777,
		.root_uid = 7,
		.root_gid = 8,
		.now = 99,
	};
	struct reader reader;
	const uint8_t *root;

	make(dev, &options);
	open_reader(&reader, dev);
	cr_assert_eq(reader.blocks, 2048);
	cr_assert_arr_eq(reader.super + 56, uuid, 16);
	cr_assert_str_eq((const char *)reader.super + 72, "masonry");
	cr_assert_eq(number(reader.super + 232, 8), 99);
	load(&reader, reader.run_start + 1, reader.block);
	root = reader.block + 512;
	cr_assert_eq(number(root + 24, 4), S_IFDIR | 01777);
	cr_assert_eq(number(root + 32, 4), 7);
	cr_assert_eq(number(root + 36, 4), 8);
	cr_assert_eq(number(root + 56, 8), 99, "atime");
	close_reader(&reader);
	check_volume(dev);
	bdev_close(dev);
}

Test(mkvolume, seed_makes_equal_volumes)
{
	static const uint8_t seed[32] = "thirty-two bytes of test seed..";
	struct ash_mkfs_options options = { .seed = seed, .now = 1 };
	struct bdev *a = open_device("mem:4M"), *b = open_device("mem:4M");
	uint8_t *x = bdev_buffer_alloc(4u << 20), *y = bdev_buffer_alloc(4u << 20);

	make(a, &options);
	make(b, &options);
	cr_assert_eq(bdev_read(a, x, 4u << 20, 0), 0);
	cr_assert_eq(bdev_read(b, y, 4u << 20, 0), 0);
	cr_assert_eq(memcmp(x, y, 4u << 20), 0);
	make(b, NULL);
	cr_assert_eq(bdev_read(b, y, BLOCK, 0), 0);
	cr_assert_neq(memcmp(x, y, BLOCK), 0, "without a seed each volume is its own");
	bdev_buffer_free(x, 4u << 20);
	bdev_buffer_free(y, 4u << 20);
	bdev_close(a);
	bdev_close(b);
}

Test(mkvolume, old_signatures_are_wiped)
{
	struct bdev *dev = open_device("mem:16M");
	uint8_t *block = bdev_buffer_alloc(BLOCK);

	memset(block, 0xee, BLOCK);
	for (uint64_t i = 0; i < 4096; i++)
		cr_assert_eq(bdev_write(dev, block, BLOCK, i * BLOCK, 0), 0);
	make(dev, &(struct ash_mkfs_options){ .no_discard = true });
	check_volume(dev);
	cr_assert_eq(bdev_read(dev, block, BLOCK, 16 * BLOCK), 0); /* where btrfs keeps its own */
	for (unsigned i = 0; i < BLOCK; i++)
		cr_assert_neq(block[i], 0xee);
	cr_assert_eq(bdev_read(dev, block, BLOCK, 4094 * BLOCK), 0); /* where RAID and GPT keep theirs */
	for (unsigned i = 0; i < BLOCK; i++)
		cr_assert_eq(block[i], 0);
	bdev_buffer_free(block, BLOCK);
	bdev_close(dev);
}

Test(mkvolume, the_last_block_is_kept_for_the_backup)
{
	struct ash_mkfs_options options = { .log_blocks = 4059 }; /* 3 blocks before it, 33 behind it, 1 at the end */
	struct bdev *dev = open_device("mem:16M");
	char error[BDEV_ERROR_TEXT] = "";

	make(dev, &options);
	check_volume(dev);
	options.log_blocks++;
	cr_assert_eq(ash_mkfs(dev, &options, error), -ENOSPC);
	bdev_close(dev);
}

static void expect_refusal(const char *device, const struct ash_mkfs_options *options, int code)
{
	struct bdev *dev = open_device(device);
	char error[BDEV_ERROR_TEXT] = "";
	uint8_t *block = bdev_buffer_alloc(BLOCK), *zero = bdev_buffer_alloc(BLOCK);

	cr_assert_eq(ash_mkfs(dev, options, error), code, "got text: %s", error);
	cr_assert_gt(strlen(error), 10, "the refusal is explained");
	if (bdev_geometry(dev)->size >= BLOCK) {
		cr_assert_eq(bdev_read(dev, block, BLOCK, 0), 0);
		cr_assert_eq(memcmp(block, zero, BLOCK), 0, "nothing is written");
	}
	bdev_buffer_free(block, BLOCK);
	bdev_buffer_free(zero, BLOCK);
	bdev_close(dev);
}

Test(mkvolume, refusals)
{
	char label[66];

	memset(label, 'x', 65);
	label[65] = 0;
	expect_refusal("mem:4092k", NULL, -EINVAL);
	expect_refusal("mem:8M", &(struct ash_mkfs_options){ .block_count = 2049 }, -EINVAL);
	expect_refusal("mem:8M", &(struct ash_mkfs_options){ .log_blocks = 257 }, -EINVAL);
	expect_refusal("mem:8M", &(struct ash_mkfs_options){ .log_blocks = 32001 }, -EINVAL);
	expect_refusal("mem:8M", &(struct ash_mkfs_options){ .log_blocks = 2040 }, -ENOSPC);
	expect_refusal("mem:8M", &(struct ash_mkfs_options){ .inodes_per_run = 20 }, -EINVAL);
	expect_refusal("mem:8M", &(struct ash_mkfs_options){ .inodes_per_run = 32264 }, -EINVAL);
	expect_refusal("mem:8M", &(struct ash_mkfs_options){ .label = label }, -E2BIG);
}
