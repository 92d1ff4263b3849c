/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Directory entries against a table of names, collisions, positions that stay, and damaged entries (I8). */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>

#include "fs/dir.h"
#include "tree_fixture.h"

#define NAMES 4000u

struct slot {
	uint64_t ino; /* 0: not there */
	uint64_t key;
	uint8_t type;
};

struct run {
	struct fixture fixture;
	struct slot slots[NAMES], before[NAMES];
	uint64_t random;
};

/* Names of 1 to 255 bytes, any byte but '/' and NUL. */
static size_t make_name(unsigned number, char *name)
{
	uint64_t state = number;
	size_t length = (size_t)snprintf(name, ASH_NAME_MAX + 1, "%u", number);
	size_t wanted = number % 7 ? length + number % 30 : 255 - number % 200;

	while (length < wanted) {
		char byte = (char)fixture_random(&state);

		name[length++] = byte == '/' || !byte ? '~' : byte;
	}
	return length;
}

static void one_operation(struct run *run, struct ash_txn *txn)
{
	unsigned number = (unsigned)(fixture_random(&run->random) % NAMES);
	uint64_t choice = fixture_random(&run->random) % 10, ino = fixture_random(&run->random) | 1;
	struct slot *slot = &run->slots[number];
	struct ash_tree *tree = &run->fixture.data;
	struct ash_entry entry;
	char name[ASH_NAME_MAX + 1];
	size_t length = make_name(number, name);
	int found = ash_dir_find(tree, name, length, &entry);

	cr_assert_eq(found, slot->ino ? 0 : -ENOENT, "find: %d", found);
	if (!found)
		cr_assert(entry.ino == slot->ino && entry.type == slot->type && entry.key == slot->key);
	if (choice < 6) {
		cr_assert_eq(ash_dir_add(txn, tree, name, length, ino, DT_REG), slot->ino ? -EEXIST : 0);
		if (!slot->ino) {
			cr_assert_eq(ash_dir_find(tree, name, length, &entry), 0);
			*slot = (struct slot){ ino, entry.key, DT_REG };
		}
	} else if (!found && choice < 8) {
		cr_assert_eq(ash_dir_set(txn, tree, &entry, ino, DT_DIR), 0);
		*slot = (struct slot){ ino, entry.key, DT_DIR };
	} else if (!found) {
		cr_assert_eq(ash_dir_remove(txn, tree, &entry), 0);
		*slot = (struct slot){ 0 };
	}
}

struct walk {
	const struct run *run;
	uint64_t last;
	unsigned count, stop_after;
};

static int walk_each(void *context, const struct ash_entry *entry, const char *name, size_t length)
{
	struct walk *walk = context;
	unsigned number = (unsigned)strtoul(name, NULL, 10);
	char expected[ASH_NAME_MAX + 1];

	/* The digits may run into the random bytes: look for the name that matches. */
	while (number >= NAMES || make_name(number, expected) != length || memcmp(expected, name, length)) {
		cr_assert(number, "foreign name");
		number /= 10;
	}
	cr_assert_eq(walk->run->slots[number].ino, entry->ino);
	cr_assert_eq(walk->run->slots[number].key, entry->key);
	cr_assert(entry->key > walk->last && entry->key >= 3);
	walk->last = entry->key;
	return ++walk->count == walk->stop_after;
}

static unsigned model_count(const struct run *run)
{
	unsigned count = 0;

	for (unsigned i = 0; i < NAMES; i++)
		count += run->slots[i].ino != 0;
	return count;
}

static void expect_equal(const struct run *run)
{
	struct walk walk = { .run = run };

	cr_assert_eq(ash_dir_walk(&run->fixture.data, 0, walk_each, &walk), 0);
	cr_assert_eq(walk.count, model_count(run));
}

