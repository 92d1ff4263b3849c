/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading, writing, sizes, holes, allocation and copying, also against a model of bytes with remounts. */
#include <ashlar/format.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <unistd.h>
#include "file_fixture.h"
#include "fs/file_edit.h"
#include "tests/support/level.h"

static const struct ash_open_options through = { .no_threads = true, .no_write_behind = true };
static const struct ash_open_options buffered = { .no_threads = true };

static void check_content(struct fixture *f, uint64_t ino, const uint8_t *expected, size_t length)
{
	uint8_t *got = malloc(length + 1);

	cr_assert_eq(ash_read(f->volume, ino, got, length + 1, 0), (int64_t)length);
	cr_assert_eq(memcmp(got, expected, length), 0);
	free(got);
}

Test(file, writes_of_any_alignment_are_read_back)
{
	static const size_t lengths[] = { 1, 100, 256, 257, 4095, 4096, 4097, 65536, 300001, 5000000 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		uint8_t *bytes = malloc(lengths[i]);
		char name[16];

		snprintf(name, sizeof(name), "f%u", i);
		uint64_t ino = make_file(&f, name);
		fill(bytes, lengths[i], i);
		cr_assert_eq(ash_write(f.volume, ino, bytes, lengths[i], 0, 0), (int64_t)lengths[i]);
		check_content(&f, ino, bytes, lengths[i]);
		fixture_remount(&f);
		check_content(&f, find_file(&f, name), bytes, lengths[i]);
		free(bytes);
	}
	fixture_close(&f);
}

Test(file, aligned_memory_and_offsets_work_directly)
{
	size_t length = 1 << 20;
	uint8_t *bytes = aligned(length), *got = aligned(length);
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f");
	fill(bytes, length, 3);
	cr_assert_eq(ash_write(f.volume, ino, bytes, length, 8192, ASH_WRITE_THROUGH), (int64_t)length);
	cr_assert_eq(ash_read(f.volume, ino, got, length, 8192), (int64_t)length);
	cr_assert_eq(memcmp(bytes, got, length), 0);
	cr_assert_eq(ash_read(f.volume, ino, got, 8192, 0), 8192);
	for (unsigned i = 0; i < 8192; i++)
		cr_assert_eq(got[i], 0);
	fixture_close(&f);
	bdev_buffer_free(bytes, length);
	bdev_buffer_free(got, length);
}

Test(file, small_content_lives_in_the_inode_and_moves_out)
{
	uint8_t bytes[5000];
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f"), before = free_blocks(&f);
	fill(bytes, sizeof(bytes), 1);
	cr_assert_eq(ash_write(f.volume, ino, bytes, 200, 0, 0), 200);
	cr_assert_eq(free_blocks(&f), before);
	cr_assert_gt(attr_of(&f, ino).blocks, 0, "a file with data never shows 0 blocks");
	cr_assert_eq(ash_write(f.volume, ino, bytes + 200, 4800, 200, 0), 4800);
	check_content(&f, ino, bytes, sizeof(bytes));
	cr_assert_eq(free_blocks(&f), before - 2);
	fixture_close(&f);
}

Test(file, growing_shows_zeroes_where_old_bytes_lay)
{
	uint8_t bytes[4096], got[4096];
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f");
	memset(bytes, 0xaa, sizeof(bytes));
	cr_assert_eq(ash_write(f.volume, ino, bytes, 4096, 0, 0), 4096);
	cr_assert_eq(set_size(&f, ino, 1000), 0);
	cr_assert_eq(set_size(&f, ino, 3000), 0);
	cr_assert_eq(ash_write(f.volume, ino, bytes, 10, 20000, 0), 10);
	cr_assert_eq(ash_read(f.volume, ino, got, 4096, 0), 4096);
	for (unsigned i = 0; i < 4096; i++)
		cr_assert_eq(got[i], i < 1000 ? 0xaa : 0, "byte %u", i);
	fixture_close(&f);
}

Test(file, append_ignores_the_offset)
{
	uint8_t got[16];
	struct fixture f;

	fixture_open(&f, "mem:64M", &buffered);
	uint64_t ino = make_file(&f, "f");
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(
			ash_write(f.volume, ino, "abc", 3, 100, ASH_WRITE_APPEND | (i == 1 ? ASH_WRITE_THROUGH : 0)),
			3);
	cr_assert_eq(ash_read(f.volume, ino, got, 16, 0), 9);
	cr_assert_eq(memcmp(got, "abcabcabc", 9), 0);
	fixture_close(&f);
}

Test(file, the_far_end_works_and_beyond_is_efbig)
{
	uint8_t byte = 7;
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, &byte, 1, (uint64_t)INT64_MAX - 1, 0), 1);
	cr_assert_eq(attr_of(&f, ino).size, (uint64_t)INT64_MAX);
	byte = 0;
	cr_assert_eq(ash_read(f.volume, ino, &byte, 1, (uint64_t)INT64_MAX - 1), 1);
	cr_assert_eq(byte, 7);
	cr_assert_eq(ash_write(f.volume, ino, &byte, 1, INT64_MAX, 0), -EFBIG);
	cr_assert_eq(ash_write(f.volume, ino, &byte, 1, UINT64_MAX, 0), -EFBIG);
	cr_assert_eq(ash_seek(f.volume, ino, 0, SEEK_DATA), INT64_MAX & ~(int64_t)4095);
	cr_assert_eq(ash_fallocate(f.volume, ino, 0, INT64_MAX, 1), -EFBIG);
	cr_assert_eq(set_size(&f, ino, UINT64_MAX), -EFBIG);
	fixture_close(&f);
}

