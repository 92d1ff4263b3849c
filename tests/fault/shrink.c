/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The image is cut under an open volume. TAP.
 *
 * A regular file that was cut gives no bytes behind its new end (the driver says EIO), takes writes there all the same, and shows
 * zeroes in between afterwards. So what is asked is: no crash, no hang; every call works or fails with an error that fits; what a
 * read gives is what was written, or zeroes where the file was cut; the unmount returns; a mount and a check of what is left end with
 * a verdict. Drivers sync, aio and uring, many places to cut, with and without the volume's threads, cold and warm.
 */
#include <ashlar/ashlar.h>
#include <errno.h>
#include <fsck/check.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define IMAGE_BYTES (32ull << 20)
#define FILES 12
#define FILE_BYTES (700u << 10)
#define SECONDS 60 /* more is a hang */

struct cut {
	const char *driver;
	unsigned permille; /* of the image is left */
	bool threads, warm, pending;
};

struct shrunk {
	const struct cut *cut;
	char path[200];
	struct bdev *dev;
	struct ash_volume *volume;
	uint64_t ino[FILES], size[FILES];
	unsigned char *buffer;
	unsigned errors;
	bool again; /* another mount: files may be gone */
};

static void fail(const char *what, long long value)
{
	printf("# %s (%lld)\n", what, value);
	fflush(stdout);
	_exit(1);
}

static void silent(void *context, enum ash_log_level level, const char *text)
{
	(void)context, (void)level, (void)text;
}

static unsigned char byte_of(unsigned file, uint64_t offset)
{
	return (unsigned char)(1 + (file * 31 + offset / 509) % 255);
}

static void fill(struct shrunk *s, unsigned file)
{
	for (uint64_t i = 0; i < FILE_BYTES; i++)
		s->buffer[i] = byte_of(file, i);
}

/* An error that a device without its end explains. */
static int64_t fits(struct shrunk *s, const char *what, int64_t result)
{
	if (result >= 0)
		return result;
	s->errors++;
	switch ((int)-result) {
	case EIO:
	case EUCLEAN:
	case EROFS:
	case ENOSPC: /* groups whose bitmaps cannot be read */
	case ENOENT:
	case EEXIST:
		return result;
	case ESTALE: /* where a write made the file long again the inode table is zeroes: free inodes */
		return result;
	default:
		fail(what, result);
	}
	return result;
}

static int open_volume(struct shrunk *s)
{
	struct ash_open_options options = {
		.no_threads = !s->cut->threads, .cache_bytes = 1 << 20, .commit_seconds = 1, .log = silent
	};

	return ash_open(s->dev, &options, &s->volume, NULL);
}

static void set_up(struct shrunk *s)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	char device[230], name[20];
	struct ash_attr attr;

	snprintf(device, sizeof(device), "%s:%s", s->cut->driver, s->path);
	if (truncate(s->path, 0) || truncate(s->path, (off_t)IMAGE_BYTES) || bdev_open(device, NULL, &s->dev, NULL) ||
	    ash_mkfs(s->dev, &(struct ash_mkfs_options){ .no_discard = true }, NULL) || open_volume(s))
		fail("setting up", errno);
	for (unsigned i = 0; i < FILES; i++) {
		snprintf(name, sizeof(name), "file%u", i);
		fill(s, i);
		if (ash_create(s->volume, 1, name, &create, &attr) ||
		    ash_write(s->volume, attr.ino, s->buffer, FILE_BYTES, 0, 0) != FILE_BYTES)
			fail("setting up", i);
		s->ino[i] = attr.ino;
		s->size[i] = FILE_BYTES;
	}
	if (ash_close(s->volume) || open_volume(s))
		fail("setting up", 0);
}

static void read_all(struct shrunk *s)
{
	for (unsigned i = 0; i < FILES; i++) {
		int64_t got = !s->ino[i] ? -ENOENT :
					   fits(s, "read", ash_read(s->volume, s->ino[i], s->buffer, FILE_BYTES, 0));

		if (got >= 0 && (uint64_t)got != s->size[i] && !s->again)
			fail("a short read", got);
		for (int64_t at = 0; at < got; at++) {
			if (s->buffer[at] && s->buffer[at] != byte_of(i, (uint64_t)at))
				fail("wrong data", at);
		}
	}
}

static void remove_file(struct shrunk *s, unsigned file)
{
	char name[20];

	snprintf(name, sizeof(name), "file%u", file);
	if (!fits(s, "unlink", ash_unlink(s->volume, 1, name, NULL)))
		s->ino[file] = 0;
}

static int any_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		     const struct ash_attr *attr)
{
	(void)context, (void)name, (void)length, (void)ino, (void)type, (void)next, (void)attr;
	return 0;
}

