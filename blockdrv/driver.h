/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a driver or a stacked layer implements. Callers use include/ashlar/blockdev.h; the checks of
 * alignment and bounds are done there (blockdrv/bdev.c), so that an operation here may trust its
 * arguments.
 */
#ifndef BLOCKDRV_DRIVER_H
#define BLOCKDRV_DRIVER_H

#include <ashlar/blockdev.h>

struct bdev_operations {
	const char *name;
	int (*rw)(struct bdev *dev, bool write, const struct iovec *iov, int count, uint64_t offset, unsigned flags);
	int (*flush)(struct bdev *dev);
	int (*discard)(struct bdev *dev, uint64_t offset, uint64_t length);
	int (*write_zeroes)(struct bdev *dev, uint64_t offset, uint64_t length);
	void (*close)(struct bdev *dev);

	int (*queue_open)(struct bdev *dev, unsigned depth, struct bdev_queue **out);
	void (*queue_close)(struct bdev_queue *queue);
	int (*submit)(struct bdev_queue *queue, struct bdev_request *const *requests, unsigned count);
	int (*reap)(struct bdev_queue *queue, struct bdev_request **out, unsigned min, unsigned max);
	int (*event_fd)(struct bdev_queue *queue);
	void (*event_clear)(struct bdev_queue *queue);

	int (*lock)(struct bdev *dev, bool exclusive, unsigned timeout_ms);
	void (*unlock)(struct bdev *dev);
	int (*drop_exclusive)(struct bdev *dev);
	uint64_t (*next_data)(struct bdev *dev, uint64_t offset); /* NULL: holes are not known */
	int (*refresh_size)(struct bdev *dev); /* NULL: the size never changes, or ask the lower device */
};

/*
 * First member of every driver's own structure. `driver_private` of a request belongs to the driver or
 * layer that the request was handed to: a layer hands its own copies to the device below it, so
 * that layers never meet in it.
 */
struct bdev {
	const struct bdev_operations *operations;
	struct bdev_geometry geometry;
	char *name;
	struct bdev *lower;   /* layers only */
	unsigned queue_depth; /* of a queue opened with depth 0 */
	unsigned open_queues; /* atomic; for the check at close */
};

/* First member of every driver's queue. */
struct bdev_queue {
	struct bdev *dev;
	unsigned depth;
	unsigned in_flight; /* kept by blockdrv/bdev.c */
};

#define BDEV_QUEUE_DEPTH_DEFAULT 128u
#define BDEV_QUEUE_DEPTH_MAX 4096u

/* Drivers' open functions. `error` is never NULL here; `name` has no prefix any more. */
int bdev_sync_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);
int bdev_aio_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);
int bdev_uring_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);
int bdev_mem_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);

/* Put a one-line text in `error` and hand `code` back. */
int bdev_open_error(char *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * Fill the common part: a driver has a name and options, a layer a lower device (geometry and depth
 * are taken from it). -ENOMEM. bdev_close() frees the name; the operation `close` frees the rest.
 */
int bdev_init(struct bdev *dev, const struct bdev_operations *operations, const char *name,
	      const struct bdev_open_options *options);
void bdev_init_layer(struct bdev *dev, const struct bdev_operations *operations, struct bdev *lower);

/* Execute one (checked) request with the blocking operations of `dev`; the result is returned. */
int bdev_execute(struct bdev *dev, const struct bdev_request *request);

uint64_t bdev_now_ns(void); /* CLOCK_MONOTONIC */

#endif