/* The coarse clock of time stamps is to go on. */
static void tick(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
}

static bool read_moves_atime(struct fixture *f, uint64_t ino, unsigned flags)
{
	struct timespec before = attr_of(f, ino).atime, after;
	uint8_t byte;

	tick();
	cr_assert_eq(ash_read_flags(f->volume, ino, &byte, 1, 0, flags), 1);
	after = attr_of(f, ino).atime;
	return before.tv_sec != after.tv_sec || before.tv_nsec != after.tv_nsec;
}

Test(file, reading_moves_the_access_time_unless_it_is_not_to)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, 0), 1);
	cr_expect_not(read_moves_atime(&f, ino, ASH_READ_NO_ATIME));
	cr_expect(read_moves_atime(&f, ino, 0));
	cr_expect_not(read_moves_atime(&f, ino, 0), "relatime: not again");
	ash_set_atime(f.volume, ASH_ATIME_STRICT, true);
	cr_expect(read_moves_atime(&f, ino, 0), "changed while open");
	ash_set_atime(f.volume, ASH_ATIME_NONE, false);
	cr_expect_not(read_moves_atime(&f, ino, 0));
	fixture_close(&f);
}

Test(file, sync_can_be_turned_on_and_off)
{
	struct fixture f;
	struct ash_attr attr;
	struct ash_counters before, after;

	fixture_open(&f, "mem:64M", &buffered);
	uint64_t ino = make_file(&f, "before");
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, 0), 1);
	ash_set_sync(f.volume, true);
	ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, "abc", 3, 0, 0), 3);
	fixture_crash(&f);
	ino = find_file(&f, "f");
	cr_expect_eq(attr_of(&f, ino).size, 3);
	f.options.sync = true;
	fixture_remount(&f);
	ash_set_sync(f.volume, false);
	ash_counters(f.volume, &before);
	cr_assert_eq(ash_write(f.volume, make_file(&f, "lost"), "x", 1, 0, 0), 1);
	ash_counters(f.volume, &after);
	cr_expect_eq(after.log_blocks_written, before.log_blocks_written);
	cr_expect_gt(after.write_behind_bytes, before.write_behind_bytes, "write-behind is there, too");
	fixture_crash(&f);
	cr_expect_eq(ash_lookup(f.volume, 1, "lost", &attr), -ENOENT);
	fixture_close(&f);
}

Test(file, holes_and_data_are_found)
{
	uint8_t bytes[4096] = { 1 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &buffered);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, bytes, 4096, 40960, 0), 4096);
	cr_assert_eq(ash_seek(f.volume, ino, 0, SEEK_DATA), 40960);
	cr_assert_eq(ash_seek(f.volume, ino, 0, SEEK_HOLE), 0);
	cr_assert_eq(ash_seek(f.volume, ino, 41000, SEEK_HOLE), 45056);
	cr_assert_eq(ash_seek(f.volume, ino, 45056, SEEK_DATA), -ENXIO);
	cr_assert_eq(ash_seek(f.volume, ino, 0, 99), -EINVAL);
	fixture_close(&f);
}

Test(file, fallocate_gives_zeroes_and_space)
{
	uint8_t got[8192];
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f"), before = free_blocks(&f);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_KEEP_SIZE, 0, 1 << 20), 0);
	cr_assert_eq(free_blocks(&f), before - 256);
	cr_assert_eq(attr_of(&f, ino).size, 0);
	cr_assert_eq(ash_fallocate(f.volume, ino, 0, 0, 10000), 0);
	cr_assert_eq(attr_of(&f, ino).size, 10000);
	cr_assert_eq(free_blocks(&f), before - 256);
	cr_assert_eq(ash_read(f.volume, ino, got, sizeof(got), 0), 8192);
	for (unsigned i = 0; i < sizeof(got); i++)
		cr_assert_eq(got[i], 0);
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 5000, 0), 1);
	cr_assert_eq(ash_seek(f.volume, ino, 0, SEEK_DATA), 4096);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_COLLAPSE_RANGE, 0, 4096), -EOPNOTSUPP);
	cr_assert_eq(ash_fallocate(f.volume, ino, 0, 0, 0), -EINVAL);
	fixture_close(&f);
}

Test(file, preallocated_blocks_lie_somewhere_and_holes_nowhere)
{
	uint64_t block, first;
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_fallocate(f.volume, ino, 0, 4096, 3 * 4096), 0);
	cr_assert_eq(ash_bmap(f.volume, ino, 0, &block), 0);
	cr_assert_eq(block, 0, "a hole");
	cr_assert_eq(ash_bmap(f.volume, ino, 1, &first), 0);
	cr_assert_gt(first, 0);
	/* The whole range in one transaction on an empty volume: the blocks follow each other, and stay when they are written. */
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 2 * 4096, 0), 1);
	for (unsigned i = 1; i < 4; i++) {
		cr_assert_eq(ash_bmap(f.volume, ino, i, &block), 0);
		cr_assert_eq(block, first + i - 1);
	}
	cr_assert_eq(ash_bmap(f.volume, ino, 4, &block), 0);
	cr_assert_eq(block, 0, "behind the end");
	fixture_close(&f);
}

