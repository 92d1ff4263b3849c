/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rename and exchange: every combination of types, refusals, link counts, and the promise of I7 for replaced files. */
#include "names_fixture.h"

#include <sys/stat.h>

#define NOREPLACE 1u
#define EXCHANGE 2u

static int move(struct names *names, uint64_t from, const char *name, uint64_t to, const char *new_name)
{
	return ash_rename(names->volume, from, name, to, new_name, 0);
}

Test(rename, within_one_directory)
{
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "a");
	cr_assert_eq(move(&names, 1, "a", 1, "b"), 0);
	cr_assert_eq(names_find(&names, 1, "a"), -ENOENT);
	cr_assert_eq(names_find(&names, 1, "b"), (int64_t)f);
	cr_assert_eq(move(&names, 1, "b", 1, "b"), 0);
	cr_assert_eq(move(&names, 1, "none", 1, "c"), -ENOENT);
	cr_assert_eq(names_attr(&names, 1).size / 32, 1u);
	names_close(&names);
}

Test(rename, directory_to_another_parent_takes_its_dots_along)
{
	struct names names;
	uint64_t a, b, d;

	names_open(&names, "mem:64M", false);
	a = names_directory(&names, 1, "a");
	b = names_directory(&names, 1, "b");
	d = names_directory(&names, a, "d");
	cr_assert_eq(move(&names, a, "d", b, "e"), 0);
	cr_assert_eq(names_find(&names, d, ".."), (int64_t)b);
	cr_assert_eq(names_attr(&names, a).nlink, 2u);
	cr_assert_eq(names_attr(&names, b).nlink, 3u);
	names_remount(&names);
	cr_assert_eq(names_find(&names, b, "e"), (int64_t)d);
	cr_assert_eq(names_find(&names, d, ".."), (int64_t)b);
	names_close(&names);
}

Test(rename, a_directory_does_not_go_into_itself)
{
	struct names names;
	uint64_t a, b, c;

	names_open(&names, "mem:64M", false);
	a = names_directory(&names, 1, "a");
	b = names_directory(&names, a, "b");
	c = names_directory(&names, b, "c");
	cr_assert_eq(move(&names, 1, "a", a, "x"), -EINVAL);
	cr_assert_eq(move(&names, 1, "a", c, "x"), -EINVAL);
	cr_assert_eq(move(&names, b, "c", 1, "a"), -ENOTEMPTY);
	cr_assert_eq(ash_rename(names.volume, b, "c", 1, "a", EXCHANGE), -EINVAL);
	cr_assert_eq(move(&names, 1, "a", 1, ".."), -EBUSY);
	cr_assert_eq(ash_rename(names.volume, 1, "a", 1, "b", 8), -EINVAL);
	cr_assert_eq(ash_rename(names.volume, 1, "a", 1, "b", NOREPLACE | EXCHANGE), -EINVAL);
	cr_assert_eq(names_find(&names, b, "c"), (int64_t)c);
	names_close(&names);
}

static int leave_whiteout(struct names *names, uint64_t from, const char *name, uint64_t to, const char *new_name,
			  unsigned flags)
{
	return ash_rename_whiteout(names->volume, from, name, to, new_name, flags, 5, 6);
}

static void is_whiteout(struct names *names, uint64_t parent, const char *name)
{
	struct ash_attr attr;

	cr_assert_eq(ash_lookup(names->volume, parent, name, &attr), 0);
	cr_assert_eq(attr.mode, (uint32_t)S_IFCHR);
	cr_assert_eq(attr.rdev, 0u);
	cr_assert_eq(attr.nlink, 1u);
	cr_assert_eq(attr.uid, 5u);
	ash_forget(names->volume, attr.ino, 1);
}

