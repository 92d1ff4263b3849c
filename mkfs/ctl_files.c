/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands about files of an unmounted volume: ls, stat, cat; and the walk over names that `get` uses too.
 *
 * Rules: symbolic links are shown, not followed. Names are any bytes: on a terminal, control characters are
 * printed as '?'; into a pipe or file they go as they are.
 */
#include "mkfs/ctl.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define BATCH 256u
#define CHUNK ((size_t)1 << 20)

/* ---- Finding ---- */

int ctl_parse_inode(const char *text, uint64_t *ino)
{
	bool brackets = text[0] == '<';
	char *end;

	if (brackets)
		text++;
	else if (strncmp(text, "inode:", 6) == 0)
		text += 6;
	else
		return -EINVAL;
	errno = 0;
	*ino = strtoull(text, &end, 10);
	if (errno || !isdigit((unsigned char)text[0]))
		return -EINVAL;
	return strcmp(end, brackets ? ">" : "") == 0 ? 0 : -EINVAL;
}

void ctl_drop(struct ash_volume *volume, const struct ctl_file *file)
{
	if (file->counted)
		ash_forget(volume, file->attr.ino, 1);
}

/* One component further; the file so far is given back. */
static int step(struct ash_volume *volume, struct ctl_file *file, const char *name, size_t length)
{
	struct ctl_file next = { .counted = true };
	char component[ASH_NAME_MAX + 1];
	int result;

	if (length > ASH_NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(component, name, length);
	component[length] = 0;
	result = ash_lookup(volume, file->attr.ino, component, &next.attr);
	if (result)
		return result;
	ctl_drop(volume, file);
	*file = next;
	return 0;
}

int ctl_find(struct ash_volume *volume, const char *name, struct ctl_file *out)
{
	const char *rest = name;
	uint64_t ino;
	bool by_number = ctl_parse_inode(name, &ino) == 0;
	int result;

	out->counted = false;
	if (by_number)
		rest = "";
	result = ash_getattr(volume, by_number ? ino : ASH_INO_ROOT, &out->attr);
	while (!result && *rest) {
		size_t length = strcspn(rest, "/");

		if (length)
			result = step(volume, out, rest, length);
		rest += length + (rest[length] == '/');
	}
	if (!result)
		return 0;
	ctl_drop(volume, out);
	out->counted = false;
	return tool_error(result, "%s: %s", name,
			  by_number && (result == -ESTALE || result == -ENOENT) ? "no such inode" : strerror(-result));
}

/* ---- Reading folders ---- */

struct batch {
	struct ctl_entry entries[BATCH];
	unsigned count;
	uint64_t position;
};

static int collect(void *context, const char *name, size_t name_length, uint64_t ino, unsigned type,
		   uint64_t next_position, const struct ash_attr *attr)
{
	struct batch *batch = context;
	struct ctl_entry *entry = &batch->entries[batch->count];

	(void)type;
	if (batch->count == BATCH)
		return 1;
	memset(entry, 0, sizeof(*entry));
	memcpy(entry->name, name, name_length);
	entry->name_length = name_length;
	entry->dot = strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0;
	if (attr)
		entry->attr = *attr;
	entry->attr.ino = ino;
	entry->counted = attr && !entry->dot;
	batch->position = next_position;
	batch->count++;
	return 0;
}

/* No attributes came with the name: its inode is damaged, or they were not to be had just then. */
static void entry_look_up(struct ash_volume *volume, uint64_t folder, struct ctl_entry *entry)
{
	struct ash_attr attr;

	entry->error = ash_lookup(volume, folder, entry->name, &attr);
	if (entry->error)
		return;
	entry->attr = attr;
	entry->counted = true;
}

static int visit_batch(struct ash_volume *volume, uint64_t folder, struct batch *batch, ctl_visit visit, void *context)
{
	int result = 0;

	for (unsigned i = 0; i < batch->count; i++) {
		struct ctl_entry *entry = &batch->entries[i];

		if (!result && !entry->counted && !entry->dot)
			entry_look_up(volume, folder, entry);
		if (!result)
			result = visit(context, entry);
		if (entry->counted)
			ash_forget(volume, entry->attr.ino, 1);
	}
	return result;
}

int ctl_each_entry(struct ash_volume *volume, uint64_t ino, ctl_visit visit, void *context)
{
	struct batch *batch = malloc(sizeof(*batch));
	int result = 0;

	if (!batch)
		return -ENOMEM;
	batch->position = 0;
	do {
		int visited;

		batch->count = 0;
		result = ash_readdir(volume, ino, batch->position, true, collect, batch);
		visited = visit_batch(volume, ino, batch, visit, context);
		if (visited)
			result = visited;
	} while (!result && batch->count);
	free(batch);
	return result;
}

const char *ctl_entry_wrong(const struct ctl_entry *entry)
{
	return entry->error == -EUCLEAN ? "damaged inode, run fsck.ashlar -f" : "reading the inode";
}

/* ---- Folders already visited ---- */

static int compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

int ctl_visit_once(struct ctl_visited *visited, uint64_t ino)
{
	uint64_t *key = malloc(sizeof(*key)), **found;

	if (!key)
		return -ENOMEM;
	*key = ino;
	found = tsearch(key, &visited->tree, compare_numbers);
	if (!found || *found != key)
		free(key);
	return !found ? -ENOMEM : *found == key ? 0 : -ELOOP;
}

void ctl_visited_free(struct ctl_visited *visited)
{
	tdestroy(visited->tree, free);
	visited->tree = NULL;
}

/* ---- Printing ---- */

static void mode_text(uint32_t mode, char text[11])
{
	static const char types[16] = "?pc?d?b?-?l?s???";
	static const char bits[] = "rwxrwxrwx";

	text[0] = types[(mode & S_IFMT) >> 12];
	for (unsigned i = 0; i < 9; i++)
		text[1 + i] = mode & (0400u >> i) ? bits[i] : '-';
	if (mode & S_ISUID)
		text[3] = mode & S_IXUSR ? 's' : 'S';
	if (mode & S_ISGID)
		text[6] = mode & S_IXGRP ? 's' : 'S';
	if (mode & S_ISVTX)
		text[9] = mode & S_IXOTH ? 't' : 'T';
	text[10] = 0;
}

static const char *type_text(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFDIR:
		return "folder";
	case S_IFLNK:
		return "link";
	case S_IFCHR:
		return "character device";
	case S_IFBLK:
		return "block device";
	case S_IFIFO:
		return "fifo";
	case S_IFSOCK:
		return "socket";
	}
	return "unknown";
}

