/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy a folder tree of the host into a volume: types, modes, owners, times, hard links, extended attributes, holes.
 *
 * Concept: one descriptor per level of the tree, names relative to it, so that path lengths do not matter. Of a
 * folder all other entries come before the folders below it, so that nothing but its descriptor waits for them. A
 * folder gets its mode, attributes and times only when its content is there: a sgid bit or default ACL must not
 * colour the children, and each new entry changes mtime. Files with several names are remembered by device and
 * inode number, and the second name becomes a link.
 *
 * Rules: the source is only read (O_NOATIME where allowed); symbolic links are never followed below the top; the
 * first error ends the copy with a message that names the path.
 */
#include "mkfs/fill.h"

#include "mkfs/tool.h"

#include <ashlar/format.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CHUNK ((size_t)1 << 20)

struct link_seen {
	dev_t device;
	ino_t inode;
	uint64_t ino; /* in the volume */
};

/* A folder of the host that is to be copied. */
struct folder_left {
	struct folder_left *next;
	struct stat st;
	char name[];
};

/* A folder that is being copied. The levels are a list and not calls within calls: a tree may be deeper than a stack. */
struct level {
	struct level *above;
	int fd;
	uint64_t ino; /* in the volume */
	struct stat st;
	size_t path_length;
	struct folder_left *below, **below_end; /* that are left */
};

struct filler {
	struct ash_volume *volume;
	struct level *level; /* the lowest */
	const struct stat *skip;
	struct fill_result *result;
	void *links;      /* tsearch tree of struct link_seen */
	char *chunk;      /* CHUNK bytes, aligned */
	char *attributes; /* list of names, XATTR_LIST_MAX bytes */
	char *value;      /* XATTR_SIZE_MAX bytes */
	char path[4096];  /* for messages: cut when longer */
};

static int fail(const struct filler *filler, int code, const char *what)
{
	return tool_error(code, "%s: %s: %s", filler->path, what, strerror(-code));
}

static void add_to_path(struct filler *filler, const struct level *level, const char *name)
{
	snprintf(filler->path + level->path_length, sizeof(filler->path) - level->path_length, "/%s", name);
}

/* ---- Attributes ---- */

/* A name that works for every kind of file without opening it: relative to a folder's descriptor. */
static void proc_name(char out[512], int folder, const char *name)
{
	snprintf(out, 512, "/proc/self/fd/%d/%s", folder, name);
}

/* What the volume cannot hold (a namespace of another filesystem) is left out; everything else is an error. */
static int copy_xattr(struct filler *filler, const char *source, const char *name, uint64_t ino)
{
	ssize_t size = lgetxattr(source, name, filler->value, XATTR_SIZE_MAX);
	int result;

	if (size < 0)
		return errno == ENODATA || errno == EOPNOTSUPP ? 0 : fail(filler, -errno, name);
	result = ash_setxattr(filler->volume, ino, name, filler->value, (size_t)size, 0);
	if (result == -EOPNOTSUPP)
		return 0;
	return result ? fail(filler, result, name) : 0;
}

static int copy_xattrs(struct filler *filler, int folder, const char *name, uint64_t ino)
{
	char source[512];
	ssize_t length;

	proc_name(source, folder, name);
	length = llistxattr(source, filler->attributes, XATTR_LIST_MAX);
	if (length < 0)
		return errno == EOPNOTSUPP ? 0 : fail(filler, -errno, "listing attributes");
	for (char *p = filler->attributes; p < filler->attributes + length; p += strlen(p) + 1) {
		int result = copy_xattr(filler, source, p, ino);

		if (result)
			return result;
	}
	return 0;
}

/* Owner first (it clears suid and capabilities), then attributes, then mode and times. */
static int copy_attributes(struct filler *filler, int folder, const char *name, uint64_t ino, const struct stat *st)
{
	struct ash_setattr owner = { .valid = ASH_SET_UID | ASH_SET_GID, .uid = st->st_uid, .gid = st->st_gid };
	struct ash_setattr rest = {
		.valid = ASH_SET_ATIME | ASH_SET_MTIME,
		.mode = st->st_mode & 07777,
		.atime = st->st_atim,
		.mtime = st->st_mtim,
	};
	int result = ash_setattr(filler->volume, ino, &owner, NULL);

	if (result)
		return fail(filler, result, "setting the owner");
	result = copy_xattrs(filler, folder, name, ino);
	if (result)
		return result;
	if (!S_ISLNK(st->st_mode))
		rest.valid |= ASH_SET_MODE;
	result = ash_setattr(filler->volume, ino, &rest, NULL);
	return result ? fail(filler, result, "setting mode and times") : 0;
}

/* ---- File content ---- */

