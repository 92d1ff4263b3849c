/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The owner lock, the exclusive claim, and how the claim is given up. */
#include "devices.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

static char error[BDEV_ERROR_TEXT];

static struct bdev *open_again(const struct device *device, bool read_only)
{
	struct bdev_open_options options = { .read_only = read_only };
	struct bdev *dev = NULL;

	cr_assert_eq(bdev_open(device->name, &options, &dev, error), 0, "%s", error);
	return dev;
}

static void check_conflict(struct device *device)
{
	struct bdev *other = open_again(device, false);

	cr_assert_eq(bdev_lock(device->dev, true, 0), 0);
	cr_expect_eq(bdev_lock(other, true, 0), -EBUSY);
	cr_expect_eq(bdev_lock(other, false, 50), -EBUSY);
	bdev_unlock(device->dev);
	cr_expect_eq(bdev_lock(other, true, 0), 0);
	cr_expect_eq(bdev_lock(device->dev, false, 0), -EBUSY);
	bdev_close(other); /* drops its lock */
	cr_expect_eq(bdev_lock(device->dev, true, 0), 0);
}

static void check_shared(struct device *device)
{
	struct bdev *other = open_again(device, true);

	cr_assert_eq(bdev_lock(device->dev, false, 0), 0);
	cr_expect_eq(bdev_lock(other, false, 0), 0);
	cr_expect_eq(bdev_lock(device->dev, true, 0), -EBUSY, "a reader keeps a writer out");
	bdev_unlock(device->dev);
	cr_expect_eq(bdev_lock(other, true, 0), 0, "on a read-only handle the lock is shared");
	cr_expect_eq(bdev_lock(device->dev, true, 0), -EBUSY);
	bdev_close(other);
}

#define LOCK_TESTS(name, body)                \
	Test(lock, name##_sync)               \
	{                                     \
		device_run("sync", body);     \
	}                                     \
	Test(lock, name##_aio)                \
	{                                     \
		device_run("aio", body);      \
	}                                     \
	Test(lock, name##_uring)              \
	{                                     \
		device_run("uring", body);    \
	}                                     \
	Test(lock, name##_loop)               \
	{                                     \
		device_run("loop_aio", body); \
	}

LOCK_TESTS(conflict_between_two_handles, check_conflict)
LOCK_TESTS(shared_locks, check_shared)

static void *unlock_later(void *dev)
{
	usleep(150000);
	bdev_unlock(dev);
	return NULL;
}

Test(lock, waits_for_its_turn)
{
	struct device device;
	struct bdev *other;
	pthread_t thread;

	device_open(&device, "aio", NULL);
	other = open_again(&device, false);
	cr_assert_eq(bdev_lock(device.dev, true, 0), 0);
	pthread_create(&thread, NULL, unlock_later, device.dev);
	cr_expect_eq(bdev_lock(other, true, 5000), 0);
	pthread_join(thread, NULL);
	bdev_close(other);
	device_close(&device);
}

Test(lock, memory_has_none)
{
	struct device device;

	device_open(&device, "mem", NULL);
	cr_expect_eq(bdev_lock(device.dev, true, 0), 0);
	cr_expect_eq(bdev_lock(device.dev, true, 0), 0);
	cr_expect_eq(bdev_drop_exclusive(device.dev), 0);
	bdev_unlock(device.dev);
	device_close(&device);
}

/* The kernel's claim at a fuseblk mount behaves like another O_EXCL open. */
static void check_drop(const char *kind)
{
	struct bdev_open_options exclusive = { .exclusive = true };
	unsigned char *buffer = bdev_buffer_alloc(4096);
	struct bdev *claimer = NULL, *layer, *other;
	struct device device;

	device_open(&device, kind, &exclusive);
	cr_assert_eq(bdev_stats_open(device.dev, &layer), 0); /* layers pass all of it on */
	device.dev = layer;
	cr_assert_eq(bdev_lock(device.dev, true, 0), 0);
	cr_expect_eq(bdev_open(device.name, &exclusive, &claimer, error), -EBUSY);
	cr_expect_not_null(strstr(error, "mounted or in use"), "%s", error);

	cr_assert_eq(bdev_drop_exclusive(device.dev), 0);
	cr_assert_eq(bdev_drop_exclusive(device.dev), 0, "twice does no harm");
	cr_assert_eq(bdev_open(device.name, &exclusive, &claimer, error), 0, "%s", error);
	cr_expect_eq(bdev_lock(claimer, true, 0), -EBUSY, "the owner lock was kept");
	cr_expect_eq(bdev_write(device.dev, buffer, 4096, 0, BDEV_FUA), 0, "the handle still works");
	cr_expect_eq(bdev_discard(device.dev, 65536, 65536), 0);
	cr_expect_eq(bdev_write_zeroes(device.dev, 65536, 65536), 0);

	other = open_again(&device, false);
	cr_expect_eq(bdev_lock(other, true, 0), -EBUSY);
	bdev_close(other);
	bdev_close(claimer);
	device_close(&device);
	bdev_buffer_free(buffer, 4096);
}

Test(lock, drop_exclusive_keeps_the_lock_aio)
{
	check_drop("loop_aio");
}
Test(lock, drop_exclusive_keeps_the_lock_uring)
{
	check_drop("loop_uring");
}

Test(lock, close_gives_up_the_claim)
{
	struct bdev_open_options exclusive = { .exclusive = true };
	struct device device;

	device_open(&device, "loop_aio", &exclusive);
	for (int i = 0; i < 3; i++) {
		bdev_close(device.dev);
		cr_assert_eq(bdev_open(device.name, &exclusive, &device.dev, error), 0, "%s", error);
	}
	device_close(&device);
}
