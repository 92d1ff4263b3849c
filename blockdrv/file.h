/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A block device or image file behind a descriptor: what sync, aio and uring share.
 *
 * These drivers differ only in their queues. Blocking calls are plain system calls on the
 * descriptor in all of them: for a lone request that is the shortest path.
 */
#ifndef BLOCKDRV_FILE_H
#define BLOCKDRV_FILE_H

#include "driver.h"

struct bdev_file {
	struct bdev dev;
	int fd;       /* all I/O, and the owner lock */
	int claim_fd; /* O_EXCL claim on a block device, else -1 */
	bool settled; /* what was written before is where SEEK_DATA finds it */
};

static inline struct bdev_file *bdev_file(struct bdev *dev)
{
	return (struct bdev_file *)dev;
}

/*
 * Open `path` for the driver `operations`. `may_buffer`: the driver can go on without O_DIRECT when
 * the options allow it. Errors as bdev_open().
 */
int bdev_file_open(const char *path, const struct bdev_open_options *options, const struct bdev_operations *operations,
		   bool may_buffer, struct bdev **out, char *error);

int bdev_file_rw(struct bdev *dev, bool write, const struct iovec *iov, int count, uint64_t offset, unsigned flags);
int bdev_file_flush(struct bdev *dev);
int bdev_file_discard(struct bdev *dev, uint64_t offset, uint64_t length);
int bdev_file_write_zeroes(struct bdev *dev, uint64_t offset, uint64_t length);
void bdev_file_close(struct bdev *dev);
int bdev_file_lock(struct bdev *dev, bool exclusive, unsigned timeout_ms);
void bdev_file_unlock(struct bdev *dev);
int bdev_file_drop_exclusive(struct bdev *dev);
uint64_t bdev_file_next_data(struct bdev *dev, uint64_t offset);
int bdev_file_refresh_size(struct bdev *dev);

/*
 * Judge what the kernel answered to a request of a queue (bytes or negative errno) and give its
 * result. What is unfinished for a passing reason (a short transfer, interrupted, cancelled because
 * the submitting thread ended, refused in asynchronous form) is finished here with blocking calls:
 * all operations can be repeated safely.
 */
int bdev_file_finish(struct bdev *dev, const struct bdev_request *request, int64_t answer);

#define BDEV_FILE_OPERATIONS                                                                                      \
	.rw = bdev_file_rw, .flush = bdev_file_flush, .discard = bdev_file_discard,                               \
	.write_zeroes = bdev_file_write_zeroes, .close = bdev_file_close, .lock = bdev_file_lock,                 \
	.unlock = bdev_file_unlock, .drop_exclusive = bdev_file_drop_exclusive, .next_data = bdev_file_next_data, \
	.refresh_size = bdev_file_refresh_size

#endif
