/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is on a device: signatures and topology by libblkid (the only file that uses it), Ashlar volumes by
 * our own magic, which libblkid does not know. Who uses a device is in probe_use.c.
 *
 * Rules: opens read-only and closes again; a volume is taken for one only when the magic fits, its content is
 * checked later by whoever opens it.
 */
#include "mkfs/probe.h"

#include "mkfs/standard.h"

#include "fs/checksum.h"

#include <ashlar/format.h>

#include <blkid/blkid.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Our own volumes ---- */

static bool is_volume(const struct ash_super *super)
{
	return ash_get32(super->header.magic) == ASH_MAGIC_SUPER &&
	       memcmp(super->volume_magic, ASH_VOLUME_MAGIC, sizeof(super->volume_magic)) == 0;
}

/* One of the magics is enough to see that there was a volume: fsck.ashlar can repair the rest. */
static bool was_volume(const struct ash_super *super)
{
	return ash_get32(super->header.magic) == ASH_MAGIC_SUPER ||
	       memcmp(super->volume_magic, ASH_VOLUME_MAGIC, sizeof(super->volume_magic)) == 0;
}

/* 1: there is a whole block, 0: not. */
static int read_block(int fd, uint64_t address, struct ash_super *super)
{
	ssize_t got = pread(fd, super, sizeof(*super), (off_t)(address << ASH_BLOCK_SHIFT));

	return got < 0 ? -errno : (size_t)got == sizeof(*super);
}

static int read_super_if(const char *path, bool (*fits)(const struct ash_super *), struct ash_super *super)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), result;

	if (fd < 0)
		return -errno;
	result = read_block(fd, 0, super);
	if (result > 0)
		result = fits(super);
	close(fd);
	return result;
}

/* 1: `super` is that of a volume, 0: block 0 holds something else. */
static int read_super(const char *path, struct ash_super *super)
{
	return read_super_if(path, is_volume, super);
}

/* What cannot be read is no backup. */
static bool read_backup(int fd, uint64_t address, struct ash_super *super)
{
	return read_block(fd, address, super) > 0 && is_volume(super) && ash_get64(super->header.address) == address &&
	       ash_get32(super->header.crc) == ash_block_crc(0, super);
}

/* 1: a backup superblock where each volume has one, or each that takes all of its device; 0: none. */
static int find_backup(const char *path, struct ash_super *super)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	off_t size;
	bool found;

	if (fd < 0)
		return -errno;
	size = lseek(fd, 0, SEEK_END);
	found = read_backup(fd, ash_group_start(1), super) ||
		(size >= ASH_BLOCK_SIZE && read_backup(fd, (uint64_t)(size >> ASH_BLOCK_SHIFT) - 1, super));
	close(fd);
	return found;
}

/* A label for people: unprintable bytes as '?'. */
static void copy_label(char *out, size_t size, const char *label, size_t length)
{
	size_t i;

	for (i = 0; i < length && i + 1 < size && label[i]; i++)
		out[i] = label[i];
	out[i] = 0;
	standard_clean(out);
}

static int describe_volume(const char *kind, const struct ash_super *super, char what[PROBE_TEXT])
{
	char label[ASH_LABEL_SIZE + 1];

	copy_label(label, sizeof(label), super->label, ASH_LABEL_SIZE);
	if (label[0])
		snprintf(what, PROBE_TEXT, "contains %s Ashlar volume labelled '%s'", kind, label);
	else
		snprintf(what, PROBE_TEXT, "contains %s Ashlar volume", kind);
	return 1;
}

/* As udev does, with what a shell would take for more than a character replaced, too. */
static int encode_label(const char *label, struct probe_volume *out)
{
	if (!label[0])
		return 0;
	if (blkid_safe_string(label, out->label, sizeof(out->label)) ||
	    blkid_encode_string(label, out->label_encoded, sizeof(out->label_encoded)))
		return -EINVAL;
	for (char *p = out->label; *p; p++)
		if ((unsigned char)*p < 128 && !isalnum((unsigned char)*p) && !strchr("#+-.:=@_/%,", *p))
			*p = '_';
	return 0;
}

