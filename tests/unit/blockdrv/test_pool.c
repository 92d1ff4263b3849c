/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Aligned buffers and the pool. */
#include <ashlar/blockdev.h>
#include <criterion/criterion.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

Test(buffer, aligned_and_zeroed)
{
	size_t lengths[] = { 0, 1, 4096, 5000, 1 << 18, (1 << 20) + 1 };

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		size_t rounded = lengths[i] ? (lengths[i] + 4095) / 4096 * 4096 : 4096;
		unsigned char *buffer = bdev_buffer_alloc(lengths[i]);

		cr_assert_not_null(buffer);
		cr_assert_eq((uintptr_t)buffer % 4096, 0);
		for (size_t at = 0; at < rounded; at++)
			cr_assert_eq(buffer[at], 0);
		memset(buffer, 0xff, rounded);
		bdev_buffer_free(buffer, lengths[i]);
	}
	bdev_buffer_free(NULL, 4096);
}

Test(buffer, impossible_length)
{
	cr_assert_null(bdev_buffer_alloc(SIZE_MAX));
	cr_assert_null(bdev_buffer_alloc(SIZE_MAX / 2));
}

Test(pool, runs_out_and_recovers)
{
	struct bdev_pool *pool;
	void *buffers[3];

	cr_assert_eq(bdev_pool_create(5000, 3, false, &pool), 0);
	for (int i = 0; i < 3; i++) {
		buffers[i] = bdev_pool_get(pool);
		cr_assert_not_null(buffers[i]);
		cr_assert_eq((uintptr_t)buffers[i] % 4096, 0);
		memset(buffers[i], i, 8192);
	}
	cr_assert_null(bdev_pool_get(pool));
	for (int i = 0; i < 3; i++)
		cr_assert_eq(((unsigned char *)buffers[i])[8191], i, "buffers overlap");
	bdev_pool_put(pool, buffers[1]);
	cr_assert_eq(bdev_pool_get(pool), buffers[1]);
	for (int i = 0; i < 3; i++)
		bdev_pool_put(pool, buffers[i]);
	bdev_pool_destroy(pool);
}

Test(pool, refuses_nonsense)
{
	struct bdev_pool *pool;

	cr_assert_eq(bdev_pool_create(4096, 0, false, &pool), -EINVAL);
	cr_assert_eq(bdev_pool_create(SIZE_MAX, 2, false, &pool), -EINVAL);
	cr_assert_eq(bdev_pool_create((size_t)1 << 46, 1000, false, &pool), -ENOMEM);
	bdev_pool_destroy(NULL);
}

Test(pool, huge_or_not)
{
	struct bdev_pool *pool;
	void *buffer;

	cr_assert_eq(bdev_pool_create(1 << 20, 3, true, &pool), 0);
	buffer = bdev_pool_get(pool);
	memset(buffer, 1, 1 << 20);
	bdev_pool_put(pool, buffer);
	bdev_pool_destroy(pool);
}

/* Each thread marks its buffer and looks whether somebody else had it too. */
static void *take_and_mark(void *argument)
{
	struct bdev_pool *pool = argument;
	uintptr_t wrong = 0;

	for (unsigned round = 0; round < 5000; round++) {
		unsigned *buffer = bdev_pool_get_wait(pool);
		unsigned mark = (unsigned)(uintptr_t)pthread_self() ^ round;

		buffer[0] = mark;
		buffer[1023] = mark;
		wrong += buffer[0] != mark || buffer[1023] != mark;
		bdev_pool_put(pool, buffer);
	}
	return (void *)wrong;
}

Test(pool, many_threads_few_buffers)
{
	struct bdev_pool *pool;
	pthread_t threads[8];

	cr_assert_eq(bdev_pool_create(4096, 2, false, &pool), 0);
	for (int i = 0; i < 8; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, take_and_mark, pool), 0);
	for (int i = 0; i < 8; i++) {
		void *wrong;

		pthread_join(threads[i], &wrong);
		cr_assert_null(wrong);
	}
	bdev_pool_destroy(pool);
}
