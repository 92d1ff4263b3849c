/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * READDIR and READDIRPLUS; handlers of our own, since libfuse drops the flags of the open folder (O_NOATIME).
 *
 * The reply is built in the scratch memory of the request by the core's callback, which runs under the
 * directory's lock and so does nothing but format. Positions are the core's (keys of entries), so that nothing is
 * kept between two requests.
 *
 * READDIRPLUS gives a lookup count for every entry but "." and ".."; when the reply is not taken, or an entry did not
 * fit, the counts go back.
 */
#include "fuse_front.h"

#include <fcntl.h>
#include <string.h>

struct listing {
	char *buffer;
	size_t size, used;
};

static bool is_dot(const char *name, size_t length)
{
	return name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'));
}

static int emit_plain(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		      const struct ash_attr *attr)
{
	struct listing *listing = context;
	struct fuse_dirent *entry = (void *)(listing->buffer + listing->used);
	size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length);

	(void)attr;
	if (listing->used + size > listing->size)
		return 1;
	*entry = (struct fuse_dirent){ .ino = ino, .off = next, .namelen = (uint32_t)length, .type = type };
	memcpy(entry->name, name, length);
	memset(entry->name + length, 0, size - FUSE_NAME_OFFSET - length);
	listing->used += size;
	return 0;
}

static int emit_plus(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		     const struct ash_attr *attr)
{
	struct listing *listing = context;
	struct fuse_direntplus *entry = (void *)(listing->buffer + listing->used);
	size_t size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + length);

	if (listing->used + size > listing->size)
		return 1;
	memset(entry, 0, size);
	entry->dirent = (struct fuse_dirent){ .ino = ino, .off = next, .namelen = (uint32_t)length, .type = type };
	memcpy(entry->dirent.name, name, length);
	/* Node 0: no lookup goes with this entry. */
	if (attr && !is_dot(name, length))
		attr_to_fuse_entry(attr, &entry->entry_out);
	listing->used += size;
	return 0;
}

static void forget_listing(struct front *front, const struct listing *listing)
{
	for (size_t at = 0; at < listing->used;) {
		const struct fuse_direntplus *entry = (const void *)(listing->buffer + at);
		if (entry->entry_out.nodeid)
			ash_forget(front->volume, entry->entry_out.nodeid, 1);
		at += FUSE_DIRENTPLUS_SIZE(entry);
	}
}

static bool list(struct request *request, bool plus)
{
	const struct fuse_read_in *in = request_argument(request, struct fuse_read_in);
	struct front *front = request->front;

	if (!in)
		return false;
	struct listing listing = { .buffer = session_scratch(),
				   .size = in->size < FRONT_SCRATCH_SIZE ? in->size : FRONT_SCRATCH_SIZE };
	int rc = ash_readdir_flags(front->volume, request->nodeid, in->offset, plus,
				   in->flags & O_NOATIME ? ASH_READ_NO_ATIME : 0, plus ? emit_plus : emit_plain,
				   &listing);

	/* An error behind some entries is met again at the next request, which starts there. */
	if (rc < 0 && listing.used == 0)
		reply_error(request, rc);
	else if (reply_data(request, listing.buffer, listing.used) && plus)
		forget_listing(front, &listing);
	return false;
}

bool raw_readdir(struct request *request)
{
	return list(request, false);
}

bool raw_readdirplus(struct request *request)
{
	return list(request, true);
}

static void operation_releasedir(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *file)
{
	(void)ino;
	(void)file;
	fuse_reply_err(request, 0);
}

void ops_directory_fill(struct fuse_lowlevel_ops *ops)
{
	ops->releasedir = operation_releasedir;
}
