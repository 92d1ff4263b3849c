/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Damage to every field of every structure.
 *
 * For each case, on a fresh copy of the image: damage it; let the engine open, walk and read it (anything but a crash or a
 * hang is allowed, and nothing may be written by a look); `check -n` must report what is an inconsistency and write
 * nothing; `check -y` must repair; a second look must find nothing; and every inode that the damage did
 * not touch must be there, with its content and attributes, byte for byte.
 *
 * test_damage [fields | log | groups | interrupted]: the parts. DAMAGE_ONLY=text runs the cases with that in their name,
 * DAMAGE_VERBOSE=1 shows the problems. Prints TAP. Single-threaded.
 */
#include "image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include "fs/btree.h"
#include "fs/checksum.h"
#include "tests/support/fault.h"

#define AFFECTED_MAX 8u

struct test {
	char name[160];
	bool must_report; /* a look must find a problem */
	bool must_not;    /* ... must find none */
	bool any_change;  /* content may change anywhere (only soundness is asked for) */
	bool names_move;  /* names may change: inodes are compared, not directories */
	uint64_t affected[AFFECTED_MAX];
	unsigned affected_count;
};

static unsigned test_count, failure_count;

static void result_line(const struct test *test, const char *trouble)
{
	test_count++;
	if (trouble) {
		failure_count++;
		printf("not ok %u - %s: %s\n", test_count, test->name, trouble);
	} else {
		printf("ok %u - %s\n", test_count, test->name);
	}
}

static bool is_affected(const struct test *test, uint64_t ino)
{
	for (unsigned i = 0; i < test->affected_count; i++)
		if (test->affected[i] == ino)
			return true;
	return test->any_change;
}

static bool same_inode(const struct known_inode *a, const struct known_inode *b, bool names_move)
{
	if (S_ISDIR(a->mode))
		return a->mode == b->mode && a->attributes == b->attributes &&
		       (names_move || (a->content == b->content && a->size == b->size && a->nlink == b->nlink));
	return a->mode == b->mode && a->size == b->size && a->content == b->content && a->attributes == b->attributes &&
	       (names_move || a->nlink == b->nlink);
}

static const char *compare(const struct image *image, const struct test *test, const struct manifest *now)
{
	static char text[160];

	for (size_t i = 0; i < image->manifest.count; i++) {
		const struct known_inode *old = &image->manifest.items[i], *new;

		if (is_affected(test, old->ino))
			continue;
		new = manifest_find(now, old->ino);
		if (new &&same_inode(old, new, test->names_move))
			continue;
		snprintf(text, sizeof(text), "inode %llu, which the damage did not touch, %s",
			 (unsigned long long)old->ino, new ? "changed" : "is gone");
		return text;
	}
	return NULL;
}

static void on_report(void *context, const struct ash_check_problem *problem)
{
	(void)context;
	if (getenv("DAMAGE_VERBOSE"))
		printf("#   [%s] %s (%s)\n", problem->code, problem->message, problem->fixed ? "repaired" : "left");
}

static int check(struct image *image, enum ash_check_mode mode, struct ash_check_result *result)
{
	struct ash_check_options options = { .mode = mode, .force = true, .report = on_report };

	if (getenv("DAMAGE_VERBOSE"))
		printf("#  check mode %d\n", mode);
	return ash_check(image->dev, &options, result);
}

static const char *look(struct image *image, const struct test *test, struct ash_check_result *result)
{
	struct ash_open_options options = { .no_write = true, .no_threads = true };
	struct manifest walked;
	uint64_t before = image->writes;
	int opened, checked;

	opened = manifest_take(image->dev, &options, &walked);
	if (!opened)
		manifest_free(&walked);
	checked = check(image, ASH_CHECK_NO, result);
	if (image->writes != before)
		return "a look wrote to the device";
	if (test->must_report && !checked && !result->problems)
		return "not reported";
	if (test->must_not && (checked || result->problems))
		return "reported, though it is no inconsistency";
	return NULL;
}

static const char *repair(struct image *image, const struct test *test)
{
	static char text[512];
	struct ash_open_options options = { .no_threads = true };
	struct ash_check_result result;
	struct manifest now;
	const char *trouble;
	int error = check(image, ASH_CHECK_YES, &result);

	if (error || result.left) {
		snprintf(text, sizeof(text), "not repaired: %.200s (%llu left)", error ? result.error : result.first,
			 (unsigned long long)result.left);
		return text;
	}
	error = check(image, ASH_CHECK_NO, &result);
	if (error || result.problems) {
		snprintf(text, sizeof(text), "not clean after the repair: %.200s", error ? result.error : result.first);
		return text;
	}
	error = manifest_take(image->dev, &options, &now);
	if (error || now.error) {
		snprintf(text, sizeof(text), "cannot be walked after the repair: %s",
			 strerror(error ? -error : -now.error));
		if (!error)
			manifest_free(&now);
		return text;
	}
	trouble = compare(image, test, &now);
	manifest_free(&now);
	if (trouble)
		return trouble;
	error = check(image, ASH_CHECK_NO, &result);
	if (error || result.problems) {
		snprintf(text, sizeof(text), "not clean after a mount: %.200s", error ? result.error : result.first);
		return text;
	}
	return NULL;
}

