/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Attributes: times, modes, owners, permissions of several users, extended attributes, chattr flags. */
#include "posix.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>

#define CAPABILITY_SIZE 20 /* struct vfs_cap_data */

static bool later(struct timespec a, struct timespec b)
{
	return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

static void pause_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

static bool kernel_since(int major, int minor)
{
	int running_major = 0, running_minor = 0;
	struct utsname name;

	uname(&name);
	sscanf(name.release, "%d.%d", &running_major, &running_minor);
	return running_major > major || (running_major == major && running_minor >= minor);
}

static void test_times(void)
{
	const struct timespec times[2] = { { 1000000000, 123456789 }, { -5, 987654321 } };
	struct stat st, after;
	struct statx stx;

	put_text("t", "x");
	CHECK_OK(utimensat(AT_FDCWD, "t", times, 0), "utimensat");
	CHECK(stat("t", &st) == 0 && st.st_atim.tv_sec == 1000000000 && st.st_atim.tv_nsec == 123456789 &&
		      st.st_mtim.tv_sec == -5 && st.st_mtim.tv_nsec == 987654321,
	      "nanoseconds, also before 1970");
	const struct timespec far[2] = { { 8000000000, 1 }, { 8000000000, 2 } };
	utimensat(AT_FDCWD, "t", far, 0);
	CHECK(stat("t", &st) == 0 && st.st_mtim.tv_sec == 8000000000 && st.st_mtim.tv_nsec == 2, "times after 2038");
	if (kernel_since(6, 6)) /* before, it does not ask for it */
		CHECK(statx(AT_FDCWD, "t", 0, STATX_BTIME | STATX_BASIC_STATS, &stx) == 0 &&
			      (stx.stx_mask & STATX_BTIME) && llabs(stx.stx_btime.tv_sec - time(NULL)) < 100,
		      "btime by statx");
	stat("t", &st);
	pause_ms(20);
	chmod("t", 0600);
	CHECK(stat("t", &after) == 0 && later(after.st_ctim, st.st_ctim) && after.st_mtim.tv_sec == st.st_mtim.tv_sec,
	      "chmod moves ctime, not mtime");
	pause_ms(20);
	int fd = open("t", O_WRONLY);
	if (write(fd, "y", 1) != 1)
		printf("# write failed\n");
	close(fd);
	CHECK(stat("t", &st) == 0 && llabs(st.st_mtim.tv_sec - time(NULL)) < 100, "write moves mtime");
	pause_ms(20);
	link("t", "t2");
	CHECK(stat("t", &after) == 0 && later(after.st_ctim, st.st_ctim), "link moves ctime");
	struct stat dir, dir_after;
	stat(".", &dir);
	pause_ms(20);
	unlink("t2");
	CHECK(stat(".", &dir_after) == 0 && later(dir_after.st_mtim, dir.st_mtim) &&
		      later(dir_after.st_ctim, dir.st_ctim),
	      "unlink moves the folder's mtime and ctime");
	unlink("t");
	/* The kernel keeps what it has read of a link: it is asked once. */
	char target[8];
	symlink("target", "t");
	pause_ms(20);
	CHECK(lstat("t", &st) == 0 && readlink("t", target, sizeof(target)) == 6 && lstat("t", &after) == 0 &&
		      later(after.st_atim, st.st_atim),
	      "readlink moves the link's atime");
	unlink("t");
}

static void test_mtime_kept(void)
{
	const struct timespec times[2] = { { 1234567890, 0 }, { 1234567890, 555 } };
	struct stat st;
	int fd = open("kept", O_RDWR | O_CREAT, 0644);

	if (write(fd, "dirty page", 10) != 10)
		printf("# write failed\n");
	CHECK_OK(futimens(fd, times), "set times of a file with dirty pages");
	fsync(fd);
	CHECK(fstat(fd, &st) == 0 && st.st_mtim.tv_sec == 1234567890 && st.st_mtim.tv_nsec == 555,
	      "kept over write-back");
	close(fd);
	CHECK(stat("kept", &st) == 0 && st.st_mtim.tv_sec == 1234567890, "kept over close");
	unlink("kept");
}

static int body_write(void *name)
{
	int fd = open(name, O_WRONLY);

	return fd < 0 || write(fd, "w", 1) != 1;
}

static int body_truncate(void *name)
{
	return truncate(name, 0);
}

static int body_chown_nothing(void *name)
{
	return chown(name, (uid_t)-1, (gid_t)-1) == 0 ? 0 : errno;
}

static int body_fallocate(void *name)
{
	int fd = open(name, O_WRONLY);

	return fd >= 0 && fallocate(fd, 0, 0, 10000) == 0 ? 0 : errno;
}

static void test_suid_of_others(void)
{
	put_text("suid", "program");
	chmod("suid", 06777);
	CHECK(as_other(body_chown_nothing, "suid") == EPERM && (mode_of("suid") & 07777) == 06777,
	      "a chown of a stranger that changes nothing clears nothing");
	CHECK(as_other(body_fallocate, "suid") == 0 && (mode_of("suid") & 06000) == 0,
	      "fallocate of another user clears suid and sgid");
	chmod("suid", 0777);
	CHECK(as_other(body_chown_nothing, "suid") == 0, "it is allowed where there is nothing to clear");
	chmod("suid", 02666);
	CHECK(as_other(body_write, "suid") == 0 && (mode_of("suid") & 07777) == 0666,
	      "a write clears sgid without group execution, when the writer is not in the group");
	unlink("suid");
}

static void test_suid(void)
{
	put_text("suid", "program");
	chmod("suid", 06777);
	CHECK((mode_of("suid") & 07777) == 06777, "suid and sgid set");
	put_text("suid", "by root");
	chmod("suid", 06777);
	CHECK(as_other(body_write, "suid") == 0 && (mode_of("suid") & 06000) == 0,
	      "a write of another user clears suid and sgid");
	chmod("suid", 06777);
	CHECK(as_other(body_truncate, "suid") == 0 && (mode_of("suid") & 06000) == 0,
	      "a truncation of another user does");
	chmod("suid", 06777);
	CHECK(chown("suid", OTHER_UID, OTHER_GID) == 0 && (mode_of("suid") & 06000) == 0, "chown clears them");
	chmod("suid", 06777);
	CHECK(chown("suid", (uid_t)-1, (gid_t)-1) == 0 && (mode_of("suid") & 06000) == 0,
	      "a chown that changes nobody does, too");
	chmod("suid", 02767);
	CHECK(as_other(body_write, "suid") == 0 && (mode_of("suid") & 02000) == 02000,
	      "sgid without group execution stays (mandatory locking)");
	unlink("suid");
	mkdir("sgid", 0755);
	CHECK(chown("sgid", 0, OTHER_GID) == 0 && chmod("sgid", 02777) == 0, "sgid folder");
	put_text("sgid/f", "");
	mkdir("sgid/d", 0755);
	struct stat st;
	CHECK(stat("sgid/f", &st) == 0 && st.st_gid == OTHER_GID, "a file in it gets the group");
	CHECK(stat("sgid/d", &st) == 0 && st.st_gid == OTHER_GID && (st.st_mode & S_ISGID),
	      "a folder in it also gets sgid");
	unlink("sgid/f"), rmdir("sgid/d"), rmdir("sgid");
}

static int body_open(void *name)
{
	int fd = open(name, O_RDONLY);

	return fd < 0 ? errno : 0;
}

static int body_create(void *name)
{
	int fd = open(name, O_CREAT | O_WRONLY, 0644);

	return fd < 0 ? errno : 0;
}

static int body_unlink(void *name)
{
	return unlink(name) ? errno : 0;
}

static int body_chmod(void *name)
{
	return chmod(name, 0777) ? errno : 0;
}

static int body_chown(void *name)
{
	return chown(name, OTHER_UID, OTHER_GID) ? errno : 0;
}

static int body_umask(void *name)
{
	umask(077);
	return body_create(name);
}

static void test_permissions(void)
{
	put_text("secret", "s");
	chmod("secret", 0600);
	CHECK(as_other(body_open, "secret") == EACCES, "0600 of another user: EACCES");
	chmod("secret", 0604);
	CHECK(as_other(body_open, "secret") == 0, "0604: readable");
	CHECK(as_other(body_chmod, "secret") == EPERM, "chmod of another's file: EPERM");
	CHECK(as_other(body_chown, "secret") == EPERM, "chown of another's file: EPERM");
	mkdir("closed", 0700);
	put_text("closed/f", "");
	CHECK(as_other(body_open, "closed/f") == EACCES, "folder 0700: EACCES");
	mkdir("readable", 0755);
	CHECK(as_other(body_create, "readable/n") == EACCES, "create in another's folder: EACCES");
	mkdir("sticky", 01777);
	chmod("sticky", 01777);
	put_text("sticky/roots", "");
	CHECK(as_other(body_unlink, "sticky/roots") == EPERM, "sticky folder: another's file stays");
	CHECK(as_other(body_umask, "sticky/own") == 0 && (mode_of("sticky/own") & 0777) == 0600, "umask is applied");
	struct stat st;
	CHECK(stat("sticky/own", &st) == 0 && st.st_uid == OTHER_UID && st.st_gid == OTHER_GID, "owner is the caller");
	CHECK(as_other(body_unlink, "sticky/own") == 0, "sticky folder: the own file goes");
	unlink("sticky/roots"), rmdir("sticky"), rmdir("readable"), unlink("closed/f"), rmdir("closed"),
		unlink("secret");
}

static void test_xattrs(void)
{
	static char value[65537], back[65536];
	char list[4096];

	for (size_t i = 0; i < sizeof(value); i++)
		value[i] = (char)(i * 31);
	put_text("x", "");
	CHECK_OK(setxattr("x", "user.a", "1", 1, 0), "setxattr");
	CHECK_ERRNO(setxattr("x", "user.a", "1", 1, XATTR_CREATE), EEXIST, "XATTR_CREATE over one: EEXIST");
	CHECK_ERRNO(setxattr("x", "user.b", "1", 1, XATTR_REPLACE), ENODATA, "XATTR_REPLACE of none: ENODATA");
	CHECK_ERRNO(getxattr("x", "user.b", back, 10), ENODATA, "getxattr of none: ENODATA");
	CHECK_OK(setxattr("x", "user.a", "longer", 6, XATTR_REPLACE), "XATTR_REPLACE");
	CHECK(getxattr("x", "user.a", NULL, 0) == 6, "length");
	CHECK_ERRNO(getxattr("x", "user.a", back, 3), ERANGE, "too small: ERANGE");
	CHECK_OK(setxattr("x", "user.empty", "", 0, 0), "empty value");
	CHECK(getxattr("x", "user.empty", back, 10) == 0, "is empty");
	int good = 1;
	for (size_t size = 1; size <= 65536; size *= 4)
		good &= setxattr("x", "user.big", value, size, 0) == 0 &&
			getxattr("x", "user.big", back, sizeof(back)) == (ssize_t)size &&
			memcmp(value, back, size) == 0;
	CHECK(good, "values of 1 byte to 64 KiB");
	CHECK_ERRNO(setxattr("x", "user.big", value, 65537, 0), E2BIG, "65537 bytes: E2BIG");
	CHECK_OK(setxattr("x", "trusted.t", "t", 1, 0), "trusted.");
	CHECK_OK(setxattr("x", "security.s", "s", 1, 0), "security.");
	CHECK_ERRNO(setxattr("x", "nonsense.n", "n", 1, 0), EOPNOTSUPP, "unknown namespace: EOPNOTSUPP");
	ssize_t length = listxattr("x", list, sizeof(list));
	CHECK(length > 0 && memmem(list, (size_t)length, "user.a", 7) &&
		      memmem(list, (size_t)length, "trusted.t", 10) && memmem(list, (size_t)length, "user.empty", 11),
	      "listxattr");
	CHECK(listxattr("x", NULL, 0) == length, "its length");
	CHECK_ERRNO(listxattr("x", list, 3), ERANGE, "too small: ERANGE");
	CHECK_OK(removexattr("x", "user.a"), "removexattr");
	CHECK_ERRNO(removexattr("x", "user.a"), ENODATA, "again: ENODATA");
	char name[300] = "user.";
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "user.number-%d", i);
		good &= setxattr("x", name, name, strlen(name), 0) == 0;
	}
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "user.number-%d", i);
		good &= getxattr("x", name, back, sizeof(back)) == (ssize_t)strlen(name) &&
			memcmp(back, name, strlen(name)) == 0;
	}
	CHECK(good, "200 attributes on one file");
	symlink("x", "xl");
	CHECK_ERRNO(lsetxattr("xl", "user.l", "1", 1, 0), EPERM, "user. on a symbolic link: EPERM");
	CHECK_OK(lsetxattr("xl", "trusted.l", "1", 1, 0), "trusted. on a symbolic link");
	unlink("xl"), unlink("x");
}

