/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inode numbers: claims, growth of the table, counting after a crash, and distrust of bitmap and records (I8). */
#include "fs/cache.h"
#include "fs/names.h"
#include "fs/volume.h"
#include "names_fixture.h"
#include "tests/support/fault.h"

static struct ash_volume_info info_of(struct names *names)
{
	struct ash_volume_info info;

	cr_assert_eq(ash_volume_info(names->volume, &info), 0);
	return info;
}

Test(itable, a_claim_given_back_is_claimed_again)
{
	struct names names;
	uint64_t a, b, c;

	names_open(&names, "mem:64M", false);
	cr_assert_eq(ash_inode_claim(names.volume, 1, &a), 0);
	cr_assert_eq(a, 8u);
	cr_assert_eq(ash_inode_claim(names.volume, 1, &b), 0);
	cr_assert_eq(b, 9u);
	ash_inode_unclaim(names.volume, a);
	cr_assert_eq(ash_inode_claim(names.volume, 1, &c), 0);
	cr_assert_eq(c, a);
	ash_inode_unclaim(names.volume, b);
	ash_inode_unclaim(names.volume, c);
	cr_assert_eq(names_used_inodes(&names), 8u);
	names_close(&names);
}

Test(itable, the_table_grows_by_runs)
{
	struct names names;
	char name[16];

	names_open(&names, "mem:64M", false);
	for (int i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "%d", i);
		names_file(&names, 1, name);
	}
	cr_assert_eq(info_of(&names).inode_runs, 8u);
	cr_assert_eq(names_used_inodes(&names), 2008u);
	names_remount(&names);
	cr_assert_eq(info_of(&names).inode_runs, 8u);
	for (int i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "%d", i);
		cr_assert_gt(names_find(&names, 1, name), 0, "%s", name);
	}
	names_close(&names);
}

/* Growth that nobody used is not undone, nor lost. */
Test(itable, used_inodes_are_counted_after_a_crash)
{
	struct names names;
	char name[16];

	names_open(&names, "mem:64M", false);
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "%d", i);
		names_file(&names, 1, name);
	}
	cr_assert_eq(ash_sync(names.volume), 0);
	names_crash(&names);
	cr_assert_eq(names_used_inodes(&names), 1008u);
	names_file(&names, 1, "one more");
	cr_assert_eq(names_used_inodes(&names), 1009u);
	names_close(&names);
}

/* Small holes everywhere, of so many blocks each as are left between them: a run is put together from pieces. */
static void expect_pieces(uint64_t hole)
{
	static char block[4096] = "x";
	struct names names;
	uint64_t f, last = 0;
	int64_t written;
	char name[16];

	names_open(&names, "mem:8M", false);
	f = names_file(&names, 1, "big");
	for (uint64_t at = 0;; at += sizeof(block)) {
		written = ash_write(names.volume, f, block, sizeof(block), at, ASH_WRITE_THROUGH);
		if (written != (int64_t)sizeof(block))
			break;
		last = at;
	}
	cr_assert_eq(written, -ENOSPC);
	for (uint64_t at = 0; at < last; at += 2 * hole * sizeof(block))
		cr_assert_eq(ash_fallocate(names.volume, f, 3, at, hole * sizeof(block)), 0);
	cr_assert_eq(ash_sync(names.volume), 0);
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "%d", i);
		names_file(&names, 1, name);
	}
	cr_assert_eq(info_of(&names).inode_runs, 2u);
	names_remount(&names);
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "%d", i);
		cr_assert_gt(names_find(&names, 1, name), 0, "%s", name);
	}
	names_close(&names);
}

Test(itable, a_run_may_consist_of_pieces)
{
	expect_pieces(4);
}

Test(itable, a_run_may_consist_of_single_blocks)
{
	expect_pieces(1);
}

