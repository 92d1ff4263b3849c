/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Handlers of our own for requests that libfuse 3.14 does not know or whose flags it drops.
 *
 * The duties of HANDLE_KILLPRIV_V2: the kernel leaves the clearing of set-user-id, set-group-id and security.capability
 * to us. The capability goes on every write, truncation and chown (the core does that). The mode bits go on
 * chown always, and on write and truncation when the request says so (the caller has no CAP_FSETID).
 *
 * OPEN is answered by ENOSYS, and the kernel does not ask again, unless some inode of the volume may be immutable or
 * append-only (chattr): the kernel does not know about these, so then each OPEN is checked here.
 *
 * No state and no locks.
 */
#include "fuse_front.h"
#include "fuse_protocol.h"

#include <ashlar/format.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/sysmacros.h>

void attr_to_fuse(const struct ash_attr *attr, struct fuse_attr *out)
{
	notify_attributes_answered(current_worker->front, attr->ino);
	*out = (struct fuse_attr){
		.ino = attr->ino,
		.size = attr->size,
		.blocks = attr->blocks,
		.atime = (uint64_t)attr->atime.tv_sec,
		.mtime = (uint64_t)attr->mtime.tv_sec,
		.ctime = (uint64_t)attr->ctime.tv_sec,
		.atimensec = (uint32_t)attr->atime.tv_nsec,
		.mtimensec = (uint32_t)attr->mtime.tv_nsec,
		.ctimensec = (uint32_t)attr->ctime.tv_nsec,
		.mode = attr->mode,
		.nlink = attr->nlink,
		.uid = attr->uid,
		.gid = attr->gid,
		.rdev = (uint32_t)attr->rdev,
		.blksize = ASH_BLOCK_SIZE,
	};
}

void attr_to_fuse_entry(const struct ash_attr *attr, struct fuse_entry_out *out)
{
	*out = (struct fuse_entry_out){
		.nodeid = attr->ino,
		.generation = attr->generation,
		.entry_valid = FRONT_TIMEOUT_SECONDS,
		.attr_valid = full_validity(current_worker->front, attr->ino),
	};
	attr_to_fuse(attr, &out->attr);
}

bool reply_attributes(struct request *request, int result, const struct ash_attr *attr)
{
	struct fuse_attr_out out = { 0 };

	if (result) {
		reply_error(request, result);
		return false;
	}
	out.attr_valid = full_validity(request->front, attr->ino);
	attr_to_fuse(attr, &out.attr);
	reply_data(request, &out, sizeof(out));
	return false;
}

/* ---- SETATTR ---- */

static void setattr_times(const struct fuse_setattr_in *in, struct ash_setattr *change)
{
	if (in->valid & FATTR_ATIME)
		change->valid |= in->valid & FATTR_ATIME_NOW ? ASH_SET_ATIME_NOW : ASH_SET_ATIME;
	if (in->valid & FATTR_MTIME)
		change->valid |= in->valid & FATTR_MTIME_NOW ? ASH_SET_MTIME_NOW : ASH_SET_MTIME;
	if (in->valid & FATTR_CTIME)
		change->valid |= ASH_SET_CTIME;
	change->atime = (struct timespec){ .tv_sec = (int64_t)in->atime, .tv_nsec = in->atimensec };
	change->mtime = (struct timespec){ .tv_sec = (int64_t)in->mtime, .tv_nsec = in->mtimensec };
	change->ctime = (struct timespec){ .tv_sec = (int64_t)in->ctime, .tv_nsec = in->ctimensec };
}

/* What a SETATTR means for set-user-ID, set-group-ID. */
enum privileges {
	PRIVILEGES_STAY,
	PRIVILEGES_GO,
	PRIVILEGES_GO_IF_OWNER, /* or root, else it is refused */
};

/*
 * A chown that changes nobody arrives with nothing valid, or for a regular file with the ctime alone, which the kernel
 * keeps under the writeback cache. The kernel lets anybody do it, but to clear the bits is the owner's.
 *
 * A regular file with nothing valid: the kernel has taken security.capability away for a write or is about to
 * allocate, punch or copy. The bits go too, unless the caller is privileged.
 */