Test(file, fallocate_beyond_the_volume_changes_nothing)
{
	struct fixture f;

	fixture_open(&f, "mem:16M", &through);
	uint64_t ino = make_file(&f, "f"), before = free_blocks(&f);
	cr_assert_eq(ash_fallocate(f.volume, ino, 0, 0, 1 << 30), -ENOSPC);
	cr_assert_eq(attr_of(&f, ino).size, 0);
	cr_assert_eq(free_blocks(&f), before);
	fixture_close(&f);
}

Test(file, punching_gives_blocks_back)
{
	uint8_t *bytes = malloc(1 << 20);
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f"), before = free_blocks(&f);
	fill(bytes, 1 << 20, 5);
	cr_assert_eq(ash_write(f.volume, ino, bytes, 1 << 20, 0, 0), 1 << 20);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 900000), 0);
	memset(bytes + 100, 0, 900000);
	check_content(&f, ino, bytes, 1 << 20);
	cr_assert_eq(ash_seek(f.volume, ino, 0, SEEK_HOLE), 4096);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_geq(free_blocks(&f), before - 256 + 218);
	fixture_close(&f);
	free(bytes);
}

Test(file, no_space_is_honest_and_temporary)
{
	size_t length = 1 << 20;
	uint8_t *bytes = aligned(length);
	struct fixture f;
	uint64_t offset = 0;
	int64_t put;

	fixture_open(&f, "mem:16M", &buffered);
	uint64_t before = free_blocks(&f), ino = make_file(&f, "f");
	fill(bytes, length, 9);
	while ((put = ash_write(f.volume, ino, bytes, length, offset, 0)) > 0)
		offset += (uint64_t)put;
	cr_assert_eq(put, -ENOSPC);
	cr_assert_eq(attr_of(&f, ino).size, offset);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_lt(free_blocks(&f), 100);
	cr_assert_eq(ash_unlink(f.volume, 1, "f", NULL), 0);
	ash_forget(f.volume, ino, 1);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(free_blocks(&f), before);
	fixture_close(&f);
	bdev_buffer_free(bytes, length);
}

#define SCATTERED 1500u /* written blocks, with a hole behind each */

/* Space for the holes, but not for the nodes that so many extents need: refused half-way, and nothing was zeroed. */
Test(file, a_zero_range_without_space_changes_no_content)
{
	uint8_t *block = aligned(4096), *back = aligned(4096);
	struct ash_statfs statfs;
	uint64_t size = 0;
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f"), filler = make_file(&f, "filler");
	for (uint32_t i = 0; i < SCATTERED; i++) {
		fill(block, 4096, i);
		cr_assert_eq(ash_write(f.volume, ino, block, 4096, i * UINT64_C(8192), 0), 4096);
	}
	cr_assert_eq(set_size(&f, ino, SCATTERED * UINT64_C(8192)), 0);
	/* A refusal gives back what was set aside for files that grow. */
	cr_assert_eq(ash_fallocate(f.volume, filler, 0, 0, 1 << 30), -ENOSPC);
	cr_assert_eq(ash_statfs(f.volume, &statfs), 0);
	size = (statfs.available_blocks - SCATTERED - 1) * 4096;
	cr_assert_eq(ash_fallocate(f.volume, filler, 0, 0, size), 0);
	cr_assert_eq(ash_statfs(f.volume, &statfs), 0);
	cr_assert_geq(statfs.available_blocks, SCATTERED);
	cr_assert_lt(statfs.available_blocks, SCATTERED + 3);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_ZERO_RANGE, 0, SCATTERED * UINT64_C(8192)), -ENOSPC);
	for (uint32_t i = 0; i < SCATTERED; i++) {
		fill(block, 4096, i);
		cr_assert_eq(ash_read(f.volume, ino, back, 4096, i * UINT64_C(8192)), 4096);
		cr_assert_eq(memcmp(block, back, 4096), 0, "block %u", 2 * i);
	}
	/* With space it does what it should. */
	cr_assert_eq(set_size(&f, filler, 0), 0);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_ZERO_RANGE, 0, SCATTERED * UINT64_C(8192)), 0);
	memset(block, 0, 4096);
	for (uint32_t i = 0; i < 2 * SCATTERED; i++) {
		cr_assert_eq(ash_read(f.volume, ino, back, 4096, i * UINT64_C(4096)), 4096);
		cr_assert_eq(memcmp(block, back, 4096), 0);
	}
	cr_assert_geq(attr_of(&f, ino).blocks, 2 * SCATTERED * 8);
	fixture_close(&f);
	bdev_buffer_free(block, 4096);
	bdev_buffer_free(back, 4096);
}

