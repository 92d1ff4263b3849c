/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* POSIX ACLs: what is a valid one, how mode and ACL follow each other, what a new inode inherits. */
#include <ashlar/format.h>
#include <sys/xattr.h>

#include "names_fixture.h"

#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"
#define USER_OBJ 1
#define USER 2
#define GROUP_OBJ 4
#define GROUP 8
#define MASK 16
#define OTHER 32

struct entry {
	uint16_t tag, permissions;
	uint32_t id;
} __attribute__((packed));

struct blob {
	uint32_t version;
	struct entry entries[70];
} __attribute__((packed));

static size_t blob_size(size_t count)
{
	return 4 + count * sizeof(struct entry);
}

static int set_acl(struct names *names, uint64_t ino, const char *name, const struct blob *blob, size_t count)
{
	return ash_setxattr(names->volume, ino, name, blob, blob_size(count), 0);
}

static struct blob named_user_acl(void)
{
	return (struct blob){ 2,
			      { { USER_OBJ, 7, UINT32_MAX },
				{ USER, 6, 1000 },
				{ GROUP_OBJ, 5, UINT32_MAX },
				{ MASK, 4, UINT32_MAX },
				{ OTHER, 0, UINT32_MAX } } };
}

Test(acl, sets_the_mode_and_is_stored)
{
	struct blob acl = named_user_acl(), back;
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 5), 0);
	cr_assert_eq(names_attr(&names, f).mode, (uint32_t)(S_IFREG | 0740), "the mask shows as the group's bits");
	cr_assert_eq(ash_getxattr(names.volume, f, ACCESS, &back, sizeof(back)), (int)blob_size(5));
	cr_assert_eq(memcmp(&back, &acl, blob_size(5)), 0);
	cr_assert_eq(ash_removexattr(names.volume, f, ACCESS), 0);
	cr_assert_eq(ash_getxattr(names.volume, f, ACCESS, &back, sizeof(back)), -ENODATA);
	names_close(&names);
}

Test(acl, equivalent_to_the_mode_is_not_stored)
{
	struct blob acl = { 2, { { USER_OBJ, 6, 0 }, { GROUP_OBJ, 4, 0 }, { OTHER, 1, 0 } } };
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 3), 0);
	cr_assert_eq(names_attr(&names, f).mode, (uint32_t)(S_IFREG | 0641));
	cr_assert_eq(ash_getxattr(names.volume, f, ACCESS, NULL, 0), -ENODATA);
	names_close(&names);
}

Test(acl, chmod_changes_owner_mask_and_others)
{
	struct blob acl = named_user_acl(), back;
	struct ash_setattr change = { .valid = ASH_SET_MODE, .mode = 0617 };
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 5), 0);
	cr_assert_eq(ash_setattr(names.volume, f, &change, NULL), 0);
	cr_assert_eq(ash_getxattr(names.volume, f, ACCESS, &back, sizeof(back)), (int)blob_size(5));
	cr_assert_eq(back.entries[0].permissions, 6);
	cr_assert_eq(back.entries[1].permissions, 6, "a named user is not touched");
	cr_assert_eq(back.entries[2].permissions, 5, "with a mask the owning group is not touched");
	cr_assert_eq(back.entries[3].permissions, 1);
	cr_assert_eq(back.entries[4].permissions, 7);
	names_close(&names);
}

Test(acl, default_acl_is_inherited_and_overrides_the_umask)
{
	struct blob acl = named_user_acl(), back;
	struct ash_create file = { .mode = S_IFREG | 0666, .umask = 077 },
			  directory = { .mode = S_IFDIR | 0777, .umask = 077 };
	struct ash_attr attr;
	struct names names;
	uint64_t d;

	names_open(&names, "mem:64M", false);
	d = names_directory(&names, 1, "d");
	cr_assert_eq(set_acl(&names, d, DEFAULT, &acl, 5), 0);
	cr_assert_eq(names_attr(&names, d).mode, (uint32_t)(S_IFDIR | 0755), "a default ACL leaves the mode");
	cr_assert_eq(ash_create(names.volume, d, "f", &file, &attr), 0);
	cr_assert_eq(attr.mode, (uint32_t)(S_IFREG | 0640));
	cr_assert_eq(ash_getxattr(names.volume, attr.ino, ACCESS, &back, sizeof(back)), (int)blob_size(5));
	cr_assert_eq(back.entries[0].permissions, 6);
	cr_assert_eq(back.entries[3].permissions, 4);
	cr_assert_eq(ash_getxattr(names.volume, attr.ino, DEFAULT, NULL, 0), -ENODATA);
	cr_assert_eq(ash_create(names.volume, d, "sub", &directory, &attr), 0);
	cr_assert_eq(attr.mode, (uint32_t)(S_IFDIR | 0740));
	cr_assert_eq(ash_getxattr(names.volume, attr.ino, DEFAULT, &back, sizeof(back)), (int)blob_size(5));
	cr_assert_eq(memcmp(&back, &acl, blob_size(5)), 0);
	names_remount(&names);
	cr_assert_eq(ash_getxattr(names.volume, attr.ino, DEFAULT, &back, sizeof(back)), (int)blob_size(5));
	names_close(&names);
}

