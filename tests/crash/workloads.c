/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The scripted workloads of the crash explorer: every namespace and data operation, alone and in the mixes that go
 * wrong in practice. A workload says nothing about what is right: the model and the oracle know (history.h).
 */
#include "script.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/stat.h>

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/* /a/f of 10000 bytes, /a/g of 3 blocks, /b/h short, /a/l -> somewhere */
static void small_tree(struct script *s)
{
	do_mkdir(s, "/a");
	do_mkdir(s, "/b");
	do_create(s, "/a/f");
	do_write(s, "/a/f", 0, 10000, 0);
	do_create(s, "/a/g");
	do_write(s, "/a/g", 0, 3 * 4096, 0);
	do_create(s, "/b/h");
	do_write(s, "/b/h", 0, 100, 0);
	do_symlink(s, "/a/l", 20);
	do_sync(s);
}

static void run_create(struct script *s)
{
	do_create(s, "/a/new");
	do_fsync(s, "/a/new");
	do_create(s, "/a/new2");
	do_create(s, "/b/new3");
	do_fsync(s, "/b");
	do_create(s, "/b/new4");
	do_sync(s);
	do_create(s, "/a/last");
}

static void run_special(struct script *s)
{
	do_create_mode(s, "/a/fifo", S_IFIFO | 0600);
	do_create_mode(s, "/a/char", S_IFCHR | 0600);
	do_fsync(s, "/a/char");
	do_create_mode(s, "/b/block", S_IFBLK | 0600);
	do_create_mode(s, "/b/socket", S_IFSOCK | 0600);
	do_fsync(s, "/b");
}

static void run_mkdir(struct script *s)
{
	do_mkdir(s, "/a/d");
	do_mkdir(s, "/a/d/e");
	do_fsync(s, "/a/d");
	do_create(s, "/a/d/e/f");
	do_mkdir(s, "/a/d/e/g");
	do_fsync(s, "/a/d/e/f");
	do_rmdir(s, "/a/d/e/g");
	do_fsync(s, "/a/d/e");
}

static void run_link(struct script *s)
{
	do_link(s, "/a/f", "/b/f2");
	do_fsync(s, "/a/f");
	do_link(s, "/a/f", "/a/f3");
	do_unlink(s, "/a/f");
	do_fsync(s, "/b/f2");
	do_unlink(s, "/b/f2");
	do_unlink(s, "/a/f3");
	do_sync(s);
}

static void run_symlink(struct script *s)
{
	do_symlink(s, "/a/short", 10);
	do_symlink(s, "/a/limit", 256);
	do_symlink(s, "/a/block", 300);
	do_fsync(s, "/a");
	do_symlink(s, "/b/long", 4095);
	do_unlink(s, "/a/block");
	do_fsync(s, "/b");
	do_unlink(s, "/b/long");
	do_symlink(s, "/b/long", 2000);
	do_sync(s);
}

static void run_unlink(struct script *s)
{
	do_unlink(s, "/a/f");
	do_fsync(s, "/a");
	do_unlink(s, "/a/g");
	do_unlink(s, "/b/h");
	do_unlink(s, "/a/l");
	do_sync(s);
	do_rmdir(s, "/a");
	do_rmdir(s, "/b");
	do_sync(s);
}

static void run_rename_plain(struct script *s)
{
	do_rename(s, "/a/f", "/a/x", 0);
	do_fsync(s, "/a/x");
	do_rename(s, "/a/x", "/b/y", 0);
	do_rename(s, "/a/g", "/b/g", RENAME_NOREPLACE);
	do_fsync(s, "/b");
	do_rename(s, "/b/y", "/a/f", 0);
	do_fsync(s, "/a");
}

static void run_rename_over(struct script *s)
{
	do_rename(s, "/a/f", "/a/g", 0);
	do_fsync(s, "/a");
	do_create(s, "/a/new");
	do_write(s, "/a/new", 0, 5000, 0);
	do_rename(s, "/a/new", "/a/g", 0);
	do_sync(s);
	do_mkdir(s, "/d1");
	do_mkdir(s, "/d2");
	do_rename(s, "/d1", "/d2", 0);
	do_fsync(s, "/");
}

/* The editor's way of saving: never an empty or a missing file. */
static void run_replace(struct script *s)
{
	for (int i = 0; i < 6; i++) {
		do_create(s, "/a/f.tmp");
		do_write(s, "/a/f.tmp", 0, 3000 + (size_t)i * 2500, 0);
		if (i % 3 == 2)
			do_fsync(s, "/a/f.tmp");
		do_rename(s, "/a/f.tmp", "/a/f", 0);
		if (i % 2)
			do_fsync(s, "/a");
	}
}

