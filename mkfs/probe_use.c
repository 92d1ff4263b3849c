/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who uses a device.
 *
 * Concept: one storage can be reached by several names: an image file, and every loop device over it. So the names
 * are collected first (struct names), then each is asked: mounted? swap? claimed by the kernel? locked by an Ashlar
 * program? The first yes is the answer, with the reason in words.
 *
 * Rules: read-only; an exclusive open is given back at once. What cannot be looked at (no permission) counts as
 * free here: bdev_open() and bdev_lock() are asked again by whoever goes on to write.
 */
#include "mkfs/probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define NAMES_MAX 64
#define WAIT_STEP_MS 50u

struct names {
	unsigned count;
	char *paths[NAMES_MAX]; /* the first is the one asked for */
};

static void names_free(struct names *names)
{
	while (names->count)
		free(names->paths[--names->count]);
}

static int names_add(struct names *names, const char *path)
{
	for (unsigned i = 0; i < names->count; i++)
		if (strcmp(names->paths[i], path) == 0)
			return 0;
	if (names->count == NAMES_MAX)
		return 0;
	names->paths[names->count] = strdup(path);
	if (!names->paths[names->count])
		return -ENOMEM;
	names->count++;
	return 0;
}

/* ---- Names of one storage ---- */

/* The file behind /dev/loopN; empty for other devices. */
static void loop_backing_file(const char *loop, char path[PATH_MAX])
{
	char attribute[300];
	size_t length;
	FILE *file;

	path[0] = 0;
	snprintf(attribute, sizeof(attribute), "/sys/block/%s/loop/backing_file", loop);
	file = fopen(attribute, "re");
	if (!file)
		return;
	if (!fgets(path, PATH_MAX, file))
		path[0] = 0;
	fclose(file);
	length = strlen(path);
	if (length && path[length - 1] == '\n')
		path[length - 1] = 0;
}

static bool same_storage(const struct stat *a, const struct stat *b)
{
	if (S_ISBLK(a->st_mode) && S_ISBLK(b->st_mode))
		return a->st_rdev == b->st_rdev;
	return S_ISREG(a->st_mode) && S_ISREG(b->st_mode) && a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* What the kernel says lies behind a loop device, in the fields that same_storage() asks for. Needs no name of it. */
static bool loop_identity(const char *path, struct stat *out)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct loop_info64 info;
	bool known = fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0;

	if (fd >= 0)
		close(fd);
	if (!known)
		return false;
	memset(out, 0, sizeof(*out));
	out->st_mode = info.lo_rdevice ? S_IFBLK : S_IFREG;
	out->st_rdev = info.lo_rdevice;
	out->st_dev = info.lo_device;
	out->st_ino = info.lo_inode;
	return true;
}

/*
 * What lies behind /dev/loopN; false: nothing, or nobody tells. The name in `path` is the one it had when it was
 * attached: the file may have lost it since, or another one have it. It counts only where we may not ask the device.
 */
static bool loop_backing(const char *loop, char path[PATH_MAX], struct stat *out)
{
	char device[300];

	loop_backing_file(loop, path);
	if (!path[0])
		return false;
	snprintf(device, sizeof(device), "/dev/%s", loop);
	return loop_identity(device, out) || stat(path, out) == 0;
}

/* Every loop device over the storage of `st`. */
static int add_loops(struct names *names, const struct stat *st)
{
	DIR *folder = opendir("/sys/block");
	struct dirent *entry;
	int result = 0;

	while (folder && !result && (entry = readdir(folder))) {
		char backing[PATH_MAX], path[300];
		struct stat other;

		if (strncmp(entry->d_name, "loop", 4) != 0)
			continue;
		if (!loop_backing(entry->d_name, backing, &other) || !same_storage(st, &other))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		result = names_add(names, path);
	}
	if (folder)
		closedir(folder);
	return result;
}

/* Of a loop device: what lies behind it takes its place in `st`, and its name is added if it still has it. */
static int add_backing(struct names *names, struct stat *st)
{
	char link[64], target[PATH_MAX] = "", backing[PATH_MAX];
	struct stat behind, named;

	snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major(st->st_rdev), minor(st->st_rdev));
	if (readlink(link, target, sizeof(target) - 1) <= 0 || !strrchr(target, '/'))
		return 0;
	if (!loop_backing(strrchr(target, '/') + 1, backing, &behind))
		return 0;
	*st = behind;
	return stat(backing, &named) == 0 && same_storage(&behind, &named) ? names_add(names, backing) : 0;
}

