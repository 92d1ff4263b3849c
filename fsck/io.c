/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * All device access of the check. Reads see the log's content on top of the device (overlay) when the log was not
 * replayed for real. Writes go in place with right checksums; before the first one the superblock is
 * marked ASH_STATE_ERRORS, so that an interrupted repair is continued by the next run and not taken for clean.
 */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>

bool extent_inside(const struct checker *checker, uint64_t start, uint64_t count)
{
	return count && start < checker->block_count && count <= checker->block_count - start;
}

/* The first block from there on of which the overlay has an answer. */
static uint64_t image_from(const struct checker *checker, uint64_t block)
{
	size_t next = LIST_FROM(&checker->images, block);

	return next < checker->images.count ? checker->images.items[next] : UINT64_MAX;
}

uint64_t block_with_data(const struct checker *checker, uint64_t block, uint64_t end)
{
	uint64_t data = bdev_next_data(checker->dev, block << ASH_BLOCK_SHIFT) >> ASH_BLOCK_SHIFT;
	uint64_t image = checker->overlay ? image_from(checker, block) : UINT64_MAX;

	if (image < data)
		data = image;
	return data < end ? data : end;
}

static void overlay_apply(struct checker *checker, uint64_t first, uint64_t count, uint8_t *data)
{
	for (uint64_t i = 0; checker->overlay && i < count; i++) {
		const uint8_t *image = ash_overlay_block(checker->overlay, first + i);

		if (image)
			memcpy(data + (i << ASH_BLOCK_SHIFT), image, ASH_BLOCK_SIZE);
	}
}

int block_read(struct checker *checker, uint64_t block, void *data)
{
	const uint8_t *image = checker->overlay ? ash_overlay_block(checker->overlay, block) : NULL;

	if (image) {
		memcpy(data, image, ASH_BLOCK_SIZE);
		return 0;
	}
	if (checker->overlay && ash_overlay_is_lost(checker->overlay, block))
		return -EIO;
	return bdev_read(checker->dev, data, ASH_BLOCK_SIZE, block << ASH_BLOCK_SHIFT);
}

/* One request; when that fails, block by block, so that one bad sector costs one block. */
int blocks_read(struct checker *checker, uint64_t first, uint64_t count, void *data, bool *bad)
{
	uint8_t *bytes = data;
	int whole = bdev_read(checker->dev, data, count << ASH_BLOCK_SHIFT, first << ASH_BLOCK_SHIFT);

	if (whole && !ash_unreadable(whole))
		return whole;
	for (uint64_t i = 0; i < count; i++) {
		uint8_t *block = bytes + (i << ASH_BLOCK_SHIFT);
		bool lost = checker->overlay && ash_overlay_is_lost(checker->overlay, first + i);
		int error = whole ? bdev_read(checker->dev, block, ASH_BLOCK_SIZE, (first + i) << ASH_BLOCK_SHIFT) : 0;

		if (error && !ash_unreadable(error))
			return error;
		if (lost || error)
			memset(block, 0, ASH_BLOCK_SIZE);
		if (bad)
			bad[i] = lost || error;
	}
	overlay_apply(checker, first, count, bytes);
	return 0;
}

const char *block_wrong(const struct checker *checker, const void *data, uint64_t block, uint32_t magic, uint64_t owner)
{
	const struct ash_block_header *header = data;

	if (ash_get32(header->magic) != magic)
		return "wrong type of block";
	if (ash_get32(header->crc) != ash_block_crc(checker->seed, data))
		return "wrong checksum";
	if (memcmp(header->metadata_uuid, checker->super->header.metadata_uuid, sizeof(header->metadata_uuid)))
		return "of another volume";
	if (ash_get64(header->address) != block)
		return "belongs to another place";
	if (ash_get64(header->owner) != owner)
		return "belongs to another owner";
	return NULL;
}