/* The careless editor's way: what is durable after the truncation and the write has the data, too. */
static void run_replace_by_truncation(struct script *s)
{
	do_truncate(s, "/a/f", 0);
	do_write(s, "/a/f", 0, 9000, 0);
	do_create(s, "/b/n");
	do_fsync(s, "/b/n");
	do_truncate(s, "/a/g", 0);
	do_write(s, "/a/g", 0, 100, 0);
	do_chmod(s, "/b/h", 0600);
	do_fsync(s, "/b/h");
	do_truncate(s, "/a/f", 0);
	do_truncate(s, "/a/f", 20000);
	do_write(s, "/a/f", 6000, 9000, 0);
	do_mkdir(s, "/b/d");
	do_fsync(s, "/b");
}

static void run_exchange(struct script *s)
{
	do_rename(s, "/a/f", "/b/h", RENAME_EXCHANGE);
	do_fsync(s, "/a/f");
	do_rename(s, "/a/f", "/b", RENAME_EXCHANGE);
	do_sync(s);
	do_rename(s, "/a/l", "/b", RENAME_EXCHANGE);
	do_fsync(s, "/a");
}

static void run_whiteout(struct script *s)
{
	do_rename(s, "/a/f", "/b/new", RENAME_WHITEOUT);
	do_fsync(s, "/b/new");
	do_rename(s, "/b/h", "/b/new", RENAME_WHITEOUT);
	do_sync(s);
	do_unlink(s, "/a/f");
	do_rename(s, "/b", "/a/f", RENAME_WHITEOUT | RENAME_NOREPLACE);
	do_fsync(s, "/");
}

static void run_move_directory(struct script *s)
{
	do_mkdir(s, "/a/d");
	do_create(s, "/a/d/x");
	do_write(s, "/a/d/x", 0, 6000, 0);
	do_rename(s, "/a/d", "/b/d", 0);
	do_fsync(s, "/b/d/x");
	do_mkdir(s, "/b/e");
	do_rename(s, "/b/d", "/b/e/d", 0);
	do_rename(s, "/b/e", "/a/e", 0);
	do_fsync(s, "/a");
	do_rename(s, "/a/e/d", "/d", 0);
	do_sync(s);
}

static void run_truncate_down(struct script *s)
{
	do_truncate(s, "/a/f", 5000);
	do_fsync(s, "/a/f");
	do_truncate(s, "/a/f", 100);
	do_truncate(s, "/a/g", 0);
	do_fsync(s, "/a/g");
	do_write(s, "/a/f", 200, 50, 0);
	do_fsync(s, "/a/f");
}

static void run_truncate_up(struct script *s)
{
	do_truncate(s, "/a/f", 12000);
	do_fsync(s, "/a/f");
	do_truncate(s, "/a/f", 5000);
	do_truncate(s, "/a/f", 8000);
	do_fsync(s, "/a/f");
	do_truncate(s, "/a/g", 100000);
	do_truncate(s, "/b/h", 5000);
	do_sync(s);
	do_truncate(s, "/b/h", 150);
	do_truncate(s, "/b/h", 4096);
}

/* Old bytes behind EOF must not come back when the size grows (I2). */
static void run_truncate_zeroes(struct script *s)
{
	do_truncate(s, "/a/g", 6000);
	do_sync(s);
	do_write(s, "/a/g", 9000, 500, 0);
	do_fdatasync(s, "/a/g");
	do_truncate(s, "/a/f", 9000);
	do_sync(s);
	do_truncate(s, "/a/f", 9500);
	do_fsync(s, "/a/f");
	do_write(s, "/a/f", 20000, 100, ASH_WRITE_THROUGH);
	do_fsync(s, "/a/f");
	do_fallocate(s, "/a/f", 0, 30000, 5000);
	do_fsync(s, "/a/f");
}

static void run_append(struct script *s)
{
	for (int i = 0; i < 12; i++) {
		do_write(s, "/a/f", 0, 700 + (size_t)i * 300, ASH_WRITE_APPEND);
		if (i % 3 == 2)
			do_fdatasync(s, "/a/f");
	}
	do_write(s, "/b/h", 0, 100, ASH_WRITE_APPEND);
	do_fsync(s, "/b/h");
	do_write(s, "/b/h", 0, 200, ASH_WRITE_APPEND);
	do_fsync(s, "/b/h");
}

static void run_overwrite(struct script *s)
{
	do_write(s, "/a/f", 0, 4096, 0);
	do_fsync(s, "/a/f");
	do_write(s, "/a/f", 1000, 2000, 0);
	do_write(s, "/a/g", 4096, 4096, ASH_WRITE_THROUGH);
	do_fsync(s, "/a/g");
	do_write(s, "/a/g", 4000, 200, ASH_WRITE_THROUGH);
	do_write(s, "/a/f", 8000, 2000, 0);
	do_sync(s);
}

