/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ioctl(2): chattr flags, in both shapes that the kernel uses, generation, FITRIM, steps of a scrub, and remounts.
 *
 * The kernel has checked who may set which flag (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR reach us through its own
 * fileattr calls). It does not learn that the change time moved, so it is told before the reply. Setting flags is a
 * handler of our own, since before a file becomes immutable the kernel must write back its pages. FITRIM, the scrub and
 * the remount come unchecked: they are the administrator's, root's with CAP_SYS_ADMIN. The scrub's structure is the
 * caller's memory: ash_scrub() trusts nothing in it.
 */
#include "fuse_front.h"
#include "fuse_remount.h"

#include <ashlar/format.h>
#include <ashlar/scrub.h>
#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static const struct {
	uint32_t flag, xflag;
} flag_pairs[] = {
	{ ASH_INODE_SYNC, FS_XFLAG_SYNC },       { ASH_INODE_IMMUTABLE, FS_XFLAG_IMMUTABLE },
	{ ASH_INODE_APPEND, FS_XFLAG_APPEND },   { ASH_INODE_NODUMP, FS_XFLAG_NODUMP },
	{ ASH_INODE_NOATIME, FS_XFLAG_NOATIME },
};
#define FLAG_PAIRS (sizeof(flag_pairs) / sizeof(flag_pairs[0]))

/* -EOPNOTSUPP for an xflag that has no flag. */
static int flags_from_xflags(uint32_t xflags, uint32_t *flags)
{
	*flags = 0;
	for (size_t i = 0; i < FLAG_PAIRS; i++) {
		if (xflags & flag_pairs[i].xflag)
			*flags |= flag_pairs[i].flag;
		xflags &= ~flag_pairs[i].xflag;
	}
	return xflags & ~(uint32_t)FS_XFLAG_HASATTR ? -EOPNOTSUPP : 0;
}

static uint32_t xflags_from_flags(uint32_t flags)
{
	uint32_t xflags = 0;

	for (size_t i = 0; i < FLAG_PAIRS; i++)
		if (flags & flag_pairs[i].flag)
			xflags |= flag_pairs[i].xflag;
	return xflags;
}

static int set_flags(struct front *front, uint64_t ino, uint32_t flags)
{
	struct ash_setattr change = { .valid = ASH_SET_FLAGS, .flags = flags };

	if (flags & ~(uint32_t)ASH_INODE_USER_FLAGS)
		return -EOPNOTSUPP;
	int rc = ash_setattr(front->volume, ino, &change, NULL);
	if (rc == 0)
		notify_attributes_now(front, ino);
	return rc;
}

static void reply_flags(fuse_req_t request, struct front *front, uint64_t ino, bool extended, size_t out_size)
{
	struct ash_attr attr;
	struct fsxattr wide = { 0 };
	int rc = ash_getattr(front->volume, ino, &attr);
	size_t size = extended ? sizeof(wide) : sizeof(attr.flags);

	if (rc || out_size < size) {
		fuse_reply_err(request, rc ? -rc : EINVAL);
		return;
	}
	attr.flags &= ASH_INODE_USER_FLAGS;
	wide.fsx_xflags = xflags_from_flags(attr.flags);
	fuse_reply_ioctl(request, 0, extended ? (void *)&wide : (void *)&attr.flags, size);
}

static int wanted_flags(bool extended, const void *in, size_t size, uint32_t *flags)
{
	struct fsxattr wide;

	if (size < (extended ? sizeof(wide) : sizeof(*flags)))
		return -EINVAL;
	if (!extended) {
		memcpy(flags, in, sizeof(*flags));
		return 0;
	}
	memcpy(&wide, in, sizeof(wide));
	/* What chattr(1) cannot say there is no place for: extent size hints, project numbers. */
	if (wide.fsx_extsize || wide.fsx_projid || wide.fsx_cowextsize)
		return -EOPNOTSUPP;
	return flags_from_xflags(wide.fsx_xflags, flags);
}

static void change_flags(struct request *request)
{
	const struct fuse_ioctl_out out = { .result = 0 };
	int rc = set_flags(request->front, request->nodeid, request->inode_flags);

	if (rc)
		reply_error(request, rc);
	else
		reply_data(request, &out, sizeof(out));
}

static void drop_pages_and_change_flags(struct request *request)
{
	notify_pages_write_back(request->front, request->nodeid, 0, 0);
	change_flags(request);
	request_finish(request);
}

/*
 * Of an immutable file no data is taken any more: also what the kernel holds now would be refused. Pages of a file that
 * is or was append-only are stale where appends do not drop them.
 */
static bool pages_must_go(const struct request *request)
{
	struct ash_attr attr;
	uint32_t changed;

	if (ash_getattr(request->front->volume, request->nodeid, &attr) || !S_ISREG(attr.mode))
		return false;
	changed = attr.flags ^ request->inode_flags;
	if (changed & request->inode_flags & ASH_INODE_IMMUTABLE)
		return true;
	return changed & ASH_INODE_APPEND && !front_direct_writes_drop_pages(request->front);
}

