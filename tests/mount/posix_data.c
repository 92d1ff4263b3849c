/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File data: truncation, holes, fallocate, O_DIRECT, O_APPEND, copy_file_range, mmap, locks. */
#include "posix.h"

#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#define MIB (1024 * 1024)

static bool zeroes(int fd, off_t offset, size_t length)
{
	char *buffer = malloc(length);
	bool good = pread(fd, buffer, length, offset) == (ssize_t)length;

	for (size_t i = 0; good && i < length; i++)
		good = buffer[i] == 0;
	free(buffer);
	return good;
}

static void test_truncate(void)
{
	struct stat st;
	int fd = open("t", O_RDWR | O_CREAT | O_TRUNC, 0644);

	CHECK(pwrite(fd, "0123456789", 10, 0) == 10, "write");
	CHECK_OK(ftruncate(fd, 4), "shrink");
	CHECK_OK(ftruncate(fd, 10), "grow");
	CHECK(zeroes(fd, 4, 6), "what was cut off is zero, not old data");
	CHECK_OK(ftruncate(fd, 5000), "grow over a block");
	CHECK(zeroes(fd, 4, 4996), "all zero");
	CHECK(pwrite(fd, "x", 1, 1000000) == 1 && zeroes(fd, 5000, 995000), "a gap reads as zeroes");
	CHECK_OK(ftruncate(fd, 0x7fffffffffffffffll), "size 2^63-1");
	CHECK(fstat(fd, &st) == 0 && st.st_size == 0x7fffffffffffffffll, "and stat says so");
	CHECK(pwrite(fd, "end", 3, 0x7fffffffffff0000ll) == 3 && zeroes(fd, 0x7fffffffffff0003ll, 100),
	      "data near the end of all files");
	CHECK_ERRNO(ftruncate(fd, -1), EINVAL, "negative size: EINVAL");
	CHECK_OK(truncate("t", 0), "truncate to 0 by name");
	CHECK(fstat(fd, &st) == 0 && st.st_size == 0 && st.st_blocks == 0, "size 0, no blocks");
	close(fd);
	put_text("t", "content");
	fd = open("t", O_WRONLY | O_TRUNC);
	CHECK(fstat(fd, &st) == 0 && st.st_size == 0, "O_TRUNC");
	close(fd);
	unlink("t");
}

static void test_append(void)
{
	char buffer[16] = "";
	int a = open("app", O_WRONLY | O_CREAT | O_APPEND, 0644), b = open("app", O_RDWR | O_APPEND);

	CHECK(write(a, "one", 3) == 3 && write(b, "two", 3) == 3 && write(a, "three", 5) == 5,
	      "O_APPEND by two descriptors");
	CHECK(pread(b, buffer, 16, 0) == 11 && memcmp(buffer, "onetwothree", 11) == 0, "in order");
	close(a), close(b);
	unlink("app");
}

static void test_holes(void)
{
	static char block[65536];
	struct stat st;
	int fd = open("h", O_RDWR | O_CREAT | O_TRUNC, 0644);

	memset(block, 'd', sizeof(block));
	CHECK(pwrite(fd, block, 65536, 1 * MIB) == 65536 && pwrite(fd, block, 65536, 3 * MIB) == 65536,
	      "two islands of data");
	CHECK_OK(ftruncate(fd, 5 * MIB), "and a hole at the end");
	CHECK(lseek(fd, 0, SEEK_DATA) == 1 * MIB, "SEEK_DATA from 0, data not synced");
	CHECK(lseek(fd, 1 * MIB, SEEK_HOLE) == 1 * MIB + 65536, "SEEK_HOLE behind the first island");
	CHECK(lseek(fd, 2 * MIB, SEEK_DATA) == 3 * MIB, "SEEK_DATA to the second");
	CHECK_ERRNO(lseek(fd, 4 * MIB, SEEK_DATA), ENXIO, "no data behind: ENXIO");
	CHECK(lseek(fd, 4 * MIB, SEEK_HOLE) == 4 * MIB, "SEEK_HOLE in a hole");
	CHECK_ERRNO(lseek(fd, 5 * MIB, SEEK_HOLE), ENXIO, "behind the end: ENXIO");
	fsync(fd);
	CHECK(lseek(fd, 0, SEEK_DATA) == 1 * MIB && lseek(fd, 1 * MIB, SEEK_HOLE) == 1 * MIB + 65536,
	      "the same when synced");
	CHECK(fstat(fd, &st) == 0 && st.st_blocks >= 256 && st.st_blocks < 1024, "holes take no blocks (%ld)",
	      (long)st.st_blocks);
	close(fd);
	unlink("h");
}

