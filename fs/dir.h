/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Directory entries over the B+tree of a directory's data fork. The directory's lock owns them.
 * These change entries only; sizes, link counts and times are the callers' (namespace.c).
 */
#ifndef FS_DIR_H
#define FS_DIR_H

#include "btree.h"

struct ash_entry {
	uint64_t key; /* its position */
	uint64_t ino;
	uint8_t type; /* DT_* */
};

/* 0, -ENOENT, -EUCLEAN ... */
int ash_dir_find(const struct ash_tree *tree, const char *name, size_t length, struct ash_entry *out);
/* -EEXIST (checked in the same search), -ENOSPC. */
int ash_dir_add(struct ash_txn *txn, struct ash_tree *tree, const char *name, size_t length, uint64_t ino,
		uint8_t type);
int ash_dir_remove(struct ash_txn *txn, struct ash_tree *tree, const struct ash_entry *entry);
/* Point an existing name at another inode: rename over, exchange. */
int ash_dir_set(struct ash_txn *txn, struct ash_tree *tree, const struct ash_entry *entry, uint64_t ino, uint8_t type);
/* Walk from the first entry with key > `position` (keys from 3). `each` returns nonzero to stop; result 0 at the end, 1 stopped. */
typedef int (*ash_dir_each)(void *context, const struct ash_entry *entry, const char *name, size_t length);
int ash_dir_walk(const struct ash_tree *tree, uint64_t position, ash_dir_each each, void *context);
/* The hash part of a name's key, collision 0. */
uint64_t ash_name_key(const struct ash_volume *volume, const char *name, size_t length);
/* A dirent value from a checked node: NULL when good, else what is wrong with it. */
const char *ash_dirent_check(const uint8_t *value, uint32_t length);

#endif
