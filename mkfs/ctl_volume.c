/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands about a volume as a whole: info, label, uuid, resize, trim.
 *
 * Rules: what only prints opens with no_write. What changes opens exclusively, so that a mounted volume is
 * refused, with one exception that the kernel offers for mounted ones: trim (FITRIM).
 */
#include "mkfs/ctl.h"
#include "mkfs/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* ---- info ---- */

struct info {
	const char *device;
	struct ash_volume_info volume;
	bool in_use; /* read from block 0 alone: the figures that change are not known */
	char use[PROBE_TEXT];
};

static void info_from_super(struct info *info, const struct ash_super *super)
{
	struct ash_volume_info *volume = &info->volume;

	memset(volume, 0, sizeof(*volume));
	memcpy(volume->uuid, super->uuid, sizeof(volume->uuid));
	memcpy(volume->metadata_uuid, super->header.metadata_uuid, sizeof(volume->metadata_uuid));
	memcpy(volume->label, super->label, ASH_LABEL_SIZE);
	volume->block_count = ash_get64(super->block_count);
	volume->group_count = ash_get32(super->group_count);
	volume->log_start = ash_get64(super->log_start);
	volume->log_blocks = ash_get64(super->log_blocks);
	volume->group_table_start = ash_get64(super->group_table_start);
	volume->group_table_blocks = ash_get64(super->group_table_blocks);
	volume->compat = ash_get64(super->compat);
	volume->ro_compat = ash_get64(super->ro_compat);
	volume->incompat = ash_get64(super->incompat);
	volume->created = ash_get64(super->created);
	volume->error_count = ash_get64(super->error_count);
	volume->error_time = ash_get64(super->error_time);
	volume->inode_runs = ash_get64(super->inode_runs);
	volume->version = ash_get32(super->version);
	volume->inodes_per_run = ash_get32(super->inodes_per_run);
	volume->state = ash_get32(super->state);
}

/* A volume in use belongs to its owner; block 0 alone says what does not change. */
static int info_in_use(struct info *info)
{
	struct ctl_raw raw;
	int result = ctl_open_raw(info->device, false, &raw);

	if (result)
		return result;
	info_from_super(info, raw.super);
	ctl_close_raw(&raw);
	return 0;
}

static int info_read(struct info *info)
{
	const char *path = tool_device_path(info->device);
	struct tool_volume opened;
	int result;

	info->in_use = path && probe_in_use(path, info->use) > 0;
	if (info->in_use)
		return info_in_use(info);
	result = tool_open(info->device, TOOL_READ, &opened);
	if (result)
		return result;
	result = ash_volume_info(opened.volume, &info->volume);
	if (result)
		tool_error(result, "%s: %s", info->device, strerror(-result));
	return tool_close(&opened, result);
}

/* Of a volume in use the device has the state of before: what its owner has met is written there by the unmount. */
static const char *state_in_use(const struct info *info)
{
	char where[PROBE_TEXT];
	bool mounted = probe_mount_point(tool_device_path(info->device), where) > 0;

	if (info->volume.state & ASH_STATE_ERRORS)
		return mounted ? "mounted; damage was met before: run fsck.ashlar when it is unmounted" :
				 "in use; damage was met before: run fsck.ashlar";
	return mounted ? "mounted" : "in use";
}

static const char *state_text(const struct info *info)
{
	if (info->in_use)
		return state_in_use(info);
	if (info->volume.state & ASH_STATE_ERRORS)
		return "damage was met: run fsck.ashlar";
	return info->volume.was_clean ? "good" : "not closed in order: the next mount replays the log";
}

static void info_dates(const struct ash_volume_info *volume)
{
	time_t created = (time_t)volume->created, damaged = (time_t)volume->error_time;
	char text[64] = "";
	struct tm tm;

	if (localtime_r(&created, &tm))
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %z", &tm);
	printf("created        %s\n", text);
	if (volume->error_count && localtime_r(&damaged, &tm)) {
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S %z", &tm);
		printf("errors         %" PRIu64 ", last at %s\n", volume->error_count, text);
	}
}

static void info_use(const char *device)
{
	char where[PROBE_TEXT];

	if (probe_mount_point(tool_device_path(device), where) <= 0) {
		puts("in use         by another program");
		return;
	}
	fputs("mounted        on ", stdout);
	tool_print_text(where);
	putchar('\n');
}