static void test_fallocate(void)
{
	static char block[262144];
	struct stat st;
	int fd = open("fa", O_RDWR | O_CREAT | O_TRUNC, 0644);

	memset(block, 'f', sizeof(block));
	CHECK_OK(fallocate(fd, 0, 0, MIB), "fallocate");
	CHECK(fstat(fd, &st) == 0 && st.st_size == MIB && st.st_blocks >= 2048, "size and blocks are there");
	CHECK(zeroes(fd, 0, MIB), "it reads as zeroes");
	CHECK_OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 2 * MIB), "KEEP_SIZE");
	CHECK(fstat(fd, &st) == 0 && st.st_size == MIB && st.st_blocks >= 4096, "blocks beyond the size");
	CHECK(pwrite(fd, block, sizeof(block), 0) == sizeof(block), "write into it");
	CHECK_OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10000, 100000), "PUNCH_HOLE, unaligned");
	CHECK(zeroes(fd, 10000, 100000) && pread(fd, block, 1, 9999) == 1 && block[0] == 'f' &&
		      pread(fd, block, 1, 110000) == 1 && block[0] == 'f',
	      "exactly that range is zero");
	blkcnt_t before = st.st_blocks;
	CHECK(fstat(fd, &st) == 0 && st.st_blocks < before, "blocks were freed");
	CHECK_OK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 200000, 30000), "ZERO_RANGE");
	CHECK(zeroes(fd, 200000, 30000) && pread(fd, block, 1, 199999) == 1 && block[0] == 'f',
	      "exactly that range is zero");
	CHECK_OK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 2 * MIB, MIB), "ZERO_RANGE beyond the size");
	CHECK(fstat(fd, &st) == 0 && st.st_size == 3 * MIB, "raises it");
	CHECK_ERRNO(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), EOPNOTSUPP, "COLLAPSE_RANGE: EOPNOTSUPP");
	CHECK_ERRNO(fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 4096), EOPNOTSUPP, "INSERT_RANGE: EOPNOTSUPP");
	CHECK_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096), EOPNOTSUPP,
		    "PUNCH_HOLE without KEEP_SIZE: EOPNOTSUPP");
	CHECK_ERRNO(fallocate(fd, 0, 0, 0), EINVAL, "length 0: EINVAL");
	CHECK_ERRNO(fallocate(fd, 0, 0, 1ll << 50), ENOSPC, "more than there is: ENOSPC");
	close(fd);
	unlink("fa");
}

static void test_direct(void)
{
	char *block;
	char check[16];
	int fd = open("dio", O_RDWR | O_CREAT | O_DIRECT, 0644), buffered = open("dio", O_RDWR);

	if (posix_memalign((void **)&block, 4096, 65536))
		return;
	memset(block, 'D', 65536);
	CHECK(fd >= 0 && pwrite(fd, block, 65536, 0) == 65536, "O_DIRECT write");
	CHECK(pread(buffered, check, 16, 40000) == 16 && check[0] == 'D', "seen by a buffered read");
	CHECK(pwrite(buffered, "buffered", 8, 4096) == 8, "buffered write");
	CHECK(pread(fd, block, 4096, 4096) == 4096 && memcmp(block, "bufferedDDD", 11) == 0,
	      "seen by an O_DIRECT read");
	CHECK(pread(fd, block, 65536, 32768) == 32768, "O_DIRECT read over the end is short");
	CHECK(pwrite(fd, block, 512, 512) == 512, "O_DIRECT of 512 bytes");
	close(fd), close(buffered);
	unlink("dio");
	free(block);
}

static void test_sync_flags(void)
{
	int fd = open("s", O_WRONLY | O_CREAT | O_SYNC, 0644);

	CHECK(write(fd, "sync", 4) == 4, "O_SYNC write");
	close(fd);
	fd = open("s", O_WRONLY | O_DSYNC);
	CHECK(write(fd, "dsync", 5) == 5 && fdatasync(fd) == 0 && fsync(fd) == 0, "O_DSYNC write, fdatasync, fsync");
	CHECK(syncfs(fd) == 0, "syncfs");
	close(fd);
	fd = open(".", O_RDONLY | O_DIRECTORY);
	CHECK_OK(fsync(fd), "fsync of a folder");
	close(fd);
	CHECK(content_is("s", "dsync", 5), "content");
	unlink("s");
}