static void run_holes(struct script *s)
{
	do_create(s, "/a/s");
	do_write(s, "/a/s", 40960, 4096, 0);
	do_fsync(s, "/a/s");
	do_write(s, "/a/s", 8192, 100, 0);
	do_write(s, "/a/s", 20000, 5000, 0);
	do_fdatasync(s, "/a/s");
	do_write(s, "/a/s", 1ull << 33, 4096, 0);
	do_fsync(s, "/a/s");
	do_write(s, "/a/s", 0, 4096, ASH_WRITE_THROUGH);
	do_fsync(s, "/a/s");
}

static void run_unaligned(struct script *s)
{
	do_create(s, "/a/u");
	do_write(s, "/a/u", 0, 300, 0);
	do_fsync(s, "/a/u");
	do_write(s, "/a/u", 250, 4000, 0);
	do_fsync(s, "/a/u");
	do_write(s, "/a/u", 4200, 9000, 0);
	do_write(s, "/a/u", 511, 2, 0);
	do_fsync(s, "/a/u");
	do_write(s, "/a/u", 13199, 3, 0);
	do_sync(s);
}

static void run_write_through(struct script *s)
{
	do_create(s, "/a/d");
	do_write(s, "/a/d", 0, 16384, ASH_WRITE_THROUGH);
	do_fsync(s, "/a/d");
	do_write(s, "/a/d", 16384, 8192, ASH_WRITE_THROUGH);
	do_write(s, "/a/d", 4096, 4096, ASH_WRITE_THROUGH);
	do_fdatasync(s, "/a/d");
	do_write(s, "/a/d", 24576, 4096, ASH_WRITE_THROUGH | ASH_WRITE_SYNC);
	do_write(s, "/a/f", 100, 50, ASH_WRITE_SYNC);
	do_write(s, "/a/d", 65536, 65536, ASH_WRITE_THROUGH);
	do_sync(s);
}

static void run_fallocate(struct script *s)
{
	do_create(s, "/a/p");
	do_fallocate(s, "/a/p", 0, 0, 20000);
	do_fsync(s, "/a/p");
	do_write(s, "/a/p", 4096, 4096, 0);
	do_fsync(s, "/a/p");
	do_write(s, "/a/p", 9000, 2000, ASH_WRITE_THROUGH);
	do_fallocate(s, "/a/p", FALLOC_FL_KEEP_SIZE, 20000, 50000);
	do_fsync(s, "/a/p");
	do_write(s, "/a/p", 20000, 3000, 0);
	do_fsync(s, "/a/p");
	do_truncate(s, "/a/p", 23000);
	do_sync(s);
}

static void run_punch(struct script *s)
{
	do_fallocate(s, "/a/g", PUNCH, 4096, 4096);
	do_fsync(s, "/a/g");
	do_fallocate(s, "/a/f", PUNCH, 1000, 6000);
	do_fsync(s, "/a/f");
	do_write(s, "/a/g", 4096, 2000, 0);
	do_fallocate(s, "/a/g", PUNCH, 0, 12288);
	do_fsync(s, "/a/g");
	do_write(s, "/a/g", 0, 9000, 0);
	do_sync(s);
	do_fallocate(s, "/b/h", PUNCH, 10, 20);
	do_sync(s);
}

static void run_zero_range(struct script *s)
{
	do_fallocate(s, "/a/g", FALLOC_FL_ZERO_RANGE, 2000, 8000);
	do_fsync(s, "/a/g");
	do_fallocate(s, "/a/f", FALLOC_FL_ZERO_RANGE, 8000, 10000);
	do_fsync(s, "/a/f");
	do_write(s, "/a/g", 3000, 3000, 0);
	do_fallocate(s, "/a/g", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 50000);
	do_fsync(s, "/a/g");
}

static void run_xattr(struct script *s)
{
	do_setxattr(s, "/a/f", "user.small", 10);
	do_fsync(s, "/a/f");
	do_setxattr(s, "/a/f", "user.medium", 500);
	do_setxattr(s, "/a/f", "user.large", 3000);
	do_setxattr(s, "/a", "trusted.dir", 100);
	do_fsync(s, "/a/f");
	do_setxattr(s, "/a/f", "user.large", 20000);
	do_fsync(s, "/a/f");
	do_setxattr(s, "/a/f", "user.large", 40);
	do_setxattr(s, "/a/g", "user.huge", 65536);
	do_fsync(s, "/a/g");
	do_removexattr(s, "/a/g", "user.huge");
	do_removexattr(s, "/a/f", "user.small");
	do_sync(s);
}