static bool has_capability(const char *name)
{
	return getxattr(name, "security.capability", NULL, 0) == CAPABILITY_SIZE;
}

static void set_capability(const char *name)
{
	static const unsigned char capability[CAPABILITY_SIZE] = { 1, 0, 0, 2, 0, 0x20 };

	if (setxattr(name, "security.capability", capability, sizeof(capability), 0))
		printf("# setxattr: %s\n", strerror(errno));
}

/* It goes when data is written, not when the page cache sends the data on. */
static void test_capability(void)
{
	static _Alignas(4096) char block[4096];
	int fd = open("cap", O_RDWR | O_CREAT, 0755), direct = open("cap", O_WRONLY | O_DIRECT);

	CHECK(fd >= 0 && write(fd, "some data", 9) == 9, "a file with dirty pages");
	set_capability("cap");
	close(fd);
	CHECK(has_capability("cap"), "a capability set while pages are dirty is kept over close");
	fd = open("cap", O_RDWR);
	char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	map[0] = 'S';
	set_capability("cap");
	CHECK(msync(map, 4096, MS_SYNC) == 0 && has_capability("cap"), "and over msync");
	munmap(map, 4096);
	CHECK(write(fd, "x", 1) == 1 && !has_capability("cap"), "a write takes it away at once");
	CHECK(fsync(fd) == 0 && !has_capability("cap"), "for good");
	set_capability("cap");
	CHECK(pwrite(direct, block, sizeof(block), 0) == (ssize_t)sizeof(block) && !has_capability("cap"),
	      "a write with O_DIRECT does");
	set_capability("cap");
	CHECK(fallocate(fd, 0, 0, 10000) == 0 && !has_capability("cap"), "fallocate does");
	chmod("cap", 06755);
	set_capability("cap");
	CHECK(write(fd, "x", 1) == 1 && !has_capability("cap") && (mode_of("cap") & 07777) == 06755,
	      "root's write takes the capability and leaves suid and sgid");
	close(fd), close(direct);
	unlink("cap");
}

