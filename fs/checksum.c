/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checksums. CRC32C uses the SSE4.2 instruction where the processor has it (three interleaved streams
 * would be faster still, but blocks are small), otherwise a table. No state, no locks.
 */
#include "checksum.h"

#include <ashlar/format.h>
#include <pthread.h>
#include <string.h>

static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void crc_table_build(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
		crc_table[0][i] = crc;
	}
	for (uint32_t i = 0; i < 256; i++)
		for (int slice = 1; slice < 8; slice++)
			crc_table[slice][i] = (crc_table[slice - 1][i] >> 8) ^
					      crc_table[0][crc_table[slice - 1][i] & 0xff];
}

static uint32_t crc_software(uint32_t crc, const uint8_t *p, size_t length)
{
	pthread_once(&crc_once, crc_table_build);
	while (length >= 8) {
		uint64_t word;

		memcpy(&word, p, 8);
		word = le64toh(word) ^ crc;
		crc = crc_table[7][word & 0xff] ^ crc_table[6][(word >> 8) & 0xff] ^ crc_table[5][(word >> 16) & 0xff] ^
		      crc_table[4][(word >> 24) & 0xff] ^ crc_table[3][(word >> 32) & 0xff] ^
		      crc_table[2][(word >> 40) & 0xff] ^ crc_table[1][(word >> 48) & 0xff] ^ crc_table[0][word >> 56];
		p += 8;
		length -= 8;
	}
	while (length--)
		crc = (crc >> 8) ^ crc_table[0][(crc ^ *p++) & 0xff];
	return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_hardware(uint32_t crc, const uint8_t *p, size_t length)
{
	uint64_t wide = crc;

	while (length >= 8) {
		uint64_t word;

		memcpy(&word, p, 8);
		wide = __builtin_ia32_crc32di(wide, word);
		p += 8;
		length -= 8;
	}
	crc = (uint32_t)wide;
	while (length--)
		crc = __builtin_ia32_crc32qi(crc, *p++);
	return crc;
}
#endif

uint32_t ash_crc32c(uint32_t seed, const void *data, size_t length)
{
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_hardware(~seed, data, length);
#endif
	return ~crc_software(~seed, data, length);
}

static uint32_t crc_skipping_field(uint32_t seed, const uint8_t *p, size_t length)
{
	static const uint8_t zero[4];
	uint32_t crc = ash_crc32c(seed, p, 4);

	crc = ash_crc32c(crc, zero, 4);
	return ash_crc32c(crc, p + 8, length - 8);
}

static_assert(offsetof(struct ash_block_header, crc) == 4, "crc field");
static_assert(offsetof(struct ash_inode, crc) == 4, "crc field");

uint32_t ash_block_crc(uint32_t seed, const void *block)
{
	const struct ash_block_header *header = block;
	size_t length = ASH_BLOCK_SIZE;

	if (ash_get32(header->magic) == ASH_MAGIC_GROUP_TABLE)
		length = ASH_GROUP_TABLE_CRC_LENGTH;
	if (ash_get32(header->magic) == ASH_MAGIC_SUPER)
		seed = 0;
	return crc_skipping_field(seed, block, length);
}

uint32_t ash_inode_crc(uint32_t seed, const void *record)
{
	return crc_skipping_field(seed, record, ASH_INODE_SIZE);
}

static inline uint64_t rotate(uint64_t x, int b)
{
	return (x << b) | (x >> (64 - b));
}

#define SIP_ROUND                    \
	do {                         \
		v0 += v1;            \
		v1 = rotate(v1, 13); \
		v1 ^= v0;            \
		v0 = rotate(v0, 32); \
		v2 += v3;            \
		v3 = rotate(v3, 16); \
		v3 ^= v2;            \
		v0 += v3;            \
		v3 = rotate(v3, 21); \
		v3 ^= v0;            \
		v2 += v1;            \
		v1 = rotate(v1, 17); \
		v1 ^= v2;            \
		v2 = rotate(v2, 32); \
	} while (0)

uint64_t ash_siphash(const uint8_t key[16], const void *data, size_t length)
{
	const uint8_t *p = data;
	uint64_t k0, k1, word;
	uint64_t last = (uint64_t)length << 56;

	memcpy(&k0, key, 8);
	memcpy(&k1, key + 8, 8);
	k0 = le64toh(k0);
	k1 = le64toh(k1);
	uint64_t v0 = 0x736f6d6570736575ull ^ k0, v1 = 0x646f72616e646f6dull ^ k1;
	uint64_t v2 = 0x6c7967656e657261ull ^ k0, v3 = 0x7465646279746573ull ^ k1;

	for (; length >= 8; p += 8, length -= 8) {
		memcpy(&word, p, 8);
		word = le64toh(word);
		v3 ^= word;
		SIP_ROUND;
		SIP_ROUND;
		v0 ^= word;
	}
	for (size_t i = 0; i < length; i++)
		last |= (uint64_t)p[i] << (8 * i);
	v3 ^= last;
	SIP_ROUND;
	SIP_ROUND;
	v0 ^= last;
	v2 ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}
