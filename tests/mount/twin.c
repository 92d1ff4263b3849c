/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount_twin FOLDER-A FOLDER-B SEED OPERATIONS: the same random system calls in two folders, of two filesystems of
 * which one is trusted (the kernel's ext4); results, errors, data and what stat(2) tells must be equal after each,
 * whole trees after every so many. Root needed: three users take turns. The folders must be equal to begin with; what
 * one run leaves is where the next one goes on.
 *
 * Not compared: sizes and blocks of folders, inode numbers, blocks, access times (both filesystems are lazy about
 * them, each in its way), the values of times that are "now" (whether a time is one that was set or "now" is
 * compared), order of readdir.
 *
 * Exit status: 0 equal, 1 different (seed, operation and difference are printed), 2 the test cannot run.
 */
#include "twin.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define WHOLE_EVERY 500u
#define SET_TIMES_END 1000000000 /* seconds: times that utimensat sets lie before, "now" after */
#define STALE_NS 60000000l /* the front end announces link counts that the kernel counted down twice within 20 ms */

static uint64_t random_state;
static bool verbose;

static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h" };
#define NAMES 8u
#define FOLDER_NAMES 3u

/* Paths that were there when they were used last: most operations go to one of them. */
static char known[64][PATH_BYTES];
#define KNOWN (sizeof(known) / sizeof(*known))

void die(const char *what)
{
	fprintf(stderr, "mount_twin: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t random_next(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static unsigned below(unsigned n)
{
	return (unsigned)(random_next() % n);
}

/* FNV-1a */
uint64_t digest_add(uint64_t digest, const void *data, size_t length)
{
	const unsigned char *bytes = data;

	for (size_t i = 0; i < length; i++)
		digest = (digest ^ bytes[i]) * 0x100000001b3u;
	return digest;
}

/* Folders have other names than the rest, mostly: else every name is one soon. */
static void add_name(char path[PATH_BYTES], bool folder)
{
	size_t length = strlen(path);
	unsigned kind = below(100);

	if (length && path[length - 1] != '/')
		path[length++] = '/';
	if (kind < 94)
		snprintf(path + length, PATH_BYTES - length, "%s",
			 names[below(20) == 0 ? below(NAMES) :
			       folder         ? below(FOLDER_NAMES) :
						FOLDER_NAMES + below(NAMES - FOLDER_NAMES)]);
	else if (kind < 96)
		snprintf(path + length, PATH_BYTES - length, "..");
	else if (kind < 97)
		snprintf(path + length, PATH_BYTES - length, ".");
	else if (kind < 98)
		snprintf(path + length, PATH_BYTES - length, "\xff\xfe %c\n", 'a' + (int)below(2));
	else if (length + 257 < PATH_BYTES) { /* the longest name there is, or one byte more */
		unsigned n = 255 + below(2);

		memset(path + length, 'L', n);
		path[length + n] = '\0';
	}
}

/* Never out of the folder: ".." only below a name, and one level at most. */
static void random_path(char path[PATH_BYTES], bool folder)
{
	static const unsigned char depths[] = { 1, 1, 1, 2, 2, 2, 3, 4 };
	unsigned depth = depths[below(sizeof(depths))];

	if (!folder && below(5) < 3) {
		const char *old = known[below(KNOWN)];

		if (old[0]) {
			snprintf(path, PATH_BYTES, "%s", old);
			return;
		}
	}
	snprintf(path, PATH_BYTES, ".");
	for (unsigned i = 0; i < depth; i++)
		add_name(path, i + 1 < depth || folder);
	if (below(60) == 0)
		strcat(path, "/");
	if (strstr(path, "..") || below(200) == 0)
		snprintf(path, PATH_BYTES, below(4) ? "." : "./a/../b");
}

static unsigned random_slot(const struct side *side)
{
	unsigned slot = below(SLOTS);

	for (unsigned i = 0; i < SLOTS && below(20); i++) {
		if (side->slot[slot] >= 0)
			break;
		slot = (slot + 1) % SLOTS;
	}
	return slot;
}

static void random_op(const struct side *side, struct op *op)
{
	unsigned total = 0, pick;

	memset(op, 0, sizeof(*op));
	for (unsigned i = 0; i < op_kinds(); i++)
		total += op_weight(i);
	pick = below(total);
	while (pick >= op_weight(op->kind))
		pick -= op_weight(op->kind++);
	for (unsigned i = 0; i < PATHS; i++) {
		random_path(op->path[i], op_makes_folder(op->kind));
		op->slot[i] = op_opens(op->kind) ? below(SLOTS) : random_slot(side);
	}
	for (unsigned i = 0; i < NUMBERS; i++)
		op->number[i] = random_next();
	op->user = below(5) < 3 ? 0 : 1 + below(2);
}

/* ---- the state that both must be in ---- */

static const char *difference(const char *what, long long a, long long b)
{
	static char text[200];

	snprintf(text, sizeof(text), "%s: %lld (0%llo) and %lld (0%llo)", what, a, (unsigned long long)a, b,
		 (unsigned long long)b);
	return text;
}

/* A time that was set must be the same one; of "now" only that it is so. */
static bool times_equal(const struct timespec *a, const struct timespec *b)
{
	if (a->tv_sec >= SET_TIMES_END && b->tv_sec >= SET_TIMES_END)
		return true;
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static const char *stats_differ(const struct stat *a, const struct stat *b)
{
	if (a->st_mode != b->st_mode)
		return difference("mode", a->st_mode, b->st_mode);
	if (a->st_uid != b->st_uid || a->st_gid != b->st_gid)
		return difference("owner and group", (long long)a->st_uid << 32 | a->st_gid,
				  (long long)b->st_uid << 32 | b->st_gid);
	if (!S_ISDIR(a->st_mode) && a->st_size != b->st_size)
		return difference("size", a->st_size, b->st_size);
	if ((S_ISCHR(a->st_mode) || S_ISBLK(a->st_mode)) && a->st_rdev != b->st_rdev)
		return difference("device", (long long)a->st_rdev, (long long)b->st_rdev);
	/* A write into a FIFO does not reach a filesystem of FUSE. */
	if (!S_ISFIFO(a->st_mode) && !times_equal(&a->st_mtim, &b->st_mtim))
		return difference("modification time", a->st_mtim.tv_sec, b->st_mtim.tv_sec);
	if (!times_equal(&a->st_ctim, &b->st_ctim))
		return difference("change time", a->st_ctim.tv_sec, b->st_ctim.tv_sec);
	if (a->st_nlink != b->st_nlink)
		return difference("links", (long long)a->st_nlink, (long long)b->st_nlink);
	return NULL;
}

/*
 * Set-group-ID without group execution, of which a write by one who is in the group only by a supplementary one takes
 * nothing away: no request of FUSE tells of those, and Ashlar takes it away. Brings the trusted side there.
 */
static void forgive(int fd, const char *path, struct stat *a, const struct stat *b)
{
	char proc[40];

	if ((a->st_mode ^ b->st_mode) != S_ISGID || !(a->st_mode & S_ISGID) || a->st_mode & S_IXGRP)
		return;
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	if (path ? fchmodat(fd, path, b->st_mode & 07777, 0) : chmod(proc, b->st_mode & 07777))
		die("chmod");
	a->st_mode = b->st_mode;
}

/* What `path` is, or without one the open file in `slot`. */
static int stat_of(const struct side *side, const char *path, unsigned slot, struct stat *st)
{
	if (path)
		return fstatat(side->root, path, st, AT_SYMLINK_NOFOLLOW) ? errno : 0;
	if (side->slot[slot] < 0)
		return EBADF;
	if (fstat(side->slot[slot], st))
		die("fstat");
	return 0;
}

static const char *compare_once(const struct side *a, const struct side *b, const char *path, unsigned slot)
{
	struct stat sa, sb;
	int ea = stat_of(a, path, slot, &sa), eb = stat_of(b, path, slot, &sb);

	if (ea != eb)
		return difference("stat's errno", ea, eb);
	if (ea)
		return NULL;
	forgive(path ? a->root : a->slot[slot], path, &sa, &sb);
	return stats_differ(&sa, &sb);
}

static const char *compare(const struct side *a, const struct side *b, const char *path, unsigned slot)
{
	const char *found = compare_once(a, b, path, slot);

	if (found && !strncmp(found, "links", 5)) {
		nanosleep(&(struct timespec){ .tv_nsec = STALE_NS }, NULL);
		found = compare_once(a, b, path, slot);
	}
	return found;
}

/* ---- whole trees ---- */

struct listing {
	char **name;
	size_t count;
};

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void list_free(struct listing *list)
{
	for (size_t i = 0; i < list->count; i++)
		free(list->name[i]);
	free(list->name);
}

/* Names with their types, in order. */
static void list(const struct side *side, const char *path, struct listing *list)
{
	int fd = openat(side->root, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	memset(list, 0, sizeof(*list));
	if (!dir)
		die("open a folder");
	while ((entry = readdir(dir))) {
		list->name = realloc(list->name, (list->count + 1) * sizeof(*list->name));
		if (!list->name ||
		    asprintf(&list->name[list->count++], "%s%c%u", entry->d_name, '\0', entry->d_type) < 0)
			die("memory");
	}
	closedir(dir);
	qsort(list->name, list->count, sizeof(*list->name), by_name);
}

/* Next data at or after `at`, or the size. */
static off_t data_from(int fd, off_t at, off_t size)
{
	off_t found = lseek(fd, at, SEEK_DATA);

	return found < 0 ? size : found;
}

static const char *contents_differ(const struct side *a, const struct side *b, const char *path, off_t size)
{
	static char x[65536], y[65536];
	int fa = openat(a->root, path, O_RDONLY | O_NOFOLLOW), fb = openat(b->root, path, O_RDONLY | O_NOFOLLOW);
	const char *found = NULL;

	if (fa < 0 || fb < 0)
		die("open a file");
	for (off_t at = 0; at < size && !found; at += (off_t)sizeof(x)) {
		off_t da = data_from(fa, at, size), db = data_from(fb, at, size);
		ssize_t n, m;

		at = da < db ? da : db;
		if (at >= size)
			break;
		n = pread(fa, x, sizeof(x), at);
		m = pread(fb, y, sizeof(y), at);
		if (n < 0 || n != m)
			found = difference("read", n, m);
		else if (memcmp(x, y, (size_t)n))
			for (ssize_t i = 0; i < n; i++)
				if (x[i] != y[i]) {
					found = difference("content at", (long long)(at + i),
							   x[i] << 8 | (unsigned char)y[i]);
					break;
				}
	}
	close(fa);
	close(fb);
	return found;
}

static int by_string(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* All attributes in the order of their names. */
static uint64_t attributes_digest(const struct side *side, const char *path)
{
	static char value[65536];
	char full[PATH_BYTES + 300], list[65536];
	const char *names_here[2000];
	size_t count = 0;
	uint64_t digest = 14695981039346656037u;
	ssize_t n;

	snprintf(full, sizeof(full), "/proc/self/fd/%d/%s", side->root, path);
	n = llistxattr(full, list, sizeof(list));
	if (n < 0)
		return digest + (uint64_t)errno;
	for (ssize_t i = 0; i < n && count < 2000; i += (ssize_t)strlen(list + i) + 1)
		names_here[count++] = list + i;
	qsort(names_here, count, sizeof(*names_here), by_string);
	for (size_t i = 0; i < count; i++) {
		ssize_t m = lgetxattr(full, names_here[i], value, sizeof(value));

		digest = digest_add(digest, names_here[i], strlen(names_here[i]) + 1);
		digest = digest_add(digest, &m, sizeof(m));
		digest = digest_add(digest, value, m < 0 ? 0 : (size_t)m);
	}
	return digest;
}

static bool report(const char *path, const char *what)
{
	if (what)
		printf("# %s: %s\n", path, what);
	return !what;
}

static bool trees_equal(const struct side *a, const struct side *b, const char *path)
{
	struct listing la, lb;
	struct stat st;
	bool good;

	if (!report(path, compare(a, b, path, 0)))
		return false;
	if (fstatat(a->root, path, &st, AT_SYMLINK_NOFOLLOW))
		die("stat");
	if (!S_ISLNK(st.st_mode) && attributes_digest(a, path) != attributes_digest(b, path))
		return report(path, "attributes");
	if (S_ISLNK(st.st_mode)) {
		char x[4096], y[4096];
		ssize_t n = readlinkat(a->root, path, x, sizeof(x)), m = readlinkat(b->root, path, y, sizeof(y));

		return report(path, n < 0 || n != m || memcmp(x, y, (size_t)n) ? "target of the link" : NULL);
	}
	if (S_ISREG(st.st_mode))
		return report(path, contents_differ(a, b, path, st.st_size));
	if (!S_ISDIR(st.st_mode))
		return true;
	list(a, path, &la);
	list(b, path, &lb);
	good = la.count == lb.count;
	for (size_t i = 0; good && i < la.count; i++) {
		size_t length = strlen(la.name[i]);

		good = !strcmp(la.name[i], lb.name[i]) && !strcmp(la.name[i] + length + 1, lb.name[i] + length + 1);
	}
	if (!good)
		report(path, difference("names in the folder", (long long)la.count, (long long)lb.count));
	for (size_t i = 0; good && i < la.count; i++) {
		char *next;

		if (!strcmp(la.name[i], ".") || !strcmp(la.name[i], ".."))
			continue;
		if (asprintf(&next, "%s/%s", path, la.name[i]) < 0)
			die("memory");
		good = trees_equal(a, b, next);
		free(next);
	}
	list_free(&la);
	list_free(&lb);
	return good;
}

/* ---- */

static void parent_of(const char *path, char parent[PATH_BYTES])
{
	size_t length = strlen(path);

	while (length && path[length - 1] == '/')
		length--;
	while (length && path[length - 1] != '/')
		length--;
	snprintf(parent, PATH_BYTES, "%.*s", (int)length, path);
	if (!length)
		snprintf(parent, PATH_BYTES, ".");
}

static bool state_equal(const struct side *a, const struct side *b, const struct op *op)
{
	for (unsigned i = 0; i < op_paths(op->kind); i++) {
		char parent[PATH_BYTES];

		parent_of(op->path[i], parent);
		if (!report(op->path[i], compare(a, b, op->path[i], 0)) || !report(parent, compare(a, b, parent, 0)))
			return false;
	}
	for (unsigned i = 0; i < SLOTS; i++)
		if (!report("an open file", compare(a, b, NULL, i)))
			return false;
	return true;
}

static bool results_equal(const struct result *a, const struct result *b)
{
	if (a->unsure)
		return true;
	if (a->value != b->value || (a->value < 0 && a->error != b->error)) {
		printf("# result %ld (%s) and %ld (%s)\n", a->value, a->value < 0 ? strerror(a->error) : "good",
		       b->value, b->value < 0 ? strerror(b->error) : "good");
		return false;
	}
	return report("data", a->value >= 0 && a->digest != b->digest ? "not the same came back" : NULL);
}

static void open_side(struct side *side, const char *name)
{
	side->name = name;
	side->root = open(name, O_RDONLY | O_DIRECTORY);
	if (side->root < 0)
		die(name);
	for (unsigned i = 0; i < SLOTS; i++)
		side->slot[i] = -1;
}

int main(int count, char **arguments)
{
	struct side a, b;
	unsigned long operations;
	unsigned long good = 0;

	if (count < 5) {
		fprintf(stderr, "usage: mount_twin FOLDER-A FOLDER-B SEED OPERATIONS [-v]\n");
		return 2;
	}
	random_state = strtoull(arguments[3], NULL, 10) * 0x100000001b3u;
	operations = strtoul(arguments[4], NULL, 10);
	verbose = count > 5;
	umask(0);
	signal(SIGPIPE, SIG_IGN);
	open_side(&a, arguments[1]);
	open_side(&b, arguments[2]);
	for (unsigned long i = 0; i < operations; i++) {
		struct result ra, rb;
		struct op op;
		bool equal;

		random_op(&a, &op);
		op_run(&a, &op, &ra);
		op_run(&b, &op, &rb);
		if (verbose)
			printf("%lu %s user %u %s = %ld %s\n", i, op_name(op.kind), op.user, ra.note, ra.value,
			       ra.value < 0 ? strerror(ra.error) : "");
		good += ra.value >= 0;
		for (unsigned k = 0; k < op_paths(op.kind); k++)
			if (ra.value >= 0 && faccessat(a.root, op.path[k], F_OK, AT_SYMLINK_NOFOLLOW) == 0)
				memcpy(known[below(KNOWN)], op.path[k], PATH_BYTES);
		equal = results_equal(&ra, &rb) && state_equal(&a, &b, &op);
		if (equal && (i % WHOLE_EVERY == WHOLE_EVERY - 1 || i + 1 == operations))
			equal = trees_equal(&a, &b, ".");
		if (!equal) {
			printf("# seed %s, operation %lu, user %u: %s %s\n", arguments[3], i, op.user, op_name(op.kind),
			       ra.note);
			return 1;
		}
	}
	printf("# seed %s: %lu operations, %lu of them successful\n", arguments[3], operations, good);
	return 0;
}
