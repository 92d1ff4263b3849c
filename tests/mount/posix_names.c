/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names: create, link, rename, remove, symbolic links, special files, O_TMPFILE. */
#include "posix.h"

#include <dirent.h>
#include <linux/fs.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

static void test_limits(void)
{
	char name[300], path[5000];

	memset(name, 'n', 256);
	name[255] = '\0';
	CHECK_OK(close(open(name, O_CREAT | O_WRONLY, 0644)), "name of 255 bytes");
	CHECK_OK(unlink(name), "remove it");
	name[255] = 'n';
	name[256] = '\0';
	CHECK_ERRNO(open(name, O_CREAT | O_WRONLY, 0644), ENAMETOOLONG, "name of 256 bytes: ENAMETOOLONG");
	CHECK_ERRNO(mkdir(name, 0755), ENAMETOOLONG, "folder name of 256 bytes: ENAMETOOLONG");
	int good = 1;
	for (int c = 1; c < 256; c++) {
		if (c == '/' || c == '.')
			continue;
		char odd[3] = { (char)c, (char)c, 0 };
		good &= close(open(odd, O_CREAT | O_EXCL | O_WRONLY, 0644)) == 0 && access(odd, F_OK) == 0 &&
			unlink(odd) == 0;
	}
	CHECK(good, "names of any byte but / and NUL");
	memset(path, 't', 4095);
	path[4095] = '\0';
	CHECK_OK(symlink(path, "long-link"), "symbolic link of 4095 bytes");
	char target[5000];
	CHECK(readlink("long-link", target, sizeof(target)) == 4095 && memcmp(path, target, 4095) == 0, "read it back");
	unlink("long-link");
	for (int length = 1; length < 400; length += 37) {
		path[length] = '\0';
		good &= symlink(path, "link") == 0 && readlink("link", target, sizeof(target)) == length &&
			unlink("link") == 0;
		path[length] = 't';
	}
	CHECK(good, "symbolic links of many lengths");
}

static void test_symlinks(void)
{
	struct stat st;

	CHECK_OK(symlink("loop-b", "loop-a"), "symlink a -> b");
	CHECK_OK(symlink("loop-a", "loop-b"), "symlink b -> a");
	CHECK_ERRNO(open("loop-a", O_RDONLY), ELOOP, "loop of links: ELOOP");
	CHECK_ERRNO(open("loop-a", O_RDONLY | O_NOFOLLOW), ELOOP, "O_NOFOLLOW: ELOOP");
	CHECK(lstat("loop-a", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 6, "size of a link is its length");
	CHECK((st.st_mode & 0777) == 0777, "mode of a link is 0777");
	CHECK_ERRNO(symlink("x", "loop-a"), EEXIST, "symlink over a name: EEXIST");
	unlink("loop-a");
	unlink("loop-b");
}

static void test_special(void)
{
	struct stat st;
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "socket" };

	CHECK(mkfifo("fifo", 0640) == 0 && stat("fifo", &st) == 0 && S_ISFIFO(st.st_mode), "fifo");
	CHECK(mknod("chr", S_IFCHR | 0600, makedev(1, 3)) == 0 && stat("chr", &st) == 0 && st.st_rdev == makedev(1, 3),
	      "character device with its number");
	CHECK(mknod("blk", S_IFBLK | 0600, makedev(259, 70000)) == 0 && stat("blk", &st) == 0 &&
		      st.st_rdev == makedev(259, 70000),
	      "block device with a large number");
	int fd = open("chr", O_WRONLY);
	CHECK(fd >= 0 && write(fd, "x", 1) == 1, "a device node works (root's mount is not nodev)");
	close(fd);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && S_ISSOCK(mode_of("socket")), "socket");
	close(fd);
	CHECK(mknod("plain", S_IFREG | 0644, 0) == 0 && S_ISREG(mode_of("plain")), "mknod of a regular file");
	unlink("fifo"), unlink("chr"), unlink("blk"), unlink("socket"), unlink("plain");
}

static void test_links(void)
{
	struct stat a, b;

	put_text("one", "1");
	CHECK_OK(link("one", "two"), "hard link");
	CHECK(stat("one", &a) == 0 && stat("two", &b) == 0 && a.st_ino == b.st_ino && a.st_nlink == 2,
	      "same inode, nlink 2");
	CHECK_OK(chmod("one", 0600), "chmod by one name");
	CHECK((mode_of("two") & 07777) == 0600, "seen by the other name");
	put_text("two", "longer");
	CHECK(stat("one", &a) == 0 && a.st_size == 6, "size written by one name is seen by the other");
	unlink("one");
	CHECK(stat("two", &b) == 0 && b.st_nlink == 1, "nlink 1 after unlink of a sibling");
	mkdir("folder", 0755);
	CHECK_ERRNO(link("folder", "folder2"), EPERM, "hard link of a folder: EPERM");
	CHECK_ERRNO(link("two", "folder"), EEXIST, "link over a name: EEXIST");
	CHECK_ERRNO(link("nothing", "x"), ENOENT, "link of nothing: ENOENT");
	rmdir("folder");
	unlink("two");
}

