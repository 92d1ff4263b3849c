/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names: lookup, link, readlink; and the handles of locked inodes that the neighbours create.c, remove.c, rename.c,
 * readdir.c, setattr.c, orphan.c and xattr_api.c share.
 *
 * Concept: each operation is one transaction (I7). Its order is always the same:
 *   check the names - take lookup counts, claim a number, write what must be on the device before (I2) - begin -
 *   lock the parent, then the child - look whether the operation is allowed - change - commit - unlock -
 *   wait for durability if `sync` asks for it.
 * What can fail for want of memory or space comes before the commit; a failure aborts, gives back and leaves
 * everything as it was (I9). On -ENOSPC the outermost level reclaims space, with nothing open and nothing locked, and
 * tries once more.
 *
 * Locks: directories before what is in them; see inode.h.
 */
#include "file_edit.h"
#include "map.h"
#include "names.h"

#include <ashlar/blockdev.h>
#include <dirent.h>

#define LINKS_MAX 0x80000000u /* of files */
#define LINKS_OF_DIRECTORY 2  /* without subdirectories */

/* ---- Locked inodes ---- */

static int look_at_locked(struct ash_volume *volume, struct ash_icore *icore, struct ash_held *held)
{
	int result = ash_record_get(volume, icore->ino, &held->record);

	if (result) {
		ash_icore_unlock(icore);
		return result;
	}
	held->icore = icore;
	return 0;
}

int ash_hold_icore(struct ash_volume *volume, struct ash_icore *icore, bool exclusive, struct ash_held *held)
{
	ash_icore_lock(volume, icore, exclusive);
	return look_at_locked(volume, icore, held);
}

int ash_try_hold_icore(struct ash_volume *volume, struct ash_icore *icore, struct ash_held *held)
{
	return pthread_rwlock_tryrdlock(&icore->lock) ? -EBUSY : look_at_locked(volume, icore, held);
}

int ash_hold(struct ash_volume *volume, uint64_t ino, bool exclusive, struct ash_held *held)
{
	struct ash_icore *icore;
	int result;

	held->icore = NULL;
	result = ash_icore_get(volume, ino, &icore);
	if (result)
		return result;
	result = ash_hold_icore(volume, icore, exclusive, held);
	if (result)
		ash_icore_put(volume, icore);
	return result;
}

/*
 * Threads that wait for children go down by what directories tell of their parents, so that they wait in a circle only when
 * that is one. One of two directories is seen here; one of more, which takes as many threads, is not.
 */
static const char *place_wrong(const struct ash_held *parent, uint64_t ino, bool directory, uint64_t parent_of_ino)
{
	if (ino == parent->icore->ino)
		return "directory contains itself";
	if (directory && parent_of_ino != parent->icore->ino)
		return "directory with another parent";
	return ino == ash_get64(parent->record.inode->parent) ? "directory contains its parent" : NULL;
}

int ash_hold_child(struct ash_volume *volume, const struct ash_held *parent, uint64_t ino, struct ash_held *child)
{
	uint64_t parent_of_ino;
	const char *wrong;
	bool directory;
	int result = ash_inode_parent(volume, ino, &directory, &parent_of_ino);

	if (!result) {
		wrong = place_wrong(parent, ino, directory, parent_of_ino);
		if (wrong)
			return ash_damaged(volume, parent->record.buffer->id.block, wrong);
		result = ash_hold(volume, ino, true, child);
	}
	return result == -ESTALE ? ash_damaged(volume, 0, "a name of a free inode") : result;
}

void ash_unhold(struct ash_volume *volume, struct ash_held *held)
{
	if (!held->icore)
		return;
	ash_record_put(volume, &held->record);
	ash_icore_unlock(held->icore);
	held->icore = NULL;
}

void ash_release(struct ash_volume *volume, struct ash_held *held)
{
	struct ash_icore *icore = held->icore;

	if (!icore)
		return;
	ash_unhold(volume, held);
	ash_icore_put(volume, icore);
}

void ash_note_access(struct ash_volume *volume, struct ash_icore *icore)
{
	struct timespec now = ash_now();
	struct ash_held held = { 0 };
	struct ash_inode header;
	struct ash_txn *txn;

	if (ash_txn_begin(volume, ASH_TXN_SMALL, &txn))
		return;
	if (ash_hold_icore(volume, icore, true, &held)) {
		ash_txn_abort(txn);
		return;
	}
	ash_record_header(&held.record, &header);
	header.atime = ash_put64((uint64_t)now.tv_sec);
	header.atime_ns = ash_put32((uint32_t)now.tv_nsec);
	ash_record_set_header(txn, &held.record, &header);
	ash_icore_raise(icore, ash_txn_commit(txn), false);
	ash_unhold(volume, &held);
}

