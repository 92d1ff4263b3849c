/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A FUSE server that does nothing: the ceiling of compare.sh, where it is the filesystem "null".
 *
 * It negotiates what ashlarfs does, so the kernel sends it the same requests, and answers each at once with as little as
 * the kernel takes. What is left is what FUSE costs on this machine whoever serves: two switches, a read(2), a write(2)
 * and the kernel's own work for each request. One thread, which the caller of this program binds to one core together
 * with whoever uses the mount; a wake-up on another core takes longer (docs/DESIGN.md, 13).
 *
 * Nothing is kept. A name is there while the kernel remembers it; sizes, times and data are what the kernel has cached.
 * So creating, writing, a warm stat, fsync and unlink can be measured, and nothing that needs an answer from before.
 *
 * null_server DEVICE DIRECTORY: mounts DEVICE, of which nothing is read or written, and serves until it is unmounted.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_WRITE (1u << 20)
#define HEADERS 4096u
#define TIMEOUT_SECONDS 86400u
#define TYPE_BITS 4 /* of a node's number: S_IFMT of its mode */
#define OPCODE_SYNCFS 50u
/* As fuse_session.c asks for. */
#define FEATURES                                                                                                      \
	(FUSE_ASYNC_READ | FUSE_EXPORT_SUPPORT | FUSE_BIG_WRITES | FUSE_DONT_MASK | FUSE_HAS_IOCTL_DIR |              \
	 FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_WRITEBACK_CACHE | FUSE_PARALLEL_DIROPS | \
	 FUSE_POSIX_ACL | FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_HANDLE_KILLPRIV_V2 | FUSE_SETXATTR_EXT |        \
	 FUSE_ABORT_ERROR | FUSE_NO_OPEN_SUPPORT)

struct reply {
	struct fuse_out_header header;
	union {
		struct fuse_init_out init;
		struct fuse_entry_out entry;
		struct fuse_attr_out attr;
		struct fuse_write_out write;
		struct fuse_open_out open;
		struct fuse_statfs_out statfs;
	};
};

static uint64_t last_node; /* numbers given out */

static void fill_attr(struct fuse_attr *attr, uint64_t node)
{
	uint32_t type = node == FUSE_ROOT_ID ? S_IFDIR : (uint32_t)(node & ((1u << TYPE_BITS) - 1)) << 12;

	attr->ino = node;
	attr->mode = type | (type == S_IFREG ? 0644 : 0755);
	attr->nlink = type == S_IFDIR ? 2 : 1;
	attr->blksize = 4096;
}

static size_t answer_entry(struct reply *reply, uint64_t node)
{
	reply->entry.nodeid = node;
	reply->entry.entry_valid = reply->entry.attr_valid = TIMEOUT_SECONDS;
	if (node)
		fill_attr(&reply->entry.attr, node);
	return sizeof(reply->entry);
}

static size_t answer_new(struct reply *reply, uint32_t mode)
{
	uint32_t type = mode & S_IFMT;

	return answer_entry(reply, ++last_node << TYPE_BITS | (type ? type : S_IFREG) >> 12);
}

static size_t answer_attr(struct reply *reply, uint64_t node)
{
	reply->attr.attr_valid = TIMEOUT_SECONDS;
	fill_attr(&reply->attr.attr, node);
	return sizeof(reply->attr);
}

static size_t answer_init(struct reply *reply, const struct fuse_init_in *in)
{
	reply->init = (struct fuse_init_out){
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = in->max_readahead,
		.flags = FEATURES & in->flags,
		.max_background = 64,
		.congestion_threshold = 48,
		.max_write = MAX_WRITE,
		.max_pages = MAX_WRITE / 4096,
		.time_gran = 1,
	};
	return sizeof(reply->init);
}

/* Fills in the reply; returns the bytes after its header. */
static size_t answer(struct reply *reply, const struct fuse_in_header *in)
{
	const void *argument = in + 1;

	switch (in->opcode) {
	case FUSE_INIT:
		return answer_init(reply, argument);
	case FUSE_LOOKUP:
		return answer_entry(reply, 0);
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		return answer_attr(reply, in->nodeid);
	case FUSE_MKNOD:
		return answer_new(reply, ((const struct fuse_mknod_in *)argument)->mode);
	case FUSE_MKDIR:
		return answer_new(reply, S_IFDIR);
	case FUSE_SYMLINK:
		return answer_new(reply, S_IFLNK);
	case FUSE_LINK:
		return answer_entry(reply, ((const struct fuse_link_in *)argument)->oldnodeid);
	case FUSE_WRITE:
		reply->write.size = ((const struct fuse_write_in *)argument)->size;
		return sizeof(reply->write);
	case FUSE_OPENDIR:
		return sizeof(reply->open);
	case FUSE_STATFS:
		reply->statfs.st.bsize = 4096;
		reply->statfs.st.namelen = 255;
		return sizeof(reply->statfs);
	case FUSE_UNLINK:
	case FUSE_RMDIR:
	case FUSE_FSYNC:
	case FUSE_FSYNCDIR:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
	case FUSE_RELEASEDIR:
	case FUSE_DESTROY:
	case OPCODE_SYNCFS:
		return 0;
	case FUSE_GETXATTR:
		reply->header.error = -ENODATA;
		return 0;
	default: /* CREATE, OPEN and FLUSH among them: the kernel does without */
		reply->header.error = -ENOSYS;
		return 0;
	}
}

static int serve(int fuse, unsigned char *request)
{
	const struct fuse_in_header *in = (const void *)request;

	for (;;) {
		ssize_t length = read(fuse, request, MAX_WRITE + HEADERS);

		if (length < 0 && (errno == EINTR || errno == ENOENT))
			continue;
		if (length < (ssize_t)sizeof(*in))
			return length < 0 && errno != ENODEV ? -errno : 0;
		if (in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET || in->opcode == FUSE_INTERRUPT)
			continue;
		struct reply reply = { .header.unique = in->unique };
		reply.header.len = (uint32_t)(sizeof(reply.header) + answer(&reply, in));
		/* ENOENT: the caller was killed meanwhile. */
		if (write(fuse, &reply, reply.header.len) < 0 && errno != ENOENT)
			return -errno;
		if (in->opcode == FUSE_DESTROY)
			return 0;
	}
}

int main(int argc, char **argv)
{
	char options[128];
	void *request = NULL;
	int fuse, rc;

	if (argc != 3) {
		fprintf(stderr, "usage: null_server DEVICE DIRECTORY\n");
		return 2;
	}
	fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse < 0 || posix_memalign(&request, 4096, MAX_WRITE + HEADERS)) {
		perror("null_server: /dev/fuse");
		return 1;
	}
	memset(request, 0, MAX_WRITE + HEADERS);
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=%o,user_id=0,group_id=0,default_permissions,allow_other,blksize=4096", fuse, S_IFDIR);
	if (mount(argv[1], argv[2], "fuseblk.null", MS_NODEV | MS_NOSUID, options)) {
		fprintf(stderr, "null_server: cannot mount %s on %s: %s\n", argv[1], argv[2], strerror(errno));
		return 1;
	}
	if (daemon(0, 0)) { /* the kernel sends INIT, and whoever uses the mount waits for us */
		perror("null_server: daemon");
		return 1;
	}
	rc = serve(fuse, request);
	free(request);
	return rc != 0;
}