static int get_flags(const char *name)
{
	int fd = open(name, O_RDONLY | O_NONBLOCK), flags = -1;

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags))
		flags = -1;
	close(fd);
	return flags & ~FS_EXTENT_FL; /* ext4 shows how it stores the data */
}

static int set_flags(const char *name, int flags)
{
	int fd = open(name, O_RDONLY), rc = ioctl(fd, FS_IOC_SETFLAGS, &flags), error = errno;

	close(fd);
	errno = error;
	return rc;
}

static int body_immutable(void *name)
{
	return set_flags(name, FS_IMMUTABLE_FL) ? errno : 0;
}

static void test_flags(void)
{
	struct stat before, after;
	struct fsxattr wide;

	put_text("fl", "abc");
	CHECK(get_flags("fl") == 0, "no flags");
	CHECK_OK(set_flags("fl", FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL), "chattr +dAS");
	CHECK(get_flags("fl") == (FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL), "lsattr");
	/* Of a regular file the kernel keeps the ctime itself (writeback cache) and does not move it for flags. */
	mkdir("fld", 0755);
	stat("fld", &before);
	pause_ms(20);
	CHECK(set_flags("fld", FS_NODUMP_FL) == 0 && stat("fld", &after) == 0 && later(after.st_ctim, before.st_ctim),
	      "flags of a folder move its ctime, seen at once");
	rmdir("fld");
	CHECK_ERRNO(set_flags("fl", FS_COMPR_FL), EOPNOTSUPP, "unknown flag: EOPNOTSUPP");
	set_flags("fl", 0);
	CHECK_OK(set_flags("fl", FS_IMMUTABLE_FL), "chattr +i");
	CHECK_ERRNO(unlink("fl"), EPERM, "immutable: unlink EPERM");
	CHECK_ERRNO(rename("fl", "fl2"), EPERM, "immutable: rename EPERM");
	CHECK_ERRNO(link("fl", "fl2"), EPERM, "immutable: link EPERM");
	CHECK_ERRNO(chmod("fl", 0600), EPERM, "immutable: chmod EPERM");
	CHECK_ERRNO(truncate("fl", 0), EPERM, "immutable: truncate EPERM");
	CHECK(content_is("fl", "abc", 3), "immutable: readable");
	CHECK_OK(set_flags("fl", 0), "chattr -i");
	CHECK_OK(set_flags("fl", FS_APPEND_FL), "chattr +a");
	CHECK_ERRNO(truncate("fl", 0), EPERM, "append-only: truncate EPERM");
	CHECK_ERRNO(unlink("fl"), EPERM, "append-only: unlink EPERM");
	int fd = open("fl", O_WRONLY | O_APPEND);
	CHECK(fd >= 0 && write(fd, "d", 1) == 1 && fsync(fd) == 0, "append-only: append");
	close(fd);
	set_flags("fl", 0);
	CHECK(content_is("fl", "abcd", 4), "what was appended is there");
	chown("fl", OTHER_UID, OTHER_GID);
	CHECK(as_other(body_immutable, "fl") == EPERM, "chattr +i by the owner without capability: EPERM");
	fd = open("fl", O_RDONLY);
	CHECK(ioctl(fd, FS_IOC_FSGETXATTR, &wide) == 0 && wide.fsx_xflags == 0, "FS_IOC_FSGETXATTR");
	wide.fsx_xflags = FS_XFLAG_NODUMP;
	CHECK(ioctl(fd, FS_IOC_FSSETXATTR, &wide) == 0 && get_flags("fl") == FS_NODUMP_FL, "FS_IOC_FSSETXATTR");
	CHECK_ERRNO(ioctl(fd, _IO('x', 99), 0), ENOTTY, "unknown ioctl: ENOTTY");
	wide.fsx_xflags = FS_IMMUTABLE_FL;
	CHECK_ERRNO(ioctl(fd, FS_IOC32_SETFLAGS, &wide), ENOTTY, "FS_IOC32_SETFLAGS, which nobody has checked: ENOTTY");
	CHECK(get_flags("fl") == FS_NODUMP_FL, "and nothing is set");
	close(fd);
	unlink("fl");
}

