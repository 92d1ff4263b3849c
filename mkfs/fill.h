/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copy a folder tree of the host into a volume (mkfs.ashlar -d). */
#ifndef MKFS_FILL_H
#define MKFS_FILL_H

#include <ashlar/ashlar.h>

struct fill_result {
	uint64_t files, folders, others; /* made, hard links not counted */
	uint64_t bytes;                  /* of file data written */
};

/*
 * Copy everything below `folder` and the folder's own attributes to the root of `volume`. Files that are the same
 * storage as `skip` (may be NULL: the image itself) are left out. 0 or negative after a one-line message.
 */
int fill_volume(struct ash_volume *volume, const char *folder, const struct stat *skip, struct fill_result *result);

#endif
