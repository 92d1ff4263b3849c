/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See standard.h. */
#include "mkfs/standard.h"

#include <errno.h>
#include <fcntl.h>
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
