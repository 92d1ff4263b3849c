/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory as a block device: "mem:SIZE".
 *
 * Concept: one sparse anonymous mapping; untouched pages cost nothing and read as zeroes. Discard
 * gives whole pages back to the kernel. The content ends with the handle.
 *
 * Locking: none is needed. Requests for disjoint ranges touch disjoint bytes; what overlapping
 * requests in flight give is undefined on any device.
 */
#include "done.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MEM_LOGICAL_BLOCK 512u
#define MEM_PAGE 4096u

struct mem_device {
	struct bdev dev;
	unsigned char *bytes;
};

static int mem_rw(struct bdev *dev, bool write, const struct iovec *iov, int count, uint64_t offset, unsigned flags)
{
	unsigned char *at = ((struct mem_device *)dev)->bytes + offset;

	(void)flags; /* nothing is volatile in here */
	for (int i = 0; i < count; i++) {
		if (write)
			memcpy(at, iov[i].iov_base, iov[i].iov_len);
		else
			memcpy(iov[i].iov_base, at, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	return 0;
}

static int mem_flush(struct bdev *dev)
{
	(void)dev;
	return 0;
}

/* Whole pages go back to the kernel, the ends are cleared by hand. */
static int mem_zero(struct bdev *dev, uint64_t offset, uint64_t length)
{
	unsigned char *bytes = ((struct mem_device *)dev)->bytes;
	uint64_t end = offset + length;
	uint64_t first = (offset + MEM_PAGE - 1) & ~(uint64_t)(MEM_PAGE - 1);
	uint64_t last = end & ~(uint64_t)(MEM_PAGE - 1);

	if (first >= last || madvise(bytes + first, last - first, MADV_DONTNEED)) {
		memset(bytes + offset, 0, length);
		return 0;
	}
	memset(bytes + offset, 0, first - offset);
	memset(bytes + last, 0, end - last);
	return 0;
}

static void mem_close(struct bdev *dev)
{
	struct mem_device *mem = (struct mem_device *)dev;

	munmap(mem->bytes, dev->geometry.size);
	free(mem);
}

static const struct bdev_operations mem_operations = {
	.name = "mem",
	.rw = mem_rw,
	.flush = mem_flush,
	.discard = mem_zero,
	.write_zeroes = mem_zero,
	.close = mem_close,
	BDEV_EMULATED_QUEUE_OPERATIONS,
};

static void mem_geometry(struct bdev_geometry *geometry, uint64_t size, bool read_only)
{
	*geometry = (struct bdev_geometry){
		.size = size,
		.logical_block = MEM_LOGICAL_BLOCK,
		.physical_block = MEM_PAGE,
		.memory_align = MEM_LOGICAL_BLOCK, /* asked for, not needed: what runs here runs on a disk */
		.discard_granularity = read_only ? 0 : MEM_PAGE,
		.discard = !read_only,
		.write_zeroes = true,
		.polling = true,
		.read_only = read_only,
	};
}

int bdev_mem_open(const char *name, const struct bdev_open_options *options, struct bdev **out, char *error)
{
	struct mem_device *mem;
	uint64_t size;

	if (bdev_parse_size(name, &size) || !size || size % MEM_LOGICAL_BLOCK || size > INT64_MAX)
		return bdev_open_error(error, -EINVAL,
				       "mem:%s: not a size; give a multiple of %u bytes as in mem:64M or mem:1GiB",
				       name, MEM_LOGICAL_BLOCK);
	mem = calloc(1, sizeof(*mem));
	if (!mem)
		return bdev_open_error(error, -ENOMEM, "mem:%s: out of memory", name);
	if (bdev_init(&mem->dev, &mem_operations, name, options))
		goto no_memory;
	mem->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem->bytes == MAP_FAILED)
		goto no_memory;
	mem_geometry(&mem->dev.geometry, size, options->read_only);
	*out = &mem->dev;
	return 0;

no_memory:
	free(mem->dev.name);
	free(mem);
	return bdev_open_error(error, -ENOMEM, "mem:%s: out of memory", name);
}