static void print_time(const char *what, const struct timespec *time)
{
	char text[64] = "?", zone[16] = "";
	time_t seconds = time->tv_sec;
	struct tm tm;

	if (localtime_r(&seconds, &tm)) {
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
		strftime(zone, sizeof(zone), "%z", &tm);
	}
	printf("%s%s.%09ld %s\n", what, text, time->tv_nsec, zone);
}

static void json_time(struct json *json, const char *key, const struct timespec *time)
{
	json_open(json, key, '{');
	json_signed(json, "seconds", time->tv_sec);
	json_signed(json, "nanoseconds", time->tv_nsec);
	json_close(json, '}');
}

static void json_attr(struct json *json, const struct ash_attr *attr)
{
	json_number(json, "inode", attr->ino);
	json_string(json, "type", type_text(attr->mode));
	json_number(json, "mode", attr->mode & 07777);
	json_number(json, "links", attr->nlink);
	json_number(json, "uid", attr->uid);
	json_number(json, "gid", attr->gid);
	json_number(json, "size", attr->size);
	json_number(json, "blocks", attr->blocks);
	if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode)) {
		json_number(json, "major", major(attr->rdev));
		json_number(json, "minor", minor(attr->rdev));
	}
	json_time(json, "mtime", &attr->mtime);
}

/* ---- ls ---- */

/* A folder that is to be listed. */
struct folder_left {
	struct folder_left *next;
	uint64_t ino;
	char path[];
};

struct lister {
	const struct ctl *ctl;
	struct ash_volume *volume;
	struct json json;
	struct ctl_visited visited;
	const char *path;                       /* of the folder */
	struct folder_left *below, **below_end; /* found in it; between folders, all that are left */
	int result;                             /* 0, or the last error: a damaged folder does not hide the others */
};