static void damage_block(struct names *names, uint64_t block, uint32_t offset)
{
	uint8_t *bytes = bdev_buffer_alloc(ASH_BLOCK_SIZE);

	cr_assert_eq(bdev_read(names->dev, bytes, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE), 0);
	bytes[offset] ^= 0x55;
	cr_assert_eq(bdev_write(names->dev, bytes, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE, 0), 0);
	bdev_buffer_free(bytes, ASH_BLOCK_SIZE);
}

Test(itable, a_damaged_record_spoils_only_itself)
{
	struct ash_block_id id;
	struct ash_attr attr;
	struct names names;
	uint64_t a, b;
	uint32_t offset;

	names_open(&names, "mem:64M", false);
	names.options.continue_on_damage = true;
	a = names_file(&names, 1, "a");
	b = names_file(&names, 1, "b");
	cr_assert_eq(ash_itable_locate(names.volume, a, &id, &offset), 0);
	cr_assert_eq(ash_close(names.volume), 0);
	damage_block(&names, id.block, offset + 50);
	names_mount(&names);
	cr_assert_eq(ash_lookup(names.volume, 1, "a", &attr), -EUCLEAN);
	cr_assert_eq(ash_getattr(names.volume, a, &attr), -EUCLEAN);
	cr_assert_eq(names_find(&names, 1, "b"), (int64_t)b);
	names_file(&names, 1, "c");
	names_close(&names);
}

/* Its inodes can be read, and others be made elsewhere. */
Test(itable, a_damaged_bitmap_spoils_no_inode)
{
	struct ash_block_id id;
	struct names names;
	uint64_t a, c;
	uint32_t offset;

	names_open(&names, "mem:64M", false);
	names.options.continue_on_damage = true;
	a = names_file(&names, 1, "a");
	cr_assert_eq(ash_itable_locate(names.volume, ASH_INO_ROOT, &id, &offset), 0);
	cr_assert_eq(ash_close(names.volume), 0);
	damage_block(&names, id.block - 1, 100);
	names_mount(&names);
	cr_assert_eq(names_find(&names, 1, "a"), (int64_t)a);
	c = names_file(&names, 1, "c");
	cr_assert_geq(c, 256u, "in a new run");
	cr_assert_eq(names_find(&names, 1, "c"), (int64_t)c);
	names_close(&names);
}

/* A bitmap under a right checksum that has inodes in use where it says that no block was written yet. */
Test(itable, a_bitmap_that_forgets_written_blocks_costs_no_inode)
{
	uint8_t *bytes = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	struct ash_bitmap_block *bitmap = (void *)bytes;
	struct ash_block_id id;
	struct names names;
	char name[16];
	uint32_t seed;

	names_open(&names, "mem:64M", false);
	names.options.continue_on_damage = true;
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "%d", i);
		names_file(&names, 1, name);
	}
	cr_assert(ash_itable_bitmap(names.volume, 0, &id));
	seed = names.volume->checksum_seed;
	cr_assert_eq(ash_close(names.volume), 0);
	cr_assert_eq(bdev_read(names.dev, bytes, ASH_BLOCK_SIZE, id.block * ASH_BLOCK_SIZE), 0);
	bitmap->initialized = ash_put32(1);
	bitmap->header.crc = ash_put32(ash_block_crc(seed, bytes));
	cr_assert_eq(bdev_write(names.dev, bytes, ASH_BLOCK_SIZE, id.block * ASH_BLOCK_SIZE, 0), 0);
	bdev_buffer_free(bytes, ASH_BLOCK_SIZE);
	names_mount(&names);
	cr_assert_geq(names_file(&names, 1, "new"), 256u, "in a new run");
	for (int i = 0; i < 20; i++) {
		snprintf(name, sizeof(name), "%d", i);
		cr_assert_gt(names_find(&names, 1, name), 0, "%s", name);
	}
	names_close(&names);
}

/* ---- Blocks that cannot be read ---- */

