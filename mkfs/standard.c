/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See standard.h. */
#include "mkfs/standard.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void standard_guard(void)
{
	int null;

	/* What was inherited of these would end the program in the midst of a write, or hide how a child ended. */
	signal(SIGXFSZ, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	do {
		bool output = fcntl(0, F_GETFD) >= 0 && fcntl(1, F_GETFD) < 0;

		null = open("/dev/null", output ? O_RDONLY : O_RDWR); /* inherited: what we run is to be safe, too */
	} while (null >= 0 && null <= 2);
	if (null >= 0)
		close(null);
	else if (fcntl(0, F_GETFD) < 0 || fcntl(1, F_GETFD) < 0 || fcntl(2, F_GETFD) < 0)
		exit(1);
}

void standard_option_error(int option, char *const *argv, char *text, size_t size)
{
	const char *program = program_invocation_short_name;

	if (option == ':')
		snprintf(text, size, "option '-%c' needs an argument; try '%s --help'", optopt, program);
	/* A long one is told by its word, a short one may stand among others. */
	else if (optopt > 0 && optopt < 256)
		snprintf(text, size, "unknown option '-%c'; try '%s --help'", optopt, program);
	else
		snprintf(text, size, "unknown option '%.128s'; try '%s --help'", argv[optind - 1], program);
}

size_t standard_utf8_length(const char *text, size_t length)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const unsigned char *byte = (const unsigned char *)text;
	size_t bytes = byte[0] < 0x80 ? 1 : byte[0] >= 0xf0 && byte[0] < 0xf8 ? 4 : byte[0] >= 0xe0 ? 3 : 2;
	uint32_t code;

	if (bytes == 1)
		return 1;
	if (byte[0] < 0xc0 || byte[0] >= 0xf8 || bytes > length)
		return 0;
	code = byte[0] & (0x7fu >> bytes);
	for (size_t i = 1; i < bytes; i++) {
		if ((byte[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (byte[i] & 0x3f);
	}
	return code < least[bytes] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0 : bytes;
}

bool standard_next(const char **text)
{
	const char *start = *text;
	size_t bytes = standard_utf8_length(start, strnlen(start, 4));
	unsigned char first = (unsigned char)start[0];

	*text += bytes ? bytes : 1;
	if (bytes == 2)
		return first != 0xc2 || (unsigned char)start[1] >= 0xa0;
	return bytes > 2 || (bytes == 1 ? first >= ' ' && first != 127 : first >= 0xa0);
}

void standard_clean(char *text)
{
	const char *in = text;
	char *out = text;

	while (*in) {
		const char *start = in;

		if (standard_next(&in)) {
			memmove(out, start, (size_t)(in - start));
			out += in - start;
		} else {
			*out++ = '?';
		}
	}
	*out = 0;
}

int standard_finish(int status, int failure)
{
	errno = 0;
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (errno)
		fprintf(stderr, "%s: standard output: %m\n", program_invocation_short_name);
	else
		fprintf(stderr, "%s: standard output: not everything could be written\n",
			program_invocation_short_name);
	return status | failure;
}
