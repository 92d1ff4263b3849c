/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening: what is refused, with which error, and that the text tells what to do. */
#include "devices.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char error[BDEV_ERROR_TEXT];

static int try_open(const char *name, bool read_only)
{
	struct bdev_open_options options = { .read_only = read_only };
	struct bdev *dev = NULL;
	int result = bdev_open(name, &options, &dev, error);

	cr_expect_eq(result == 0, error[0] == '\0', "%s: %d '%s'", name, result, error);
	cr_expect_null(strchr(error, '\n'));
	if (!result)
		bdev_close(dev);
	return result;
}

Test(open, refuses_what_is_not_a_device)
{
	cr_expect_eq(try_open("/nowhere/at/all", false), -ENOENT);
	cr_expect_eq(try_open("aio:/nowhere/at/all", false), -ENOENT);
	cr_expect_eq(try_open("/", false), -EISDIR);
	cr_expect_eq(try_open("/dev/null", false), -ENOTBLK);
	cr_expect_not_null(strstr(error, "character device"));
	cr_expect_eq(try_open("sync:/dev/null", true), -ENOTBLK);
	cr_expect_eq(try_open("", false), -ENOENT);
}

Test(open, refuses_a_fifo_without_waiting, .timeout = 10)
{
	char path[128];

	image_create(path, 0);
	unlink(path);
	cr_assert_eq(mkfifo(path, 0600), 0);
	cr_expect_eq(try_open(path, true), -ENOTBLK);
	cr_expect_not_null(strstr(error, "fifo"));
	unlink(path);
}

Test(open, refuses_drivers_that_are_not_built_in)
{
	cr_expect_eq(try_open("nbd://host/export", false), -ENOTSUP);
	cr_expect_not_null(strstr(error, "nbd"));
	cr_expect_eq(try_open("nvme:0000:00:04.0/1", false), -ENOTSUP);
}

Test(open, refuses_bad_memory_sizes)
{
	cr_expect_eq(try_open("mem:", false), -EINVAL);
	cr_expect_eq(try_open("mem:0", false), -EINVAL);
	cr_expect_eq(try_open("mem:1000", false), -EINVAL);
	cr_expect_eq(try_open("mem:12x", false), -EINVAL);
	cr_expect_eq(try_open("mem:99999999999999999999", false), -EINVAL);
	cr_expect_eq(try_open("mem:4E", false), -ENOMEM);
	cr_expect_eq(try_open("mem:1T", false), 0, "sparse: %s", error);
}

Test(open, direct_io_refused_names_the_way_out)
{
	struct bdev_open_options options = { .read_only = true, .allow_buffered = true };
	struct bdev *dev;

	/* procfs has regular files without direct I/O. */
	cr_expect_eq(try_open("/proc/version", true), -EINVAL);
	cr_expect_not_null(strstr(error, "use sync:/proc/version"), "%s", error);
	cr_expect_eq(try_open("sync:/proc/version", true), -EINVAL);
	cr_assert_eq(bdev_open("sync:/proc/version", &options, &dev, error), 0);
	cr_expect(bdev_geometry(dev)->buffered);
	bdev_close(dev);
	cr_expect_eq(bdev_open("aio:/proc/version", &options, &dev, error), -EINVAL, "aio never buffers");
}

Test(open, refuses_without_permission)
{
	char path[128];

	image_create(path, 4096);
	cr_assert_eq(chmod(path, 0400), 0);
	if (geteuid() == 0)
		cr_assert_eq(seteuid(65534), 0);
	cr_expect_eq(try_open(path, false), -EACCES);
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
	unlink(path);
}

Test(open, empty_and_ragged_files)
{
	struct bdev *dev;
	char path[128];
	uint32_t unit;

	image_create(path, 0);
	cr_assert_eq(bdev_open(path, NULL, &dev, error), 0, "%s", error);
	cr_expect_eq(bdev_geometry(dev)->size, 0);
	unit = bdev_geometry(dev)->logical_block;
	cr_assert_eq(truncate(path, 65536 + 100), 0);
	cr_expect_eq(bdev_refresh_size(dev), 0);
	cr_expect_eq(bdev_geometry(dev)->size, 65536);
	bdev_close(dev);
	cr_assert_eq(bdev_open(path, NULL, &dev, NULL), 0);
	cr_expect_eq(bdev_geometry(dev)->size % unit, 0);
	cr_expect_eq(bdev_geometry(dev)->size, 65536);
	cr_expect_str_eq(bdev_driver(dev), "aio", "the default driver");
	bdev_close(dev);
	unlink(path);
}

Test(open, too_deep)
{
	struct bdev_open_options options = { .queue_depth = 1000000 };
	struct bdev *dev;

	cr_expect_eq(bdev_open("mem:1M", &options, &dev, error), -EINVAL);
}

/* What has just been tried is no advice. */
Test(open, advice_where_direct_io_is_refused)
{
	struct bdev_open_options options = { .read_only = true };
	struct bdev *dev;

	cr_expect_eq(bdev_open("aio:/proc/version", &options, &dev, error), -EINVAL);
	cr_expect(strstr(error, "use sync:/proc/version with allow_buffered"), "%s", error);
	cr_expect_eq(bdev_open("sync:/proc/version", &options, &dev, error), -EINVAL);
	cr_expect(!strstr(error, "use sync:") && strstr(error, "allow_buffered"), "%s", error);
	options.allow_buffered = true;
	cr_expect_eq(bdev_open("aio:/proc/version", &options, &dev, error), -EINVAL);
	cr_expect(strstr(error, "use sync:/proc/version") && !strstr(error, "allow_buffered"), "%s", error);
	cr_assert_eq(bdev_open("sync:/proc/version", &options, &dev, error), 0, "%s", error);
	cr_expect(bdev_geometry(dev)->buffered);
	bdev_close(dev);
}

Test(open, read_only_device_is_not_opened_for_writing)
{
	struct bdev_open_options options = { .read_only = true };
	struct bdev *dev;
	char path[128], loop[32], command[200];
	int loop_fd;

	image_create(path, DEVICE_SIZE);
	loop_fd = loop_attach(path, loop);
	snprintf(command, sizeof(command), "blockdev --setro %s", loop);
	if (system(command))
		cr_skip_test("blockdev is missing");
	int result = try_open(loop, false);
	cr_expect_eq(result, -EROFS, "%d %s", result, error);
	cr_expect(strstr(error, "write-protected"), "%s", error);
	cr_expect_eq(bdev_open(loop, &options, &dev, error), 0, "%s", error);
	bdev_close(dev);
	snprintf(command, sizeof(command), "blockdev --setrw %s", loop);
	cr_expect_eq(system(command), 0);
	close(loop_fd);
	unlink(path);
}
