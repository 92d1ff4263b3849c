/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What mount.ashlar tells ashlarfs after a remount, of which the kernel tells nobody: an ioctl(2) on the mount point,
 * root's alone. The argument has the flags of mount(2) that count for the server, as they are now. -EROFS: it is to be
 * writable, and the volume is not.
 */
#ifndef ASHLAR_FUSE_REMOUNT_H
#define ASHLAR_FUSE_REMOUNT_H

#include <linux/ioctl.h>
#include <stdint.h>
#include <sys/mount.h>

#define REMOUNT_IOCTL _IOW(0xa5, 0x52, uint64_t)
#define REMOUNT_FLAGS ((unsigned long)(MS_RDONLY | MS_SYNCHRONOUS | MS_NOATIME | MS_NODIRATIME | MS_STRICTATIME))

#endif
