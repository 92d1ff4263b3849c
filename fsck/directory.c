/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pass 2: names. Every directory's entries are checked against the inodes of pass 1; links are counted, and each
 * directory's one parent is found. A directory with something wrong is written anew after this pass
 * (rebuild.c), with the same checks deciding what goes in. No locks: one thread.
 */
#include "internal.h"

struct directory_walk {
	struct checker *checker;
	uint64_t ino;
	struct directory_info *info;
	uint64_t entries;
	bool damaged;
	struct name_set set;
};

const char *dirent_wrong(const uint8_t *value, uint32_t length)
{
	const struct ash_dirent_value *entry = (const void *)value;

	if (length < sizeof(*entry) + 1 || !entry->name_length || length != sizeof(*entry) + entry->name_length)
		return "record of wrong length";
	if (memchr(entry->name, 0, entry->name_length) || memchr(entry->name, '/', entry->name_length))
		return "impossible character in its name";
	if (entry->name[0] == '.' && (entry->name_length == 1 || (entry->name_length == 2 && entry->name[1] == '.')))
		return "reserved name";
	return NULL;
}

struct directory_info *directory_find(struct checker *checker, uint64_t ino)
{
	size_t low = 0, high = checker->directories.count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		struct directory_info *info = &checker->directories.items[middle];

		if (info->ino == ino)
			return info;
		if (info->ino < ino)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static int entry_problem(struct directory_walk *walk, enum problem_code code, struct problem_context *context)
{
	context->ino = walk->ino;
	walk->damaged = true;
	return problem(walk->checker, code, context) ? rebuild_schedule(walk->checker, walk->ino, false) : 0;
}

/* The name that agrees with the child's own record wins over one that came first. */
static int link_directory(struct directory_walk *walk, struct directory_info *child, uint64_t key,
			  struct problem_context *context)
{
	struct checker *checker = walk->checker;
	uint64_t first = child->found_parent;

	if (child->ino == ASH_INO_ROOT)
		return entry_problem(walk, PROBLEM_DIRENT_SECOND_PARENT, context);
	if (first && (first == child->parent || walk->ino != child->parent))
		return entry_problem(walk, PROBLEM_DIRENT_SECOND_PARENT, context);
	child->found_parent = walk->ino;
	child->found_key = key;
	walk->info->children++;
	if (!first)
		return 0;
	context->ino = first;
	directory_find(checker, first)->children--;
	return problem(checker, PROBLEM_DIRENT_SECOND_PARENT, context) ? rebuild_schedule(checker, first, false) : 0;
}

/*
 * An inode behind the last run of the table: runs only become more, so one that has a name was there, and no copy of the
 * superblock may know it. Such runs are looked for, once, before their names are given up.
 */
static bool target_in_lost_run(struct checker *checker, uint64_t target)
{
	uint64_t most = checker->block_count / run_blocks(checker);
	uint64_t run = target / checker->inodes_per_run;

	if (checker->names_counted || run >= most || run < checker->run_count)
		return false;
	checker->named_runs = run >= checker->named_runs ? run + 1 : checker->named_runs;
	return true;
}

static int check_target(struct directory_walk *walk, uint64_t key, const struct ash_dirent_value *entry,
			struct problem_context *context)
{
	struct checker *checker = walk->checker;
	uint64_t target = ash_get64(entry->ino);
	uint8_t state = target < checker->inode_count ? inode_state(checker, target) : 0;
	struct directory_info *child;
	int result = 0;

