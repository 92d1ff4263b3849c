/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names: lookup, create, link, readlink, and what a remount and a crash leave of them (I5, I7, I9). */
#include <pthread.h>
#include <semaphore.h>
#include "fs/names.h"
#include "names_fixture.h"

Test(namespace, create_then_lookup_gives_the_same_inode)
{
	struct ash_create create = { .mode = S_IFREG | 04755, .uid = 7, .gid = 8 };
	struct ash_attr made, found;
	struct names names;

	names_open(&names, "mem:64M", false);
	cr_assert_eq(ash_create(names.volume, 1, "a", &create, &made), 0);
	cr_assert_eq(ash_lookup(names.volume, 1, "a", &found), 0);
	cr_assert_eq(found.ino, made.ino);
	cr_assert_eq(found.generation, made.generation);
	cr_assert_eq(found.ctime.tv_nsec, made.ctime.tv_nsec);
	cr_assert_eq(found.btime.tv_sec, made.btime.tv_sec);
	cr_assert_eq(found.mode, (uint32_t)(S_IFREG | 04755));
	cr_assert_eq(found.uid, 7u);
	cr_assert_eq(found.gid, 8u);
	cr_assert_eq(found.nlink, 1u);
	cr_assert_neq(found.generation, 0u);
	cr_assert_eq(ash_create(names.volume, 1, "a", &create, &made), -EEXIST);
	ash_forget(names.volume, found.ino, 2);
	names_close(&names);
}

Test(namespace, umask_applies_without_a_default_acl)
{
	struct ash_create create = { .mode = S_IFREG | 0666, .umask = 027 };
	struct ash_attr attr;
	struct names names;

	names_open(&names, "mem:64M", false);
	cr_assert_eq(ash_create(names.volume, 1, "a", &create, &attr), 0);
	cr_assert_eq(attr.mode, (uint32_t)(S_IFREG | 0640));
	names_close(&names);
}

Test(namespace, sgid_directory_hands_down_group_and_bit)
{
	struct ash_create directory = { .mode = S_IFDIR | S_ISGID | 0775, .gid = 50 },
			  child = { .mode = S_IFDIR | 0755, .gid = 9 };
	struct ash_attr parent, attr;
	struct names names;

	names_open(&names, "mem:64M", false);
	cr_assert_eq(ash_create(names.volume, 1, "d", &directory, &parent), 0);
	cr_assert_eq(ash_create(names.volume, parent.ino, "sub", &child, &attr), 0);
	cr_assert_eq(attr.gid, 50u);
	cr_assert(attr.mode & S_ISGID);
	child.mode = S_IFREG | 0644;
	cr_assert_eq(ash_create(names.volume, parent.ino, "file", &child, &attr), 0);
	cr_assert_eq(attr.gid, 50u);
	cr_assert_not(attr.mode & S_ISGID);
	names_close(&names);
}

Test(namespace, bad_names_are_refused)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;
	char name[300];
	struct names names;

	names_open(&names, "mem:64M", false);
	memset(name, 'x', sizeof(name));
	name[256] = '\0';
	cr_assert_eq(ash_create(names.volume, 1, name, &create, &attr), -ENAMETOOLONG);
	cr_assert_eq(ash_lookup(names.volume, 1, name, &attr), -ENAMETOOLONG);
	name[255] = '\0';
	cr_assert_eq(ash_create(names.volume, 1, name, &create, &attr), 0);
	cr_assert_eq(ash_create(names.volume, 1, "a/b", &create, &attr), -EINVAL);
	cr_assert_eq(ash_create(names.volume, 1, "..", &create, &attr), -EEXIST);
	cr_assert_eq(ash_create(names.volume, 1, "", &create, &attr), -ENOENT);
	cr_assert_eq(names_find(&names, 1, name) > 0, 1);
	names_close(&names);
}

Test(namespace, directory_counts_links_and_knows_its_parent)
{
	struct names names;
	uint64_t d, e, parent;

	names_open(&names, "mem:64M", false);
	d = names_directory(&names, 1, "d");
	e = names_directory(&names, d, "e");
	names_file(&names, d, "f");
	cr_assert_eq(names_attr(&names, d).nlink, 3u);
	cr_assert_eq(names_attr(&names, 1).nlink, 3u);
	cr_assert_eq(names_attr(&names, e).nlink, 2u);
	cr_assert_eq(names_find(&names, e, ".."), (int64_t)d);
	cr_assert_eq(names_find(&names, e, "."), (int64_t)e);
	cr_assert_eq(names_find(&names, 1, ".."), 1);
	cr_assert_eq(ash_parent(names.volume, e, &parent), 0);
	cr_assert_eq(parent, d);
	names_remount(&names);
	cr_assert_eq(names_find(&names, e, ".."), (int64_t)d);
	names_close(&names);
}