static void run_xattr_many(struct script *s)
{
	char name[32];

	for (int i = 0; i < 30; i++) {
		snprintf(name, sizeof(name), "user.number%d", i);
		do_setxattr(s, "/a/f", name, (size_t)(i * 37 % 500));
		if (i % 6 == 5)
			do_fsync(s, "/a/f");
	}
	for (int i = 0; i < 30; i += 2) {
		snprintf(name, sizeof(name), "user.number%d", i);
		do_removexattr(s, "/a/f", name);
	}
	do_fsync(s, "/a/f");
	do_unlink(s, "/a/f");
	do_sync(s);
}

static void run_attributes(struct script *s)
{
	do_chmod(s, "/a/f", 0600);
	do_fsync(s, "/a/f");
	do_chown(s, "/a/f", 1000, 100);
	do_chmod(s, "/a", 0700);
	do_times(s, "/a/f", 1234567890);
	do_fdatasync(s, "/a/f");
	do_times(s, "/a/g", 1000000000);
	do_chmod(s, "/a/g", 0444);
	do_fsync(s, "/a/g");
	do_times(s, "/b", 5);
	do_sync(s);
}

static void run_tmpfile(struct script *s)
{
	uint64_t ino = do_tmpfile(s, "/a");

	do_write_ino(s, ino, 0, 9000, 0);
	do_link_ino(s, ino, "/a/linked");
	do_fsync(s, "/a/linked");
	do_forget(s, ino);
	ino = do_tmpfile(s, "/b");
	do_write_ino(s, ino, 0, 20000, ASH_WRITE_THROUGH);
	do_sync(s);
	do_forget(s, ino);
	do_sync(s);
	ino = do_tmpfile(s, "/b");
	do_write_ino(s, ino, 0, 100, 0);
	do_sync(s);
	do_link_ino(s, ino, "/b/second");
	do_fsync(s, "/b");
}

static void run_copy(struct script *s)
{
	do_create(s, "/b/copy");
	do_copy(s, "/a/f", 0, "/b/copy", 0, 10000);
	do_fsync(s, "/b/copy");
	do_copy(s, "/a/g", 100, "/b/copy", 5000, 8000);
	do_copy(s, "/a/g", 0, "/a/g", 16384, 8192);
	do_sync(s);
	do_copy(s, "/b/h", 0, "/a/f", 10000, 100);
	do_fsync(s, "/a/f");
}

static void run_many_files(struct script *s)
{
	char path[32];

	for (int i = 0; i < 60; i++) {
		snprintf(path, sizeof(path), "/a/file%d", i);
		do_create(s, path);
		do_write(s, path, 0, (size_t)(i * 331 % 7000) + 1, 0);
	}
	do_sync(s);
	for (int i = 0; i < 60; i += 3) {
		snprintf(path, sizeof(path), "/a/file%d", i);
		do_unlink(s, path);
	}
	do_fsync(s, "/a");
	for (int i = 0; i < 30; i++) {
		snprintf(path, sizeof(path), "/b/again%d", i);
		do_create(s, path);
		do_write(s, path, 0, 5000, 0);
	}
	do_sync(s);
}

static void long_name(char path[300], const char *directory, int number)
{
	int used = snprintf(path, 300, "%s/name%d-", directory, number);

	for (int i = used; i < 120; i++)
		path[i] = (char)('a' + (i * number) % 26);
	path[120] = 0;
}

/* Splits on the way up, merges on the way down. */
static void run_big_directory(struct script *s)
{
	char path[300];

	do_mkdir(s, "/big");
	for (int i = 0; i < 180; i++) {
		long_name(path, "/big", i);
		do_create(s, path);
		if (i % 60 == 59)
			do_fsync(s, "/big");
	}
	for (int i = 0; i < 170; i++) {
		long_name(path, "/big", i);
		do_unlink(s, path);
		if (i % 50 == 49)
			do_checkpoint(s);
	}
	do_fsync(s, "/big");
}

/* A file of many extents: its tree splits, and collapses at truncation. */
static void run_fragments(struct script *s)
{
	do_create(s, "/a/frag");
	for (unsigned i = 0; i < 260; i++)
		do_write(s, "/a/frag", i * 8192ull, 4096, i % 2 ? ASH_WRITE_THROUGH : 0);
	do_fsync(s, "/a/frag");
	for (unsigned i = 0; i < 40; i++)
		do_write(s, "/a/frag", i * 8192ull + 4096, 4096, ASH_WRITE_THROUGH);
	do_fsync(s, "/a/frag");
	do_truncate(s, "/a/frag", 900000);
	do_fsync(s, "/a/frag");
	do_truncate(s, "/a/frag", 3000);
	do_checkpoint(s);
	do_unlink(s, "/a/frag");
	do_sync(s);
}