bool raw_ioctl(struct request *request)
{
	const struct fuse_ioctl_in *in = request_argument(request, struct fuse_ioctl_in);

	if (!in)
		return false;
	bool extended = in->cmd == FS_IOC_FSSETXATTR;
	/*
	 * FS_IOC32_SETFLAGS is no call of 32-bit programs, which the kernel translates, but one that it has not
	 * checked.
	 */
	if (!extended && in->cmd != FS_IOC_SETFLAGS) {
		session_pass(request);
		return false;
	}
	int rc = in->in_size > request->argument_length - sizeof(*in) ?
			 -EINVAL :
			 wanted_flags(extended, in + 1, in->in_size, &request->inode_flags);
	if (rc) {
		reply_error(request, rc);
		return false;
	}
	if (pages_must_go(request)) {
		notify_later(request, drop_pages_and_change_flags);
		return true;
	}
	change_flags(request);
	return false;
}

/* The half of the generation that file handles have. */
static void reply_version(fuse_req_t request, struct front *front, uint64_t ino, size_t out_size)
{
	struct ash_attr attr;
	int rc = ash_getattr(front->volume, ino, &attr);
	uint32_t version = rc ? 0 : (uint32_t)attr.generation;

	if (rc || out_size < sizeof(version))
		fuse_reply_err(request, rc ? -rc : EINVAL);
	else
		fuse_reply_ioctl(request, 0, &version, sizeof(version));
}

static bool trim_stops(void *request)
{
	return caller_is_killed(fuse_req_ctx(request)->pid);
}

static void trim(fuse_req_t request, struct front *front, const void *in, size_t in_size, size_t out_size)
{
	struct fstrim_range range;
	uint64_t trimmed = 0;

	if (in_size < sizeof(range) || out_size < sizeof(range)) {
		fuse_reply_err(request, EINVAL);
		return;
	}
	memcpy(&range, in, sizeof(range));
	/* As ext4: a range or a least length that no free space can have. */
	if (range.len < ASH_BLOCK_SIZE || range.minlen / ASH_BLOCK_SIZE > ASH_BLOCKS_PER_GROUP) {
		fuse_reply_err(request, EINVAL);
		return;
	}
	int rc = ash_trim_until(front->volume, range.start, range.len, range.minlen, trim_stops, request, &trimmed);
	range.len = trimmed;
	if (rc)
		fuse_reply_err(request, -rc);
	else
		fuse_reply_ioctl(request, 0, &range, sizeof(range));
}

static void scrub(fuse_req_t request, struct front *front, const void *in, size_t in_size, size_t out_size)
{
	struct ash_scrub step;
	int rc;

	if (in_size < sizeof(step) || out_size < sizeof(step)) {
		fuse_reply_err(request, EINVAL);
		return;
	}
	memcpy(&step, in, sizeof(step));
	rc = ash_scrub(front->volume, &step);
	if (rc)
		fuse_reply_err(request, -rc);
	else
		fuse_reply_ioctl(request, 0, &step, sizeof(step));
}

/*
 * The kernel has the flags already. Read-only is the kernel's to enforce, but for access times, which are ours. So
 * nothing but a read under way can write after the checkpoint.
 */
static int remount(struct front *front, unsigned long flags)
{
	struct ash_volume_info info;
	int rc = flags & ~REMOUNT_FLAGS ? -EINVAL : ash_volume_info(front->volume, &info);

	if (rc)
		return rc;
	if (info.read_only)
		return flags & MS_RDONLY ? 0 : -EROFS;
	ash_set_atime(front->volume, options_atime(flags), flags & MS_NODIRATIME);
	/* The kernel never changes dirsync, which is as sync to us. */
	ash_set_sync(front->volume, flags & MS_SYNCHRONOUS || front->options.mount_flags & MS_DIRSYNC);
	if (flags & MS_RDONLY)
		return ash_checkpoint(front->volume);
	return flags & MS_SYNCHRONOUS ? ash_sync(front->volume) : 0;
}

static void remount_reply(fuse_req_t request, struct front *front, const void *in, size_t in_size)
{
	uint64_t flags;

	if (in_size < sizeof(flags)) {
		fuse_reply_err(request, EINVAL);
		return;
	}
	memcpy(&flags, in, sizeof(flags));
	int rc = remount(front, flags);
	if (rc)
		fuse_reply_err(request, -rc);
	else
		fuse_reply_ioctl(request, 0, NULL, 0);
}

static bool is_administrators(unsigned command)
{
	return command == FITRIM || command == ASH_IOC_SCRUB || command == REMOUNT_IOCTL;
}

static void operation_ioctl(fuse_req_t request, fuse_ino_t ino, unsigned command, void *argument,
			    struct fuse_file_info *file, unsigned flags, const void *in, size_t in_size,
			    size_t out_size)
{
	struct front *front = request_front(request);

	(void)argument;
	(void)file;
	(void)flags;
	if (is_administrators(command) && !caller_is_administrator(request)) {
		fuse_reply_err(request, EPERM);
		return;
	}
	switch (command) {
	case FS_IOC_GETFLAGS:
	case FS_IOC32_GETFLAGS:
		reply_flags(request, front, ino, false, out_size);
		break;
	case FS_IOC_FSGETXATTR:
		reply_flags(request, front, ino, true, out_size);
		break;
	case FS_IOC_GETVERSION:
	case FS_IOC32_GETVERSION:
		reply_version(request, front, ino, out_size);
		break;
	case FITRIM:
		trim(request, front, in, in_size, out_size);
		break;
	case ASH_IOC_SCRUB:
		scrub(request, front, in, in_size, out_size);
		break;
	case REMOUNT_IOCTL:
		remount_reply(request, front, in, in_size);
		break;
	default:
		fuse_reply_err(request, ENOTTY);
	}
}

void ops_ioctl_fill(struct fuse_lowlevel_ops *ops)
{
	ops->ioctl = operation_ioctl;
}
