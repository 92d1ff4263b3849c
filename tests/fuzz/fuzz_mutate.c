/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mutator of the image harnesses: it knows where the fields of the format lie and which values are worth a try, and
 * leaves the checksums to the patch's seal. Blind mutation of an image ends at its first checksum.
 */
#include "fuzz.h"

static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (uint32_t)((z ^ z >> 31) >> 33) % limit;
}

static size_t patch_length(const uint8_t *patch, size_t left)
{
	size_t length;

	if (left <= PATCH_HEADER)
		return left;
	length = PATCH_HEADER + (patch[4] & (PATCH_BYTES_MAX - 1)) + 1;
	return length < left ? length : left;
}

/* Start of a random patch in `data`, which does not begin with the flags. */
static size_t patch_pick(const uint8_t *data, size_t size, size_t *length)
{
	size_t count = 0, at = 0, wanted;

	while (at < size) {
		at += patch_length(data + at, size - at);
		count++;
	}
	wanted = random_below((uint32_t)count);
	for (at = 0; wanted; wanted--)
		at += patch_length(data + at, size - at);
	*length = patch_length(data + at, size - at);
	return at;
}

static size_t target_of(struct image *image, uint64_t block)
{
	size_t count, i;
	const uint64_t *targets = fuzz_targets(image, &count);

	for (i = 0; i < count && targets[i] != block; i++)
		;
	return i;
}

/* Damage one field of the image: 0 when the choice was none. */
static size_t patch_make(struct image *image, uint8_t *out, size_t room)
{
	const struct sites *sites = fuzz_sites(image);
	size_t index = random_below((uint32_t)sites->count), count;
	const struct site *site = &sites->items[index];
	uint32_t length = site->field.size < PATCH_BYTES_MAX ? site->field.size : PATCH_BYTES_MAX;
	size_t target = target_of(image, site->block);
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	fuzz_targets(image, &count);
	if (target == count || room < PATCH_HEADER + length)
		return 0;
	image_read(image, site->block, data);
	if (random_below(4))
		site_change(image, sites, index, random_below(CHANGES), data);
	else
		LLVMFuzzerMutate(data + site->offset, length, length);
	out[0] = (uint8_t)target;
	out[1] = (uint8_t)(target >> 8);
	out[2] = (uint8_t)site->offset;
	out[3] = (uint8_t)(site->offset >> 8);
	out[4] = (uint8_t)(length - 1);
	if (random_below(8))
		out[4] |= PATCH_SEAL | PATCH_CHAIN;
	if (!random_below(32))
		out[4] |= PATCH_COPY;
	memcpy(out + PATCH_HEADER, data + site->offset, length);
	return PATCH_HEADER + length;
}

static size_t add_patch(struct image *image, uint8_t *data, size_t size, size_t max)
{
	return size + patch_make(image, data + size, max - size);
}

static size_t remove_patch(uint8_t *data, size_t size)
{
	size_t length, at = 1 + patch_pick(data + 1, size - 1, &length);

	memmove(data + at, data + at + length, size - at - length);
	return size - length;
}

/* Other bytes, or the same ones elsewhere. */
static void change_patch(uint8_t *data, size_t size)
{
	size_t length, at = 1 + patch_pick(data + 1, size - 1, &length);

	if (length <= PATCH_HEADER)
		return;
	switch (random_below(4)) {
	case 0:
		data[at + random_below(2)] = (uint8_t)random_below(256);
		break;
	case 1:
		data[at + 4] ^= PATCH_SEAL;
		break;
	default:
		LLVMFuzzerMutate(data + at + PATCH_HEADER, length - PATCH_HEADER, length - PATCH_HEADER);
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	struct image *image;

	random_state = seed;
	if (max_size < 1 + PATCH_HEADER + PATCH_BYTES_MAX)
		return LLVMFuzzerMutate(data, size, max_size);
	if (!size)
		data[size++] = (uint8_t)random_below(256);
	if (!random_below(16))
		data[0] = (uint8_t)random_below(256);
	image = fuzz_image(!fuzz_harness.only_open && data[0] & 1);
	switch (size > 1 ? random_below(8) : 0) {
	case 0:
	case 1:
	case 2:
		return add_patch(image, data, size, max_size);
	case 3:
		return remove_patch(data, size);
	case 4:
		return add_patch(image, data, remove_patch(data, size), max_size);
	case 5:
		return LLVMFuzzerMutate(data, size, max_size);
	default:
		change_patch(data, size);
		return size;
	}
}
