/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 1: every inode record.
 *
 * The record decides whether an inode is in use (mode is not 0), not the bitmap. A record with a wrong checksum that has
 * the form of one is kept and sealed again, as e2fsck does: more good comes of that than of clearing it. But nothing
 * in it is believed that cannot be true, or that gives power: see "Doubts".
 * One without that form is cleared; its names and blocks go in the passes and rounds that follow. No locks: one thread.
 */
#include "internal.h"

#define NANOSECONDS 1000000000u

bool record_is_zero(const struct ash_inode *record)
{
	const uint64_t *words = (const void *)record;
	uint64_t any = 0;

	for (size_t i = 0; i < sizeof(*record) / sizeof(*words); i++)
		any |= words[i];
	return !any;
}

static bool record_is_free(const struct ash_inode *record)
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
	/* Whose checksum is wrong may have lost its type, which doubt_type() has seen to. */
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
	bool doubted; /* its checksum was wrong */
	bool rubbish; /* and something in it cannot be true, so nothing else need be */
};

static int clear(struct inode_work *work)
{
	struct checker *checker = work->checker;

	memset(&work->record, 0, sizeof(work->record));
	inode_state_drop(checker, work->ino, UINT8_MAX);
	checker->changed = true;
	return record_write(checker, work->ino, &work->record);
}

static int damaged(struct inode_work *work, const char *why)
{
	struct problem_context context = { .ino = work->ino, .why = why };

	if (problem(work->checker, PROBLEM_INODE_DAMAGED, &context))
		return clear(work);
	return inode_state_add(work->checker, work->ino, INODE_DAMAGED);
}

static bool is_sealed(const struct inode_work *work)
{
	return ash_get32(work->record.crc) == ash_inode_crc(work->checker->seed, &work->record);
}

