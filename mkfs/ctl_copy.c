/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ashlarctl get: copy a file or tree out of an unmounted volume.
 *
 * Concept: what fill.c does, the other way, folders last. One descriptor per level, every entry made relative to it with O_EXCL
 * and without following links, so that no name on a volume can lead out of the target. A folder gets mode and
 * times when its content is there. It is a rescue tool too: an error in one file is reported and the rest goes on,
 * the rest of that file too; the exit status says that something is missing.
 *
 * Rules: nothing that exists is overwritten, and its attributes stay as they are. Attributes are set through the
 * descriptor of what this run has just made, never by name: a name may be somebody else's by then. Owners are set only
 * by root, extended attributes where the target takes them.
 */
#include "mkfs/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CHUNK ((size_t)1 << 20)
#define PIECE ((uint64_t)ASH_BLOCK_SIZE) /* what is lost with a sector that cannot be read */

struct link_made {
	uint64_t ino;
	char *path; /* relative to the current folder of the process, which is never changed */
};

/* A folder of the volume that is to be copied. */
struct folder_left {
	struct folder_left *next;
	struct ash_attr attr;
	char name[];
};

/* A folder that is being copied. The levels are a list and not calls within calls: a tree may be deeper than a stack. */
struct level {
	struct level *above;
	int fd;    /* of the copy */
	bool made; /* by this run: it gets its attributes */
	struct ash_attr attr;
	size_t path_length;
	struct folder_left *below, **below_end; /* that are left */
};

/* A range of a file; no error: none. */
struct lost {
	int error;
	uint64_t start, end;
};

struct getter {
	struct ash_volume *volume;
	struct ctl_visited visited;
	void *links;         /* tsearch tree of struct link_made */
	char *chunk;         /* CHUNK bytes */
	char *value;         /* ASH_XATTR_SIZE_MAX bytes */
	char path[8192];     /* of the target, for messages and hard links */
	int parent;          /* descriptor of the target folder that is being filled */
	bool top_exists;     /* the next folder may exist: the volume's root is copied into a folder that is there */
	struct level *level; /* the lowest; NULL: above the tree */
	struct lost lost;
	uint64_t failures;
};

static int complain(struct getter *getter, int code, const char *what)
{
	getter->failures++;
	return tool_error(code, "%s: %s: %s", getter->path, what, strerror(-code));
}

/* ---- Attributes ---- */

/* `made` is what an open descriptor is called in /proc: names the object itself, whatever its name leads to now. */
static void get_xattr(struct getter *getter, const char *made, const char *name, uint64_t ino)
{
	int size = ash_getxattr(getter->volume, ino, name, getter->value, ASH_XATTR_SIZE_MAX);

	if (size < 0)
		complain(getter, size, name);
	else if (setxattr(made, name, getter->value, (size_t)size, 0) && errno != EOPNOTSUPP && errno != EPERM)
		complain(getter, -errno, name);
}

static void get_xattrs(struct getter *getter, const char *made, uint64_t ino)
{
	int length = ash_listxattr(getter->volume, ino, NULL, 0);
	char *list;

	if (length == 0)
		return;
	list = length > 0 ? malloc((size_t)length) : NULL;
	if (list)
		length = ash_listxattr(getter->volume, ino, list, (size_t)length);
	if (!list || length < 0)
		complain(getter, length < 0 ? length : -ENOMEM, "listing attributes");
	for (char *p = list; list && p < list + length; p += strlen(p) + 1)
		get_xattr(getter, made, p, ino);
	free(list);
}

/* A descriptor of O_PATH takes no fchmod(2). */
static int set_mode(int fd, const char *made, mode_t mode)
{
	return fchmod(fd, mode) == 0 || (errno == EBADF && chmod(made, mode) == 0) ? 0 : -errno;
}

/* `fd` is of a file, folder, link or special file that this run has made. */
static void get_attributes(struct getter *getter, int fd, const struct ash_attr *attr)
{
	struct timespec times[2] = { attr->atime, attr->mtime };
	char made[32];
	int result;

	snprintf(made, sizeof(made), "/proc/self/fd/%d", fd);
	if (geteuid() == 0 && fchownat(fd, "", attr->uid, attr->gid, AT_EMPTY_PATH))
		complain(getter, -errno, "setting the owner");
	get_xattrs(getter, made, attr->ino);
	result = S_ISLNK(attr->mode) ? 0 : set_mode(fd, made, attr->mode & 07777);
	if (result)
		complain(getter, result, "setting the mode");
	if (utimensat(fd, "", times, AT_EMPTY_PATH))
		complain(getter, -errno, "setting the times");
}

