/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extended attributes: listing and removing. Reading is in fuse_ops_frequent.c, setting in fuse_ops_raw.c.
 *
 * The kernel checks who may do what to which namespace, with one exception: it passes a list on as it is. So the names
 * of trusted attributes are left out here for everybody but the administrator, as ext4 does.
 *
 * Long values have blocks of their own. The kernel thinks of the change time only when it has changed an attribute, and would
 * keep st_blocks of a regular file as it was; so it is told before the reply.
 */
#include "fuse_front.h"

#include <errno.h>
#include <string.h>

static bool is_trusted(const char *name)
{
	return strncmp(name, "trusted.", 8) == 0;
}

static bool has_trusted(const char *list, size_t length)
{
	for (size_t at = 0; at < length; at += strnlen(list + at, length - at) + 1)
		if (is_trusted(list + at))
			return true;
	return false;
}

/* Returns the new length. */
static size_t hide_trusted(char *list, size_t length)
{
	size_t kept = 0;

	for (size_t at = 0; at < length;) {
		size_t size = strnlen(list + at, length - at) + 1;
		if (!is_trusted(list + at)) {
			memmove(list + kept, list + at, size);
			kept += size;
		}
		at += size;
	}
	return kept;
}

static void operation_listxattr(fuse_req_t request, fuse_ino_t ino, size_t size)
{
	char *list = session_scratch();
	int length = ash_listxattr(request_front(request)->volume, ino, list, FRONT_XATTR_LIMIT);

	if (length < 0) {
		fuse_reply_err(request, length == -ERANGE ? E2BIG : -length);
		return;
	}
	size_t visible = (size_t)length;
	/* To know the caller costs more than the list: it is asked for where it matters. */
	if (has_trusted(list, visible) && !caller_is_administrator(request))
		visible = hide_trusted(list, visible);
	if (size == 0)
		fuse_reply_xattr(request, visible);
	else if (visible > size)
		fuse_reply_err(request, ERANGE);
	else
		fuse_reply_buf(request, list, visible);
}

uint64_t xattr_blocks(struct front *front, uint64_t ino)
{
	struct ash_attr attr;

	return ash_getattr(front->volume, ino, &attr) ? 0 : attr.blocks;
}

void xattr_blocks_tell(struct front *front, uint64_t ino, uint64_t before)
{
	if (xattr_blocks(front, ino) != before)
		notify_attributes_now(front, ino);
}

static void operation_removexattr(fuse_req_t request, fuse_ino_t ino, const char *name)
{
	struct front *front = request_front(request);
	uint64_t before = xattr_blocks(front, ino);
	int rc = ash_removexattr(front->volume, ino, name);

	xattr_blocks_tell(front, ino, before);
	fuse_reply_err(request, -rc);
}

void ops_xattr_fill(struct fuse_lowlevel_ops *ops)
{
	ops->listxattr = operation_listxattr;
	ops->removexattr = operation_removexattr;
}
