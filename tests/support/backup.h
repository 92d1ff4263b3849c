/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Is there a backup of the superblock? */
#ifndef TESTS_SUPPORT_BACKUP_H
#define TESTS_SUPPORT_BACKUP_H

#include <ashlar/blockdev.h>
#include <ashlar/format.h>
#include <stdbool.h>
#include "fs/checksum.h"

/* One that was written whole, for this place; of any size. */
static inline bool backup_is_good(struct bdev *dev, uint64_t block)
{
	struct ash_super *super = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	bool good = super && !bdev_read(dev, super, ASH_BLOCK_SIZE, block * ASH_BLOCK_SIZE) &&
		    ash_get32(super->header.magic) == ASH_MAGIC_SUPER && ash_get64(super->header.address) == block &&
		    ash_get32(super->header.crc) == ash_block_crc(0, super);

	bdev_buffer_free(super, ASH_BLOCK_SIZE);
	return good;
}

#endif