/* The image is damaged: judge, and put it back. */
static void judge(struct image *image, const struct test *test)
{
	struct ash_check_result result;
	const char *trouble;

	if (getenv("DAMAGE_ONLY") && !strstr(test->name, getenv("DAMAGE_ONLY"))) {
		image_restore(image);
		return;
	}
	if (getenv("DAMAGE_VERBOSE"))
		printf("# %s\n", test->name);
	fflush(stdout);
	trouble = look(image, test, &result);
	if (!trouble)
		trouble = repair(image, test);
	result_line(test, trouble);
	image_restore(image);
}

/* ---- Fields ---- */

enum expect {
	ANY,    /* depends on the value */
	REPORT, /* every change is an inconsistency */
	BENIGN, /* one value is as good as another */
};

struct field {
	const char *name;
	uint32_t offset, size;
	enum expect expect; /* of a change under a right checksum */
};

enum change { CHANGE_ZERO, CHANGE_ONES, CHANGE_FLIP_LOW, CHANGE_FLIP_HIGH, CHANGE_ADD, CHANGE_COUNT };
static const char *const change_names[] = { "zeroed", "all ones", "lowest bit", "highest bit", "plus 3" };

/* False when the change would change nothing. */
static bool change_field(uint8_t *bytes, uint32_t size, enum change change)
{
	uint8_t old[64];

	memcpy(old, bytes, size);
	switch (change) {
	case CHANGE_ZERO:
		memset(bytes, 0, size);
		break;
	case CHANGE_ONES:
		memset(bytes, 0xff, size);
		break;
	case CHANGE_FLIP_LOW:
		bytes[0] ^= 1;
		break;
	case CHANGE_FLIP_HIGH:
		bytes[size - 1] ^= 0x80;
		break;
	case CHANGE_ADD:
		bytes[0] = (uint8_t)(bytes[0] + 3);
		break;
	case CHANGE_COUNT:
		break;
	}
	return memcmp(old, bytes, size) != 0;
}

#define FIELD(type, member, expect)                                                  \
	{                                                                            \
#member, offsetof(type, member), sizeof(((type *)0)->member), expect \
	}

static const struct field header_fields[] = {
	FIELD(struct ash_block_header, magic, REPORT),         FIELD(struct ash_block_header, crc, REPORT),
	FIELD(struct ash_block_header, address, REPORT),       FIELD(struct ash_block_header, owner, REPORT),
	FIELD(struct ash_block_header, metadata_uuid, REPORT),
};
static const struct field super_fields[] = {
	FIELD(struct ash_super, volume_magic, REPORT),
	FIELD(struct ash_super, version, ANY),
	FIELD(struct ash_super, block_shift, ANY),
	FIELD(struct ash_super, uuid, BENIGN),
	FIELD(struct ash_super, label, BENIGN),
	FIELD(struct ash_super, compat, BENIGN),
	FIELD(struct ash_super, block_count, ANY),
	FIELD(struct ash_super, group_count, REPORT),
	FIELD(struct ash_super, blocks_per_group, REPORT),
	FIELD(struct ash_super, group_table_start, REPORT),
	FIELD(struct ash_super, group_table_blocks, ANY),
	FIELD(struct ash_super, log_start, ANY),
	FIELD(struct ash_super, log_blocks, ANY),
	FIELD(struct ash_super, checksum_seed, REPORT),
	FIELD(struct ash_super, inodes_per_run, ANY),
	FIELD(struct ash_super, hash_key, REPORT),
	FIELD(struct ash_super, created, BENIGN),
	FIELD(struct ash_super, error_count, BENIGN),
	FIELD(struct ash_super, error_time, BENIGN),
	FIELD(struct ash_super, state, BENIGN),
	FIELD(struct ash_super, inode_runs, REPORT),
};
static const struct field bitmap_fields[] = {
	FIELD(struct ash_bitmap_block, initialized, ANY),
};
static const struct field inode_fields[] = {
	FIELD(struct ash_inode, magic, REPORT),      FIELD(struct ash_inode, ino, REPORT),
	FIELD(struct ash_inode, generation, BENIGN), FIELD(struct ash_inode, mode, ANY),
	FIELD(struct ash_inode, nlink, REPORT),      FIELD(struct ash_inode, uid, BENIGN),
	FIELD(struct ash_inode, gid, BENIGN),        FIELD(struct ash_inode, size, ANY),
	FIELD(struct ash_inode, blocks, REPORT),     FIELD(struct ash_inode, mtime, BENIGN),
	FIELD(struct ash_inode, mtime_ns, ANY),      FIELD(struct ash_inode, rdev, BENIGN),
	FIELD(struct ash_inode, parent, ANY),        FIELD(struct ash_inode, flags, ANY),
	FIELD(struct ash_inode, data_kind, ANY),     FIELD(struct ash_inode, attr_kind, ANY),
	FIELD(struct ash_inode, reserved, BENIGN),
};
static const struct field node_fields[] = {
	FIELD(struct ash_node_header, level, REPORT),
	FIELD(struct ash_node_header, count, REPORT),
	FIELD(struct ash_node_header, heap_start, REPORT),
	FIELD(struct ash_node_header, heap_free, REPORT),
};
static const struct field record_fields[] = {
	FIELD(struct ash_tree_record, key, ANY),
	FIELD(struct ash_tree_record, length, REPORT),
};
static const struct field control_fields[] = {
	FIELD(struct ash_log_control, sequence, ANY),          FIELD(struct ash_log_control, epoch, ANY),
	FIELD(struct ash_log_control, tail_position, ANY),     FIELD(struct ash_log_control, tail_lsn, ANY),
	FIELD(struct ash_log_control, tail_previous_crc, ANY), FIELD(struct ash_log_control, clean, ANY),
	FIELD(struct ash_log_control, epoch_position, ANY),    FIELD(struct ash_log_control, free_blocks, REPORT),
	FIELD(struct ash_log_control, used_inodes, REPORT),
};
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Blocks with a header ---- */