int probe_volume(const char *path, struct probe_volume *out)
{
	char label[ASH_LABEL_SIZE + 1] = "";
	struct ash_super super;
	int result = read_super(path, &super);

	memset(out, 0, sizeof(*out));
	if (result <= 0)
		return result;
	if (ash_get32(super.header.crc) != ash_block_crc(0, &super))
		return 0;
	memcpy(out->uuid, super.uuid, sizeof(out->uuid));
	out->version = ash_get32(super.version);
	memcpy(label, super.label, ASH_LABEL_SIZE);
	result = encode_label(label, out);
	return result ? result : 1;
}

/* ---- Foreign signatures ---- */

static const char *lookup(blkid_probe probe, const char *name)
{
	const char *value = NULL;

	return blkid_probe_lookup_value(probe, name, &value, NULL) ? NULL : value;
}

static const char *article(const char *noun)
{
	return strchr("aeiouAEIOU", noun[0]) ? "an" : "a";
}

static void describe_signature(blkid_probe probe, char what[PROBE_TEXT])
{
	const char *type = lookup(probe, "TYPE"), *usage = lookup(probe, "USAGE"), *raw = lookup(probe, "LABEL");
	const char *table = lookup(probe, "PTTYPE");
	char label[128] = "";

	if (raw)
		copy_label(label, sizeof(label), raw, strlen(raw));
	if (!type && table)
		snprintf(what, PROBE_TEXT, "contains a partition table (%s)", table);
	else if (!type)
		snprintf(what, PROBE_TEXT, "contains a signature of unknown type");
	else
		snprintf(what, PROBE_TEXT, "contains %s %s %s%s%s%s", article(type), type,
			 usage && strcmp(usage, "filesystem") == 0 ? "file system" : "signature",
			 label[0] ? " labelled '" : "", label, label[0] ? "'" : "");
}

/* blkid results: 0 found, 1 nothing, -2 several at once, -1 error. */
static int probe_known(blkid_probe probe, char what[PROBE_TEXT])
{
	int result;

	blkid_probe_enable_superblocks(probe, 1);
	blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_LABEL |
							 BLKID_SUBLKS_BADCSUM);
	blkid_probe_enable_partitions(probe, 1);
	blkid_probe_set_partitions_flags(probe, BLKID_PARTS_MAGIC);
	errno = 0;
	result = blkid_do_fullprobe(probe);
	if (result == 0)
		describe_signature(probe, what);
	else if (result == -2)
		snprintf(what, PROBE_TEXT, "contains signatures of more than one kind");
	else if (result < 0)
		return errno ? -errno : -EIO;
	return result != 1;
}

/* Of a device whose last sector is cut off (a loop device may be like that), the part that can be read; 0: all. */
static blkid_loff_t whole_sectors(int fd)
{
	uint64_t size;
	int sector;

	if (ioctl(fd, BLKGETSIZE64, &size) || ioctl(fd, BLKSSZGET, &sector) || sector <= 0)
		return 0;
	return size % (unsigned)sector ? (blkid_loff_t)(size - size % (unsigned)sector) : 0;
}

/* What libblkid knows. */
static int known_signature(const char *path, char what[PROBE_TEXT])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), result;
	blkid_probe probe;

	if (fd < 0)
		return -errno;
	probe = blkid_new_probe();
	if (!probe)
		result = -ENOMEM;
	else if (blkid_probe_set_device(probe, fd, 0, whole_sectors(fd)))
		result = 0; /* too small to hold anything */
	else
		result = probe_known(probe, what);
	blkid_free_probe(probe);
	close(fd);
	return result;
}

int probe_signature(const char *path, char what[PROBE_TEXT])
{
	struct ash_super super;
	int result = read_super_if(path, was_volume, &super);

	if (result)
		return result < 0 ? result : describe_volume(is_volume(&super) ? "an" : "a damaged", &super, what);
	result = known_signature(path, what);
	if (result)
		return result;
	result = find_backup(path, &super);
	return result > 0 ? describe_volume("a damaged", &super, what) : result;
}

int probe_foreign_signature(const char *path, char what[PROBE_TEXT])
{
	struct ash_super super;
	int result = read_super(path, &super);

	if (result)
		return result < 0 ? result : 0;
	return known_signature(path, what);
}