static enum privileges setattr_privileges(const struct request *request, const struct fuse_setattr_in *in,
					  uint32_t mode)
{
	unsigned valid = in->valid & ~(unsigned)(FATTR_FH | FATTR_LOCKOWNER);

	if (valid & (FATTR_UID | FATTR_GID | FATTR_KILL_SUIDGID))
		return PRIVILEGES_GO;
	if (valid & ~(unsigned)FATTR_CTIME)
		return PRIVILEGES_STAY;
	if (valid || !S_ISREG(mode))
		return PRIVILEGES_GO_IF_OWNER;
	return request->in->uid ? PRIVILEGES_GO : PRIVILEGES_STAY;
}

static int setattr_kill(const struct request *request, const struct fuse_setattr_in *in, struct ash_setattr *change)
{
	struct ash_attr attr;

	if (in->valid & FATTR_MODE || setattr_privileges(request, in, 0) == PRIVILEGES_STAY)
		return 0;
	int rc = ash_getattr(request->front->volume, request->nodeid, &attr);
	if (rc || S_ISDIR(attr.mode))
		return rc;
	enum privileges what = setattr_privileges(request, in, attr.mode);
	bool stranger = request->in->uid && request->in->uid != attr.uid;
	bool outside = request_is_outside_group(request, attr.gid);
	bool plain = attr.mode & S_ISUID || (attr.mode & S_ISGID && attr.mode & S_IXGRP);
	if (what == PRIVILEGES_STAY || (!plain && !(attr.mode & S_ISGID && outside)))
		return 0;
	if (what == PRIVILEGES_GO_IF_OWNER && stranger)
		return plain ? -EPERM : 0; /* he may be in the group after all: nothing is to be cleared then */
	change->valid |= ASH_SET_KILL_SUIDGID | (outside ? ASH_SET_KILL_SGID : 0);
	return 0;
}

static int setattr_change(struct request *request, const struct fuse_setattr_in *in, struct ash_setattr *change)
{
	*change = (struct ash_setattr){ .mode = in->mode, .uid = in->uid, .gid = in->gid, .size = in->size };
	if (in->valid & FATTR_MODE)
		change->valid |= ASH_SET_MODE;
	if (in->valid & FATTR_UID)
		change->valid |= ASH_SET_UID;
	if (in->valid & FATTR_GID)
		change->valid |= ASH_SET_GID;
	if (in->valid & FATTR_SIZE)
		change->valid |= ASH_SET_SIZE;
	if (in->valid & FATTR_KILL_SUIDGID)
		change->valid |= ASH_SET_KILL_SUIDGID;
	setattr_times(in, change);
	return setattr_kill(request, in, change);
}

bool raw_setattr(struct request *request)
{
	const struct fuse_setattr_in *in = request_argument(request, struct fuse_setattr_in);
	struct ash_setattr change;
	struct ash_attr attr;

	if (!in)
		return false;
	int rc = setattr_change(request, in, &change);
	if (rc == 0)
		rc = ash_setattr(request->front->volume, request->nodeid, &change, &attr);
	if (rc == 0 && (in->valid & FATTR_SIZE))
		full_forget(request->front, request->nodeid);
	return reply_attributes(request, rc, &attr);
}

/* ---- STATX ---- */

static struct protocol_statx_time statx_time(struct timespec time)
{
	return (struct protocol_statx_time){ .seconds = time.tv_sec, .nanoseconds = (uint32_t)time.tv_nsec };
}

static void attr_to_statx(const struct ash_attr *attr, struct protocol_statx_out *out)
{
	notify_attributes_answered(current_worker->front, attr->ino);
	*out = (struct protocol_statx_out){
		.attr_valid = full_validity(current_worker->front, attr->ino),
		.mask = STATX_BASIC_STATS | STATX_BTIME,
		.blksize = ASH_BLOCK_SIZE,
		.nlink = attr->nlink,
		.uid = attr->uid,
		.gid = attr->gid,
		.mode = (uint16_t)attr->mode,
		.ino = attr->ino,
		.size = attr->size,
		.blocks = attr->blocks,
		.atime = statx_time(attr->atime),
		.btime = statx_time(attr->btime),
		.ctime = statx_time(attr->ctime),
		.mtime = statx_time(attr->mtime),
		.rdev_major = major(attr->rdev),
		.rdev_minor = minor(attr->rdev),
	};
}

bool raw_statx(struct request *request)
{
	struct protocol_statx_out out;
	struct ash_attr attr;
	int rc = ash_getattr(request->front->volume, request->nodeid, &attr);

	if (rc) {
		reply_error(request, rc);
		return false;
	}
	attr_to_statx(&attr, &out);
	reply_data(request, &out, sizeof(out));
	return false;
}

