/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading directories: completeness, stable positions under changes, attributes and their counts. */
#include <pthread.h>
#include "forge_fixture.h"

#define FILES 3000

struct seen {
	uint8_t times[FILES];
	unsigned entries, dots, limit;
	uint64_t last;
	unsigned without_attributes;
};

static int note(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		const struct ash_attr *attr)
{
	struct seen *seen = context;

	(void)type;
	if (seen->limit && seen->entries == seen->limit)
		return 1;
	seen->entries++;
	seen->last = next;
	if (name[0] == '.') {
		cr_assert_eq(length, strlen(name));
		seen->dots++;
		return 0;
	}
	if (!attr)
		seen->without_attributes++;
	else
		cr_assert_eq(attr->ino, ino);
	if (name[0] == 'f')
		seen->times[atoi(name + 1)]++;
	return 0;
}

static void make_files(struct names *names, uint64_t d, char first, int count)
{
	for (int i = 0; i < count; i++) {
		char name[16];

		snprintf(name, sizeof(name), "%c%d", first, i);
		names_file(names, d, name);
	}
}

Test(readdir, every_entry_once)
{
	static struct seen seen;
	struct names names;
	uint64_t d;

	names_open(&names, "mem:64M", false);
	d = names_directory(&names, 1, "d");
	make_files(&names, d, 'f', FILES);
	cr_assert_eq(ash_readdir(names.volume, d, 0, false, note, &seen), 0);
	cr_assert_eq(seen.entries, FILES + 2u);
	cr_assert_eq(seen.dots, 2u);
	for (int i = 0; i < FILES; i++)
		cr_assert_eq(seen.times[i], 1u, "f%d", i);
	names_close(&names);
}

/* Read in pieces of seven while names come and go: what stays is seen exactly once. */
Test(readdir, positions_are_stable_under_changes)
{
	static struct seen seen;
	struct names names;
	unsigned before, round = 0;
	uint64_t d, position = 0;

	names_open(&names, "mem:64M", false);
	d = names_directory(&names, 1, "d");
	make_files(&names, d, 'f', FILES);
	make_files(&names, d, 'x', 500);
	do {
		char name[16];

		before = seen.entries;
		seen.limit = before + 7;
		cr_assert_eq(ash_readdir(names.volume, d, position, false, note, &seen), 0);
		position = seen.last;
		snprintf(name, sizeof(name), "x%u", round % 500);
		ash_unlink(names.volume, d, name, NULL);
		snprintf(name, sizeof(name), "y%u", round++);
		names_file(&names, d, name);
	} while (seen.entries > before);
	for (int i = 0; i < FILES; i++)
		cr_assert_eq(seen.times[i], 1u, "f%d", i);
	cr_assert_eq(seen.dots, 2u);
	names_close(&names);
}

Test(readdir, attributes_come_with_a_lookup_count)
{
	static struct seen seen;
	struct ash_attr attr;
	struct names names;
	uint64_t d;
	int64_t ino;

	names_open(&names, "mem:64M", false);
	d = names_directory(&names, 1, "d");
	make_files(&names, d, 'f', 20);
	cr_assert_eq(ash_readdir(names.volume, d, 0, true, note, &seen), 0);
	cr_assert_eq(seen.without_attributes, 0u);
	ino = names_find(&names, d, "f3");
	cr_assert_eq(ash_unlink(names.volume, d, "f3", NULL), 0);
	cr_assert_eq(ash_getattr(names.volume, (uint64_t)ino, &attr), 0, "the count keeps it");
	ash_forget(names.volume, (uint64_t)ino, 1);
	cr_assert_eq(ash_getattr(names.volume, (uint64_t)ino, &attr), -ESTALE);
	/* an entry that was not consumed leaves no count */
	memset(&seen, 0, sizeof(seen));
	seen.limit = 2;
	cr_assert_eq(ash_readdir(names.volume, d, 0, true, note, &seen), 0);
	cr_assert_eq(seen.entries, 2u);
	for (int i = 0; i < 20; i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%d", i);
		if (i != 3) /* names_find() gives its own count back */
			cr_expect_eq(ash_lookup_count(names.volume, (uint64_t)names_find(&names, d, name)), 1u, "%s",
				     name);
	}
	names_close(&names);
}