Test(dir, equals_a_table_of_names, .timeout = 120)
{
	static struct run run;

	run.random = 3;
	fixture_open(&run.fixture, "mem:64M");
	for (unsigned i = 0; i < 12000; i++) {
		struct ash_txn *txn = fixture_begin(&run.fixture, ASH_TXN_RENAME);
		bool abort = fixture_random(&run.random) % 10 == 0;

		memcpy(run.before, run.slots, sizeof(run.slots));
		one_operation(&run, txn);
		one_operation(&run, txn);
		if (abort) {
			ash_txn_abort(txn);
			memcpy(run.slots, run.before, sizeof(run.slots));
		} else {
			ash_txn_commit(txn);
		}
		if (i % 500 == 0)
			expect_equal(&run);
	}
	expect_equal(&run);
	cr_assert_eq(run.fixture.last_message[0], 0, "%s", run.fixture.last_message);
	fixture_close(&run.fixture);
}

static void add(struct fixture *fixture, const char *name, uint64_t ino, int expected)
{
	struct ash_txn *txn = fixture_begin(fixture, ASH_TXN_NAME);

	cr_assert_eq(ash_dir_add(txn, &fixture->data, name, strlen(name), ino, DT_REG), expected);
	if (expected)
		ash_txn_abort(txn);
	else
		ash_txn_commit(txn);
}

static void drop(struct fixture *fixture, const char *name)
{
	struct ash_txn *txn = fixture_begin(fixture, ASH_TXN_NAME);
	struct ash_entry entry;

	cr_assert_eq(ash_dir_find(&fixture->data, name, strlen(name), &entry), 0);
	cr_assert_eq(ash_dir_remove(txn, &fixture->data, &entry), 0);
	ash_txn_commit(txn);
}

Test(dir, a_walk_goes_on_behind_a_position)
{
	static struct run run;
	struct walk all = { .run = &run };
	unsigned total = 0;
	uint64_t position = 0;
	int stopped = 1;

	fixture_open(&run.fixture, "mem:16M");
	run.random = 8;
	for (unsigned i = 0; i < 500; i++) {
		struct ash_txn *txn = fixture_begin(&run.fixture, ASH_TXN_RENAME);

		one_operation(&run, txn);
		ash_txn_commit(txn);
	}
	cr_assert_eq(ash_dir_walk(&run.fixture.data, 0, walk_each, &all), 0);
	while (stopped) {
		struct walk walk = { .run = &run, .last = position, .stop_after = 7 };

		stopped = ash_dir_walk(&run.fixture.data, position, walk_each, &walk);
		cr_assert(stopped >= 0);
		total += walk.count;
		position = walk.last;
	}
	cr_assert_eq(total, all.count);
	cr_assert_eq(ash_dir_walk(&run.fixture.data, UINT64_MAX, walk_each, &all), 0);
	fixture_close(&run.fixture);
}

/* Two names with one 55-bit hash cannot be had; entries put under the hash of another name stand for them. */
static void plant(struct fixture *fixture, const char *victim, unsigned collision, const char *name)
{
	uint8_t value[ASH_NAME_MAX + 10] = { 1 };
	struct ash_txn *txn = fixture_begin(fixture, ASH_TXN_NAME);
	uint64_t key = ash_name_key(fixture->volume, victim, strlen(victim)) + collision;
	uint32_t length = (uint32_t)strlen(name);

	value[8] = DT_REG;
	value[9] = (uint8_t)length;
	memcpy(value + 10, name, length);
	cr_assert_eq(ash_tree_insert(txn, &fixture->data, key, value, 10 + length), 0);
	ash_txn_commit(txn);
}

Test(dir, a_collision_takes_the_lowest_free_number)
{
	struct fixture fixture;
	struct ash_entry entry;
	uint64_t base;

	fixture_open(&fixture, "mem:16M");
	base = ash_name_key(fixture.volume, "victim", 6);
	plant(&fixture, "victim", 0, "a");
	plant(&fixture, "victim", 1, "b");
	plant(&fixture, "victim", 3, "c");
	cr_assert_eq(ash_dir_find(&fixture.data, "victim", 6, &entry), -ENOENT);
	add(&fixture, "victim", 77, 0);
	cr_assert_eq(ash_dir_find(&fixture.data, "victim", 6, &entry), 0);
	cr_assert_eq(entry.key, base + 2);
	cr_assert_eq(entry.ino, 77);
	add(&fixture, "victim", 78, -EEXIST);
	fixture_close(&fixture);
}

