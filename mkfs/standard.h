/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every program of Ashlar: descriptors and signals safe at the start, options, standard output complete at the end. */
#ifndef MKFS_STANDARD_H
#define MKFS_STANDARD_H

#include <stddef.h>

/*
 * First thing in main(): descriptors 0 to 2 that are closed become /dev/null, so that no device or image gets one of
 * these numbers and a message can never be written into it. Ends the program (status 1) when that is not possible.
 * A file size limit (ulimit -f) is an error of the write from then on (EFBIG), and children can be waited for, whatever
 * is done about SIGXFSZ and SIGCHLD outside.
 */
void standard_guard(void);

/* What getopt_long() has refused ('?' or ':' in `option`; `opterr` 0), as a line without newline. */
void standard_option_error(int option, char *const *argv, char *text, size_t size);

/*
 * Last thing before the end: standard output is written. Returns `status`; when not everything could be written,
 * prints a line and returns `status | failure`.
 */
int standard_finish(int status, int failure);

#endif