Test(file, copy_range_keeps_holes)
{
	uint8_t bytes[8192];
	struct fixture f;

	fixture_open(&f, "mem:64M", &buffered);
	uint64_t from = make_file(&f, "from"), to = make_file(&f, "to");
	fill(bytes, sizeof(bytes), 2);
	cr_assert_eq(ash_write(f.volume, from, bytes, 8192, 1 << 20, 0), 8192);
	cr_assert_eq(set_size(&f, from, 3 << 20), 0);
	cr_assert_eq(ash_write(f.volume, to, bytes, 8192, 0, 0), 8192);
	cr_assert_eq(ash_copy_range(f.volume, from, 0, to, 0, 10 << 20), 3 << 20);
	cr_assert_eq(attr_of(&f, to).size, 3 << 20);
	cr_assert_eq(ash_seek(f.volume, to, 0, SEEK_DATA), 1 << 20);
	cr_assert_eq(ash_seek(f.volume, to, 1 << 20, SEEK_HOLE), (1 << 20) + 8192);
	cr_assert_eq(ash_copy_range(f.volume, to, 0, to, 100, 200), -EINVAL);
	fixture_close(&f);
}

/* No byte is written, and yet the file is another one. */
Test(file, copy_range_of_a_hole_behind_the_end_drops_the_capability)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &buffered);
	uint64_t from = make_file(&f, "from"), to = make_file(&f, "to");
	cr_assert_eq(set_size(&f, from, 1 << 20), 0);
	cr_assert_eq(ash_setxattr(f.volume, to, "security.capability", "x", 1, 0), 0);
	cr_assert_eq(ash_copy_range(f.volume, from, 0, to, 0, 1 << 20), 1 << 20);
	cr_assert_eq(attr_of(&f, to).size, 1 << 20);
	cr_assert_eq(ash_getxattr(f.volume, to, "security.capability", NULL, 0), -ENODATA);
	fixture_close(&f);
}

/* chattr +S or -o sync: space, and the size that a copy of a hole gives, are there after a crash. */
static void check_durable_when_it_returns(const struct ash_open_options *options, uint32_t flags)
{
	const struct ash_setattr change = { .valid = ASH_SET_FLAGS, .flags = flags };
	struct fixture f;

	fixture_open(&f, "mem:64M", options);
	uint64_t source = make_file(&f, "source"), space = make_file(&f, "space"), copy = make_file(&f, "copy");
	cr_assert_eq(set_size(&f, source, 1 << 20), 0);
	cr_assert_eq(ash_setattr(f.volume, space, &change, NULL), 0);
	cr_assert_eq(ash_setattr(f.volume, copy, &change, NULL), 0);
	cr_assert_eq(ash_sync(f.volume), 0);
	cr_assert_eq(ash_fallocate(f.volume, space, 0, 0, 20000), 0);
	fixture_crash(&f);
	cr_expect_eq(attr_of(&f, find_file(&f, "space")).size, 20000, "fallocate, flags %x", flags);
	source = find_file(&f, "source");
	copy = find_file(&f, "copy");
	cr_assert_eq(ash_copy_range(f.volume, source, 0, copy, 0, 1 << 20), 1 << 20);
	fixture_crash(&f);
	cr_expect_eq(attr_of(&f, find_file(&f, "copy")).size, 1 << 20, "copy_file_range, flags %x", flags);
	fixture_close(&f);
}

Test(file, space_and_copies_of_holes_are_durable_when_the_file_or_the_mount_says_so)
{
	static const struct ash_open_options plain = { .no_threads = true },
					     synchronous = { .no_threads = true, .sync = true };

	check_durable_when_it_returns(&plain, ASH_INODE_SYNC);
	check_durable_when_it_returns(&synchronous, 0);
}

/* As damage under a right checksum: the first block of the file is the first of the log. */
static void map_the_log(struct fixture *f, uint64_t ino)
{
	struct ash_mapping mapping = { 0, 1, f->volume->log_start, false };
	struct ash_inode header;
	struct ash_icore *icore;
	struct ash_edit edit;

	cr_assert_eq(ash_icore_get(f->volume, ino, &icore), 0);
	cr_assert_eq(ash_edit_begin(&edit, f->volume, icore, ASH_EDIT_LOG_BYTES), 0);
	cr_assert_eq(ash_edit_outline(&edit, 0), 0);
	cr_assert_eq(ash_map_insert(edit.txn, &edit.tree, &mapping), 0);
	ash_edit_header(&edit, &header);
	header.size = ash_put64(4096);
	ash_edit_set_header(&edit, &header);
	ash_edit_commit(&edit, true);
	ash_icore_put(f->volume, icore);
}

Test(file, data_is_not_written_over_the_log)
{
	uint8_t *bytes = bdev_buffer_alloc(4096), *before = bdev_buffer_alloc(4096);
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f");
	map_the_log(&f, ino);
	fill(bytes, 4096, 1);
	cr_assert_eq(bdev_read(f.dev, before, 4096, f.volume->log_start << 12), 0);
	cr_expect_eq(ash_write(f.volume, ino, bytes, 4096, 0, ASH_WRITE_THROUGH), -EUCLEAN);
	cr_expect_eq(ash_data_zero(f.volume, 1, f.volume->log_start), -EUCLEAN);
	cr_assert_eq(bdev_read(f.dev, bytes, 4096, f.volume->log_start << 12), 0);
	cr_expect_eq(memcmp(before, bytes, 4096), 0);
	ash_abandon(f.volume);
	bdev_close(f.dev);
	bdev_buffer_free(bytes, 4096);
	bdev_buffer_free(before, 4096);
}