/* A volume whose device fails on demand, mounted anew: hardly anything is in memory. */
static void open_faulty(struct names *names, const char *device, int files)
{
	struct ash_mkfs_options options = { .inodes_per_run = 256 };
	char error[BDEV_ERROR_TEXT] = "", name[16];
	struct bdev *memory;

	*names = (struct names){ .options = { .no_threads = true, .log = names_quiet } };
	cr_assert_eq(bdev_open(device, NULL, &memory, error), 0, "%s", error);
	cr_assert_eq(fault_open(memory, &names->dev), 0);
	cr_assert_eq(ash_mkfs(names->dev, &options, error), 0, "%s", error);
	names_mount(names);
	for (int i = 0; i < files; i++) {
		snprintf(name, sizeof(name), "%d", i);
		names_file(names, 1, name);
	}
	names_remount(names);
}

static uint64_t block_of(struct names *names, uint64_t ino)
{
	struct ash_block_id id;
	uint32_t offset;

	cr_assert_eq(ash_itable_locate(names->volume, ino, &id, &offset), 0);
	return id.block;
}

static void fail_reads(struct names *names, uint64_t block, uint64_t count)
{
	const struct fault_rule rule = { .ops = FAULT_OP(BDEV_READ),
					 .offset = block * ASH_BLOCK_SIZE,
					 .length = count * ASH_BLOCK_SIZE };

	cr_assert_eq(fault_add(names->dev, &rule), 0);
}

/* Until there is no room for another run either. */
static void fill_volume(struct names *names)
{
	static char block[4096] = "x";
	uint64_t f = names_file(names, 1, "big");

	for (uint64_t at = 0;; at += sizeof(block)) {
		int64_t written = ash_write(names->volume, f, block, sizeof(block), at, ASH_WRITE_THROUGH);

		if (written == -ENOSPC)
			return;
		cr_assert_eq(written, (int64_t)sizeof(block));
	}
}

Test(itable, an_unreadable_bitmap_leaves_the_other_runs)
{
	struct names names;

	open_faulty(&names, "mem:64M", 300);
	fail_reads(&names, block_of(&names, 256) - 1, 1);
	names_remount(&names); /* forgets the bitmap that finding the block has read */
	for (int i = 0; i < 300; i++) {
		char name[16];

		snprintf(name, sizeof(name), "more%d", i);
		cr_assert_geq(names_file(&names, 1, name), 512u, "in a new run");
	}
	cr_assert_geq(fault_hits(names.dev), 1u);
	names_close(&names);
}

/* Numbers 16 to 23 are in the block, of which 16 to 18 are used: 19 would be next. */
Test(itable, an_unreadable_block_of_records_costs_its_numbers)
{
	struct names names;

	open_faulty(&names, "mem:64M", 11);
	fail_reads(&names, block_of(&names, 19), 1);
	cr_assert_eq(names_file(&names, 1, "a"), 24u);
	cr_assert_eq(names_file(&names, 1, "b"), 25u);
	cr_assert_eq(fault_hits(names.dev), 1u, "it is not read again");
	cr_assert_eq(names_used_inodes(&names), 8u + 13u);
	fault_clear(names.dev);
	names_remount(&names);
	cr_assert_eq(names_file(&names, 1, "c"), 19u);
	names_close(&names);
}

/* Many in a row are not all tried for one file: there are other runs. */
Test(itable, many_unreadable_blocks_of_records)
{
	struct names names;
	unsigned hits;
	char name[16];

	open_faulty(&names, "mem:64M", 248);
	for (int i = 0; i < 240; i++) {
		snprintf(name, sizeof(name), "%d", i);
		cr_assert_eq(ash_unlink(names.volume, 1, name, NULL), 0);
	}
	names_remount(&names);
	fail_reads(&names, block_of(&names, 8), 30);
	cr_assert_geq(names_file(&names, 1, "a"), 256u);
	hits = fault_hits(names.dev);
	cr_assert_leq(hits, 16u);
	cr_assert_geq(names_file(&names, 1, "b"), 256u);
	cr_assert_leq(fault_hits(names.dev), hits + 4);
	cr_assert_eq(info_of(&names).inode_runs, 2u);
	names_close(&names);
}

