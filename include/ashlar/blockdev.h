/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Block device drivers.
 *
 * One handle (`struct bdev`) stands for one device, opened by a name:
 *
 *   /dev/sdb1, image.img   default driver (aio)
 *   aio:PATH               libaio, O_DIRECT
 *   uring:PATH             io_uring with registered files and buffers, O_DIRECT (when built in)
 *   sync:PATH              preadv/pwritev, O_DIRECT
 *   mem:SIZE               anonymous memory; SIZE as 64M, 1GiB ...
 *
 * Every driver and every stacked layer (stats, trace; in the tests fault, record, delay) offers the
 * same operations. Geometry and capabilities are data, not operations.
 *
 * Units: offsets and lengths are bytes and multiples of `geometry.logical_block`; memory is aligned
 * to `geometry.memory_align`. Both and the bounds are checked here, once, and violations give
 * -EINVAL. Writing, zeroing or discarding on a read-only handle gives -EROFS.
 * Results: 0 on success, negative errno on failure. A short transfer is a failure (-EIO); a device
 * that is gone gives -ENODEV or -EIO at once, never a hang.
 * Threads: all calls on a `struct bdev` may be made from any thread at any time. A
 * `struct bdev_queue` belongs to one thread at a time (the caller serialises).
 */
#ifndef ASHLAR_BLOCKDEV_H
#define ASHLAR_BLOCKDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the device is and can do. Filled at open, constant afterwards except `size`. */
struct bdev_geometry {
	uint64_t size;                /* bytes */
	uint32_t logical_block;       /* bytes, 512 or 4096 (BLKSSZGET) */
	uint32_t physical_block;      /* bytes (BLKPBSZGET) */
	uint32_t optimal_io;          /* bytes, 0 when unknown (BLKIOOPT) */
	uint32_t memory_align;        /* bytes, alignment that buffers must have */
	uint32_t discard_granularity; /* bytes, 0 when discard is not supported */
	uint32_t max_transfer;        /* bytes in one request that the driver will not split; 0: no limit */
	bool volatile_cache;          /* writes need a flush to be durable */
	bool fua;                     /* BDEV_FUA is cheaper than write + flush */
	bool discard;
	bool write_zeroes;
	bool rotational;
	bool polling; /* completions can be polled without an interrupt */
	bool read_only;
	bool block_device;      /* a block special file, not a regular file or memory */
	bool buffered;          /* O_DIRECT was refused and `allow_buffered` was given */
	uint64_t device_number; /* st_rdev of a block device, else 0 */
};

struct bdev;
struct bdev_queue;

#define BDEV_ERROR_TEXT 512 /* bytes that an error text may need, with its NUL */

struct bdev_open_options {
	bool read_only;
	bool exclusive;       /* block devices: O_EXCL, so that a mounted device gives -EBUSY */
	bool allow_buffered;  /* `sync:` only: go on without O_DIRECT where it is refused */
	unsigned queue_depth; /* of queues opened on it; 0: 128 */
};

/*
 * Open `name`. On failure a one-line text that says what to do is put in `error` (of
 * BDEV_ERROR_TEXT bytes, may be NULL) and negative errno is returned:
 * -ENOENT, -EACCES, -EBUSY (exclusive), -EISDIR, -ENOTBLK (a character device, fifo or socket),
 * -EINVAL (name or O_DIRECT refused), -ENOTSUP (driver not built in), -EROFS (opened for writing
 * what is write-protected, or an image on a read-only file system), -ENOMEM. An empty regular
 * file opens (its size is 0). The size of a regular file is rounded down to whole logical blocks.
 */
int bdev_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error);

/* Close the handle and every layer below it. All queues must be closed. Does not flush. */
void bdev_close(struct bdev *dev);

/* Geometry; valid until bdev_close(). */
const struct bdev_geometry *bdev_geometry(const struct bdev *dev);

/*
 * Ask the device for its size again (a device or image that was grown or cut) and store it in the
 * geometry. 0 or negative errno. Nobody may be reading `geometry.size` at the same time except the
 * checks in here; the caller knows when that is.
 */
int bdev_refresh_size(struct bdev *dev);

/* The path or name without its driver prefix, for messages. Valid until bdev_close(). */
const char *bdev_name(const struct bdev *dev);
/* The driver's name: "aio", "uring", "sync", "mem"; a layer reports the driver below it. */
const char *bdev_driver(const struct bdev *dev);

/*
 * Advisory owner lock on the I/O descriptor itself (an OFD lock over the whole file), tried for
 * `timeout_ms`. -EBUSY when somebody else holds it, 0 for drivers that have no descriptor. On a
 * read-only handle the lock is always a shared one, which keeps writers out all the same.
 */
int bdev_lock(struct bdev *dev, bool exclusive, unsigned timeout_ms);
void bdev_unlock(struct bdev *dev);

/*
 * Give up the O_EXCL claim of an exclusive open (the kernel claims the device itself at a fuseblk
 * mount and would refuse it to us otherwise) while keeping the handle usable. The owner lock, when
 * held, is kept without a gap. 0 or negative errno.
 */
int bdev_drop_exclusive(struct bdev *dev);

/* ---- Blocking calls: the shortest path for a lone request. ---- */

#define BDEV_FUA 1u /* durable when the call returns (write + flush where the device lacks FUA) */