Test(file, a_failing_device_gives_an_error_and_leaves_the_size)
{
	uint8_t bytes[8192] = { 1 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_write(f.volume, ino, bytes, 8192, 0, 0), 8192);
	uint64_t before = free_blocks(&f);
	fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_WRITE), .length = 64 << 20, .count = 1 });
	cr_assert_eq(ash_write(f.volume, ino, bytes, 8192, 8192, 0), -EIO);
	cr_assert_eq(attr_of(&f, ino).size, 8192);
	cr_assert_eq(free_blocks(&f), before);
	cr_assert_eq(ash_write(f.volume, ino, bytes, 8192, 8192, 0), 8192);
	fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_READ), .length = 64 << 20, .count = 1 });
	cr_assert_eq(ash_read(f.volume, ino, bytes, 8192, 0), -EIO);
	cr_assert_eq(ash_read(f.volume, ino, bytes, 8192, 0), 8192);
	fixture_close(&f);
}

Test(file, suid_goes_with_a_write)
{
	const struct ash_setattr mode = { .valid = ASH_SET_MODE, .mode = 06755 };
	struct fixture f;

	fixture_open(&f, "mem:64M", &buffered);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_setattr(f.volume, ino, &mode, NULL), 0);
	cr_assert_eq(ash_setxattr(f.volume, ino, "security.capability", "12345", 5, 0), 0);
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, 0), 1);
	cr_assert_eq(attr_of(&f, ino).mode & 07777, 06755);
	cr_assert_eq(ash_getxattr(f.volume, ino, "security.capability", NULL, 0), -ENODATA);
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, ASH_WRITE_KILL_SUIDGID), 1);
	cr_assert_eq(attr_of(&f, ino).mode & 07777, 0755);
	fixture_close(&f);
}

/* For data from its page cache the kernel took it away at write(2); what was set since stays. */
Test(file, the_capability_stays_when_the_kernel_writes_back)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &buffered);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(ash_setxattr(f.volume, ino, "security.capability", "12345", 5, 0), 0);
	cr_assert_eq(ash_write(f.volume, ino, "data", 4, 0, ASH_WRITE_NO_TIMES), 4);
	cr_assert_eq(ash_write(f.volume, ino, "data", 4, 0, ASH_WRITE_NO_TIMES | ASH_WRITE_THROUGH), 4);
	cr_assert_eq(ash_getxattr(f.volume, ino, "security.capability", NULL, 0), 5);
	cr_assert_eq(ash_write(f.volume, ino, "data", 4, 0, ASH_WRITE_THROUGH), 4);
	cr_assert_eq(ash_getxattr(f.volume, ino, "security.capability", NULL, 0), -ENODATA);
	fixture_close(&f);
}

Test(file, an_append_that_cannot_grow_the_file_takes_no_privileges)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &buffered);
	uint64_t ino = make_file(&f, "f");
	cr_assert_eq(set_size(&f, ino, INT64_MAX), 0);
	cr_assert_eq(ash_setxattr(f.volume, ino, "security.capability", "12345", 5, 0), 0);
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, ASH_WRITE_APPEND | ASH_WRITE_KILL_SUIDGID), -EFBIG);
	cr_assert_eq(ash_getxattr(f.volume, ino, "security.capability", NULL, 0), 5);
	fixture_close(&f);
}

static void set_flags(struct fixture *f, uint64_t ino, uint32_t flags)
{
	cr_assert_eq(ash_setattr(f->volume, ino, &(struct ash_setattr){ .valid = ASH_SET_FLAGS, .flags = flags }, NULL),
		     0);
}

Test(file, an_immutable_file_takes_no_data)
{
	static const int modes[] = { 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_ZERO_RANGE };
	static const unsigned ways[] = { 0, ASH_WRITE_NO_TIMES, ASH_WRITE_THROUGH, ASH_WRITE_APPEND, ASH_WRITE_SYNC };
	uint8_t bytes[10000];
	struct fixture f;

	fill(bytes, sizeof(bytes), 1);
	fixture_open(&f, "mem:64M", &buffered);
	uint64_t ino = make_file(&f, "f"), from = make_file(&f, "from");
	cr_assert_eq(ash_write(f.volume, ino, bytes, sizeof(bytes), 0, 0), (int64_t)sizeof(bytes));
	cr_assert_eq(ash_write(f.volume, from, "other", 5, 0, 0), 5);
	cr_assert_eq(ash_setxattr(f.volume, ino, "security.capability", "12345", 5, 0), 0);
	set_flags(&f, ino, ASH_INODE_IMMUTABLE);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		cr_assert_eq(ash_fallocate(f.volume, ino, modes[i], 4096, 20000), -EPERM, "mode %d", modes[i]);
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
		cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, ways[i]), -EPERM, "flags %u", ways[i]);
	cr_assert_eq(ash_copy_range(f.volume, from, 0, ino, 0, 5), -EPERM);
	cr_assert_eq(ash_copy_range(f.volume, from, 0, ino, sizeof(bytes), 5), -EPERM);
	cr_assert_eq(ash_getxattr(f.volume, ino, "security.capability", NULL, 0), 5, "nothing was begun");
	fixture_remount(&f); /* what was buffered before is written out all the same */
	check_content(&f, find_file(&f, "f"), bytes, sizeof(bytes));
	cr_assert_eq(ash_copy_range(f.volume, find_file(&f, "f"), 0, find_file(&f, "from"), 0, 5), 5);
	fixture_close(&f);
}