static int copy_range(struct filler *filler, int fd, uint64_t ino, off_t start, off_t end)
{
	while (start < end) {
		size_t wanted = (uint64_t)(end - start) < CHUNK ? (size_t)(end - start) : CHUNK;
		ssize_t got = pread(fd, filler->chunk, wanted, start);
		int64_t written;

		if (got < 0)
			return fail(filler, -errno, "reading");
		if (got == 0)
			return 0; /* it shrank meanwhile */
		written = ash_write(filler->volume, ino, filler->chunk, (size_t)got, (uint64_t)start, 0);
		if (written != got)
			return fail(filler, written < 0 ? (int)written : -ENOSPC, "writing into the volume");
		filler->result->bytes += (uint64_t)got;
		start += got;
	}
	return 0;
}

static int copy_data(struct filler *filler, int fd, uint64_t ino, off_t size)
{
	struct ash_setattr change = { .valid = ASH_SET_SIZE, .size = (uint64_t)size };
	off_t start = 0;
	int result;

	while (start < size) {
		off_t data = lseek(fd, start, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			break; /* a hole up to the end */
		if (data < 0)
			data = start; /* a filesystem without SEEK_DATA */
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0 || hole > size)
			hole = size;
		result = copy_range(filler, fd, ino, data, hole);
		if (result)
			return result;
		start = hole;
	}
	result = ash_setattr(filler->volume, ino, &change, NULL);
	return result ? fail(filler, result, "setting the size") : 0;
}