/* More log than the log is long. */
static void run_log_wrap(struct script *s)
{
	char path[32];

	for (int i = 0; i < 420; i++) {
		snprintf(path, sizeof(path), "/a/w%d", i % 10);
		if (i >= 10 && i % 2 == 0)
			do_unlink(s, path);
		else if (i < 10 || i % 20 < 10)
			do_chmod(s, "/a", (uint32_t)(0700 + i % 8));
		else
			do_chmod(s, "/b/h", (uint32_t)(0600 + i % 8));
		if (i < 10 || i % 2 == 0)
			do_create(s, path);
		do_fsync(s, "/a");
	}
}

static void run_checkpoints(struct script *s)
{
	char path[32];

	for (int i = 0; i < 8; i++) {
		snprintf(path, sizeof(path), "/a/c%d", i);
		do_create(s, path);
		do_write(s, path, 0, 4096, 0);
		do_checkpoint(s);
		do_chmod(s, path, 0600);
		do_rename(s, path, i % 2 ? "/b/odd" : "/b/even", 0);
		do_sync(s);
	}
	do_checkpoint(s);
	do_unlink(s, "/b/odd");
	do_checkpoint(s);
}

static void empty_fragments(struct script *s)
{
	do_truncate(s, "/fragments", 0);
}

/*
 * What a checkpoint finds in the younger half of the log is not written home by it, and freed before it ends: the tree block
 * of a file's extents. The blocks that nearly all operations change are in the older half.
 */
static void run_checkpoints_beside(struct script *s)
{
	do_create(s, "/fragments");
	do_create(s, "/stir");
	for (uint32_t passes = 0; passes < 5; passes++) {
		for (uint64_t i = 0; i < 12; i++)
			do_write(s, "/fragments", i * 8192, 4096, 0);
		do_fsync(s, "/fragments");
		do_checkpoint(s);
		for (unsigned i = 0; i < 12; i++) { /* more than a block of the log */
			do_write(s, "/stir", 0, 4096, 0);
			do_write_back(s, "/stir");
			do_chmod(s, "/fragments", 0600 + i % 8);
			do_truncate(s, "/stir", 0);
		}
		do_write(s, "/fragments", 4096, 4096, 0);
		do_fsync(s, "/fragments");
		do_checkpoint_beside(s, passes, empty_fragments);
	}
}

/* Blocks that held a directory's tree become file data while the log still has records for them (I3, revoke). */
static void run_reuse(struct script *s)
{
	char path[300];

	for (int round = 0; round < 3; round++) {
		do_mkdir(s, "/dir");
		for (int i = 0; i < 60; i++) {
			long_name(path, "/dir", i);
			do_create(s, path);
		}
		do_sync(s);
		for (int i = 0; i < 60; i++) {
			long_name(path, "/dir", i);
			do_unlink(s, path);
		}
		do_rmdir(s, "/dir");
		do_sync(s);
		snprintf(path, sizeof(path), "/data%d", round);
		do_create(s, path);
		do_write(s, path, 0, 120000, ASH_WRITE_THROUGH);
		do_fsync(s, path);
	}
}

/* The same on a volume that is nearly full, so that reuse comes at once. */
static void run_reuse_full(struct script *s)
{
	char path[300];

	do_create(s, "/filler");
	for (int i = 0; i < 40 && !was_full(s); i++)
		do_write(s, "/filler", (uint64_t)i * 131072, 131072, ASH_WRITE_THROUGH);
	do_sync(s);
	for (int round = 0; round < 4; round++) {
		do_truncate(s, "/filler", 300000);
		do_mkdir(s, "/dir");
		for (int i = 0; i < 40; i++) {
			long_name(path, "/dir", i);
			do_create(s, path);
		}
		do_fsync(s, "/dir");
		for (int i = 0; i < 40; i++) {
			long_name(path, "/dir", i);
			do_unlink(s, path);
		}
		do_rmdir(s, "/dir");
		for (int i = 3; i < 40 && !was_full(s); i++)
			do_write(s, "/filler", (uint64_t)i * 131072, 131072, ASH_WRITE_THROUGH);
		do_fsync(s, "/filler");
	}
}

static void run_data_reuse(struct script *s)
{
	do_write(s, "/a/f", 0, 60000, ASH_WRITE_THROUGH);
	do_fsync(s, "/a/f");
	do_unlink(s, "/a/f");
	do_create(s, "/b/n1");
	do_write(s, "/b/n1", 0, 60000, ASH_WRITE_THROUGH);
	do_fsync(s, "/b/n1");
	do_truncate(s, "/b/n1", 0);
	do_write(s, "/b/n1", 0, 30000, 0);
	do_create(s, "/b/n2");
	do_write(s, "/b/n2", 0, 60000, ASH_WRITE_THROUGH);
	do_sync(s);
	do_unlink(s, "/b/n1");
	do_unlink(s, "/b/n2");
	do_sync(s);
	do_create(s, "/b/n3");
	do_write(s, "/b/n3", 0, 90000, ASH_WRITE_THROUGH);
	do_write_back(s, "/b/n3");
}