int probe_topology(const char *path, struct probe_topology *out)
{
	struct stat st;
	blkid_probe probe;
	blkid_topology topology;

	memset(out, 0, sizeof(*out));
	if (stat(path, &st))
		return -errno;
	if (!S_ISBLK(st.st_mode))
		return -ENOTBLK;
	probe = blkid_new_probe_from_filename(path);
	if (!probe)
		return errno ? -errno : -EIO;
	topology = blkid_probe_get_topology(probe);
	if (topology) {
		out->logical_sector = (uint32_t)blkid_topology_get_logical_sector_size(topology);
		out->alignment_offset = (uint32_t)blkid_topology_get_alignment_offset(topology);
	}
	blkid_free_probe(probe);
	return topology ? 0 : -EIO;
}

/* ---- LABEL= and UUID= ---- */

struct tag {
	bool by_uuid;
	uint8_t uuid[16];
	char label[ASH_LABEL_SIZE + 1];
};

int probe_parse_uuid(const char *text, uint8_t uuid[16])
{
	unsigned digits = 0;

	memset(uuid, 0, 16);
	for (; *text; text++) {
		unsigned digit;

		if (*text == '-')
			continue;
		if (!isxdigit((unsigned char)*text) || digits == 32)
			return -EINVAL;
		digit = isdigit((unsigned char)*text) ? (unsigned)(*text - '0') :
							(unsigned)(tolower((unsigned char)*text) - 'a' + 10);
		uuid[digits / 2] = (uint8_t)(uuid[digits / 2] << 4 | digit);
		digits++;
	}
	return digits == 32 ? 0 : -EINVAL;
}

/* 0: a tag, 1: not a tag but a path. A value may be in double quotes, as in fstab. */
static int parse_tag(const char *spec, struct tag *tag)
{
	char value[ASH_LABEL_SIZE + 3] = "";
	const char *text;
	size_t length;

	memset(tag, 0, sizeof(*tag));
	if (strncmp(spec, "UUID=", 5) == 0)
		tag->by_uuid = true;
	else if (strncmp(spec, "LABEL=", 6) != 0)
		return 1;
	text = strchr(spec, '=') + 1;
	length = strlen(text);
	if (length >= 2 && text[0] == '"' && text[length - 1] == '"') {
		text++;
		length -= 2;
	}
	if (length == 0 || length > ASH_LABEL_SIZE)
		return -EINVAL;
	memcpy(value, text, length);
	if (tag->by_uuid)
		return probe_parse_uuid(value, tag->uuid);
	memcpy(tag->label, value, length);
	return 0;
}

static bool tag_fits(const struct tag *tag, const struct ash_super *super)
{
	if (tag->by_uuid)
		return memcmp(tag->uuid, super->uuid, sizeof(tag->uuid)) == 0;
	return strncmp(tag->label, super->label, ASH_LABEL_SIZE) == 0;
}

/* Two device nodes may show one volume (a disk image attached twice, multipath): that is an ambiguity to report. */
static int try_device(const struct tag *tag, const char *name, char **found)
{
	struct ash_super super;
	char path[300];

	snprintf(path, sizeof(path), "/dev/%s", name);
	for (char *p = path + 5; *p; p++)
		if (*p == '!')
			*p = '/';
	if (read_super(path, &super) <= 0 || !tag_fits(tag, &super))
		return 0;
	if (*found)
		return -EEXIST;
	*found = strdup(path);
	return *found ? 0 : -ENOMEM;
}

int probe_resolve_tag(const char *spec, char **device_out)
{
	struct tag tag;
	char line[512], name[256];
	char *found = NULL;
	FILE *partitions;
	int result = parse_tag(spec, &tag);

	*device_out = NULL;
	if (result < 0)
		return result;
	if (result) {
		*device_out = strdup(spec);
		return *device_out ? 0 : -ENOMEM;
	}
	partitions = fopen("/proc/partitions", "re");
	if (!partitions)
		return -errno;
	while (!result && fgets(line, sizeof(line), partitions))
		if (sscanf(line, " %*u %*u %*u %255s", name) == 1)
			result = try_device(&tag, name, &found);
	fclose(partitions);
	if (!result && !found)
		result = -ENODEV;
	if (result) {
		free(found);
		return result;
	}
	*device_out = found;
	return 0;
}