/* Content that is there can be changed neither through descriptors from before the flag. */
static void test_immutable_content(void)
{
	put_text("im", "0123456789");
	put_text("im.from", "from");
	int fd = open("im", O_RDWR), from = open("im.from", O_RDONLY), direct = open("im", O_RDWR | O_DIRECT);
	static _Alignas(4096) char block[4096];
	struct stat st;
	off_t zero = 0;

	CHECK(write(fd, "first", 5) == 5 && set_flags("im", FS_IMMUTABLE_FL) == 0, "chattr +i, pages are dirty");
	CHECK_OK(fsync(fd), "what was written before is taken");
	CHECK_ERRNO(fallocate(fd, 0, 0, 20000), EPERM, "immutable: fallocate EPERM");
	CHECK_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), EPERM,
		    "immutable: punch EPERM");
	CHECK_ERRNO(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 5), EPERM, "immutable: zero range EPERM");
	CHECK_ERRNO(copy_file_range(from, &zero, fd, &zero, 4, 0), EPERM, "immutable: copy_file_range EPERM");
	CHECK_ERRNO(pwrite(direct, block, sizeof(block), 0), EPERM, "immutable: write with O_DIRECT EPERM");
	CHECK_ERRNO(ftruncate(fd, 1), EPERM, "immutable: ftruncate EPERM");
	CHECK_ERRNO(utimensat(AT_FDCWD, "im", NULL, 0), EPERM, "immutable: touch EPERM");
	CHECK(fstat(fd, &st) == 0 && st.st_size == 10 && content_is("im", "first56789", 10), "nothing has changed");
	set_flags("im", 0);
	CHECK(pwrite(fd, "again", 5, 5) == 5 && fsync(fd) == 0 && content_is("im", "firstagain", 10), "chattr -i");
	close(fd), close(from), close(direct);
	unlink("im"), unlink("im.from");
}