static void run_orphans(struct script *s)
{
	uint64_t f = do_open(s, "/a/f"), g = do_open(s, "/a/g"), h = do_open(s, "/b/h");

	do_unlink(s, "/a/f");
	do_fsync(s, "/a");
	do_write_ino(s, f, 0, 30000, 0);
	do_unlink(s, "/a/g");
	do_unlink(s, "/b/h");
	do_checkpoint(s);
	do_create(s, "/a/other");
	do_write(s, "/a/other", 0, 8000, 0);
	do_sync(s);
	do_forget(s, g);
	do_sync(s);
	do_checkpoint(s);
	do_forget(s, f);
	do_forget(s, h);
	do_sync(s);
}

/* Open directories and files that stay orphans until the unmount. */
static void run_orphans_kept(struct script *s)
{
	do_mkdir(s, "/a/d");
	do_open(s, "/a/d");
	do_open(s, "/a/f");
	do_rmdir(s, "/a/d");
	do_rename(s, "/a/g", "/a/f", 0);
	do_fsync(s, "/a");
	do_tmpfile(s, "/b");
	do_sync(s);
	for (int i = 0; i < 5; i++) {
		do_chmod(s, "/b", (uint32_t)(0700 + i));
		do_checkpoint(s);
	}
}

static void setup_long_file(struct script *s)
{
	small_tree(s);
	do_create(s, "/long");
	for (unsigned i = 0; i < 500; i++)
		do_write(s, "/long", i * 8192ull, 1000, ASH_WRITE_THROUGH);
	do_sync(s);
}

/* Truncations that need several transactions. */
static void run_truncate_chain(struct script *s)
{
	do_truncate(s, "/long", 2000000);
	do_fsync(s, "/long");
	do_fallocate(s, "/long", PUNCH, 10000, 1500000);
	do_fsync(s, "/long");
	do_truncate(s, "/long", 0);
	do_chmod(s, "/long", 0600);
	do_fsync(s, "/long");
}

static void run_unlink_chain(struct script *s)
{
	uint64_t ino = do_open(s, "/long");

	do_unlink(s, "/long");
	do_create(s, "/new");
	do_write(s, "/new", 0, 50000, 0);
	do_sync(s);
	do_forget(s, ino);
	do_chmod(s, "/new", 0600);
	do_fsync(s, "/new");
}

static void run_mkfs(struct script *s)
{
	do_create(s, "/first");
	do_write(s, "/first", 0, 5000, 0);
	do_sync(s);
}

static void run_mount_only(struct script *s)
{
	do_sync(s);
}

static void run_inode_growth(struct script *s)
{
	char path[32];

	for (int i = 0; i < 400; i++) {
		snprintf(path, sizeof(path), "/b/i%d", i);
		do_create(s, path);
		if (i % 100 == 99)
			do_fsync(s, "/b");
	}
	for (int i = 0; i < 400; i++) {
		snprintf(path, sizeof(path), "/b/i%d", i);
		do_unlink(s, path);
	}
	do_sync(s);
}

static void run_full(struct script *s)
{
	char path[32];

	for (int i = 0; i < 60; i++) {
		snprintf(path, sizeof(path), "/a/full%d", i);
		do_create(s, path);
		if (!was_full(s))
			do_write(s, path, 0, 70000, i % 2 ? ASH_WRITE_THROUGH : 0);
		if (was_full(s))
			break;
	}
	do_sync(s);
	do_unlink(s, "/a/f");
	do_truncate(s, "/a/full0", 0);
	do_sync(s);
	do_write(s, "/a/full1", 0, 70000, 0);
	do_fsync(s, "/a/full1");
	for (int i = 0; i < 20; i++) {
		snprintf(path, sizeof(path), "/a/full%d", i);
		if (model_path(&s->model, path))
			do_unlink(s, path);
	}
	do_sync(s);
}