/* `name`: in the folder `path`, or NULL: that folder itself. */
static int note_folder(struct lister *lister, const char *path, const char *name, uint64_t ino)
{
	size_t size = strlen(path) + (name ? strlen(name) + 1 : 0) + 1;
	struct folder_left *folder = malloc(sizeof(*folder) + size);

	if (!folder)
		return -ENOMEM;
	folder->next = NULL;
	folder->ino = ino;
	snprintf(folder->path, size, "%s%s%s", path, name ? "/" : "", name ? name : "");
	*lister->below_end = folder;
	lister->below_end = &folder->next;
	return 0;
}

static int link_target(struct ash_volume *volume, const struct ash_attr *attr, char target[4096])
{
	int length = S_ISLNK(attr->mode) ? ash_readlink(volume, attr->ino, target, 4095) : 0;

	target[length > 0 ? length : 0] = 0;
	return length < 0 ? length : 0;
}

static void list_details(const struct ash_attr *attr)
{
	char mode[11], date[32] = "?";
	time_t seconds = attr->mtime.tv_sec;
	struct tm tm;

	mode_text(attr->mode, mode);
	if (localtime_r(&seconds, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M", &tm);
	printf("%8" PRIu64 " %s %3" PRIu32 " %5" PRIu32 " %5" PRIu32 " ", attr->ino, mode, attr->nlink, attr->uid,
	       attr->gid);
	if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode))
		printf("%6u, %3u %s ", major(attr->rdev), minor(attr->rdev), date);
	else
		printf("%11" PRIu64 " %s ", attr->size, date);
}

static void list_text(struct lister *lister, const struct ctl_entry *entry, const char *target)
{
	if (lister->ctl->detailed && entry->error)
		printf("%8" PRIu64 " %-10s %3s %5s %5s %11s %-16s ", entry->attr.ino, "?", "?", "?", "?", "?", "?");
	else if (lister->ctl->detailed)
		list_details(&entry->attr);
	tool_print_text(entry->name);
	if (lister->ctl->detailed && target[0]) {
		fputs(" -> ", stdout);
		tool_print_text(target);
	}
	putchar('\n');
}

static void list_json(struct lister *lister, const struct ctl_entry *entry, const char *target)
{
	json_open(&lister->json, NULL, '{');
	if (lister->ctl->recursive)
		json_string(&lister->json, "folder", lister->path);
	json_bytes(&lister->json, "name", entry->name, entry->name_length);
	if (entry->error) {
		json_number(&lister->json, "inode", entry->attr.ino);
		json_string(&lister->json, "error", strerror(-entry->error));
	} else {
		json_attr(&lister->json, &entry->attr);
	}
	if (target[0])
		json_string(&lister->json, "target", target);
	json_close(&lister->json, '}');
}

static int list_entry(void *context, const struct ctl_entry *found)
{
	struct lister *lister = context;
	struct ctl_entry entry = *found;
	char target[4096];

	if (entry.dot && !lister->ctl->all)
		return 0;
	if (entry.dot && ash_getattr(lister->volume, entry.attr.ino, &entry.attr))
		return 0;
	if (entry.error)
		lister->result = tool_error(entry.error, "%s/%s: %s: %s", strcmp(lister->path, "/") ? lister->path : "",
					    entry.name, ctl_entry_wrong(&entry), strerror(-entry.error));
	if (link_target(lister->volume, &entry.attr, target))
		lister->result = tool_error(-EUCLEAN, "%s/%s: damaged link", lister->path, entry.name);
	if (lister->ctl->json)
		list_json(lister, &entry, target);
	else
		list_text(lister, &entry, target);
	return 0;
}

/* Second pass of -R: the folders below. */
static int note_below(void *context, const struct ctl_entry *entry)
{
	struct lister *lister = context;
	const char *path = strcmp(lister->path, "/") == 0 ? "" : lister->path;

	return entry->dot || !S_ISDIR(entry->attr.mode) ? 0 : note_folder(lister, path, entry->name, entry->attr.ino);
}

static void list_folder(struct lister *lister, const char *path, uint64_t ino)
{
	bool text = lister->ctl->recursive && !lister->ctl->json;
	int result = ctl_visit_once(&lister->visited, ino);

	if (result) {
		lister->result = tool_error(result, "%s: damaged: this folder has two names", path);
		return;
	}
	lister->path = path;
	if (text) {
		tool_print_text(path);
		puts(":");
	}
	result = ctl_each_entry(lister->volume, ino, list_entry, lister);
	if (text)
		putchar('\n');
	if (!result && lister->ctl->recursive)
		result = ctl_each_entry(lister->volume, ino, note_below, lister);
	if (result)
		lister->result = tool_error(result, "%s: %s", path, strerror(-result));
}

