/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The front of the block device drivers: names, checks, dispatch.
 *
 * Concept: every call of include/ashlar/blockdev.h arrives here, is checked once (alignment, bounds,
 * flags, read-only), and goes on to the operations of the driver or layer. Below this file nobody
 * checks again.
 *
 * Rules: a request that breaks the contract never reaches a driver. Requests of a queue are accepted
 * in order: the first one that is wrong ends the batch, and is refused when it comes first.
 *
 * Locking: none. A handle is constant after open except `geometry.size`, which is read and written
 * atomically. A queue belongs to one thread at a time, so `in_flight` is a plain number.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* IOV_MAX */
#endif
#include "driver.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

/* ---- Open and close. ---- */

struct bdev_driver {
	const char *prefix; /* with its colon */
	int (*open)(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);
};

static const struct bdev_driver drivers[] = {
	{ "aio:", bdev_aio_open },
	{ "sync:", bdev_sync_open },
	{ "mem:", bdev_mem_open },
#ifdef HAVE_LIBURING
	{ "uring:", bdev_uring_open },
#endif
};

/* Prefixes that are drivers elsewhere, so that the message is not "no such file". */
static const char *const absent_drivers[] = { "uring:", "nbd:", "nvme:", "vhost-user:" };

static bool has_prefix(const char *name, const char *prefix)
{
	return strncmp(name, prefix, strlen(prefix)) == 0;
}

int bdev_open_error(char *error, int code, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(error, BDEV_ERROR_TEXT, format, arguments);
	va_end(arguments);
	return code;
}

static int open_by_name(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error)
{
	for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (has_prefix(name, drivers[i].prefix))
			return drivers[i].open(name + strlen(drivers[i].prefix), options, out, error);
	for (size_t i = 0; i < sizeof(absent_drivers) / sizeof(absent_drivers[0]); i++)
		if (has_prefix(name, absent_drivers[i]))
			return bdev_open_error(error, -ENOTSUP, "%s: this build has no driver '%.*s'; use aio:PATH",
					       name, (int)strlen(absent_drivers[i]) - 1, absent_drivers[i]);
	return bdev_aio_open(name, options, out, error);
}

int bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error)
{
	static const struct bdev_open_options no_options;
	char unwanted[BDEV_ERROR_TEXT];

	if (!error)
		error = unwanted;
	error[0] = '\0';
	if (!options)
		options = &no_options;
	if (options->queue_depth > BDEV_QUEUE_DEPTH_MAX)
		return bdev_open_error(error, -EINVAL, "%s: a queue depth of %u is too much; at most %u", name,
				       options->queue_depth, BDEV_QUEUE_DEPTH_MAX);
	return open_by_name(name, options, out, error);
}

int bdev_init(struct bdev *dev, const struct bdev_operations *operations, const char *name,
	      const struct bdev_open_options *options)
{
	memset(dev, 0, sizeof(*dev));
	dev->operations = operations;
	dev->queue_depth = options->queue_depth ? options->queue_depth : BDEV_QUEUE_DEPTH_DEFAULT;
	dev->name = strdup(name);
	return dev->name ? 0 : -ENOMEM;
}

void bdev_init_layer(struct bdev *dev, const struct bdev_operations *operations, struct bdev *lower)
{
	memset(dev, 0, sizeof(*dev));
	dev->operations = operations;
	dev->geometry = lower->geometry;
	dev->queue_depth = lower->queue_depth;
	dev->lower = lower;
}

void bdev_close(struct bdev *dev)
{
	while (dev) {
		struct bdev *lower = dev->lower;
		char *name = dev->name;

		assert(__atomic_load_n(&dev->open_queues, __ATOMIC_ACQUIRE) == 0);
		dev->operations->close(dev);
		free(name);
		dev = lower;
	}
}

/* ---- Data about the device. ---- */

static const struct bdev *lowest(const struct bdev *dev)
{
	while (dev->lower)
		dev = dev->lower;
	return dev;
}

const struct bdev_geometry *bdev_geometry(const struct bdev *dev)
{
	return &dev->geometry;
}

const char *bdev_name(const struct bdev *dev)
{
	return lowest(dev)->name;
}

const char *bdev_driver(const struct bdev *dev)
{
	return lowest(dev)->operations->name;
}

int bdev_refresh_size(struct bdev *dev)
{
	int result = 0;

	if (dev->operations->refresh_size)
		return dev->operations->refresh_size(dev);
	if (dev->lower) {
		result = bdev_refresh_size(dev->lower);
		__atomic_store_n(&dev->geometry.size, __atomic_load_n(&dev->lower->geometry.size, __ATOMIC_ACQUIRE),
				 __ATOMIC_RELEASE);
	}
	return result;
}

/* Layers hide nothing: what a driver knows to be a hole is one. */
uint64_t bdev_next_data(struct bdev *dev, uint64_t offset)
{
	struct bdev *driver = (struct bdev *)lowest(dev);

	return driver->operations->next_data ? driver->operations->next_data(driver, offset) : offset;
}