Test(namespace, free_reserved_and_hidden_numbers_are_stale)
{
	struct ash_attr attr;
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	cr_assert_eq(ash_getattr(names.volume, 0, &attr), -ESTALE);
	cr_assert_eq(ash_getattr(names.volume, 5, &attr), -ESTALE);
	cr_assert_eq(ash_getattr(names.volume, 200, &attr), -ESTALE, "a block that was never formatted");
	cr_assert_eq(ash_getattr(names.volume, 1ull << 40, &attr), -ESTALE);
	cr_assert_eq(ash_lookup(names.volume, 77, ".", &attr), -ESTALE);
	cr_assert_eq(names_find(&names, 1, "none"), -ENOENT);
	f = names_file(&names, 1, "f");
	cr_assert_eq(names_find(&names, f, "x"), -ENOTDIR);
	cr_assert_eq(names_find(&names, f, "."), (int64_t)f, "a file handle of a file");
	cr_assert_eq(ash_lookup(names.volume, 1, "f", &attr), 0, "held");
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	cr_assert_eq(ash_getattr(names.volume, f, &attr), 0);
	cr_assert_eq(ash_lookup(names.volume, f, ".", &attr), -ESTALE, "a file handle of what has no name any more");
	ash_forget(names.volume, f, 1);
	names_close(&names);
}

static bool readlink_moves_atime(struct names *names, uint64_t link)
{
	struct timespec before = names_attr(names, link).atime, after;
	char target[8];

	names_tick();
	cr_assert_eq(ash_readlink(names->volume, link, target, sizeof(target)), 6);
	after = names_attr(names, link).atime;
	return before.tv_sec != after.tv_sec || before.tv_nsec != after.tv_nsec;
}

Test(namespace, reading_a_link_moves_its_access_time)
{
	struct ash_create create = { .mode = S_IFLNK | 0777, .target = "target" };
	struct ash_attr made;
	struct names names;

	names_open(&names, "mem:64M", false);
	cr_assert_eq(ash_create(names.volume, 1, "l", &create, &made), 0);
	cr_expect(readlink_moves_atime(&names, made.ino), "relatime: new since it was last read");
	cr_expect_not(readlink_moves_atime(&names, made.ino), "relatime: not again");
	ash_set_atime(names.volume, ASH_ATIME_STRICT, true);
	cr_expect(readlink_moves_atime(&names, made.ino), "a link is no folder");
	ash_set_atime(names.volume, ASH_ATIME_NONE, false);
	cr_expect_not(readlink_moves_atime(&names, made.ino));
	ash_forget(names.volume, made.ino, 1);
	names_close(&names);
}

Test(namespace, symlinks_of_every_length)
{
	static const size_t lengths[] = { 1, 255, 256, 257, 4095 };
	char target[4200], back[4200];
	struct ash_create create = { .mode = S_IFLNK | 0777, .target = target };
	struct ash_attr attr;
	struct names names;
	uint64_t free_blocks;

	names_open(&names, "mem:64M", false);
	free_blocks = names_free_blocks(&names);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		char name[8] = { (char)('a' + i) };
		int64_t ino;

		memset(target, 'a' + (int)i, lengths[i]);
		target[lengths[i]] = '\0';
		cr_assert_eq(ash_create(names.volume, 1, name, &create, &attr), 0);
		cr_assert_eq(attr.size, lengths[i]);
		ash_forget(names.volume, attr.ino, 1);
		names_remount(&names);
		ino = names_find(&names, 1, name);
		cr_assert_gt(ino, 0);
		cr_assert_eq(ash_readlink(names.volume, (uint64_t)ino, back, sizeof(back)), (int)lengths[i]);
		cr_assert_eq(memcmp(back, target, lengths[i]), 0);
		cr_assert_eq(ash_readlink(names.volume, (uint64_t)ino, back, 1), (int)lengths[i]);
	}
	target[4095] = 'x';
	target[4096] = '\0';
	cr_assert_eq(ash_create(names.volume, 1, "long", &create, &attr), -ENAMETOOLONG);
	cr_assert_eq(ash_readlink(names.volume, 1, back, sizeof(back)), -EINVAL);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		char name[8] = { (char)('a' + i) };

		cr_assert_eq(ash_unlink(names.volume, 1, name, NULL), 0);
	}
	cr_assert_eq(names_free_blocks(&names), free_blocks);
	names_close(&names);
}

