/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mount_posix FOLDER: what applications may expect of a filesystem, one check for each behaviour, run inside FOLDER as
 * root and, where permissions matter, as user 65534. Output in TAP style; exit status 1 when a check failed.
 * It knows nothing about Ashlar: run it on ext4 to test the test.
 */
#include "posix.h"

#include <grp.h>
#include <stdarg.h>
#include <sys/wait.h>

static int checks, failures;

void check_result(bool good, const char *file, int line, const char *format, ...)
{
	va_list arguments;

	checks++;
	failures += !good;
	printf("%s %d - ", good ? "ok" : "not ok", checks);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	if (!good)
		printf(" # %s:%d", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line);
	putchar('\n');
	fflush(stdout);
}

int as_other(int (*body)(void *), void *argument)
{
	int status;

	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		if (setgroups(0, NULL) || setgid(OTHER_GID) || setuid(OTHER_UID))
			_exit(255);
		_exit(body(argument));
	}
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 254;
}

void put_file(const char *name, const void *data, size_t length)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd < 0 || write(fd, data, length) != (ssize_t)length)
		printf("# cannot write %s: %s\n", name, strerror(errno));
	close(fd);
}

void put_text(const char *name, const char *text)
{
	put_file(name, text, strlen(text));
}

mode_t mode_of(const char *name)
{
	struct stat st;

	return lstat(name, &st) ? 0 : st.st_mode;
}

bool content_is(const char *name, const void *data, size_t length)
{
	char *buffer = malloc(length + 1);
	int fd = open(name, O_RDONLY);
	ssize_t got = 0, n;

	while (fd >= 0 && (n = read(fd, buffer + got, length + 1 - (size_t)got)) > 0)
		got += n;
	bool same = fd >= 0 && got == (ssize_t)length && memcmp(buffer, data, length) == 0;
	close(fd);
	free(buffer);
	return same;
}

int main(int argc, char **argv)
{
	if (argc != 2 || chdir(argv[1])) {
		fprintf(stderr, "usage: mount_posix FOLDER\n");
		return 2;
	}
	umask(022);
	test_names();
	test_data();
	test_attributes();
	printf("1..%d\n", checks);
	return failures ? 1 : 0;
}
