/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What may be found after a crash, see aging.h. Locks: none; nobody else works. */
#include "aging.h"
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <dirent.h>

#define PIECE (256u << 10)

void aging_violation(struct journal *journal, const char *format, ...)
{
	char text[1000];
	va_list list;

	if (__atomic_add_fetch(&journal->violations, 1, __ATOMIC_RELAXED) > 20)
		return;
	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	printf("# violation: %s\n", text);
	fflush(stdout);
}

struct journal *aging_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct journal *journal;

	if (fd < 0 || ftruncate(fd, sizeof(*journal)))
		return NULL;
	journal = mmap(NULL, sizeof(*journal), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return journal == MAP_FAILED ? NULL : journal;
}

void aging_apply(uint32_t *names, const struct name_operation *operation)
{
	switch (operation->kind) {
	case NAME_CREATE:
		names[operation->name] = operation->file + 1;
		break;
	case NAME_REMOVE:
		names[operation->name] = 0;
		break;
	default:
		names[operation->name] = 0;
		names[operation->other] = operation->file + 1;
	}
}

void aging_advance(struct lane *lane, uint32_t floor)
{
	uint32_t count = lane->begun - lane->floor, done = floor - lane->floor;
	static _Thread_local uint8_t used[LANE_FILES];

	for (uint32_t i = 0; i < done; i++)
		aging_apply(lane->base, &lane->operations[i]);
	memmove(lane->operations, lane->operations + done, (count - done) * sizeof(*lane->operations));
	lane->floor = floor;
	/* Records of files that no durable name and no later operation knows any more are free. */
	memset(used, 0, sizeof(used));
	for (uint32_t i = 0; i < LANE_NAMES; i++) {
		if (lane->base[i])
			used[lane->base[i] - 1] = 1;
		if (lane->names[i])
			used[lane->names[i] - 1] = 1;
	}
	for (uint32_t i = 0; i < count - done; i++)
		used[lane->operations[i].file] = 1;
	for (uint32_t i = 0; i < LANE_FILES; i++)
		if (!used[i])
			lane->files[i].owner = 0;
}

/* ---- Content ---- */

/* Generation that the first `count` changes leave at `offset`; 0: zero. */
UNIT_LOOP static uint32_t expected(const struct aging_file *file, uint32_t count, uint32_t offset)
{
	for (uint32_t i = count; i-- > 0;) {
		const struct change *change = &file->changes[i];

		if (change->kind == CHANGE_WRITE && offset >= change->from && offset < change->to)
			return change->generation;
		/* Shortened to `to`: nothing before is left behind it. */
		if (change->kind == CHANGE_SIZE && change->to < change->from && offset >= change->to)
			return 0;
	}
	return 0;
}

/* May the unit at `offset` be of this generation (0: zero), when changes from `synced` on may or may not be there? */
static bool permitted(const struct aging_file *file, uint32_t offset, uint32_t generation)
{
	if (generation == expected(file, file->synced, offset))
		return true;
	if (!generation && offset >= file->synced_size)
		return true;
	for (uint32_t i = file->synced; i < file->count; i++) {
		const struct change *change = &file->changes[i];

		if (change->kind == CHANGE_WRITE ?
			    change->generation == generation && offset >= change->from && offset < change->to :
			    !generation && change->to < change->from && offset >= change->to)
			return true;
	}
	return false;
}

static bool size_permitted(const struct aging_file *file, uint64_t size)
{
	uint32_t now = file->synced_size, least = now, most = now;

	for (uint32_t i = file->synced; i < file->count; i++) {
		const struct change *change = &file->changes[i];

		if (change->kind == CHANGE_SIZE || change->to > now)
			now = change->to;
		least = now < least ? now : least;
		most = now > most ? now : most;
	}
	return size >= least && size <= most;
}

static bool check_units(struct journal *journal, const struct aging_file *file, const struct unit *units, uint32_t from,
			size_t count, const char *path, bool crashed)
{
	for (size_t i = 0; i < count; i++) {
		uint32_t offset = from + (uint32_t)i * UNIT, generation = units[i].generation;

		if (!unit_zero(&units[i]) && !unit_right(&units[i], offset, file->owner)) {
			aging_violation(journal, "%s at %u: foreign {%#x %u %u %#x}, owner %#x", path, offset,
					units[i].owner, generation, units[i].place, units[i].check, file->owner);
			return false;
		}
		if (crashed ? !permitted(file, offset, generation) :
			      generation != expected(file, file->count, offset)) {
			aging_violation(journal, "%s at %u: change %u, not %u (%u changes, %u of them synced, size %u)",
					path, offset, generation, expected(file, file->synced, offset), file->count,
					file->synced, file->size);
			for (uint32_t c = 0; c < file->count; c++)
				printf("#   %u: %s %u to %u\n", file->changes[c].generation,
				       file->changes[c].kind == CHANGE_SIZE ? "size" : "write", file->changes[c].from,
				       file->changes[c].to);
			return false;
		}
	}
	return true;
}