/* A folder, and with -R those below it, each before what follows it: a tree may be deeper than a stack. */
static void list_tree(struct lister *lister, const char *path, uint64_t ino)
{
	int result;

	lister->below_end = &lister->below;
	result = note_folder(lister, path, NULL, ino);
	if (result)
		lister->result = tool_error(result, "%s: %s", path, strerror(-result));
	while (lister->below) {
		struct folder_left *folder = lister->below;

		lister->below = NULL;
		lister->below_end = &lister->below;
		list_folder(lister, folder->path, folder->ino);
		*lister->below_end = folder->next;
		free(folder);
	}
}

static void list_single(struct lister *lister, const char *path, const struct ctl_file *file)
{
	struct ctl_entry entry = { .attr = file->attr };
	const char *base = strrchr(path, '/');

	snprintf(entry.name, sizeof(entry.name), "%.255s", base ? base + 1 : path);
	entry.name_length = strlen(entry.name);
	lister->path = path;
	list_entry(lister, &entry);
}

int ctl_ls(const struct ctl *ctl)
{
	const char *path = ctl->count == 2 ? ctl->arguments[1] : "/";
	struct lister lister = { .ctl = ctl };
	struct tool_volume opened;
	struct ctl_file file;
	int result = tool_open(ctl->arguments[0], TOOL_READ, &opened);

	if (result)
		return result;
	lister.volume = opened.volume;
	result = ctl_find(opened.volume, path, &file);
	if (result)
		return tool_close(&opened, result);
	if (ctl->json) {
		json_begin(&lister.json, stdout);
		json_open(&lister.json, NULL, '[');
	}
	if (S_ISDIR(file.attr.mode))
		list_tree(&lister, path, file.attr.ino);
	else
		list_single(&lister, path, &file);
	if (ctl->json) {
		json_close(&lister.json, ']');
		json_end(&lister.json);
	}
	ctl_visited_free(&lister.visited);
	ctl_drop(opened.volume, &file);
	return tool_close(&opened, lister.result);
}

/* ---- stat ---- */

static const struct {
	uint32_t flag;
	const char *name;
} flag_names[] = {
	{ ASH_INODE_SYNC, "S" },   { ASH_INODE_IMMUTABLE, "i" }, { ASH_INODE_APPEND, "a" },
	{ ASH_INODE_NODUMP, "d" }, { ASH_INODE_NOATIME, "A" },
};

static void flags_text(uint32_t flags, char text[16])
{
	text[0] = 0;
	for (unsigned i = 0; i < sizeof(flag_names) / sizeof(flag_names[0]); i++)
		if (flags & flag_names[i].flag)
			strcat(text, flag_names[i].name);
}

struct attribute_names {
	char *list;
	int length;
};

static int read_attribute_names(struct ash_volume *volume, uint64_t ino, struct attribute_names *out)
{
	out->list = NULL;
	out->length = ash_listxattr(volume, ino, NULL, 0);
	if (out->length <= 0)
		return out->length;
	out->list = malloc((size_t)out->length);
	if (!out->list)
		return -ENOMEM;
	out->length = ash_listxattr(volume, ino, out->list, (size_t)out->length);
	return out->length < 0 ? out->length : 0;
}