Test(readdir, not_a_directory_and_atime)
{
	static struct seen seen;
	struct ash_attr before, after;
	struct names names;
	uint64_t d;

	names_open(&names, "mem:64M", false);
	d = names_directory(&names, 1, "d");
	cr_assert_eq(ash_readdir(names.volume, names_file(&names, d, "f1"), 0, false, note, &seen), -ENOTDIR);
	before = names_attr(&names, d);
	names_tick();
	cr_assert_eq(ash_readdir_flags(names.volume, d, 0, false, ASH_READ_NO_ATIME, note, &seen), 0);
	after = names_attr(&names, d);
	cr_assert(after.atime.tv_sec == before.atime.tv_sec && after.atime.tv_nsec == before.atime.tv_nsec);
	cr_assert_eq(ash_readdir(names.volume, d, 0, false, note, &seen), 0);
	after = names_attr(&names, d);
	cr_assert(after.atime.tv_sec > before.mtime.tv_sec ||
			  (after.atime.tv_sec == before.mtime.tv_sec && after.atime.tv_nsec > before.mtime.tv_nsec),
		  "relatime: it had changed");
	cr_assert_eq(ash_readdir(names.volume, d, 0, false, note, &seen), 0);
	cr_assert_eq(names_attr(&names, d).atime.tv_nsec, after.atime.tv_nsec, "relatime: not again");
	names.options.atime = ASH_ATIME_STRICT;
	names.options.no_directory_atime = true;
	names_remount(&names);
	cr_assert_eq(ash_readdir(names.volume, d, 0, false, note, &seen), 0);
	cr_assert_eq(names_attr(&names, d).atime.tv_nsec, after.atime.tv_nsec);
	ash_set_atime(names.volume, ASH_ATIME_STRICT, false);
	names_tick();
	cr_assert_eq(ash_readdir(names.volume, d, 0, false, note, &seen), 0);
	cr_assert_neq(names_attr(&names, d).atime.tv_nsec, after.atime.tv_nsec, "changed while open");
	after = names_attr(&names, d);
	names.options.no_directory_atime = false;
	names.options.atime = ASH_ATIME_NONE;
	names_remount(&names);
	names_file(&names, d, "g");
	cr_assert_eq(ash_readdir(names.volume, d, 0, false, note, &seen), 0);
	cr_assert_eq(names_attr(&names, d).atime.tv_nsec, after.atime.tv_nsec);
	names_close(&names);
}

struct reading {
	struct names names;
	uint64_t directory;
	struct seen seen;
};

static void *read_directory(void *context)
{
	struct reading *reading = context;

	cr_expect_eq(ash_readdir(reading->names.volume, reading->directory, 0, true, note, &reading->seen), 0);
	return NULL;
}

/* Who holds A's lock may wait for B's, so who reads B must not wait for A's: with each in the other that never ends. */
Test(readdir, a_cycle_of_directories, .timeout = 20)
{
	static struct reading reading;
	struct names *names = &reading.names;
	struct ash_held held;
	pthread_t thread;
	uint64_t a, b;

	names_open(names, "mem:64M", false);
	a = names_directory(names, 1, "a");
	b = names_directory(names, a, "b");
	forge_directory_name(names, b, "a", a);
	reading.directory = b;
	read_directory(&reading);
	cr_assert_eq(reading.seen.without_attributes, 0u);
	cr_assert_eq(ash_lookup_count(names->volume, a), 1u);
	memset(&reading.seen, 0, sizeof(reading.seen));
	cr_assert_eq(ash_hold(names->volume, a, true, &held), 0);
	cr_assert_eq(pthread_create(&thread, NULL, read_directory, &reading), 0);
	pthread_join(thread, NULL);
	cr_assert_eq(reading.seen.entries, 3u);
	cr_assert_eq(reading.seen.without_attributes, 1u);
	cr_expect_eq(ash_lookup_count(names->volume, a), 1u, "what has no attributes has no count");
	ash_release(names->volume, &held);
	ash_abandon(names->volume);
	bdev_close(names->dev);
}