/* The name lies behind a free number of its hash: it must still be seen. */
Test(dir, a_name_behind_a_gap_still_exists)
{
	struct fixture fixture;
	struct ash_entry entry;
	struct ash_txn *txn;

	fixture_open(&fixture, "mem:16M");
	plant(&fixture, "victim", 0, "a");
	add(&fixture, "victim", 77, 0);
	txn = fixture_begin(&fixture, ASH_TXN_NAME);
	cr_assert_eq(ash_tree_delete(txn, &fixture.data, ash_name_key(fixture.volume, "victim", 6)), 0);
	ash_txn_commit(txn);
	add(&fixture, "victim", 78, -EEXIST);
	cr_assert_eq(ash_dir_find(&fixture.data, "victim", 6, &entry), 0);
	cr_assert_eq(entry.ino, 77);
	drop(&fixture, "victim");
	add(&fixture, "victim", 78, 0);
	cr_assert_eq(ash_dir_find(&fixture.data, "victim", 6, &entry), 0);
	cr_assert_eq(entry.key, ash_name_key(fixture.volume, "victim", 6));
	fixture_close(&fixture);
}

Test(dir, the_257th_collision_is_refused)
{
	struct fixture fixture;

	fixture_open(&fixture, "mem:16M");
	for (unsigned i = 0; i < 256; i++) {
		char name[8];

		snprintf(name, sizeof(name), "n%u", i);
		plant(&fixture, "victim", i, name);
	}
	add(&fixture, "victim", 77, -ENOSPC);
	add(&fixture, "other", 78, 0);
	fixture_close(&fixture);
}

Test(dir, name_lengths)
{
	struct fixture fixture;
	char name[300];

	fixture_open(&fixture, "mem:16M");
	memset(name, 'x', sizeof(name));
	name[256] = 0;
	add(&fixture, name, 5, -ENAMETOOLONG);
	name[255] = 0;
	add(&fixture, name, 5, 0);
	drop(&fixture, name);
	fixture_close(&fixture);
}

/* ---- Damage ---- */

static void check(const char *name, unsigned name_length, uint8_t ino, uint8_t type, unsigned length,
		  const char *expected)
{
	uint8_t value[300] = { ino };
	const char *wrong;

	value[8] = type;
	value[9] = (uint8_t)name_length;
	memcpy(value + 10, name, name_length);
	wrong = ash_dirent_check(value, length);
	cr_assert_str_eq(wrong ? wrong : "good", expected);
}

Test(dirent_check, names_what_is_wrong)
{
	check("ab", 2, 1, DT_REG, 12, "good");
	check("...", 3, 1, DT_REG, 13, "good");
	check("ab", 2, 1, DT_REG, 11, "directory entry of wrong length");
	check("ab", 2, 1, DT_REG, 13, "directory entry of wrong length");
	check("", 0, 1, DT_REG, 10, "directory entry of wrong length");
	check("", 0, 1, DT_REG, 0, "directory entry of wrong length");
	check("ab", 2, 0, DT_REG, 12, "directory entry without an inode");
	check("ab", 2, 1, 0, 12, "directory entry of unknown type");
	check("ab", 2, 1, 99, 12, "directory entry of unknown type");
	check("a/", 2, 1, DT_REG, 12, "name with a forbidden byte");
	check("a\0b", 3, 1, DT_REG, 13, "name with a forbidden byte");
	check(".", 1, 1, DT_DIR, 11, "\".\" or \"..\" as a directory entry");
	check("..", 2, 1, DT_DIR, 12, "\".\" or \"..\" as a directory entry");
}

static int never(void *context, const struct ash_entry *entry, const char *name, size_t length)
{
	(void)context, (void)entry, (void)name, (void)length;
	cr_assert_fail("a damaged entry was shown");
	return 1;
}

Test(dir, a_damaged_entry_is_never_shown)
{
	struct fixture fixture;
	struct ash_entry entry;

	fixture_open(&fixture, "mem:16M");
	plant(&fixture, "victim", 0, "a/b");
	cr_assert_eq(ash_dir_walk(&fixture.data, 0, never, NULL), -EUCLEAN);
	cr_assert_eq(ash_dir_find(&fixture.data, "victim", 6, &entry), -EUCLEAN);
	cr_assert_eq(ash_dir_find(&fixture.data, "other", 5, &entry), -ENOENT);
	fixture_close(&fixture);
}