Test(rename, leaves_a_whiteout)
{
	struct names names;
	uint64_t a, b, d, f, used;

	names_open(&names, "mem:64M", false);
	used = names_used_inodes(&names);
	a = names_directory(&names, 1, "a");
	b = names_directory(&names, 1, "b");
	d = names_directory(&names, a, "d");
	f = names_file(&names, a, "f");
	names_file(&names, b, "g");
	cr_assert_eq(leave_whiteout(&names, a, "f", a, "moved", 0), 0);
	is_whiteout(&names, a, "f");
	cr_assert_eq(names_find(&names, a, "moved"), (int64_t)f);
	cr_assert_eq(names_attr(&names, a).size / 32, 3u);
	cr_assert_eq(leave_whiteout(&names, a, "moved", b, "g", RENAME_NOREPLACE), -EEXIST);
	cr_assert_eq(leave_whiteout(&names, a, "moved", b, "g", 0), 0);
	is_whiteout(&names, a, "moved");
	cr_assert_eq(names_find(&names, b, "g"), (int64_t)f);
	cr_assert_eq(names_attr(&names, b).size / 32, 1u);
	cr_assert_eq(leave_whiteout(&names, a, "d", b, "d", RENAME_NOREPLACE), 0);
	is_whiteout(&names, a, "d");
	cr_assert_eq(names_attr(&names, a).nlink, 2u);
	cr_assert_eq(names_attr(&names, b).nlink, 3u);
	cr_assert_eq(names_find(&names, d, ".."), (int64_t)b);
	cr_assert_eq(names_used_inodes(&names), used + 7);
	names_remount(&names);
	is_whiteout(&names, a, "f");
	cr_assert_eq(ash_unlink(names.volume, a, "f", NULL), 0);
	cr_assert_eq(names_used_inodes(&names), used + 6);
	names_close(&names);
}

Test(rename, a_whiteout_belongs_where_a_new_file_would)
{
	struct names names;
	struct ash_attr attr;
	struct ash_setattr change = { .valid = ASH_SET_MODE | ASH_SET_GID, .mode = 02777, .gid = 77 };
	uint64_t a;

	names_open(&names, "mem:64M", false);
	a = names_directory(&names, 1, "a");
	names_file(&names, a, "f");
	cr_assert_eq(ash_setattr(names.volume, a, &change, &attr), 0);
	cr_assert_eq(leave_whiteout(&names, a, "f", 1, "f", 0), 0);
	cr_assert_eq(ash_lookup(names.volume, a, "f", &attr), 0);
	cr_assert_eq(attr.uid, 5u);
	cr_assert_eq(attr.gid, 77u);
	ash_forget(names.volume, attr.ino, 1);
	names_close(&names);
}

/* A refused one claims no inode, whatever the reason. */
Test(rename, a_whiteout_that_is_refused_leaves_nothing)
{
	struct names names;
	struct ash_attr attr;
	uint64_t used, a, f;

	names_open(&names, "mem:64M", false);
	a = names_directory(&names, 1, "a");
	f = names_file(&names, 1, "f");
	cr_assert_eq(ash_link(names.volume, f, a, "same", &attr), 0);
	used = names_used_inodes(&names);
	cr_assert_eq(leave_whiteout(&names, 1, "f", a, "x", RENAME_EXCHANGE), -EINVAL);
	cr_assert_eq(leave_whiteout(&names, 1, "f", a, "x", RENAME_WHITEOUT), -EINVAL);
	cr_assert_eq(leave_whiteout(&names, 1, "none", a, "x", 0), -ENOENT);
	cr_assert_eq(leave_whiteout(&names, 1, "a", a, "x", 0), -EINVAL);
	cr_assert_eq(leave_whiteout(&names, 1, "f", 1, "a", 0), -EISDIR);
	cr_assert_eq(leave_whiteout(&names, 1, "f", a, "same", 0), 0);
	cr_assert_eq(names_find(&names, 1, "f"), (int64_t)f);
	cr_assert_eq(names_used_inodes(&names), used);
	names_close(&names);
}

Test(rename, over_existing_targets)
{
	struct names names;
	uint64_t used, d;

	names_open(&names, "mem:64M", false);
	names_file(&names, 1, "f");
	names_file(&names, 1, "g");
	d = names_directory(&names, 1, "d");
	names_directory(&names, 1, "e");
	used = names_used_inodes(&names);
	cr_assert_eq(move(&names, 1, "f", 1, "d"), -EISDIR);
	cr_assert_eq(move(&names, 1, "d", 1, "f"), -ENOTDIR);
	cr_assert_eq(ash_rename(names.volume, 1, "f", 1, "g", NOREPLACE), -EEXIST);
	cr_assert_eq(move(&names, 1, "f", 1, "g"), 0);
	cr_assert_eq(names_used_inodes(&names), used - 1);
	names_file(&names, d, "inside");
	cr_assert_eq(move(&names, 1, "e", 1, "d"), -ENOTEMPTY);
	cr_assert_eq(move(&names, 1, "d", 1, "e"), 0, "over an empty directory");
	cr_assert_eq(names_find(&names, 1, "e"), (int64_t)d);
	cr_assert_eq(names_attr(&names, 1).nlink, 3u);
	cr_assert_eq(names_attr(&names, 1).size / 32, 2u);
	names_close(&names);
}

