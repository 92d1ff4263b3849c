/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 3: every directory must be reachable from the root, every inode must have as many names as it says, and what has none
 * must be an orphan of the log. What is lost gets a name in lost+found, which is made when it is needed.
 *
 * Repairs only fill the lists of rebuilds and additions: rebuild.c runs afterwards, then another round. No locks.
 */
#include "internal.h"

enum { MARK_UNKNOWN, MARK_REACHED, MARK_LOST, MARK_FIRST_PATH };

/* ---- lost+found ---- */

static uint64_t find_free_inode(const struct checker *checker)
{
	for (uint64_t run = 0; run < checker->run_count; run++) {
		uint64_t first = run * checker->inodes_per_run;
		uint64_t end = first + (uint64_t)checker->runs[run].initialized * ASH_INODES_PER_BLOCK;

		for (uint64_t ino = first; ino < end; ino++)
			if (ino >= ASH_INO_FIRST_FREE && !inode_state(checker, ino) && !inode_bit(checker, ino))
				return ino;
	}
	return 0;
}

/* All initialized records are in use: take one more block of a run into use. */
static int initialize_block(struct checker *checker, uint64_t *ino)
{
	struct ash_bitmap_block *bitmap = (void *)(checker->scratch + ASH_BLOCK_SIZE);
	uint32_t limit = checker->inodes_per_run / ASH_INODES_PER_BLOCK;

	for (uint64_t run = 0; run < checker->run_count; run++) {
		struct run_info *info = &checker->runs[run];
		uint64_t block;
		uint32_t offset;
		int result;

		if (info->initialized >= limit || !info->valid)
			continue;
		*ino = run * checker->inodes_per_run + (uint64_t)info->initialized * ASH_INODES_PER_BLOCK;
		if (table_locate(checker, *ino, &block, &offset))
			continue; /* in a hole of the table that is to stay */
		memset(bitmap, 0, ASH_BLOCK_SIZE);
		result = block_write_raw(checker, block, bitmap, 1);
		if (!result)
			result = check_flush(checker);
		if (!result)
			result = block_read(checker, info->bitmap_block, bitmap);
		if (result)
			return result;
		bitmap->initialized = ash_put32(++info->initialized);
		return block_write(checker, info->bitmap_block, bitmap);
	}
	return -ENOSPC;
}

static int make_directory(struct checker *checker, uint64_t ino)
{
	struct ash_inode record;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	memset(&record, 0, sizeof(record));
	record.magic = ash_put32(ASH_MAGIC_INODE);
	record.ino = ash_put64(ino);
	record.parent = ash_put64(ASH_INO_ROOT);
	record.generation = ash_put64((uint64_t)now.tv_sec);
	record.mode = ash_put32(S_IFDIR | 0700);
	record.nlink = ash_put32(2);
	record.atime = record.mtime = record.ctime = record.btime = ash_put64((uint64_t)now.tv_sec);
	return inode_write(checker, ino, &record);
}

/* The list of directories is sorted by number. */
static int directory_insert(struct checker *checker, uint64_t ino)
{
	struct directory_info info = {
		.ino = ino, .parent = ASH_INO_ROOT, .found_parent = ASH_INO_ROOT, .mark = MARK_REACHED
	};
	size_t at = checker->directories.count;
	int result = LIST_ADD(&checker->directories, info);

	if (result)
		return result;
	for (; at && checker->directories.items[at - 1].ino > ino; at--)
		checker->directories.items[at] = checker->directories.items[at - 1];
	checker->directories.items[at] = info;
	return 0;
}

static int lost_found_root(struct checker *checker, const char *why)
{
	say(checker, "%s: names go to the root directory", why);
	checker->lost_found = ASH_INO_ROOT;
	return 0;
}

static int lost_found_make(struct checker *checker)
{
	uint64_t ino = 0;
	int result = 0;

	if (checker->lost_found_taken)
		return lost_found_root(checker, "lost+found is not a directory");
	ino = find_free_inode(checker);
	if (!ino)
		result = initialize_block(checker, &ino);
	if (result == -ENOSPC)
		return lost_found_root(checker, "no free inode for lost+found");
	if (!result)
		result = make_directory(checker, ino);
	if (!result)
		result = check_flush(checker);
	if (!result)
		result = directory_insert(checker, ino);
	if (!result)
		result = LIST_ADD(&checker->additions, (struct addition){ ASH_INO_ROOT, ino, DT_DIR });
	if (!result)
		result = rebuild_schedule(checker, ASH_INO_ROOT, false);
	if (!result)
		result = inode_state_add(checker, ino, DT_DIR);
	if (result)
		return result;
	*inode_info(checker, ino) = (struct inode_info){ 2, 0 };
	checker->lost_found = ino;
	return 0;
}

static int connect_inode(struct checker *checker, uint64_t ino, uint8_t type)
{
	int result = checker->lost_found ? 0 : lost_found_make(checker);

	if (!result)
		result = LIST_ADD(&checker->additions, (struct addition){ checker->lost_found, ino, type });
	return result ? result : rebuild_schedule(checker, checker->lost_found, false);
}

static int set_parent(struct checker *checker, uint64_t ino, uint64_t parent)
{
	struct ash_inode record;
	int result = inode_read(checker, ino, &record);

	if (result)
		return result;
	record.parent = ash_put64(parent);
	checker->changed = true;
	return inode_write(checker, ino, &record);
}

static int clear_inode(struct checker *checker, uint64_t ino)
{
	struct ash_inode record;

	memset(&record, 0, sizeof(record));
	inode_state_drop(checker, ino, UINT8_MAX);
	checker->changed = true;
	return inode_write(checker, ino, &record);
}