struct target {
	const char *name;
	uint64_t block;
	struct test base;
	bool note_only; /* damage to it is no inconsistency: one of two log control blocks */
};

static void damage_field(struct image *image, const struct target *target, const struct field *field, uint32_t base,
			 bool seal)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	for (enum change change = 0; change < CHANGE_COUNT; change++) {
		struct test test = target->base;

		if (!seal && change != CHANGE_FLIP_LOW && change != CHANGE_ONES)
			continue;
		image_read(image, target->block, data);
		if (!change_field(data + base + field->offset, field->size, change))
			continue;
		snprintf(test.name, sizeof(test.name), "%s.%s %s, %s checksum", target->name, field->name,
			 change_names[change], seal ? "right" : "wrong");
		test.must_report = !target->note_only && (!seal || field->expect == REPORT);
		test.must_not = seal && field->expect == BENIGN;
		block_put(image, target->block, data, seal);
		judge(image, &test);
	}
}

static void damage_block(struct image *image, const struct target *target, const struct field *fields, size_t count,
			 uint32_t base)
{
	for (size_t i = 0; i < count; i++) {
		damage_field(image, target, &fields[i], base, false);
		if (base + fields[i].offset != offsetof(struct ash_block_header, crc))
			damage_field(image, target, &fields[i], base, true);
	}
}

static void damage_whole(struct image *image, const struct target *target)
{
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	struct test test = target->base;

	test.must_report = !target->note_only;
	snprintf(test.name, sizeof(test.name), "%s: zeroed", target->name);
	memset(data, 0, sizeof(data));
	image_write(image, target->block, data);
	judge(image, &test);
	snprintf(test.name, sizeof(test.name), "%s: rubbish", target->name);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 197 + (i >> 5));
	image_write(image, target->block, data);
	judge(image, &test);
	snprintf(test.name, sizeof(test.name), "%s: a copy of block 0", target->name);
	if (target->block) {
		image_read(image, 0, data);
		image_write(image, target->block, data);
		judge(image, &test);
	}
}

/* ---- Cases ---- */

static void test_supers(struct image *image)
{
	struct target primary = { .name = "superblock", .block = 0 };
	struct target backup = { .name = "backup", .block = ash_get64(image->super.block_count) - 1 };

	/* The backup is older than the table's second run: it must be found again. */
	damage_whole(image, &primary);
	damage_whole(image, &backup);
	for (size_t i = 0; i < COUNT(header_fields); i++)
		if (header_fields[i].offset != offsetof(struct ash_block_header, owner))
			damage_field(image, &primary, &header_fields[i], 0, false);
	for (size_t i = 0; i < COUNT(super_fields); i++)
		damage_field(image, &primary, &super_fields[i], 0, false);
	for (size_t i = 0; i < COUNT(super_fields); i++)
		damage_field(image, &backup, &super_fields[i], 0, false);
}