Test(rename, two_names_of_one_inode_are_left_alone)
{
	struct ash_attr attr;
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	cr_assert_eq(ash_link(names.volume, f, 1, "g", &attr), 0);
	cr_assert_eq(move(&names, 1, "f", 1, "g"), 0);
	cr_assert_eq(names_find(&names, 1, "f"), (int64_t)f);
	cr_assert_eq(names_attr(&names, f).nlink, 2u);
	ash_forget(names.volume, f, 1);
	names_close(&names);
}

Test(rename, exchange_of_a_file_and_a_directory)
{
	struct names names;
	uint64_t a, b, f, d;

	names_open(&names, "mem:64M", false);
	a = names_directory(&names, 1, "a");
	b = names_directory(&names, 1, "b");
	f = names_file(&names, a, "f");
	d = names_directory(&names, b, "d");
	cr_assert_eq(ash_rename(names.volume, a, "f", b, "none", EXCHANGE), -ENOENT);
	cr_assert_eq(ash_rename(names.volume, a, "f", b, "d", EXCHANGE), 0);
	cr_assert_eq(names_find(&names, a, "f"), (int64_t)d);
	cr_assert_eq(names_find(&names, b, "d"), (int64_t)f);
	cr_assert_eq(names_find(&names, d, ".."), (int64_t)a);
	cr_assert_eq(names_attr(&names, a).nlink, 3u);
	cr_assert_eq(names_attr(&names, b).nlink, 2u);
	cr_assert_eq(names_attr(&names, a).size / 32, 1u);
	names_close(&names);
}

/* I7: without any sync, a crash shows the old content or the new one. */
Test(rename, replacing_a_file_never_yields_an_empty_one)
{
	char back[8];
	struct names names;
	uint64_t f, g;
	int64_t found;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	cr_assert_eq(ash_write(names.volume, f, "old", 3, 0, 0), 3);
	cr_assert_eq(ash_sync(names.volume), 0);
	g = names_file(&names, 1, "f.new");
	cr_assert_eq(ash_write(names.volume, g, "new!", 4, 0, 0), 4);
	cr_assert_eq(move(&names, 1, "f.new", 1, "f"), 0);
	cr_assert_eq(ash_fsync(names.volume, 1, false), 0, "the directory, not the file");
	names_crash(&names);
	found = names_find(&names, 1, "f");
	cr_assert_gt(found, 0);
	cr_assert_eq(ash_read(names.volume, (uint64_t)found, back, sizeof(back), 0), 4);
	cr_assert_eq(memcmp(back, "new!", 4), 0);
	names_close(&names);
}

Test(rename, a_replaced_file_lives_while_it_is_looked_up)
{
	char back[8];
	struct ash_attr attr;
	struct names names;
	uint64_t used, f;

	names_open(&names, "mem:64M", false);
	used = names_used_inodes(&names);
	f = names_file(&names, 1, "f");
	cr_assert_eq(ash_lookup(names.volume, 1, "f", &attr), 0);
	cr_assert_eq(ash_write(names.volume, f, "old", 3, 0, 0), 3);
	names_file(&names, 1, "g");
	cr_assert_eq(move(&names, 1, "g", 1, "f"), 0);
	cr_assert_eq(ash_read(names.volume, f, back, sizeof(back), 0), 3);
	cr_assert_eq(names_attr(&names, f).nlink, 0u);
	ash_forget(names.volume, f, 1);
	cr_assert_eq(ash_getattr(names.volume, f, &attr), -ESTALE);
	cr_assert_eq(names_used_inodes(&names), used + 1);
	names_close(&names);
}