static int set_links(struct checker *checker, uint64_t ino, uint32_t links)
{
	struct ash_inode record;
	int result = inode_read(checker, ino, &record);

	if (result)
		return result;
	record.nlink = ash_put32(links);
	checker->changed = true;
	return inode_write(checker, ino, &record);
}

/* ---- Directories ---- */

/*
 * Climb from `start` until something known. Everything on the way gets the same fate. Returns the directory at
 * the top of a lost path: one without parent, or one of a ring.
 */
static struct directory_info *climb(struct checker *checker, struct directory_info *start, uint32_t path)
{
	struct directory_info *at = start, *top = NULL;
	uint32_t fate = MARK_LOST;
	bool known;

	while (at && at->mark == MARK_UNKNOWN) {
		at->mark = path;
		top = at;
		if (at->ino == ASH_INO_ROOT)
			break;
		at = at->found_parent ? directory_find(checker, at->found_parent) : NULL;
	}
	known = at && at->mark < MARK_FIRST_PATH;
	if (top && top->ino == ASH_INO_ROOT)
		fate = MARK_REACHED;
	else if (known)
		fate = at->mark;
	for (struct directory_info *step = start; step && step->mark == path;) {
		step->mark = fate;
		step = step->found_parent ? directory_find(checker, step->found_parent) : NULL;
	}
	return fate == MARK_LOST && !known ? top : NULL;
}

/* Only an empty one can be. */
static bool deleted(const struct checker *checker, const struct directory_info *info)
{
	return !info->found_parent && !inode_info(checker, info->ino)->nlink && !info->entries;
}

static int lost_directory(struct checker *checker, struct directory_info *info)
{
	struct problem_context context = { .ino = info->ino };
	uint64_t ino = info->ino, old_parent = info->found_parent;
	int result;

	if (deleted(checker, info)) {
		if (inode_state(checker, ino) & INODE_ORPHAN)
			return 0;
		return problem(checker, PROBLEM_LOST_ORPHAN, &context) ? clear_inode(checker, ino) : 0;
	}
	if (!problem(checker, PROBLEM_UNREACHABLE_DIRECTORY, &context))
		return 0;
	result = connect_inode(checker, ino, DT_DIR); /* may move the list of directories */
	info = directory_find(checker, ino);
	info->parent = info->found_parent = checker->lost_found;
	info->found_key = name_key(checker, "", 0);
	info->mark = MARK_REACHED;
	/* One of a ring: the name that closed the ring goes. */
	if (!result && old_parent)
		result = rebuild_schedule(checker, old_parent, false);
	return result ? result : set_parent(checker, ino, checker->lost_found);
}

static int check_parent(struct checker *checker, const struct directory_info *info)
{
	struct problem_context context = { .ino = info->ino, .have = info->parent, .want = info->found_parent };

	if (!context.want || context.have == context.want || !problem(checker, PROBLEM_DIRECTORY_PARENT, &context))
		return 0;
	return set_parent(checker, info->ino, info->found_parent);
}

static int check_directory_links(struct checker *checker, const struct directory_info *info)
{
	struct problem_context context = { .ino = info->ino,
					   .have = inode_info(checker, info->ino)->nlink,
					   .want = 2 + info->children };

	if (context.have == context.want || deleted(checker, info) || !problem(checker, PROBLEM_LINK_COUNT, &context))
		return 0;
	return set_links(checker, info->ino, (uint32_t)context.want);
}

static int check_directories(struct checker *checker)
{
	uint64_t previous = 0;
	int result = 0;

	/* By number, since connecting may insert lost+found into the list. */
	for (size_t i = 0; i < checker->directories.count && !result; i++) {
		struct directory_info *info = &checker->directories.items[i], *top;
		uint64_t ino = info->ino;

		if (ino <= previous)
			continue;
		previous = ino;
		if (inode_state(checker, ino) & INODE_DAMAGED || !(inode_state(checker, ino) & INODE_TYPE))
			continue;
		top = climb(checker, info, MARK_FIRST_PATH);
		if (top)
			result = lost_directory(checker, top);
		info = directory_find(checker, ino);
		if (!result)
			result = check_parent(checker, info);
		if (!result)
			result = check_directory_links(checker, info);
	}
	return result;
}

/* ---- Everything else ---- */

static int check_inode(struct checker *checker, uint64_t ino)
{
	const struct inode_info *info = inode_info(checker, ino);
	uint8_t state = inode_state(checker, ino);
	struct problem_context context = { .ino = ino, .have = info->nlink, .want = info->links };

	if (!(state & INODE_TYPE) || (state & INODE_TYPE) == DT_DIR || (state & INODE_DAMAGED))
		return 0;
	if (info->links == info->nlink) {
		if (info->links || (state & INODE_ORPHAN))
			return 0;
		return problem(checker, PROBLEM_LOST_ORPHAN, &context) ? clear_inode(checker, ino) : 0;
	}
	if (!info->links)
		return problem(checker, PROBLEM_UNREACHABLE_INODE, &context) ?
			       connect_inode(checker, ino, state & INODE_TYPE) :
			       0;
	return problem(checker, PROBLEM_LINK_COUNT, &context) ? set_links(checker, ino, info->links) : 0;
}

int connect_check(struct checker *checker)
{
	int result = check_directories(checker);

	for (uint64_t ino = ASH_INO_FIRST_FREE;
	     (ino = inode_known_from(checker, ino, checker->inode_count)) < checker->inode_count && !result; ino++)
		result = check_inode(checker, ino);
	return result;
}
