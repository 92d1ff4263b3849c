/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a program elsewhere does with the installed library: a volume in memory, written, closed, and read again. */
#include <ashlar/ashlar.h>
#include <ashlar/blockdev.h>
#include <ashlar/format.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int write_file(struct bdev *dev, const char *text, char *error)
{
	struct ash_create create = { .mode = S_IFREG | 0644 };
	struct ash_volume *volume;
	struct ash_attr attr;
	int rc = ash_open(dev, NULL, &volume, error);

	if (rc)
		return rc;
	rc = ash_create(volume, ASH_INO_ROOT, "hello", &create, &attr);
	if (!rc && ash_write(volume, attr.ino, text, strlen(text), 0, 0) != (int64_t)strlen(text))
		rc = -1;
	int closed = ash_close(volume);
	return rc ? rc : closed;
}

static int read_file(struct bdev *dev, char *text, size_t length, char *error)
{
	struct ash_volume *volume;
	struct ash_attr attr;
	int rc = ash_open(dev, NULL, &volume, error);

	if (rc)
		return rc;
	rc = ash_lookup(volume, ASH_INO_ROOT, "hello", &attr);
	int64_t got = rc ? rc : ash_read(volume, attr.ino, text, length - 1, 0);
	text[got < 0 ? 0 : got] = '\0';
	int closed = ash_close(volume);
	return got < 0 ? (int)got : closed;
}

int main(void)
{
	struct ash_mkfs_options options = { .label = "program" };
	char error[BDEV_ERROR_TEXT] = "", text[64] = "";
	struct bdev *dev;
	int rc = bdev_open("mem:64M", NULL, &dev, error);

	if (rc) {
		fprintf(stderr, "%s\n", error);
		return 1;
	}
	rc = ash_mkfs(dev, &options, error);
	if (!rc)
		rc = write_file(dev, "kept", error);
	if (!rc)
		rc = read_file(dev, text, sizeof(text), error);
	if (rc)
		fprintf(stderr, "%d %s\n", rc, error);
	bdev_close(dev);
	printf("%s with %s\n", text, ash_version());
	return rc || strcmp(text, "kept") != 0;
}
