/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mounted volume as a target: system calls.
 *
 * Creation gives the object its owner through the thread's file system user (setfsuid); everything else is done as
 * root. A reference to something that is not read or written is an O_PATH descriptor: link(2) by path would look its
 * source up a second time.
 */
#include "linear.h"
#include "target.h"

#include <ashlar/ashlar.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define LIST_BYTES 65536

static int at(const struct target *target, enum target_folder folder)
{
	return (int)target->folders[folder];
}

static int answer(int rc)
{
	return rc < 0 ? -errno : rc;
}

static int mount_create(struct target *target, enum target_folder folder, const char *name, uint32_t owner,
			struct target_file *file)
{
	struct stat st;
	int fd, rc;

	setfsuid(owner);
	fd = openat(at(target, folder), name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	rc = answer(fd);
	setfsuid(0);
	if (rc < 0)
		return rc;
	*file = (struct target_file){ .fd = fd };
	if (fstat(fd, &st))
		return -errno;
	file->ino = st.st_ino;
	return 0;
}

static int mount_mkdir(struct target *target, enum target_folder folder, const char *name, uint32_t owner)
{
	int rc;

	setfsuid(owner);
	rc = answer(mkdirat(at(target, folder), name, 0755));
	setfsuid(0);
	return rc;
}

static int mount_unlink(struct target *target, enum target_folder folder, const char *name, uint64_t *removed)
{
	if (removed)
		*removed = 0;
	return answer(unlinkat(at(target, folder), name, 0));
}

static int mount_rmdir(struct target *target, enum target_folder folder, const char *name)
{
	return answer(unlinkat(at(target, folder), name, AT_REMOVEDIR));
}

static int mount_rename(struct target *target, enum target_folder folder, const char *name,
			enum target_folder other_folder, const char *other, unsigned flags)
{
	return answer(renameat2(at(target, folder), name, at(target, other_folder), other, flags));
}

/*
 * Attributes as the daemon has them now. What the kernel remembers of them is not good enough for link counts: it counts
 * down by itself after an UNLINK, also when another answer has told it the new count already.
 */
static int mount_statx(int fd, const char *name, int flags, struct target_found *found)
{
	struct statx stx;

	if (statx(fd, name, flags | AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &stx))
		return -errno;
	*found = (struct target_found){ .ino = stx.stx_ino,
					.size = stx.stx_size,
					.owner = stx.stx_uid,
					.links = stx.stx_nlink,
					.mode = stx.stx_mode };
	return 0;
}

static int mount_lookup(struct target *target, enum target_folder folder, const char *name, struct target_found *found)
{
	return mount_statx(at(target, folder), name, 0, found);
}

static int mount_stat(struct target *target, struct target_file *file, struct target_found *found)
{
	(void)target;
	return mount_statx(file->fd, "", AT_EMPTY_PATH, found);
}

static void mount_close(struct target *target, struct target_file *file)
{
	(void)target;
	close(file->fd);
}

static int mount_open(struct target *target, enum target_folder folder, const char *name, bool data,
		      struct target_file *file, struct target_found *found)
{
	int rc;