static void stat_text(const char *path, const struct ash_attr *attr, const char *target,
		      const struct attribute_names *names)
{
	char mode[11], flags[16];

	mode_text(attr->mode, mode);
	flags_text(attr->flags, flags);
	printf("path        ");
	tool_print_text(path);
	if (target[0]) {
		fputs(" -> ", stdout);
		tool_print_text(target);
	}
	printf("\ninode       %" PRIu64 ", generation %" PRIx64 "\n", attr->ino, attr->generation);
	printf("type        %s\nmode        %04o %s\n", type_text(attr->mode), attr->mode & 07777, mode);
	printf("owner       %" PRIu32 ":%" PRIu32 "\nlinks       %" PRIu32 "\n", attr->uid, attr->gid, attr->nlink);
	if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode))
		printf("device      %u, %u\n", major(attr->rdev), minor(attr->rdev));
	printf("size        %" PRIu64 "\nallocated   %" PRIu64 " bytes\n", attr->size, attr->blocks * 512);
	printf("flags       %s\n", flags);
	print_time("access      ", &attr->atime);
	print_time("modify      ", &attr->mtime);
	print_time("change      ", &attr->ctime);
	print_time("birth       ", &attr->btime);
	for (const char *p = names->list; p && p < names->list + names->length; p += strlen(p) + 1) {
		fputs("attribute   ", stdout);
		tool_print_text(p);
		putchar('\n');
	}
}

static void stat_json(const char *path, const struct ash_attr *attr, const char *target,
		      const struct attribute_names *names)
{
	struct json json;

	json_begin(&json, stdout);
	json_open(&json, NULL, '{');
	json_string(&json, "path", path);
	json_attr(&json, attr);
	json_number(&json, "generation", attr->generation);
	json_number(&json, "flags", attr->flags);
	json_time(&json, "atime", &attr->atime);
	json_time(&json, "ctime", &attr->ctime);
	json_time(&json, "btime", &attr->btime);
	if (target[0])
		json_string(&json, "target", target);
	json_open(&json, "attributes", '[');
	for (const char *p = names->list; p && p < names->list + names->length; p += strlen(p) + 1)
		json_string(&json, NULL, p);
	json_close(&json, ']');
	json_close(&json, '}');
	json_end(&json);
}

static int stat_file(const struct ctl *ctl, struct ash_volume *volume, const struct ash_attr *attr)
{
	struct attribute_names names;
	char target[4096];
	int result = link_target(volume, attr, target);

	if (!result)
		result = read_attribute_names(volume, attr->ino, &names);
	else
		names.list = NULL;
	if (result)
		tool_error(result, "%s: %s", ctl->arguments[1], strerror(-result));
	else if (ctl->json)
		stat_json(ctl->arguments[1], attr, target, &names);
	else
		stat_text(ctl->arguments[1], attr, target, &names);
	free(names.list);
	return result;
}

int ctl_stat(const struct ctl *ctl)
{
	struct tool_volume opened;
	struct ctl_file file;
	int result = tool_open(ctl->arguments[0], TOOL_READ, &opened);

	if (result)
		return result;
	result = ctl_find(opened.volume, ctl->arguments[1], &file);
	if (!result) {
		result = stat_file(ctl, opened.volume, &file.attr);
		ctl_drop(opened.volume, &file);
	}
	return tool_close(&opened, result);
}

/* ---- cat ---- */

static int copy_to_stdout(struct ash_volume *volume, const char *name, uint64_t ino)
{
	char *buffer = bdev_buffer_alloc(CHUNK);
	uint64_t offset = 0;
	int64_t got;
	int result = 0;

	if (!buffer)
		return tool_error(-ENOMEM, "out of memory");
	/* Not by stdio, whose stream would remember an error that was told, for a second line at the end. */
	while ((got = ash_read(volume, ino, buffer, CHUNK, offset)) > 0) {
		result = ctl_write_all(STDOUT_FILENO, buffer, (size_t)got, -1);
		if (result) {
			tool_error(result, "standard output: %s", strerror(-result));
			break;
		}
		offset += (uint64_t)got;
	}
	if (got < 0)
		result = tool_error((int)got, "%s: at byte %" PRIu64 ": %s", name, offset, strerror((int)-got));
	bdev_buffer_free(buffer, CHUNK);
	return result;
}

int ctl_cat(const struct ctl *ctl)
{
	const char *name = ctl->arguments[1];
	struct tool_volume opened;
	struct ctl_file file;
	int result = tool_open(ctl->arguments[0], TOOL_READ, &opened);

	if (result)
		return result;
	result = ctl_find(opened.volume, name, &file);
	if (!result && !S_ISREG(file.attr.mode))
		result = tool_error(-EINVAL, "%s: is a %s, not a regular file", name, type_text(file.attr.mode));
	else if (!result)
		result = copy_to_stdout(opened.volume, name, file.attr.ino);
	ctl_drop(opened.volume, &file);
	return tool_close(&opened, result);
}
