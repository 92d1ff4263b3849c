/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Devices for driver tests. See devices.h. */
#include "devices.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void image_create(char *path, uint64_t size)
{
	const char *folder = getenv("TMPDIR");
	int fd;

	snprintf(path, 128, "%s/ashlar-test-XXXXXX", folder && *folder ? folder : "/var/tmp");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0, "%s: %s", path, strerror(errno));
	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

/* Others attach loop devices too: a free number may be taken before we get to it. */
static int loop_configure(int control, int backing, char *loop)
{
	struct loop_config config = {
		.fd = (unsigned)backing,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
	};

	for (int attempt = 0; attempt < 50; attempt++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		int fd;

		if (number < 0)
			return -1;
		snprintf(loop, 32, "/dev/loop%d", number);
		fd = open(loop, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && !ioctl(fd, LOOP_CONFIGURE, &config))
			return fd;
		if (fd >= 0)
			close(fd);
		usleep(10000);
	}
	return -1;
}

int loop_attach(const char *image, char *loop)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int backing, fd;

	if (geteuid() != 0 || control < 0) {
		unlink(image);
		cr_skip_test("loop devices need root and /dev/loop-control");
	}
	backing = open(image, O_RDWR | O_CLOEXEC);
	fd = loop_configure(control, backing, loop);
	close(backing);
	close(control);
	if (fd < 0) {
		unlink(image);
		cr_skip_test("no loop device to be had: %s", strerror(errno));
	}
	return fd;
}

void device_open(struct device *device, const char *kind, const struct bdev_open_options *options)
{
	char error[BDEV_ERROR_TEXT];
	const char *driver = kind;
	char loop[32];
	int result;

	memset(device, 0, sizeof(*device));
	device->loop_fd = -1;
	device->is_memory = strcmp(kind, "mem") == 0;
	if (device->is_memory) {
		snprintf(device->name, sizeof(device->name), "mem:%u", DEVICE_SIZE);
	} else {
		image_create(device->path, DEVICE_SIZE);
		snprintf(device->name, sizeof(device->name), "%s:%s", driver, device->path);
	}
	if (strncmp(kind, "loop_", 5) == 0) {
		device->loop_fd = loop_attach(device->path, loop);
		snprintf(device->name, sizeof(device->name), "%s:%s", kind + 5, loop);
	}
	result = bdev_open(device->name, options, &device->dev, error);
	if (result == -ENOTSUP) {
		unlink(device->path);
		cr_skip_test("%s", error);
	}
	cr_assert_eq(result, 0, "%s (%d)", error, result);
}

void device_close(struct device *device)
{
	bdev_close(device->dev);
	if (device->loop_fd >= 0)
		close(device->loop_fd);
	if (device->path[0])
		unlink(device->path);
}

void device_run(const char *kind, void (*body)(struct device *device))
{
	struct device device;

	device_open(&device, kind, NULL);
	body(&device);
	device_close(&device);
}

static unsigned char pattern_at(size_t position, unsigned seed)
{
	return (unsigned char)((position * 31 + (position >> 9) * 7 + seed * 101 + 1) & 0xff);
}

void pattern_fill(void *buffer, size_t length, unsigned seed)
{
	for (size_t i = 0; i < length; i++)
		((unsigned char *)buffer)[i] = pattern_at(i, seed);
}

bool pattern_matches(const void *buffer, size_t length, unsigned seed)
{
	for (size_t i = 0; i < length; i++)
		if (((const unsigned char *)buffer)[i] != pattern_at(i, seed))
			return false;
	return true;
}

bool is_zero(const void *buffer, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (((const unsigned char *)buffer)[i])
			return false;
	return true;
}
