/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names and inodes: operations behind libfuse's low-level API. The most frequent ones are in fuse_ops_frequent.c.
 *
 * Each one is the same three steps: arguments into the core's terms, one call of the volume API, a reply. The kernel
 * checks permissions (default_permissions); consequences of ownership are the core's business.
 *
 * A call that answers an inode adds one to its lookup count. When the kernel does not take the reply (the caller was
 * killed) nobody will ever forget that inode: the count is taken back here.
 *
 * No state and no locks.
 */
#include "fuse_front.h"

#include <ashlar/format.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/statvfs.h>

struct front *request_front(fuse_req_t request)
{
	return fuse_req_userdata(request);
}

static struct ash_volume *request_volume(fuse_req_t request)
{
	return request_front(request)->volume;
}

static void reply_result(fuse_req_t request, int result)
{
	fuse_reply_err(request, -result);
}

static void attr_to_stat(const struct ash_attr *attr, struct stat *out)
{
	notify_attributes_answered(current_worker->front, attr->ino);
	*out = (struct stat){
		.st_ino = attr->ino,
		.st_mode = attr->mode,
		.st_nlink = attr->nlink,
		.st_uid = attr->uid,
		.st_gid = attr->gid,
		.st_rdev = attr->rdev,
		.st_size = (off_t)attr->size,
		.st_blksize = ASH_BLOCK_SIZE,
		.st_blocks = (blkcnt_t)attr->blocks,
		.st_atim = attr->atime,
		.st_mtim = attr->mtime,
		.st_ctim = attr->ctime,
	};
}

static void attr_to_entry(const struct ash_attr *attr, struct fuse_entry_param *out)
{
	*out = (struct fuse_entry_param){
		.ino = attr->ino,
		.generation = attr->generation,
		.attr_timeout = (double)full_validity(current_worker->front, attr->ino),
		.entry_timeout = FRONT_TIMEOUT_SECONDS,
	};
	attr_to_stat(attr, &out->attr);
}

static void reply_inode(fuse_req_t request, int result, const struct ash_attr *attr)
{
	struct ash_volume *volume = request_volume(request);
	struct fuse_entry_param entry;

	if (result) {
		reply_result(request, result);
		return;
	}
	attr_to_entry(attr, &entry);
	if (fuse_reply_entry(request, &entry))
		ash_forget(volume, attr->ino, 1);
}

/* ---- Inodes ---- */

static void operation_readlink(fuse_req_t request, fuse_ino_t ino)
{
	char *target = session_scratch();
	int length = ash_readlink(request_volume(request), ino, target, 4096);

	if (length < 0) {
		reply_result(request, length);
		return;
	}
	fuse_reply_buf(request, target, (size_t)(length < 4095 ? length : 4095));
}

/* ---- New names ---- */

static struct ash_create create_by_caller(fuse_req_t request, mode_t mode)
{
	const struct fuse_ctx *caller = fuse_req_ctx(request);

	return (struct ash_create){ .mode = mode, .umask = caller->umask, .uid = caller->uid, .gid = caller->gid };
}

static void operation_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name)
{
	struct ash_create create = create_by_caller(request, S_IFLNK | 0777);
	struct ash_attr attr;

	create.umask = 0;
	create.target = target;
	reply_inode(request, ash_create(request_volume(request), parent, name, &create, &attr), &attr);
}

static void operation_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
			     struct fuse_file_info *file)
{
	struct ash_volume *volume = request_volume(request);
	struct ash_create create = create_by_caller(request, (mode & ~(mode_t)S_IFMT) | S_IFREG);
	struct fuse_entry_param entry;
	struct ash_attr attr;
	int rc = ash_create(volume, parent, name, &create, &attr);

	if (rc) {
		reply_result(request, rc);
		return;
	}
	attr_to_entry(&attr, &entry);
	file->fh = 0;
	file->keep_cache = 1;
	if (fuse_reply_create(request, &entry, file))
		ash_forget(volume, attr.ino, 1);
}

