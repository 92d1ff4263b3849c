/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extended attributes over the B+tree of the attribute fork. The inode's lock owns them (shared to read,
 * exclusive to change). Long values are written to claimed blocks before the transaction opens
 * (I2): prepare -> begin -> lock -> set -> commit. ash_inode.ctime is the caller's.
 */
#ifndef FS_XATTR_H
#define FS_XATTR_H

#include "alloc.h"
#include "btree.h"

/* A value on its way in: inline, or already written to claimed blocks. */
struct ash_xattr_prepared {
	const void *value;
	uint32_t size;
	uint32_t crc;
	uint32_t extent_count;
	struct ash_extent extents[ASH_XATTR_MAX_EXTENTS];
	bool external;
};

/* Write a long value to claimed blocks. No locks held, no transaction open. */
int ash_xattr_prepare(struct ash_volume *volume, uint64_t goal, const void *value, uint32_t size,
		      struct ash_xattr_prepared *out);
/* Give the blocks back if it was not used (the transaction aborted or never began). */
void ash_xattr_unprepare(struct ash_volume *volume, struct ash_xattr_prepared *prepared);

/* size 0: length only. -ENODATA, -ERANGE, -EUCLEAN. */
int ash_xattr_get(const struct ash_tree *tree, const char *name, void *value, size_t size);
/* flags: XATTR_CREATE, XATTR_REPLACE. -ENOSPC also for a name that would not fit a list. */
int ash_xattr_set(struct ash_txn *txn, struct ash_tree *tree, const char *name,
		  const struct ash_xattr_prepared *prepared, int flags);
int ash_xattr_remove(struct ash_txn *txn, struct ash_tree *tree, const char *name);
int ash_xattr_list(const struct ash_tree *tree, char *list, size_t size);
/* Free every long value and node: for an inode that goes away. Bounded as ash_map_remove: 1 when more is left. */
int ash_xattr_clear(struct ash_txn *txn, struct ash_tree *tree, uint32_t byte_limit);
const char *ash_xattr_check(const uint8_t *value, uint32_t length);

#endif