static void info_text(const struct info *info)
{
	const struct ash_volume_info *volume = &info->volume;
	char uuid[TOOL_UUID_TEXT], size[32], free_size[32], log[32];

	tool_format_uuid(volume->uuid, uuid);
	tool_format_size(volume->block_count << ASH_BLOCK_SHIFT, size);
	tool_format_size(volume->free_blocks << ASH_BLOCK_SHIFT, free_size);
	tool_format_size(volume->log_blocks << ASH_BLOCK_SHIFT, log);
	fputs("label          ", stdout);
	tool_print_text(volume->label);
	printf("\nUUID           %s\n", uuid);
	printf("format         version %" PRIu32 ", features %" PRIx64 " %" PRIx64 " %" PRIx64
	       " (compat, ro, incompat)\n",
	       volume->version, volume->compat, volume->ro_compat, volume->incompat);
	printf("state          %s\n", state_text(info));
	info_dates(volume);
	printf("size           %s, %" PRIu64 " blocks of 4 KiB in %" PRIu64 " groups\n", size, volume->block_count,
	       volume->group_count);
	printf("log            %s at block %" PRIu64 "\n", log, volume->log_start);
	if (info->in_use) {
		info_use(info->device);
		return;
	}
	printf("free           %s, %" PRIu64 " blocks\n", free_size, volume->free_blocks);
	printf("inodes         %" PRIu64 " in use, %" PRIu64 " runs of %" PRIu32 "\n", volume->used_inodes,
	       volume->inode_runs, volume->inodes_per_run);
	printf("mount epoch    %" PRIu64 "\n", volume->epoch);
	printf("log positions  tail %" PRIu64 ", end %" PRIu64 " (LSN)\n", volume->log_tail_lsn, volume->log_end_lsn);
}

static void info_json_changing(struct json *json, const struct ash_volume_info *volume)
{
	json_number(json, "state", volume->state);
	json_bool(json, "clean", volume->was_clean);
	json_number(json, "free_blocks", volume->free_blocks);
	json_number(json, "used_inodes", volume->used_inodes);
	json_number(json, "epoch", volume->epoch);
	json_number(json, "log_tail_lsn", volume->log_tail_lsn);
	json_number(json, "log_end_lsn", volume->log_end_lsn);
}

static void info_json(const struct info *info)
{
	const struct ash_volume_info *volume = &info->volume;
	char uuid[TOOL_UUID_TEXT], metadata_uuid[TOOL_UUID_TEXT];
	struct json json;

	tool_format_uuid(volume->uuid, uuid);
	tool_format_uuid(volume->metadata_uuid, metadata_uuid);
	json_begin(&json, stdout);
	json_open(&json, NULL, '{');
	json_string(&json, "device", info->device);
	json_bool(&json, "in_use", info->in_use);
	json_string(&json, "label", volume->label);
	json_string(&json, "uuid", uuid);
	json_string(&json, "metadata_uuid", metadata_uuid);
	json_number(&json, "version", volume->version);
	json_number(&json, "compat", volume->compat);
	json_number(&json, "ro_compat", volume->ro_compat);
	json_number(&json, "incompat", volume->incompat);
	json_number(&json, "created", volume->created);
	json_number(&json, "error_count", volume->error_count);
	json_number(&json, "error_time", volume->error_time);
	json_number(&json, "block_size", ASH_BLOCK_SIZE);
	json_number(&json, "blocks", volume->block_count);
	json_number(&json, "groups", volume->group_count);
	json_number(&json, "group_table_start", volume->group_table_start);
	json_number(&json, "group_table_blocks", volume->group_table_blocks);
	json_number(&json, "log_start", volume->log_start);
	json_number(&json, "log_blocks", volume->log_blocks);
	json_number(&json, "inode_runs", volume->inode_runs);
	json_number(&json, "inodes_per_run", volume->inodes_per_run);
	if (!info->in_use)
		info_json_changing(&json, volume);
	json_close(&json, '}');
	json_end(&json);
}

/* ---- info --export ---- */

#define EXPORT_NO_VOLUME 2 /* as of blkid(8) */

/* For udev, which asks about every device that nobody else knows: no message about what is not ours. */
static int info_export(const char *device)
{
	const char *path = tool_device_path(device);
	char uuid[TOOL_UUID_TEXT];
	struct probe_volume volume;
	int result = path ? probe_volume(path, &volume) : -EINVAL;

	if (result < 0)
		return tool_error(result, "%s: %s", device, strerror(-result));
	if (!result)
		return EXPORT_NO_VOLUME;
	tool_format_uuid(volume.uuid, uuid);
	printf("ID_FS_TYPE=ashlar\nID_FS_USAGE=filesystem\nID_FS_VERSION=%" PRIu32 "\n", volume.version);
	printf("ID_FS_UUID=%s\nID_FS_UUID_ENC=%s\n", uuid, uuid);
	if (volume.label_encoded[0])
		printf("ID_FS_LABEL=%s\nID_FS_LABEL_ENC=%s\n", volume.label, volume.label_encoded);
	return 0;
}