static void test_folders(void)
{
	struct stat st;

	CHECK_OK(mkdir("d", 0755), "mkdir");
	CHECK(stat("d", &st) == 0 && st.st_nlink == 2, "nlink of an empty folder is 2");
	mkdir("d/sub", 0755);
	CHECK(stat("d", &st) == 0 && st.st_nlink == 3, "nlink 3 with a subfolder");
	CHECK_ERRNO(mkdir("d", 0755), EEXIST, "mkdir over a name: EEXIST");
	CHECK_ERRNO(rmdir("d"), ENOTEMPTY, "rmdir of a full folder: ENOTEMPTY");
	CHECK_ERRNO(rmdir("d/sub/."), EINVAL, "rmdir of '.': EINVAL");
	CHECK_ERRNO(unlink("d"), EISDIR, "unlink of a folder: EISDIR");
	put_text("f", "x");
	CHECK_ERRNO(rmdir("f"), ENOTDIR, "rmdir of a file: ENOTDIR");
	CHECK_ERRNO(open("f/x", O_RDONLY), ENOTDIR, "file as a folder: ENOTDIR");
	CHECK_ERRNO(open("d", O_WRONLY), EISDIR, "write to a folder: EISDIR");
	CHECK_OK(rmdir("d/sub"), "rmdir");
	CHECK(stat("d", &st) == 0 && st.st_nlink == 2, "nlink 2 again");
	struct stat up, here;
	CHECK(stat("d/..", &up) == 0 && stat(".", &here) == 0 && up.st_ino == here.st_ino, "'..' is the parent");
	int fd = open("d", O_RDONLY | O_DIRECTORY);
	rmdir("d");
	CHECK(fstat(fd, &st) == 0 && st.st_nlink == 0, "a removed open folder has nlink 0");
	CHECK_ERRNO(openat(fd, "new", O_CREAT | O_WRONLY, 0644), ENOENT, "no new name in a removed folder: ENOENT");
	close(fd);
	unlink("f");
}

static int rename_with(const char *from, const char *to, unsigned flags)
{
	return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

static void test_rename(void)
{
	struct stat a, b;
	char byte = 0;

	put_text("a", "aaa");
	put_text("b", "bb");
	int held = open("b", O_RDONLY);
	CHECK_OK(rename("a", "b"), "rename over an open file");
	CHECK(content_is("b", "aaa", 3) && access("a", F_OK) != 0, "the new content has the name");
	CHECK(read(held, &byte, 1) == 1 && byte == 'b' && fstat(held, &a) == 0 && a.st_nlink == 0,
	      "the old file lives while it is open, with nlink 0");
	close(held);
	put_text("a", "A");
	CHECK_ERRNO(rename_with("a", "b", RENAME_NOREPLACE), EEXIST, "RENAME_NOREPLACE over a name: EEXIST");
	CHECK_OK(rename_with("a", "c", RENAME_NOREPLACE), "RENAME_NOREPLACE to a free name");
	CHECK_OK(rename_with("b", "c", RENAME_EXCHANGE), "RENAME_EXCHANGE");
	CHECK(content_is("b", "A", 1) && content_is("c", "aaa", 3), "both changed names");
	CHECK_ERRNO(rename_with("b", "free", RENAME_EXCHANGE), ENOENT, "RENAME_EXCHANGE with nothing: ENOENT");
	mkdir("d", 0755);
	mkdir("d/e", 0755);
	mkdir("d/e/f", 0755);
	CHECK_ERRNO(rename("d", "d/e/f/g"), EINVAL, "rename into an own child: EINVAL");
	CHECK_ERRNO(rename("b", "d"), EISDIR, "file over folder: EISDIR");
	CHECK_ERRNO(rename("d", "b"), ENOTDIR, "folder over file: ENOTDIR");
	CHECK_OK(rename_with("b", "d/e", RENAME_EXCHANGE), "exchange of file and folder");
	CHECK(stat("b", &a) == 0 && S_ISDIR(a.st_mode) && stat("d/e", &b) == 0 && S_ISREG(b.st_mode),
	      "both kinds moved");
	CHECK(stat("b/..", &a) == 0 && stat(".", &b) == 0 && a.st_ino == b.st_ino, "'..' of a moved folder");
	CHECK(stat("d", &a) == 0 && a.st_nlink == 2, "nlink of the old parent");
	mkdir("full", 0755);
	put_text("full/x", "x");
	CHECK_ERRNO(rename("d", "full"), ENOTEMPTY, "folder over full folder: ENOTEMPTY");
	unlink("full/x");
	CHECK_OK(rename("d", "full"), "folder over empty folder");
	CHECK_OK(rename("full", "full"), "rename to itself");
	link("c", "c2");
	CHECK(rename("c", "c2") == 0 && access("c", F_OK) == 0, "rename between links of one file does nothing");
	unlink("c"), unlink("c2"), unlink("full/e"), rmdir("full"), rmdir("b/f"), rmdir("b");
}

static void test_open_unlinked(void)
{
	char buffer[8] = "";
	struct stat st;
	int fd = open("gone", O_RDWR | O_CREAT, 0644);

	CHECK_OK(unlink("gone"), "unlink an open file");
	CHECK(write(fd, "still", 5) == 5 && pread(fd, buffer, 5, 0) == 5 && memcmp(buffer, "still", 5) == 0,
	      "it can be written and read");
	CHECK(fstat(fd, &st) == 0 && st.st_nlink == 0 && st.st_size == 5, "nlink 0 and its size");
	CHECK_OK(ftruncate(fd, 100), "and truncated");
	CHECK_OK(fchmod(fd, 0600), "and changed");
	CHECK_OK(fsync(fd), "and synced");
	close(fd);
	fd = open("gone", O_RDWR | O_CREAT | O_EXCL, 0644);
	CHECK(fd >= 0, "the name is free: O_EXCL");
	CHECK_ERRNO(open("gone", O_RDWR | O_CREAT | O_EXCL, 0644), EEXIST, "O_EXCL on a name: EEXIST");
	close(fd);
	unlink("gone");
}

static void test_tmpfile(void)
{
	char path[64], buffer[4];
	struct stat st;
	int fd = open(".", O_TMPFILE | O_RDWR, 0640);

	CHECK(fd >= 0, "O_TMPFILE");
	CHECK(fstat(fd, &st) == 0 && st.st_nlink == 0 && (st.st_mode & 07777) == 0640, "no name, its mode");
	CHECK(write(fd, "tmp", 3) == 3, "write to it");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CHECK_OK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), "linkat gives it a name");
	close(fd);
	fd = open("named", O_RDONLY);
	CHECK(read(fd, buffer, 4) == 3 && memcmp(buffer, "tmp", 3) == 0 && fstat(fd, &st) == 0 && st.st_nlink == 1,
	      "it has its content and nlink 1");
	close(fd);
	unlink("named");
	fd = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	CHECK_ERRNO(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), ENOENT,
		    "O_TMPFILE|O_EXCL: no name ever");
	close(fd);
}