/* Of a link or special file, which cannot be opened as it is made: what the name leads to must still be of its kind. */
static void get_attributes_of_name(struct getter *getter, const char *name, const struct ash_attr *attr)
{
	int fd = openat(getter->parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		complain(getter, -errno, "setting attributes");
	else if ((st.st_mode & S_IFMT) != (attr->mode & S_IFMT) || st.st_uid != geteuid() || st.st_nlink != 1)
		complain(getter, -ESTALE, "setting attributes");
	else
		get_attributes(getter, fd, attr);
	if (fd >= 0)
		close(fd);
}

/* ---- File content ---- */

int ctl_write_all(int fd, const char *data, size_t length, off_t offset)
{
	while (length) {
		ssize_t written = offset < 0 ? write(fd, data, length) : pwrite(fd, data, length, offset);

		if (written < 0 && errno != EINTR)
			return -errno;
		if (written > 0) {
			data += written;
			offset += offset < 0 ? 0 : written;
			length -= (size_t)written;
		}
	}
	return 0;
}

/* Told when it is known how long it is: a line for each range, not for each piece. */
static void tell_lost(struct getter *getter)
{
	const struct lost *lost = &getter->lost;

	if (!lost->error)
		return;
	getter->failures++;
	tool_error(lost->error, "%s: bytes %" PRIu64 " to %" PRIu64 " cannot be read: %s", getter->path, lost->start,
		   lost->end - 1, strerror(-lost->error));
	getter->lost.error = 0;
}

static void lose(struct getter *getter, int error, uint64_t start, uint64_t end)
{
	if (getter->lost.error && getter->lost.end == start) {
		getter->lost.end = end;
		return;
	}
	tell_lost(getter);
	getter->lost = (struct lost){ error, start, end };
}

/* A chunk of which not all can be read. What cannot is a hole in the copy; an error is one of writing. */
static int get_pieces(struct getter *getter, int fd, uint64_t ino, uint64_t start, uint64_t end)
{
	while (start < end) {
		uint64_t next = (start | (PIECE - 1)) + 1;
		size_t wanted = (size_t)((next < end ? next : end) - start);
		int64_t got = ash_read(getter->volume, ino, getter->chunk, wanted, start);
		int result = got > 0 ? ctl_write_all(fd, getter->chunk, (size_t)got, (off_t)start) : 0;

		if (result)
			return complain(getter, result, "writing");
		if (got <= 0)
			lose(getter, got ? (int)got : -EIO, start, start + wanted);
		start += wanted;
	}
	return 0;
}

static int get_range(struct getter *getter, int fd, uint64_t ino, uint64_t start, uint64_t end)
{
	while (start < end) {
		size_t wanted = end - start < CHUNK ? (size_t)(end - start) : CHUNK;
		int64_t got = ash_read(getter->volume, ino, getter->chunk, wanted, start);
		int result;

		/* A device that is gone will not read any piece either. */
		if (got == -ENODEV || got == 0)
			return got ? complain(getter, -ENODEV, "reading from the volume") : 0;
		if (got < 0) {
			result = get_pieces(getter, fd, ino, start, start + wanted);
			if (result)
				return result;
			start += wanted;
			continue;
		}
		result = ctl_write_all(fd, getter->chunk, (size_t)got, (off_t)start);
		if (result)
			return complain(getter, result, "writing");
		start += (uint64_t)got;
	}
	return 0;
}

static int get_data(struct getter *getter, int fd, const struct ash_attr *attr)
{
	uint64_t start = 0;

	if (ftruncate(fd, (off_t)attr->size))
		return complain(getter, -errno, "setting the size");
	while (start < attr->size) {
		int64_t data = ash_seek(getter->volume, attr->ino, start, SEEK_DATA), hole;
		int result;

		if (data == -ENXIO)
			return 0;
		hole = data < 0 ? data : ash_seek(getter->volume, attr->ino, (uint64_t)data, SEEK_HOLE);
		if (hole < 0)
			return complain(getter, (int)hole, "reading the map of the file");
		if (hole <= data)
			return complain(getter, -EUCLEAN, "reading the map of the file");
		result = get_range(getter, fd, attr->ino, (uint64_t)data, (uint64_t)hole);
		if (result)
			return result;
		start = (uint64_t)hole;
	}
	return 0;
}

static int get_file(struct getter *getter, const char *name, const struct ash_attr *attr)
{
	int fd = openat(getter->parent, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600), result;

	if (fd < 0)
		return complain(getter, -errno, "creating");
	result = get_data(getter, fd, attr);
	tell_lost(getter);
	/* What could be read of a damaged file stays, with its attributes. */
	get_attributes(getter, fd, attr);
	if (close(fd) && !result)
		result = complain(getter, -errno, "closing");
	return result;
}

static int get_symlink(struct getter *getter, const char *name, const struct ash_attr *attr)
{
	char target[4096];
	int length = ash_readlink(getter->volume, attr->ino, target, sizeof(target) - 1);

	if (length < 0)
		return complain(getter, length, "reading the link");
	target[length] = 0;
	if (symlinkat(target, getter->parent, name))
		return complain(getter, -errno, "creating the link");
	get_attributes_of_name(getter, name, attr);
	return 0;
}

static int get_special(struct getter *getter, const char *name, const struct ash_attr *attr)
{
	if (mknodat(getter->parent, name, (attr->mode & S_IFMT) | 0600, attr->rdev))
		return complain(getter, -errno, "creating the special file");
	get_attributes_of_name(getter, name, attr);
	return 0;
}

/* ---- Hard links ---- */

static int compare_links(const void *a, const void *b)
{
	const struct link_made *x = a, *y = b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static void free_link(void *pointer)
{
	struct link_made *made = pointer;

	free(made->path);
	free(made);
}

/* True when the entry was made as a further name of a file that is there already. */
static bool get_as_link(struct getter *getter, const char *name, const struct ash_attr *attr)
{
	struct link_made key = { .ino = attr->ino };
	struct link_made **found = tfind(&key, &getter->links, compare_links);

	return found && linkat(AT_FDCWD, (*found)->path, getter->parent, name, 0) == 0;
}

/* Without memory the next name becomes a copy: a loss of a link, not of data. */
static void remember_link(struct getter *getter, const struct ash_attr *attr)
{
	struct link_made *made = malloc(sizeof(*made)), **found = NULL;

	if (!made)
		return;
	made->ino = attr->ino;
	made->path = strdup(getter->path);
	if (made->path)
		found = tsearch(made, &getter->links, compare_links);
	if (!found || *found != made)
		free_link(made);
}

/* ---- The walk ---- */

static int get_content(struct getter *getter, const char *name, const struct ash_attr *attr)
{
	switch (attr->mode & S_IFMT) {
	case S_IFREG:
		return get_file(getter, name, attr);
	case S_IFLNK:
		return get_symlink(getter, name, attr);
	}
	return get_special(getter, name, attr);
}

/* Of anything but a folder. */
static int get_entry(struct getter *getter, const char *name, const struct ash_attr *attr)
{
	int result;

	if (attr->nlink > 1 && get_as_link(getter, name, attr))
		return 0;
	result = get_content(getter, name, attr);
	if (!result && attr->nlink > 1)
		remember_link(getter, attr);
	return result;
}

/* Folders come when all else of their folder is there. */
static void note_folder(struct getter *getter, const struct ctl_entry *entry)
{
	struct folder_left *folder = malloc(sizeof(*folder) + entry->name_length + 1);
	struct level *level = getter->level;

	if (!folder) {
		complain(getter, -ENOMEM, "reading the folder");
		return;
	}
	folder->next = NULL;
	folder->attr = entry->attr;
	memcpy(folder->name, entry->name, entry->name_length + 1);
	*level->below_end = folder;
	level->below_end = &folder->next;
}

static void add_to_path(struct getter *getter, size_t length, const char *name)
{
	snprintf(getter->path + length, sizeof(getter->path) - length, "/%s", name);
}

static int visit_entry(void *context, const struct ctl_entry *entry)
{
	struct getter *getter = context;
	size_t length = strlen(getter->path);

	if (entry->dot)
		return 0;
	if (strlen(entry->name) != entry->name_length || strchr(entry->name, '/') || !entry->name[0]) {
		complain(getter, -EUCLEAN, "a name that cannot be");
		return 0;
	}
	add_to_path(getter, length, entry->name);
	if (entry->error)
		complain(getter, entry->error, ctl_entry_wrong(entry));
	else if (S_ISDIR(entry->attr.mode))
		note_folder(getter, entry);
	else
		get_entry(getter, entry->name, &entry->attr);
	getter->path[length] = 0;
	return 0;
}

static void get_children(struct getter *getter, uint64_t ino)
{
	int result = ctl_visit_once(&getter->visited, ino);

	if (!result)
		result = ctl_each_entry(getter->volume, ino, visit_entry, getter);
	if (result)
		complain(getter, result,
			 result == -ELOOP ? "damaged: this folder has two names" : "reading the folder");
}

static int enter_folder(struct getter *getter, const char *name, const struct ash_attr *attr)
{
	bool made = mkdirat(getter->parent, name, 0700) == 0;
	struct level *level;
	int fd;

	if (!made && !(errno == EEXIST && getter->top_exists))
		return complain(getter, -errno, "creating the folder");
	fd = openat(getter->parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return complain(getter, -errno, "opening the folder");
	level = malloc(sizeof(*level));
	if (!level) {
		close(fd);
		return complain(getter, -ENOMEM, "opening the folder");
	}
	*level = (struct level){ .above = getter->level, .fd = fd, .made = made, .attr = *attr };
	level->below_end = &level->below;
	level->path_length = strlen(getter->path);
	getter->top_exists = false;
	getter->level = level;
	getter->parent = fd;
	get_children(getter, attr->ino);
	return 0;
}

static void leave_folder(struct getter *getter, int top)
{
	struct level *level = getter->level;

	if (level->made)
		get_attributes(getter, level->fd, &level->attr);
	close(level->fd);
	getter->level = level->above;
	getter->parent = level->above ? level->above->fd : top;
	if (level->above)
		getter->path[level->above->path_length] = 0;
	free(level);
}

/* Each folder is complete, with all that is below it, before the next one. */
static int get_folders(struct getter *getter, const char *name, const struct ash_attr *attr)
{
	int top = getter->parent, result = enter_folder(getter, name, attr);

	while (getter->level) {
		struct level *level = getter->level;
		struct folder_left *folder = level->below;

		if (!folder) {
			leave_folder(getter, top);
			continue;
		}
		level->below = folder->next;
		add_to_path(getter, level->path_length, folder->name);
		enter_folder(getter, folder->name, &folder->attr);
		if (getter->level == level)
			getter->path[level->path_length] = 0;
		free(folder);
	}
	return result;
}

/* ---- The command ---- */

static const char *last_component(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* As cp does: into a folder that exists under the old name, else as the new name. */
static int choose_target(struct getter *getter, const char *source, char *target, char **name)
{
	size_t length = strlen(target);
	const char *base = last_component(source);
	struct stat st;

	if (!length)
		return tool_error(-ENOENT, "the target has no name: give a file or folder");
	while (length > 1 && target[length - 1] == '/')
		target[--length] = 0;
	if (stat(target, &st) == 0 && S_ISDIR(st.st_mode) && base[0] && strncmp(base, "inode:", 6) != 0)
		snprintf(getter->path, sizeof(getter->path), "%s/%s", target, base);
	else
		snprintf(getter->path, sizeof(getter->path), "%s", target);
	*name = strdup(strcmp(getter->path, "/") ? last_component(getter->path) : ".");
	if (!*name)
		return tool_error(-ENOMEM, "out of memory");
	length = (size_t)(last_component(getter->path) - getter->path);
	snprintf(target, 8192, "%.*s", (int)length, getter->path);
	getter->parent = open(length ? target : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return getter->parent < 0 ? tool_error(-errno, "%s: %s", length ? target : ".", strerror(errno)) : 0;
}

static int get_tree(struct getter *getter, const char *source, const char *target, const struct ash_attr *attr)
{
	char *name = NULL, *copy = malloc(8192), *trimmed = strdup(source);
	size_t length = trimmed ? strlen(trimmed) : 0;
	int parent, result = copy && trimmed ? 0 : tool_error(-ENOMEM, "out of memory");

	while (length > 1 && trimmed[length - 1] == '/')
		trimmed[--length] = 0;
	if (!result && (unsigned)snprintf(copy, 8192, "%s", target) >= 8192u)
		result = tool_error(-ENAMETOOLONG, "the target's name is too long");
	if (!result)
		result = choose_target(getter, trimmed, copy, &name);
	if (!result) {
		getter->top_exists = !last_component(trimmed)[0];
		parent = getter->parent;
		result = S_ISDIR(attr->mode) ? get_folders(getter, name, attr) : get_entry(getter, name, attr);
		close(parent);
	}
	free(name);
	free(copy);
	free(trimmed);
	return result;
}

static int get(struct ash_volume *volume, const char *source, const char *target)
{
	struct getter *getter = calloc(1, sizeof(*getter));
	struct ctl_file file;
	int result;

	if (!getter)
		return tool_error(-ENOMEM, "out of memory");
	getter->volume = volume;
	getter->chunk = bdev_buffer_alloc(CHUNK);
	getter->value = malloc(ASH_XATTR_SIZE_MAX);
	tool_raise_file_limit();
	result = getter->chunk && getter->value ? ctl_find(volume, source, &file) :
						  tool_error(-ENOMEM, "out of memory");
	if (!result) {
		result = get_tree(getter, source, target, &file.attr);
		ctl_drop(volume, &file);
	}
	if (!result && getter->failures)
		result = tool_error(-EIO, "%" PRIu64 " errors: the copy is not complete", getter->failures);
	tdestroy(getter->links, free_link);
	ctl_visited_free(&getter->visited);
	if (getter->chunk)
		bdev_buffer_free(getter->chunk, CHUNK);
	free(getter->value);
	free(getter);
	return result;
}

int ctl_get(const struct ctl *ctl)
{
	struct tool_volume opened;
	int result = tool_open(ctl->arguments[0], TOOL_READ, &opened);

	if (result)
		return result;
	result = get(opened.volume, ctl->arguments[1], ctl->arguments[2]);
	return tool_close(&opened, result);
}
