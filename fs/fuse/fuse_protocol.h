/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * FUSE protocol newer than the headers of Debian 12: from include/uapi/linux/fuse.h of Linux 6.18 (BSD-2-Clause
 * alternative). Sizes are part of the kernel's interface.
 */
#ifndef ASHLAR_FUSE_PROTOCOL_H
#define ASHLAR_FUSE_PROTOCOL_H

#include <assert.h>
#include <stdint.h>

#define PROTOCOL_STATX 52u
#define PROTOCOL_COPY_FILE_RANGE_64 53u
#define PROTOCOL_OPCODES 54u

struct protocol_statx_in {
	uint32_t getattr_flags, reserved;
	uint64_t fh;
	uint32_t sx_flags, sx_mask;
};

struct protocol_statx_time {
	int64_t seconds;
	uint32_t nanoseconds;
	int32_t reserved;
};

struct protocol_statx_out {
	uint64_t attr_valid; /* seconds */
	uint32_t attr_valid_nsec, flags;
	uint64_t spare[2];
	uint32_t mask, blksize;
	uint64_t attributes;
	uint32_t nlink, uid, gid;
	uint16_t mode, spare0;
	uint64_t ino, size, blocks, attributes_mask;
	struct protocol_statx_time atime, btime, ctime, mtime;
	uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
	uint64_t spare2[14];
};
static_assert(sizeof(struct protocol_statx_out) == 32 + 256, "statx reply");

struct protocol_copy_range_out {
	uint64_t bytes_copied;
};

#endif