/* Of three superblocks two outvote one, whatever its checksum; without block 0 any backup will do. */
static void test_votes(struct image *image)
{
	static const uint8_t zero[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	const uint64_t places[] = { 0, ash_get64(image->super.block_count) - 1, ash_group_start(1) };
	struct target primary = { .name = "one superblock of three" };

	for (size_t i = 0; i < COUNT(super_fields); i++) {
		struct field field = super_fields[i];

		/* A newer format and a device that is too short are refused, not repaired. */
		if (strcmp(field.name, "version") && strcmp(field.name, "block_shift") &&
		    strcmp(field.name, "block_count"))
			damage_field(image, &primary, &field, 0, true);
	}
	for (unsigned left = 0; left < 3; left++) {
		struct test test = { .must_report = true };

		snprintf(test.name, sizeof(test.name), "only the superblock at block %llu is left",
			 (unsigned long long)places[left]);
		for (unsigned i = 0; i < 3; i++)
			if (i != left)
				image_write(image, places[i], zero);
		judge(image, &test);
	}
}

/* A file that lies in the second group. */
static void test_second_group(struct image *image)
{
	struct target bitmap = { .name = "bitmap of group 1", .block = ash_group_bitmap(1) };
	struct target table = { .name = "group table", .block = ash_get64(image->super.group_table_start) };
	struct field bits = { "bits", offsetof(struct ash_bitmap_block, bits), 64, REPORT };
	struct field flags = { "flags[1]", offsetof(struct ash_group_table_block, flags) + 4, 4, REPORT };

	damage_whole(image, &bitmap);
	damage_field(image, &bitmap, &bits, 0, true);
	damage_whole(image, &table);
	damage_field(image, &table, &flags, 0, true);
}

static void test_groups(struct image *image)
{
	struct target table = { .name = "group table", .block = ash_get64(image->super.group_table_start) };
	struct target bitmap = { .name = "block bitmap", .block = ash_group_bitmap(0) };
	struct field first = FIELD(struct ash_group_table_block, first_group, REPORT);
	struct field flags = { "flags[0]", offsetof(struct ash_group_table_block, flags), 4, REPORT };
	struct field free_blocks = { "free_blocks[0]", offsetof(struct ash_group_table_block, free_blocks), 4, REPORT };
	struct field bits = { "bits", offsetof(struct ash_bitmap_block, bits), 64, REPORT };
	struct field tail = { "last bits", ASH_BLOCK_SIZE - 16, 16, REPORT };

	damage_whole(image, &table);
	damage_block(image, &table, header_fields, COUNT(header_fields), 0);
	damage_field(image, &table, &first, 0, true);
	damage_field(image, &table, &flags, 0, true);
	damage_field(image, &table, &flags, 0, false);
	damage_field(image, &table, &free_blocks, 0, true);
	damage_whole(image, &bitmap);
	damage_block(image, &bitmap, header_fields, COUNT(header_fields), 0);
	damage_field(image, &bitmap, &bits, 0, true);
	damage_field(image, &bitmap, &tail, 0, true);
}

static void test_runs(struct image *image)
{
	for (unsigned run = 0; run < 2; run++) {
		char name[32];
		struct target target = { .name = name };
		struct field bits = { "bits", offsetof(struct ash_bitmap_block, bits), 32, REPORT };

		snprintf(name, sizeof(name), "bitmap of inode run %u", run);
		target.block = locate_table_block(
			image, run * (1 + ash_get32(image->super.inodes_per_run) / ASH_INODES_PER_BLOCK));
		damage_whole(image, &target);
		damage_block(image, &target, header_fields, COUNT(header_fields), 0);
		damage_block(image, &target, bitmap_fields, COUNT(bitmap_fields), 0);
		damage_field(image, &target, &bits, 0, true);
	}
}

static void test_inode(struct image *image, const char *name, uint64_t ino)
{
	struct ash_inode good, bad;

	inode_get(image, ino, &good);
	for (size_t i = 0; i < COUNT(inode_fields); i++)
		for (unsigned seal = 0; seal < 2; seal++)
			for (enum change change = 0; change < CHANGE_COUNT; change++) {
				const struct field *field = &inode_fields[i];
				struct test test = { .affected = { ino }, .affected_count = 1, .names_move = true };

				bad = good;
				if (!change_field((uint8_t *)&bad + field->offset, field->size, change) ||
				    (!seal && change != CHANGE_ONES))
					continue;
				snprintf(test.name, sizeof(test.name), "inode %s.%s %s, %s checksum", name, field->name,
					 change_names[change], seal ? "right" : "wrong");
				test.must_report = !seal || field->expect == REPORT;
				test.must_not = seal && field->expect == BENIGN;
				inode_put(image, ino, &bad, seal);
				judge(image, &test);
			}
}

/* Roots of trees that lie in the record. */
static void test_root_node(struct image *image, const char *name, uint64_t ino, bool attribute)
{
	struct ash_inode good, bad;

	inode_get(image, ino, &good);
	for (size_t i = 0; i < COUNT(node_fields); i++)
		for (enum change change = 0; change < CHANGE_COUNT; change++) {
			struct test test = {
				.affected = { ino }, .affected_count = 1, .names_move = true, .must_report = true
			};

			bad = good;
			if (!change_field((attribute ? bad.attr : bad.data) + node_fields[i].offset,
					  node_fields[i].size, change))
				continue;
			snprintf(test.name, sizeof(test.name), "%s root of %s: %s %s", attribute ? "attribute" : "data",
				 name, node_fields[i].name, change_names[change]);
			inode_put(image, ino, &bad, true);
			judge(image, &test);
		}
}

static void test_nodes(struct image *image, const char *name, uint64_t ino, bool attribute)
{
	uint64_t blocks[64];
	unsigned count = locate_nodes(image, ino, attribute, blocks, 64);
	unsigned picks[] = { 0, 1, count - 1 };
	char text[64];

	if (!count)
		die("%s has no tree blocks: the image does not test what it should", name);
	for (unsigned i = 0; i < COUNT(picks); i++) {
		struct target target = { .name = text,
					 .block = blocks[picks[i]],
					 .base = { .affected = { ino }, .affected_count = 1, .names_move = true } };
		uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
		uint32_t first;

		if (picks[i] >= count || (i && picks[i] == picks[i - 1]))
			continue;
		snprintf(text, sizeof(text), "%s tree node %u of %s", attribute ? "attribute" : "data", picks[i], name);
		damage_whole(image, &target);
		damage_block(image, &target, header_fields, COUNT(header_fields), 0);
		damage_block(image, &target, node_fields, COUNT(node_fields), offsetof(struct ash_tree_block, node));
		image_read(image, target.block, data);
		first = (uint32_t)((uint8_t *)node_record(data + offsetof(struct ash_tree_block, node), 1) - data);
		damage_block(image, &target, record_fields, COUNT(record_fields), first);
		for (unsigned slot = 0; slot < 3; slot++) {
			struct field field = { "slot", offsetof(struct ash_tree_block, node) + 8 + 2 * slot, 2,
					       REPORT };

			damage_field(image, &target, &field, 0, true);
		}
	}
}

/* Values of records in the inode's own root, sealed. */
static void test_root_value(struct image *image, const char *name, uint64_t ino, bool attribute,
			    const struct field *fields, size_t count)
{
	struct ash_inode good, bad;

	inode_get(image, ino, &good);
	for (size_t i = 0; i < count; i++)
		for (enum change change = 0; change < CHANGE_COUNT; change++) {
			struct test test = { .affected = { ino },
					     .affected_count = 1,
					     .names_move = true,
					     .must_report = fields[i].expect == REPORT };
			uint8_t *record;

			bad = good;
			record = (uint8_t *)node_record(attribute ? bad.attr : bad.data, 0);
			if (!change_field(record + fields[i].offset, fields[i].size, change))
				continue;
			snprintf(test.name, sizeof(test.name), "%s: %s %s", name, fields[i].name, change_names[change]);
			inode_put(image, ino, &bad, true);
			judge(image, &test);
		}
}

static void test_values(struct image *image)
{
	const uint32_t v = sizeof(struct ash_tree_record);
	const struct field extent[] = {
		{ "key", 0, 8, ANY },
		{ "length", 8, 2, REPORT },
		{ "extent start", v, 8, REPORT },
		{ "extent count", v + 8, 4, REPORT },
		{ "extent flags", v + 12, 4, ANY },
	};
	const struct field entry[] = {
		{ "key", 0, 8, ANY },
		{ "length", 8, 2, REPORT },
		{ "entry ino", v, 8, REPORT },
		{ "entry type", v + 8, 1, REPORT },
		{ "entry name_length", v + 9, 1, REPORT },
		{ "entry name", v + 10, 4, REPORT },
	};
	const struct field attribute[] = {
		{ "key", 0, 8, ANY },
		{ "length", 8, 2, REPORT },
		{ "attribute name_length", v, 1, REPORT },
		{ "attribute kind", v + 1, 1, REPORT },
		{ "attribute value_length", v + 4, 4, REPORT },
		{ "attribute name", v + 8, 4, REPORT },
	};

	test_root_value(image, "block file", image->block_file, false, extent, COUNT(extent));
	test_root_value(image, "long link", image->long_link, false, extent, COUNT(extent));
	test_root_value(image, "child directory", image->child_directory, false, entry, COUNT(entry));
	test_root_value(image, "small directory", image->small_directory, false, entry, COUNT(entry));
	test_root_value(image, "block file attributes", image->block_file, true, attribute, COUNT(attribute));
}

static void test_log_control(struct image *image)
{
	uint64_t start = ash_get64(image->super.log_start);

	for (unsigned i = 0; i < 2; i++) {
		char name[32];
		struct target target = { .name = name, .block = start + i, .note_only = true };

		snprintf(name, sizeof(name), "log control block %u", i);
		damage_whole(image, &target);
		damage_block(image, &target, header_fields, COUNT(header_fields), 0);
		damage_block(image, &target, control_fields, COUNT(control_fields), 0);
	}
}

/* ---- Cases of their own ---- */

static void test_both_controls(struct image *image)
{
	static const uint8_t zero[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	struct test test = { .name = "both log control blocks zeroed", .must_report = true };

	image_write(image, ash_get64(image->super.log_start), zero);
	image_write(image, ash_get64(image->super.log_start) + 1, zero);
	judge(image, &test);
}

/* Two files claim the same blocks. */
static void test_shared_blocks(struct image *image)
{
	struct test test = { .name = "two files share blocks",
			     .must_report = true,
			     .affected = { image->unwritten_file },
			     .affected_count = 1 };
	struct ash_inode victim, thief;
	struct ash_extent_value *mine;
	const struct ash_extent_value *other;

	inode_get(image, image->block_file, &victim);
	inode_get(image, image->unwritten_file, &thief);
	mine = (void *)node_record(thief.data, 0)->value;
	other = (const void *)node_record(victim.data, 0)->value;
	mine->start = other->start;
	inode_put(image, image->unwritten_file, &thief, true);
	judge(image, &test);
}

static void test_extent_over_metadata(struct image *image)
{
	const uint64_t places[] = { ash_get64(image->super.log_start) + 5, ash_group_bitmap(0),
				    locate_table_block(image, 3) };

	for (unsigned i = 0; i < COUNT(places); i++) {
		struct test test = { .must_report = true, .affected = { image->unwritten_file }, .affected_count = 1 };
		struct ash_inode record;

		snprintf(test.name, sizeof(test.name), "a file claims block %llu of the volume's metadata",
			 (unsigned long long)places[i]);
		inode_get(image, image->unwritten_file, &record);
		((struct ash_extent_value *)(void *)node_record(record.data, 0)->value)->start = ash_put64(places[i]);
		inode_put(image, image->unwritten_file, &record, true);
		judge(image, &test);
	}
}

static void test_directory_ring(struct image *image)
{
	struct test test = { .name = "a directory is its own grandchild",
			     .must_report = true,
			     .names_move = true,
			     .affected = { image->child_directory, image->small_directory },
			     .affected_count = 2 };
	struct ash_inode record;
	struct ash_dirent_value *entry;

	/* child/leaf -> small: small has two names, one below itself. */
	inode_get(image, image->child_directory, &record);
	entry = (void *)node_record(record.data, 0)->value;
	entry->ino = ash_put64(image->small_directory);
	entry->type = 4;
	inode_put(image, image->child_directory, &record, true);
	judge(image, &test);
}

static void test_root_lost(struct image *image)
{
	static const struct ash_inode zero;
	struct test test = { .name = "the root is zeroed",
			     .must_report = true,
			     .names_move = true,
			     .affected = { ASH_INO_ROOT },
			     .affected_count = 1 };

	inode_put(image, ASH_INO_ROOT, &zero, false);
	judge(image, &test);
}

static void test_unnamed(struct image *image)
{
	struct test test = { .name = "an inode loses its links count", .must_report = true, .names_move = true };
	struct ash_inode record;

	inode_get(image, image->hard, &record);
	record.nlink = ash_put32(1);
	inode_put(image, image->hard, &record, true);
	judge(image, &test);
}

static void test_external_value(struct image *image)
{
	struct test test = { .name = "a byte of a long attribute value",
			     .must_report = true,
			     .affected = { image->attribute_file, image->block_file },
			     .affected_count = 2 };
	uint64_t blocks = ash_get64(image->super.block_count);
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	/* Values of this test's attributes are blocks full of 'v'. */
	for (uint64_t block = 1; block < blocks; block++) {
		image_read(image, block, data);
		if (data[0] != 'v' || data[4095] != 'v' || memcmp(data, data + 1, 4095))
			continue;
		data[100] = 'w';
		image_write(image, block, data);
		judge(image, &test);
		return;
	}
	die("no attribute value was found");
}

static void test_inode_block(struct image *image, uint64_t ino)
{
	struct test test = { .must_report = true, .names_move = true };
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));
	uint32_t offset;
	uint64_t block = locate_inode(image, ino, &offset), first = ino - ino % ASH_INODES_PER_BLOCK;

	for (unsigned i = 0; i < ASH_INODES_PER_BLOCK; i++)
		test.affected[test.affected_count++] = first + i;
	snprintf(test.name, sizeof(test.name), "the block of inodes %llu.. is rubbish", (unsigned long long)first);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 59 + (i >> 4));
	image_write(image, block, data);
	judge(image, &test);
}

