/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line of ashlarfs: DEVICE MOUNTPOINT [-f] [-d] [-o option,...]. */
#ifndef ASHLAR_FUSE_OPTIONS_H
#define ASHLAR_FUSE_OPTIONS_H

#include <ashlar/ashlar.h>
#include <stdbool.h>
#include <sys/mount.h>

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256 /* linux/mount.h, since 5.10 */
#endif

#define OPTION_ERROR_TEXT 256

struct front_options {
	char *device;              /* as given: a path, LABEL=, UUID=, or driver:path */
	char *mountpoint;          /* as given */
	char driver[16];           /* empty: the default */
	unsigned long mount_flags; /* MS_* of <sys/mount.h> */
	char *security;            /* context= and its relatives, for the kernel; or NULL */
	unsigned threads;          /* most threads that serve requests */
	bool allow_other;
	bool sloppy; /* unknown options are ignored */
	bool foreground, debug, help, version;
	struct ash_open_options volume;
};

/*
 * Parse. 0, or -EINVAL with a line for people in `error` (OPTION_ERROR_TEXT bytes). With `help` or `version` the
 * rest may be incomplete. options_free() in any case.
 */
int options_parse(struct front_options *options, int argc, char **argv, char *error);
void options_free(struct front_options *options);
/* When access times move, by the flags of mount(2). */
enum ash_atime options_atime(unsigned long mount_flags);

#endif