void block_begin(const struct checker *checker, void *data, uint64_t block, uint32_t magic, uint64_t owner)
{
	struct ash_block_header *header = data;

	memset(data, 0, ASH_BLOCK_SIZE);
	header->magic = ash_put32(magic);
	header->address = ash_put64(block);
	header->owner = ash_put64(owner);
	memcpy(header->metadata_uuid, checker->super->header.metadata_uuid, sizeof(header->metadata_uuid));
}

static int device_write(struct checker *checker, uint64_t block, const void *data, uint64_t count)
{
	assert(checker->repair && !checker->overlay && extent_inside(checker, block, count));
	checker->result->changed = true;
	return bdev_write(checker->dev, data, count << ASH_BLOCK_SHIFT, block << ASH_BLOCK_SHIFT, 0);
}

int mark_volume(struct checker *checker)
{
	struct ash_super *super = checker->super;
	int result;

	/* A primary that is not good is written last: until then no run takes the volume for clean anyway. */
	if (checker->marked || checker->super_from || checker->restore)
		return 0;
	super->state = ash_put32(ash_get32(super->state) | ASH_STATE_ERRORS);
	super->header.address = ash_put64(0);
	super->header.crc = ash_put32(ash_block_crc(0, super));
	result = device_write(checker, 0, super, 1);
	if (!result)
		result = bdev_flush(checker->dev);
	if (!result)
		checker->marked = true;
	return result;
}

int block_write_raw(struct checker *checker, uint64_t block, const void *data, uint64_t count)
{
	int result = mark_volume(checker);

	return result ? result : device_write(checker, block, data, count);
}

int block_write(struct checker *checker, uint64_t block, void *data)
{
	struct ash_block_header *header = data;

	header->crc = ash_put32(ash_block_crc(checker->seed, data));
	return block_write_raw(checker, block, data, 1);
}

void repair_refused(struct checker *checker, const char *what, uint64_t block)
{
	say(checker, "%s: %s %llu cannot be written either", bdev_name(checker->dev), what, (unsigned long long)block);
	checker->result->fixed--;
	checker->result->left++;
}

int check_flush(struct checker *checker)
{
	return bdev_flush(checker->dev);
}

int inode_read(struct checker *checker, uint64_t ino, struct ash_inode *record)
{
	uint64_t block;
	uint32_t offset;
	int result;

	if (ino == ASH_INO_TABLE) {
		*record = checker->super->table_inode;
		return 0;
	}
	result = table_locate(checker, ino, &block, &offset);
	if (!result)
		result = block_read(checker, block, checker->scratch);
	if (!result)
		memcpy(record, checker->scratch + offset, sizeof(*record));
	return result;
}

int record_write(struct checker *checker, uint64_t ino, struct ash_inode *record)
{
	uint64_t block;
	uint32_t offset;
	int result;

	if (!record_is_zero(record))
		record->crc = ash_put32(ash_inode_crc(checker->seed, record));
	result = table_locate(checker, ino, &block, &offset);
	if (!result)
		result = block_read(checker, block, checker->scratch);
	if (result)
		return result;
	memcpy(checker->scratch + offset, record, sizeof(*record));
	return block_write_raw(checker, block, checker->scratch, 1);
}

int inode_write(struct checker *checker, uint64_t ino, struct ash_inode *record)
{
	if (ino != ASH_INO_TABLE)
		return record_write(checker, ino, record);
	record->crc = ash_put32(ash_inode_crc(checker->seed, record));
	checker->super->table_inode = *record;
	return super_write(checker);
}

void say(struct checker *checker, const char *format, ...)
{
	char text[512];
	va_list arguments;

	if (!checker->options->say)
		return;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	checker->options->say(checker->options->context, text);
}

int check_cancelled(struct checker *checker)
{
	const struct ash_check_options *options = checker->options;

	if (options->cancelled && options->cancelled(options->context))
		checker->result->cancelled = true;
	return checker->result->cancelled ? -ECANCELED : 0;
}

void progress(struct checker *checker, unsigned pass, uint64_t done, uint64_t total)
{
	if (checker->options->progress)
		checker->options->progress(checker->options->context, pass, done, total);
}
