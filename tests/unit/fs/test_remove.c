/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Removal from directories whose records tell what is not so (I8). What unlink and rmdir do otherwise: test_namespace.c. */
#include <pthread.h>
#include "forge_fixture.h"

static void open_for_damage(struct names *names)
{
	names_open(names, "mem:64M", false);
	names->options.continue_on_damage = true;
	names_remount(names);
}

/* With the counts believed, all that is in it would lose its name. */
Test(remove, a_directory_with_entries_counts_none)
{
	struct names names;
	uint64_t d, f;

	open_for_damage(&names);
	d = names_directory(&names, 1, "d");
	f = names_file(&names, d, "f");
	names_directory(&names, 1, "e");
	forge_size(&names, d, 0);
	cr_expect_eq(ash_rmdir(names.volume, 1, "d", NULL), -EUCLEAN);
	cr_expect_eq(ash_rename(names.volume, 1, "e", 1, "d", 0), -EUCLEAN);
	names_remount(&names);
	cr_assert_eq(names_find(&names, 1, "d"), (int64_t)d);
	cr_assert_eq(names_find(&names, d, "f"), (int64_t)f);
	cr_assert_gt(names_find(&names, 1, "e"), 0);
	names_close(&names);
}

/* A root node without records is no content. */
Test(remove, a_directory_with_an_empty_tree_is_empty)
{
	struct names names;
	uint8_t kind = ASH_FORK_TREE;
	struct ash_node_header node = { .heap_start = ash_put16(ASH_DATA_FORK_SIZE) };
	uint64_t d;

	open_for_damage(&names);
	d = names_directory(&names, 1, "d");
	forge_field(&names, d, offsetof(struct ash_inode, data), &node, sizeof(node));
	forge_field(&names, d, offsetof(struct ash_inode, data_kind), &kind, sizeof(kind));
	names_remount(&names);
	cr_assert_eq(ash_rmdir(names.volume, 1, "d", NULL), 0);
	names_close(&names);
}

Test(remove, fewer_entries_counted_than_there_are)
{
	struct names names;
	uint64_t d, g;

	open_for_damage(&names);
	d = names_directory(&names, 1, "d");
	names_file(&names, d, "f");
	g = names_file(&names, d, "g");
	forge_size(&names, d, 1);
	cr_assert_eq(ash_unlink(names.volume, d, "f", NULL), 0);
	cr_assert_eq(ash_unlink(names.volume, d, "g", NULL), -EUCLEAN);
	cr_assert_eq(ash_rename(names.volume, d, "g", 1, "g", 0), -EUCLEAN);
	cr_assert_eq(ash_rmdir(names.volume, 1, "d", NULL), -EUCLEAN);
	names_remount(&names);
	cr_assert_eq(names_find(&names, d, "g"), (int64_t)g);
	cr_assert_eq(names_find(&names, 1, "g"), -ENOENT);
	names_close(&names);
}

/* The record of a directory that counts entries and has no tree is not accepted when it is read. */
Test(remove, more_entries_counted_than_there_are)
{
	struct names names;
	uint64_t d, f;

	open_for_damage(&names);
	d = names_directory(&names, 1, "d");
	f = names_file(&names, d, "f");
	forge_size(&names, d, 2);
	cr_assert_eq(ash_unlink(names.volume, d, "f", NULL), -EUCLEAN);
	names_remount(&names);
	cr_assert_eq(names_find(&names, d, "f"), (int64_t)f);
	names_close(&names);
}

/* One link, or none, would make a directory that nobody can enter. */
Test(remove, fewer_links_counted_than_subdirectories)
{
	struct names names;
	uint64_t d, f;

	open_for_damage(&names);
	d = names_directory(&names, 1, "d");
	f = names_file(&names, d, "f");
	names_directory(&names, d, "a");
	names_directory(&names, d, "b");
	names_directory(&names, d, "c");
	forge_nlink(&names, d, 3);
	cr_assert_eq(ash_rmdir(names.volume, d, "a", NULL), 0);
	cr_expect_eq(ash_rmdir(names.volume, d, "b", NULL), -EUCLEAN);
	cr_expect_eq(ash_rename(names.volume, d, "b", 1, "b", 0), -EUCLEAN);
	cr_expect_eq(ash_rename(names.volume, d, "b", d, "c", 0), -EUCLEAN);
	names_remount(&names);
	cr_assert_eq(names_find(&names, d, "f"), (int64_t)f);
	cr_assert_gt(names_find(&names, d, "b"), 0);
	cr_assert_gt(names_find(&names, d, "c"), 0);
	cr_assert_eq(names_find(&names, 1, "b"), -ENOENT);
	names_close(&names);
}