static void use(struct shrunk *s)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_setattr change = { .valid = ASH_SET_SIZE, .size = 5000 };
	struct ash_volume *volume = s->volume;
	struct ash_statfs statfs;
	struct ash_attr attr;
	uint64_t trimmed;

	read_all(s);
	fits(s, "readdir", ash_readdir(volume, 1, 0, false, any_entry, NULL));
	for (unsigned i = 0; i < FILES; i++) {
		fill(s, i);
		if (s->ino[i])
			fits(s, "write",
			     ash_write(volume, s->ino[i], s->buffer, FILE_BYTES / 2, 0, i % 2 ? ASH_WRITE_THROUGH : 0));
	}
	fits(s, "fsync", ash_fsync(volume, s->ino[0], false));
	if (!fits(s, "create", ash_create(volume, 1, "new", &create, &attr))) {
		fits(s, "write", ash_write(volume, attr.ino, s->buffer, 300000, 0, 0));
		fits(s, "fsync", ash_fsync(volume, attr.ino, false));
		ash_forget(volume, attr.ino, 1);
	}
	fits(s, "rename", ash_rename(volume, 1, "file1", 1, "moved", 0));
	remove_file(s, 2);
	if (!fits(s, "truncate", ash_setattr(volume, s->ino[3], &change, NULL)))
		s->size[3] = change.size;
	fits(s, "punch", ash_fallocate(volume, s->ino[4], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 100000));
	fits(s, "setxattr", ash_setxattr(volume, s->ino[5], "user.large", s->buffer, 20000, 0));
	fits(s, "statfs", ash_statfs(volume, &statfs));
	fits(s, "sync", ash_sync(volume));
	fits(s, "trim", ash_trim(volume, 0, UINT64_MAX, 4096, &trimmed));
	fits(s, "checkpoint", ash_checkpoint(volume));
	read_all(s);
}

/* What is left is mounted and checked as anybody would. */
static void look_again(struct shrunk *s)
{
	struct ash_check_options options = { .mode = ASH_CHECK_NO, .no_threads = true };
	struct ash_check_result result = { 0 };
	int error;

	if (bdev_refresh_size(s->dev))
		fail("the size", 0);
	s->again = true;
	error = open_volume(s);
	if (error && error != -ENODATA && error != -EUCLEAN && error != -EIO && error != -EINVAL)
		fail("mounting what is left", error);
	if (!error) {
		read_all(s);
		ash_close(s->volume);
	}
	error = ash_check(s->dev, &options, &result);
	if (error && error != -ENODATA && error != -EUCLEAN && error != -EIO && error != -EINVAL)
		fail("checking what is left", error);
}

static void run_case(struct shrunk *s)
{
	off_t left = (off_t)(IMAGE_BYTES / 4096 * s->cut->permille / 1000 * 4096);
	int error;

	s->buffer = bdev_buffer_alloc(FILE_BYTES);
	set_up(s);
	if (s->cut->warm)
		read_all(s);
	if (s->cut->pending) {
		fill(s, 6);
		fits(s, "write", ash_write(s->volume, s->ino[6], s->buffer, 400000, 0, 0));
		remove_file(s, 7);
	}
	if (truncate(s->path, left))
		fail("truncate", errno);
	use(s);
	error = ash_close(s->volume);
	if (error && error != -EIO)
		fail("unmount", error);
	if (!s->errors && !error && s->cut->permille < 100)
		fail("nobody noticed", s->cut->permille);
	look_again(s);
	bdev_buffer_free(s->buffer, FILE_BYTES);
	bdev_close(s->dev);
}

static bool run_child(const struct cut *cut, const char *path)
{
	struct shrunk s = { .cut = cut };
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(SECONDS);
		snprintf(s.path, sizeof(s.path), "%s", path);
		run_case(&s);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	if (WIFSIGNALED(status))
		printf("# %s\n", WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
	return status == 0;
}

static bool driver_works(const char *driver, const char *path)
{
	char device[230];
	struct bdev *dev;

	snprintf(device, sizeof(device), "%s:%s", driver, path);
	if (bdev_open(device, NULL, &dev, NULL))
		return false;
	bdev_close(dev);
	return true;
}

int main(void)
{
	static const char *const drivers[] = { "sync", "aio", "uring" };
	const char *level = getenv("ASHLAR_TEST_LEVEL"), *folder = getenv("TMPDIR");
	unsigned step = level && !strcmp(level, "quick") ? 170 : 40, cases = 0, bad = 0, skipped = 0;
	time_t begin = time(NULL);
	char path[200];
	int fd;

	snprintf(path, sizeof(path), "%s/ashlar-shrink.XXXXXX",
		 folder                   ? folder :
		 access("/dev/shm", W_OK) ? "/tmp" :
					    "/dev/shm");
	fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, 1 << 20)) {
		perror(path);
		return 2;
	}
	close(fd);
	printf("1..3\n");
	for (unsigned d = 0; d < 3; d++) {
		unsigned worse = 0;

		if (!driver_works(drivers[d], path)) {
			printf("ok %u - shrink: %s # SKIP the driver does not work here\n", d + 1, drivers[d]);
			skipped += 1000 / step + 1;
			continue;
		}
		for (unsigned permille = 0; permille < 1000; permille += step) {
			struct cut cut = { drivers[d], permille, cases % 2, cases % 3 == 0, cases % 5 < 3 };

			fflush(stdout);
			cases++;
			if (run_child(&cut, path))
				continue;
			printf("# %s, %u permille left, %s threads, %s, %s\n", drivers[d], permille,
			       cut.threads ? "with" : "without", cut.warm ? "warm" : "cold",
			       cut.pending ? "with pending writes" : "nothing pending");
			worse++;
		}
		bad += worse;
		printf("%s %u - shrink: %s\n", worse ? "not ok" : "ok", d + 1, drivers[d]);
	}
	unlink(path);
	printf("# campaign shrink: cases %u, distinct %u faults, violations %u, skipped %u, seconds %lld\n", cases,
	       cases, bad, skipped, (long long)(time(NULL) - begin));
	return bad != 0;
}