/* Locks and claims are the business of the driver at the bottom; layers do not see them. */
int bdev_lock(struct bdev *dev, bool exclusive, unsigned timeout_ms)
{
	struct bdev *driver = (struct bdev *)lowest(dev);

	return driver->operations->lock ? driver->operations->lock(driver, exclusive, timeout_ms) : 0;
}

void bdev_unlock(struct bdev *dev)
{
	struct bdev *driver = (struct bdev *)lowest(dev);

	if (driver->operations->unlock)
		driver->operations->unlock(driver);
}

int bdev_drop_exclusive(struct bdev *dev)
{
	struct bdev *driver = (struct bdev *)lowest(dev);

	return driver->operations->drop_exclusive ? driver->operations->drop_exclusive(driver) : 0;
}

uint64_t bdev_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- Checks: the only ones. ---- */

static int check_range(const struct bdev *dev, uint64_t offset, uint64_t length)
{
	uint64_t size = __atomic_load_n(&dev->geometry.size, __ATOMIC_ACQUIRE);

	if ((offset | length) & (dev->geometry.logical_block - 1))
		return -EINVAL;
	if (length > size || offset > size - length)
		return -EINVAL;
	return 0;
}

static int check_iov(const struct bdev *dev, const struct iovec *iov, int count, uint64_t *length)
{
	uint64_t total = 0;

	if (count < 0 || count > IOV_MAX)
		return -EINVAL;
	for (int i = 0; i < count; i++) {
		if ((uintptr_t)iov[i].iov_base & (dev->geometry.memory_align - 1))
			return -EINVAL;
		if (iov[i].iov_len & (dev->geometry.logical_block - 1))
			return -EINVAL;
		if (__builtin_add_overflow(total, (uint64_t)iov[i].iov_len, &total))
			return -EINVAL;
	}
	*length = total;
	return 0;
}

static int check_changes(const struct bdev *dev, enum bdev_op op)
{
	if (op == BDEV_READ || op == BDEV_FLUSH)
		return 0;
	if (dev->geometry.read_only)
		return -EROFS;
	if (op == BDEV_DISCARD && !dev->geometry.discard)
		return -EOPNOTSUPP;
	return 0;
}

static int check_transfer(const struct bdev *dev, enum bdev_op op, const struct iovec *iov, int count, uint64_t offset,
			  unsigned flags, uint64_t *length)
{
	int result;

	if (flags & ~(op == BDEV_WRITE ? BDEV_FUA : 0u))
		return -EINVAL;
	result = check_changes(dev, op);
	if (!result)
		result = check_iov(dev, iov, count, length);
	if (!result)
		result = check_range(dev, offset, *length);
	return result;
}

static int check_span(const struct bdev *dev, enum bdev_op op, uint64_t offset, uint64_t length)
{
	int result = check_changes(dev, op);

	return result ? result : check_range(dev, offset, length);
}

static int check_request(const struct bdev *dev, const struct bdev_request *request)
{
	uint64_t length = 0;
	int result;

	switch (request->op) {
	case BDEV_READ:
	case BDEV_WRITE:
		result = check_transfer(dev, request->op, request->iov, request->iov_count, request->offset,
					request->flags, &length);
		return !result && length != request->length ? -EINVAL : result;
	case BDEV_FLUSH:
		return request->flags ? -EINVAL : 0;
	case BDEV_DISCARD:
	case BDEV_WRITE_ZEROES:
		return request->flags ? -EINVAL : check_span(dev, request->op, request->offset, request->length);
	}
	return -EINVAL;
}

/* ---- Blocking calls. ---- */

static int transfer(struct bdev *dev, enum bdev_op op, const struct iovec *iov, int count, uint64_t offset,
		    unsigned flags)
{
	uint64_t length;
	int result = check_transfer(dev, op, iov, count, offset, flags, &length);

	if (result || !length)
		return result;
	return dev->operations->rw(dev, op == BDEV_WRITE, iov, count, offset, flags);
}

int bdev_read(struct bdev *dev, void *buffer, size_t length, uint64_t offset)
{
	struct iovec iov = { buffer, length };

	return transfer(dev, BDEV_READ, &iov, 1, offset, 0);
}

int bdev_write(struct bdev *dev, const void *buffer, size_t length, uint64_t offset, unsigned flags)
{
	struct iovec iov = { (void *)buffer, length };

	return transfer(dev, BDEV_WRITE, &iov, 1, offset, flags);
}

int bdev_readv(struct bdev *dev, const struct iovec *iov, int count, uint64_t offset)
{
	return transfer(dev, BDEV_READ, iov, count, offset, 0);
}

int bdev_writev(struct bdev *dev, const struct iovec *iov, int count, uint64_t offset, unsigned flags)
{
	return transfer(dev, BDEV_WRITE, iov, count, offset, flags);
}

int bdev_flush(struct bdev *dev)
{
	return dev->operations->flush(dev);
}

int bdev_discard(struct bdev *dev, uint64_t offset, uint64_t length)
{
	int result = check_span(dev, BDEV_DISCARD, offset, length);

	if (result || !length)
		return result;
	return dev->operations->discard(dev, offset, length);
}

