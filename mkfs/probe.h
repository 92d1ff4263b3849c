/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is on a device, who uses it, and which device has a label or UUID.
 *
 * Nothing here writes. Paths are those of block devices or regular files. Results: negative errno on
 * failure; texts are one line without newline, of at most PROBE_TEXT bytes.
 */
#ifndef MKFS_PROBE_H
#define MKFS_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#define PROBE_TEXT 512

/*
 * Signatures: 1 and a text as "contains an ext4 file system labelled 'x'" in `what`; 0: nothing known is there.
 * Knows what libblkid knows, and Ashlar volumes, also those whose first block is damaged or gone: by one of its magics,
 * or by a backup of it.
 */
int probe_signature(const char *path, char what[PROBE_TEXT]);

/* As probe_signature(), but for what is not ours: an Ashlar volume is 0, by block 0's own magic and by nothing else. */
int probe_foreign_signature(const char *path, char what[PROBE_TEXT]);

struct probe_volume {
	uint8_t uuid[16];
	uint32_t version;
	/* As udev keeps it (ID_FS_LABEL), and as it names the link in /dev/disk (ID_FS_LABEL_ENC); "": none. */
	char label[PROBE_TEXT], label_encoded[PROBE_TEXT];
};
/* 1: block 0 is a superblock of ours, with a right checksum; 0: it is not. Nothing else is read, nobody is asked. */
int probe_volume(const char *path, struct probe_volume *out);

/*
 * Use by somebody else: 1 and a text as "is mounted on /mnt" in `what`; 0: free as far as can be seen. Looks at
 * mounts, swap areas, exclusive claims of the kernel (O_EXCL), the owner lock of Ashlar programs, and all of
 * these through loop devices over the file, or over the file behind a loop device. bdev_open() with `exclusive` and
 * bdev_lock() have the last word: this function is what can say why. The FUSE mount of another ordinary user is seen by
 * its lock alone, since its source is whatever he said.
 */
int probe_in_use(const char *path, char what[PROBE_TEXT]);

/*
 * The same, but who is about to leave gets a moment: a mount that has ended keeps its lock until everything is on the
 * device. What is mounted, or swap space, is not waited for.
 */
int probe_wait_free(const char *path, unsigned timeout_ms, char what[PROBE_TEXT]);

/* Where a device (or a loop device over the image) is mounted: 1 and the folder in `where`, 0: nowhere. */
int probe_mount_point(const char *path, char where[PROBE_TEXT]);

/* Does this open file or folder lie on a mounted Ashlar volume? By the device number and type of its mount. */
bool probe_is_ours(int fd);

/*
 * Is `path` the root of a mounted Ashlar volume that its user, an ordinary one, has for himself? The kernel lets nobody
 * else in, not even root.
 */
bool probe_is_private(const char *path);

struct probe_topology {
	uint32_t logical_sector;   /* bytes; 0: unknown */
	uint32_t alignment_offset; /* bytes by which the device is off its physical blocks */
};
/* -ENOTBLK for a regular file. */
int probe_topology(const char *path, struct probe_topology *out);

/* 32 hex digits with or without dashes. 0, or -EINVAL, and `uuid` is anything. */
int probe_parse_uuid(const char *text, uint8_t uuid[16]);

/*
 * The device of "LABEL=text" or "UUID=..." among the Ashlar volumes on the block devices of /proc/partitions, loop
 * devices included. 0 and a malloc'ed path; -ENODEV none, -EEXIST more than one has it, -EINVAL neither prefix.
 * A text without such a prefix is a path: it is copied.
 */
int probe_resolve_tag(const char *spec, char **device_out);

#endif
