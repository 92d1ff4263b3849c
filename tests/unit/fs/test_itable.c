/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inode numbers: claims, growth of the table, counting after a crash, and distrust of bitmap and records (I8). */
#include "fs/cache.h"
#include "fs/inode.h"
#include "fs/volume.h"
#include "names_fixture.h"

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

/* Small holes everywhere: a run is put together from pieces. */
Test(itable, a_run_may_consist_of_pieces)
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
	for (uint64_t at = 0; at < last; at += 8 * sizeof(block))
		cr_assert_eq(ash_fallocate(names.volume, f, 3, at, 4 * sizeof(block)), 0);
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
