/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The plainest driver: "sync:PATH", one system call for one request.
 *
 * Concept: all blocking calls are those of file.c; a queue executes each request at submit. The only
 * driver that can go on without O_DIRECT, when the open options allow it.
 *
 * Locking: none.
 */
#include "done.h"
#include "file.h"

static const struct bdev_operations sync_operations = {
	.name = "sync",
	BDEV_FILE_OPERATIONS,
	BDEV_EMULATED_QUEUE_OPERATIONS,
};

int bdev_sync_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error)
{
	return bdev_file_open(name, options, &sync_operations, true, out, error);
}
