/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Directories as only a forger, or damage that no checksum sees, makes them: records and entries that do not fit. */
#ifndef TESTS_FORGE_FIXTURE_H
#define TESTS_FORGE_FIXTURE_H

#include <dirent.h>
#include "fs/names.h"
#include "names_fixture.h"

static inline void forge_field(struct names *names, uint64_t ino, uint32_t offset, const void *value, uint32_t length)
{
	struct ash_held held;
	struct ash_txn *txn;

	cr_assert_eq(ash_txn_begin(names->volume, ASH_TXN_SMALL, &txn), 0);
	cr_assert_eq(ash_hold(names->volume, ino, true, &held), 0);
	ash_record_set(txn, &held.record, offset, value, length);
	ash_txn_commit(txn);
	ash_release(names->volume, &held);
}

static inline void forge_size(struct names *names, uint64_t ino, uint64_t size)
{
	ash_le64 value = ash_put64(size);

	forge_field(names, ino, offsetof(struct ash_inode, size), &value, sizeof(value));
}

static inline void forge_nlink(struct names *names, uint64_t ino, uint32_t nlink)
{
	ash_le32 value = ash_put32(nlink);

	forge_field(names, ino, offsetof(struct ash_inode, nlink), &value, sizeof(value));
}

/* A further name for a directory, counted in its new parent. */
static inline void forge_directory_name(struct names *names, uint64_t parent, const char *name, uint64_t ino)
{
	struct timespec now = ash_now();
	struct ash_held held;
	struct ash_tree tree;
	struct ash_txn *txn;

	cr_assert_eq(ash_txn_begin(names->volume, ASH_TXN_NAME, &txn), 0);
	cr_assert_eq(ash_hold(names->volume, parent, true, &held), 0);
	ash_record_tree(names->volume, &held.record, false, &tree);
	cr_assert_eq(ash_dir_add(txn, &tree, name, strlen(name), ino, DT_DIR), 0);
	cr_assert_eq(ash_directory_changed(txn, &held, 1, 1, &now), 0);
	ash_txn_commit(txn);
	ash_release(names->volume, &held);
}

#endif
