/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Superblocks and backups with a right checksum and any content: opened, checked, never a crash; -n and an open without
 * writing write nothing. Then mounted and closed: nothing is written outside.
 */
#include "fuzz.h"

static bool wants(const struct site *site)
{
	return site->structure == S_SUPER || site->cover == COVER_TABLE;
}
const struct fuzz_harness fuzz_harness = { .wants = wants };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image *image = fuzz_image(size && data[0] & 1);
	struct ash_open_options options = { .no_write = true, .no_threads = true, .log = quiet_log };
	struct ash_check_options look = { .mode = ASH_CHECK_NO };
	struct ash_check_result result;
	struct ash_volume *volume;
	struct manifest walked;
	char error[BDEV_ERROR_TEXT];
	uint64_t writes;

	if (size)
		fuzz_patch(image, data + 1, size - 1);
	writes = image->writes;
	if (!manifest_take(image->dev, &options, &walked))
		manifest_free(&walked);
	ash_check(image->dev, &look, &result);
	if (image->writes != writes)
		fuzz_fail("a look wrote to the device");
	options.no_write = false;
	if (!ash_open(image->dev, &options, &volume, error))
		ash_close(volume);
	if (image_outside(image))
		fuzz_fail("something was written behind the volume's end");
	return 0;
}
