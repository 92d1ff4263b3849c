/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log reader: the input patches log blocks of a volume that was not closed; checksums and the chain of
 * predecessors are made right again, so that damage reaches the records and items.
 */
#include "fuzz.h"

#include "fs/checksum.h"
#include "fs/recover.h"

static int touch(void *context, uint64_t block, const uint8_t *bytes)
{
	uint64_t *sum = context;

	*sum += block + bytes[0] + bytes[ASH_BLOCK_SIZE - 1];
	return 0;
}

static int view(void *context, const struct ash_log_view *record)
{
	uint64_t *sum = context;

	*sum += record->record[record->length - 1];
	return 0;
}

static void mend_chain(struct image *image)
{
	uint64_t start = ash_get64(image->super.log_start) + 2, count = ash_get64(image->super.log_blocks) - 2;
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	struct ash_log_block *block = (void *)data;
	ash_le32 previous = { 0 };

	for (uint64_t i = 0; i < count; i++) {
		image_read(image, start + i, data);
		if (ash_get32(block->header.magic) != ASH_MAGIC_LOG_BLOCK)
			return;
		if (i)
			block->previous_crc = previous;
		block->header.crc = previous = ash_put32(ash_block_crc(image->seed, data));
		image_write(image, start + i, data);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image *image = fuzz_image(false);
	uint64_t start = ash_get64(image->super.log_start) + 2, sum = 0;
	uint8_t block[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	struct ash_overlay *overlay;
	char error[BDEV_ERROR_TEXT];

	for (; size >= 4; data += 4, size -= 4) {
		uint64_t at = start + data[0] % 64;

		image_read(image, at, block);
		block[40 + (data[1] | data[2] << 8) % (ASH_BLOCK_SIZE - 40)] = data[3];
		image_write(image, at, block);
	}
	mend_chain(image);
	if (ash_overlay_open(image->dev, &image->super, &overlay, error))
		return 0;
	ash_overlay_each(overlay, touch, &sum);
	ash_overlay_each_record(overlay, view, &sum);
	ash_overlay_close(overlay);
	return 0;
}
