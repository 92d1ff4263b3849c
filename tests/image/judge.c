/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Judging a damaged image: see judge.h. */
#include "judge.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static char text[512]; /* of the trouble */

static bool verbose(void)
{
	return getenv("DAMAGE_VERBOSE") != NULL;
}

/* ---- Comparing ---- */

static bool is_affected(const struct test *test, uint64_t ino)
{
	for (unsigned i = 0; i < test->affected_count; i++)
		if (test->affected[i] == ino)
			return true;
	return test->any_change;
}

static bool same_inode(const struct known_inode *a, const struct known_inode *b, bool names_move)
{
	if (S_ISDIR(a->mode))
		return a->mode == b->mode && a->attributes == b->attributes &&
		       (names_move || (a->content == b->content && a->size == b->size && a->nlink == b->nlink));
	return a->mode == b->mode && a->size == b->size && a->content == b->content && a->attributes == b->attributes &&
	       (names_move || a->nlink == b->nlink);
}

static const char *compare(const struct image *image, const struct test *test, const struct manifest *now, bool used)
{
	const struct manifest *known = test->known ? test->known : &image->manifest;

	for (size_t i = 0; i < known->count; i++) {
		const struct known_inode *old = &known->items[i], *new;

		if (is_affected(test, old->ino) || (used && use_changes(image, old->ino)))
			continue;
		new = manifest_find(now, old->ino);
		if (new &&same_inode(old, new, test->names_move || used))
			continue;
		snprintf(text, sizeof(text), "inode %llu, which the damage did not touch, %s",
			 (unsigned long long)old->ino, new ? "changed" : "is gone");
		return text;
	}
	return NULL;
}

/* ---- Looking and repairing ---- */

static void on_report(void *context, const struct ash_check_problem *problem)
{
	(void)context;
	if (verbose())
		printf("#   [%s] %s (%s)\n", problem->code, problem->message, problem->fixed ? "repaired" : "left");
}

static int check(struct image *image, enum ash_check_mode mode, struct ash_check_result *result)
{
	struct ash_check_options options = { .mode = mode, .force = true, .report = on_report };

	if (verbose())
		printf("#  check mode %d\n", mode);
	return ash_check(image->dev, &options, result);
}

/* fsck says that this is nothing for it: a newer format, no volume, a device too short. */
static bool refused(int error)
{
	return error == -ENOTSUP || error == -EINVAL || error == -ENODATA;
}

static const char *look(struct image *image, const struct test *test)
{
	struct ash_open_options options = { .no_write = true, .no_threads = true };
	struct ash_check_result result;
	struct manifest walked;
	uint64_t before = image->writes;
	int checked;

	if (!manifest_take(image->dev, &options, &walked))
		manifest_free(&walked);
	checked = check(image, ASH_CHECK_NO, &result);
	if (image->writes != before)
		return "a look wrote to the device";
	if (test->must_report && !checked && !result.problems)
		return "not reported";
	if (test->must_not && (checked || result.problems))
		return "reported, though it is no inconsistency";
	return NULL;
}

/* A read-only mount writes what the log holds, and nothing when it holds nothing. */
static const char *read_only(struct image *image)
{
	struct ash_open_options options = { .read_only = true, .no_threads = true };
	struct manifest walked;
	uint64_t before = image->writes;

	if (!manifest_take(image->dev, &options, &walked))
		manifest_free(&walked);
	return image->writes == before ? NULL : "a read-only mount wrote to the device";
}

static const char *find_clean(struct image *image, const char *when)
{
	struct ash_check_result result;
	uint64_t before = image->writes;
	int error = check(image, ASH_CHECK_NO, &result);

	if (image->writes != before)
		return "a look wrote to the device";
	if (!error && !result.problems)
		return NULL;
	snprintf(text, sizeof(text), "not clean after %s: %.200s", when, error ? result.error : result.first);
	return text;
}

