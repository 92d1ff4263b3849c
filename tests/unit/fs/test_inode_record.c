/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a record must be to be used (I8): a good one of each type, and each way to be bad. */
#include <sys/stat.h>

#include "fs/checksum.h"
#include "fs/inode.h"
#include "names_fixture.h"

#define SEED 12345u
#define INO 77u

static struct ash_inode good(uint32_t mode)
{
	struct ash_inode record = { 0 };

	record.magic = ash_put32(ASH_MAGIC_INODE);
	record.ino = ash_put64(INO);
	record.mode = ash_put32(mode);
	record.nlink = ash_put32(S_ISDIR(mode) ? 2 : 1);
	if (S_ISLNK(mode)) {
		record.size = ash_put64(5);
		record.data_kind = ASH_FORK_INLINE;
	}
	return record;
}

static const char *check(struct ash_inode *record)
{
	record->crc = ash_put32(ash_inode_crc(SEED, record));
	return ash_inode_check(SEED, INO, record, true);
}

static void expect_bad(struct ash_inode record, const char *what)
{
	cr_expect_not_null(check(&record), "%s", what);
}

Test(inode_record, good_ones_of_each_type)
{
	static const uint32_t types[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK };
	struct ash_inode zero = { 0 }, freed = good(S_IFREG);

	for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
		struct ash_inode record = good(types[i] | 0644);

		cr_expect_null(check(&record));
	}
	cr_expect_null(ash_inode_check(SEED, INO, &zero, true), "never used");
	freed.mode = freed.nlink = ash_put32(0);
	cr_expect_null(check(&freed));
}

Test(inode_record, identity_and_checksum)
{
	struct ash_inode record = good(S_IFREG | 0644);

	cr_expect_null(check(&record));
	cr_expect_not_null(ash_inode_check(SEED + 1, INO, &record, true), "of another volume");
	cr_expect_not_null(ash_inode_check(SEED, INO + 1, &record, true), "in another place");
	record.uid = ash_put32(1);
	cr_expect_not_null(ash_inode_check(SEED, INO, &record, true), "changed");
	cr_expect_null(ash_inode_check(SEED, INO, &record, false), "in memory the checksum means nothing");
	record.magic = ash_put32(1);
	cr_expect_not_null(ash_inode_check(SEED, INO, &record, false));
}

Test(inode_record, bad_ones_with_a_good_checksum)
{
	struct ash_inode record;

	expect_bad(good(0150000), "no such type");
	record = good(0);
	expect_bad(record, "links but no type");
	record = good(S_IFREG);
	record.size = ash_put64(1ull << 63);
	expect_bad(record, "negative size");
	record = good(S_IFREG);
	record.data_kind = ASH_FORK_INLINE;
	record.size = ash_put64(257);
	expect_bad(record, "inline data that cannot be inline");
	record = good(S_IFREG);
	record.data_kind = 3;
	expect_bad(record, "unknown kind of fork");
	record = good(S_IFREG);
	record.attr_kind = ASH_FORK_INLINE;
	expect_bad(record, "inline attributes");
	record = good(S_IFDIR);
	record.data_kind = ASH_FORK_INLINE;
	expect_bad(record, "inline directory");
	record = good(S_IFDIR);
	record.size = ash_put64(3);
	expect_bad(record, "entries but no tree");
	record = good(S_IFDIR);
	record.nlink = ash_put32(1);
	expect_bad(record, "directory with one link");
	record = good(S_IFLNK);
	record.size = ash_put64(0);
	expect_bad(record, "empty symbolic link");
	record = good(S_IFLNK);
	record.data_kind = ASH_FORK_EMPTY;
	expect_bad(record, "symbolic link without a target");
	record = good(S_IFIFO);
	record.data_kind = ASH_FORK_TREE;
	expect_bad(record, "fifo with data");
	record = good(S_IFREG);
	record.mtime_ns = ash_put32(1000000000);
	expect_bad(record, "a second too long");
	record = good(S_IFREG);
	record.data_kind = ASH_FORK_TREE;
	memset(record.data, 0xff, sizeof(record.data));
	expect_bad(record, "no tree at all");
}