int ctl_info(const struct ctl *ctl)
{
	struct info info = { .device = ctl->arguments[0] };
	int result;

	if (ctl->export)
		return info_export(ctl->arguments[0]);
	result = info_read(&info);
	if (result)
		return result;
	if (ctl->json)
		info_json(&info);
	else
		info_text(&info);
	return 0;
}

/* ---- label and uuid ---- */

int ctl_label(const struct ctl *ctl)
{
	struct info info = { .device = ctl->arguments[0] };
	struct tool_volume opened;
	int result;

	if (ctl->count == 1) {
		result = info_read(&info);
		if (!result)
			tool_print_text(info.volume.label);
		if (!result)
			putchar('\n');
		return result;
	}
	if (strlen(ctl->arguments[1]) > ASH_LABEL_SIZE)
		return tool_error(-1, "the label is longer than %u bytes", ASH_LABEL_SIZE);
	result = tool_open(ctl->arguments[0], TOOL_WRITE, &opened);
	if (result)
		return result;
	result = ash_set_label(opened.volume, ctl->arguments[1]);
	if (result)
		tool_error(result, "%s: setting the label: %s", ctl->arguments[0], strerror(-result));
	return tool_close(&opened, result);
}

static int print_uuid(const char *device)
{
	struct info info = { .device = device };
	char text[TOOL_UUID_TEXT];
	int result = info_read(&info);

	if (result)
		return result;
	tool_format_uuid(info.volume.uuid, text);
	puts(text);
	return 0;
}

int ctl_uuid(const struct ctl *ctl)
{
	struct tool_volume opened;
	uint8_t uuid[16];
	int result;

	if (ctl->count == 1)
		return print_uuid(ctl->arguments[0]);
	if (tool_parse_uuid(ctl->arguments[1], uuid))
		return tool_error(-1, "'%s' is not a UUID: give 32 hexadecimal digits or 'random'", ctl->arguments[1]);
	result = tool_open(ctl->arguments[0], TOOL_WRITE, &opened);
	if (result)
		return result;
	result = ash_set_uuid(opened.volume, uuid);
	if (result)
		tool_error(result, "%s: setting the UUID: %s", ctl->arguments[0], strerror(-result));
	return tool_close(&opened, result);
}

/* ---- resize ---- */

struct resize {
	const char *device, *path; /* as given; without the driver's name, NULL where there is none */
	uint64_t size;             /* bytes; 0: all of the device */
	uint64_t limit;            /* bytes that the volume's group table has room for */
	uint64_t old_size;         /* bytes of the image file before it was lengthened; 0: it was not */
};

static int too_large(const struct resize *resize)
{
	char limit[32];

	tool_format_size(resize->limit, limit);
	return tool_error(-1, "%s: can grow to %" PRIu64 " bytes (%s) at most: the group table has room for no more",
			  resize->device, resize->limit, limit);
}

/* Only a volume that is free and good may be made longer; looked at before the file is touched. */
static int check_growable(struct resize *resize)
{
	struct info info = { .device = resize->device };
	int result = info_read(&info);

	if (result)
		return result;
	if (info.in_use)
		return tool_error(-1, "%s %s: unmount it to make it grow", resize->device, info.use);
	if (resize->size && resize->size >> ASH_BLOCK_SHIFT < info.volume.block_count)
		return tool_error(-1, "%s: has %" PRIu64 " bytes; volumes can grow, not shrink", resize->device,
				  info.volume.block_count << ASH_BLOCK_SHIFT);
	/* As ash_grow() will judge; a rest behind the last group would be left alone anyway. */
	resize->limit = info.volume.group_table_blocks * ASH_GROUPS_PER_TABLE_BLOCK * ASH_BLOCKS_PER_GROUP
			<< ASH_BLOCK_SHIFT;
	return resize->size > resize->limit ? too_large(resize) : 0;
}

/* An image file is made longer first; a device has the size that it has. */
static int lengthen_file(struct resize *resize)
{
	struct stat st;

	if (!resize->size || !resize->path)
		return 0;
	if (tool_check_kind(resize->path) || stat(resize->path, &st))
		return -1;
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size >= resize->size)
		return 0;
	if (truncate(resize->path, (off_t)resize->size))
		return tool_error(-1, "%s: %s", resize->path, strerror(errno));
	resize->old_size = (uint64_t)st.st_size;
	return 0;
}

/*
 * After a failure. The volume may be larger than before all the same, in its log at least: it is asked anew, and the
 * file never gets shorter than it.
 */
