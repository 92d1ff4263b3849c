/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attributes: what a chmod, chown, truncate or chattr changes besides what it says. */
#include <sys/xattr.h>

#include "names_fixture.h"

#define IMMUTABLE 0x10u
#define APPEND 0x20u
#define SYNC 0x08u
#define NODUMP 0x40u
#define NOATIME 0x80u

static int set(struct names *names, uint64_t ino, struct ash_setattr change)
{
	return ash_setattr(names->volume, ino, &change, NULL);
}

static bool has_capability(struct names *names, uint64_t ino)
{
	return ash_getxattr(names->volume, ino, "security.capability", NULL, 0) == 4;
}

static uint64_t privileged_file(struct names *names, const char *name)
{
	int64_t ino = names_make(names, 1, name, S_IFREG | 06755);

	cr_assert_gt(ino, 0);
	cr_assert_eq(ash_setxattr(names->volume, (uint64_t)ino, "security.capability", "caps", 4, 0), 0);
	return (uint64_t)ino;
}

Test(setattr, mode_owner_and_times)
{
	struct ash_attr attr;
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_MODE, .mode = 01600 }), 0);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_UID | ASH_SET_GID, .uid = 1, .gid = 2 }), 0);
	cr_assert_eq(set(&names, f,
			 (struct ash_setattr){ .valid = ASH_SET_ATIME | ASH_SET_MTIME,
					       .atime = { -5, 999999999 },
					       .mtime = { 1ll << 40, 1 } }),
		     0);
	names_remount(&names);
	attr = names_attr(&names, f);
	cr_assert_eq(attr.mode, (uint32_t)(S_IFREG | 01600));
	cr_assert_eq(attr.uid, 1u);
	cr_assert_eq(attr.gid, 2u);
	cr_assert_eq(attr.atime.tv_sec, -5);
	cr_assert_eq(attr.atime.tv_nsec, 999999999);
	cr_assert_eq(attr.mtime.tv_sec, 1ll << 40);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_ATIME, .atime = { 0, 1000000000 } }),
		     -EINVAL);
	cr_assert_eq(set(&names, 200, (struct ash_setattr){ .valid = ASH_SET_MODE }), -ESTALE);
	names_close(&names);
}

Test(setattr, chown_takes_privileges_away)
{
	struct names names;
	uint64_t f, d;

	names_open(&names, "mem:64M", false);
	f = privileged_file(&names, "f");
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_UID, .uid = 5 }), 0);
	cr_assert_eq(names_attr(&names, f).mode, (uint32_t)(S_IFREG | 0755));
	cr_assert_not(has_capability(&names, f));
	d = (uint64_t)names_make(&names, 1, "d", S_IFDIR | 02775);
	cr_assert_eq(set(&names, d, (struct ash_setattr){ .valid = ASH_SET_GID, .gid = 5 }), 0);
	cr_assert_eq(names_attr(&names, d).mode, (uint32_t)(S_IFDIR | 02775));
	names_close(&names);
}

Test(setattr, truncate_takes_privileges_away_as_asked)
{
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = privileged_file(&names, "f");
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_SIZE, .size = 10000 }), 0);
	cr_assert_eq(names_attr(&names, f).mode, (uint32_t)(S_IFREG | 06755));
	cr_assert_eq(names_attr(&names, f).size, 10000u);
	cr_assert_not(has_capability(&names, f));
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_SIZE | ASH_SET_KILL_SUIDGID, .size = 1 }),
		     0);
	cr_assert_eq(names_attr(&names, f).mode, (uint32_t)(S_IFREG | 0755));
	cr_assert_eq(set(&names, 1, (struct ash_setattr){ .valid = ASH_SET_SIZE }), -EISDIR);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_SIZE, .size = 1ull << 63 }), -EFBIG);
	names_close(&names);
}

