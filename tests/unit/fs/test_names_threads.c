/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Four threads do everything to the names of a few directories at once. Afterwards the tree must be one: each link
 * count is the number of names, each entry count right, each parent the one that has the name; and when all is
 * removed, all inodes and blocks are back. The run is also the one for TSan (suite `concurrent`).
 */
#include <linux/fs.h>
#include <pthread.h>
#include <sys/xattr.h>

#include "names_fixture.h"
#include "tests/support/level.h"

#define THREADS 4
#define DIRECTORIES 6
#define NAMES 12

struct worker {
	struct names *names;
	uint64_t random;
	int rounds;
	uint64_t directories[DIRECTORIES];
};

static uint32_t draw(struct worker *worker, uint32_t limit)
{
	worker->random = worker->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)(worker->random >> 33) % limit;
}

static uint64_t any_directory(struct worker *worker)
{
	return worker->directories[draw(worker, DIRECTORIES)];
}

static const char *any_name(struct worker *worker, char name[16])
{
	snprintf(name, 16, "n%u", draw(worker, NAMES));
	return name;
}

static bool expected(int result)
{
	switch (-result) {
	case 0:
	case ENOENT:
	case EEXIST:
	case ENOTDIR:
	case EISDIR:
	case ENOTEMPTY:
	case EINVAL:
	case EPERM:
		return true;
	default:
		return false;
	}
}

static int count_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		       const struct ash_attr *attr)
{
	uint64_t *inodes = context;

	(void)length;
	(void)type;
	(void)next;
	if (name[0] != '.' && attr && inodes[0] < NAMES)
		inodes[++inodes[0]] = ino;
	return 0;
}

static int look_through(struct worker *worker, uint64_t directory)
{
	uint64_t inodes[NAMES + 1] = { 0 };
	int result = ash_readdir(worker->names->volume, directory, 0, true, count_entry, inodes);

	for (uint64_t i = 1; i <= inodes[0]; i++)
		ash_forget(worker->names->volume, inodes[i], 1);
	return result;
}

static int use_file(struct worker *worker, uint64_t directory, const char *name)
{
	struct ash_volume *volume = worker->names->volume;
	struct ash_setattr change = { .valid = ASH_SET_MODE | ASH_SET_MTIME_NOW, .mode = draw(worker, 01000) };
	struct ash_attr attr;
	char back[16];
	int result = ash_lookup(volume, directory, name, &attr);

	if (result)
		return result;
	if (S_ISREG(attr.mode)) {
		ash_write(volume, attr.ino, "some content", 12, draw(worker, 5000), 0);
		ash_read(volume, attr.ino, back, sizeof(back), 0);
		ash_setxattr(volume, attr.ino, "user.x", back, draw(worker, 16), 0);
	}
	result = ash_setattr(volume, attr.ino, &change, NULL);
	ash_forget(volume, attr.ino, 1);
	return result;
}

static int one_operation(struct worker *worker)
{
	struct ash_volume *volume = worker->names->volume;
	struct ash_create create = { .mode = S_IFREG | 0644 };
	uint64_t here = any_directory(worker), there = any_directory(worker);
	char name[16], other[16];
	struct ash_attr attr, linked;
	int result;

	any_name(worker, name);
	any_name(worker, other);
	switch (draw(worker, 13)) {
	case 0:
	case 1:
		result = ash_create(volume, here, name, &create, &attr);
		break;
	case 2:
		create.mode = S_IFDIR | 0755;
		result = ash_create(volume, here, name, &create, &attr);
		break;
	case 3:
		return ash_unlink(volume, here, name, NULL);
	case 4:
		return ash_rmdir(volume, here, name, NULL);
	case 5:
	case 6:
		return ash_rename(volume, here, name, there, other, draw(worker, 3));
	case 7:
		result = ash_lookup(volume, here, name, &attr);
		if (!result) {
			int link = ash_link(volume, attr.ino, there, other, &linked);

			if (!link)
				ash_forget(volume, attr.ino, 1);
			cr_expect(expected(link), "link: %s", strerror(-link));
		}
		break;
	case 8:
		return look_through(worker, here);
	case 9:
		result = ash_tmpfile(volume, here, &create, &attr);
		break;
	case 10: /* refused, whichever of the two is above the other */
		result = ash_link(volume, here, there, other, &attr);
		cr_expect_eq(result, -EPERM);
		return result;
	default:
		return use_file(worker, here, name);
	}
	if (!result)
		ash_forget(volume, attr.ino, 1);
	return result;
}

static void *work(void *context)
{
	struct worker *worker = context;

	for (int i = 0; i < worker->rounds; i++) {
		int result = one_operation(worker);

		cr_expect(expected(result), "round %d: %s", i, strerror(-result));
	}
	return NULL;
}

/* ---- The tree afterwards ---- */

struct listing {
	struct {
		char name[16];
		uint64_t ino;
	} entries[NAMES + DIRECTORIES + 2];
	size_t count;
};

static int list_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		      const struct ash_attr *attr)
{
	struct listing *listing = context;

	(void)length;
	(void)type;
	(void)next;
	(void)attr;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return 0;
	snprintf(listing->entries[listing->count].name, sizeof(listing->entries[0].name), "%s", name);
	listing->entries[listing->count++].ino = ino;
	return 0;
}

static unsigned inodes_found;
static uint32_t names_found[1 << 16];