static void operation_link(fuse_req_t request, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct ash_attr attr;

	reply_inode(request, ash_link(request_volume(request), ino, parent, name, &attr), &attr);
}

/* ---- Names that go or move ---- */

static void operation_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	reply_result(request, ash_rmdir(request_volume(request), parent, name, NULL));
}

static void operation_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
			     const char *new_name, unsigned flags)
{
	struct front *front = request_front(request);
	struct ash_volume *volume = front->volume;
	struct ash_attr replaced;
	/* The kernel holds both directories: the name stays what it is until the answer. */
	bool more_names = !(flags & (RENAME_EXCHANGE | RENAME_NOREPLACE)) &&
			  ash_lookup(volume, new_parent, new_name, &replaced) == 0;

	if (more_names)
		ash_forget(volume, replaced.ino, 1);
	more_names = more_names && !S_ISDIR(replaced.mode) && replaced.nlink > 1;
	bool others = crew_others(front);
	const struct fuse_ctx *caller = fuse_req_ctx(request);
	int rc = flags & RENAME_WHITEOUT ?
			 ash_rename_whiteout(volume, parent, name, new_parent, new_name,
					     flags & ~(unsigned)RENAME_WHITEOUT, caller->uid, caller->gid) :
			 ash_rename(volume, parent, name, new_parent, new_name, flags);
	if (rc == 0 && more_names)
		notify_links_changed(front, replaced.ino, others);
	reply_result(request, rc);
}

/* ---- Files ---- */

static void operation_release(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *file)
{
	(void)ino;
	(void)file;
	reply_result(request, 0);
}

static void operation_fallocate(fuse_req_t request, fuse_ino_t ino, int mode, off_t offset, off_t length,
				struct fuse_file_info *file)
{
	(void)file;
	if (offset < 0 || length <= 0)
		reply_result(request, -EINVAL);
	else
		reply_result(request,
			     ash_fallocate(request_volume(request), ino, mode, (uint64_t)offset, (uint64_t)length));
}

/* FIBMAP: in units of `block_size`, which is ours unless the mount was told otherwise. */
static void operation_bmap(fuse_req_t request, fuse_ino_t ino, size_t block_size, uint64_t index)
{
	uint64_t block = 0;

	if (block_size == 0 || ASH_BLOCK_SIZE % block_size) {
		reply_result(request, -EINVAL);
		return;
	}
	uint64_t ratio = ASH_BLOCK_SIZE / block_size;
	int rc = ash_bmap(request_volume(request), ino, index / ratio, &block);
	if (rc)
		reply_result(request, rc);
	else
		fuse_reply_bmap(request, block ? block * ratio + index % ratio : 0);
}

static void operation_statfs(fuse_req_t request, fuse_ino_t ino)
{
	struct ash_statfs volume;
	int rc = ash_statfs(request_volume(request), &volume);

	(void)ino;
	if (rc) {
		reply_result(request, rc);
		return;
	}
	struct statvfs reply = {
		.f_bsize = volume.block_size,
		.f_frsize = volume.block_size,
		.f_blocks = volume.blocks,
		.f_bfree = volume.free_blocks,
		.f_bavail = volume.available_blocks,
		.f_files = volume.inodes,
		.f_ffree = volume.free_inodes,
		.f_namemax = volume.name_max,
	};
	fuse_reply_statfs(request, &reply);
}

void ops_fill(struct fuse_lowlevel_ops *ops)
{
	ops->readlink = operation_readlink;
	ops->symlink = operation_symlink;
	ops->create = operation_create;
	ops->link = operation_link;
	ops->rmdir = operation_rmdir;
	ops->rename = operation_rename;
	ops->release = operation_release;
	ops->fallocate = operation_fallocate;
	ops->bmap = operation_bmap;
	ops->statfs = operation_statfs;
}