/* Space allocated ahead, of which single blocks are written when there is no block for a tree node. */
static void run_ahead_full(struct script *s)
{
	uint64_t end = 0;

	do_create(s, "/a/ahead");
	do_create(s, "/a/behind");
	do_create(s, "/a/filler");
	do_fallocate(s, "/a/ahead", 0, 0, 120 * 4096);
	do_fallocate(s, "/a/behind", FALLOC_FL_KEEP_SIZE, 0, 40 * 4096);
	for (uint64_t blocks = 1024; blocks; blocks /= 2) {
		do_fallocate(s, "/a/filler", 0, end, blocks * 4096);
		if (!was_full(s))
			end += blocks * 4096;
	}
	do_sync(s);
	for (uint64_t i = 0; i < 36; i++) {
		do_write(s, "/a/ahead", 3 * i * 4096, i % 3 ? 4096 : 3000, i % 2 ? ASH_WRITE_THROUGH : 0);
		if (i % 12 == 11)
			do_fsync(s, "/a/ahead");
	}
	do_write(s, "/a/behind", 10 * 4096, 5000, ASH_WRITE_THROUGH);
	do_truncate(s, "/a/behind", 30 * 4096);
	do_write(s, "/a/ahead", 119 * 4096, 4096, ASH_WRITE_THROUGH);
	do_unlink(s, "/a/ahead");
	do_sync(s);
}

static void run_inline(struct script *s)
{
	do_create(s, "/a/i");
	do_write(s, "/a/i", 0, 100, 0);
	do_fsync(s, "/a/i");
	do_write(s, "/a/i", 50, 200, 0);
	do_fsync(s, "/a/i");
	do_write(s, "/a/i", 250, 10, 0);
	do_fsync(s, "/a/i");
	do_write(s, "/b/h", 5000, 10, 0);
	do_fsync(s, "/b/h");
	do_truncate(s, "/a/i", 20);
	do_fallocate(s, "/a/i", 0, 0, 300);
	do_fsync(s, "/a/i");
	do_truncate(s, "/a/i", 0);
	do_write(s, "/a/i", 0, 30, 0);
	do_fsync(s, "/a/i");
}

static void run_truncate_rewrite(struct script *s)
{
	for (int i = 0; i < 4; i++) {
		do_truncate(s, "/a/f", 0);
		do_write(s, "/a/f", 0, 4000 + (size_t)i * 3000, 0);
		if (i % 2)
			do_fsync(s, "/a/f");
	}
}

static void run_mixed_sync(struct script *s)
{
	do_write(s, "/a/f", 0, 10000, 0);
	do_write(s, "/a/g", 0, 10000, 0);
	do_create(s, "/a/x");
	do_fsync(s, "/a/g");
	do_rename(s, "/a/x", "/b/x", 0);
	do_fdatasync(s, "/a/f");
	do_write(s, "/b/x", 0, 30000, 0);
	do_chmod(s, "/b/x", 0600);
	do_fsync(s, "/b/x");
	do_truncate(s, "/b/x", 10000);
	do_write(s, "/b/x", 9000, 3000, 0);
	do_unlink(s, "/a/g");
	do_fsync(s, "/b/x");
}

/* `context` is the seed. */
static void run_random(struct script *s)
{
	struct generator generator;

	generator_init(&generator, (uint64_t)(uintptr_t)s->workload->context);
	generator.data_limit = 700000;
	generator.no_far_offsets = true;
	generator.next_pattern = 1000;
	for (int i = 0; i < 220 && !s->failed; i++) {
		struct op op;

		generate(&generator, &s->model, &op);
		if (op.kind == OP_WRITE)
			op.flags &= ~(int)(ASH_WRITE_KILL_SUIDGID | ASH_WRITE_NO_TIMES);
		if (op.kind != OP_NONE && op.length <= 130000)
			script_do(s, &op);
		op_free(&op);
	}
}

#define RANDOM_WORKLOAD(seed, flag)                                                                                    \
	{                                                                                                              \
		.name = "random " #seed, .setup = small_tree, .run = run_random, .context = (void *)(uintptr_t)(seed), \
		.may_fill = true, .flag = true, .crowded = true                                                        \
	}