static void test_append_only_content(void)
{
	const struct timespec times[2] = { { 1, 2 }, { 3, 4 } };
	struct stat before, after;

	put_text("ap", "0123456789");
	int fd = open("ap", O_RDWR);
	stat("ap", &before);
	pause_ms(20);
	CHECK_OK(set_flags("ap", FS_APPEND_FL), "chattr +a");
	CHECK_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), EPERM,
		    "append-only: punch EPERM");
	CHECK_ERRNO(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 5), EPERM, "append-only: zero range EPERM");
	CHECK_ERRNO(ftruncate(fd, 1), EPERM, "append-only: ftruncate EPERM");
	CHECK_OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 20000), "append-only: space ahead");
	CHECK_OK(utimensat(AT_FDCWD, "ap", NULL, 0), "append-only: touch");
	CHECK(stat("ap", &after) == 0 && later(after.st_mtim, before.st_mtim), "which moves the mtime");
	CHECK_ERRNO(utimensat(AT_FDCWD, "ap", times, 0), EPERM, "append-only: other times EPERM");
	CHECK_OK(chown("ap", (uid_t)-1, (gid_t)-1), "append-only: a chown that changes nobody");
	CHECK_ERRNO(chown("ap", OTHER_UID, (gid_t)-1), EPERM, "append-only: chown EPERM");
	CHECK(content_is("ap", "0123456789", 10), "append-only: nothing has changed");
	set_flags("ap", 0);
	close(fd);
	unlink("ap");
}

