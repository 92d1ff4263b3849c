/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log reader: the input patches control and log blocks of a volume that was not closed; checksums and the chain of
 * predecessors are made right again, so that damage reaches the records and items.
 */
#include "fuzz.h"

#include "fs/recover.h"

static bool wants(const struct site *site)
{
	return site->cover == COVER_LOG || site->structure == S_LOG_CONTROL;
}
const struct fuzz_harness fuzz_harness = { .wants = wants, .only_open = true };

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image *image = fuzz_image(false);
	struct ash_overlay *overlay;
	char error[BDEV_ERROR_TEXT];
	const uint64_t *orphans;
	uint64_t sum = 0;
	size_t count;

	if (size)
		fuzz_patch(image, data + 1, size - 1);
	if (size && data[0] & 2)
		log_rechain(image, 0);
	if (ash_overlay_open(image->dev, &image->super, &overlay, error))
		return 0;
	ash_overlay_each(overlay, touch, &sum);
	ash_overlay_each_record(overlay, view, &sum);
	ash_overlay_orphans(overlay, &orphans, &count);
	for (size_t i = 0; i < count; i++)
		sum += orphans[i];
	ash_overlay_close(overlay);
	return 0;
}
