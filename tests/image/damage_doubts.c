/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inode records with a wrong checksum and the form of an inode: what a repair may believe of them. Each case changes a few
 * fields of one record, without sealing it, has the repair look at it, and looks at the record. See damage.h.
 */
#include "damage.h"

#include <stdio.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define FAR 8000000000000000000ull

struct doubt_case {
	const char *name;
	uint64_t ino;
	void (*change)(struct ash_inode *record);
	bool (*right)(const struct ash_inode *old, const struct ash_inode *new);
};

/* ---- What everybody may believe ---- */

static bool times_right(const struct ash_inode *record)
{
	const ash_le64 *const seconds[] = { &record->atime, &record->mtime, &record->ctime, &record->btime };

	for (unsigned i = 0; i < 4; i++)
		if ((int64_t)ash_get64(*seconds[i]) < INT32_MIN || (int64_t)ash_get64(*seconds[i]) > 15032385535ll)
			return false;
	return true;
}

static bool same_owner(const struct ash_inode *old, const struct ash_inode *new)
{
	return old->uid.raw == new->uid.raw && old->gid.raw == new->gid.raw && old->mode.raw == new->mode.raw;
}

/* Nobody gets it whom the damaged record may have made up. */
static bool roots_alone(const struct ash_inode *new)
{
	return !new->uid.raw && !new->gid.raw && !(ash_get32(new->mode) & 07077u);
}

static bool same_fork(const struct ash_inode *old, const struct ash_inode *new)
{
	return old->data_kind == new->data_kind && !memcmp(old->data, new->data, sizeof(old->data));
}

/* ---- Cases ---- */

static void only_checksum(struct ash_inode *record)
{
	record->crc = ash_put32(~ash_get32(record->crc));
}

static bool all_kept(const struct ash_inode *old, const struct ash_inode *new)
{
	return same_owner(old, new) && same_fork(old, new) && old->size.raw == new->size.raw &&
	       old->mtime.raw == new->mtime.raw;
}

static void size_huge(struct ash_inode *record)
{
	record->size = ash_put64(4986892162382702222ull);
}

static void size_highest(struct ash_inode *record)
{
	record->size = ash_put64(INT64_MAX);
}

static void size_small(struct ash_inode *record)
{
	record->size = ash_put64(3);
}

/* What is mapped stays, and the size is its end. */
static bool size_of_content(const struct ash_inode *old, const struct ash_inode *new)
{
	uint64_t size = ash_get64(new->size), before = ash_get64(old->size);

	return same_fork(old, new) && size >= before && size - before < ASH_BLOCK_SIZE && !(size % ASH_BLOCK_SIZE) &&
	       roots_alone(new);
}

static void size_without_blocks(struct ash_inode *record)
{
	record->size = ash_put64(1ull << 40);
}

static bool size_zero(const struct ash_inode *old, const struct ash_inode *new)
{
	(void)old;
	return !new->size.raw;
}

static bool size_inline(const struct ash_inode *old, const struct ash_inode *new)
{
	return same_fork(old, new) && ash_get64(new->size) <= ASH_DATA_FORK_SIZE;
}

static void times_far(struct ash_inode *record)
{
	record->mtime = ash_put64((uint64_t)-2009359353183824779ll);
	record->atime = ash_put64(15032385536ull);
	record->uid = ash_put32(1392766227);
	record->mode = ash_put32(S_IFREG | 06777);
}

static bool times_near(const struct ash_inode *old, const struct ash_inode *new)
{
	return times_right(new) && same_fork(old, new) && old->ctime.raw == new->ctime.raw &&roots_alone(new);
}

static void set_id(struct ash_inode *record)
{
	record->mode = ash_put32(S_IFREG | 06755);
}

static bool no_set_id(const struct ash_inode *old, const struct ash_inode *new)
{
	return ash_get32(new->mode) == (S_IFREG | 0755) && old->uid.raw == new->uid.raw &&same_fork(old, new);
}

static void flags_unknown(struct ash_inode *record)
{
	record->flags = ash_put32(0xdeadbe00u);
	record->uid = ash_put32(4711);
}

static bool flags_known(const struct ash_inode *old, const struct ash_inode *new)
{
	return !(ash_get32(new->flags) & ~ASH_INODE_USER_FLAGS) && roots_alone(new) && same_fork(old, new);
}

static void type_fifo(struct ash_inode *record)
{
	record->mode = ash_put32(S_IFIFO | 0644);
}

static bool plain_file(const struct ash_inode *old, const struct ash_inode *new)
{
	return S_ISREG(ash_get32(new->mode)) && same_fork(old, new) && old->size.raw == new->size.raw;
}

static void device_number(struct ash_inode *record)
{
	record->rdev = ash_put64(8ull << 8);
	record->mtime = ash_put64(FAR);
}

static bool no_device(const struct ash_inode *old, const struct ash_inode *new)
{
	(void)old;
	return !new->rdev.raw &&roots_alone(new);
}

/* ---- Running ---- */

static void run_case(struct image *image, const struct doubt_case *doubt)
{
	struct test test = { .names_move = true, .must_report = true, .affected = { doubt->ino }, .affected_count = 1 };
	struct ash_check_options options = { .mode = ASH_CHECK_YES, .force = true };
	struct ash_check_result result;
	struct ash_inode old, bad, new;
	char name[sizeof(test.name) + 60];
	bool good;

	snprintf(test.name, sizeof(test.name), "a wrong checksum, and %s", doubt->name);
	snprintf(name, sizeof(name), "%s: what is kept is plausible", test.name);
	inode_get(image, doubt->ino, &old);
	bad = old;
	doubt->change(&bad);
	inode_put(image, doubt->ino, &bad, false);
	good = !ash_check(image->dev, &options, &result) && !result.left;
	inode_get(image, doubt->ino, &new);
	campaign_check(name, good && doubt->right(&old, &new));
	image_restore(image);
	inode_put(image, doubt->ino, &bad, false);
	judge(image, &test);
}

void damage_doubts(struct image *image)
{
	const struct doubt_case cases[] = {
		{ "nothing else wrong in a file", image->extent_file, only_checksum, all_kept },
		{ "nothing else wrong in an inline file", image->inline_file, only_checksum, all_kept },
		{ "nothing else wrong in a file with unwritten blocks", image->unwritten_file, only_checksum,
		  all_kept },
		{ "nothing else wrong in a link", image->long_link, only_checksum, all_kept },
		{ "nothing else wrong in a folder", image->flat_directory, only_checksum, all_kept },
		{ "nothing else wrong in a device", image->device, only_checksum, all_kept },
		{ "a size of exabytes", image->block_file, size_huge, size_of_content },
		{ "the highest size", image->extent_file, size_highest, size_of_content },
		{ "a size smaller than the content", image->block_file, size_small, size_of_content },
		{ "a size without any block", image->empty, size_without_blocks, size_zero },
		{ "a size over the inline content", image->inline_file, size_huge, size_inline },
		{ "times of other ages", image->block_file, times_far, times_near },
		{ "set-user-ID", image->block_file, set_id, no_set_id },
		{ "unknown flags", image->block_file, flags_unknown, flags_known },
		{ "a file turned fifo", image->block_file, type_fifo, plain_file },
		{ "a device of another age", image->device, device_number, no_device },
	};

	for (size_t i = 0; i < COUNT(cases); i++)
		run_case(image, &cases[i]);
}