static void test_seekdir(void)
{
	char name[32];
	long positions[64];
	char names[64][32];
	int count = 0, good = 1;

	mkdir("dir", 0755);
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "dir/f%d", i);
		put_text(name, "");
	}
	DIR *dir = opendir("dir");
	for (;;) {
		positions[count] = telldir(dir);
		struct dirent *entry = readdir(dir);
		if (!entry)
			break;
		snprintf(names[count++], sizeof(names[0]), "%.31s", entry->d_name);
	}
	CHECK(count == 52, "readdir gives every entry, '.' and '..' (%d)", count);
	for (int i = count - 1; i >= 0; i -= 7) {
		seekdir(dir, positions[i]);
		struct dirent *entry = readdir(dir);
		good &= entry && strcmp(entry->d_name, names[i]) == 0;
	}
	CHECK(good, "seekdir goes where telldir was");
	/* Names before and behind the position go away: the rest comes once. */
	seekdir(dir, positions[20]);
	for (int i = 0; i < 10; i++) {
		if (names[i][0] == '.')
			continue;
		snprintf(name, sizeof(name), "dir/%.20s", names[i]);
		unlink(name);
	}
	int rest = 0;
	while (readdir(dir))
		rest++;
	CHECK(rest == count - 20, "positions are stable when earlier entries are removed (%d)", rest);
	rewinddir(dir);
	for (count = 0; readdir(dir);)
		count++;
	CHECK(count >= 42 && count <= 44, "rewinddir sees the changes (%d)", count);
	closedir(dir);
	for (int i = 0; i < 50; i++) {
		snprintf(name, sizeof(name), "dir/f%d", i);
		unlink(name);
	}
	CHECK_OK(rmdir("dir"), "the folder is empty in the end");
}

static void test_many_links(void)
{
	char name[32];
	struct stat st;
	int made = 0;

	put_text("many", "x");
	for (; made < 2000; made++) {
		snprintf(name, sizeof(name), "many-%d", made);
		if (link("many", name))
			break;
	}
	CHECK(made == 2000 && stat("many", &st) == 0 && st.st_nlink == 2001, "2000 links to one file");
	for (int i = 0; i < made; i++) {
		snprintf(name, sizeof(name), "many-%d", i);
		unlink(name);
	}
	CHECK(stat("many", &st) == 0 && st.st_nlink == 1, "and back to one");
	unlink("many");
}

void test_names(void)
{
	test_limits();
	test_symlinks();
	test_special();
	test_links();
	test_folders();
	test_rename();
	test_open_unlinked();
	test_tmpfile();
	test_seekdir();
	test_many_links();
}
