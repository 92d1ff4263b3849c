/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Losing the last name: unlink, rmdir, deletion at the last forget, and recovery after a crash. */
#include <sys/xattr.h>

#include "fs/engine.h"
#include "fs/file.h"
#include "fs/names.h"
#include "names_fixture.h"

static uint64_t looked_up_file(struct names *names, const char *name)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;

	cr_assert_eq(ash_create(names->volume, 1, name, &create, &attr), 0);
	return attr.ino;
}

static void write_blocks(struct names *names, uint64_t ino, uint64_t first, uint64_t stride, unsigned count)
{
	static char block[4096] = "content";

	for (unsigned i = 0; i < count; i++)
		cr_assert_eq(
			ash_write(names->volume, ino, block, sizeof(block), (first + i * stride) * sizeof(block), 0),
			(int64_t)sizeof(block));
}

Test(orphan, unlinked_file_lives_until_the_last_forget)
{
	struct ash_attr attr;
	struct names names;
	uint64_t f, used, free_blocks;
	char back[8];

	names_open(&names, "mem:64M", false);
	used = names_used_inodes(&names);
	free_blocks = names_free_blocks(&names);
	f = looked_up_file(&names, "f");
	cr_assert_eq(ash_lookup(names.volume, 1, "f", &attr), 0);
	write_blocks(&names, f, 0, 1, 10);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), -ENOENT);
	ash_forget(names.volume, f, 1);
	cr_assert_eq(ash_read(names.volume, f, back, 7, 0), 7);
	cr_assert_eq(memcmp(back, "content", 7), 0);
	ash_forget(names.volume, f, 1);
	cr_assert_eq(ash_getattr(names.volume, f, &attr), -ESTALE);
	cr_assert_eq(names_used_inodes(&names), used);
	cr_assert_eq(names_free_blocks(&names), free_blocks);
	names_close(&names);
}

/* A symbolic link without its target would be damage, so nobody must see one, not even after a power cut half-way. */
Test(orphan, a_link_with_large_attributes_keeps_its_target_while_they_go)
{
	struct ash_create create = { .mode = S_IFLNK | 0777, .target = "target" };
	char value[200] = "value";
	struct ash_icore *icore;
	struct ash_attr attr;
	struct names names;
	uint64_t used, free_blocks;

	names_open(&names, "mem:64M", false);
	used = names_used_inodes(&names);
	free_blocks = names_free_blocks(&names);
	cr_assert_eq(ash_create(names.volume, 1, "link", &create, &attr), 0);
	cr_assert_eq(ash_setxattr(names.volume, attr.ino, "trusted.large", value, sizeof(value), 0), 0);
	cr_assert_eq(ash_unlink(names.volume, 1, "link", NULL), 0);
	/* what ash_forget() begins with */
	cr_assert_eq(ash_icore_get_orphan(names.volume, attr.ino, &icore), 0);
	cr_assert_eq(ash_file_free_all(names.volume, icore), 0);
	ash_icore_put(names.volume, icore);
	cr_assert_eq(ash_log_force(names.volume, ash_log_end(names.volume)), 0);
	names_crash(&names);
	names_file(&names, 1, "not read-only");
	cr_assert_eq(ash_unlink(names.volume, 1, "not read-only", NULL), 0);
	cr_assert_eq(names_used_inodes(&names), used);
	cr_assert_eq(names_free_blocks(&names), free_blocks);
	names_close(&names);
}

/*
 * A truncation whose chain met an error leaves its file an orphan until somebody finishes it. When the file goes with
 * its last name first, in one transaction, so must the mark: no inode is left that a mount could finish.
 */
Test(orphan, a_file_with_a_truncation_to_finish_is_none_when_it_is_gone)
{
	struct ash_attr attr;
	struct ash_txn *txn;
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	write_blocks(&names, f, 0, 2, 2);
	cr_assert_eq(ash_sync(names.volume), 0);
	/* what a truncation begins with */
	cr_assert_eq(ash_txn_begin(names.volume, ASH_TXN_SMALL, &txn), 0);
	ash_orphan_add(txn, f);
	ash_txn_commit(txn);
	atomic_store(&names.volume->read_only, true);
	cr_assert_eq(ash_file_finish_truncate(names.volume, f), -EROFS);
	atomic_store(&names.volume->read_only, false);
	cr_assert(ash_truncation_pending(names.volume, f));
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	cr_assert_eq(ash_getattr(names.volume, f, &attr), -ESTALE);
	cr_expect(!ash_truncation_pending(names.volume, f));
	cr_expect_eq(names.volume->log->orphans.count, 0u);
	names_close(&names);
}

Test(orphan, large_and_decorated_file_gives_everything_back)
{
	static char value[60000];
	struct names names;
	uint64_t f, free_blocks;

	names_open(&names, "mem:64M", false);
	free_blocks = names_free_blocks(&names);
	f = looked_up_file(&names, "f");
	write_blocks(&names, f, 0, 2, 2000); /* many extents: a tree of its own */
	for (int i = 0; i < 5; i++) {
		char name[16];

		snprintf(name, sizeof(name), "user.%d", i);
		cr_assert_eq(ash_setxattr(names.volume, f, name, value, sizeof(value), 0), 0);
	}
	cr_assert_eq(ash_sync(names.volume), 0);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	ash_forget(names.volume, f, 1);
	cr_assert_eq(names_free_blocks(&names), free_blocks);
	names_close(&names);
}

