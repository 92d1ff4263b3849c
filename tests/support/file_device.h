/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device in a sparse file that has no name any more. The caller closes it. Unlike memory (driver `mem`) it may be read
 * and written at once by threads without that being a data race.
 */
#ifndef TESTS_SUPPORT_FILE_DEVICE_H
#define TESTS_SUPPORT_FILE_DEVICE_H

#include <ashlar/blockdev.h>
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* `size` in bytes; in TMPDIR, or `folder` where that is not set. */
static inline struct bdev *file_device(const char *folder, uint64_t size)
{
	struct bdev_open_options options = { .allow_buffered = true };
	char path[128], name[140], error[BDEV_ERROR_TEXT] = "";
	struct bdev *device;
	int fd;

	snprintf(path, sizeof(path), "%s/ashlar-device-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : folder);
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	close(fd);
	snprintf(name, sizeof(name), "sync:%s", path);
	fd = bdev_open(name, &options, &device, error);
	unlink(path);
	cr_assert_eq(fd, 0, "%s", error);
	return device;
}

#endif
