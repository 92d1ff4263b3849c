/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ash_node_check() on plain memory: what it accepts, what it names, and that it accepts only what can be read (I8). */
#include <criterion/criterion.h>

#include "fs/btree_node.h"
#include "tree_fixture.h"

struct page {
	struct ash_node_image image;
	uint8_t *bytes;
};

static void page_make(struct page *page, uint32_t level, uint32_t count)
{
	struct ash_node_header header;
	uint8_t value[64] = { 0 };

	ash_node_image_begin(&page->image, ASH_TREE_NODE_SIZE, level);
	memset(page->image.bytes, 0, sizeof(page->image.bytes));
	for (uint32_t i = 0; i < count; i++)
		ash_node_image_add(&page->image, 10 + i * 10, value, level ? 8 : i % 64);
	header = (struct ash_node_header){ ash_put16((uint16_t)level), ash_put16((uint16_t)count),
					   ash_put16((uint16_t)page->image.heap_start), ash_put16(0) };
	memcpy(page->image.bytes, &header, sizeof(header));
	page->bytes = page->image.bytes;
}

static void put16(struct page *page, uint32_t offset, uint32_t value)
{
	page->bytes[offset] = (uint8_t)value;
	page->bytes[offset + 1] = (uint8_t)(value >> 8);
}

static uint32_t get16(const struct page *page, uint32_t offset)
{
	return page->bytes[offset] | (uint32_t)page->bytes[offset + 1] << 8;
}

Test(node_check, accepts_good_nodes)
{
	struct page page;

	for (uint32_t count = 0; count < 60; count++) {
		page_make(&page, 0, count);
		cr_assert_null(ash_node_check(page.bytes, ASH_TREE_NODE_SIZE, 0));
		cr_assert_null(ash_node_check(page.bytes, ASH_TREE_NODE_SIZE, UINT32_MAX));
		cr_assert_eq(ash_node_count(page.bytes), count);
	}
	page_make(&page, 3, 200);
	cr_assert_null(ash_node_check(page.bytes, ASH_TREE_NODE_SIZE, 3));
}

Test(node_check, names_what_is_wrong)
{
	struct page page;

#define EXPECT(text)                                                                                     \
	cr_assert_str_eq(ash_node_check(page.bytes, ASH_TREE_NODE_SIZE, UINT32_MAX) ?: "nothing", text); \
	page_make(&page, 0, 20)

	page_make(&page, 0, 20);
	cr_assert_str_eq(ash_node_check(page.bytes, ASH_TREE_NODE_SIZE, 1), "tree level is wrong");
	put16(&page, 0, ASH_TREE_MAX_LEVEL + 1);
	EXPECT("tree level too high");
	put16(&page, 2, 2500);
	EXPECT("tree node header is wrong");
	put16(&page, 4, ASH_TREE_NODE_SIZE + 2);
	EXPECT("tree node header is wrong");
	put16(&page, 4, get16(&page, 4) + 1);
	EXPECT("tree node header is wrong");
	put16(&page, 6, 2);
	EXPECT("tree node free space is wrong");
	put16(&page, 8, get16(&page, 4) - 2);
	EXPECT("tree node slot out of bounds");
	put16(&page, 8, ASH_TREE_NODE_SIZE - 2);
	EXPECT("tree node slot out of bounds");
	put16(&page, 8, get16(&page, 8) + 1);
	EXPECT("tree node slot out of bounds");
	put16(&page, get16(&page, 8) + 8, 900);
	EXPECT("tree record out of bounds");
	put16(&page, 10, get16(&page, 8));
	EXPECT("tree records overlap");
	put16(&page, get16(&page, 12), 20);
	EXPECT("tree keys out of order");
	put16(&page, 0, 1);
	EXPECT("tree child pointer of wrong length");
	page_make(&page, 1, 0);
	EXPECT("inner tree node without children");
#undef EXPECT
	/* The first key of an inner node may be anything. */
	page_make(&page, 1, 20);
	put16(&page, get16(&page, 8), 5000);
	cr_assert_null(ash_node_check(page.bytes, ASH_TREE_NODE_SIZE, 1));
}

/* Whatever it accepts can be read within the node. */
Test(node_check, accepts_only_what_can_be_read)
{
	uint64_t random = 4;
	unsigned accepted = 0;

	for (unsigned round = 0; round < 200000; round++) {
		struct page page;
		uint8_t *exact = malloc(ASH_TREE_NODE_SIZE);
		uint64_t dice = fixture_random(&random), sum = 0;

		page_make(&page, dice >> 8 & 1, dice % 40 + 1);
		memcpy(exact, page.bytes, ASH_TREE_NODE_SIZE);
		for (unsigned i = 0; i < 1 + dice % 3; i++) {
			uint64_t where = fixture_random(&random);
			uint32_t range = where % 3 ? ASH_TREE_NODE_SIZE : 100;

			exact[where % range] ^= (uint8_t)(1u << (where >> 40) % 8);
		}
		if (!ash_node_check(exact, ASH_TREE_NODE_SIZE, UINT32_MAX)) {
			accepted++;
			for (uint32_t i = 0; i < ash_node_count(exact); i++) {
				uint64_t key;
				const uint8_t *value;
				uint32_t length;

				ash_node_record(exact, i, &key, &value, &length);
				cr_assert(value >= exact + 8 && value + length <= exact + ASH_TREE_NODE_SIZE);
				for (uint32_t j = 0; j < length; j++)
					sum += value[j];
			}
		}
		cr_assert(sum < UINT64_MAX);
		free(exact);
	}
	cr_assert(accepted > 1000);
}
