/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records of inodes: what a mount would stumble over must not be clean to a check. */
#include "forge_fixture.h"

/* ---- Free records ---- */

/* A mount that met it would turn read-only at the next create. */
Test(inode, free_record_with_a_wrong_checksum)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_inode record;
	struct ash_attr attr;
	struct sick sick;

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_unlink(sick.engine.volume, ASH_INO_ROOT, "file0", &sick.file), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	inode_get(&sick.engine, sick.file, &record);
	memset(&record, 0, sizeof(record));
	record.magic = ash_put32(ASH_MAGIC_INODE);
	record.ino = ash_put64(sick.file);
	inode_forge(&sick.engine, sick.file, &record);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "sealed it is good: %s", sick.codes);
	record.atime = ash_put64(4);
	inode_put(&sick.engine, sick.file, &record);
	check(&sick, ASH_CHECK_NO);
	cr_expect_str_eq(sick.codes, "free-record ");
	cr_expect_eq(check(&sick, ASH_CHECK_PREEN).left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	cr_expect_eq(ash_create(sick.engine.volume, ASH_INO_ROOT, "new", &create, &attr), 0);
	cr_expect_eq(attr.ino, sick.file);
	engine_close(&sick.engine);
}

/* ---- Flags ---- */

/* Without the feature bit a mount lets the kernel open files by itself, and nobody would keep the flag's promise. */
Test(inode, append_only_file_without_the_feature_bit)
{
	struct ash_inode record;
	struct ash_super super;
	struct sick sick;

	sick_open(&sick, true);
	inode_get(&sick.engine, sick.file, &record);
	record.flags = ash_put32(ASH_INODE_NODUMP);
	inode_forge(&sick.engine, sick.file, &record);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	record.flags = ash_put32(ASH_INODE_APPEND);
	inode_forge(&sick.engine, sick.file, &record);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 1, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_PREEN).left, 0, "%s", sick.codes);
	image_read(&sick.engine, 0, &super);
	cr_expect(ash_get64(super.compat) & ASH_COMPAT_INODE_FLAGS);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).notes, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_close(&sick.engine);
}

/* ---- Types ---- */

/* A wrong bit in the type of a directory, and what is left of it after the repair. */
static void type_bit(bool root, uint32_t bit)
{
	struct ash_create create = { .mode = S_IFDIR | 0751, .uid = 5, .gid = 6 };
	struct ash_inode record;
	struct ash_attr attr;
	struct sick sick;
	uint64_t folder;

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_create(sick.engine.volume, ASH_INO_ROOT, "folder", &create, &attr), 0);
	folder = attr.ino;
	cr_assert_eq(ash_create(sick.engine.volume, folder, "inside", &create, &attr), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	inode_get(&sick.engine, root ? ASH_INO_ROOT : folder, &record);
	record.mode = ash_put32(ash_get32(record.mode) ^ bit);
	inode_put(&sick.engine, root ? ASH_INO_ROOT : folder, &record);
	cr_expect_gt(check(&sick, ASH_CHECK_NO).problems, 0);
	cr_expect(check(&sick, ASH_CHECK_PREEN).stopped);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%#x: %s", bit, sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%#x: %s", bit, sick.codes);
	engine_mount(&sick.engine);
	cr_expect_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "file1", &attr), 0, "%#x", bit);
	cr_expect_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "lost+found", &attr), -ENOENT, "%#x", bit);
	cr_expect_eq(ash_lookup(sick.engine.volume, ASH_INO_ROOT, "folder", &attr), 0, "%#x", bit);
	cr_expect_eq(attr.mode, S_IFDIR | 0751, "%#x: %o", bit, attr.mode);
	cr_expect_eq(attr.uid, 5);
	cr_expect_eq(ash_lookup(sick.engine.volume, folder, "inside", &attr), 0, "%#x", bit);
	engine_close(&sick.engine);
}

Test(inode, directory_with_a_wrong_bit_in_its_type)
{
	for (uint32_t bit = S_IFIFO; bit <= S_IFREG; bit <<= 1)
		type_bit(false, bit);
}

Test(inode, root_with_a_wrong_bit_in_its_type)
{
	for (uint32_t bit = S_IFIFO; bit <= S_IFREG; bit <<= 1)
		type_bit(true, bit);
}

/* A file is no directory, whatever its type says. */
Test(inode, file_with_a_wrong_bit_in_its_type)
{
	static const char text[ASH_BLOCK_SIZE] = "content";
	struct ash_inode record;
	struct ash_attr attr;
	struct sick sick;

	sick_open(&sick, true);
	engine_mount(&sick.engine);
	cr_assert_eq(ash_write(sick.engine.volume, sick.file, text, sizeof(text), 0, 0), sizeof(text));
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	inode_get(&sick.engine, sick.file, &record);
	record.mode = ash_put32(ash_get32(record.mode) ^ S_IFDIR);
	inode_put(&sick.engine, sick.file, &record);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	cr_expect_eq(ash_getattr(sick.engine.volume, sick.file, &attr), 0);
	cr_expect_eq(attr.mode & S_IFMT, S_IFREG);
	cr_expect_eq(attr.size, sizeof(text));
	engine_close(&sick.engine);
}