int bdev_read(struct bdev *dev, void *buffer, size_t length, uint64_t offset);
int bdev_write(struct bdev *dev, const void *buffer, size_t length, uint64_t offset, unsigned flags);
int bdev_readv(struct bdev *dev, const struct iovec *iov, int count, uint64_t offset);
int bdev_writev(struct bdev *dev, const struct iovec *iov, int count, uint64_t offset, unsigned flags);

/*
 * The first byte at or behind `offset` that may be other than zero, the size of the device where there is none: what
 * lies before it is a hole of an image file, which reads as zeroes and need not be read. `offset` itself where that
 * is not known.
 */
uint64_t bdev_next_data(struct bdev *dev, uint64_t offset);

/* Make every write that completed before this call durable. */
int bdev_flush(struct bdev *dev);

/* The content of the range becomes undefined (but is stable once read). -EOPNOTSUPP if unsupported. */
int bdev_discard(struct bdev *dev, uint64_t offset, uint64_t length);

/* Zero the range. Works on every driver (falls back to writing zeroes). */
int bdev_write_zeroes(struct bdev *dev, uint64_t offset, uint64_t length);

/* ---- Asynchronous calls. ---- */

enum bdev_op { BDEV_READ, BDEV_WRITE, BDEV_FLUSH, BDEV_DISCARD, BDEV_WRITE_ZEROES };

struct bdev_request {
	enum bdev_op op;
	unsigned flags;          /* BDEV_FUA for writes */
	uint64_t offset;         /* bytes */
	uint64_t length;         /* bytes; for reads and writes the sum over iov */
	const struct iovec *iov; /* must live until completion */
	int iov_count;
	int result;              /* out: 0 or negative errno */
	void *user;              /* the caller's */
	void *driver_private[4]; /* the driver's and the layers' */
};

/* A submission and completion queue. `depth` requests can be in flight (0: the open option's). */
int bdev_queue_open(struct bdev *dev, unsigned depth, struct bdev_queue **out);
/* Waits for everything in flight. */
void bdev_queue_close(struct bdev_queue *queue);

/*
 * Submit `count` requests; they complete in any order. Returns the number accepted (the queue may be
 * full: reap and submit the rest; 0 is possible) or negative errno if the first one failed at once.
 */
int bdev_submit(struct bdev_queue *queue, struct bdev_request *const *requests, unsigned count);

/*
 * Collect up to `max` completed requests, waiting until at least `min` of those in flight are done
 * (min 0: poll). Returns the number put in `out`, or negative errno. Interrupted waits go on.
 */
int bdev_reap(struct bdev_queue *queue, struct bdev_request **out, unsigned min, unsigned max);

/*
 * Submit all requests, as many at a time as the queue takes, and wait until they are done: a blocking call for much at
 * once. The queue is idle before. Nothing more is submitted after the first failure: its error is returned, and what
 * did not reach the device has a result of -EIO, too. When reaping fails the queue is not idle afterwards; to close it
 * then, while the requests live, waits for them.
 */
int bdev_run(struct bdev_queue *queue, struct bdev_request *requests, unsigned count);

/*
 * A descriptor that polls readable while completions may be waiting; -1 if the driver has none.
 * Ask before the first submit: requests in flight at the first call need not signal it.
 */
int bdev_queue_event_fd(struct bdev_queue *queue);
/* After the descriptor polled readable and before reaping: consume its count. */
void bdev_queue_event_clear(struct bdev_queue *queue);
/* Requests submitted and not yet reaped. */
unsigned bdev_queue_in_flight(const struct bdev_queue *queue);

/* ---- Layers. Each takes ownership of `lower`; closing the layer closes it. ---- */

struct bdev_stats_kind {
	uint64_t requests, bytes, errors;
	uint64_t latency_total_ns, latency_max_ns;
	uint64_t latency_histogram[40]; /* bucket i: latency in [2^i, 2^(i+1)) ns */
	uint64_t in_flight_max;
};
struct bdev_stats {
	struct bdev_stats_kind read, write, flush, discard, write_zeroes;
};
int bdev_stats_open(struct bdev *lower, struct bdev **out);
void bdev_stats_get(struct bdev *stats_layer, struct bdev_stats *out);
void bdev_stats_reset(struct bdev *stats_layer);

/* Calls `sink` for each finished request (any thread, no lock held). */
struct bdev_trace_event {
	enum bdev_op op;
	unsigned flags;
	uint64_t offset, length, start_ns, end_ns;
	int result;
};
int bdev_trace_open(struct bdev *lower, void (*sink)(void *context, const struct bdev_trace_event *event),
		    void *context, struct bdev **out);

/* ---- Buffers. ---- */

/* Zeroed memory aligned to 4096, length rounded up to 4096; NULL when out of memory. */
void *bdev_buffer_alloc(size_t length);
void bdev_buffer_free(void *buffer, size_t length);

/* A pool of equal aligned buffers, thread-safe. `huge` asks for huge pages and goes on without. */
struct bdev_pool;
int bdev_pool_create(size_t buffer_size, unsigned count, bool huge, struct bdev_pool **out);
void bdev_pool_destroy(struct bdev_pool *pool);
void *bdev_pool_get(struct bdev_pool *pool);      /* NULL when all are out */
void *bdev_pool_get_wait(struct bdev_pool *pool); /* blocks */
void bdev_pool_put(struct bdev_pool *pool, void *buffer);

/* Parse "512M", "4GiB", "4096", "10k" (powers of 1024). -EINVAL or -ERANGE. */
int bdev_parse_size(const char *text, uint64_t *out);

#ifdef __cplusplus
}
#endif
#endif
