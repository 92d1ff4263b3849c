/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check a damaged volume: a look writes nothing; a repair that says it left nothing is followed by a look that finds
 * nothing, and by a mount that can walk everything.
 */
#include "fuzz.h"

#include <string.h>

const struct fuzz_harness fuzz_harness;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image *image = fuzz_image(!size || data[0] & 1);
	struct ash_check_options look = { .mode = ASH_CHECK_NO }, repair = { .mode = ASH_CHECK_YES, .force = true };
	struct ash_open_options options = { .no_write = true, .no_threads = true };
	struct ash_check_result result;
	struct manifest walked;
	uint64_t writes;
	int error;

	if (size)
		fuzz_patch(image, data + 1, size - 1);
	writes = image->writes;
	ash_check(image->dev, &look, &result);
	if (image->writes != writes)
		fuzz_fail("a look wrote to the device");
	error = ash_check(image->dev, &repair, &result);
	if (image_outside(image))
		fuzz_fail("something was written behind the volume's end");
	if (error || result.left)
		return 0;
	error = ash_check(image->dev, &look, &result);
	if (error || result.problems)
		fuzz_fail("not clean after the repair: %s", error ? result.error : result.first);
	error = manifest_take(image->dev, &options, &walked);
	if (error)
		fuzz_fail("does not open after the repair: %s", strerror(-error));
	error = walked.error;
	manifest_free(&walked);
	if (error)
		fuzz_fail("cannot be walked after the repair: %s", strerror(-error));
	return 0;
}
