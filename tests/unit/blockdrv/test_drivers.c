/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Blocking calls: the same behaviour from every driver. */
#include "devices.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

DRIVER_TEST(drivers, reads_back_what_was_written)
{
	size_t length = 1 << 20;
	unsigned char *buffer = bdev_buffer_alloc(length);

	pattern_fill(buffer, length, 1);
	cr_assert_eq(bdev_write(device->dev, buffer, length, 4096, 0), 0);
	memset(buffer, 0, length);
	cr_assert_eq(bdev_read(device->dev, buffer, length, 4096), 0);
	cr_assert(pattern_matches(buffer, length, 1));
	cr_assert_eq(bdev_read(device->dev, buffer, 4096, 0), 0);
	cr_assert(is_zero(buffer, 4096), "the block before was touched");
	bdev_buffer_free(buffer, length);
}

DRIVER_TEST(drivers, vectors_are_one_transfer)
{
	unsigned char *buffer = bdev_buffer_alloc(5 * 4096);
	struct iovec out[3] = { { buffer, 4096 }, { buffer + 2 * 4096, 8192 }, { buffer + 4096, 4096 } };
	struct iovec in[2] = { { buffer, 8192 }, { buffer + 8192, 8192 } };
	unsigned char expected[3] = { 1, 3, 2 };

	for (int i = 0; i < 5; i++)
		memset(buffer + i * 4096, i + 1, 4096);
	cr_assert_eq(bdev_writev(device->dev, out, 3, 65536, BDEV_FUA), 0);
	cr_assert_eq(bdev_readv(device->dev, in, 2, 65536), 0);
	cr_assert_eq(buffer[0], expected[0]);
	cr_assert_eq(buffer[4096], expected[1]);
	cr_assert_eq(buffer[3 * 4096], expected[2]);
	bdev_buffer_free(buffer, 5 * 4096);
}

DRIVER_TEST(drivers, many_vectors)
{
	size_t length = 1024 * 4096;
	unsigned char *buffer = bdev_buffer_alloc(length);
	static struct iovec iov[1025];

	for (int i = 0; i < 1025; i++)
		iov[i] = (struct iovec){ buffer + (size_t)(i < 1024 ? 1023 - i : 0) * 4096, 4096 };
	pattern_fill(buffer, length, 3);
	cr_assert_eq(bdev_writev(device->dev, iov, 1024, 0, 0), 0);
	memset(buffer, 0, length);
	cr_assert_eq(bdev_readv(device->dev, iov, 1024, 0), 0);
	cr_assert(pattern_matches(buffer, length, 3));
	cr_assert_eq(bdev_readv(device->dev, iov, 1025, 0), -EINVAL, "more than IOV_MAX");
	bdev_buffer_free(buffer, length);
}

/* What is passed over as a hole is one; who knows of none says so. */
DRIVER_TEST(drivers, data_behind_holes)
{
	uint64_t offset = DEVICE_SIZE / 2, end = DEVICE_SIZE, next;
	unsigned char *buffer = bdev_buffer_alloc(4096);
	bool known;

	pattern_fill(buffer, 4096, 1);
	cr_assert_eq(bdev_write(device->dev, buffer, 4096, offset, 0), 0);
	next = bdev_next_data(device->dev, 0);
	known = next > 0;
	cr_expect_leq(next, offset);
	cr_expect_eq(bdev_next_data(device->dev, offset), offset);
	cr_expect_eq(bdev_next_data(device->dev, offset + 100), offset + 100);
	next = bdev_next_data(device->dev, offset + 4096);
	cr_expect(known ? next == end : next == offset + 4096, "%llu", (unsigned long long)next);
	cr_expect_eq(bdev_next_data(device->dev, end), end);
	cr_expect_eq(bdev_next_data(device->dev, UINT64_MAX), UINT64_MAX);
	cr_expect(!known || !(device->is_memory || device->loop_fd >= 0), "nobody knows of holes there");
	bdev_buffer_free(buffer, 4096);
}

DRIVER_TEST(drivers, wrong_requests_are_refused)
{
	struct bdev *dev = device->dev;
	unsigned char *buffer = bdev_buffer_alloc(8192);
	struct iovec odd[2] = { { buffer, 100 }, { buffer + 4096, 412 } };

	cr_expect_eq(bdev_read(dev, buffer, 4096, 1), -EINVAL, "offset");
	cr_expect_eq(bdev_read(dev, buffer, 4095, 0), -EINVAL, "length");
	cr_expect_eq(bdev_read(dev, buffer + 8, 4096, 0), -EINVAL, "memory");
	cr_expect_eq(bdev_readv(dev, odd, 2, 0), -EINVAL, "vector element");
	cr_expect_eq(bdev_readv(dev, odd, -1, 0), -EINVAL, "vector count");
	cr_expect_eq(bdev_read(dev, buffer, 8192, DEVICE_SIZE - 4096), -EINVAL, "past the end");
	cr_expect_eq(bdev_read(dev, buffer, 4096, UINT64_MAX - 4095), -EINVAL, "wrap around");
	cr_expect_eq(bdev_write(dev, buffer, 4096, DEVICE_SIZE, 0), -EINVAL, "write past the end");
	cr_expect_eq(bdev_write(dev, buffer, 4096, 0, 0x80), -EINVAL, "flags");
	cr_expect_eq(bdev_write_zeroes(dev, 0, UINT64_MAX - 511), -EINVAL, "zeroes past the end");
	cr_expect_eq(bdev_write_zeroes(dev, 1, 512), -EINVAL, "zeroes unaligned");
	cr_expect_eq(bdev_discard(dev, DEVICE_SIZE, 4096), -EINVAL, "discard past the end");
	cr_expect_eq(bdev_read(dev, buffer, 0, DEVICE_SIZE), 0, "nothing at the end");
	cr_expect_eq(bdev_write_zeroes(dev, 0, 0), 0);
	cr_expect_eq(bdev_discard(dev, 0, 0), 0);
	bdev_buffer_free(buffer, 8192);
}

