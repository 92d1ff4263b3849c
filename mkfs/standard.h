/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every program of Ashlar: descriptors and signals safe at the start, standard output complete at the end. */
#ifndef MKFS_STANDARD_H
#define MKFS_STANDARD_H

/*
 * First thing in main(): descriptors 0 to 2 that are closed become /dev/null, so that no device or image gets one of
 * these numbers and a message can never be written into it. Ends the program (status 1) when that is not possible.
 * A file size limit (ulimit -f) is an error of the write from then on (EFBIG), and children can be waited for, whatever
 * is done about SIGXFSZ and SIGCHLD outside.
 */
void standard_guard(void);

/*
 * Last thing before the end: standard output is written. Returns `status`; when not everything could be written,
 * prints a line and returns `status | failure`.
 */
int standard_finish(int status, int failure);

#endif