Test(acl, default_acl_only_on_directories)
{
	struct blob acl = named_user_acl();
	struct names names;
	uint64_t f, l;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	l = (uint64_t)names_make(&names, 1, "l", S_IFLNK | 0777);
	cr_assert_eq(set_acl(&names, f, DEFAULT, &acl, 5), -EACCES);
	cr_assert_eq(set_acl(&names, l, ACCESS, &acl, 5), -EOPNOTSUPP);
	names_close(&names);
}

Test(acl, nonsense_is_refused)
{
	struct blob acl = named_user_acl();
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	acl.version = 1;
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 5), -EOPNOTSUPP);
	acl.version = 2;
	cr_assert_eq(ash_setxattr(names.volume, f, ACCESS, &acl, blob_size(5) - 1, 0), -EINVAL);
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 4), -EINVAL, "no entry for others");
	acl.entries[3].tag = GROUP;
	acl.entries[3].id = 7;
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 5), -EINVAL, "named entries without a mask");
	acl = named_user_acl();
	acl.entries[1].id = UINT32_MAX;
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 5), -EINVAL);
	acl = named_user_acl();
	acl.entries[0].permissions = 8;
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 5), -EINVAL);
	acl = named_user_acl();
	acl.entries[0].tag = OTHER;
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 5), -EINVAL);
	cr_assert_eq(names_attr(&names, f).mode, (uint32_t)(S_IFREG | 0644));
	names_close(&names);
}

Test(acl, as_long_as_it_may_be)
{
	struct blob acl = named_user_acl();
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	for (int i = 1; i < 60; i++)
		acl.entries[i] = (struct entry){ USER, 4, 1000u + (uint32_t)i };
	acl.entries[60] = (struct entry){ GROUP_OBJ, 4, 0 };
	acl.entries[61] = (struct entry){ MASK, 4, 0 };
	acl.entries[62] = (struct entry){ OTHER, 0, 0 };
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 63), 0);
	for (int i = 62; i >= 60; i--)
		acl.entries[i + 1] = acl.entries[i];
	acl.entries[60] = (struct entry){ USER, 4, 2000 };
	cr_assert_eq(set_acl(&names, f, ACCESS, &acl, 64), -E2BIG);
	names_close(&names);
}

Test(acl, sgid_is_dropped_when_asked)
{
	struct blob acl = named_user_acl();
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = (uint64_t)names_make(&names, 1, "f", S_IFREG | 02755);
	cr_assert_eq(ash_setxattr(names.volume, f, ACCESS, &acl, blob_size(5), ASH_XATTR_KILL_SGID), 0);
	cr_assert_eq(names_attr(&names, f).mode, (uint32_t)(S_IFREG | 0740));
	names_close(&names);
}

/* ---- Attributes in general ---- */

Test(acl, names_and_flags_of_attributes)
{
	static char value[65537];
	char list[200];
	struct names names;
	uint64_t f;
	struct timespec before;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	before = names_attr(&names, f).ctime;
	cr_assert_eq(ash_listxattr(names.volume, f, NULL, 0), 0);
	cr_assert_eq(ash_setxattr(names.volume, f, "user.a", "1", 1, XATTR_REPLACE), -ENODATA);
	cr_assert_eq(ash_setxattr(names.volume, f, "user.a", "1", 1, XATTR_CREATE), 0);
	cr_assert_eq(ash_setxattr(names.volume, f, "user.a", "1", 1, XATTR_CREATE), -EEXIST);
	cr_assert_eq(ash_setxattr(names.volume, f, "user.empty", NULL, 0, 0), 0);
	cr_assert_eq(ash_getxattr(names.volume, f, "user.empty", value, 1), 0);
	cr_assert_eq(ash_setxattr(names.volume, f, "other.a", "1", 1, 0), -EOPNOTSUPP);
	cr_assert_eq(ash_setxattr(names.volume, f, "user.", "1", 1, 0), -EINVAL);
	cr_assert_eq(ash_setxattr(names.volume, f, "", "1", 1, 0), -ERANGE);
	cr_assert_eq(ash_setxattr(names.volume, f, "user.long", value, 65537, 0), -E2BIG);
	cr_assert_eq(ash_setxattr(names.volume, f, "user.long", value, 65536, 0), 0);
	cr_assert_eq(ash_listxattr(names.volume, f, list, sizeof(list)), 7 + 11 + 10);
	cr_assert_eq(ash_listxattr(names.volume, f, list, 10), -ERANGE);
	cr_assert_eq(ash_removexattr(names.volume, f, "user.none"), -ENODATA);
	names_tick();
	cr_assert_eq(ash_removexattr(names.volume, f, "user.a"), 0);
	cr_assert_eq(ash_getxattr(names.volume, f, "user.a", value, 10), -ENODATA);
	cr_assert(names_attr(&names, f).ctime.tv_nsec != before.tv_nsec ||
		  names_attr(&names, f).ctime.tv_sec != before.tv_sec);
	names_remount(&names);
	cr_assert_eq(ash_getxattr(names.volume, f, "user.long", value, sizeof(value)), 65536);
	names_close(&names);
}
