/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Damaging the places of fields: see sites.h. */
#include "sites.h"

#include "fs/checksum.h"

const char *const seal_names[SEALS] = { "wrong checksum", "right checksum", "right checksums around it" };

bool site_can_seal(const struct site *site, enum seal seal)
{
	if (site->cover == COVER_NONE)
		return seal == SEAL_WRONG;
	if (site->field.kind == F_CHECKSUM && seal != SEAL_WRONG)
		return site->cover == COVER_TABLE && seal == SEAL_OUTER;
	return seal != SEAL_OUTER || site->cover == COVER_TABLE || site->cover == COVER_LOG;
}

static bool same_kind(const struct site *a, const struct site *b)
{
	return a->structure == b->structure && a->field.size == b->field.size && a->field.name == b->field.name &&
	       (a->block != b->block || a->offset != b->offset);
}

/* The bytes of the next site of the same kind: of another owner, if that is asked for. */
static bool borrow(struct image *image, const struct sites *sites, size_t index, bool other, uint8_t *bytes)
{
	const struct site *site = &sites->items[index];
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	for (size_t i = 1; i < sites->count; i++) {
		const struct site *lender = &sites->items[(index + i) % sites->count];

		if (!same_kind(site, lender) || (other && lender->owner == site->owner))
			continue;
		image_read(image, lender->block, data);
		memcpy(bytes, data + lender->offset, site->field.size);
		return true;
	}
	return false;
}

static uint64_t block_number(struct image *image, const struct site *site, enum change change)
{
	uint64_t blocks = ash_get64(image->super.block_count);

	switch (change) {
	case CHANGE_SELF:
		return site->block;
	case CHANGE_OUTSIDE:
		return blocks;
	case CHANGE_FAR:
		return blocks + (1ull << 40);
	case CHANGE_LOG:
		return ash_get64(image->super.log_start) + 5;
	case CHANGE_BITMAP:
		return ash_group_bitmap(0);
	default:
		return locate_table_block(image, 3);
	}
}

static uint64_t inode_number(struct image *image, const struct site *site, enum change change)
{
	uint64_t inodes = ash_get64(image->super.inode_runs) * ash_get32(image->super.inodes_per_run);

	switch (change) {
	case CHANGE_SELF:
		return site->owner;
	case CHANGE_OUTSIDE:
		return inodes;
	case CHANGE_FAR:
		return inodes + (1ull << 40);
	case CHANGE_LOG:
		return ASH_INO_TABLE;
	case CHANGE_BITMAP:
		return 5;
	default:
		return ASH_INO_ROOT;
	}
}

bool site_change(struct image *image, const struct sites *sites, size_t index, enum change change, void *data)
{
	const struct site *site = &sites->items[index];
	uint8_t *bytes = (uint8_t *)data + site->offset, borrowed[ASH_BLOCK_SIZE];
	uint32_t size = site->field.size;
	ash_le64 number;

	if (change < CHANGE_NUMBERS)
		return change_bytes(bytes, size, change);
	if (change == CHANGE_NEIGHBOUR || change == CHANGE_OTHER) {
		if (!borrow(image, sites, index, change == CHANGE_OTHER, borrowed))
			return false;
	} else {
		if ((site->field.kind != F_BLOCK && site->field.kind != F_INODE) || size != sizeof(number))
			return false;
		number = ash_put64(site->field.kind == F_BLOCK ? block_number(image, site, change) :
								 inode_number(image, site, change));
		memcpy(borrowed, &number, sizeof(number));
	}
	if (!memcmp(bytes, borrowed, size))
		return false;
	memcpy(bytes, borrowed, size);
	return true;
}

void site_put(struct image *image, const struct site *site, void *data, enum seal seal)
{
	struct ash_inode *record;
	uint64_t ring = ash_get64(image->super.log_start) + 2;

	if (site->cover == COVER_TABLE)
		record = (void *)((uint8_t *)data + offsetof(struct ash_super, table_inode));
	else
		record = (void *)((uint8_t *)data + site->offset / ASH_INODE_SIZE * ASH_INODE_SIZE);
	if (seal == SEAL_RIGHT && (site->cover == COVER_RECORD || site->cover == COVER_TABLE))
		record->crc = ash_put32(ash_inode_crc(image->seed, record));
	if (seal != SEAL_WRONG && site->cover != COVER_RECORD)
		block_seal(image, data);
	image_write(image, site->block, data);
	if (site->cover == COVER_LOG && seal == SEAL_OUTER)
		log_rechain(image, site->block - ring);
}