static void test_copy(void)
{
	static char block[300000];
	off_t from = 1000, to = 5000;

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (char)(i * 7 + i / 1000);
	put_file("src", block, sizeof(block));
	int in = open("src", O_RDONLY), out = open("dst", O_RDWR | O_CREAT, 0644);
	ssize_t total = 0, n;
	while (total < 200000 && (n = copy_file_range(in, &from, out, &to, (size_t)(200000 - total), 0)) > 0)
		total += n;
	char *back = malloc(sizeof(block));
	CHECK(total == 200000 && pread(out, back, 200000, 5000) == 200000 && memcmp(back, block + 1000, 200000) == 0 &&
		      zeroes(out, 0, 5000),
	      "copy_file_range, unaligned");
	CHECK(copy_file_range(in, &(off_t){ 299990 }, out, &(off_t){ 0 }, 100, 0) == 10,
	      "short at the end of the source");
	CHECK(copy_file_range(in, &(off_t){ 300000 }, out, &(off_t){ 0 }, 100, 0) == 0, "0 behind it");
	free(back);
	close(in), close(out);
	unlink("src"), unlink("dst");
}

static void test_mmap(void)
{
	char byte;
	int fd = open("m", O_RDWR | O_CREAT | O_TRUNC, 0644);

	CHECK(ftruncate(fd, 20000) == 0, "file for mmap");
	char *shared = mmap(NULL, 20000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *private = mmap(NULL, 20000, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(shared != MAP_FAILED && private != MAP_FAILED, "shared and private maps");
	memcpy(shared + 10000, "shared", 6);
	CHECK(pread(fd, &byte, 1, 10000) == 1 && byte == 's', "a shared map is the file");
	CHECK(pwrite(fd, "W", 1, 12288) == 1 && shared[12288] == 'W', "and the other way");
	private[0] = 'p';
	CHECK(pread(fd, &byte, 1, 0) == 1 && byte == 0, "a private map is not");
	CHECK_OK(msync(shared, 20000, MS_SYNC), "msync");
	munmap(shared, 20000), munmap(private, 20000);
	CHECK(pread(fd, &byte, 1, 10005) == 1 && byte == 'd', "content after munmap");
	close(fd);
	unlink("m");
}

/* In another process: 0 when the lock is refused, 1 when granted. */
static int try_lock(int kind)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10 };
	int status;

	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		int fd = open("l", O_RDWR);
		int rc = kind == 0 ? flock(fd, LOCK_EX | LOCK_NB) : fcntl(fd, kind == 1 ? F_SETLK : F_OFD_SETLK, &lock);
		_exit(rc == 0);
	}
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

static void test_locks(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10 };
	int fd = open("l", O_RDWR | O_CREAT, 0644);

	CHECK(flock(fd, LOCK_EX) == 0 && try_lock(0) == 0, "flock keeps others out");
	flock(fd, LOCK_UN);
	CHECK(try_lock(0) == 1, "and lets them in");
	CHECK(fcntl(fd, F_SETLK, &lock) == 0 && try_lock(1) == 0, "POSIX lock keeps others out");
	lock.l_type = F_UNLCK;
	fcntl(fd, F_SETLK, &lock);
	CHECK(try_lock(1) == 1, "and lets them in");
	lock.l_type = F_WRLCK;
	CHECK(fcntl(fd, F_OFD_SETLK, &lock) == 0 && try_lock(2) == 0, "OFD lock keeps others out");
	close(fd);
	CHECK(try_lock(2) == 1, "and goes with the descriptor");
	unlink("l");
}

static void test_statfs(void)
{
	struct statvfs a, b;
	static char block[MIB];

	statvfs(".", &a);
	memset(block, 1, sizeof(block));
	int fd = open("big", O_WRONLY | O_CREAT, 0644);
	for (int i = 0; i < 8; i++)
		if (write(fd, block, sizeof(block)) < 0)
			break;
	fsync(fd);
	statvfs(".", &b);
	CHECK(a.f_namemax == 255 && a.f_bsize == 4096, "statfs: block size and name length");
	long used = (long)(a.f_bfree - b.f_bfree);
	CHECK(used >= 2048 && used < 2048 + 300, "8 MiB written: about 2048 blocks fewer (%ld)", used);
	close(fd);
	unlink("big");
}

void test_data(void)
{
	test_truncate();
	test_append();
	test_holes();
	test_fallocate();
	test_direct();
	test_sync_flags();
	test_copy();
	test_mmap();
	test_locks();
	test_statfs();
}
