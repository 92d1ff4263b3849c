/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 1: every inode record.
 *
 * The record decides whether an inode is in use (mode is not 0), not the bitmap. A record with a wrong checksum that is sound
 * in every other respect is kept and sealed again, as e2fsck does: more good comes of that than of clearing it.
 * One that is not sound is cleared; its names and blocks go in the passes and rounds that follow. No locks: one thread.
 */
#include "internal.h"

#include <stdlib.h>

#define NANOSECONDS 1000000000u

bool record_is_zero(const struct ash_inode *record)
{
	const uint64_t *words = (const void *)record;
	uint64_t any = 0;

	for (size_t i = 0; i < sizeof(*record) / sizeof(*words); i++)
		any |= words[i];
	return !any;
}

bool record_is_free(const struct ash_inode *record)
{
	return !ash_get32(record->mode) && !ash_get32(record->nlink);
}

const char *record_wrong(const struct ash_inode *record)
{
	uint32_t type = ash_get32(record->mode) & S_IFMT;

	if (!ash_mode_type_known(ash_get32(record->mode)))
		return "unknown file type";
	if (record->data_kind > ASH_FORK_TREE ||
	    (record->attr_kind != ASH_FORK_EMPTY && record->attr_kind != ASH_FORK_TREE))
		return "unknown kind of fork";
	if (type == S_IFDIR && record->data_kind == ASH_FORK_INLINE)
		return "directory with inline content";
	if (type == S_IFLNK && (record->data_kind == ASH_FORK_EMPTY || !ash_get64(record->size) ||
				ash_get64(record->size) >= ASH_BLOCK_SIZE))
		return "symbolic link without target";
	return NULL;
}

/* Put right one field after another that can be, without guessing at content. NULL: nothing (more) to correct. */
static const char *correct_field(struct ash_inode *record)
{
	uint32_t mode = ash_get32(record->mode), type = mode & S_IFMT;
	ash_le32 *const times[] = { &record->atime_ns, &record->mtime_ns, &record->ctime_ns, &record->btime_ns };

	if (mode & ~(S_IFMT | 07777u)) {
		record->mode = ash_put32(mode & (S_IFMT | 07777u));
		return "unknown mode bits";
	}
	if (ash_get32(record->flags) & ~ASH_INODE_USER_FLAGS) {
		record->flags = ash_put32(ash_get32(record->flags) & ASH_INODE_USER_FLAGS);
		return "unknown flags";
	}
	for (unsigned i = 0; i < 4; i++)
		if (ash_get32(*times[i]) >= NANOSECONDS) {
			*times[i] = ash_put32(0);
			return "impossible time";
		}
	if (record->data_kind == ASH_FORK_INLINE && ash_get64(record->size) > ASH_DATA_FORK_SIZE) {
		record->size = ash_put64(ASH_DATA_FORK_SIZE);
		return "size over what its inline content holds";
	}
	if (type == S_IFREG && ash_get64(record->size) > INT64_MAX) {
		record->size = ash_put64(INT64_MAX);
		return "impossible size";
	}
	if (type != S_IFREG && type != S_IFLNK && type != S_IFDIR &&
	    (record->data_kind != ASH_FORK_EMPTY || ash_get64(record->size))) {
		record->data_kind = ASH_FORK_EMPTY;
		record->size = ash_put64(0);
		return "content where its type has none";
	}
	return NULL;
}

/* ---- One inode ---- */

struct inode_work {
	struct checker *checker;
	uint64_t ino;
	struct ash_inode record; /* with the corrections made so far */
	bool dirty;
};

static int clear(struct inode_work *work)
{
	struct checker *checker = work->checker;

	memset(&work->record, 0, sizeof(work->record));
	checker->state[work->ino] = 0;
	checker->changed = true;
	return record_write(checker, work->ino, &work->record);
}

static int damaged(struct inode_work *work, const char *why)
{
	struct problem_context context = { .ino = work->ino, .why = why };

	if (problem(work->checker, PROBLEM_INODE_DAMAGED, &context))
		return clear(work);
	work->checker->state[work->ino] |= INODE_DAMAGED;
	return 0;
}

static int free_record(struct inode_work *work)
{
	const struct ash_inode *record = &work->record;
	struct problem_context context = { .ino = work->ino };

	if (record_is_zero(record))
		return 0;
	if (ash_get32(record->magic) == ASH_MAGIC_INODE && ash_get64(record->ino) == work->ino)
		return 0;
	return problem(work->checker, PROBLEM_FREE_RECORD, &context) ? clear(work) : 0;
}

static void correct_fields(struct inode_work *work)
{
	struct ash_inode corrected = work->record;
	struct problem_context context = { .ino = work->ino };

	while ((context.why = correct_field(&corrected)))
		if (problem(work->checker, PROBLEM_INODE_FIELD, &context)) {
			work->record = corrected;
			work->dirty = true;
		}
}

