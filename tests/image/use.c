/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a user might do to a damaged volume: see judge.h. Errors are no matter; crashes and what is left behind are. */
#include "judge.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/falloc.h>
#include <stdio.h>

#define NAMES_MAX 3u
#define DAMAGED_MAX 3u /* of the affected inodes, so many are changed */

static uint8_t bytes[90000];
static uint64_t lost[16]; /* numbers that lost a name, and may be somebody else by now */
static unsigned lost_count;

static void unlink_name(struct ash_volume *volume, uint64_t parent, const char *name)
{
	uint64_t removed;

	if (!ash_unlink(volume, parent, name, &removed) && lost_count < sizeof(lost) / sizeof(lost[0]))
		lost[lost_count++] = removed;
}

/* ---- A damaged inode ---- */

struct names {
	char names[NAMES_MAX][256];
	unsigned count;
};

static int keep_name(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		     const struct ash_attr *attr)
{
	struct names *names = context;

	(void)ino;
	(void)type;
	(void)next;
	(void)attr;
	if (length <= 2 && !memcmp(name, "..", length))
		return 0;
	snprintf(names->names[names->count++], sizeof(names->names[0]), "%.*s", (int)length, name);
	return names->count == NAMES_MAX;
}

static uint64_t create(struct ash_volume *volume, uint64_t parent, const char *name, uint32_t mode)
{
	struct ash_create create = { .mode = mode, .target = "somewhere", .umask = 022 };
	struct ash_attr attr;

	if (ash_create(volume, parent, name, &create, &attr))
		return 0;
	ash_forget(volume, attr.ino, 1);
	return attr.ino;
}

static void use_directory(struct ash_volume *volume, uint64_t ino)
{
	struct names names = { .count = 0 };
	struct ash_attr attr;
	char name[32];
	uint64_t removed;

	if (ino == ASH_INO_ROOT)
		return; /* in use anyway, and the names in it are needed for the comparison */
	ash_readdir(volume, ino, 0, false, keep_name, &names);
	for (unsigned i = 0; i < 8; i++) {
		snprintf(name, sizeof(name), "new %u", i);
		create(volume, ino, name, i == 3 ? S_IFDIR | 0755 : S_IFREG | 0644);
	}
	for (unsigned i = 0; i < names.count; i++)
		if (!ash_lookup(volume, ino, names.names[i], &attr))
			ash_forget(volume, attr.ino, 1);
	if (names.count > 0)
		unlink_name(volume, ino, names.names[0]);
	if (names.count > 1)
		ash_rename(volume, ino, names.names[1], ino, "renamed", RENAME_NOREPLACE);
	if (names.count > 2)
		ash_rename(volume, ino, names.names[2], ino, "new 1", RENAME_EXCHANGE);
	ash_rmdir(volume, ino, "new 3", &removed);
}

static void use_file(struct ash_volume *volume, uint64_t ino, const struct ash_attr *attr)
{
	struct ash_setattr shorter = { .valid = ASH_SET_SIZE, .size = attr->size / 2 };
	uint64_t block;

	ash_write(volume, ino, bytes, 5000, 3000, 0);
	ash_write(volume, ino, bytes, 4096, 8192, ASH_WRITE_THROUGH);
	ash_write(volume, ino, bytes, 70000, 0, ASH_WRITE_APPEND);
	ash_seek(volume, ino, 0, SEEK_HOLE);
	ash_bmap(volume, ino, 1, &block);
	ash_fallocate(volume, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 12288);
	ash_fallocate(volume, ino, FALLOC_FL_KEEP_SIZE, attr->size < 1u << 24 ? attr->size : 0, 40000);
	ash_setattr(volume, ino, &shorter, NULL);
}

static void use_inode(struct ash_volume *volume, uint64_t ino)
{
	struct ash_setattr mode = { .valid = ASH_SET_MODE | ASH_SET_MTIME_NOW, .mode = 0700 };
	char names[4096], target[4096];
	struct ash_attr attr;

	if (ash_getattr(volume, ino, &attr))
		return;
	ash_setxattr(volume, ino, "user.one", bytes, 20, 0);
	ash_setxattr(volume, ino, "user.two", bytes, 6000, 0);
	ash_setxattr(volume, ino, "user.short", bytes, 700, 0);
	if (ash_listxattr(volume, ino, names, sizeof(names)) > 0)
		ash_removexattr(volume, ino, names);
	ash_setattr(volume, ino, &mode, NULL);
	if (S_ISDIR(attr.mode))
		use_directory(volume, ino);
	else if (S_ISREG(attr.mode))
		use_file(volume, ino, &attr);
	else if (S_ISLNK(attr.mode))
		ash_readlink(volume, ino, target, sizeof(target));
	ash_fsync(volume, ino, false);
}

/* ---- Anywhere ---- */

bool use_changes(const struct image *image, uint64_t ino)
{
	for (unsigned i = 0; i < lost_count; i++)
		if (lost[i] == ino)
			return true;
	return ino == ASH_INO_ROOT || ino == image->empty || ino == image->fifo || ino == image->unwritten_file ||
	       ino == image->short_link;
}

static void use_names(struct ash_volume *volume, const struct image *image)
{
	uint64_t directory = create(volume, ASH_INO_ROOT, "used", S_IFDIR | 0755), file;
	struct ash_attr attr;

	if (!directory)
		directory = ASH_INO_ROOT;
	file = create(volume, directory, "file", S_IFREG | 0644);
	create(volume, directory, "link", S_IFLNK | 0777);
	if (file) {
		ash_write(volume, file, bytes, 3000, 0, 0);
		ash_write(volume, file, bytes, sizeof(bytes), 100000, ASH_WRITE_THROUGH);
		ash_setxattr(volume, file, "user.x", bytes, 5000, 0);
		if (!ash_link(volume, file, ASH_INO_ROOT, "hard name", &attr))
			ash_forget(volume, file, 1);
	}
	ash_rename(volume, directory, "file", ASH_INO_ROOT, "file moved", 0);
	ash_rename(volume, ASH_INO_ROOT, "fifo", directory, "fifo", 0);
	ash_rename(volume, ASH_INO_ROOT, "short", ASH_INO_ROOT, "hard name", RENAME_EXCHANGE);
	unlink_name(volume, ASH_INO_ROOT, "empty");
	ash_write(volume, image->unwritten_file, bytes, 20000, 6000, 0);
}

void use_volume(struct ash_volume *volume, const struct image *image, const struct test *test)
{
	struct ash_statfs stat;
	struct manifest walked;
	uint64_t trimmed;

	lost_count = 0;
	memset(bytes, 0x6b, sizeof(bytes));
	manifest_walk(volume, &walked);
	manifest_free(&walked);
	for (unsigned i = 0; i < test->affected_count && i < DAMAGED_MAX; i++)
		use_inode(volume, test->affected[i]);
	use_names(volume, image);
	ash_sync(volume);
	ash_statfs(volume, &stat);
	ash_trim(volume, 0, UINT64_MAX, 0, &trimmed);
	ash_checkpoint(volume);
}