int ash_name_length(const char *name)
{
	size_t length = strnlen(name, ASH_NAME_MAX + 1);

	if (!length)
		return -ENOENT;
	if (length > ASH_NAME_MAX)
		return -ENAMETOOLONG;
	return memchr(name, '/', length) ? -EINVAL : (int)length;
}

bool ash_name_is_dots(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

int ash_check_directory(const struct ash_held *held)
{
	if (!S_ISDIR(ash_record_mode(&held->record)))
		return -ENOTDIR;
	return ash_record_nlink(&held->record) ? 0 : -ENOENT;
}

int ash_check_may_add(const struct ash_held *parent)
{
	int result = ash_check_directory(parent);

	return !result && ash_record_flags(&parent->record) & ASH_INODE_IMMUTABLE ? -EPERM : result;
}

int ash_finish_sync(struct ash_volume *volume, uint64_t lsn, uint32_t flags)
{
	if (!atomic_load(&volume->sync) && !(flags & ASH_INODE_SYNC))
		return 0;
	return ash_log_defer(volume, lsn) ? 0 : ash_log_force(volume, lsn);
}

static int stop_at_entry(void *context, const struct ash_entry *entry, const char *name, size_t length)
{
	(void)context;
	(void)entry;
	(void)name;
	(void)length;
	return 1;
}

int ash_check_empty(struct ash_volume *volume, const struct ash_held *held)
{
	struct ash_tree tree;
	int result;

	if (ash_get64(held->record.inode->size))
		return -ENOTEMPTY;
	if (held->record.inode->data_kind == ASH_FORK_EMPTY)
		return 0;
	/* With a wrong count everything below would lose its name (I8). A tree without entries is in order (FORMAT.md, 6.1). */
	ash_record_tree(volume, &held->record, false, &tree);
	result = ash_dir_walk(&tree, 0, stop_at_entry, NULL);
	return result > 0 ? ash_damaged(volume, held->record.buffer->id.block, "directory with entries counts none") :
			    result;
}

int ash_directory_changed(struct ash_txn *txn, struct ash_held *parent, int entries, int links,
			  const struct timespec *now)
{
	struct ash_inode header;
	int64_t size, nlink;

	ash_record_header(&parent->record, &header);
	size = (int64_t)(ash_get64(header.size) + (uint64_t)(int64_t)entries);
	nlink = (int64_t)ash_get32(header.nlink) + links;
	/* The record would be refused when it is read the next time, with all that is in the directory. */
	if (size < 0 || nlink < LINKS_OF_DIRECTORY || (size && header.data_kind == ASH_FORK_EMPTY))
		return ash_damaged(ash_txn_volume(txn), parent->record.buffer->id.block,
				   "entry or link count of a directory");
	header.size = ash_put64((uint64_t)size);
	header.nlink = ash_put32((uint32_t)nlink);
	ash_header_set_mtime(&header, now);
	ash_header_set_ctime(&header, now);
	ash_record_set_header(txn, &parent->record, &header);
	return 0;
}

/* ---- Lookup ---- */

/* The number that `name` stands for, with a lookup count taken while the directory's lock keeps the name. */
static int find_and_count(struct ash_volume *volume, uint64_t parent, const char *name, int length, uint64_t *ino)
{
	struct ash_held held;
	int result = ash_hold(volume, parent, false, &held);

	if (result)
		return result;
	if (!strcmp(name, ".")) {
		/* Of any type: a file handle is turned into an inode this way. The kernel asks only when it has dropped the
		 * inode; that it still counts lookups means no more than that its FORGET is on the way. */
		*ino = parent;
		if (!ash_record_nlink(&held.record))
			result = -ESTALE;
	} else {
		struct ash_entry entry = { .ino = ash_get64(held.record.inode->parent) };
		struct ash_tree tree;

		result = ash_check_directory(&held);
		if (!result && strcmp(name, "..")) {
			ash_record_tree(volume, &held.record, false, &tree);
			result = ash_dir_find(&tree, name, (size_t)length, &entry);
		}
		*ino = entry.ino;
	}
	if (!result) {
		/* first the one that waits for nothing: the other has to find the record's buffer */
		ash_lookup_prefetch(volume, *ino);
		ash_itable_prefetch(volume, *ino);
		result = ash_lookup_take(volume, *ino, 1);
	}
	ash_release(volume, &held);
	return result;
}

int ash_lookup(struct ash_volume *volume, uint64_t parent, const char *name, struct ash_attr *attr)
{
	int length = ash_name_length(name);
	uint64_t ino;
	int result = length < 0 ? length : find_and_count(volume, parent, name, length, &ino);

	if (result)
		return result;
	/* The count keeps the inode: its lock alone will do, and no thread waits for it with the directory locked. */
	result = ash_inode_read(volume, ino, attr, NULL);
	if (!result)
		return 0;
	ash_forget(volume, ino, 1);
	return result == -ESTALE ? ash_damaged(volume, 0, "a name of a free inode") : result;
}

int ash_parent(struct ash_volume *volume, uint64_t ino, uint64_t *parent)
{
	struct ash_attr attr;
	int result = ash_inode_read(volume, ino, &attr, parent);

	if (result)
		return result;
	if (!S_ISDIR(attr.mode))
		return -ENOTDIR;
	return attr.nlink ? 0 : -ENOENT;
}

void ash_forget(struct ash_volume *volume, uint64_t ino, uint64_t count)
{
	unsigned marks;

	if (!count || ash_lookup_release(volume, ino, count, &marks) || !(marks & ASH_LOOKUP_UNLINKED))
		return;
	/* An error has been logged; the orphan stays in its set, and the next mount tries again. */
	(void)ash_orphan_finish(volume, ino);
}

/* ---- Link ---- */

struct linker {
	struct ash_volume *volume;
	struct ash_icore *source, *parent;
	const char *name;
	size_t name_length;
	uint64_t lsn;
	uint32_t parent_flags;
	bool was_orphan;
};

static int check_link(const struct linker *linker, const struct ash_held *source)
{
	uint32_t nlink = ash_record_nlink(&source->record);

	if (ash_record_flags(&source->record) & (ASH_INODE_IMMUTABLE | ASH_INODE_APPEND))
		return -EPERM;
	if (!nlink && !(ash_lookup_marks(linker->volume, source->icore->ino) & ASH_LOOKUP_TMPFILE))
		return -ENOENT; /* unlinked: it has begun to go */
	return nlink >= LINKS_MAX ? -EMLINK : 0;
}

static int log_link(struct ash_txn *txn, struct linker *linker, struct ash_held *parent, struct ash_held *source)
{
	struct timespec now = ash_now();
	struct ash_inode header;
	struct ash_tree tree;
	int result = ash_check_may_add(parent);

	if (!result)
		result = check_link(linker, source);
	if (result)
		return result;
	ash_record_tree(linker->volume, &parent->record, false, &tree);
	result = ash_dir_add(txn, &tree, linker->name, linker->name_length, source->icore->ino,
			     IFTODT(ash_record_mode(&source->record)));
	if (!result)
		result = ash_directory_changed(txn, parent, 1, 0, &now);
	if (result)
		return result;
	ash_record_header(&source->record, &header);
	linker->was_orphan = !ash_get32(header.nlink);
	header.nlink = ash_put32(ash_get32(header.nlink) + 1);
	ash_header_set_ctime(&header, &now);
	ash_record_set_header(txn, &source->record, &header);
	/* the end of an unfinished truncation takes the mark away; until then recovery must know of it */
	if (linker->was_orphan && !ash_truncation_pending(linker->volume, source->icore->ino))
		ash_orphan_remove(txn, source->icore->ino);
	return 0;
}

static int link_once(struct linker *linker, struct ash_attr *attr)
{
	struct ash_volume *volume = linker->volume;
	struct ash_held parent = { 0 }, source = { 0 };
	struct ash_txn *txn;
	int result = ash_txn_begin(volume, ASH_TXN_NAME, &txn);

	if (result)
		return result;
	result = ash_hold_icore(volume, linker->parent, true, &parent);
	if (!result)
		result = ash_hold_icore(volume, linker->source, true, &source);
	if (!result)
		result = log_link(txn, linker, &parent, &source);
	if (result) {
		ash_txn_abort(txn);
	} else {
		linker->lsn = ash_txn_commit(txn);
		ash_icore_raise(linker->parent, linker->lsn, true);
		ash_icore_raise(linker->source, linker->lsn, true);
		if (linker->was_orphan)
			ash_lookup_mark(volume, linker->source->ino, 0);
		linker->parent_flags = ash_record_flags(&parent.record);
		ash_record_attr(&source.record, linker->source, attr);
	}
	ash_unhold(volume, &source);
	ash_unhold(volume, &parent);
	return result;
}

static int link_icores(struct linker *linker, struct ash_attr *attr)
{
	struct ash_volume *volume = linker->volume;
	int result;

	if (linker->source == linker->parent)
		return -EPERM;
	result = ash_lookup_take(volume, linker->source->ino, 1);
	if (result)
		return result;
	result = link_once(linker, attr);
	if (result == -ENOSPC && ash_reclaim_space(volume))
		result = link_once(linker, attr);
	if (!result)
		result = ash_finish_sync(volume, linker->lsn, linker->parent_flags);
	if (result)
		ash_forget(volume, linker->source->ino, 1);
	return result;
}

/*
 * Directories have one name. Found out with nothing else locked: behind a parent that may lie below it, a directory's lock
 * would be taken out of order. The type stays while the inode is referenced.
 */
static int check_source_type(struct linker *linker)
{
	struct ash_held held;
	int result = ash_hold_icore(linker->volume, linker->source, false, &held);

	if (result)
		return result;
	if (S_ISDIR(ash_record_mode(&held.record)))
		result = -EPERM;
	ash_unhold(linker->volume, &held);
	return result;
}

int ash_link(struct ash_volume *volume, uint64_t ino, uint64_t parent, const char *name, struct ash_attr *attr)
{
	struct linker linker = { .volume = volume, .name = name };
	int length = ash_name_length(name);
	int result = length < 0 ? length : ash_name_is_dots(name) ? -EEXIST : 0;

	if (!result)
		result = ash_icore_get(volume, ino, &linker.source);
	if (result)
		return result;
	linker.name_length = (size_t)length;
	result = check_source_type(&linker);
	if (!result)
		result = ash_icore_get(volume, parent, &linker.parent);
	if (!result) {
		result = link_icores(&linker, attr);
		ash_icore_put(volume, linker.parent);
	}
	ash_icore_put(volume, linker.source);
	return result;
}

/* ---- Readlink ---- */

/* A target of more than an inline fork, from its block. Lock held: the block cannot be freed meanwhile. */
static int read_target(struct ash_volume *volume, const struct ash_held *held, char *buffer, size_t length)
{
	struct ash_mapping mapping;
	struct ash_tree tree;
	char *block;
	int result;

	ash_record_tree(volume, &held->record, false, &tree);
	result = ash_map_get(&tree, 0, 1, &mapping);
	if (!result && (!mapping.start || mapping.unwritten || mapping.start >= volume->block_count))
		result = ash_damaged(volume, held->record.buffer->id.block, "symbolic link without a target");
	if (result)
		return result;
	block = bdev_buffer_alloc(ASH_BLOCK_SIZE);
	if (!block)
		return -ENOMEM;
	ash_wait_begin(volume);
	result = bdev_read(volume->dev, block, ASH_BLOCK_SIZE, mapping.start << ASH_BLOCK_SHIFT);
	ash_wait_end(volume);
	if (!result)
		memcpy(buffer, block, length);
	bdev_buffer_free(block, ASH_BLOCK_SIZE);
	return result;
}

/* Returns the length of the target; at most `size` bytes of it are stored. */
static int read_link(struct ash_volume *volume, const struct ash_held *held, char *buffer, size_t size)
{
	size_t length = ash_get64(held->record.inode->size), stored = length < size ? length : size;
	int result = 0;

	if (!S_ISLNK(ash_record_mode(&held->record)))
		result = -EINVAL;
	else if (held->record.inode->data_kind == ASH_FORK_INLINE)
		memcpy(buffer, held->record.inode->data, stored);
	else
		result = read_target(volume, held, buffer, stored);
	return result ? result : (int)length;
}

int ash_readlink(struct ash_volume *volume, uint64_t ino, char *buffer, size_t size)
{
	struct ash_icore *icore;
	struct ash_held held = { 0 };
	bool due = false;
	int result = ash_icore_get(volume, ino, &icore);

	if (result)
		return result;
	result = ash_hold_icore(volume, icore, false, &held);
	if (!result) {
		due = ash_atime_due(volume, held.record.inode);
		result = read_link(volume, &held, buffer, size);
		ash_unhold(volume, &held);
	}
	if (result >= 0 && due)
		ash_note_access(volume, icore);
	ash_icore_put(volume, icore);
	return result;
}