int bdev_write_zeroes(struct bdev *dev, uint64_t offset, uint64_t length)
{
	int result = check_span(dev, BDEV_WRITE_ZEROES, offset, length);

	if (result || !length)
		return result;
	return dev->operations->write_zeroes(dev, offset, length);
}

int bdev_execute(struct bdev *dev, const struct bdev_request *request)
{
	const struct bdev_operations *operations = dev->operations;

	if (request->op != BDEV_FLUSH && !request->length)
		return 0;
	switch (request->op) {
	case BDEV_READ:
	case BDEV_WRITE:
		return operations->rw(dev, request->op == BDEV_WRITE, request->iov, request->iov_count, request->offset,
				      request->flags);
	case BDEV_FLUSH:
		return operations->flush(dev);
	case BDEV_DISCARD:
		return operations->discard(dev, request->offset, request->length);
	case BDEV_WRITE_ZEROES:
		return operations->write_zeroes(dev, request->offset, request->length);
	}
	return -EINVAL;
}

/* ---- Queues. ---- */

int bdev_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out)
{
	int result;

	if (!depth)
		depth = dev->queue_depth;
	if (depth > BDEV_QUEUE_DEPTH_MAX)
		return -EINVAL;
	result = dev->operations->queue_open(dev, depth, out);
	if (result)
		return result;
	(*out)->dev = dev;
	(*out)->depth = depth;
	(*out)->in_flight = 0;
	__atomic_fetch_add(&dev->open_queues, 1, __ATOMIC_RELAXED);
	return 0;
}

void bdev_queue_close(struct bdev_queue *queue)
{
	struct bdev_request *done[64];
	struct bdev *dev;

	if (!queue)
		return;
	while (queue->in_flight)
		if (bdev_reap(queue, done, 1, 64) < 0)
			break; /* the driver's close waits for what is left */
	dev = queue->dev;
	dev->operations->queue_close(queue);
	__atomic_fetch_sub(&dev->open_queues, 1, __ATOMIC_RELEASE);
}

int bdev_submit(struct bdev_queue *queue, struct bdev_request *const *requests, unsigned count)
{
	unsigned room = queue->depth - queue->in_flight;
	unsigned good = 0;
	int result = 0;

	if (count > room)
		count = room;
	while (good < count) {
		result = check_request(queue->dev, requests[good]);
		if (result)
			break;
		good++;
	}
	if (!good)
		return result;
	result = queue->dev->operations->submit(queue, requests, good);
	if (result > 0)
		queue->in_flight += (unsigned)result;
	return result;
}

int bdev_reap(struct bdev_queue *queue, struct bdev_request **out, unsigned min, unsigned max)
{
	int result;

	if (max > queue->in_flight)
		max = queue->in_flight;
	if (min > max)
		min = max;
	if (!max)
		return 0;
	result = queue->dev->operations->reap(queue, out, min, max);
	if (result > 0)
		queue->in_flight -= (unsigned)result;
	return result;
}

#define RUN_BATCH 64u

/* Offer requests [from, count). How many the queue took; negative errno: the first of them is done, and failed. */
static int run_submit(struct bdev_queue *queue, struct bdev_request *requests, unsigned from, unsigned count)
{
	struct bdev_request *batch[RUN_BATCH];
	unsigned used = 0;
	int result;

	while (used < RUN_BATCH && from + used < count)
		batch[used] = &requests[from + used], used++;
	result = bdev_submit(queue, batch, used);
	if (!result && !queue->in_flight)
		result = -EIO; /* an empty queue that takes nothing */
	if (result < 0)
		requests[from].result = result;
	return result;
}

int bdev_run(struct bdev_queue *queue, struct bdev_request *requests, unsigned count)
{
	struct bdev_request *done[RUN_BATCH];
	unsigned submitted = 0;
	int error = 0;

	for (unsigned i = 0; i < count; i++)
		requests[i].result = -EIO;
	while (queue->in_flight || (!error && submitted < count)) {
		int result = !error && submitted < count ? run_submit(queue, requests, submitted, count) : 0;

		if (result < 0)
			error = result;
		else
			submitted += (unsigned)result;
		if (!queue->in_flight)
			continue;
		/* Not one at a time, each of which would cost a call to wait for it and one to submit the next. */
		unsigned part = error || submitted == count ? queue->in_flight : queue->in_flight / 4 + 1;
		result = bdev_reap(queue, done, part < RUN_BATCH ? part : RUN_BATCH, RUN_BATCH);
		if (result < 0)
			return error ? error : result;
		for (int i = 0; i < result; i++)
			if (done[i]->result && !error)
				error = done[i]->result;
	}
	return error;
}

int bdev_queue_event_fd(struct bdev_queue *queue)
{
	return queue->dev->operations->event_fd ? queue->dev->operations->event_fd(queue) : -1;
}

void bdev_queue_event_clear(struct bdev_queue *queue)
{
	if (queue->dev->operations->event_clear)
		queue->dev->operations->event_clear(queue);
}

unsigned bdev_queue_in_flight(const struct bdev_queue *queue)
{
	return queue->in_flight;
}