/* The exchange takes a subdirectory away, too. */
Test(remove, an_exchange_with_fewer_links_counted)
{
	struct names names;
	uint64_t d, f;

	open_for_damage(&names);
	d = names_directory(&names, 1, "d");
	names_directory(&names, d, "a");
	f = names_file(&names, 1, "f");
	forge_nlink(&names, d, 2);
	cr_assert_eq(ash_rename(names.volume, d, "a", 1, "f", 2), -EUCLEAN);
	names_remount(&names);
	cr_assert_eq(names_find(&names, 1, "f"), (int64_t)f);
	cr_assert_gt(names_find(&names, d, "a"), 0);
	names_close(&names);
}

/* ---- Cycles: root -> "a" = A -> "b" = B -> "a" = A ---- */

struct cycle {
	struct names names;
	uint64_t a, b;
};

static void open_cycle(struct cycle *cycle)
{
	struct names *names = &cycle->names;

	open_for_damage(names);
	cycle->a = names_directory(names, 1, "a");
	cycle->b = names_directory(names, cycle->a, "b");
	forge_directory_name(names, cycle->b, "a", cycle->a);
}

/* Who works in A holds its lock, and may wait for B's. So who works in B must not wait for A's. */
static void *work_in_b(void *context)
{
	struct cycle *cycle = context;
	struct ash_volume *volume = cycle->names.volume;

	cr_expect_eq(ash_rmdir(volume, cycle->b, "a", NULL), -EUCLEAN);
	cr_expect_eq(ash_unlink(volume, cycle->b, "a", NULL), -EUCLEAN);
	cr_expect_eq(ash_rename(volume, cycle->b, "a", cycle->b, "c", 0), -EUCLEAN);
	return NULL;
}

static void work_beside_a(struct cycle *cycle)
{
	struct ash_held held;
	pthread_t thread;

	cr_assert_eq(ash_hold(cycle->names.volume, cycle->a, true, &held), 0);
	cr_assert_eq(pthread_create(&thread, NULL, work_in_b, cycle), 0);
	pthread_join(thread, NULL);
	ash_release(cycle->names.volume, &held);
	ash_abandon(cycle->names.volume);
	bdev_close(cycle->names.dev);
}

Test(remove, a_directory_with_another_parent_is_not_waited_for, .timeout = 20)
{
	struct cycle cycle;

	open_cycle(&cycle);
	work_beside_a(&cycle);
}

Test(remove, a_directory_that_tells_of_no_parent_is_not_waited_for, .timeout = 20)
{
	struct cycle cycle;
	ash_le64 none = ash_put64(0);

	open_cycle(&cycle);
	forge_field(&cycle.names, cycle.a, offsetof(struct ash_inode, parent), &none, sizeof(none));
	forge_field(&cycle.names, cycle.b, offsetof(struct ash_inode, parent), &none, sizeof(none));
	work_beside_a(&cycle);
}

/* The forger did not forget A's parent. */
Test(remove, a_parent_within_its_child_is_not_waited_for, .timeout = 20)
{
	struct cycle cycle;
	ash_le64 parent;

	open_cycle(&cycle);
	parent = ash_put64(cycle.b);
	forge_field(&cycle.names, cycle.a, offsetof(struct ash_inode, parent), &parent, sizeof(parent));
	work_beside_a(&cycle);
}

Test(remove, a_directory_within_itself_is_not_waited_for, .timeout = 20)
{
	struct names names;
	ash_le64 parent;
	uint64_t a;

	open_for_damage(&names);
	a = names_directory(&names, 1, "a");
	forge_directory_name(&names, a, "a", a);
	parent = ash_put64(a);
	forge_field(&names, a, offsetof(struct ash_inode, parent), &parent, sizeof(parent));
	forge_directory_name(&names, 1, "root", 1);
	cr_expect_eq(ash_rmdir(names.volume, a, "a", NULL), -EUCLEAN);
	cr_expect_eq(ash_rename(names.volume, a, "a", a, "c", 0), -EUCLEAN);
	cr_expect_eq(ash_rmdir(names.volume, 1, "root", NULL), -EUCLEAN);
	ash_abandon(names.volume);
	bdev_close(names.dev);
}
