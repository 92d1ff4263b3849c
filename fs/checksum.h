/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC32C (Castagnoli, iSCSI RFC 3720 appendix B.4) and SipHash-2-4 (Aumasson and Bernstein 2012). */
#ifndef FS_CHECKSUM_H
#define FS_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

struct ash_super;

/* CRC32C of `length` bytes, continuing from `seed` (the result of an earlier call, or a start value). */
uint32_t ash_crc32c(uint32_t seed, const void *data, size_t length);
/* Of a metadata block with a struct ash_block_header: crc field taken as zero, group table rule included. */
uint32_t ash_block_crc(uint32_t seed, const void *block);
/* Of a 512-byte inode record, crc field taken as zero. */
uint32_t ash_inode_crc(uint32_t seed, const void *record);
uint64_t ash_siphash(const uint8_t key[16], const void *data, size_t length);

/* NULL, or what cannot be in the geometry that a superblock tells of. The engine and fsck judge by this one rule. */
const char *ash_geometry_wrong(const struct ash_super *super);

#endif
