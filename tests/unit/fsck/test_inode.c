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
