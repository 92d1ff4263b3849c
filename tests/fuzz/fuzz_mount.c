/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mount a damaged volume, walk and read it all, change it, close it: errors, never a crash or a hang. */
#include "fuzz.h"

const struct fuzz_harness fuzz_harness;

/* Results do not matter: what the damage makes of them is its affair. */
static void change(struct ash_volume *volume, const struct image *image)
{
	static const uint8_t bytes[9000] = { 1 };
	const char *const names[] = { "inline", "block", "extents", "unwritten", "short", "attributes" };
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_attr attr;
	uint64_t removed;

	if (!ash_create(volume, ASH_INO_ROOT, "new", &create, &attr)) {
		ash_write(volume, attr.ino, bytes, sizeof(bytes), 100, 0);
		ash_forget(volume, attr.ino, 1);
	}
	ash_write(volume, image->extent_file, bytes, sizeof(bytes), 4000, 0);
	ash_setxattr(volume, image->attribute_file, "user.new", bytes, 600, 0);
	ash_rename(volume, ASH_INO_ROOT, "small", ASH_INO_ROOT, "renamed", 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		ash_unlink(volume, ASH_INO_ROOT, names[i], &removed);
	ash_rmdir(volume, image->small_directory, "child", &removed);
	ash_sync(volume);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image *image = fuzz_image(size && data[0] & 1);
	struct ash_open_options options = { .no_threads = true,
					    .log = quiet_log,
					    .continue_on_damage = size && data[0] & 2 };
	struct ash_volume *volume;
	struct manifest walked;
	char error[BDEV_ERROR_TEXT];

	if (size)
		fuzz_patch(image, data + 1, size - 1);
	options.no_write = true;
	if (!manifest_take(image->dev, &options, &walked))
		manifest_free(&walked);
	options.no_write = false;
	if (!ash_open(image->dev, &options, &volume, error)) {
		change(volume, image);
		ash_close(volume);
	}
	if (image_outside(image))
		fuzz_fail("something was written behind the volume's end");
	return 0;
}