	if (target_in_lost_run(checker, target))
		return 0;
	context->number = target;
	if (state & INODE_DAMAGED)
		return 0;
	if (!(state & INODE_TYPE))
		return entry_problem(walk, PROBLEM_DIRENT_TARGET, context);
	context->have = entry->type;
	context->want = state & INODE_TYPE;
	if (context->have != context->want)
		result = entry_problem(walk, PROBLEM_DIRENT_TYPE, context);
	if (result || context->want != DT_DIR) {
		inode_info(checker, target)->links++;
		return result;
	}
	child = directory_find(checker, target);
	return child ? link_directory(walk, child, key, context) : 0;
}

static int check_entry(void *argument, uint64_t key, const uint8_t *value, uint32_t length)
{
	struct directory_walk *walk = argument;
	struct checker *checker = walk->checker;
	const struct ash_dirent_value *entry = (const void *)value;
	struct problem_context context = { .why = dirent_wrong(value, length) };
	bool seen;
	int result;

	walk->entries++;
	if (context.why)
		return entry_problem(walk, PROBLEM_DIRENT, &context);
	context.name = entry->name;
	context.name_length = entry->name_length;
	if ((key & ~KEY_COLLISION_MASK) != name_key(checker, entry->name, entry->name_length)) {
		result = entry_problem(walk, PROBLEM_DIRENT_KEY, &context);
		return result ? result : check_target(walk, key, entry, &context);
	}
	result = name_set_add(checker, &walk->set, key, entry->name, entry->name_length, &seen);
	if (result)
		return result;
	if (seen)
		result = entry_problem(walk, PROBLEM_DIRENT_DUPLICATE, &context);
	if (walk->ino == ASH_INO_ROOT && entry->name_length == 10 && !memcmp(entry->name, "lost+found", 10))
		checker->lost_found = ash_get64(entry->ino);
	return result ? result : check_target(walk, key, entry, &context);
}

static int note_bad(void *argument, uint64_t block, const char *why)
{
	struct directory_walk *walk = argument;

	(void)block;
	(void)why;
	walk->damaged = true; /* pass 1 reported it */
	return 0;
}

static int check_size(struct directory_walk *walk, const struct ash_inode *record)
{
	struct problem_context context = { .ino = walk->ino, .have = ash_get64(record->size), .want = walk->entries };
	struct ash_inode corrected = *record;

	if (walk->damaged || context.have == context.want || !problem(walk->checker, PROBLEM_DIRECTORY_SIZE, &context))
		return 0;
	corrected.size = ash_put64(walk->entries);
	walk->checker->changed = true;
	return inode_write(walk->checker, walk->ino, &corrected);
}

static int check_directory(struct checker *checker, uint64_t ino, const struct ash_inode *record)
{
	struct directory_walk context = { .checker = checker, .ino = ino, .info = directory_find(checker, ino) };
	struct tree_walk walk = {
		.checker = checker, .owner = ino, .context = &context, .bad = note_bad, .record = check_entry
	};
	int result = 0;

	if (!context.info)
		return 0;
	if (record->data_kind == ASH_FORK_TREE)
		result = tree_walk(&walk, record->data, ASH_DATA_FORK_SIZE);
	context.info->entries = context.entries || context.damaged;
	return result ? result : check_size(&context, record);
}

static bool is_directory(struct checker *checker, uint64_t ino)
{
	return (inode_state(checker, ino) & (INODE_TYPE | INODE_DAMAGED)) == DT_DIR;
}

static int check_block(struct checker *checker, uint64_t first_ino, struct ash_inode *records)
{
	int result = 0;

	for (uint32_t i = 0; i < ASH_INODES_PER_BLOCK && !result; i++)
		if (is_directory(checker, first_ino + i) && S_ISDIR(ash_get32(records[i].mode)))
			result = check_directory(checker, first_ino + i, &records[i]);
	return result;
}

int directories_check(struct checker *checker)
{
	struct directory_info *root = directory_find(checker, ASH_INO_ROOT);
	int result;

	checker->lost_found = 0;
	if (root)
		root->found_parent = ASH_INO_ROOT;
	result = table_scan(checker, 2, is_directory, check_block);
	if (!result && checker->named_runs && !checker->names_counted) {
		checker->names_counted = true;
		return -EAGAIN;
	}
	checker->lost_found_taken = false;
	if (!result && checker->lost_found &&
	    (checker->lost_found >= checker->inode_count || !is_directory(checker, checker->lost_found))) {
		checker->lost_found = 0;
		checker->lost_found_taken = true;
	}
	return result;
}
