/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inode records: the codec of struct ash_inode, and what it takes to trust one.
 *
 * Concept: a record is used where it lies, in the cached block. Readers get a view; a change is made on a copy
 * of the 128-byte header and set back in one piece, of which the engine logs what differs.
 *
 * Rules: the block cache ran ash_inode_check() over each record when it read the block (I8) and keeps the outcome in
 * `bad_records`; a view is handed out only of a good record that is in use. The `crc` field of a cached record
 * means nothing (it is computed when the block goes home) and is never written here.
 *
 * Locks: none taken but in ash_inode_read(); the caller holds the inode's lock (I11).
 */
#include "names.h"
#include "wbuf.h"

#define DAY_SECONDS 86400

/* ---- Views ---- */

int ash_record_get(struct ash_volume *volume, uint64_t ino, struct ash_record *out)
{
	struct ash_block_id id;
	int result = ash_itable_locate(volume, ino, &id, &out->offset);

	if (result)
		return result;
	if (ino == ASH_INO_TABLE) {
		out->buffer = ash_buffer_hold(volume->super);
		out->inode = (const void *)(out->buffer->data + out->offset);
		return 0;
	}
	result = ash_buffer_get_at(volume, id, out->offset, &out->buffer);
	if (result)
		return result;
	out->inode = (const void *)(out->buffer->data + out->offset);
	if (out->buffer->bad_records & 1u << out->offset / ASH_INODE_SIZE)
		result = ash_damaged(volume, id.block, "inode record");
	else if (!ash_record_mode(out))
		result = -ESTALE;
	if (result)
		ash_buffer_put(volume, out->buffer);
	return result;
}

void ash_record_put(struct ash_volume *volume, struct ash_record *record)
{
	ash_buffer_put(volume, record->buffer);
	record->buffer = NULL;
}

void ash_record_set_header(struct ash_txn *txn, struct ash_record *record, const struct ash_inode *header)
{
	ash_record_set(txn, record, offsetof(struct ash_inode, ino), &header->ino,
		       ASH_INODE_HEADER_SIZE - offsetof(struct ash_inode, ino));
}

void ash_record_set(struct ash_txn *txn, struct ash_record *record, uint32_t offset, const void *source,
		    uint32_t length)
{
	ash_txn_set(txn, record->buffer, record->offset + offset, source, length);
}

void ash_record_tree(struct ash_volume *volume, const struct ash_record *record, bool attribute, struct ash_tree *out)
{
	uint32_t fork = attribute ? offsetof(struct ash_inode, attr) : offsetof(struct ash_inode, data);
	uint32_t kind = attribute ? offsetof(struct ash_inode, attr_kind) : offsetof(struct ash_inode, data_kind);

	*out = (struct ash_tree){
		.volume = volume,
		.owner = ash_get64(record->inode->ino),
		.buffer = record->buffer,
		.offset = record->offset + fork,
		.size = attribute ? ASH_ATTR_FORK_SIZE : ASH_DATA_FORK_SIZE,
		.kind_offset = record->offset + kind,
		.blocks_offset = record->offset + offsetof(struct ash_inode, blocks),
		.goal = record->buffer->id.block, /* near the inode */
	};
}

/* ---- Attributes ---- */

/* A rough size in bytes, so that du and ls show a large directory as large. */
#define DIRECTORY_ENTRY_BYTES 32u
#define SECTORS_PER_BLOCK (ASH_BLOCK_SIZE / 512u)

static struct timespec time_of(ash_le64 seconds, ash_le32 nanoseconds)
{
	return (struct timespec){ .tv_sec = (int64_t)ash_get64(seconds), .tv_nsec = ash_get32(nanoseconds) };
}

void ash_inode_attr(const struct ash_inode *inode, struct ash_attr *out)
{
	*out = (struct ash_attr){
		.ino = ash_get64(inode->ino),
		.generation = ash_get64(inode->generation),
		.size = ash_get64(inode->size),
		.blocks = ash_get64(inode->blocks) * SECTORS_PER_BLOCK,
		.mode = ash_get32(inode->mode),
		.nlink = ash_get32(inode->nlink),
		.uid = ash_get32(inode->uid),
		.gid = ash_get32(inode->gid),
		.rdev = ash_get64(inode->rdev),
		.atime = time_of(inode->atime, inode->atime_ns),
		.mtime = time_of(inode->mtime, inode->mtime_ns),
		.ctime = time_of(inode->ctime, inode->ctime_ns),
		.btime = time_of(inode->btime, inode->btime_ns),
		.flags = ash_get32(inode->flags),
	};
	if (S_ISDIR(out->mode))
		out->size *= DIRECTORY_ENTRY_BYTES;
	else if (!out->blocks && inode->data_kind == ASH_FORK_INLINE && out->size)
		out->blocks = SECTORS_PER_BLOCK; /* tar and cp take a file without blocks for a hole */
}

static bool is_later(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec > b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec > b->tv_nsec);
}

