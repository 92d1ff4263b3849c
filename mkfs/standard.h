/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every program of Ashlar: descriptors and signals safe at the start, options, standard output complete at the end. */
#ifndef MKFS_STANDARD_H
#define MKFS_STANDARD_H

#include <stdbool.h>
#include <stddef.h>

/*
 * First thing in main(): descriptors 0 to 2 that are closed become /dev/null, so that no device or image gets one of
 * these numbers and a message can never be written into it. Standard output cannot be written then: what was to be
 * printed is lost, which standard_finish() tells of. Ends the program (status 1) when that is not possible.
 * A file size limit (ulimit -f) is an error of the write from then on (EFBIG), and children can be waited for, whatever
 * is done about SIGXFSZ and SIGCHLD outside.
 */
void standard_guard(void);

/* What getopt_long() has refused ('?' or ':' in `option`; `opterr` 0), as a line without newline. */
void standard_option_error(int option, char *const *argv, char *text, size_t size);

/* Length of the valid UTF-8 sequence at the start of `text`, which has `length` bytes, not 0; 0 when there is none. */
size_t standard_utf8_length(const char *text, size_t length);

/*
 * Texts with names in them for a terminal, which takes control characters for orders: ASCII's, and those from U+0080 to
 * U+009F (C1), as UTF-8 or as a byte that belongs to no character. Moves `*text`, which is not at its end, behind one
 * character or stray byte; false: it is such a one.
 */
bool standard_next(const char **text);
/* Each of them becomes one '?': the text stays one line, and gets no longer. */
void standard_clean(char *text);

/*
 * Last thing before the end: standard output is written. Returns `status`; when not everything could be written,
 * prints a line and returns `status | failure`.
 */
int standard_finish(int status, int failure);

#endif
