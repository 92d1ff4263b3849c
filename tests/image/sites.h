/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every place of an image where a field of the format lies, and how to damage it there.
 *
 * Of long lists (tree nodes, records, log blocks) the first, the last and a few between count. Single-threaded.
 */
#ifndef TESTS_IMAGE_SITES_H
#define TESTS_IMAGE_SITES_H

#include "fields.h"
#include "image.h"

/* What protects a place. */
enum cover {
	COVER_NONE, /* plain data: long attribute values, whose checksum lies elsewhere */
	COVER_BLOCK,
	COVER_RECORD, /* an inode record's own */
	COVER_TABLE,  /* the table's record and the superblock around it */
	COVER_LOG,    /* the block's, and the chain to the next one */
};

enum seal {
	SEAL_WRONG, /* the checksum stays what it was */
	SEAL_RIGHT,
	SEAL_OUTER, /* COVER_TABLE: only the superblock's is right. COVER_LOG: right, and the chain behind it, too */
	SEALS,
};
extern const char *const seal_names[SEALS];

struct site {
	uint64_t block;
	uint32_t offset; /* of the field in the block */
	struct field field;
	enum structure structure;
	enum cover cover;
	uint64_t owner; /* inode that damage may cost; 0: none */
	bool spare;     /* damage to it is no inconsistency: one of two copies, something unused */
	char place[64];
};

struct sites {
	struct site *items;
	size_t count, space;
};
void sites_find(struct image *image, struct sites *out);
void sites_free(struct sites *sites);

/* Does this kind of seal differ from the others there? */
bool site_can_seal(const struct site *site, enum seal seal);
/* Damage the field in `data`, the site's block. False when that is no change. */
bool site_change(struct image *image, const struct sites *sites, size_t index, enum change change, void *data);
/* Write the damaged block. */
void site_put(struct image *image, const struct site *site, void *data, enum seal seal);

#endif
