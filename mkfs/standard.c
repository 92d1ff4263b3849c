/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See standard.h. */
#include "mkfs/standard.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void standard_guard(void)
{
	int null;

	/* What was inherited of these would end the program in the midst of a write, or hide how a child ended. */
	signal(SIGXFSZ, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	do {
		null = open("/dev/null", O_RDWR); /* inherited: what we run is to be safe, too */
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
