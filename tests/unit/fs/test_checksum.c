/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CRC32C against the vectors of RFC 3720 appendix B.4 and a bitwise implementation; SipHash-2-4 against the vectors of
 * its reference implementation (Aumasson and Bernstein, vectors.h: key 00..0f, message 00, 01, 02 ... of each length).
 */
#include <criterion/criterion.h>
#include <string.h>

#include <ashlar/format.h>
#include "fs/checksum.h"

static uint32_t crc_bitwise(uint32_t seed, const uint8_t *p, size_t length)
{
	uint32_t crc = ~seed;

	while (length--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
	}
	return ~crc;
}

static void fill(uint8_t *p, size_t length, uint8_t first, int step)
{
	for (size_t i = 0; i < length; i++)
		p[i] = (uint8_t)(first + (int)i * step);
}

Test(crc32c, rfc3720_vectors)
{
	static const uint8_t read_command[48] = {
		0x01, 0xc0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18,
		0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
	};
	uint8_t data[32];

	memset(data, 0, sizeof(data));
	cr_assert_eq(ash_crc32c(0, data, 32), 0x8a9136aau);
	memset(data, 0xff, sizeof(data));
	cr_assert_eq(ash_crc32c(0, data, 32), 0x62a8ab43u);
	fill(data, 32, 0, 1);
	cr_assert_eq(ash_crc32c(0, data, 32), 0x46dd794eu);
	fill(data, 32, 31, -1);
	cr_assert_eq(ash_crc32c(0, data, 32), 0x113fdb5cu);
	cr_assert_eq(ash_crc32c(0, read_command, sizeof(read_command)), 0xd9963a56u);
	cr_assert_eq(ash_crc32c(0, "123456789", 9), 0xe3069283u);
}

Test(crc32c, equals_bitwise_for_every_length_and_alignment)
{
	uint8_t data[160];

	fill(data, sizeof(data), 7, 37);
	for (size_t offset = 0; offset < 9; offset++)
		for (size_t length = 0; length <= 140; length++)
			cr_assert_eq(ash_crc32c(0x12345678u, data + offset, length),
				     crc_bitwise(0x12345678u, data + offset, length));
}

Test(crc32c, continues_from_the_result_of_a_part)
{
	uint8_t data[100];

	fill(data, sizeof(data), 3, 5);
	for (size_t cut = 0; cut <= sizeof(data); cut++)
		cr_assert_eq(ash_crc32c(ash_crc32c(9, data, cut), data + cut, sizeof(data) - cut),
			     ash_crc32c(9, data, sizeof(data)));
}

Test(block_crc, takes_the_crc_field_as_zero)
{
	uint8_t block[ASH_BLOCK_SIZE], zeroed[ASH_BLOCK_SIZE];

	fill(block, sizeof(block), 1, 11);
	memcpy(zeroed, block, sizeof(block));
	memset(zeroed + 4, 0, 4);
	cr_assert_eq(ash_block_crc(77, block), crc_bitwise(77, zeroed, sizeof(zeroed)));
	block[4] ^= 0xff;
	cr_assert_eq(ash_block_crc(77, block), crc_bitwise(77, zeroed, sizeof(zeroed)));
	block[4095] ^= 1;
	cr_assert_neq(ash_block_crc(77, block), crc_bitwise(77, zeroed, sizeof(zeroed)));
}

Test(block_crc, superblock_starts_with_zero)
{
	struct ash_super super;

	memset(&super, 0, sizeof(super));
	super.header.magic = ash_put32(ASH_MAGIC_SUPER);
	cr_assert_eq(ash_block_crc(77, &super), crc_bitwise(0, (const uint8_t *)&super, sizeof(super)));
}

Test(block_crc, group_table_ends_before_the_free_counts)
{
	struct ash_group_table_block table;
	uint32_t crc;

	memset(&table, 0, sizeof(table));
	table.header.magic = ash_put32(ASH_MAGIC_GROUP_TABLE);
	crc = ash_block_crc(77, &table);
	table.free_blocks[0] = ash_put32(1);
	cr_assert_eq(ash_block_crc(77, &table), crc);
	table.flags[ASH_GROUPS_PER_TABLE_BLOCK - 1] = ash_put32(1);
	cr_assert_neq(ash_block_crc(77, &table), crc);
}

Test(inode_crc, takes_the_crc_field_as_zero)
{
	uint8_t record[ASH_INODE_SIZE], zeroed[ASH_INODE_SIZE];

	fill(record, sizeof(record), 9, 13);
	memcpy(zeroed, record, sizeof(record));
	memset(zeroed + 4, 0, 4);
	cr_assert_eq(ash_inode_crc(5, record), crc_bitwise(5, zeroed, sizeof(zeroed)));
}

Test(siphash, reference_vectors)
{
	static const uint64_t expected[] = {
		0x726fdb47dd0e0e31ull, 0x74f839c593dc67fdull, 0x0d6c8009d9a94f5aull, 0x85676696d7fb7e2dull,
		0xcf2794e0277187b7ull, 0x18765564cd99a68dull, 0xcbc9466e58fee3ceull, 0xab0200f58b01d137ull,
		0x93f5f5799a932462ull, 0x9e0082df0ba9e4b0ull, 0x7a5dbbc594ddb9f3ull, 0xf4b32f46226bada7ull,
		0x751e8fbc860ee5fbull, 0x14ea5627c0843d90ull, 0xf723ca908e7af2eeull, 0xa129ca6149be45e5ull,
	};
	uint8_t key[16], message[16];

	fill(key, sizeof(key), 0, 1);
	fill(message, sizeof(message), 0, 1);
	for (size_t length = 0; length < sizeof(expected) / sizeof(expected[0]); length++)
		cr_assert_eq(ash_siphash(key, message, length), expected[length], "length %zu", length);
}

Test(siphash, depends_on_the_key)
{
	uint8_t one[16] = { 1 }, two[16] = { 2 };

	cr_assert_neq(ash_siphash(one, "name", 4), ash_siphash(two, "name", 4));
}