static int check_data_end(struct inode_work *work, const struct fork_result *data)
{
	uint32_t type = ash_get32(work->record.mode) & S_IFMT;
	struct problem_context context = { .ino = work->ino, .have = data->beyond_eof - 1 };

	if (data->damaged)
		return 0;
	if (type == S_IFLNK && work->record.data_kind == ASH_FORK_TREE && data->end != 1)
		return damaged(work, "symbolic link without target");
	if (type == S_IFDIR || !data->beyond_eof || !problem(work->checker, PROBLEM_EXTENT_BEYOND_EOF, &context))
		return 0;
	return rebuild_schedule(work->checker, work->ino, false);
}

static int check_forks(struct inode_work *work)
{
	struct fork_result data, attribute;
	struct problem_context context = { .ino = work->ino, .have = ash_get64(work->record.blocks) };
	int result = forks_check(work->checker, work->ino, &work->record, false, &data, &attribute);

	if (result)
		return result;
	context.want = data.blocks + attribute.blocks;
	if (!data.damaged && !attribute.damaged && context.have != context.want &&
	    problem(work->checker, PROBLEM_INODE_BLOCKS, &context)) {
		work->record.blocks = ash_put64(context.want);
		work->dirty = true;
	}
	return check_data_end(work, &data);
}

static void check_checksum(struct inode_work *work)
{
	struct problem_context context = { .ino = work->ino };

	if (ash_get32(work->record.crc) != ash_inode_crc(work->checker->seed, &work->record) &&
	    problem(work->checker, PROBLEM_INODE_CRC, &context))
		work->dirty = true;
}

static int remember(struct inode_work *work)
{
	struct checker *checker = work->checker;
	uint32_t mode = ash_get32(work->record.mode);

	checker->state[work->ino] = (uint8_t)((checker->state[work->ino] & ~INODE_TYPE) | (IFTODT(mode) & INODE_TYPE));
	checker->info[work->ino].nlink = ash_get32(work->record.nlink);
	if (!S_ISDIR(mode))
		return 0;
	return LIST_ADD(&checker->directories,
			(struct directory_info){ .ino = work->ino, .parent = ash_get64(work->record.parent) });
}

static int used_record(struct inode_work *work)
{
	struct checker *checker = work->checker;
	const struct ash_inode *record = &work->record;
	struct problem_context context = { .ino = work->ino };
	const char *why = record_wrong(record);
	int result;

	if (ash_get32(record->magic) != ASH_MAGIC_INODE || ash_get64(record->ino) != work->ino) {
		why = "no inode record there";
	}
	/* Free by the bitmap and not sealed: never was an inode. */
	if (!inode_bit(checker, work->ino) && (why || ash_get32(record->crc) != ash_inode_crc(checker->seed, record)))
		return problem(checker, PROBLEM_FREE_RECORD, &context) ? clear(work) : 0;
	if (why)
		return damaged(work, why);
	if (work->ino != ASH_INO_ROOT && work->ino < ASH_INO_FIRST_FREE)
		return problem(checker, PROBLEM_RESERVED_INODE, &context) ? clear(work) : 0;
	check_checksum(work);
	correct_fields(work);
	result = remember(work);
	if (!result)
		result = check_forks(work);
	if (result || !work->dirty || !(checker->state[work->ino] & INODE_TYPE))
		return result;
	checker->changed = true;
	return inode_write(checker, work->ino, &work->record);
}

static int check_block(struct checker *checker, uint64_t first_ino, struct ash_inode *records)
{
	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK; i++) {
		struct inode_work work = { .checker = checker, .ino = first_ino + i, .record = records[i] };
		int result;

		result = record_is_free(&records[i]) ? free_record(&work) : used_record(&work);
		if (result)
			return result;
	}
	return 0;
}

/* ---- The root ---- */

static int make_root(struct checker *checker)
{
	struct ash_inode root;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	memset(&root, 0, sizeof(root));
	root.magic = ash_put32(ASH_MAGIC_INODE);
	root.ino = root.parent = ash_put64(ASH_INO_ROOT);
	root.generation = ash_put64(1);
	root.mode = ash_put32(S_IFDIR | 0755);
	root.nlink = ash_put32(2);
	root.atime = root.mtime = root.ctime = root.btime = ash_put64((uint64_t)now.tv_sec);
	checker->changed = true;
	return inode_write(checker, ASH_INO_ROOT, &root);
}

static int root_check(struct checker *checker)
{
	if (checker->inode_count > ASH_INO_ROOT && (checker->state[ASH_INO_ROOT] & INODE_TYPE) == DT_DIR)
		return 0;
	if (!problem(checker, PROBLEM_ROOT_MISSING, &(struct problem_context){ .ino = ASH_INO_ROOT }))
		return 0;
	return make_root(checker);
}

int inodes_check(struct checker *checker)
{
	int result;

	for (size_t i = 0; i < checker->orphan_count; i++)
		if (checker->orphans[i] < checker->inode_count)
			checker->state[checker->orphans[i]] |= INODE_ORPHAN;
	result = table_scan(checker, 1, NULL, check_block);
	return result ? result : root_check(checker);
}