static int collect_names(const char *path, struct names *names)
{
	struct stat st;
	int result;

	names->count = 0;
	if (stat(path, &st))
		return -errno;
	result = names_add(names, path);
	if (!result && S_ISBLK(st.st_mode))
		result = add_backing(names, &st);
	if (!result)
		result = add_loops(names, &st);
	if (result)
		names_free(names);
	return result;
}

/* ---- Mounts and swap ---- */

/* mountinfo and swaps write space, tab, newline and backslash as \ooo. */
static void unescape(char *text)
{
	char *out = text;

	while (*text) {
		unsigned code;

		if (text[0] == '\\' && sscanf(text + 1, "%3o", &code) == 1 && strlen(text) >= 4) {
			*out++ = (char)code;
			text += 4;
		} else {
			*out++ = *text++;
		}
	}
	*out = 0;
}

struct mount_line {
	int id;
	dev_t device;
	char *where, *type, *source, *options; /* options: of the filesystem */
};

/* Fields of a line of /proc/self/mountinfo; see proc(5). */
static bool parse_mount(char *line, struct mount_line *out)
{
	char *save = NULL, *field = strtok_r(line, " \n", &save);
	unsigned major_number = 0, minor_number = 0;

	out->where = NULL;
	out->id = field ? atoi(field) : -1;
	for (unsigned i = 0; field && strcmp(field, "-") != 0; i++) {
		if (i == 2)
			sscanf(field, "%u:%u", &major_number, &minor_number);
		if (i == 4)
			out->where = field;
		field = strtok_r(NULL, " \n", &save);
	}
	out->type = field && out->where ? strtok_r(NULL, " \n", &save) : NULL;
	if (!out->type)
		return false;
	out->source = strtok_r(NULL, " \n", &save);
	out->options = out->source ? strtok_r(NULL, " \n", &save) : NULL;
	out->device = makedev(major_number, minor_number);
	unescape(out->where);
	if (out->source)
		unescape(out->source);
	return true;
}

/*
 * fusermount3 mounts for every user, from whatever source he says: nobody shall keep others from a device by that. So
 * of FUSE mounts those of root count, and the caller's own. Another's that is really of this storage has it locked or
 * claimed.
 */
static bool source_is_believed(struct mount_line *mount)
{
	char *save = NULL, *option;
	unsigned user;

	if (strcmp(mount->type, "fuse") != 0 && strncmp(mount->type, "fuse.", 5) != 0)
		return true;
	option = mount->options ? strtok_r(mount->options, ",", &save) : NULL;
	for (; option; option = strtok_r(NULL, ",", &save))
		if (sscanf(option, "user_id=%u", &user) == 1)
			return user == 0 || user == geteuid();
	return false;
}

/* By device number; by the source's name as well, since some filesystems have numbers of their own (btrfs, fuse). */
static bool mount_is_of(const struct stat *st, struct mount_line *mount)
{
	struct stat other;

	if (S_ISBLK(st->st_mode) && st->st_rdev == mount->device)
		return true;
	return mount->source && mount->source[0] == '/' && source_is_believed(mount) &&
	       stat(mount->source, &other) == 0 && same_storage(st, &other);
}

static int find_mount(const char *path, char where[PROBE_TEXT])
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	size_t size = 0;
	char *line = NULL;
	struct stat st;
	int found = 0;

	if (!mounts)
		return 0;
	if (stat(path, &st) == 0) {
		while (!found && getline(&line, &size, mounts) > 0) {
			struct mount_line mount;

			if (parse_mount(line, &mount) && mount_is_of(&st, &mount)) {
				snprintf(where, PROBE_TEXT, "%.*s", PROBE_TEXT - 1, mount.where);
				found = 1;
			}
		}
	}
	free(line);
	fclose(mounts);
	return found;
}

/* With this device number, or, where `st` is NULL, with this id. */
static bool find_ours(const struct stat *st, int id)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	size_t size = 0;
	char *line = NULL;
	bool found = false;

	if (!mounts)
		return false;
	while (!found && getline(&line, &size, mounts) > 0) {
		struct mount_line mount;

		found = parse_mount(line, &mount) && (st ? mount.device == st->st_dev : mount.id == id) &&
			(strcmp(mount.type, "fuseblk.ashlar") == 0 || strcmp(mount.type, "fuse.ashlar") == 0);
	}
	free(line);
	fclose(mounts);
	return found;
}

