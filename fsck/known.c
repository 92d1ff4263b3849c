/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is known of each inode: its state and links, and its bit in the bitmap of its run.
 *
 * A bitmap of one block can call 32 256 inodes used, or all their records written, of which there is none: so memory
 * is taken in pieces, where something is known, and loops pass over the others. A piece is as much as a few records
 * take on the device. Nor do inodes in holes of the table take any, of which a bitmap is enough to claim as many. No
 * locks: one thread.
 */
#include "internal.h"

#include <stdlib.h>

#define PIECE 512u     /* inodes */
#define BIT_BYTES 512u /* of bitmap in one piece */

struct known {
	struct inode_info info[PIECE];
	uint8_t state[PIECE];
};

int known_open(struct checker *checker)
{
	checker->known = calloc(checker->inode_count / PIECE + 1, sizeof(*checker->known));
	checker->inode_bits = calloc(checker->inode_count / 8 / BIT_BYTES + 1, sizeof(*checker->inode_bits));
	return checker->known && checker->inode_bits ? 0 : -ENOMEM;
}

void known_close(struct checker *checker)
{
	for (uint64_t i = 0; checker->known && i <= checker->inode_count / PIECE; i++)
		free(checker->known[i]);
	for (uint64_t i = 0; checker->inode_bits && i <= checker->inode_count / 8 / BIT_BYTES; i++)
		free(checker->inode_bits[i]);
	free(checker->known);
	free(checker->inode_bits);
	LIST_FREE(&checker->unplaced);
	checker->known = NULL;
	checker->inode_bits = NULL;
}

static bool inode_unplaced(const struct checker *checker, uint64_t ino)
{
	size_t behind = LIST_FROM(&checker->unplaced, ino + 1);

	return behind && ino < checker->unplaced.items[behind - 1].end;
}

uint8_t inode_state(const struct checker *checker, uint64_t ino)
{
	const struct known *known = checker->known[ino / PIECE];
	uint8_t state = known ? known->state[ino % PIECE] : 0;

	return checker->unplaced.count && inode_unplaced(checker, ino) ? state | INODE_DAMAGED : state;
}

int inode_state_add(struct checker *checker, uint64_t ino, uint8_t bits)
{
	struct known **known = &checker->known[ino / PIECE];

	if (!*known)
		*known = calloc(1, sizeof(**known));
	if (!*known)
		return -ENOMEM;
	(*known)->state[ino % PIECE] |= bits;
	return 0;
}

void inode_state_drop(struct checker *checker, uint64_t ino, uint8_t bits)
{
	struct known *known = checker->known[ino / PIECE];

	if (known)
		known->state[ino % PIECE] &= (uint8_t)~bits;
}

struct inode_info *inode_info(const struct checker *checker, uint64_t ino)
{
	return &checker->known[ino / PIECE]->info[ino % PIECE];
}

uint64_t inode_known_from(const struct checker *checker, uint64_t ino, uint64_t end)
{
	while (ino < end && !checker->known[ino / PIECE])
		ino = (ino / PIECE + 1) * PIECE;
	return ino < end ? ino : end;
}

/* ---- Bits ---- */

bool inode_bit(const struct checker *checker, uint64_t ino)
{
	const uint8_t *bits = checker->inode_bits[ino / 8 / BIT_BYTES];

	return bits && bit_test(bits, ino % (8 * BIT_BYTES));
}

int inode_bits_put(struct checker *checker, uint64_t run, const uint8_t *bits)
{
	uint64_t bytes = checker->inodes_per_run / 8, first = run * bytes;

	for (uint64_t i = 0; i < bytes; i++) {
		uint8_t **piece = &checker->inode_bits[(first + i) / BIT_BYTES];

		if (!*piece && bits[i])
			*piece = calloc(1, BIT_BYTES);
		if (*piece)
			(*piece)[(first + i) % BIT_BYTES] = bits[i];
		else if (bits[i])
			return -ENOMEM;
	}
	return 0;
}

void inode_bits_get(const struct checker *checker, uint64_t run, uint8_t *bits)
{
	uint64_t bytes = checker->inodes_per_run / 8, first = run * bytes;

	for (uint64_t i = 0; i < bytes; i++) {
		const uint8_t *piece = checker->inode_bits[(first + i) / BIT_BYTES];

		bits[i] = piece ? piece[(first + i) % BIT_BYTES] : 0;
	}
}

uint64_t inode_bits_count(const struct checker *checker)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i <= checker->inode_count / 8 / BIT_BYTES; i++)
		for (uint32_t byte = 0; checker->inode_bits[i] && byte < BIT_BYTES; byte++)
			count += (uint64_t)__builtin_popcount(checker->inode_bits[i][byte]);
	return count;
}
