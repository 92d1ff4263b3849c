/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The operations of mount_twin: each makes its arguments of the numbers it was given, so both sides get the same call.
 */
#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define BLOCK 4096u
#define DATA_MAX (128u * 1024)
#define FAR ((off_t)1 << 40) /* ext4 ends at 16 TiB */

/* Whoever acts: root, and two users who share a group. */
static const struct {
	uid_t uid;
	gid_t gid;
	gid_t groups[2];
	size_t group_count;
} users[] = { { 0, 0, { 0 }, 1 }, { 1001, 2001, { 2001, 2002 }, 2 }, { 1002, 2002, { 2002 }, 1 } };

#define NUMBER(i) (op->number[i])
#define PICK(i, array) ((array)[NUMBER(i) % (sizeof(array) / sizeof(*(array)))])
#define FD(i) (side->slot[op->slot[i]])

static void note(struct result *result, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void note(struct result *result, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(result->note, sizeof(result->note), format, arguments);
	va_end(arguments);
}

static void done(struct result *result, long value)
{
	result->value = value;
	result->error = errno;
}

/* Bytes that tell where they came from. */
static char *data_of(uint64_t seed, size_t length)
{
	static _Alignas(BLOCK) char data[DATA_MAX];

	for (size_t i = 0; i < length; i++)
		data[i] = (char)('A' + (seed + i / 7) % 57);
	return data;
}

static char *data_room(void)
{
	static _Alignas(BLOCK) char room[DATA_MAX];

	return room;
}

/* Of a call that gives data: as many bytes as it says, in the room. */
static void done_with_data(struct result *result, long value)
{
	done(result, value);
	if (value > 0)
		result->digest = digest_add(0, data_room(), (size_t)value);
}

static off_t offset_of(uint64_t number)
{
	uint64_t rest = number >> 8;

	switch (number % 16) {
	case 0 ... 5:
		return (off_t)(rest % 200);
	case 6 ... 10:
		return (off_t)(rest % 32 * BLOCK + rest / 32 % 3);
	case 11 ... 13:
		return (off_t)(rest % 300000);
	case 14:
		return (off_t)(rest % 8 << 20);
	default:
		return FAR + (off_t)(rest % 20000);
	}
}

static size_t length_of(uint64_t number)
{
	uint64_t rest = number >> 8;

	switch (number % 8) {
	case 0 ... 3:
		return rest % 200;
	case 4 ... 5:
		return rest % 10000;
	case 6:
		return (1 + rest % 8) * BLOCK;
	default:
		return rest % DATA_MAX;
	}
}

static bool is_direct(int fd)
{
	return fd >= 0 && fcntl(fd, F_GETFL) & O_DIRECT;
}

/* O_DIRECT wants whole blocks; what it does with others is each filesystem's own. */
static void fit(int fd, off_t *offset, size_t *length)
{
	if (!is_direct(fd))
		return;
	*offset &= ~(off_t)(BLOCK - 1);
	*length = (*length | 1) + BLOCK - 1 > DATA_MAX ? BLOCK : ((*length | 1) + BLOCK - 1) / BLOCK * BLOCK;
}

/* ---- open files ---- */

static void op_open(struct side *side, const struct op *op, struct result *result)
{
	static const int accesses[] = { O_RDONLY, O_WRONLY, O_RDWR, O_RDWR };
	static const int ways[] = { 0,
				    0,
				    O_CREAT,
				    O_CREAT,
				    O_CREAT,
				    O_CREAT | O_EXCL,
				    O_CREAT | O_EXCL,
				    O_CREAT | O_TRUNC,
				    O_TRUNC,
				    O_DIRECTORY,
				    O_CREAT | O_APPEND,
				    O_APPEND,
				    O_TMPFILE,
				    O_NOFOLLOW,
				    O_CREAT | O_NOFOLLOW,
				    O_PATH,
				    O_PATH | O_NOFOLLOW,
				    O_CREAT | O_DIRECT,
				    O_DIRECT,
				    O_CREAT | O_SYNC,
				    O_NOATIME,
				    O_CREAT | O_DSYNC };
	static const mode_t modes[] = { 0644, 0666, 0600, 0777, 04755, 02755, 0444, 0, 0640, 01666, 06777, 02664 };
	int flags = PICK(0, accesses) | PICK(1, ways) | O_NONBLOCK;
	mode_t mode = PICK(2, modes);
	int *fd = &FD(0);

	if (*fd >= 0)
		close(*fd);
	note(result, "%s flags 0%o mode 0%o slot %u", op->path[0], (unsigned)flags, mode, op->slot[0]);
	*fd = open(op->path[0], flags, mode);
	done(result, *fd < 0 ? -1 : 0);
}

static void op_close(struct side *side, const struct op *op, struct result *result)
{
	note(result, "slot %u", op->slot[0]);
	done(result, close(FD(0)));
	FD(0) = -1;
}

/* What is read or written: at an offset, or where the file stands. */
static size_t length_at_offset(const struct side *side, const struct op *op, struct result *result, off_t *offset)
{
	size_t length = length_of(NUMBER(1));

	*offset = offset_of(NUMBER(0));
	fit(FD(0), offset, &length);
	note(result, "slot %u, %zu at %lld", op->slot[0], length, (long long)*offset);
	return length;
}

static size_t length_at_position(const struct side *side, const struct op *op, struct result *result)
{
	off_t begin = 0;
	size_t length = length_of(NUMBER(1));

	fit(FD(0), &begin, &length);
	if (is_direct(FD(0)))
		lseek(FD(0), begin, SEEK_SET);
	note(result, "slot %u, %zu", op->slot[0], length);
	return length;
}

static void op_pwrite(struct side *side, const struct op *op, struct result *result)
{
	off_t offset;
	size_t length = length_at_offset(side, op, result, &offset);

	done(result, pwrite(FD(0), data_of(NUMBER(2), length), length, offset));
}

static void op_write(struct side *side, const struct op *op, struct result *result)
{
	size_t length = length_at_position(side, op, result);

	done(result, write(FD(0), data_of(NUMBER(2), length), length));
}

static void op_pread(struct side *side, const struct op *op, struct result *result)
{
	off_t offset;
	size_t length = length_at_offset(side, op, result, &offset);

	done_with_data(result, pread(FD(0), data_room(), length, offset));
}

static void op_read(struct side *side, const struct op *op, struct result *result)
{
	size_t length = length_at_position(side, op, result);

	done_with_data(result, read(FD(0), data_room(), length));
}

/* SEEK_HOLE and SEEK_DATA may tell of more data than there is. Positions in folders are each filesystem's own. */
static void op_lseek(struct side *side, const struct op *op, struct result *result)
{
	static const int whences[] = { SEEK_SET, SEEK_CUR, SEEK_END };
	off_t offset = offset_of(NUMBER(0)) - (NUMBER(1) % 4 == 0 ? 100 : 0);
	int whence = PICK(2, whences);
	struct stat st;

	note(result, "slot %u, %lld from %d", op->slot[0], (long long)offset, whence);
	if (FD(0) >= 0 && fstat(FD(0), &st) == 0 && S_ISDIR(st.st_mode)) {
		done(result, 0);
		return;
	}
	done(result, lseek(FD(0), offset, whence));
}

static void op_ftruncate(struct side *side, const struct op *op, struct result *result)
{
	off_t size = NUMBER(1) % 4 ? offset_of(NUMBER(0)) : 0;

	note(result, "slot %u to %lld", op->slot[0], (long long)size);
	done(result, ftruncate(FD(0), size));
}

static void op_truncate(struct side *side, const struct op *op, struct result *result)
{
	off_t size = NUMBER(1) % 4 ? offset_of(NUMBER(0)) : 0;

	struct stat st;

	(void)side;
	note(result, "%s to %lld", op->path[0], (long long)size);
	/* To the size that it has: ext4 moves the times, the kernel's FUSE and XFS do not. */
	if (stat(op->path[0], &st) == 0 && S_ISREG(st.st_mode) && st.st_size == size)
		return;
	done(result, truncate(op->path[0], size));
}

static void op_fallocate(struct side *side, const struct op *op, struct result *result)
{
	static const int modes[] = { 0,
				     FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_ZERO_RANGE,
				     FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_PUNCH_HOLE };
	int mode = PICK(0, modes);
	off_t offset = offset_of(NUMBER(1)), length = (off_t)length_of(NUMBER(2)) * (NUMBER(3) % 4 ? 1 : 16);

	note(result, "slot %u mode %d, %lld at %lld", op->slot[0], mode, (long long)length, (long long)offset);
	done(result, fallocate(FD(0), mode, offset, length));
}

static void op_copy(struct side *side, const struct op *op, struct result *result)
{
	off_t in = offset_of(NUMBER(0)), out = offset_of(NUMBER(1));
	size_t length = length_of(NUMBER(2));

	if (is_direct(FD(0)) || is_direct(FD(1)))
		return;
	note(result, "slot %u at %lld to slot %u at %lld, %zu", op->slot[0], (long long)in, op->slot[1], (long long)out,
	     length);
	/* Short copies are allowed: finish, as every caller does. */
	done(result, copy_file_range(FD(0), &in, FD(1), &out, length, 0));
	for (ssize_t n = result->value; n > 0 && (size_t)result->value < length;) {
		n = copy_file_range(FD(0), &in, FD(1), &out, length - (size_t)result->value, 0);
		if (n > 0)
			result->value += n;
	}
}

static void op_sendfile(struct side *side, const struct op *op, struct result *result)
{
	off_t in = offset_of(NUMBER(0));
	size_t length = length_of(NUMBER(2));

	note(result, "slot %u at %lld to slot %u, %zu", op->slot[0], (long long)in, op->slot[1], length);
	if (is_direct(FD(0)) || is_direct(FD(1)))
		return;
	done(result, sendfile(FD(1), FD(0), &in, length));
}

/* Within the file: past its last page is SIGBUS. */
static void op_mmap(struct side *side, const struct op *op, struct result *result)
{
	bool writes = NUMBER(0) % 3 != 0;
	uint64_t window = 16 * BLOCK, start;
	size_t length;
	struct stat st;
	char *map;

	note(result, "slot %u, %s", op->slot[0], writes ? "store" : "load");
	if (FD(0) >= 0 && fstat(FD(0), &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0) {
		done(result, 0);
		return;
	}
	if (FD(0) < 0 || !S_ISREG(st.st_mode)) {
		done(result, mmap(NULL, BLOCK, PROT_READ, MAP_SHARED, FD(0), 0) == MAP_FAILED ? -1 : 0);
		return;
	}
	start = NUMBER(1) % (((uint64_t)st.st_size + window - 1) / window) * window;
	length = (uint64_t)st.st_size - start < window ? (size_t)((uint64_t)st.st_size - start) : window;
	map = mmap(NULL, length, PROT_READ | (writes ? PROT_WRITE : 0), MAP_SHARED, FD(0), (off_t)start);
	done(result, map == MAP_FAILED ? -1 : 0);
	if (map == MAP_FAILED)
		return;
	if (writes) {
		size_t at = NUMBER(2) % length, n = length - at < 3000 ? length - at : 3000;

		note(result, "slot %u, store %zu at %llu", op->slot[0], n, (unsigned long long)start + at);
		memcpy(map + at, data_of(NUMBER(3), n), n);
		/* The time stamp of a store through a mapping may come with the write-back. */
		done(result, msync(map, length, MS_SYNC));
	} else {
		result->digest = digest_add(0, map, length);
	}
	munmap(map, length);
}

static void op_fsync(struct side *side, const struct op *op, struct result *result)
{
	note(result, "slot %u", op->slot[0]);
	done(result, NUMBER(0) % 2 ? fsync(FD(0)) : fdatasync(FD(0)));
}

/* Everything is read again from the device. */
static void op_forget(struct side *side, const struct op *op, struct result *result)
{
	int fd;

	note(result, "all caches");
	if (op->user) /* only root may */
		return;
	if (syncfs(side->root))
		die("syncfs");
	fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (fd < 0 || write(fd, "3", 1) != 1)
		die("drop_caches");
	close(fd);
	done(result, 0);
}

/* ---- names ---- */

static void op_mkdir(struct side *side, const struct op *op, struct result *result)
{
	static const mode_t modes[] = { 0755, 0777, 0700, 01777, 02777, 02755, 0, 0555 };
	mode_t mode = PICK(0, modes);

	(void)side;
	note(result, "%s mode 0%o", op->path[0], mode);
	done(result, mkdir(op->path[0], mode));
}

static void op_rmdir(struct side *side, const struct op *op, struct result *result)
{
	(void)side;
	note(result, "%s", op->path[0]);
	done(result, rmdir(op->path[0]));
}

static void op_unlink(struct side *side, const struct op *op, struct result *result)
{
	(void)side;
	note(result, "%s", op->path[0]);
	done(result, unlink(op->path[0]));
}

static void op_rename(struct side *side, const struct op *op, struct result *result)
{
	static const unsigned flags[] = {
		0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT, RENAME_NOREPLACE | RENAME_EXCHANGE
	};
	unsigned flag = PICK(0, flags);

	(void)side;
	note(result, "%s to %s flags %u", op->path[0], op->path[1], flag);
	done(result, renameat2(AT_FDCWD, op->path[0], AT_FDCWD, op->path[1], flag));
}

static void op_link(struct side *side, const struct op *op, struct result *result)
{
	int flags = NUMBER(0) % 4 ? 0 : AT_SYMLINK_FOLLOW;

	(void)side;
	note(result, "%s to %s flags %d", op->path[0], op->path[1], flags);
	done(result, linkat(AT_FDCWD, op->path[0], AT_FDCWD, op->path[1], flags));
}

/* A file of O_TMPFILE gets its name so. */
static void op_link_open(struct side *side, const struct op *op, struct result *result)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", FD(0));
	note(result, "slot %u to %s", op->slot[0], op->path[0]);
	done(result, linkat(AT_FDCWD, path, AT_FDCWD, op->path[0], AT_SYMLINK_FOLLOW));
}

static void op_symlink(struct side *side, const struct op *op, struct result *result)
{
	char target[5000];
	size_t length = NUMBER(0) % 10 ? 0 : NUMBER(1) % 4097;

	(void)side;
	if (length)
		snprintf(target, sizeof(target), "%.*s", (int)length, data_of(NUMBER(2), length));
	else
		snprintf(target, sizeof(target), "%s", op->path[1]);
	if (length)
		target[length] = '\0';
	note(result, "%s, target of %zu bytes: %.30s", op->path[0], strlen(target), target);
	done(result, symlink(target, op->path[0]));
}

static void op_readlink(struct side *side, const struct op *op, struct result *result)
{
	size_t room = NUMBER(0) % 4 ? 4096 : 1 + NUMBER(0) % 50;

	(void)side;
	note(result, "%s", op->path[0]);
	done_with_data(result, readlink(op->path[0], data_room(), room));
}

static void op_mknod(struct side *side, const struct op *op, struct result *result)
{
	static const mode_t types[] = { S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFREG, S_IFIFO, S_IFDIR, 0 };
	mode_t mode = PICK(0, types) | (mode_t)(NUMBER(1) % 3 ? 0644 : 06755);
	dev_t device = NUMBER(2) % 5 ? makedev(NUMBER(3) % 300, NUMBER(4) % 70000) : 0;

	(void)side;
	note(result, "%s mode 0%o device %llx", op->path[0], mode, (unsigned long long)device);
	done(result, mknod(op->path[0], mode, device));
}

/* ---- attributes ---- */

static const mode_t all_modes[] = { 0644,  0666, 0600, 0777,  0755,  04755, 02755, 06755, 02644,
				    04711, 0444, 0,    01777, 02777, 0111,  0070,  0007 };

static void op_chmod(struct side *side, const struct op *op, struct result *result)
{
	mode_t mode = PICK(0, all_modes);

	(void)side;
	note(result, "%s 0%o", op->path[0], mode);
	done(result, chmod(op->path[0], mode));
}

static void op_fchmod(struct side *side, const struct op *op, struct result *result)
{
	mode_t mode = PICK(0, all_modes);

	note(result, "slot %u 0%o", op->slot[0], mode);
	done(result, fchmod(FD(0), mode));
}

static const uid_t owners[] = { 0, 1001, 1002, (uid_t)-1, 1001, (uid_t)-1, 4000000000u };
static const gid_t groups[] = { 0, 2001, 2002, (gid_t)-1, (gid_t)-1, 2002, 4000000000u };

/* Set-group-ID without group execution, which once meant mandatory locks. */
static bool is_mandatory(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_mode & S_ISGID && !(st.st_mode & S_IXGRP);
}

static void op_chown(struct side *side, const struct op *op, struct result *result)
{
	uid_t uid = PICK(0, owners);
	gid_t gid = PICK(1, groups);

	(void)side;
	note(result, "%s %d:%d", op->path[0], (int)uid, (int)gid);
	/* Whether this is a chmod depends on supplementary groups, of which no request of FUSE tells. */
	if (op->user && uid == (uid_t)-1 && gid == (gid_t)-1 && is_mandatory(op->path[0]))
		return;
	/* The kernel's FUSE takes the capability for anybody who changes nothing, before it asks. */
	if (op->user && uid == (uid_t)-1 && gid == (gid_t)-1 &&
	    lgetxattr(op->path[0], "security.capability", NULL, 0) >= 0)
		return;
	done(result, NUMBER(2) % 2 ? chown(op->path[0], uid, gid) : lchown(op->path[0], uid, gid));
}

static void op_fchown(struct side *side, const struct op *op, struct result *result)
{
	uid_t uid = PICK(0, owners);
	gid_t gid = PICK(1, groups);

	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", FD(0));
	note(result, "slot %u %d:%d", op->slot[0], (int)uid, (int)gid);
	if (op->user && uid == (uid_t)-1 && gid == (gid_t)-1 &&
	    (is_mandatory(path) || getxattr(path, "security.capability", NULL, 0) >= 0))
		return;
	done(result, fchown(FD(0), uid, gid));
}

/* Times that are set lie before SET_TIMES_END; 1901 to 2001, since ext4 has no others before. */
static void times_of(const struct op *op, struct timespec times[2])
{
	for (unsigned i = 0; i < 2; i++) {
		times[i].tv_sec = (time_t)(NUMBER(i) >> 16) % 1000000000 - (NUMBER(3) % 8 ? 0 : 1000000000);
		times[i].tv_nsec = (long)(NUMBER(i + 2) >> 16) % 1000000000;
		if (times[i].tv_nsec < 0)
			times[i].tv_nsec = 0;
		if (NUMBER(i + 2) % 6 == 0)
			times[i].tv_nsec = UTIME_NOW;
		if (NUMBER(i + 2) % 6 == 1)
			times[i].tv_nsec = UTIME_OMIT;
	}
}

static void op_utimens(struct side *side, const struct op *op, struct result *result)
{
	struct timespec times[2];
	bool now = NUMBER(5) % 5 == 0;

	(void)side;
	times_of(op, times);
	note(result, "%s %s %lld.%ld %lld.%ld", op->path[0], now ? "now" : "to", (long long)times[0].tv_sec,
	     times[0].tv_nsec, (long long)times[1].tv_sec, times[1].tv_nsec);
	done(result, utimensat(AT_FDCWD, op->path[0], now ? NULL : times, NUMBER(4) % 3 ? 0 : AT_SYMLINK_NOFOLLOW));
}

static void op_futimens(struct side *side, const struct op *op, struct result *result)
{
	struct timespec times[2];

	times_of(op, times);
	note(result, "slot %u %lld.%ld %lld.%ld", op->slot[0], (long long)times[0].tv_sec, times[0].tv_nsec,
	     (long long)times[1].tv_sec, times[1].tv_nsec);
	done(result, futimens(FD(0), times));
}

static void op_access(struct side *side, const struct op *op, struct result *result)
{
	int mode = (int)(NUMBER(0) % 8);

	(void)side;
	note(result, "%s %d", op->path[0], mode);
	done(result, faccessat(AT_FDCWD, op->path[0], mode, AT_EACCESS));
}

static void op_list(struct side *side, const struct op *op, struct result *result)
{
	int fd = open(op->path[0], O_RDONLY | O_DIRECTORY);

	(void)side;
	note(result, "%s", op->path[0]);
	done(result, fd < 0 ? -1 : 0);
	if (fd >= 0) {
		done(result, syscall(SYS_getdents64, fd, data_room(), DATA_MAX) < 0 ? -1 : 0);
		close(fd);
	}
}

/* Together they fit into ext4's one block of attributes. */
static const char *const attribute_names[] = {
	"user.x0", "user.x1", "user.x2",      "trusted.t0",          "security.s0",        "user.",
	"bogus.x", "user.x3", "system.other", "security.capability", "security.capability"
};

static size_t attribute_value(const struct op *op, const char *name, const char **value)
{
	/* struct vfs_ns_cap_data, revision 2, cap_net_bind_service: linux/capability.h */
	static const char capability[20] = { 1, 0, 0, 2, 0, 4 };
	static const size_t lengths[] = { 0, 1, 10, 50, 100, 250, 300 };

	*value = data_of(NUMBER(2), 300);
	if (!strcmp(name, "security.capability")) {
		*value = capability;
		return sizeof(capability);
	}
	return PICK(3, lengths);
}

static const int attribute_flags[] = { 0, 0, 0, XATTR_CREATE, XATTR_REPLACE };

static void op_setxattr(struct side *side, const struct op *op, struct result *result)
{
	const char *name = PICK(0, attribute_names), *value;
	size_t length = attribute_value(op, name, &value);
	int flags = PICK(1, attribute_flags);

	note(result, "%s %s %zu flags %d", NUMBER(4) % 4 ? op->path[0] : "(slot)", name, length, flags);
	if (NUMBER(4) % 4 == 0)
		done(result, fsetxattr(FD(0), name, value, length, flags));
	else
		done(result, NUMBER(5) % 2 ? setxattr(op->path[0], name, value, length, flags) :
					     lsetxattr(op->path[0], name, value, length, flags));
}

static void op_getxattr(struct side *side, const struct op *op, struct result *result)
{
	const char *name = NUMBER(1) % 8  ? PICK(0, attribute_names) :
			   NUMBER(1) % 16 ? "system.posix_acl_access" :
					    "system.posix_acl_default";
	size_t room = NUMBER(2) % 4 ? 4096 : NUMBER(2) % 200;

	(void)side;
	note(result, "%s %s", op->path[0], name);
	done(result, getxattr(op->path[0], name, data_room(), room));
	if (result->value > 0 && room)
		result->digest = digest_add(0, data_room(), (size_t)result->value);
}

static void op_removexattr(struct side *side, const struct op *op, struct result *result)
{
	const char *name = NUMBER(1) % 5 ? PICK(0, attribute_names) :
			   NUMBER(1) % 2 ? "system.posix_acl_access" :
					   "system.posix_acl_default";

	(void)side;
	note(result, "%s %s", op->path[0], name);
	done(result, removexattr(op->path[0], name));
}

/* struct posix_acl_xattr_header and _entry, all little-endian: linux/posix_acl_xattr.h */
static void op_acl(struct side *side, const struct op *op, struct result *result)
{
	struct {
		uint32_t version;
		struct {
			uint16_t tag, permissions;
			uint32_t id;
		} entry[8];
	} acl = { .version = 2 };
	const char *name = NUMBER(0) % 3 ? "system.posix_acl_access" : "system.posix_acl_default";
	unsigned n = 0, named;

#define ENTRY(t, number, i)                                                                                            \
	(acl.entry[n].tag = (t), acl.entry[n].permissions = (uint16_t)((number) % 8), acl.entry[n].id = (uint32_t)(i), \
	 n++)
	(void)side;
	ENTRY(1, NUMBER(1), -1);
	named = NUMBER(2) % 3;
	if (named)
		ENTRY(2, NUMBER(2) >> 8, 1001);
	if (named == 2)
		ENTRY(2, NUMBER(2) >> 16, 1002);
	ENTRY(4, NUMBER(1) >> 8, -1);
	if (NUMBER(3) % 3 == 0)
		ENTRY(8, NUMBER(3) >> 8, 2002), named = 1;
	if (named ? NUMBER(4) % 16 != 0 : NUMBER(4) % 4 == 0)
		ENTRY(16, NUMBER(4) >> 8, -1);
	if (NUMBER(5) % 32)
		ENTRY(32, NUMBER(5) >> 8, -1);
	note(result, "%s %s %u entries %o", op->path[0], name, n,
	     (unsigned)(acl.entry[0].permissions << 6 | acl.entry[1].permissions << 3 | acl.entry[n - 1].permissions));
	done(result, setxattr(op->path[0], name, &acl, 4 + n * 8, 0));
}

static void op_flags(struct side *side, const struct op *op, struct result *result)
{
	static const unsigned wanted[] = { 0, 0, FS_NODUMP_FL, FS_NOATIME_FL, FS_SYNC_FL, FS_NODUMP_FL | FS_SYNC_FL };
	const unsigned known = FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL | FS_IMMUTABLE_FL | FS_APPEND_FL;
	unsigned flags = 0, now = 0, change = PICK(0, wanted);

	note(result, "slot %u flags %x", op->slot[0], change);
	done(result, ioctl(FD(0), FS_IOC_GETFLAGS, &flags));
	if (result->value)
		return;
	result->digest = flags & known;
	flags = (flags & ~known) | change;
	done(result, ioctl(FD(0), FS_IOC_SETFLAGS, &flags));
	if (ioctl(FD(0), FS_IOC_GETFLAGS, &now) == 0)
		result->digest = digest_add(result->digest, &(unsigned){ now & known }, sizeof(unsigned));
}

static const struct {
	const char *name;
	unsigned weight, paths;
	void (*run)(struct side *side, const struct op *op, struct result *result);
} table[] = {
	{ "open", 20, 1, op_open },
	{ "close", 3, 0, op_close },
	{ "pwrite", 10, 0, op_pwrite },
	{ "write", 4, 0, op_write },
	{ "pread", 8, 0, op_pread },
	{ "read", 3, 0, op_read },
	{ "lseek", 2, 0, op_lseek },
	{ "ftruncate", 4, 0, op_ftruncate },
	{ "truncate", 3, 1, op_truncate },
	{ "fallocate", 5, 0, op_fallocate },
	{ "copy_file_range", 4, 0, op_copy },
	{ "sendfile", 1, 0, op_sendfile },
	{ "mmap", 4, 0, op_mmap },
	{ "fsync", 1, 0, op_fsync },
	{ "forget", 1, 0, op_forget },
	{ "mkdir", 4, 1, op_mkdir },
	{ "rmdir", 3, 1, op_rmdir },
	{ "unlink", 5, 1, op_unlink },
	{ "rename", 8, 2, op_rename },
	{ "link", 5, 2, op_link },
	{ "link an open file", 2, 1, op_link_open },
	{ "symlink", 3, 1, op_symlink },
	{ "readlink", 2, 1, op_readlink },
	{ "mknod", 3, 1, op_mknod },
	{ "chmod", 4, 1, op_chmod },
	{ "fchmod", 2, 0, op_fchmod },
	{ "chown", 4, 1, op_chown },
	{ "fchown", 2, 0, op_fchown },
	{ "utimensat", 4, 1, op_utimens },
	{ "futimens", 2, 0, op_futimens },
	{ "access", 3, 1, op_access },
	{ "getdents", 2, 1, op_list },
	{ "setxattr", 5, 1, op_setxattr },
	{ "getxattr", 3, 1, op_getxattr },
	{ "removexattr", 2, 1, op_removexattr },
	{ "ACL", 4, 1, op_acl },
	{ "flags", 1, 0, op_flags },
};

unsigned op_kinds(void)
{
	return sizeof(table) / sizeof(*table);
}

const char *op_name(unsigned kind)
{
	return table[kind].name;
}

unsigned op_weight(unsigned kind)
{
	return table[kind].weight;
}

unsigned op_paths(unsigned kind)
{
	return table[kind].paths;
}

bool op_makes_folder(unsigned kind)
{
	return table[kind].run == op_mkdir;
}

bool op_opens(unsigned kind)
{
	return table[kind].run == op_open;
}

/* Effective ids only: root comes back by them. */
static void become(unsigned user)
{
	if (user == 0 && (seteuid(0) || setegid(0)))
		die("seteuid");
	if (setgroups(users[user].group_count, users[user].groups))
		die("setgroups");
	if (user && (setegid(users[user].gid) || seteuid(users[user].uid)))
		die("seteuid");
}

void op_run(struct side *side, const struct op *op, struct result *result)
{
	memset(result, 0, sizeof(*result));
	if (fchdir(side->root))
		die("fchdir");
	if (op->user)
		become(op->user);
	errno = 0;
	table[op->kind].run(side, op, result);
	if (op->user)
		become(0);
}