/* Log blocks of a volume that was not closed: the look must stand it, the repair must end in a sound volume. */
static void test_log_blocks(struct image *image)
{
	uint64_t start = ash_get64(image->super.log_start), blocks = ash_get64(image->super.log_blocks);
	uint8_t data[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	for (uint64_t i = 2; i < blocks; i++) {
		struct target target = { .block = start + i, .note_only = true, .base = { .any_change = true } };
		char name[48];
		const struct field fields[] = {
			FIELD(struct ash_log_block, epoch, ANY),
			FIELD(struct ash_log_block, previous_crc, ANY),
			FIELD(struct ash_log_block, used, ANY),
			FIELD(struct ash_log_block, first_record, ANY),
			FIELD(struct ash_log_block, durable_position, ANY),
			{ "record length", 64, 4, ANY },
			{ "record items", 68, 4, ANY },
			{ "record lsn", 72, 8, ANY },
			{ "item kind", 80, 1, ANY },
			{ "item length", 82, 2, ANY },
			{ "item value", 84, 4, ANY },
			{ "item block", 88, 8, ANY },
			{ "payload", 200, 8, ANY },
		};

		image_read(image, target.block, data);
		if (ash_get32(((struct ash_block_header *)data)->magic) != ASH_MAGIC_LOG_BLOCK || (i > 6 && i % 23))
			continue;
		target.name = name;
		snprintf(name, sizeof(name), "log block %llu", (unsigned long long)i);
		damage_whole(image, &target);
		damage_block(image, &target, fields, COUNT(fields), 0);
	}
}

/* ---- Interrupted repairs ---- */

enum wound {
	WOUND_SUPER,
	WOUND_GROUP_TABLE,
	WOUND_BITMAP,
	WOUND_RUN,
	WOUND_CONTROLS,
	WOUND_NODE,
	WOUND_INNER_NODE,
	WOUND_ATTRIBUTE_NODE,
	WOUND_ROOT,
	WOUND_INODES,
	WOUND_SHARED,
	WOUND_COUNT,
};
static const char *const wound_names[] = {
	"the superblock",     "the group table",          "the block bitmap",  "a run's bitmap", "the log control",
	"a directory's leaf", "a directory's inner node", "an attribute node", "the root",       "a block of inodes",
	"shared blocks",
};

static void zero_block(struct image *image, uint64_t block)
{
	static const uint8_t zero[ASH_BLOCK_SIZE] __attribute__((aligned(4096)));

	image_write(image, block, zero);
}

/* Nodes come with a parent before its children: the first is an inner one in a deep tree. */
static void zero_node(struct image *image, uint64_t ino, bool attribute, unsigned index, struct test *test)
{
	uint64_t blocks[64];
	unsigned count = locate_nodes(image, ino, attribute, blocks, 64);

	if (index >= count)
		die("inode %llu has only %u tree blocks", (unsigned long long)ino, count);
	test->affected[test->affected_count++] = ino;
	zero_block(image, blocks[index]);
}

static void share_blocks(struct image *image, struct test *test)
{
	struct ash_inode victim, thief;

	inode_get(image, image->block_file, &victim);
	inode_get(image, image->unwritten_file, &thief);
	((struct ash_extent_value *)(void *)node_record(thief.data, 0)->value)->start =
		((struct ash_extent_value *)(void *)node_record(victim.data, 0)->value)->start;
	inode_put(image, image->unwritten_file, &thief, true);
	test->affected[test->affected_count++] = image->unwritten_file;
}

static void inflict(struct image *image, enum wound wound, struct test *test)
{
	static const struct ash_inode no_inode;
	uint64_t log = ash_get64(image->super.log_start);
	uint32_t offset;

	switch (wound) {
	case WOUND_SUPER:
		zero_block(image, 0);
		break;
	case WOUND_GROUP_TABLE:
		zero_block(image, ash_get64(image->super.group_table_start));
		break;
	case WOUND_BITMAP:
		zero_block(image, ash_group_bitmap(0));
		break;
	case WOUND_RUN:
		zero_block(image, locate_table_block(image, 0));
		break;
	case WOUND_CONTROLS:
		zero_block(image, log);
		zero_block(image, log + 1);
		break;
	case WOUND_NODE:
		zero_node(image, image->flat_directory, false, 1, test);
		break;
	case WOUND_INNER_NODE:
		zero_node(image, image->deep_directory, false, 0, test);
		break;
	case WOUND_ATTRIBUTE_NODE:
		zero_node(image, image->attribute_file, true, 0, test);
		break;
	case WOUND_ROOT:
		inode_put(image, ASH_INO_ROOT, &no_inode, false);
		test->affected[test->affected_count++] = ASH_INO_ROOT;
		break;
	case WOUND_INODES:
		zero_block(image, locate_inode(image, image->flat_directory, &offset));
		for (unsigned i = 0; i < ASH_INODES_PER_BLOCK; i++)
			test->affected[test->affected_count++] =
				image->flat_directory - image->flat_directory % ASH_INODES_PER_BLOCK + i;
		break;
	case WOUND_SHARED:
		share_blocks(image, test);
		break;
	case WOUND_COUNT:
		break;
	}
}

/* The device dies at the n-th write of the repair; the next run, not forced, must finish the work. */
static bool interrupt(struct image *image, enum wound wound, unsigned after)
{
	struct test test = { .names_move = true, .must_not = true };
	struct fault_rule rule = { .ops = FAULT_OP(BDEV_WRITE), .skip = after, .sticky = true };
	struct ash_check_options options = { .mode = ASH_CHECK_YES, .report = on_report };
	struct ash_check_result result;
	bool hit;

	inflict(image, wound, &test);
	if (fault_add(image->fault, &rule))
		die("no room for a fault");
	options.force = true;
	ash_check(image->dev, &options, &result);
	hit = fault_hits(image->fault) > 0;
	fault_clear(image->fault);
	options.force = after == 0; /* nothing was written: nothing says that there is work to finish */
	if (getenv("DAMAGE_VERBOSE"))
		printf("# the next run\n");
	if (ash_check(image->dev, &options, &result))
		printf("# the second run: %s\n", result.error);
	snprintf(test.name, sizeof(test.name), "repair of %s interrupted after %u writes", wound_names[wound], after);
	judge(image, &test);
	return hit;
}

static void test_interrupted(struct image *image)
{
	for (enum wound wound = 0; wound < WOUND_COUNT; wound++)
		for (unsigned after = 0; interrupt(image, wound, after) && after < 400; after += 1 + after / 16)
			;
}

static void all_tests(struct image *image)
{
	struct test nothing = { .name = "no damage" };

	judge(image, &nothing);
	test_supers(image);
	test_groups(image);
	test_runs(image);
	test_inode(image, "inline file", image->inline_file);
	test_inode(image, "block file", image->block_file);
	test_inode(image, "extent file", image->extent_file);
	test_inode(image, "unwritten file", image->unwritten_file);
	test_inode(image, "long link", image->long_link);
	test_inode(image, "short link", image->short_link);
	test_inode(image, "fifo", image->fifo);
	test_inode(image, "device", image->device);
	test_inode(image, "small directory", image->small_directory);
	test_inode(image, "flat directory", image->flat_directory);
	test_inode(image, "attribute file", image->attribute_file);
	test_inode(image, "root", ASH_INO_ROOT);
	test_root_node(image, "extent file", image->extent_file, false);
	test_root_node(image, "flat directory", image->flat_directory, false);
	test_root_node(image, "block file", image->block_file, true);
	test_nodes(image, "extent file", image->extent_file, false);
	test_nodes(image, "flat directory", image->flat_directory, false);
	test_nodes(image, "deep directory", image->deep_directory, false);
	test_nodes(image, "attribute file", image->attribute_file, true);
	test_nodes(image, "root", ASH_INO_ROOT, false);
	test_values(image);
	test_log_control(image);
	test_both_controls(image);
	test_shared_blocks(image);
	test_extent_over_metadata(image);
	test_directory_ring(image);
	test_root_lost(image);
	test_unnamed(image);
	test_external_value(image);
	test_inode_block(image, ASH_INO_ROOT);
	test_inode_block(image, image->block_file);
	test_inode_block(image, image->flat_directory);
}

int main(int argc, char **argv)
{
	const char *part = argc > 1 ? argv[1] : "fields";
	bool crashed = !strcmp(part, "log"), groups = !strcmp(part, "groups");
	struct image image;

	image_make(&image, groups ? "mem:140M" : "mem:16M", !crashed);
	if (crashed)
		test_log_blocks(&image);
	if (groups) {
		test_votes(&image);
		test_second_group(&image);
	}
	if (!strcmp(part, "interrupted"))
		test_interrupted(&image);
	if (!strcmp(part, "fields"))
		all_tests(&image);
	image_free(&image);
	printf("1..%u\n", test_count);
	return failure_count ? 1 : 0;
}