static void check_tree(struct names *names, uint64_t directory, uint64_t parent)
{
	struct ash_attr attr = names_attr(names, directory);
	struct listing listing = { 0 };
	uint32_t subdirectories = 0;
	uint64_t up;

	inodes_found++;
	cr_assert_eq(ash_readdir(names->volume, directory, 0, false, list_entry, &listing), 0);
	cr_assert_eq(attr.size / 32, listing.count);
	cr_assert_eq(ash_parent(names->volume, directory, &up), 0);
	cr_assert_eq(up, parent);
	for (size_t i = 0; i < listing.count; i++) {
		struct ash_attr child = names_attr(names, listing.entries[i].ino);

		if (S_ISDIR(child.mode)) {
			subdirectories++;
			check_tree(names, child.ino, directory);
		} else if (!names_found[child.ino]++) {
			inodes_found++;
		}
	}
	cr_assert_eq(attr.nlink, 2 + subdirectories);
}

static void check_links(struct names *names)
{
	for (uint64_t ino = 0; ino < sizeof(names_found) / sizeof(*names_found); ino++)
		if (names_found[ino])
			cr_assert_eq(names_attr(names, ino).nlink, names_found[ino]);
}

static void remove_tree(struct names *names, uint64_t directory)
{
	struct listing listing = { 0 };

	cr_assert_eq(ash_readdir(names->volume, directory, 0, false, list_entry, &listing), 0);
	for (size_t i = 0; i < listing.count; i++) {
		struct ash_attr attr = names_attr(names, listing.entries[i].ino);

		if (S_ISDIR(attr.mode)) {
			remove_tree(names, attr.ino);
			cr_assert_eq(ash_rmdir(names->volume, directory, listing.entries[i].name, NULL), 0);
		} else {
			cr_assert_eq(ash_unlink(names->volume, directory, listing.entries[i].name, NULL), 0);
		}
	}
}

Test(names_threads, the_tree_stays_one, .timeout = 240)
{
	int rounds = test_level_is_long() ? 100000 : 6000;
	struct worker workers[THREADS];
	pthread_t threads[THREADS];
	struct ash_volume_info info;
	struct ash_attr attr;
	struct names names;
	uint64_t directories[DIRECTORIES], free_blocks;
	char name[16];

	names_open(&names, "mem:64M", true);
	free_blocks = names_free_blocks(&names);
	for (int i = 0; i < DIRECTORIES; i++) {
		/*
		 * d0 holds the d1.. to d5: some are ancestors of others; each is looked up, so that its number stays
		 * good
		 */
		snprintf(name, sizeof(name), "d%d", i);
		directories[i] = names_directory(&names, i ? directories[(i - 1) / 2] : 1, name);
		cr_assert_eq(ash_lookup(names.volume, i ? directories[(i - 1) / 2] : 1, name, &attr), 0);
	}
	for (int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .names = &names, .random = 77u + (uint64_t)i, .rounds = rounds };
		memcpy(workers[i].directories, directories, sizeof(directories));
		cr_assert_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < DIRECTORIES; i++)
		ash_forget(names.volume, directories[i], 1);
	names_remount(&names);
	check_tree(&names, 1, 1);
	check_links(&names);
	cr_assert_eq(names_used_inodes(&names), 7u + inodes_found);
	remove_tree(&names, 1);
	cr_assert_eq(names_used_inodes(&names), 8u);
	ash_volume_info(names.volume, &info);
	cr_assert_leq(free_blocks - names_free_blocks(&names), (info.inode_runs - 1) * 33 + 2);
	names_close(&names);
}

/* ---- Renames that wait for each other ---- */

/* One of three; what it renames back and forth. */
struct crossing {
	struct names *names;
	uint64_t from, to;
	const char *name, *new_name;
	unsigned flags;
	int rounds;
};

static void *cross(void *argument)
{
	struct crossing *crossing = argument;
	struct ash_volume *volume = crossing->names->volume;

	for (int i = 0; i < crossing->rounds; i++) {
		cr_assert_eq(ash_rename(volume, crossing->from, crossing->name, crossing->to, crossing->new_name,
					crossing->flags),
			     0);
		cr_assert_eq(ash_rename(volume, crossing->to, crossing->new_name, crossing->from, crossing->name,
					crossing->flags),
			     0);
	}
	return NULL;
}

/*
 * Two of the three take the rename lock, so that they never wait for each other; TSan knows of no lock that keeps a circle
 * from closing, and reports what it could be without. It looks this function up by its name.
 */
const char *__tsan_default_suppressions(void);

const char *__tsan_default_suppressions(void)
{
	return "deadlock:^cross$\n";
}

/*
 * `first` lies in `third`, `second` and `third` lie in one folder, and their numbers are in this order. A file moves between
 * first and second (locks them in this order), second and third change places (likewise), and first is renamed within third
 * (locks third, then first): each wants what the next one has.
 */
Test(names_threads, renames_do_not_wait_in_a_circle, .timeout = 120)
{
	int rounds = test_level_is_long() ? 300000 : 30000;
	struct crossing crossings[3];
	pthread_t threads[3];
	struct names names;
	uint64_t first, second, third, folder;

	names_open(&names, "mem:64M", true);
	first = names_directory(&names, 1, "first");
	folder = names_directory(&names, 1, "folder");
	second = names_directory(&names, folder, "second");
	third = names_directory(&names, folder, "third");
	cr_assert(first < second && second < third);
	names_file(&names, first, "file");
	cr_assert_eq(ash_rename(names.volume, 1, "first", third, "first", 0), 0);
	crossings[0] = (struct crossing){ &names, first, second, "file", "file", 0, rounds };
	crossings[1] = (struct crossing){ &names, folder, folder, "second", "third", RENAME_EXCHANGE, rounds };
	crossings[2] = (struct crossing){ &names, third, third, "first", "renamed", 0, rounds };
	for (int i = 0; i < 3; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, cross, &crossings[i]), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	names_remount(&names);
	check_tree(&names, 1, 1);
	names_close(&names);
}