Test(orphan, unlinked_before_a_crash_is_gone_after_it)
{
	struct ash_attr attr;
	struct names names;
	uint64_t f, used, free_blocks;

	names_open(&names, "mem:64M", false);
	used = names_used_inodes(&names);
	free_blocks = names_free_blocks(&names);
	f = looked_up_file(&names, "f");
	write_blocks(&names, f, 0, 2, 500);
	cr_assert_eq(ash_sync(names.volume), 0);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	cr_assert_eq(ash_sync(names.volume), 0);
	names_crash(&names);
	cr_assert_eq(ash_getattr(names.volume, f, &attr), -ESTALE);
	cr_assert_eq(names_used_inodes(&names), used);
	cr_assert_eq(names_free_blocks(&names), free_blocks);
	names_close(&names);
}

Test(orphan, also_after_an_unmount_with_the_file_in_use)
{
	struct names names;
	uint64_t f, used;

	names_open(&names, "mem:64M", false);
	used = names_used_inodes(&names);
	f = looked_up_file(&names, "f");
	write_blocks(&names, f, 0, 1, 3);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	names_remount(&names);
	cr_assert_eq(names_used_inodes(&names), used);
	names_close(&names);
}

Test(orphan, directories)
{
	struct ash_attr attr;
	struct names names;
	uint64_t d, used, free_blocks;
	char name[300];

	names_open(&names, "mem:64M", false);
	used = names_used_inodes(&names);
	d = names_directory(&names, 1, "d");
	free_blocks = names_free_blocks(&names);
	memset(name, 'x', sizeof(name));
	for (int i = 0; i < 100; i++) {
		snprintf(name + 200, sizeof(name) - 200, "%d", i);
		names_file(&names, d, name);
	}
	cr_assert_eq(ash_rmdir(names.volume, 1, "d", NULL), -ENOTEMPTY);
	cr_assert_eq(ash_unlink(names.volume, 1, "d", NULL), -EISDIR);
	for (int i = 0; i < 100; i++) {
		snprintf(name + 200, sizeof(name) - 200, "%d", i);
		cr_assert_eq(ash_rmdir(names.volume, d, name, NULL), -ENOTDIR);
		cr_assert_eq(ash_unlink(names.volume, d, name, NULL), 0);
	}
	cr_assert_eq(ash_rmdir(names.volume, 1, "d", NULL), 0);
	cr_assert_eq(ash_getattr(names.volume, d, &attr), -ESTALE);
	cr_assert_eq(names_attr(&names, 1).nlink, 2u);
	cr_assert_eq(names_used_inodes(&names), used);
	cr_assert_eq(names_free_blocks(&names), free_blocks);
	cr_assert_eq(ash_rmdir(names.volume, 1, ".", NULL), -EINVAL);
	cr_assert_eq(ash_rmdir(names.volume, 1, "..", NULL), -ENOTEMPTY);
	names_close(&names);
}

/* A log that calls a directory with a name an orphan says nothing of use: it is no reason to refuse the mount. */
Test(orphan, directory_with_links_in_the_log)
{
	struct ash_attr attr;
	struct ash_txn *txn;
	struct names names;
	uint64_t d;

	names_open(&names, "mem:64M", false);
	d = names_directory(&names, 1, "d");
	cr_assert_eq(ash_txn_begin(names.volume, ASH_TXN_SMALL, &txn), 0);
	ash_txn_orphan(txn, d, true);
	ash_txn_commit(txn);
	cr_assert_eq(ash_sync(names.volume), 0);
	names_crash(&names);
	cr_assert_eq(ash_lookup(names.volume, 1, "d", &attr), 0);
	cr_assert_eq(attr.ino, d);
	cr_assert_eq(names.volume->log->orphans.count, 0u);
	names_close(&names);
}

/* A number comes back only with a new generation, and never while somebody may still use the old one. */
Test(orphan, numbers_are_reused_when_that_is_safe)
{
	struct ash_attr attr;
	struct names names;
	uint64_t f, generation;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	generation = names_attr(&names, f).generation;
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	cr_assert_neq(names_file(&names, 1, "g"), f, "its freeing is not durable");
	cr_assert_eq(ash_sync(names.volume), 0);
	cr_assert_eq(names_file(&names, 1, "h"), f);
	cr_assert_eq(ash_getattr(names.volume, f, &attr), 0);
	cr_assert_neq(attr.generation, generation);
	names_close(&names);
}

/* The lower half of the generation is all that a file handle has: an old one must not open the new file. */
Test(orphan, a_number_from_another_mount_is_told_apart_by_half_its_generation)
{
	struct names names;
	uint32_t lives[6];
	uint64_t first = 0;

	names_open(&names, "mem:64M", false);
	for (unsigned i = 0; i < 6; i++) {
		uint64_t f = names_file(&names, 1, "f");

		first = i ? first : f;
		cr_assert_eq(f, first, "the lowest free number, also after mounting again");
		lives[i] = (uint32_t)names_attr(&names, f).generation;
		for (unsigned j = 0; j < i; j++)
			cr_assert_gt(lives[i] - lives[j] + (1u << 20), 2u << 20, "mounts %u and %u", j, i);
		cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
		names_remount(&names);
	}
	names_close(&names);
}