const struct workload scripted_workloads[] = {
	{ .name = "create", .setup = small_tree, .run = run_create },
	{ .name = "create, FUA", .setup = small_tree, .run = run_create, .fua = true },
	{ .name = "special files", .setup = small_tree, .run = run_special },
	{ .name = "mkdir and rmdir", .setup = small_tree, .run = run_mkdir },
	{ .name = "hard links", .setup = small_tree, .run = run_link },
	{ .name = "symbolic links", .setup = small_tree, .run = run_symlink },
	{ .name = "unlink", .setup = small_tree, .run = run_unlink },
	{ .name = "rename", .setup = small_tree, .run = run_rename_plain },
	{ .name = "rename over", .setup = small_tree, .run = run_rename_over },
	{ .name = "replace by rename", .setup = small_tree, .run = run_replace },
	{ .name = "replace by rename, write-through", .setup = small_tree, .run = run_replace, .write_through = true },
	{ .name = "replace by truncation", .setup = small_tree, .run = run_replace_by_truncation },
	{ .name = "rename exchange", .setup = small_tree, .run = run_exchange },
	{ .name = "rename that leaves a whiteout", .setup = small_tree, .run = run_whiteout },
	{ .name = "move directories", .setup = small_tree, .run = run_move_directory, .fua = true },
	{ .name = "truncate down", .setup = small_tree, .run = run_truncate_down },
	{ .name = "truncate up", .setup = small_tree, .run = run_truncate_up },
	{ .name = "truncate and grow: zeroes", .setup = small_tree, .run = run_truncate_zeroes },
	{ .name = "truncate and grow: zeroes, write-through",
	  .setup = small_tree,
	  .run = run_truncate_zeroes,
	  .write_through = true },
	{ .name = "truncate and rewrite", .setup = small_tree, .run = run_truncate_rewrite },
	{ .name = "append", .setup = small_tree, .run = run_append },
	{ .name = "append, write-through", .setup = small_tree, .run = run_append, .write_through = true, .fua = true },
	{ .name = "overwrite", .setup = small_tree, .run = run_overwrite },
	{ .name = "hole writes", .setup = small_tree, .run = run_holes },
	{ .name = "unaligned writes", .setup = small_tree, .run = run_unaligned },
	{ .name = "unaligned writes, write-through", .setup = small_tree, .run = run_unaligned, .write_through = true },
	{ .name = "aligned writes past the buffer", .setup = small_tree, .run = run_write_through },
	{ .name = "inline files", .setup = small_tree, .run = run_inline },
	{ .name = "fallocate", .setup = small_tree, .run = run_fallocate },
	{ .name = "punch holes", .setup = small_tree, .run = run_punch },
	{ .name = "zero range", .setup = small_tree, .run = run_zero_range },
	{ .name = "attributes small and large", .setup = small_tree, .run = run_xattr },
	{ .name = "many attributes", .setup = small_tree, .run = run_xattr_many },
	{ .name = "mode, owner, times", .setup = small_tree, .run = run_attributes },
	{ .name = "O_TMPFILE and link", .setup = small_tree, .run = run_tmpfile },
	{ .name = "copy_file_range", .setup = small_tree, .run = run_copy },
	{ .name = "many small files", .setup = small_tree, .run = run_many_files },
	{ .name = "big directory: splits and merges", .setup = NULL, .run = run_big_directory, .crowded = true },
	{ .name = "fragmented file", .setup = small_tree, .run = run_fragments, .mib = 8, .crowded = true },
	{ .name = "log wrap-around", .setup = small_tree, .run = run_log_wrap, .crowded = true },
	{ .name = "log wrap-around, FUA", .setup = small_tree, .run = run_log_wrap, .fua = true, .crowded = true },
	{ .name = "checkpoints", .setup = small_tree, .run = run_checkpoints },
	{ .name = "checkpoints beside operations", .setup = small_tree, .run = run_checkpoints_beside, .crowded = true },
	{ .name = "reuse: metadata to data", .setup = NULL, .run = run_reuse, .crowded = true },
	{ .name = "reuse on a full volume", .setup = NULL, .run = run_reuse_full, .may_fill = true, .crowded = true },
	{ .name = "reuse: data to data", .setup = small_tree, .run = run_data_reuse, .mib = 4 },
	{ .name = "reuse with discard", .setup = small_tree, .run = run_data_reuse, .discard = true },
	{ .name = "orphans", .setup = small_tree, .run = run_orphans },
	{ .name = "orphans kept open", .setup = small_tree, .run = run_orphans_kept },
	{ .name = "truncation chain", .setup = setup_long_file, .run = run_truncate_chain, .mib = 8 },
	{ .name = "deletion chain", .setup = setup_long_file, .run = run_unlink_chain, .mib = 8 },
	{ .name = "inode table growth", .setup = small_tree, .run = run_inode_growth, .crowded = true },
	{ .name = "space ahead on a full volume",
	  .setup = small_tree,
	  .run = run_ahead_full,
	  .may_fill = true,
	  .mib = 4,
	  .crowded = true },
	{ .name = "full volume", .setup = small_tree, .run = run_full, .may_fill = true, .mib = 4, .crowded = true },
	{ .name = "mixed syncs", .setup = small_tree, .run = run_mixed_sync },
	{ .name = "mkfs", .setup = NULL, .run = run_mkfs, .record_mkfs = true },
	{ .name = "mount and unmount", .setup = small_tree, .run = run_mount_only },
	RANDOM_WORKLOAD(1, fua),
	RANDOM_WORKLOAD(2, write_through),
	RANDOM_WORKLOAD(3, write_through),
	RANDOM_WORKLOAD(4, discard),
};
const size_t scripted_workload_count = sizeof(scripted_workloads) / sizeof(*scripted_workloads);
