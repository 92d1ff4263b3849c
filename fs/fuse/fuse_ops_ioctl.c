/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ioctl(2): chattr flags, in both shapes that the kernel uses, FITRIM, and steps of a scrub.
 *
 * The kernel has checked who may set which flag (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR reach us through its own
 * fileattr calls). It does not learn that the change time moved, so it is told before the reply. FITRIM and the scrub
 * come unchecked: they are root's. The scrub's structure is the caller's memory: ash_scrub() trusts nothing in it.
 */
#include "fuse_front.h"

#include <ashlar/format.h>
#include <ashlar/scrub.h>
#include <errno.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

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

static void change_flags(fuse_req_t request, struct front *front, uint64_t ino, bool extended, const void *in,
			 size_t size)
{
	struct fsxattr wide;
	uint32_t flags;
	int rc = 0;

	if (size < (extended ? sizeof(wide) : sizeof(flags))) {
		fuse_reply_err(request, EINVAL);
		return;
	}
	if (extended) {
		memcpy(&wide, in, sizeof(wide));
		/* What chattr(1) cannot say there is no place for: extent size hints, project numbers. */
		rc = wide.fsx_extsize || wide.fsx_projid || wide.fsx_cowextsize ?
			     -EOPNOTSUPP :
			     flags_from_xflags(wide.fsx_xflags, &flags);
	} else {
		memcpy(&flags, in, sizeof(flags));
	}
	if (rc == 0)
		rc = set_flags(front, ino, flags);
	if (rc)
		fuse_reply_err(request, -rc);
	else
		fuse_reply_ioctl(request, 0, NULL, 0);
}

static void trim(fuse_req_t request, struct front *front, const void *in, size_t in_size, size_t out_size)
{
	struct fstrim_range range;
	uint64_t trimmed = 0;

	if (fuse_req_ctx(request)->uid != 0 || in_size < sizeof(range) || out_size < sizeof(range)) {
		fuse_reply_err(request, fuse_req_ctx(request)->uid != 0 ? EPERM : EINVAL);
		return;
	}
	memcpy(&range, in, sizeof(range));
	int rc = ash_trim(front->volume, range.start, range.len, range.minlen, &trimmed);
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

	if (fuse_req_ctx(request)->uid != 0 || in_size < sizeof(step) || out_size < sizeof(step)) {
		fuse_reply_err(request, fuse_req_ctx(request)->uid != 0 ? EPERM : EINVAL);
		return;
	}
	memcpy(&step, in, sizeof(step));
	rc = ash_scrub(front->volume, &step);
	if (rc)
		fuse_reply_err(request, -rc);
	else
		fuse_reply_ioctl(request, 0, &step, sizeof(step));
}

static void operation_ioctl(fuse_req_t request, fuse_ino_t ino, unsigned command, void *argument,
			    struct fuse_file_info *file, unsigned flags, const void *in, size_t in_size,
			    size_t out_size)
{
	struct front *front = request_front(request);

	(void)argument;
	(void)file;
	(void)flags;
	switch (command) {
	case FS_IOC_GETFLAGS:
	case FS_IOC32_GETFLAGS:
		reply_flags(request, front, ino, false, out_size);
		break;
	case FS_IOC_FSGETXATTR:
		reply_flags(request, front, ino, true, out_size);
		break;
	case FS_IOC_SETFLAGS:
	case FS_IOC32_SETFLAGS:
		change_flags(request, front, ino, false, in, in_size);
		break;
	case FS_IOC_FSSETXATTR:
		change_flags(request, front, ino, true, in, in_size);
		break;
	case FITRIM:
		trim(request, front, in, in_size, out_size);
		break;
	case ASH_IOC_SCRUB:
		scrub(request, front, in, in_size, out_size);
		break;
	default:
		fuse_reply_err(request, ENOTTY);
	}
}

void ops_ioctl_fill(struct fuse_lowlevel_ops *ops)
{
	ops->ioctl = operation_ioctl;
}