static int free_record(struct inode_work *work)
{
	const struct ash_inode *record = &work->record;
	struct problem_context context = { .ino = work->ino };

	if (record_is_zero(record))
		return 0;
	/* The next to use the number would take a wrong checksum for damage. */
	if (ash_get32(record->magic) == ASH_MAGIC_INODE && ash_get64(record->ino) == work->ino && is_sealed(work))
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

/* ---- Doubts: records whose checksum is wrong ---- */

#define TIME_MIN (-2147483648ll) /* 1901 */
#define TIME_MAX 15032385535ll   /* 2446: what most filesystems can hold */
#define LINKS_PLAUSIBLE 65536u   /* many programs and filesystems stop there */

static bool time_plausible(ash_le64 seconds, ash_le32 ns)
{
	int64_t value = (int64_t)ash_get64(seconds);

	return value >= TIME_MIN && value <= TIME_MAX && ash_get32(ns) < NANOSECONDS;
}

static bool times_plausible(const struct ash_inode *record)
{
	return time_plausible(record->atime, record->atime_ns) && time_plausible(record->mtime, record->mtime_ns) &&
	       time_plausible(record->ctime, record->ctime_ns) && time_plausible(record->btime, record->btime_ns);
}

static bool has_content(const struct ash_inode *record)
{
	return record->data_kind != ASH_FORK_EMPTY || ash_get64(record->size);
}

static bool type_holds_content(uint32_t mode)
{
	return S_ISREG(mode) || S_ISLNK(mode) || S_ISDIR(mode);
}

/* Is there anything in the record that no Ashlar ever wrote? The size is judged when the fork has been walked. */
static bool record_is_rubbish(const struct checker *checker, const struct ash_inode *record)
{
	uint32_t mode = ash_get32(record->mode);

	return (mode & ~(S_IFMT | 07777u)) || (ash_get32(record->flags) & ~ASH_INODE_USER_FLAGS) ||
	       !times_plausible(record) || ash_get16(record->reserved) || ash_get32(record->uid) == UINT32_MAX ||
	       ash_get32(record->gid) == UINT32_MAX || ash_get64(record->blocks) > checker->block_count ||
	       (!S_ISDIR(mode) && ash_get32(record->nlink) > LINKS_PLAUSIBLE) ||
	       (!S_ISBLK(mode) && !S_ISCHR(mode) && ash_get64(record->rdev)) ||
	       (!type_holds_content(mode) && has_content(record)) ||
	       (record->data_kind == ASH_FORK_INLINE && ash_get64(record->size) > ASH_DATA_FORK_SIZE);
}

/* Content outlives a type that has none: better a plain file than no content. */
static const char *doubt_type(struct ash_inode *record)
{
	uint32_t mode = ash_get32(record->mode);

	if (type_holds_content(mode) || !has_content(record))
		return NULL;
	record->mode = ash_put32(S_IFREG | (mode & 07777u));
	record->rdev = ash_put64(0);
	return "it has content, which its type has not";
}

static const char *doubt_times(struct ash_inode *record)
{
	ash_le64 *const seconds[] = { &record->atime, &record->mtime, &record->ctime, &record->btime };
	ash_le32 *const ns[] = { &record->atime_ns, &record->mtime_ns, &record->ctime_ns, &record->btime_ns };
	struct timespec now;

	if (times_plausible(record))
		return NULL;
	clock_gettime(CLOCK_REALTIME, &now);
	for (unsigned i = 0; i < 4; i++)
		if (!time_plausible(*seconds[i], *ns[i])) {
			*seconds[i] = ash_put64((uint64_t)now.tv_sec);
			*ns[i] = ash_put32(0);
		}
	return "an impossible time";
}

/* A chance bit must not make a program that runs as somebody else. */
static const char *doubt_set_id(struct ash_inode *record)
{
	uint32_t mode = ash_get32(record->mode);

	if (!(mode & (S_ISUID | S_ISGID)))
		return NULL;
	record->mode = ash_put32(mode & ~(uint32_t)(S_ISUID | S_ISGID));
	return "set-user-ID or set-group-ID";
}

/* Nor give a file to somebody whom its owner never thought of. */
static const char *doubt_owner(struct ash_inode *record)
{
	uint32_t mode = ash_get32(record->mode), kept = mode & (S_IFMT | S_ISVTX | S_IRWXU);

	/* the mode of a symbolic link is fixed and says nothing */
	if (S_ISLNK(mode))
		kept = mode;
	if (!record->uid.raw && !record->gid.raw && kept == mode)
		return NULL;
	record->uid = record->gid = ash_put32(0);
	record->mode = ash_put32(kept);
	return "owner and rights, where other fields are impossible";
}

/* A device node opens a device to its owner: not on doubtful word. */
static const char *doubt_device(struct ash_inode *record)
{
	uint32_t mode = ash_get32(record->mode);

	if ((!S_ISBLK(mode) && !S_ISCHR(mode)) || !record->rdev.raw)
		return NULL;
	record->rdev = ash_put64(0);
	return "the number of a device, where other fields are impossible";
}

enum doubt_when {
	DOUBT_EARLY = 1,  /* before the forks are looked at, else after them */
	DOUBT_RUBBISH = 2 /* only where something in the record cannot be true */
};

static const struct doubt {
	const char *(*correct)(struct ash_inode *record); /* NULL: nothing to correct; else what it was */
	unsigned flags;
} doubts[] = {
	{ doubt_type, DOUBT_EARLY },     { doubt_times, 0 }, { doubt_set_id, 0 }, { doubt_owner, DOUBT_RUBBISH },
	{ doubt_device, DOUBT_RUBBISH },
};

static void doubt(struct inode_work *work, unsigned when)
{
	for (size_t i = 0; i < sizeof(doubts) / sizeof(doubts[0]) && work->doubted; i++) {
		struct ash_inode corrected = work->record;
		struct problem_context context = { .ino = work->ino, .number = i };

		if ((doubts[i].flags & DOUBT_EARLY) != when || ((doubts[i].flags & DOUBT_RUBBISH) && !work->rubbish))
			continue;
		context.why = doubts[i].correct(&corrected);
		if (!context.why || !problem(work->checker, PROBLEM_INODE_DOUBT, &context))
			continue;
		work->record = corrected;
		work->dirty = true;
	}
}

/*
 * The size of a plain file is only believed where it ends in the content's last block, or in unwritten blocks behind it:
 * a size that is too large makes a hole, one that is too small would free what is written. True: it is settled.
 */
static bool doubt_size(struct inode_work *work, const struct fork_result *data)
{
	struct problem_context context = { .ino = work->ino, .have = ash_get64(work->record.size) };
	uint64_t least = data->written ? ((data->written - 1) << ASH_BLOCK_SHIFT) + 1 : 0;

	if (!work->doubted || !S_ISREG(ash_get32(work->record.mode)) || work->record.data_kind == ASH_FORK_INLINE ||
	    (inode_state(work->checker, work->ino) & INODE_ORPHAN))
		return false;
	if (context.have >= least && context.have <= data->end << ASH_BLOCK_SHIFT)
		return true;
	work->rubbish = true;
	context.want = data->written << ASH_BLOCK_SHIFT;
	if (!problem(work->checker, PROBLEM_INODE_SIZE, &context))
		return false;
	work->record.size = ash_put64(context.want);
	work->dirty = true;
	return true;
}

/* ---- Forks ---- */

static int check_data_end(struct inode_work *work, const struct fork_result *data)
{
	uint32_t type = ash_get32(work->record.mode) & S_IFMT;
	struct problem_context context = { .ino = work->ino, .have = data->beyond_eof - 1 };

	/* First: the rebuild of a damaged fork drops what lies behind the end of file. */
	if (doubt_size(work, data) || data->damaged)
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

	if (is_sealed(work))
		return;
	work->doubted = true;
	work->rubbish = record_is_rubbish(work->checker, &work->record);
	if (problem(work->checker, PROBLEM_INODE_CRC, &context))
		work->dirty = true;
}

static int remember(struct inode_work *work)
{
	struct checker *checker = work->checker;
	uint32_t mode = ash_get32(work->record.mode);

	if (ash_get32(work->record.flags) & (ASH_INODE_IMMUTABLE | ASH_INODE_APPEND))
		checker->inode_flags = true;
	inode_state_drop(checker, work->ino, INODE_TYPE);
	if (inode_state_add(checker, work->ino, IFTODT(mode) & INODE_TYPE))
		return -ENOMEM;
	inode_info(checker, work->ino)->nlink = ash_get32(work->record.nlink);
	if (!S_ISDIR(mode))
		return 0;
	return LIST_ADD(&checker->directories,
			(struct directory_info){ .ino = work->ino, .parent = ash_get64(work->record.parent) });
}

/* ---- Directories that say they are something else ---- */

/* An entry under the hash of its name: no extent has that form. */
static int is_entry(void *context, uint64_t key, const uint8_t *value, uint32_t length)
{
	const struct ash_dirent_value *entry = (const void *)value;

	return !dirent_wrong(value, length) &&
	       (key & ~KEY_COLLISION_MASK) == name_key(context, entry->name, entry->name_length);
}

static int has_entries(struct inode_work *work)
{
	struct tree_walk walk = {
		.checker = work->checker, .owner = work->ino, .context = work->checker, .record = is_entry
	};

	return work->record.data_kind == ASH_FORK_TREE ? tree_walk(&walk, work->record.data, ASH_DATA_FORK_SIZE) : 0;
}

/*
 * A wrong bit in the type would cost all names in it, so the type is judged before everything else. Where it was that bit
 * alone, the checksum is right again, and there is nothing more to doubt.
 */
static int restore_directory(struct inode_work *work)
{
	uint32_t mode = ash_get32(work->record.mode);
	struct problem_context context = { .ino = work->ino, .why = "number" };
	int found = 1;

	if (S_ISDIR(mode))
		return 0;
	if (work->ino != ASH_INO_ROOT) {
		context.why = "content";
		found = has_entries(work);
	}
	if (found <= 0 || !problem(work->checker, PROBLEM_INODE_TYPE, &context))
		return found < 0 ? found : 0;
	work->record.mode = ash_put32(S_IFDIR | (mode & ~(uint32_t)S_IFMT));
	work->record.rdev = ash_put64(0);
	work->dirty = true;
	return 0;
}

static int used_record(struct inode_work *work)
{
	struct checker *checker = work->checker;
	const struct ash_inode *record = &work->record;
	struct problem_context context = { .ino = work->ino };
	bool there = ash_get32(record->magic) == ASH_MAGIC_INODE && ash_get64(record->ino) == work->ino;
	const char *why = there ? record_wrong(record) : "no inode record there";
	int result;

	/* Free by the bitmap and not sealed: never was an inode. */
	if (!inode_bit(checker, work->ino) && (why || !is_sealed(work)))
		return problem(checker, PROBLEM_FREE_RECORD, &context) ? clear(work) : 0;
	if (there && !is_sealed(work)) {
		result = restore_directory(work);
		if (result)
			return result;
		why = record_wrong(record);
	}
	if (why)
		return damaged(work, why);
	if (work->ino != ASH_INO_ROOT && work->ino < ASH_INO_FIRST_FREE)
		return problem(checker, PROBLEM_RESERVED_INODE, &context) ? clear(work) : 0;
	check_checksum(work);
	doubt(work, DOUBT_EARLY);
	correct_fields(work);
	result = remember(work);
	if (!result)
		result = check_forks(work);
	if (!result && (inode_state(checker, work->ino) & INODE_TYPE))
		doubt(work, 0);
	if (result || !work->dirty || !(inode_state(checker, work->ino) & INODE_TYPE))
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
	uint64_t block;
	uint32_t offset;

	if (checker->inode_count > ASH_INO_ROOT && table_locate(checker, ASH_INO_ROOT, &block, &offset))
		return 0; /* in a hole of the table: when that is filled */
	if (checker->inode_count > ASH_INO_ROOT && (inode_state(checker, ASH_INO_ROOT) & INODE_TYPE) == DT_DIR)
		return 0;
	if (!problem(checker, PROBLEM_ROOT_MISSING, &(struct problem_context){ .ino = ASH_INO_ROOT }))
		return 0;
	return make_root(checker);
}

/* Without this bit a server leaves opens to the kernel, which knows nothing of these flags. */
static int compat_check(struct checker *checker)
{
	struct ash_super *super = checker->super;

	if (!checker->inode_flags || (ash_get64(super->compat) & ASH_COMPAT_INODE_FLAGS))
		return 0;
	/* Nor is a primary written that the user wants left as it is. */
	if (checker->super_from || checker->restore || !problem(checker, PROBLEM_SUPER_COMPAT, NULL))
		return 0;
	super->compat = ash_put64(ash_get64(super->compat) | ASH_COMPAT_INODE_FLAGS);
	return super_write_all(checker);
}

int inodes_check(struct checker *checker)
{
	int result = 0;

	checker->inode_flags = false;
	for (size_t i = 0; i < checker->orphan_count && !result; i++)
		if (checker->orphans[i] < checker->inode_count)
			result = inode_state_add(checker, checker->orphans[i], INODE_ORPHAN);
	if (!result)
		result = table_scan(checker, 1, NULL, check_block);
	if (!result)
		result = compat_check(checker);
	return result ? result : root_check(checker);
}