Test(file, an_append_only_file_grows_and_keeps_what_it_has)
{
	uint8_t bytes[10000];
	struct fixture f;

	fill(bytes, sizeof(bytes), 1);
	fixture_open(&f, "mem:64M", &buffered);
	uint64_t ino = make_file(&f, "f"), from = make_file(&f, "from");
	cr_assert_eq(ash_write(f.volume, ino, bytes, 9000, 0, 0), 9000);
	cr_assert_eq(ash_write(f.volume, from, bytes + 9000, 1000, 0, 0), 1000);
	set_flags(&f, ino, ASH_INODE_APPEND);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -EPERM);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_ZERO_RANGE, 4096, 100), -EPERM);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 4096, 100), -EPERM);
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_KEEP_SIZE, 0, 20000), 0);
	cr_assert_eq(ash_copy_range(f.volume, from, 0, ino, 8999, 1000), -EPERM);
	cr_assert_eq(ash_copy_range(f.volume, from, 0, ino, 9000, 500), 500);
	cr_assert_eq(ash_write(f.volume, ino, bytes + 9500, 500, 0, ASH_WRITE_APPEND), 500);
	check_content(&f, ino, bytes, sizeof(bytes));
	fixture_close(&f);
}

Test(file, times_move_unless_told_otherwise)
{
	struct fixture f;

	fixture_open(&f, "mem:64M", &buffered);
	uint64_t ino = make_file(&f, "f");
	struct ash_attr a = attr_of(&f, ino);
	usleep(20000);
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, ASH_WRITE_NO_TIMES), 1);
	cr_assert_eq(attr_of(&f, ino).mtime.tv_nsec, a.mtime.tv_nsec);
	cr_assert_eq(ash_write(f.volume, ino, "x", 1, 0, 0), 1);
	struct ash_attr b = attr_of(&f, ino);
	cr_assert(b.mtime.tv_sec > a.mtime.tv_sec || b.mtime.tv_nsec > a.mtime.tv_nsec);
	cr_assert_eq(ash_write_back(f.volume, ino), 0);
	cr_assert_eq(attr_of(&f, ino).mtime.tv_nsec, b.mtime.tv_nsec);
	fixture_close(&f);
}

/* ---- Against a model ---- */

#define MODEL_FILES 3
#define MODEL_MAX (3u << 20)

struct model {
	struct fixture f;
	unsigned random;
	uint64_t ino[MODEL_FILES];
	uint8_t *bytes[MODEL_FILES]; /* zero behind the size */
	uint64_t size[MODEL_FILES];
	uint8_t *scratch; /* aligned */
	bool full;        /* the volume is smaller than the files: -ENOSPC may come, changing nothing */
	unsigned refused; /* how often it came */
};

/* Did the call do it all, or honestly nothing? */
static bool model_done(struct model *m, int result)
{
	cr_assert(!result || (m->full && result == -ENOSPC), "result %d", result);
	m->refused += result != 0;
	return !result;
}

static unsigned model_random(struct model *m, unsigned below)
{
	m->random = m->random * 1664525u + 1013904223u;
	return (unsigned)(((uint64_t)m->random * below) >> 32);
}

static void model_find(struct model *m)
{
	static const char *const names[] = { "a", "b", "c" };

	for (unsigned i = 0; i < MODEL_FILES; i++)
		m->ino[i] = find_file(&m->f, names[i]);
}

static void model_check(struct model *m, unsigned i)
{
	cr_assert_eq(attr_of(&m->f, m->ino[i]).size, m->size[i]);
	cr_assert_eq(ash_read(m->f.volume, m->ino[i], m->scratch, MODEL_MAX, 0), (int64_t)m->size[i]);
	/* an assertion for each byte would take most of the time */
	for (uint64_t at = 0; at < m->size[i]; at++)
		if (m->scratch[at] != m->bytes[i][at])
			cr_assert_fail("file %u byte %llu of %llu: %u, not %u", i, (unsigned long long)at,
				       (unsigned long long)m->size[i], m->scratch[at], m->bytes[i][at]);
}

/* What SEEK calls a hole reads as zeroes. */
static void model_check_holes(struct model *m, unsigned i)
{
	uint64_t at = 0;

	while (at < m->size[i]) {
		int64_t data = ash_seek(m->f.volume, m->ino[i], at, SEEK_DATA);
		uint64_t until = data == -ENXIO ? m->size[i] : (uint64_t)data;

		cr_assert(data >= 0 || data == -ENXIO);
		while (at < until && !m->bytes[i][at])
			at++;
		cr_assert_eq(at, until, "file %u byte %llu lies in a hole", i, (unsigned long long)at);
		if (data == -ENXIO)
			return;
		at = (uint64_t)ash_seek(m->f.volume, m->ino[i], at, SEEK_HOLE);
	}
}