/* As relatime: when the inode changed since it was last read, or once a day. */
bool ash_atime_due(const struct ash_volume *volume, const struct ash_inode *inode)
{
	struct timespec atime = time_of(inode->atime, inode->atime_ns), mtime = time_of(inode->mtime, inode->mtime_ns);
	struct timespec ctime = time_of(inode->ctime, inode->ctime_ns), now = ash_now();
	int mode = atomic_load(&volume->atime);

	if (mode == ASH_ATIME_NONE || ash_check_writable(volume) || (ash_get32(inode->flags) & ASH_INODE_NOATIME))
		return false;
	if (S_ISDIR(ash_get32(inode->mode)) && atomic_load(&volume->no_directory_atime))
		return false;
	if (mode == ASH_ATIME_STRICT)
		return atime.tv_sec != now.tv_sec || atime.tv_nsec != now.tv_nsec;
	return !is_later(&atime, &mtime) || !is_later(&atime, &ctime) || now.tv_sec - atime.tv_sec >= DAY_SECONDS;
}

void ash_record_attr(const struct ash_record *record, const struct ash_icore *icore, struct ash_attr *out)
{
	struct timespec modified;

	ash_inode_attr(record->inode, out);
	if (!icore || !icore->buffered)
		return;
	out->size = icore->buffered_size;
	out->blocks += ash_wb_blocks(icore) * SECTORS_PER_BLOCK;
	if (!out->blocks && out->size)
		out->blocks = SECTORS_PER_BLOCK;
	if (!ash_wb_times(icore, &modified))
		return;
	out->mtime = modified;
	if (is_later(&modified, &out->ctime))
		out->ctime = modified;
}

struct read_context {
	const struct ash_record *record;
	struct ash_inode header; /* only the header part is filled */
};

static void read_header(void *context)
{
	struct read_context *read = context;

	ash_record_header(read->record, &read->header);
}

/* A record without the inode's lock: it may be changing. To be put when 0 is returned. */
static int record_glance(struct ash_volume *volume, uint64_t ino, struct ash_record *out)
{
	struct ash_block_id id;
	int result = ino == ASH_INO_TABLE ? -ESTALE : ash_itable_locate(volume, ino, &id, &out->offset);

	if (!result)
		result = ash_buffer_get_at(volume, id, out->offset, &out->buffer);
	if (result)
		return result;
	out->inode = (const void *)(out->buffer->data + out->offset);
	if (!(out->buffer->bad_records & 1u << out->offset / ASH_INODE_SIZE))
		return 0;
	ash_record_put(volume, out);
	return ash_damaged(volume, id.block, "inode record");
}

/* Of an inode that is referenced: the type does not change, but bytes beside it may. */
static bool glance_is_directory(const struct ash_record *record)
{
	bool directory;

	ash_lock(&record->buffer->lock);
	directory = S_ISDIR(ash_record_mode(record));
	ash_unlock(&record->buffer->lock);
	return directory;
}

int ash_inode_parent(struct ash_volume *volume, uint64_t ino, bool *directory, uint64_t *parent)
{
	struct ash_record record;
	uint32_t mode;
	int result = record_glance(volume, ino, &record);

	if (result)
		return result;
	ash_lock(&record.buffer->lock);
	mode = ash_record_mode(&record);
	*directory = S_ISDIR(mode);
	*parent = ash_get64(record.inode->parent);
	ash_unlock(&record.buffer->lock);
	ash_record_put(volume, &record);
	return mode ? 0 : -ESTALE;
}

/* Somebody works with the inode: wait for its lock. `patient`: a directory's, too; else -EBUSY. */
static int read_locked(struct ash_volume *volume, const struct ash_record *glance, uint64_t ino, bool patient,
		       struct ash_attr *attr, uint64_t *parent)
{
	struct ash_held held = { 0 };
	struct ash_icore *icore;
	int result = ash_icore_get(volume, ino, &icore);

	if (result)
		return result;
	if (patient || !glance_is_directory(glance))
		result = ash_hold_icore(volume, icore, false, &held);
	else
		result = ash_try_hold_icore(volume, icore, &held);
	if (!result) {
		ash_record_attr(&held.record, icore, attr);
		if (parent)
			*parent = ash_get64(held.record.inode->parent);
	}
	ash_unhold(volume, &held);
	ash_icore_put(volume, icore);
	return result;
}

/* Header only: kinds are in it, fork bytes are not. */
static int read_idle(struct ash_volume *volume, const struct read_context *read, struct ash_attr *attr,
		     uint64_t *parent)
{
	uint64_t ino = ash_get64(read->header.ino);

	if (!ash_get32(read->header.mode) || (!ash_get32(read->header.nlink) && !ash_lookup_count(volume, ino)))
		return -ESTALE;
	ash_inode_attr(&read->header, attr);
	if (parent)
		*parent = ash_get64(read->header.parent);
	return 0;
}