Test(namespace, special_files_keep_their_device_number)
{
	struct ash_create create = { .mode = S_IFCHR | 0600, .rdev = 0x1234567890ull };
	struct ash_attr attr;
	struct names names;

	names_open(&names, "mem:64M", false);
	cr_assert_eq(ash_create(names.volume, 1, "null", &create, &attr), 0);
	cr_assert_eq(attr.rdev, 0x1234567890ull);
	create.mode = S_IFIFO | 0600;
	cr_assert_eq(ash_create(names.volume, 1, "fifo", &create, &attr), 0);
	cr_assert_eq(attr.rdev, 0u);
	create.mode = 0644;
	cr_assert_eq(ash_create(names.volume, 1, "typeless", &create, &attr), -EINVAL);
	names_close(&names);
}

Test(namespace, hard_links_count_and_share)
{
	struct ash_attr attr;
	struct names names;
	uint64_t f, d, removed = 0;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	d = names_directory(&names, 1, "d");
	cr_assert_eq(ash_link(names.volume, f, d, "g", &attr), 0);
	cr_assert_eq(attr.nlink, 2u);
	ash_forget(names.volume, f, 1);
	cr_assert_eq(ash_link(names.volume, f, d, "g", &attr), -EEXIST);
	cr_assert_eq(ash_link(names.volume, d, 1, "x", &attr), -EPERM);
	cr_assert_eq(ash_link(names.volume, d, d, "x", &attr), -EPERM);
	cr_assert_eq(ash_link(names.volume, 99, d, "x", &attr), -ESTALE);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", &removed), 0);
	cr_assert_eq(removed, f);
	cr_assert_eq(names_attr(&names, f).nlink, 1u);
	cr_assert_eq(names_find(&names, d, "g"), (int64_t)f);
	names_close(&names);
}

/* A thread that links directory `source` into `parent` tells when it has to wait. */
struct linking {
	struct names names;
	sem_t waits;
	uint64_t source, parent;
};

static void tell_wait(void *context)
{
	struct linking *linking = context;

	sem_post(&linking->waits);
}

static void *link_directory(void *context)
{
	struct linking *linking = context;
	struct ash_attr attr;

	cr_expect_eq(ash_link(linking->names.volume, linking->source, linking->parent, "x", &attr), -EPERM);
	return NULL;
}

/* A directory's lock is not waited for with that of one below it held: who goes down the tree would wait for ever. */
Test(namespace, a_directory_is_refused_before_the_parent_is_locked, .timeout = 30)
{
	struct linking linking = { 0 };
	struct names *names = &linking.names;
	struct ash_icore *below;
	struct ash_held above;
	pthread_t thread;
	int busy;

	names_open(names, "mem:64M", false);
	linking.source = names_directory(names, 1, "d");
	linking.parent = names_directory(names, linking.source, "e");
	names->options.context = &linking;
	names->options.wait_begin = tell_wait;
	names_remount(names);
	cr_assert_eq(ash_icore_get(names->volume, linking.parent, &below), 0);
	cr_assert_eq(ash_hold(names->volume, linking.source, true, &above), 0);
	sem_init(&linking.waits, 0, 0); /* what came before was for the device */
	cr_assert_eq(pthread_create(&thread, NULL, link_directory, &linking), 0);
	sem_wait(&linking.waits);
	busy = pthread_rwlock_trywrlock(&below->lock);
	cr_expect_eq(busy, 0);
	if (!busy)
		ash_icore_unlock(below);
	ash_release(names->volume, &above);
	pthread_join(thread, NULL);
	ash_icore_put(names->volume, below);
	names_close(names);
}

Test(namespace, tmpfile_can_be_linked_once_and_vanishes_otherwise)
{
	struct ash_create create = { .mode = S_IFREG | 0600 };
	struct ash_attr attr, linked;
	struct names names;
	uint64_t used, gone;

	names_open(&names, "mem:64M", false);
	used = names_used_inodes(&names);
	cr_assert_eq(ash_tmpfile(names.volume, 1, &create, &attr), 0);
	cr_assert_eq(attr.nlink, 0u);
	cr_assert_eq(names_attr(&names, attr.ino).nlink, 0u);
	cr_assert_eq(ash_link(names.volume, attr.ino, 1, "kept", &linked), 0);
	cr_assert_eq(linked.nlink, 1u);
	ash_forget(names.volume, attr.ino, 2);
	cr_assert_eq(ash_tmpfile(names.volume, 1, &create, &attr), 0);
	gone = attr.ino;
	ash_forget(names.volume, gone, 1);
	cr_assert_eq(ash_getattr(names.volume, gone, &attr), -ESTALE);
	cr_assert_eq(names_used_inodes(&names), used + 1);
	names_remount(&names);
	cr_assert_gt(names_find(&names, 1, "kept"), 0);
	cr_assert_eq(names_used_inodes(&names), used + 1);
	names_close(&names);
}

