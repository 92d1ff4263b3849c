/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The library as a target. */
#include "linear.h"
#include "target.h"

#include <ashlar/ashlar.h>
#include <errno.h>
#include <string.h>

const char *const target_folder_names[TARGET_FOLDERS] = { "n0", "n1", "files", "ballast" };

static void found_from(struct target_found *found, const struct ash_attr *attr)
{
	*found = (struct target_found){
		.ino = attr->ino, .size = attr->size, .owner = attr->uid, .links = attr->nlink, .mode = attr->mode
	};
}

static int make(struct target *target, enum target_folder folder, const char *name, mode_t mode, uint32_t owner,
		struct target_file *file)
{
	struct ash_create create = { .mode = mode, .uid = owner };
	struct ash_attr attr;
	int rc = ash_create(target->volume, target->folders[folder], name, &create, &attr);

	if (!rc)
		*file = (struct target_file){ .ino = attr.ino, .fd = -1 };
	return rc;
}

static int library_create(struct target *target, enum target_folder folder, const char *name, uint32_t owner,
			  struct target_file *file)
{
	return make(target, folder, name, S_IFREG | 0644, owner, file);
}

static void library_close(struct target *target, struct target_file *file)
{
	ash_forget(target->volume, file->ino, 1);
}

static int library_mkdir(struct target *target, enum target_folder folder, const char *name, uint32_t owner)
{
	struct target_file file;
	int rc = make(target, folder, name, S_IFDIR | 0755, owner, &file);

	if (!rc)
		library_close(target, &file);
	return rc;
}

static int library_unlink(struct target *target, enum target_folder folder, const char *name, uint64_t *removed)
{
	return ash_unlink(target->volume, target->folders[folder], name, removed);
}

static int library_rmdir(struct target *target, enum target_folder folder, const char *name)
{
	return ash_rmdir(target->volume, target->folders[folder], name, NULL);
}

static int library_rename(struct target *target, enum target_folder folder, const char *name,
			  enum target_folder other_folder, const char *other, unsigned flags)
{
	return ash_rename(target->volume, target->folders[folder], name, target->folders[other_folder], other, flags);
}

static int library_open(struct target *target, enum target_folder folder, const char *name, bool data,
			struct target_file *file, struct target_found *found)
{
	struct ash_attr attr;
	int rc = ash_lookup(target->volume, target->folders[folder], name, &attr);

	(void)data;
	if (rc)
		return rc;
	found_from(found, &attr);
	*file = (struct target_file){ .ino = attr.ino, .fd = -1 };
	return 0;
}

static int library_lookup(struct target *target, enum target_folder folder, const char *name,
			  struct target_found *found)
{
	struct target_file file;
	int rc = library_open(target, folder, name, false, &file, found);

	if (!rc)
		library_close(target, &file);
	return rc;
}

static int library_stat(struct target *target, struct target_file *file, struct target_found *found)
{
	struct ash_attr attr;
	int rc = ash_getattr(target->volume, file->ino, &attr);

	if (!rc)
		found_from(found, &attr);
	return rc;
}

static int library_link(struct target *target, struct target_file *file, enum target_folder folder, const char *name)
{
	struct ash_attr attr;
	int rc = ash_link(target->volume, file->ino, target->folders[folder], name, &attr);

	if (!rc)
		ash_forget(target->volume, attr.ino, 1);
	return rc;
}

struct listing {
	struct target_list *list;
	uint64_t numbers[TARGET_LIST];
};

static int take_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		      const struct ash_attr *attr)
{
	struct listing *listing = context;
	struct target_list *list = listing->list;

	(void)type;
	(void)next;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return 0;
	if (list->count == TARGET_LIST || length >= sizeof(list->entries[0].name))
		return 1;
	memcpy(list->entries[list->count].name, name, length + 1);
	/* A directory that somebody is just changing has neither attributes nor a count. */
	list->entries[list->count].owner = attr ? attr->uid : LINEAR_ANY;
	listing->numbers[list->count++] = attr ? ino : 0;
	return 0;
}

static int library_list(struct target *target, enum target_folder folder, struct target_list *list)
{
	struct listing listing = { .list = list };
	int rc;

	list->count = 0;
	rc = ash_readdir(target->volume, target->folders[folder], 0, true, take_entry, &listing);
	for (size_t i = 0; i < list->count; i++)
		if (listing.numbers[i])
			ash_forget(target->volume, listing.numbers[i], 1);
	return rc;
}

static int64_t library_read(struct target *target, struct target_file *file, void *buffer, size_t length,
			    uint64_t offset)
{
	return ash_read(target->volume, file->ino, buffer, length, offset);
}

static int64_t library_write(struct target *target, struct target_file *file, const void *buffer, size_t length,
			     uint64_t offset, bool through)
{
	return ash_write(target->volume, file->ino, buffer, length, offset, through ? ASH_WRITE_THROUGH : 0);
}

static int library_truncate(struct target *target, struct target_file *file, uint64_t size)
{
	struct ash_setattr change = { .valid = ASH_SET_SIZE, .size = size };

	return ash_setattr(target->volume, file->ino, &change, NULL);
}

static int library_fallocate(struct target *target, struct target_file *file, int mode, uint64_t offset,
			     uint64_t length)
{
	return ash_fallocate(target->volume, file->ino, mode, offset, length);
}

static int library_fsync(struct target *target, struct target_file *file, bool data_only)
{
	return ash_fsync(target->volume, file->ino, data_only);
}

static int library_sync_folder(struct target *target, enum target_folder folder)
{
	return ash_fsync(target->volume, target->folders[folder], false);
}

static int library_sync(struct target *target)
{
	return ash_sync(target->volume);
}

static int library_checkpoint(struct target *target)
{
	return ash_checkpoint(target->volume);
}

static int library_trim(struct target *target, uint64_t minimum)
{
	uint64_t trimmed;

	return ash_trim(target->volume, 0, UINT64_MAX, minimum, &trimmed);
}

static int library_free_bytes(struct target *target, uint64_t *free)
{
	struct ash_statfs statfs;
	int rc = ash_statfs(target->volume, &statfs);

	if (!rc)
		*free = statfs.available_blocks * statfs.block_size;
	return rc;
}

static void library_forget(struct target *target, struct target_file *file)
{
	(void)target;
	(void)file;
}

static const struct target_operations library_operations = {
	.create = library_create,
	.mkdir = library_mkdir,
	.unlink = library_unlink,
	.rmdir = library_rmdir,
	.rename = library_rename,
	.lookup = library_lookup,
	.open = library_open,
	.close = library_close,
	.stat = library_stat,
	.link = library_link,
	.list = library_list,
	.read = library_read,
	.write = library_write,
	.truncate = library_truncate,
	.fallocate = library_fallocate,
	.fsync = library_fsync,
	.sync_folder = library_sync_folder,
	.sync = library_sync,
	.checkpoint = library_checkpoint,
	.trim = library_trim,
	.free_bytes = library_free_bytes,
	.forget = library_forget,
};

int target_open_library(struct target *target, struct ash_volume *volume)
{
	struct ash_create create = { .mode = S_IFDIR | 0777 };
	struct ash_attr attr;

	*target = (struct target){ .ops = &library_operations, .volume = volume };
	for (int i = 0; i < TARGET_FOLDERS; i++) {
		int rc = ash_lookup(volume, 1, target_folder_names[i], &attr);

		if (rc == -ENOENT)
			rc = ash_create(volume, 1, target_folder_names[i], &create, &attr);
		if (rc)
			return rc;
		target->folders[i] = attr.ino;
	}
	return 0;
}
