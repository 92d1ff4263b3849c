/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Superblocks with a right checksum and any content: opened, checked, never a crash; -n and an open without writing write nothing. */
#include "fuzz.h"

#include <stdlib.h>
#include "fs/checksum.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image *image = fuzz_image(true);
	struct ash_open_options options = { .no_write = true, .no_threads = true };
	struct ash_check_options look = { .mode = ASH_CHECK_NO };
	struct ash_check_result result;
	struct ash_super super = image->super;
	struct manifest walked;
	uint64_t writes;

	/* Pairs of offset and byte, behind the magics. */
	for (size_t i = 0; i + 3 <= size; i += 3) {
		size_t at = 48 + (size_t)(data[i] | data[i + 1] << 8) % (sizeof(super) - 48);

		((uint8_t *)&super)[at] = data[i + 2];
	}
	super.header.crc = ash_put32(ash_block_crc(0, &super));
	image_write(image, 0, &super);
	writes = image->writes;
	if (!manifest_take(image->dev, &options, &walked))
		manifest_free(&walked);
	ash_check(image->dev, &look, &result);
	if (image->writes != writes)
		fuzz_fail("a look wrote to the device");
	return 0;
}
