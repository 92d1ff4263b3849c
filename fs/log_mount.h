/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a replayed log to an open one: the last step of recovery, which only a mount takes.
 *
 * Locking: for ash_open(), single-threaded, with the owner lock of the device held since before the overlay was made.
 * Blocks in a flush and in the write of a control block, unless the volume is open without writing.
 */
#ifndef FS_LOG_MOUNT_H
#define FS_LOG_MOUNT_H

struct ash_overlay;
struct ash_volume;

/*
 * Make volume->log, with what `overlay` (recover.h) found in the cache as dirty buffers, and begin a new epoch.
 * The cache is open, the geometry is set, the superblock after replay was judged. The overlay is only read, and may be
 * closed afterwards. -ENOMEM, -EIO and other errors of the device, -ENOSPC when the cache cannot hold the images; after an
 * error ash_log_close() frees what there is.
 */
int ash_log_open_overlay(struct ash_volume *volume, const struct ash_overlay *overlay);

#endif