DRIVER_TEST(drivers, zeroes_end_at_their_edges)
{
	uint32_t unit = bdev_geometry(device->dev)->logical_block;
	size_t length = 1 << 20;
	unsigned char *buffer = bdev_buffer_alloc(length);

	memset(buffer, 0xaa, length);
	cr_assert_eq(bdev_write(device->dev, buffer, length, 0, 0), 0);
	cr_assert_eq(bdev_write_zeroes(device->dev, unit, length - 3 * unit), 0);
	cr_assert_eq(bdev_flush(device->dev), 0);
	cr_assert_eq(bdev_read(device->dev, buffer, length, 0), 0);
	cr_assert_eq(buffer[unit - 1], 0xaa);
	cr_assert(is_zero(buffer + unit, length - 3 * unit));
	cr_assert_eq(buffer[length - 2 * unit], 0xaa);
	bdev_buffer_free(buffer, length);
}

DRIVER_TEST(drivers, discard_leaves_its_neighbours)
{
	size_t length = 1 << 20;
	unsigned char *buffer = bdev_buffer_alloc(length);

	cr_assert(bdev_geometry(device->dev)->discard);
	cr_assert_geq(bdev_geometry(device->dev)->discard_granularity, 512);
	memset(buffer, 0xbb, length);
	cr_assert_eq(bdev_write(device->dev, buffer, length, 0, 0), 0);
	cr_assert_eq(bdev_discard(device->dev, 65536, 131072), 0);
	cr_assert_eq(bdev_read(device->dev, buffer, length, 0), 0);
	cr_assert_eq(buffer[65535], 0xbb);
	cr_assert_eq(buffer[65536 + 131072], 0xbb);
	/* Stricter than the contract, but true of memory and files: the space was given back. */
	cr_assert(is_zero(buffer + 65536, 131072));
	bdev_buffer_free(buffer, length);
}

DRIVER_TEST(drivers, geometry_is_sane)
{
	const struct bdev_geometry *geometry = bdev_geometry(device->dev);

	cr_assert_eq(geometry->size, DEVICE_SIZE);
	cr_assert(geometry->logical_block == 512 || geometry->logical_block == 4096);
	cr_assert_geq(geometry->physical_block, geometry->logical_block);
	cr_assert_geq(geometry->memory_align, 1);
	cr_assert_eq(geometry->block_device, device->loop_fd >= 0);
	cr_assert_eq(geometry->device_number != 0, device->loop_fd >= 0);
	cr_assert_not(geometry->buffered);
	cr_assert(strstr(device->name, bdev_driver(device->dev)) == device->name);
	cr_assert_str_eq(bdev_name(device->dev), strchr(device->name, ':') + 1);
}

struct worker {
	struct bdev *dev;
	unsigned number;
	int result;
};

static void *work(void *argument)
{
	struct worker *worker = argument;
	unsigned char *buffer = bdev_buffer_alloc(16384);

	for (unsigned round = 0; round < 50 && !worker->result; round++) {
		uint64_t offset = worker->number * (1u << 20) + (round % 16) * 16384;

		pattern_fill(buffer, 16384, round);
		worker->result = bdev_write(worker->dev, buffer, 16384, offset, 0);
		memset(buffer, 0, 16384);
		if (!worker->result)
			worker->result = bdev_read(worker->dev, buffer, 16384, offset);
		if (!worker->result && !pattern_matches(buffer, 16384, round))
			worker->result = -EUCLEAN;
		if (!worker->result && round % 8 == 0)
			worker->result = bdev_discard(worker->dev, offset, 16384);
	}
	bdev_buffer_free(buffer, 16384);
	return NULL;
}

DRIVER_TEST(drivers, threads_do_not_meet_on_disjoint_ranges)
{
	struct worker workers[4];
	pthread_t threads[4];

	for (unsigned i = 0; i < 4; i++) {
		workers[i] = (struct worker){ device->dev, i, 0 };
		cr_assert_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		cr_assert_eq(workers[i].result, 0, "thread %u: %d", i, workers[i].result);
	}
}

static void check_read_only(const char *kind)
{
	struct bdev_open_options options = { .read_only = true };
	unsigned char *buffer = bdev_buffer_alloc(4096);
	struct device device;

	device_open(&device, kind, &options);
	cr_expect(bdev_geometry(device.dev)->read_only);
	cr_expect_eq(bdev_read(device.dev, buffer, 4096, 0), 0);
	cr_expect_eq(bdev_write(device.dev, buffer, 4096, 0, 0), -EROFS);
	cr_expect_eq(bdev_write_zeroes(device.dev, 0, 4096), -EROFS);
	cr_expect_eq(bdev_discard(device.dev, 0, 4096), -EROFS);
	cr_expect_eq(bdev_flush(device.dev), 0);
	device_close(&device);
	bdev_buffer_free(buffer, 4096);
}

Test(drivers, read_only_mem)
{
	check_read_only("mem");
}
Test(drivers, read_only_sync)
{
	check_read_only("sync");
}
Test(drivers, read_only_aio)
{
	check_read_only("aio");
}
Test(drivers, read_only_uring)
{
	check_read_only("uring");
}
Test(drivers, read_only_loop)
{
	check_read_only("loop_aio");
}