static void model_range(struct model *m, uint64_t *offset, uint64_t *length)
{
	static const unsigned limits[] = { 300, 5000, 20000, 200000, MODEL_MAX / 2 };
	unsigned limit = limits[model_random(m, 5)];

	*offset = model_random(m, 3) ? model_random(m, limit) : model_random(m, MODEL_MAX / 2);
	*length = 1 + model_random(m, limit);
	if (model_random(m, 3) == 0) {
		*offset &= ~4095ull;
		*length = (*length + 4095) & ~4095ull;
	}
	if (*offset + *length > MODEL_MAX)
		*length = MODEL_MAX - *offset;
}

static void model_write(struct model *m, unsigned i)
{
	static const unsigned flags[] = {
		0, 0, 0, ASH_WRITE_THROUGH, ASH_WRITE_NO_TIMES | ASH_WRITE_THROUGH, ASH_WRITE_SYNC
	};
	uint64_t offset, length;
	unsigned odd = model_random(m, 2) ? 0 : 13;

	model_range(m, &offset, &length);
	fill(m->scratch + odd, length, m->random);
	int64_t put = ash_write(m->f.volume, m->ino[i], m->scratch + odd, length, offset, flags[model_random(m, 6)]);
	cr_assert(put == (int64_t)length || (m->full && (put > 0 || put == -ENOSPC)), "write gave %lld",
		  (long long)put);
	m->refused += put < 0;
	if (put < 0)
		return;
	length = (uint64_t)put;
	memcpy(m->bytes[i] + offset, m->scratch + odd, length);
	if (offset + length > m->size[i])
		m->size[i] = offset + length;
}

static void model_truncate(struct model *m, unsigned i)
{
	uint64_t size, length;

	model_range(m, &size, &length);
	if (model_random(m, 5) == 0)
		size = 0;
	if (!model_done(m, set_size(&m->f, m->ino[i], size)))
		return;
	if (size < m->size[i])
		memset(m->bytes[i] + size, 0, m->size[i] - size);
	m->size[i] = size;
}

static void model_fallocate(struct model *m, unsigned i)
{
	static const int modes[] = { 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE };
	int mode = modes[model_random(m, m->full ? 3 : 5)]; /* a zero-range that fails may have begun */
	uint64_t offset, length;

	model_range(m, &offset, &length);
	if (!model_done(m, ash_fallocate(m->f.volume, m->ino[i], mode, offset, length)))
		return;
	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		memset(m->bytes[i] + offset, 0, length);
	if (!(mode & FALLOC_FL_KEEP_SIZE) && offset + length > m->size[i])
		m->size[i] = offset + length;
}

static void model_copy(struct model *m, unsigned i)
{
	unsigned to = (i + 1) % MODEL_FILES;
	uint64_t from_offset, to_offset, length, ignored;

	model_range(m, &from_offset, &length);
	model_range(m, &to_offset, &ignored);
	if (to_offset + length > MODEL_MAX)
		length = MODEL_MAX - to_offset;
	uint64_t expected = from_offset >= m->size[i] ? 0 : m->size[i] - from_offset;
	if (expected > length)
		expected = length;
	int64_t copied = ash_copy_range(m->f.volume, m->ino[i], from_offset, m->ino[to], to_offset, length);
	cr_assert(copied == (int64_t)expected || (m->full && (copied == -ENOSPC || copied >= 0)), "copy gave %lld",
		  (long long)copied);
	if (copied < 0)
		return;
	expected = (uint64_t)copied;
	memcpy(m->bytes[to] + to_offset, m->bytes[i] + from_offset, expected);
	if (expected && to_offset + expected > m->size[to])
		m->size[to] = to_offset + expected;
}

static void model_step(struct model *m)
{
	unsigned i = model_random(m, MODEL_FILES), kind = model_random(m, 100);

	if (kind < 55)
		model_write(m, i);
	else if (kind < 65)
		model_truncate(m, i);
	else if (kind < 78)
		model_fallocate(m, i);
	else if (kind < 83)
		model_copy(m, i);
	else if (kind < 88)
		cr_assert_eq(ash_fsync(m->f.volume, m->ino[i], kind & 1), 0);
	else if (kind < 96)
		model_check(m, i);
	else if (kind < 98)
		model_check_holes(m, i);
	else if (kind < 99) {
		fixture_remount(&m->f);
		model_find(m);
	} else {
		cr_assert_eq(ash_sync(m->f.volume), 0);
		fixture_crash(&m->f);
		model_find(m);
	}
}

/* More of them on request. */
static unsigned seeds(unsigned count)
{
	return test_level_is_long() ? 4 * count : count;
}