static void undo_lengthening(const struct resize *resize)
{
	struct info info = { .device = resize->device };
	uint64_t size = resize->old_size;

	if (!size)
		return;
	if (info_read(&info) || info.in_use) {
		tool_error(0, "%s: the file stays at %" PRIu64 " bytes", resize->path, resize->size);
		return;
	}
	if (size < info.volume.block_count << ASH_BLOCK_SHIFT)
		size = info.volume.block_count << ASH_BLOCK_SHIFT;
	if (truncate(resize->path, (off_t)size))
		tool_error(0, "%s: could not be made as short as before: %s", resize->path, strerror(errno));
}

static int grow(const struct resize *resize)
{
	const char *device = resize->device;
	struct ash_volume_info info;
	struct tool_volume opened;
	char size[32];
	int result = tool_open(device, TOOL_WRITE, &opened);

	if (result)
		return result;
	result = ash_grow(opened.volume, resize->size >> ASH_BLOCK_SHIFT);
	if (!result)
		result = ash_volume_info(opened.volume, &info);
	if (result == -EFBIG)
		too_large(resize);
	else if (result)
		tool_error(result, "%s: growing: %s", device,
			   result == -EINVAL ? "the device is too small for that" : strerror(-result));
	result = tool_close(&opened, result);
	if (result)
		return result;
	tool_format_size(info.block_count << ASH_BLOCK_SHIFT, size);
	printf("%s: now %s, %" PRIu64 " blocks\n", device, size, info.block_count);
	return 0;
}

int ctl_resize(const struct ctl *ctl)
{
	struct resize resize = { .device = ctl->arguments[0], .path = tool_device_path(ctl->arguments[0]) };
	sigset_t before;
	int result;

	if (ctl->count == 2 && (bdev_parse_size(ctl->arguments[1], &resize.size) || resize.size < ASH_BLOCK_SIZE))
		return tool_error(-1, "'%s' is not a size: write 512M or 4GiB", ctl->arguments[1]);
	if (check_growable(&resize))
		return -1;
	/* File and volume grow together: an interrupt is heeded when both are done, or undone. */
	tool_hold_interrupts(&before);
	result = lengthen_file(&resize);
	if (!result) {
		result = grow(&resize);
		if (result)
			undo_lengthening(&resize);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	return result;
}

/* ---- trim ---- */

static int trim_report(const char *name, uint64_t bytes)
{
	char size[32];

	tool_format_size(bytes, size);
	tool_print_text(name);
	printf(": %s (%" PRIu64 " bytes) discarded\n", size, bytes);
	return 0;
}

static int trim_mounted(const char *folder)
{
	struct fstrim_range range = { .len = UINT64_MAX };
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), error;

	if (fd < 0 && errno == EACCES && probe_is_private(folder))
		return tool_private_mount(folder, "trim");
	if (fd < 0)
		return tool_error(-1, "%s: %s", folder, strerror(errno));
	/* Every other file system would take FITRIM as well. */
	if (!probe_is_ours(fd)) {
		close(fd);
		return tool_error(-1, "%s: is not on a mounted Ashlar volume", folder);
	}
	error = ioctl(fd, FITRIM, &range) ? errno : 0;
	close(fd);
	if (error == EPERM)
		return tool_error(-1, "%s: only root may trim a mounted volume; unmounted, whoever may write it",
				  folder);
	if (error == EOPNOTSUPP || error == ENOTTY)
		return tool_error(-1, "%s: the device or file system cannot discard", folder);
	return error ? tool_error(-1, "%s: %s", folder, strerror(error)) : trim_report(folder, range.len);
}

static int trim_unmounted(const char *device)
{
	struct tool_volume opened;
	uint64_t trimmed = 0;
	int result = tool_open(device, TOOL_WRITE, &opened);

	if (result)
		return result;
	result = ash_trim(opened.volume, 0, UINT64_MAX, 0, &trimmed);
	if (result)
		tool_error(result, "%s: %s", device,
			   result == -EOPNOTSUPP ? "the device cannot discard" : strerror(-result));
	result = tool_close(&opened, result);
	return result ? result : trim_report(device, trimmed);
}

int ctl_trim(const struct ctl *ctl)
{
	const char *name = ctl->arguments[0], *path = tool_device_path(name);
	char where[PROBE_TEXT];
	struct stat st;

	if (path && (stat(path, &st) ? probe_is_private(path) : S_ISDIR(st.st_mode)))
		return trim_mounted(path);
	if (path && probe_mount_point(path, where) > 0)
		return trim_mounted(where);
	return trim_unmounted(name);
}