Test(namespace, an_unlinked_file_cannot_be_linked_again)
{
	struct ash_create create = { .mode = S_IFREG | 0600 };
	struct ash_attr attr, linked;
	struct names names;

	names_open(&names, "mem:64M", false);
	cr_assert_eq(ash_create(names.volume, 1, "f", &create, &attr), 0);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), 0);
	cr_assert_eq(ash_link(names.volume, attr.ino, 1, "g", &linked), -ENOENT);
	ash_forget(names.volume, attr.ino, 1);
	names_close(&names);
}

Test(namespace, removed_directory_takes_no_names)
{
	struct ash_create create = { .mode = S_IFDIR | 0755 };
	struct ash_attr attr, other;
	struct names names;

	names_open(&names, "mem:64M", false);
	cr_assert_eq(ash_create(names.volume, 1, "d", &create, &attr), 0);
	cr_assert_eq(ash_rmdir(names.volume, 1, "d", NULL), 0);
	cr_assert_eq(ash_create(names.volume, attr.ino, "x", &create, &other), -ENOENT);
	cr_assert_eq(ash_lookup(names.volume, attr.ino, "x", &other), -ENOENT);
	cr_assert_eq(ash_lookup(names.volume, attr.ino, "..", &other), -ENOENT);
	ash_forget(names.volume, attr.ino, 1);
	cr_assert_eq(ash_getattr(names.volume, attr.ino, &other), -ESTALE);
	names_close(&names);
}

Test(namespace, synced_names_survive_a_crash)
{
	struct names names;
	uint64_t d;

	names_open(&names, "mem:64M", false);
	d = names_directory(&names, 1, "d");
	for (int i = 0; i < 600; i++) {
		char name[32];

		snprintf(name, sizeof(name), "file-%d", i);
		names_file(&names, d, name);
	}
	cr_assert_eq(ash_fsync(names.volume, d, false), 0);
	names_file(&names, d, "not synced");
	names_crash(&names);
	for (int i = 0; i < 600; i++) {
		char name[32];

		snprintf(name, sizeof(name), "file-%d", i);
		cr_assert_gt(names_find(&names, d, name), 0, "%s", name);
	}
	cr_assert_eq(names_find(&names, d, "not synced"), -ENOENT);
	cr_assert_eq(names_used_inodes(&names), 8u + 601);
	names_close(&names);
}

/* I9: as often as space runs out, nothing but the names that were reported made is there. */
Test(namespace, out_of_space_leaves_no_trace)
{
	struct names names;
	uint64_t free_blocks, free_now, used;
	struct ash_volume_info info;
	char name[256];
	int made = 0;
	int64_t ino;

	names_open(&names, "mem:8M", false);
	free_blocks = names_free_blocks(&names);
	memset(name, 'n', sizeof(name));
	for (;; made++) {
		snprintf(name + 200, sizeof(name) - 200, "%d", made);
		ino = names_make(&names, 1, name, S_IFREG | 0644);
		if (ino < 0)
			break;
	}
	cr_assert_eq(ino, -ENOSPC);
	cr_assert_gt(made, 1000);
	used = names_used_inodes(&names);
	cr_assert_eq(used, 8u + (uint64_t)made);
	cr_assert_eq(names_attr(&names, 1).size / 32, (uint64_t)made);
	names_remount(&names);
	cr_assert_eq(names_used_inodes(&names), used);
	for (int i = 0; i < made; i++) {
		snprintf(name + 200, sizeof(name) - 200, "%d", i);
		cr_assert_eq(ash_unlink(names.volume, 1, name, NULL), 0, "unlink %d on a full volume", i);
	}
	cr_assert_eq(names_used_inodes(&names), 8u);
	ash_volume_info(names.volume, &info);
	free_now = names_free_blocks(&names);
	cr_assert_leq(free_now + (info.inode_runs - 1) * 33, free_blocks);
	/* the table's tree may have grown a node or two */
	cr_assert_geq(free_now + (info.inode_runs - 1) * 33 + 2, free_blocks,
		      "all but the table's runs came back: %d of %d, %d runs", (int)free_now, (int)free_blocks,
		      (int)info.inode_runs);
	names_close(&names);
}

Test(namespace, read_only_volume_refuses_changes)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;
	struct names names;
	uint64_t f;

	names_open(&names, "mem:64M", false);
	f = names_file(&names, 1, "f");
	names.options.read_only = true;
	names_remount(&names);
	cr_assert_eq(ash_create(names.volume, 1, "a", &create, &attr), -EROFS);
	cr_assert_eq(ash_unlink(names.volume, 1, "f", NULL), -EROFS);
	cr_assert_eq(ash_link(names.volume, f, 1, "g", &attr), -EROFS);
	cr_assert_eq(ash_rename(names.volume, 1, "f", 1, "g", 0), -EROFS);
	cr_assert_eq(names_find(&names, 1, "f"), (int64_t)f);
	names_close(&names);
}