static int inode_read(struct ash_volume *volume, uint64_t ino, bool patient, struct ash_attr *attr, uint64_t *parent)
{
	struct ash_record record;
	struct read_context read; /* not initialised: most of it is room for the header */
	int result = record_glance(volume, ino, &record);

	if (result)
		return result;
	read.record = &record;
	if (ash_icore_if_idle(volume, ino, read_header, &read))
		result = read_idle(volume, &read, attr, parent);
	else
		result = read_locked(volume, &record, ino, patient, attr, parent);
	ash_record_put(volume, &record);
	return result;
}

int ash_inode_read(struct ash_volume *volume, uint64_t ino, struct ash_attr *attr, uint64_t *parent)
{
	return inode_read(volume, ino, true, attr, parent);
}

int ash_inode_try_read(struct ash_volume *volume, uint64_t ino, struct ash_attr *attr)
{
	return inode_read(volume, ino, false, attr, NULL);
}

/* ---- Trust (I8) ---- */

static const char *check_times(const struct ash_inode *inode)
{
	if (ash_get32(inode->atime_ns) >= 1000000000 || ash_get32(inode->mtime_ns) >= 1000000000 ||
	    ash_get32(inode->ctime_ns) >= 1000000000 || ash_get32(inode->btime_ns) >= 1000000000)
		return "inode: nanoseconds out of range";
	return NULL;
}

static const char *check_regular(const struct ash_inode *inode)
{
	uint64_t size = ash_get64(inode->size);

	if (size > INT64_MAX)
		return "inode: size out of range";
	if (inode->data_kind == ASH_FORK_INLINE && size > ASH_DATA_FORK_SIZE)
		return "inode: inline data longer than the inode";
	return inode->data_kind > ASH_FORK_TREE ? "inode: unknown kind of data fork" : NULL;
}

static const char *check_symlink(const struct ash_inode *inode)
{
	uint64_t size = ash_get64(inode->size);

	if (!size || size >= ASH_BLOCK_SIZE)
		return "inode: length of a symbolic link";
	if (inode->data_kind == ASH_FORK_INLINE)
		return size > ASH_DATA_FORK_SIZE ? "inode: inline data longer than the inode" : NULL;
	return inode->data_kind != ASH_FORK_TREE ? "inode: symbolic link without a target" : NULL;
}

static const char *check_directory(const struct ash_inode *inode)
{
	if (inode->data_kind != ASH_FORK_EMPTY && inode->data_kind != ASH_FORK_TREE)
		return "inode: kind of a directory's data fork";
	if (inode->data_kind == ASH_FORK_EMPTY && ash_get64(inode->size))
		return "inode: directory without a tree has entries";
	return ash_get32(inode->nlink) == 1 ? "inode: directory with one link" : NULL;
}

static const char *check_special(const struct ash_inode *inode)
{
	return inode->data_kind != ASH_FORK_EMPTY ? "inode: special file with data" : NULL;
}

static const char *check_by_type(const struct ash_inode *inode)
{
	switch (ash_get32(inode->mode) & S_IFMT) {
	case S_IFREG:
		return check_regular(inode);
	case S_IFDIR:
		return check_directory(inode);
	case S_IFLNK:
		return check_symlink(inode);
	case S_IFCHR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return check_special(inode);
	default:
		return "inode: unknown file type";
	}
}

static const char *check_forks(const struct ash_inode *inode)
{
	const char *wrong = NULL;

	if (inode->attr_kind != ASH_FORK_EMPTY && inode->attr_kind != ASH_FORK_TREE)
		return "inode: kind of the attribute fork";
	if (inode->data_kind == ASH_FORK_TREE)
		wrong = ash_node_check(inode->data, ASH_DATA_FORK_SIZE, UINT32_MAX);
	if (!wrong && inode->attr_kind == ASH_FORK_TREE)
		wrong = ash_node_check(inode->attr, ASH_ATTR_FORK_SIZE, UINT32_MAX);
	return wrong;
}

static bool all_zero(const struct ash_inode *record)
{
	static const struct ash_inode zero;

	return !memcmp(record, &zero, sizeof(zero));
}

const char *ash_inode_check(uint32_t seed, uint64_t ino, const struct ash_inode *record, bool verify_crc)
{
	const char *wrong;

	if (ash_get32(record->magic) != ASH_MAGIC_INODE)
		return all_zero(record) && ino != ASH_INO_TABLE ? NULL : "inode: magic";
	if (ash_get64(record->ino) != ino)
		return "inode: number";
	if (verify_crc && ash_get32(record->crc) != ash_inode_crc(seed, record))
		return "inode: checksum";
	if (ino == ASH_INO_TABLE)
		return record->data_kind == ASH_FORK_TREE ? check_forks(record) : "inode table without a tree";
	if (!ash_get32(record->mode))
		return ash_get32(record->nlink) ? "inode: links but no type" : NULL;
	wrong = check_by_type(record);
	if (!wrong)
		wrong = check_times(record);
	return wrong ? wrong : check_forks(record);
}
