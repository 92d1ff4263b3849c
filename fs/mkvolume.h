/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What ash_mkfs() would write, without a device: for `mkfs.ashlar -n` and for reports. */
#ifndef FS_MKVOLUME_H
#define FS_MKVOLUME_H

#include <ashlar/ashlar.h>

struct ash_mkfs_plan {
	uint64_t block_count; /* of the volume: the device less an unusable rest */
	uint64_t group_count;
	uint64_t group_table_start, group_table_blocks;
	uint64_t log_start, log_blocks;
	uint32_t inodes_per_run;
	uint64_t free_blocks;
};

/*
 * Plan a volume on a device of `device_blocks` blocks of 4 KiB called `name` in messages. Errors as of ash_mkfs():
 * -EINVAL too small, too large or an option out of range, -ENOSPC no room for the log, -EFBIG over the format's limit.
 */
int ash_mkfs_plan(const char *name, uint64_t device_blocks, const struct ash_mkfs_options *options,
		  struct ash_mkfs_plan *out, char *error);

#endif