/* What is there when the check says that all is well. */
static const char *walk_again(struct image *image, const struct test *test, bool used)
{
	struct ash_open_options options = { .no_threads = true };
	struct manifest now;
	const char *trouble = NULL;
	int error = manifest_take(image->dev, &options, &now);

	if (error || now.error) {
		snprintf(text, sizeof(text), "cannot be walked after the repair: %s",
			 strerror(error ? -error : -now.error));
		trouble = text;
	}
	if (!trouble && !(used && test->blind))
		trouble = compare(image, test, &now, used);
	if (!error)
		manifest_free(&now);
	return trouble;
}

static const char *repair(struct image *image, const struct test *test, bool used)
{
	struct ash_check_result result;
	uint64_t before = image->writes;
	const char *trouble;
	int error = check(image, ASH_CHECK_YES, &result);

	if (test->may_refuse && error == -EUCLEAN)
		return NULL; /* no copy that tells where the inode table is */
	if (test->may_refuse && refused(error))
		return image->writes == before ? NULL : "refused, but written to";
	if (error || result.left) {
		snprintf(text, sizeof(text), "not repaired: %.200s (%llu left)", error ? result.error : result.first,
			 (unsigned long long)result.left);
		return text;
	}
	trouble = find_clean(image, "the repair");
	if (!trouble)
		trouble = walk_again(image, test, used);
	return trouble ? trouble : find_clean(image, "a mount");
}

/* ---- Using ---- */

static const char *use(struct image *image, const struct test *test)
{
	struct ash_open_options options = { .no_threads = true,
					    .log = quiet_log,
					    .cache_bytes = 1u << 20,
					    .continue_on_damage = strlen(test->name) % 2 };
	struct ash_volume *volume;
	char error[BDEV_ERROR_TEXT];

	if (ash_open(image->dev, &options, &volume, error))
		return repair(image, test, false);
	use_volume(volume, image, test);
	ash_close(volume);
	return repair(image, test, true);
}

/* ---- One image ---- */

struct kept {
	uint64_t block;
	uint8_t data[ASH_BLOCK_SIZE];
};

static struct kept *keep(struct image *image, size_t *count)
{
	struct kept *list;
	uint64_t blocks = image->size >> ASH_BLOCK_SHIFT;

	*count = 0;
	for (uint64_t block = 0; block < blocks; block++)
		*count += image->dirty[block];
	list = malloc((*count + 1) * sizeof(*list));
	if (!list)
		die("out of memory");
	*count = 0;
	for (uint64_t block = 0; block < blocks; block++)
		if (image->dirty[block]) {
			uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

			image_read(image, block, data);
			list[*count].block = block;
			memcpy(list[(*count)++].data, data, sizeof(data));
		}
	return list;
}

static void again(struct image *image, const struct kept *list, size_t count)
{
	image_restore(image);
	for (size_t i = 0; i < count; i++)
		image_write(image, list[i].block, list[i].data);
}

static const char *outside(struct image *image, const char *trouble)
{
	return !trouble && image_outside(image) ? "something was written behind the volume's end" : trouble;
}

bool judge(struct image *image, const struct test *test)
{
	const char *trouble;
	struct kept *damage;
	size_t count;

	if (!campaign_wants(image, test)) {
		image_restore(image);
		return false;
	}
	if (verbose())
		printf("# %s\n", test->name);
	fflush(stdout);
	damage = keep(image, &count);
	trouble = look(image, test);
	if (!trouble && image->clean && !test->any_change) {
		trouble = read_only(image);
		if (trouble)
			again(image, damage, count);
	}
	if (!trouble)
		trouble = outside(image, repair(image, test, false));
	if (!trouble) {
		again(image, damage, count);
		if (verbose())
			printf("#  used\n");
		trouble = outside(image, use(image, test));
		if (trouble && trouble != text)
			snprintf(text, sizeof(text), "%s", trouble);
		if (trouble) {
			memmove(text + 6, text, sizeof(text) - 7);
			memcpy(text, "used: ", 6);
			trouble = text;
		}
	}
	campaign_result(test, trouble);
	free(damage);
	image_restore(image);
	return true;
}