	file->fd = openat(at(target, folder), name, (data ? O_RDWR : O_PATH) | O_NOFOLLOW | O_CLOEXEC);
	if (file->fd < 0)
		return -errno;
	rc = mount_stat(target, file, found);
	file->ino = found->ino;
	if (rc)
		mount_close(target, file);
	return rc;
}

static int mount_link(struct target *target, struct target_file *file, enum target_folder folder, const char *name)
{
	return answer(linkat(file->fd, "", at(target, folder), name, AT_EMPTY_PATH));
}

static void take_entries(struct target_list *list, const char *buffer, ssize_t got)
{
	for (ssize_t from = 0; from < got && list->count < TARGET_LIST;) {
		const struct dirent64 *entry = (const void *)(buffer + from);

		from += entry->d_reclen;
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		snprintf(list->entries[list->count].name, sizeof(list->entries[0].name), "%.39s", entry->d_name);
		list->entries[list->count++].owner = LINEAR_ANY;
	}
}

/*
 * Of the folders whose lists are judged, one getdents64(2), which holds all of a small folder. A second one could join a
 * list that the kernel keeps for somebody else from before the last change (kernel 6.18, when OPENDIR is not
 * answered): names would seem to come back.
 */
static int mount_list(struct target *target, enum target_folder folder, struct target_list *list)
{
	int fd = openat(at(target, folder), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char *buffer = malloc(LIST_BYTES);
	ssize_t got;
	int rc;

	list->count = 0;
	do {
		got = fd < 0 || !buffer ? -1 : getdents64(fd, buffer, LIST_BYTES);
		rc = got < 0 ? -errno : 0;
		take_entries(list, buffer, got);
	} while (got > 0 && folder != FOLDER_NAMES_0 && folder != FOLDER_NAMES_1);
	free(buffer);
	if (fd >= 0)
		close(fd);
	return rc;
}

static int64_t mount_read(struct target *target, struct target_file *file, void *buffer, size_t length, uint64_t offset)
{
	int64_t got = 0;

	(void)target;
	while (length) {
		ssize_t part = pread(file->fd, (char *)buffer + got, length, (off_t)offset + got);

		if (part < 0)
			return got ? got : -errno;
		if (!part)
			break;
		got += part;
		length -= (size_t)part;
	}
	return got;
}

static int64_t mount_write(struct target *target, struct target_file *file, const void *buffer, size_t length,
			   uint64_t offset, bool through)
{
	char path[40];
	ssize_t rc;
	int fd;

	(void)target;
	if (!through || (offset | length) % 4096) {
		rc = pwrite(file->fd, buffer, length, (off_t)offset);
		return rc < 0 ? -errno : rc;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = pwrite(fd, buffer, length, (off_t)offset);
	if (rc < 0)
		rc = -errno;
	close(fd);
	return rc;
}

static int mount_truncate(struct target *target, struct target_file *file, uint64_t size)
{
	(void)target;
	return answer(ftruncate(file->fd, (off_t)size));
}

static int mount_fallocate(struct target *target, struct target_file *file, int mode, uint64_t offset, uint64_t length)
{
	(void)target;
	return answer(fallocate(file->fd, mode, (off_t)offset, (off_t)length));
}

static int mount_fsync(struct target *target, struct target_file *file, bool data_only)
{
	(void)target;
	return answer(data_only ? fdatasync(file->fd) : fsync(file->fd));
}

static int mount_sync_folder(struct target *target, enum target_folder folder)
{
	return answer(fsync(at(target, folder)));
}

static int mount_sync(struct target *target)
{
	return answer(syncfs(at(target, FOLDER_FILES)));
}

static int mount_trim(struct target *target, uint64_t minimum)
{
	struct fstrim_range range = { .len = UINT64_MAX, .minlen = minimum };

	return answer(ioctl(at(target, FOLDER_FILES), FITRIM, &range));
}

static int mount_free_bytes(struct target *target, uint64_t *free)
{
	struct statvfs st;

	if (fstatvfs(at(target, FOLDER_FILES), &st))
		return -errno;
	*free = (uint64_t)st.f_bavail * st.f_frsize;
	return 0;
}

static void mount_forget(struct target *target, struct target_file *file)
{
	(void)target;
	posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
}

static const struct target_operations mount_operations = {
	.create = mount_create,
	.mkdir = mount_mkdir,
	.unlink = mount_unlink,
	.rmdir = mount_rmdir,
	.rename = mount_rename,
	.lookup = mount_lookup,
	.open = mount_open,
	.close = mount_close,
	.stat = mount_stat,
	.link = mount_link,
	.list = mount_list,
	.read = mount_read,
	.write = mount_write,
	.truncate = mount_truncate,
	.fallocate = mount_fallocate,
	.fsync = mount_fsync,
	.sync_folder = mount_sync_folder,
	.sync = mount_sync,
	.checkpoint = mount_sync,
	.trim = mount_trim,
	.free_bytes = mount_free_bytes,
	.forget = mount_forget,
};

int target_open_mount(struct target *target, const char *path)
{
	char folder[300];

	*target = (struct target){ .ops = &mount_operations, .kernel = true };
	for (int i = 0; i < TARGET_FOLDERS; i++) {
		int fd;

		snprintf(folder, sizeof(folder), "%s/%s", path, target_folder_names[i]);
		if ((mkdir(folder, 0777) && errno != EEXIST) || chmod(folder, 0777))
			return -errno;
		fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		target->folders[i] = (uint64_t)fd;
	}
	return 0;
}

void target_close(struct target *target)
{
	for (int i = 0; i < TARGET_FOLDERS; i++) {
		if (target->volume)
			ash_forget(target->volume, target->folders[i], 1);
		else
			close((int)target->folders[i]);
	}
}
