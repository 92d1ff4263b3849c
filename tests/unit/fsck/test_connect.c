/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Directories without a name. */
#include "forge_fixture.h"

static uint64_t make(struct sick *sick, uint64_t parent, const char *name, uint32_t mode)
{
	struct ash_create create = { .mode = mode };
	struct ash_attr attr;

	cr_assert_eq(ash_create(sick->engine.volume, parent, name, &create, &attr), 0);
	return attr.ino;
}

/* "folder" has lost its names, of which one was "lost"; in that there is a file. The number of "lost". */
static uint64_t lost_open(struct sick *sick, uint64_t *folder)
{
	struct ash_inode record;
	uint64_t lost;

	sick_open(sick, true);
	engine_mount(&sick->engine);
	*folder = make(sick, ASH_INO_ROOT, "folder", S_IFDIR | 0755);
	lost = make(sick, *folder, "lost", S_IFDIR | 0755);
	make(sick, lost, "file", S_IFREG | 0644);
	cr_assert_eq(ash_close(sick->engine.volume), 0);
	sick->engine.volume = NULL;
	inode_get(&sick->engine, *folder, &record);
	record.data_kind = ASH_FORK_EMPTY;
	memset(record.data, 0, sizeof(record.data));
	record.nlink = ash_put32(2);
	record.size = record.blocks = ash_put64(0);
	inode_forge(&sick->engine, *folder, &record);
	return lost;
}

/* It is in lost+found by its number, and has its file. */
static void expect_connected(struct sick *sick, uint64_t ino)
{
	struct ash_attr attr;
	char name[32];

	cr_expect_eq(check(sick, ASH_CHECK_NO).problems, 0, "%s", sick->codes);
	engine_mount(&sick->engine);
	cr_assert_eq(ash_lookup(sick->engine.volume, ASH_INO_ROOT, "lost+found", &attr), 0);
	snprintf(name, sizeof(name), "#%llu", (unsigned long long)ino);
	cr_assert_eq(ash_lookup(sick->engine.volume, attr.ino, name, &attr), 0);
	cr_expect_eq(attr.ino, ino);
	cr_expect_eq(attr.nlink, 2);
	cr_expect_eq(ash_lookup(sick->engine.volume, ino, "file", &attr), 0);
	engine_close(&sick->engine);
}

/* The connection gives it its new parent: nothing more to report. */
Test(connect, lost_directory_is_reported_once)
{
	struct sick sick;
	uint64_t folder, lost = lost_open(&sick, &folder);

	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	cr_expect(strstr(sick.codes, "unreachable-directory"), "%s", sick.codes);
	cr_expect(!strstr(sick.codes, "directory-parent"), "%s", sick.codes);
	expect_connected(&sick, lost);
}

/* Link count 0 alone does not make it a deleted one: those are empty. */
Test(connect, lost_directory_without_links_keeps_its_files)
{
	struct ash_check_result result;
	struct ash_inode record;
	struct sick sick;
	uint64_t folder, lost = lost_open(&sick, &folder);

	inode_get(&sick.engine, lost, &record);
	record.nlink = ash_put32(0);
	inode_forge(&sick.engine, lost, &record);
	result = check(&sick, ASH_CHECK_PREEN);
	cr_expect(result.stopped, "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_YES).left, 0, "%s", sick.codes);
	expect_connected(&sick, lost);
}

/* An empty one is freed without a question. */
Test(connect, deleted_directory)
{
	struct ash_inode record;
	struct sick sick;
	uint64_t folder, lost = lost_open(&sick, &folder);
	struct ash_attr attr;

	engine_mount(&sick.engine);
	cr_assert_eq(ash_unlink(sick.engine.volume, lost, "file", NULL), 0);
	cr_assert_eq(ash_close(sick.engine.volume), 0);
	sick.engine.volume = NULL;
	inode_get(&sick.engine, lost, &record);
	record.nlink = ash_put32(0);
	inode_forge(&sick.engine, lost, &record);
	cr_expect_eq(check(&sick, ASH_CHECK_PREEN).left, 0, "%s", sick.codes);
	cr_expect(strstr(sick.codes, "lost-orphan"), "%s", sick.codes);
	cr_expect_eq(check(&sick, ASH_CHECK_NO).problems, 0, "%s", sick.codes);
	engine_mount(&sick.engine);
	cr_expect_eq(ash_getattr(sick.engine.volume, lost, &attr), -ESTALE);
	engine_close(&sick.engine);
}