static int open_source(int folder, const char *name, int flags)
{
	int fd = openat(folder, name, flags | O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOATIME);

	return fd < 0 && errno == EPERM ? openat(folder, name, flags | O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : fd;
}

static int copy_file(struct filler *filler, int folder, const char *name, uint64_t ino, const struct stat *st)
{
	int fd, result;

	if (st->st_size == 0)
		return 0;
	fd = open_source(folder, name, O_NONBLOCK);
	if (fd < 0)
		return fail(filler, -errno, "opening");
	result = copy_data(filler, fd, ino, st->st_size);
	close(fd);
	return result;
}

/* ---- Hard links ---- */

static int compare_links(const void *a, const void *b)
{
	const struct link_seen *x = a, *y = b;

	if (x->device != y->device)
		return x->device < y->device ? -1 : 1;
	return x->inode < y->inode ? -1 : x->inode > y->inode;
}

static uint64_t find_link(const struct filler *filler, const struct stat *st)
{
	struct link_seen key = { st->st_dev, st->st_ino, 0 };
	struct link_seen **found = tfind(&key, (void *const *)&filler->links, compare_links);

	return found ? (*found)->ino : 0;
}

static int remember_link(struct filler *filler, const struct stat *st, uint64_t ino)
{
	struct link_seen *seen = malloc(sizeof(*seen));

	if (!seen)
		return fail(filler, -ENOMEM, "hard links");
	*seen = (struct link_seen){ st->st_dev, st->st_ino, ino };
	if (!tsearch(seen, &filler->links, compare_links)) {
		free(seen);
		return fail(filler, -ENOMEM, "hard links");
	}
	return 0;
}

/* ---- The walk ---- */

static int create_entry(struct filler *filler, int folder, const char *name, uint64_t parent, const struct stat *st,
			uint64_t *ino)
{
	struct ash_create create = {
		.mode = (st->st_mode & S_IFMT) | 0700,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.rdev = st->st_rdev,
	};
	char target[4096];
	struct ash_attr attr;
	int result;

	if (S_ISLNK(st->st_mode)) {
		ssize_t length = readlinkat(folder, name, target, sizeof(target) - 1);

		if (length < 0)
			return fail(filler, -errno, "reading the link");
		target[length] = 0;
		create.target = target;
		create.mode = S_IFLNK | 0777;
	}
	result = ash_create(filler->volume, parent, name, &create, &attr);
	*ino = attr.ino;
	return result ? fail(filler, result, "creating") : 0;
}

static int fill_content(struct filler *filler, int folder, const char *name, uint64_t ino, const struct stat *st)
{
	if (!S_ISREG(st->st_mode)) {
		filler->result->others++;
		return 0;
	}
	filler->result->files++;
	return copy_file(filler, folder, name, ino, st);
}

static int fill_new(struct filler *filler, int folder, const char *name, uint64_t parent, const struct stat *st)
{
	uint64_t ino;
	int result = create_entry(filler, folder, name, parent, st, &ino);

	if (result)
		return result;
	result = fill_content(filler, folder, name, ino, st);
	if (!result)
		result = copy_attributes(filler, folder, name, ino, st);
	if (!result && st->st_nlink > 1)
		result = remember_link(filler, st, ino);
	ash_forget(filler->volume, ino, 1);
	return result;
}

/* Folders come when all else of their folder is there. */
static int note_folder(struct filler *filler, struct level *level, const char *name, const struct stat *st)
{
	size_t size = strlen(name) + 1;
	struct folder_left *folder = malloc(sizeof(*folder) + size);

	if (!folder)
		return fail(filler, -ENOMEM, "reading the folder");
	folder->next = NULL;
	folder->st = *st;
	memcpy(folder->name, name, size);
	*level->below_end = folder;
	level->below_end = &folder->next;
	return 0;
}

static int fill_entry(struct filler *filler, struct level *level, const char *name)
{
	struct ash_attr attr;
	struct stat st;
	uint64_t ino;
	int result;

	if (fstatat(level->fd, name, &st, AT_SYMLINK_NOFOLLOW))
		return fail(filler, -errno, "stat");
	if (filler->skip && st.st_dev == filler->skip->st_dev && st.st_ino == filler->skip->st_ino)
		return 0;
	if (S_ISDIR(st.st_mode))
		return note_folder(filler, level, name, &st);
	ino = st.st_nlink > 1 ? find_link(filler, &st) : 0;
	if (!ino)
		return fill_new(filler, level->fd, name, level->ino, &st);
	result = ash_link(filler->volume, ino, level->ino, name, &attr);
	if (result)
		return fail(filler, result, "linking");
	ash_forget(filler->volume, ino, 1);
	return 0;
}

static int read_entries(struct filler *filler, struct level *level, DIR *stream)
{
	int result = 0;

	while (!result) {
		struct dirent *entry;

		errno = 0;
		entry = readdir(stream);
		if (!entry)
			return errno ? fail(filler, -errno, "reading the folder") : 0;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		add_to_path(filler, level, entry->d_name);
		result = fill_entry(filler, level, entry->d_name);
		filler->path[level->path_length] = 0;
	}
	return result;
}

/* All but what is in the folders below. */
static int fill_level(struct filler *filler, struct level *level)
{
	int fd = fcntl(level->fd, F_DUPFD_CLOEXEC, 0), result;
	DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;

	if (!stream) {
		result = fail(filler, -errno, "opening");
		if (fd >= 0)
			close(fd);
		return result;
	}
	result = read_entries(filler, level, stream);
	closedir(stream);
	return result;
}

/* Owns `fd`. */
static int push_level(struct filler *filler, int fd, uint64_t ino, const struct stat *st)
{
	struct level *level = malloc(sizeof(*level));

	if (!level) {
		close(fd);
		return fail(filler, -ENOMEM, "opening");
	}
	*level = (struct level){ .above = filler->level, .fd = fd, .ino = ino, .st = *st };
	level->below_end = &level->below;
	level->path_length = strlen(filler->path);
	filler->level = level;
	return fill_level(filler, level);
}

static void pop_level(struct filler *filler)
{
	struct level *level = filler->level;

	while (level->below) {
		struct folder_left *folder = level->below;

		level->below = folder->next;
		free(folder);
	}
	if (level->ino != ASH_INO_ROOT)
		ash_forget(filler->volume, level->ino, 1);
	close(level->fd);
	filler->level = level->above;
	if (filler->level)
		filler->path[filler->level->path_length] = 0;
	free(level);
}

static int enter_folder(struct filler *filler, const struct folder_left *folder)
{
	struct level *level = filler->level;
	uint64_t ino;
	int result, fd;

	add_to_path(filler, level, folder->name);
	result = create_entry(filler, level->fd, folder->name, level->ino, &folder->st, &ino);
	if (result)
		return result;
	filler->result->folders++;
	fd = open_source(level->fd, folder->name, O_DIRECTORY);
	result = fd < 0 ? fail(filler, -errno, "opening") : push_level(filler, fd, ino, &folder->st);
	if (filler->level == level) /* which would have taken the count */
		ash_forget(filler->volume, ino, 1);
	return result;
}

/* One step: into the next folder below, or out of one that is complete. */
static int fill_step(struct filler *filler)
{
	struct level *level = filler->level;
	struct folder_left *folder = level->below;
	int result;

	if (!folder) {
		result = copy_attributes(filler, level->fd, ".", level->ino, &level->st);
		pop_level(filler);
		return result;
	}
	level->below = folder->next;
	result = enter_folder(filler, folder);
	free(folder);
	return result;
}

static int fill_tree(struct filler *filler, const char *folder)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), result;
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		result = fail(filler, -errno, "opening");
		if (fd >= 0)
			close(fd);
		return result;
	}
	result = push_level(filler, fd, ASH_INO_ROOT, &st);
	while (!result && filler->level)
		result = fill_step(filler);
	while (filler->level)
		pop_level(filler);
	return result;
}

int fill_volume(struct ash_volume *volume, const char *folder, const struct stat *skip, struct fill_result *result)
{
	struct filler *filler = calloc(1, sizeof(*filler));
	int code;

	memset(result, 0, sizeof(*result));
	if (!filler)
		return tool_error(-ENOMEM, "out of memory");
	filler->volume = volume;
	filler->skip = skip;
	filler->result = result;
	filler->chunk = bdev_buffer_alloc(CHUNK);
	filler->attributes = malloc(XATTR_LIST_MAX);
	filler->value = malloc(XATTR_SIZE_MAX);
	snprintf(filler->path, sizeof(filler->path), "%s", folder);
	tool_raise_file_limit();
	if (filler->chunk && filler->attributes && filler->value)
		code = fill_tree(filler, folder);
	else
		code = tool_error(-ENOMEM, "out of memory");
	tdestroy(filler->links, free);
	if (filler->chunk)
		bdev_buffer_free(filler->chunk, CHUNK);
	free(filler->attributes);
	free(filler->value);
	free(filler);
	return code;
}
