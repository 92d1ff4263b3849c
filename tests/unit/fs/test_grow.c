/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Growing: the new space is there, what was there stays, and backups and counts fit (also after a remount). */
#include "fs/volume.h"
#include "names_fixture.h"

#include <unistd.h>

static uint64_t blocks_of(struct names *names)
{
	struct ash_statfs statfs;

	cr_assert_eq(ash_statfs(names->volume, &statfs), 0);
	return statfs.blocks;
}

/* A volume of `blocks` on a device with more room. */
static void open_small(struct names *names, const char *device, uint64_t blocks)
{
	struct ash_mkfs_options options = { .block_count = blocks, .inodes_per_run = 256 };
	char error[BDEV_ERROR_TEXT] = "";

	memset(names, 0, sizeof(*names));
	names->options.no_threads = true;
	names->options.log = names_quiet;
	cr_assert_eq(bdev_open(device, NULL, &names->dev, error), 0, "%s", error);
	cr_assert_eq(ash_mkfs(names->dev, &options, error), 0, "%s", error);
	names_mount(names);
}

/* Write files until nothing more fits; returns how many whole MiB did. */
static unsigned fill(struct names *names)
{
	static char mib[1 << 20];
	unsigned count = 0;
	uint64_t f = names_file(names, 1, "big");

	memset(mib, 'm', sizeof(mib));
	while (ash_write(names->volume, f, mib, sizeof(mib), count * sizeof(mib), 0) == sizeof(mib))
		count++;
	return count;
}

static void check_backup(struct names *names, uint64_t block)
{
	struct ash_super *super = bdev_buffer_alloc(ASH_BLOCK_SIZE);

	cr_assert_eq(bdev_read(names->dev, super, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE), 0);
	cr_assert_eq(ash_get32(super->header.crc), ash_block_crc(0, super), "block %d", (int)block);
	cr_assert_eq(ash_get64(super->header.address), block);
	cr_assert_eq(ash_get64(super->block_count), names->volume->block_count);
	cr_assert_eq(ash_get32(super->group_count), names->volume->group_count);
	bdev_buffer_free(super, ASH_BLOCK_SIZE);
}

Test(grow, within_the_last_group)
{
	struct names names;
	uint64_t f, before, after;

	open_small(&names, "mem:64M", 4096);
	f = names_file(&names, 1, "f");
	before = names_free_blocks(&names);
	cr_assert_eq(ash_grow(names.volume, 1), -EINVAL, "volumes do not shrink");
	cr_assert_eq(ash_grow(names.volume, 1 << 20), -EINVAL, "more than the device holds");
	cr_assert_eq(ash_grow(names.volume, 8192), 0);
	after = names_free_blocks(&names);
	cr_assert_eq(after, before + 4096);
	check_backup(&names, 8191);
	names_remount(&names);
	cr_assert_eq(blocks_of(&names), 8192u);
	cr_assert_eq(names_free_blocks(&names), after);
	cr_assert_eq(names_find(&names, 1, "f"), (int64_t)f);
	cr_assert_geq(fill(&names), 22u);
	names_close(&names);
}

Test(grow, by_groups)
{
	struct names names;
	uint64_t after;

	open_small(&names, "mem:1G", 40000);
	cr_assert_eq(ash_grow(names.volume, 0), 0);
	cr_assert_eq(ash_grow(names.volume, 0), 0, "again: nothing to do");
	after = names_free_blocks(&names);
	check_backup(&names, names.volume->block_count - 1);
	check_backup(&names, ash_group_start(1));
	check_backup(&names, ash_group_start(3));
	check_backup(&names, ash_group_start(5));
	cr_assert_gt(fill(&names), 900u);
	cr_assert_eq(ash_unlink(names.volume, 1, "big", NULL), 0);
	cr_assert_eq(names_free_blocks(&names), after);
	names_remount(&names);
	cr_assert_eq(names_free_blocks(&names), after);
	names_close(&names);
}

/* More groups than one table block describes, and files on both sides after a crash. */
Test(grow, over_many_table_blocks_and_a_crash)
{
	static char content[4096] = "behind the old end";
	char path[64] = "/tmp/ashlar-grow-XXXXXX", device[80], back[32];
	int descriptor = mkstemp(path);
	struct names names;
	uint64_t old_end, f;

	cr_assert_geq(descriptor, 0);
	cr_assert_eq(ftruncate(descriptor, 120ll << 30), 0);
	close(descriptor);
	snprintf(device, sizeof(device), "sync:%s", path);
	{
		struct bdev_open_options options = { .allow_buffered = true };
		struct ash_mkfs_options mkfs = { .block_count = 504ull * ASH_BLOCKS_PER_GROUP - 1000 };
		char error[BDEV_ERROR_TEXT] = "";

		memset(&names, 0, sizeof(names));
		names.options.no_threads = true;
		names.options.log = names_quiet;
		cr_assert_eq(bdev_open(device, &options, &names.dev, error), 0, "%s", error);
		cr_assert_eq(ash_mkfs(names.dev, &mkfs, error), 0, "%s", error);
	}
	unlink(path);
	names_mount(&names);
	old_end = names.volume->block_count;
	cr_assert_eq(ash_grow(names.volume, 0), 0);
	cr_assert_gt(names.volume->group_count, 900u);
	names_crash(&names);
	cr_assert_gt(blocks_of(&names), old_end + old_end / 2);
	f = names_file(&names, 1, "f");
	cr_assert_eq(ash_write(names.volume, f, content, sizeof(content), 0, 0), (int64_t)sizeof(content));
	cr_assert_eq(ash_sync(names.volume), 0);
	names_crash(&names);
	cr_assert_eq(ash_read(names.volume, f, back, sizeof(back), 0), (int64_t)sizeof(back));
	cr_assert_eq(memcmp(back, content, sizeof(back)), 0);
	names_close(&names);
}
