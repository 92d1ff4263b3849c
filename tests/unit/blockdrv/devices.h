/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices for driver tests: one body, one test for each driver.
 *
 * DRIVER_TEST(suite, behaviour) is followed by a body that uses `struct device *device`; it becomes
 * the tests behaviour_mem, behaviour_sync, behaviour_aio, behaviour_uring, behaviour_loop_aio and
 * behaviour_loop_uring. A device that this machine cannot offer skips its test with the reason.
 */
#ifndef TESTS_UNIT_BLOCKDRV_DEVICES_H
#define TESTS_UNIT_BLOCKDRV_DEVICES_H

#include <ashlar/blockdev.h>
#include <criterion/criterion.h>

#define DEVICE_SIZE (8u << 20)

struct device {
	struct bdev *dev;
	char name[160]; /* as given to bdev_open() */
	char path[128]; /* of the image file, "" for memory */
	int loop_fd;    /* keeps the loop device, which detaches itself at the last close; else -1 */
	bool is_memory;
};

/* `kind`: "mem", "sync", "aio", "uring", "loop_aio", "loop_uring". Skips or fails the test by itself. */
void device_open(struct device *device, const char *kind, const struct bdev_open_options *options);
void device_close(struct device *device);

/* An image file of `size` bytes; `path` has room for 128 bytes. */
void image_create(char *path, uint64_t size);
/* Attach `image` to a free loop device: its descriptor, and its path in `loop` (32 bytes). Skips if it cannot. */
int loop_attach(const char *image, char *loop);

/* Fill with a pattern that depends on `seed` and position, and check it. */
void pattern_fill(void *buffer, size_t length, unsigned seed);
bool pattern_matches(const void *buffer, size_t length, unsigned seed);
bool is_zero(const void *buffer, size_t length);

void device_run(const char *kind, void (*body)(struct device *device));

#define DRIVER_TEST(suite, behaviour)                        \
	static void body_##behaviour(struct device *device); \
	Test(suite, behaviour##_mem)                         \
	{                                                    \
		device_run("mem", body_##behaviour);         \
	}                                                    \
	Test(suite, behaviour##_sync)                        \
	{                                                    \
		device_run("sync", body_##behaviour);        \
	}                                                    \
	Test(suite, behaviour##_aio)                         \
	{                                                    \
		device_run("aio", body_##behaviour);         \
	}                                                    \
	Test(suite, behaviour##_uring)                       \
	{                                                    \
		device_run("uring", body_##behaviour);       \
	}                                                    \
	Test(suite, behaviour##_loop_aio)                    \
	{                                                    \
		device_run("loop_aio", body_##behaviour);    \
	}                                                    \
	Test(suite, behaviour##_loop_uring)                  \
	{                                                    \
		device_run("loop_uring", body_##behaviour);  \
	}                                                    \
	static void body_##behaviour(struct device *device)

#endif
