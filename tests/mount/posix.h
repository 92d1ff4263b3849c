/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checks of POSIX behaviour in the current folder; TAP on stdout. See posix.c. */
#ifndef TESTS_MOUNT_POSIX_H
#define TESTS_MOUNT_POSIX_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* One behaviour. */
void check_result(bool good, const char *file, int line, const char *format, ...) __attribute__((format(printf, 4, 5)));
#define CHECK(condition, ...) check_result((condition), __FILE__, __LINE__, __VA_ARGS__)
/* The call fails with this errno. */
#define CHECK_ERRNO(call, error, ...)                                                               \
	do {                                                                                        \
		errno = 0;                                                                          \
		long result_ = (long)(call);                                                        \
		int errno_ = errno;                                                                 \
		if (result_ != -1 || errno_ != (error))                                             \
			printf("# result %ld, errno %d (%s)\n", result_, errno_, strerror(errno_)); \
		CHECK(result_ == -1 && errno_ == (error), __VA_ARGS__);                             \
	} while (0)
#define CHECK_OK(call, ...)                                                  \
	do {                                                                 \
		errno = 0;                                                   \
		long result_ = (long)(call);                                 \
		if (result_ == -1)                                           \
			printf("# errno %d (%s)\n", errno, strerror(errno)); \
		CHECK(result_ != -1, __VA_ARGS__);                           \
	} while (0)

#define OTHER_UID 65534u
#define OTHER_GID 65534u
/* Run `body` as another user, without capabilities; its result, an errno value or 0. */
int as_other(int (*body)(void *), void *argument);

/* A file with this content. */
void put_file(const char *name, const void *data, size_t length);
void put_text(const char *name, const char *text);
mode_t mode_of(const char *name);
bool content_is(const char *name, const void *data, size_t length);

void test_names(void);
void test_data(void);
void test_attributes(void);

#endif