/* ---- OPEN ---- */

/* As the kernel's may_open() does for S_IMMUTABLE and S_APPEND. */
static int open_check(const struct ash_attr *attr, unsigned flags)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY;

	if ((attr->flags & ASH_INODE_IMMUTABLE) && (writes || (flags & O_TRUNC)))
		return -EPERM;
	if ((attr->flags & ASH_INODE_APPEND) && ((writes && !(flags & O_APPEND)) || (flags & O_TRUNC)))
		return -EPERM;
	return 0;
}

/*
 * O_APPEND can be taken back (F_SETFL, RWF_NOAPPEND), and a shared map writes anywhere: the kernel refuses neither, since
 * it does not know of S_APPEND. Past its cache every write comes here with its place, and there are no shared maps.
 * Before Linux 6.6 who reads has to go past it, too: where the end of the file was when he read first, he saw zeroes
 * later.
 */
static uint32_t open_answer(const struct front *front, const struct ash_attr *attr, unsigned flags)
{
	bool past_cache = (flags & O_ACCMODE) != O_RDONLY || !front_direct_writes_drop_pages(front);

	return FOPEN_KEEP_CACHE | ((attr->flags & ASH_INODE_APPEND) && past_cache ? FOPEN_DIRECT_IO : 0);
}

bool raw_open(struct request *request)
{
	const struct fuse_open_in *in = request_argument(request, struct fuse_open_in);
	struct fuse_open_out out = { 0 };
	struct ash_attr attr;

	if (!in)
		return false;
	if (!request->front->answers_open)
		return raw_unsupported(request);
	int rc = ash_getattr(request->front->volume, request->nodeid, &attr);
	if (rc == 0)
		rc = open_check(&attr, in->flags);
	if (rc) {
		reply_error(request, rc);
		return false;
	}
	out.open_flags = open_answer(request->front, &attr, in->flags);
	reply_data(request, &out, sizeof(out));
	return false;
}

/*
 * Positions in a directory are keys of entries, so reading one needs no state here. It is answered all the same: left
 * unanswered, the kernel caches listings (FOPEN_CACHE_DIR), and a reader that joins a cache which another one is still
 * filling is shown names that were removed before it began (kernel 6.18).
 */
bool raw_opendir(struct request *request)
{
	const struct fuse_open_out out = { .open_flags = 0 };

	reply_data(request, &out, sizeof(out));
	return false;
}

/* ---- TMPFILE ---- */

bool raw_tmpfile(struct request *request)
{
	const struct fuse_create_in *in = request_argument(request, struct fuse_create_in);
	struct ash_volume *volume = request->front->volume;
	struct ash_attr attr;

	if (!in)
		return false;
	struct ash_create create = { .mode = S_IFREG | (in->mode & ~(uint32_t)S_IFMT),
				     .umask = in->umask,
				     .uid = request->in->uid,
				     .gid = request->in->gid };
	int rc = ash_tmpfile(volume, request->nodeid, &create, &attr);
	if (rc) {
		reply_error(request, rc);
		return false;
	}
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} out = { .open = { .open_flags = FOPEN_KEEP_CACHE } };
	attr_to_fuse_entry(&attr, &out.entry);
	if (reply_data(request, &out, sizeof(out)))
		ash_forget(volume, attr.ino, 1);
	return false;
}

/* ---- SETXATTR, SYNCFS ---- */

bool raw_setxattr(struct request *request)
{
	const struct fuse_setxattr_in *in = request_argument(request, struct fuse_setxattr_in);
	const char *name = in ? request_name(request, sizeof(*in)) : NULL;

	if (!name)
		return false;
	size_t used = sizeof(*in) + strlen(name) + 1;
	if (in->size > request->argument_length - used) {
		reply_error(request, -EINVAL);
		return false;
	}
	int flags = (int)(in->flags & 3u); /* XATTR_CREATE, XATTR_REPLACE */
	if (in->setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID)
		flags |= ASH_XATTR_KILL_SGID;
	uint64_t before = xattr_blocks(request->front, request->nodeid);
	int rc = ash_setxattr(request->front->volume, request->nodeid, name, name + strlen(name) + 1, in->size, flags);
	xattr_blocks_tell(request->front, request->nodeid, before);
	reply_error(request, rc);
	return false;
}

bool raw_syncfs(struct request *request)
{
	return sync_serve(request, 0);
}