static void test_inherited_flags(void)
{
	const int flags = FS_SYNC_FL | FS_NODUMP_FL | FS_NOATIME_FL;

	mkdir("in", 0755);
	CHECK_OK(set_flags("in", flags), "chattr +SdA of a folder");
	put_text("in/f", "x");
	mkdir("in/d", 0755);
	CHECK(get_flags("in/f") == flags, "a file in it inherits them");
	CHECK(get_flags("in/d") == flags, "a folder does");
	set_flags("in", FS_APPEND_FL | FS_NODUMP_FL);
	put_text("in/a", "x");
	CHECK(get_flags("in/a") == FS_NODUMP_FL, "append-only is not inherited");
	set_flags("in", 0);
	unlink("in/f"), unlink("in/a"), rmdir("in/d"), rmdir("in");
}

static void test_version(void)
{
	int versions[2] = { 0 };

	for (int i = 0; i < 2; i++) {
		put_text("ver", "x");
		int fd = open("ver", O_RDONLY);
		CHECK_OK(ioctl(fd, FS_IOC_GETVERSION, &versions[i]), "FS_IOC_GETVERSION");
		close(fd);
		unlink("ver");
	}
	CHECK(versions[0] != versions[1], "two files of one name have two versions");
}

void test_attributes(void)
{
	test_times();
	test_mtime_kept();
	test_suid();
	test_suid_of_others();
	test_capability();
	test_permissions();
	test_xattrs();
	test_flags();
	test_immutable_content();
	test_append_only_content();
	test_inherited_flags();
	test_version();
}