Test(setattr, immutable_and_append_only)
{
	struct ash_attr attr;
	struct ash_volume_info info;
	struct names names;
	uint64_t f, d;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	d = names_directory(&names, 1, "d");
	names_file(&names, d, "in");
	ash_volume_info(names.volume, &info);
	cr_assert_eq(info.compat, 0u);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_FLAGS, .flags = IMMUTABLE }), 0);
	cr_assert_eq(set(&names, d, (struct ash_setattr){ .valid = ASH_SET_FLAGS, .flags = APPEND }), 0);
	names_remount(&names);
	ash_volume_info(names.volume, &info);
	cr_assert_eq(info.compat, 1u, "the next mount must answer OPEN");
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_MODE, .mode = 0 }), -EPERM);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_SIZE }), -EPERM);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_MTIME_NOW }), -EPERM);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_MTIME | ASH_SET_CTIME }), 0,
		     "write-back of times");
	cr_assert_eq(ash_setxattr(names.volume, f, "user.a", "b", 1, 0), -EPERM);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), -EPERM);
	cr_assert_eq(ash_rename(names.volume, 1, "f", 1, "g", 0), -EPERM);
	cr_assert_eq(ash_link(names.volume, f, 1, "g", &attr), -EPERM);
	names_file(&names, d, "more");
	cr_assert_eq(ash_unlink(names.volume, d, "in", NULL), -EPERM);
	cr_assert_eq(ash_rename(names.volume, d, "in", 1, "in", 0), -EPERM);
	cr_assert_eq(set(&names, d, (struct ash_setattr){ .valid = ASH_SET_MTIME_NOW }), 0);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_FLAGS, .flags = 1 }), -EOPNOTSUPP);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_FLAGS }), 0);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	names_close(&names);
}

/* As the kernel sends them under the writeback cache: "now" as a change time of its own that the mtime equals. */
Test(setattr, append_only_files_can_be_touched)
{
	const struct timespec now = { 1000, 5 }, other = { 1000, 6 };
	const uint32_t touch = ASH_SET_ATIME_NOW | ASH_SET_MTIME | ASH_SET_CTIME;
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_FLAGS, .flags = APPEND }), 0);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = touch, .mtime = now, .ctime = now }), 0);
	cr_assert_eq(names_attr(&names, f).mtime.tv_nsec, 5);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = touch, .mtime = other, .ctime = now }), -EPERM,
		     "a time of the caller's choice");
	cr_assert_eq(set(&names, f,
			 (struct ash_setattr){
				 .valid = ASH_SET_ATIME | ASH_SET_MTIME | ASH_SET_CTIME, .mtime = now, .ctime = now }),
		     -EPERM);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_CTIME, .ctime = other }), 0,
		     "chown to nobody new");
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_CTIME | ASH_SET_KILL_SUIDGID }), -EPERM);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_FLAGS, .flags = IMMUTABLE }), 0);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = touch, .mtime = now, .ctime = now }), -EPERM);
	cr_assert_eq(set(&names, f, (struct ash_setattr){ .valid = ASH_SET_CTIME, .ctime = other }), -EPERM);
	names_close(&names);
}

Test(setattr, flags_are_inherited_as_by_ext4)
{
	const struct ash_create unnamed = { .mode = S_IFREG | 0600 };
	struct ash_attr attr;
	struct names names;
	uint64_t d, e;

	names_open(&names, "mem:64M", false);
	d = names_directory(&names, 1, "d");
	cr_assert_eq(set(&names, d, (struct ash_setattr){ .valid = ASH_SET_FLAGS, .flags = SYNC | NODUMP | NOATIME }),
		     0);
	cr_assert_eq(names_attr(&names, names_file(&names, d, "f")).flags, SYNC | NODUMP | NOATIME);
	cr_assert_eq(names_attr(&names, names_directory(&names, d, "d")).flags, SYNC | NODUMP | NOATIME);
	cr_assert_eq(names_attr(&names, (uint64_t)names_make(&names, d, "l", S_IFLNK)).flags, NODUMP | NOATIME);
	cr_assert_eq(names_attr(&names, (uint64_t)names_make(&names, d, "p", S_IFIFO | 0644)).flags, NODUMP | NOATIME);
	cr_assert_eq(ash_tmpfile(names.volume, d, &unnamed, &attr), 0);
	cr_assert_eq(attr.flags, SYNC | NODUMP | NOATIME);
	ash_forget(names.volume, attr.ino, 1);
	e = names_directory(&names, 1, "e");
	cr_assert_eq(set(&names, e, (struct ash_setattr){ .valid = ASH_SET_FLAGS, .flags = APPEND | NODUMP }), 0);
	cr_assert_eq(names_attr(&names, names_file(&names, e, "f")).flags, NODUMP, "a and i are not");
	names_remount(&names);
	cr_assert_eq(names_attr(&names, (uint64_t)names_find(&names, d, "f")).flags, SYNC | NODUMP | NOATIME);
	names_close(&names);
}

Test(setattr, symlinks_and_files_with_data_are_told_apart_by_blocks)
{
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	cr_assert_eq(names_attr(&names, f).blocks, 0u);
	cr_assert_eq(ash_write(names.volume, f, "x", 1, 0, 0), 1);
	cr_assert_gt(names_attr(&names, f).blocks, 0u, "buffered data counts");
	cr_assert_eq(ash_sync(names.volume), 0);
	cr_assert_gt(names_attr(&names, f).blocks, 0u);
	names_close(&names);
}