bool probe_is_ours(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && find_ours(&st, 0);
}

/* The kernel tells of the mount of a descriptor without asking the file system. -1: it does not. */
static int mount_id(int fd)
{
	char path[64], line[128];
	FILE *info;
	int id = -1;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = fopen(path, "re");
	while (info && id < 0 && fgets(line, sizeof(line), info))
		if (sscanf(line, "mnt_id: %d", &id) != 1)
			id = -1;
	if (info)
		fclose(info);
	return id;
}

bool probe_is_private(const char *path)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	struct stat st;
	bool found;

	if (fd < 0)
		return false;
	found = fstat(fd, &st) && errno == EACCES && find_ours(NULL, mount_id(fd));
	close(fd);
	return found;
}

static int find_swap(const char *path)
{
	FILE *swaps = fopen("/proc/swaps", "re");
	char line[PATH_MAX + 128];
	struct stat st, other;
	int found = 0;

	if (!swaps)
		return 0;
	if (stat(path, &st) == 0) {
		while (!found && fgets(line, sizeof(line), swaps)) {
			char *end = strpbrk(line, " \t\n");

			if (!end || line[0] != '/')
				continue;
			*end = 0;
			unescape(line);
			found = stat(line, &other) == 0 && same_storage(&st, &other);
		}
	}
	fclose(swaps);
	return found;
}

/* ---- Claims and locks ---- */

static bool is_claimed(const char *path)
{
	struct stat st;
	int fd;

	if (stat(path, &st) || !S_ISBLK(st.st_mode))
		return false;
	fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		close(fd);
	return fd < 0 && errno == EBUSY;
}

static bool is_locked(const char *path)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	bool locked;

	if (fd < 0)
		return false;
	locked = fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
	close(fd);
	return locked;
}

/* What can be told by name. */
static int name_mounted(const char *path, const char *through, char what[PROBE_TEXT])
{
	char where[PROBE_TEXT] = "";

	if (find_mount(path, where))
		snprintf(what, PROBE_TEXT, "is mounted on %.200s%.200s", where, through);
	else if (find_swap(path))
		snprintf(what, PROBE_TEXT, "is in use as swap space%.200s", through);
	else
		return 0;
	return 1;
}

static int name_held(const char *path, const char *through, char what[PROBE_TEXT])
{
	if (is_locked(path))
		snprintf(what, PROBE_TEXT, "is in use by another Ashlar program%.200s", through);
	else if (is_claimed(path))
		snprintf(what, PROBE_TEXT, "is in use by the kernel (mount, RAID, LVM or device mapper)%.200s",
			 through);
	else
		return 0;
	return 1;
}

static int any_name(const struct names *names, int (*ask)(const char *, const char *, char *), char what[PROBE_TEXT])
{
	char through[PROBE_TEXT] = "";
	int result = 0;

	for (unsigned i = 0; i < names->count && !result; i++) {
		if (i)
			snprintf(through, sizeof(through), " (as %.200s)", names->paths[i]);
		result = ask(names->paths[i], through, what);
	}
	return result;
}

/* A mount is asked for under every name before a lock is: it says more, and nobody waits for its end. */
static int find_use(const char *path, bool *mounted, char what[PROBE_TEXT])
{
	struct names names;
	int result = collect_names(path, &names);

	*mounted = false;
	if (result)
		return result;
	result = any_name(&names, name_mounted, what);
	*mounted = result > 0;
	if (!result)
		result = any_name(&names, name_held, what);
	names_free(&names);
	return result;
}

int probe_in_use(const char *path, char what[PROBE_TEXT])
{
	bool mounted;

	return find_use(path, &mounted, what);
}

int probe_wait_free(const char *path, unsigned timeout_ms, char what[PROBE_TEXT])
{
	bool mounted;

	for (unsigned waited = 0;; waited += WAIT_STEP_MS) {
		int result = find_use(path, &mounted, what);

		if (result <= 0 || mounted || waited >= timeout_ms)
			return result;
		usleep(WAIT_STEP_MS * 1000);
	}
}

int probe_mount_point(const char *path, char where[PROBE_TEXT])
{
	struct names names;
	int result = collect_names(path, &names);

	if (result)
		return result;
	for (unsigned i = 0; i < names.count && !result; i++)
		result = find_mount(names.paths[i], where);
	names_free(&names);
	return result;
}