bool aging_check_content(struct journal *journal, const struct aging_file *file, int fd, const char *path, bool crashed)
{
	struct unit *units = malloc(PIECE);
	struct stat st;
	bool good = true;

	if (!units)
		abort();
	if (fstat(fd, &st)) {
		free(units);
		return false;
	}
	if (crashed ? !size_permitted(file, (uint64_t)st.st_size) : st.st_size != file->size) {
		aging_violation(journal, "%s: %lld bytes; synced %u, last %u (%u changes, %u of them synced)", path,
				(long long)st.st_size, file->synced_size, file->size, file->count, file->synced);
		good = false;
	}
	for (uint32_t at = 0; good && at < st.st_size;) {
		ssize_t got = pread(fd, units, PIECE, at);

		if (got <= 0) {
			if (crashed || !got)
				aging_violation(journal, "read of %s at %u: %s", path, at,
						got ? strerror(errno) : "end");
			good = false;
			break;
		}
		/* A size within a unit cannot come about, but the read may have met the end of a piece. */
		good = check_units(journal, file, units, at, (size_t)got / UNIT, path, crashed);
		at += (uint32_t)got;
	}
	__atomic_add_fetch(&journal->checked_files, 1, __ATOMIC_RELAXED);
	__atomic_add_fetch(&journal->checked_bytes, (uint64_t)st.st_size, __ATOMIC_RELAXED);
	free(units);
	return good;
}

/* ---- Names ---- */

/* File numbers behind the names as they are. */
static void read_names(struct journal *journal, const char *folder, uint32_t *owners)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	struct stat st;
	unsigned name;

	memset(owners, 0, LANE_NAMES * sizeof(*owners));
	if (!dir) {
		aging_violation(journal, "%s: %s", folder, strerror(errno));
		return;
	}
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		if (sscanf(entry->d_name, "n%u", &name) != 1 || name >= LANE_NAMES ||
		    fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW))
			aging_violation(journal, "%s/%s is there, or is not", folder, entry->d_name);
		else
			owners[name] = st.st_uid;
	}
	closedir(dir);
}

static uint32_t owner_of(const struct lane *lane, uint32_t entry)
{
	return entry ? lane->files[entry - 1].owner : 0;
}

static uint32_t count_differences(const struct lane *lane, const uint32_t *names, const uint32_t *owners)
{
	uint32_t differences = 0;

	for (uint32_t i = 0; i < LANE_NAMES; i++)
		differences += owner_of(lane, names[i]) != owners[i];
	return differences;
}

/* The prefix that was found: number of operations behind the floor; -1: none. */
static int64_t find_prefix(struct journal *journal, struct lane *lane, const uint32_t *owners, const char *folder)
{
	static uint32_t names[LANE_NAMES];
	uint32_t count = lane->begun - lane->floor, different, nearest;

	memcpy(names, lane->base, sizeof(names));
	different = nearest = count_differences(lane, names, owners);
	for (uint32_t p = 0;; p++) {
		const struct name_operation *operation = &lane->operations[p];
		uint32_t touched[2];

		if (!different)
			return p;
		if (p == count)
			break;
		touched[0] = operation->name;
		touched[1] = operation->kind == NAME_RENAME ? operation->other : operation->name;
		for (int i = 0; i < (operation->kind == NAME_RENAME ? 2 : 1); i++)
			different -= owner_of(lane, names[touched[i]]) != owners[touched[i]];
		aging_apply(names, operation);
		for (int i = 0; i < (operation->kind == NAME_RENAME ? 2 : 1); i++)
			different += owner_of(lane, names[touched[i]]) != owners[touched[i]];
		nearest = different < nearest ? different : nearest;
	}
	aging_violation(journal,
			"%s: no prefix of %u operations behind the last sync gives these names (%u differ at best)",
			folder, count, nearest);
	return -1;
}

static void verify_file(struct journal *journal, struct lane *lane, const char *folder, uint32_t name)
{
	struct aging_file *file = &lane->files[lane->names[name] - 1];
	char path[AGING_PATH + 16];
	int fd;

	snprintf(path, sizeof(path), "%s/n%u", folder, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		aging_violation(journal, "%s: %s", path, strerror(errno));
		return;
	}
	/* Where ENOSPC was met nothing is known of the content. */
	if (!file->doubtful)
		aging_check_content(journal, file, fd, path, true);
	close(fd);
	/* Which of the later changes are there is not known: such a file is not used any more. */
	if (file->synced != file->count)
		file->doubtful = 1;
}

static void verify_lane(struct journal *journal, struct lane *lane, const char *folder)
{
	static uint32_t owners[LANE_NAMES];
	int64_t prefix;

	read_names(journal, folder, owners);
	prefix = find_prefix(journal, lane, owners, folder);
	if (prefix < 0)
		return;
	/* The rest never happened. */
	lane->begun = lane->floor + (uint32_t)prefix;
	memcpy(lane->names, lane->base, sizeof(lane->names));
	for (int64_t i = 0; i < prefix; i++)
		aging_apply(lane->names, &lane->operations[i]);
	for (uint32_t i = 0; i < LANE_NAMES; i++)
		if (lane->names[i])
			verify_file(journal, lane, folder, i);
	aging_advance(lane, lane->begun);
	for (uint32_t i = 0; i < LANE_FILES; i++)
		if (lane->files[i].owner && lane->files[i].last_operation > lane->begun)
			lane->files[i].last_operation = lane->begun;
}

void aging_verify(struct journal *journal, const char *mount)
{
	char folder[AGING_PATH];

	for (int i = 0; i < LANES; i++) {
		snprintf(folder, sizeof(folder), "%s/lane%d", mount, i);
		verify_lane(journal, &journal->lanes[i], folder);
	}
}
