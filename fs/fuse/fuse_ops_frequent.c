/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The requests of which there are most, without the way through libfuse: four of the five that a new small file costs,
 * and what comes when it goes. libfuse's way is two locks, an allocation and a second copy of the attributes for each;
 * nothing of it is needed, since INTERRUPT is not answered and replies go out at once. A small request (getxattr of a name
 * that is not there, mounts in turn) takes 0.90 of the time without it.
 *
 * A call that answers an inode adds one to its lookup count, which is taken back when the kernel does not take the reply.
 *
 * No state and no locks.
 */
#include "fuse_front.h"

#include <errno.h>
#include <sys/stat.h>

/* ---- Names and attributes ---- */

static void reply_entry(struct request *request, const struct ash_attr *attr)
{
	struct fuse_entry_out out;

	attr_to_fuse_entry(attr, &out);
	if (reply_data(request, &out, sizeof(out)))
		ash_forget(request->front->volume, attr->ino, 1);
}

bool raw_lookup(struct request *request)
{
	/* Inode 0: there is no such name, and the kernel may remember that. */
	static const struct fuse_entry_out absent = { .entry_valid = FRONT_TIMEOUT_SECONDS };
	const char *name = request_name(request, 0);
	struct ash_attr attr;

	if (!name)
		return false;
	int rc = ash_lookup(request->front->volume, request->nodeid, name, &attr);
	if (rc == -ENOENT)
		reply_data(request, &absent, sizeof(absent));
	else if (rc)
		reply_error(request, rc);
	else
		reply_entry(request, &attr);
	return false;
}

bool raw_getattr(struct request *request)
{
	struct ash_attr attr;
	int rc = full_empty(request->front) ? 0 : full_write_error(request);

	if (rc == 0)
		rc = ash_getattr(request->front->volume, request->nodeid, &attr);
	return reply_attributes(request, rc, &attr);
}

/* ---- Names that come and go ---- */

static bool create_and_reply(struct request *request, const char *name, struct ash_create *create)
{
	struct ash_attr attr;

	create->uid = request->in->uid;
	create->gid = request->in->gid;
	int rc = ash_create(request->front->volume, request->nodeid, name, create, &attr);
	if (rc)
		reply_error(request, rc);
	else
		reply_entry(request, &attr);
	return false;
}

bool raw_mknod(struct request *request)
{
	const struct fuse_mknod_in *in = request_argument(request, struct fuse_mknod_in);
	const char *name = in ? request_name(request, sizeof(*in)) : NULL;

	if (!name)
		return false;
	struct ash_create create = { .mode = in->mode & S_IFMT ? in->mode : in->mode | S_IFREG,
				     .umask = in->umask,
				     .rdev = in->rdev };
	return create_and_reply(request, name, &create);
}

bool raw_mkdir(struct request *request)
{
	const struct fuse_mkdir_in *in = request_argument(request, struct fuse_mkdir_in);
	const char *name = in ? request_name(request, sizeof(*in)) : NULL;

	if (!name)
		return false;
	struct ash_create create = { .mode = (in->mode & ~(uint32_t)S_IFMT) | S_IFDIR, .umask = in->umask };
	return create_and_reply(request, name, &create);
}

bool raw_unlink(struct request *request)
{
	struct ash_volume *volume = request->front->volume;
	const char *name = request_name(request, 0);
	struct ash_attr attr;
	uint64_t removed;

	if (!name)
		return false;
	bool others = crew_others(request->front);
	int rc = ash_unlink(volume, request->nodeid, name, &removed);
	if (rc == 0 && ash_getattr(volume, removed, &attr) == 0 && attr.nlink > 0)
		notify_links_changed(request->front, removed, others);
	reply_error(request, rc);
	return false;
}

/* No reply is wanted. */
bool raw_forget(struct request *request)
{
	const struct fuse_forget_in *in = request->argument;

	if (request->argument_length < sizeof(*in))
		return false;
	full_forget(request->front, request->nodeid);
	ash_forget(request->front->volume, request->nodeid, in->nlookup);
	return false;
}

bool raw_batch_forget(struct request *request)
{
	const struct fuse_batch_forget_in *in = request->argument;
	const struct fuse_forget_one *one = (const void *)(in + 1);

	if (request->argument_length < sizeof(*in))
		return false;
	size_t room = (request->argument_length - sizeof(*in)) / sizeof(*one);
	for (size_t i = 0; i < in->count && i < room; i++) {
		full_forget(request->front, one[i].nodeid);
		ash_forget(request->front->volume, one[i].nodeid, one[i].nlookup);
	}
	return false;
}

/* ---- Files and directories ---- */

bool raw_fsync(struct request *request)
{
	const struct fuse_fsync_in *in = request_argument(request, struct fuse_fsync_in);

	if (!in)
		return false;
	full_forget(request->front, request->nodeid);
	return sync_serve(request, in->fsync_flags & FUSE_FSYNC_FDATASYNC ? ASH_FSYNC_DATA : 0);
}

/* The kernel checks who may read which namespace. */
bool raw_getxattr(struct request *request)
{
	const struct fuse_getxattr_in *in = request_argument(request, struct fuse_getxattr_in);
	const char *name = in ? request_name(request, sizeof(*in)) : NULL;
	void *value = session_scratch();

	if (!name)
		return false;
	uint32_t size = in->size < FRONT_XATTR_LIMIT ? in->size : FRONT_XATTR_LIMIT;
	int length = ash_getxattr(request->front->volume, request->nodeid, name, size ? value : NULL, size);
	if (length < 0) {
		reply_error(request, length);
	} else if (size) {
		reply_data(request, value, (size_t)length);
	} else {
		struct fuse_getxattr_out out = { .size = (uint32_t)length };
		reply_data(request, &out, sizeof(out));
	}
	return false;
}