/* How often space was refused. */
static unsigned run_model(const struct ash_open_options *options, unsigned seed, unsigned steps, const char *device)
{
	struct model m = { .random = seed, .full = !strcmp(device, "mem:5M") };

	fixture_open(&m.f, device, options);
	uint64_t before = free_blocks(&m.f);
	make_file(&m.f, "a");
	make_file(&m.f, "b");
	make_file(&m.f, "c");
	model_find(&m);
	m.scratch = aligned(MODEL_MAX + 4096);
	for (unsigned i = 0; i < MODEL_FILES; i++)
		m.bytes[i] = calloc(1, MODEL_MAX);
	while (steps--)
		model_step(&m);
	for (unsigned i = 0; i < MODEL_FILES; i++) {
		model_check(&m, i);
		model_check_holes(&m, i);
		cr_assert_eq(set_size(&m.f, m.ino[i], 0), 0);
	}
	cr_assert_eq(ash_sync(m.f.volume), 0);
	cr_assert_eq(free_blocks(&m.f), before);
	fixture_close(&m.f);
	for (unsigned i = 0; i < MODEL_FILES; i++)
		free(m.bytes[i]);
	bdev_buffer_free(m.scratch, MODEL_MAX + 4096);
	return m.refused;
}

Test(file, equals_a_model_written_through)
{
	for (unsigned seed = 1; seed < 1 + seeds(4); seed++)
		run_model(&through, seed, 400, "mem:64M");
}

Test(file, equals_a_model_buffered)
{
	for (unsigned seed = 11; seed < 11 + seeds(8); seed++)
		run_model(&buffered, seed, 400, "mem:64M");
}

Test(file, equals_a_model_with_a_tiny_buffer)
{
	const struct ash_open_options tiny = { .no_threads = true, .write_behind_bytes = 256 << 10 };

	for (unsigned seed = 21; seed < 21 + seeds(6); seed++)
		run_model(&tiny, seed, 400, "mem:64M");
}

Test(file, equals_a_model_with_threads)
{
	const struct ash_open_options threads = { .write_behind_bytes = 1 << 20, .commit_seconds = 1 };

	for (unsigned seed = 31; seed < 31 + seeds(3); seed++)
		run_model(&threads, seed, 400, "mem:64M");
}

Test(file, equals_a_model_on_a_full_volume)
{
	const struct ash_open_options tiny = { .no_threads = true, .write_behind_bytes = 1 << 20 };
	unsigned refused = 0;

	for (unsigned seed = 41; seed < 41 + seeds(20); seed++) {
		refused += run_model(&tiny, seed, 300, "mem:5M");
		refused += run_model(&through, seed, 300, "mem:5M");
	}
	cr_assert_gt(refused, 100);
}

/* Fewer bytes than asked for would say "end of file". */
Test(file, read_that_fails_half_way_is_an_error)
{
	uint8_t *bytes = aligned(4096), *back = aligned(5 * 4096);
	struct fixture f;

	fixture_open(&f, "mem:64M", &through);
	uint64_t ino = make_file(&f, "f");
	for (unsigned i = 0; i < 5; i += 2)
		cr_assert_eq(ash_write(f.volume, ino, bytes, 4096, i * UINT64_C(4096), 0), 4096);
	fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_READ), .skip = 1, .count = 1 });
	cr_expect_eq(ash_read(f.volume, ino, back, 5 * 4096, 0), -EIO);
	cr_expect_eq(ash_read(f.volume, ino, back, 5 * 4096, 0), 5 * 4096);
	fixture_close(&f);
	bdev_buffer_free(bytes, 4096);
	bdev_buffer_free(back, 5 * 4096);
}

/* A file of `count` extents, on the device only. */
static uint64_t scattered_file(struct fixture *f, unsigned count)
{
	static uint8_t bytes[ASH_BLOCK_SIZE];
	uint64_t ino = make_file(f, "scattered");

	fill(bytes, sizeof(bytes), 1);
	for (unsigned i = 0; i < count; i++)
		cr_assert_eq(ash_write(f->volume, ino, bytes, sizeof(bytes), 2ull * i * sizeof(bytes), 0),
			     (int64_t)sizeof(bytes));
	fixture_remount(f);
	return find_file(f, "scattered");
}

/* The first transaction of a long truncation sets the size: an error behind it is none of the caller's. */
Test(file, a_truncation_that_fails_has_not_happened)
{
	struct fixture f;
	bool happened = false;

	fixture_open(&f, "mem:64M", &(struct ash_open_options){ .no_threads = true });
	uint64_t ino = scattered_file(&f, 2000);
	for (unsigned skip = 0; skip < 200 && !happened; skip++) {
		cr_assert_eq(fault_add(f.dev, &(struct fault_rule){ .ops = FAULT_OP(BDEV_READ), .skip = skip }), 0);
		int rc = set_size(&f, ino, ASH_BLOCK_SIZE);
		fault_clear(f.dev);
		happened = attr_of(&f, ino).size == ASH_BLOCK_SIZE;
		cr_assert_eq(rc == 0, happened, "skip %u: %d", skip, rc);
	}
	cr_assert(happened);
	/* What is left of it is nobody's space: */
	cr_assert_eq(ash_fallocate(f.volume, ino, FALLOC_FL_KEEP_SIZE, 0, 2 * ASH_BLOCK_SIZE), 0);
	cr_expect_eq(attr_of(&f, ino).blocks, 16u);
	fixture_close(&f);
}
