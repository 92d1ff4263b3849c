/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The node checker: what it lets through must be readable to the last byte, sorted, and inside the node. */
#include "fuzz.h"

#include <stdlib.h>
#include "fs/btree.h"

const struct fuzz_harness fuzz_harness;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t sizes[] = { ASH_TREE_NODE_SIZE, ASH_DATA_FORK_SIZE, ASH_ATTR_FORK_SIZE }, length;
	uint32_t node_size = size ? sizes[data[0] % 3] : ASH_DATA_FORK_SIZE;
	uint8_t *node = malloc(node_size); /* exactly as large, so that a sanitizer sees a byte too far */
	uint64_t key, previous = 0;
	const uint8_t *value;
	volatile uint8_t sum = 0;

	if (!node)
		return 0;
	memset(node, 0, node_size);
	if (size > 1)
		memcpy(node, data + 1, size - 1 < node_size ? size - 1 : node_size);
	if (!ash_node_check(node, node_size, UINT32_MAX))
		for (uint32_t i = 0; i < ash_node_count(node); i++) {
			ash_node_record(node, i, &key, &value, &length);
			if (value < node || value + length > node + node_size)
				fuzz_fail("record %u lies outside the node", i);
			if (i > (ash_node_level(node) ? 1u : 0u) && key <= previous)
				fuzz_fail("keys are not sorted");
			previous = key;
			for (uint32_t j = 0; j < length; j++)
				sum = (uint8_t)(sum + value[j]);
		}
	free(node);
	return 0;
}