Test(itable, a_device_that_is_gone_says_so)
{
	const struct fault_rule gone = { .ops = FAULT_OP(BDEV_READ), .error = -ENODEV };
	struct names names;

	open_faulty(&names, "mem:64M", 11);
	names_attr(&names, 1);
	cr_assert_eq(fault_add(names.dev, &gone), 0);
	cr_assert_eq(names_make(&names, 1, "a", S_IFREG | 0644), -ENODEV);
	cr_assert_eq(fault_hits(names.dev), 1u);
	fault_clear(names.dev);
	cr_assert_eq(names_file(&names, 1, "a"), 19u, "the number was given back");
	names_close(&names);
}

Test(itable, an_unreadable_device_without_space_is_no_lack_of_space)
{
	struct names names;

	open_faulty(&names, "mem:8M", 600);
	fill_volume(&names);
	names_remount(&names);
	names_attr(&names, 1);
	fail_reads(&names, 0, 1 << 20);
	cr_assert_eq(names_make(&names, 1, "a", S_IFREG | 0644), -EIO);
	cr_assert_leq(fault_hits(names.dev), 40u);
	fault_clear(names.dev);
	names_close(&names);
}

/* ---- Freed numbers ---- */

struct claims {
	uint64_t *list;
	size_t count;
};

/* A full volume with a file "x" and no free number. */
static void open_without_numbers(struct names *names, struct claims *claims)
{
	int result;

	names_open(names, "mem:8M", false);
	names_file(names, 1, "x");
	fill_volume(names);
	*claims = (struct claims){ .list = malloc(10000 * sizeof(*claims->list)) };
	while (!(result = ash_inode_claim(names->volume, 1, &claims->list[claims->count])))
		cr_assert_lt(++claims->count, 10000u);
	cr_assert_eq(result, -ENOSPC);
}

static void close_with_claims(struct names *names, struct claims *claims)
{
	while (claims->count)
		ash_inode_unclaim(names->volume, claims->list[--claims->count]);
	free(claims->list);
	names_close(names);
}

/* A number waits until its freeing is durable; who needs one makes it durable. */
Test(itable, the_last_number_is_used_again)
{
	struct claims claims;
	struct names names;

	open_without_numbers(&names, &claims);
	for (int i = 0; i < 3; i++) {
		int64_t x = names_find(&names, 1, "x");

		cr_assert_eq(ash_unlink(names.volume, 1, "x", NULL), 0);
		cr_assert_eq(names_make(&names, 1, "x", S_IFREG | 0644), x);
	}
	cr_assert_eq(names_make(&names, 1, "y", S_IFREG | 0644), -ENOSPC);
	close_with_claims(&names, &claims);
}

/* All is durable, so the next look finds no later LSN than the one that found the number in use. */
Test(itable, a_number_that_was_in_use_at_the_last_look)
{
	struct claims claims;
	struct names names;
	uint64_t x;

	open_without_numbers(&names, &claims);
	x = (uint64_t)names_find(&names, 1, "x");
	cr_assert_eq(ash_unlink(names.volume, 1, "x", NULL), 0);
	cr_assert_eq(ash_sync(names.volume), 0);
	cr_assert_eq(ash_lookup_take(names.volume, x, 1), 0);
	cr_assert_eq(names_make(&names, 1, "y", S_IFREG | 0644), -ENOSPC);
	ash_lookup_drop(names.volume, x, 1);
	cr_assert_eq(names_make(&names, 1, "y", S_IFREG | 0644), (int64_t)x);
	close_with_claims(&names, &claims);
}
