/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The generator of random operations: see generate.h. A table gives each kind its weight; one small function per
 * kind fills the arguments. No locks.
 */
#include "generate.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

void generator_init(struct generator *generator, uint64_t seed)
{
	*generator = (struct generator){
		.state = (seed + 1) * 0xd1342543de82ef95ull, .next_pattern = 1, .data_limit = 8 << 20, .names = 24
	};
}

/* splitmix64 */
uint64_t generator_next(struct generator *g)
{
	uint64_t z = g->state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

uint64_t generator_below(struct generator *g, uint64_t limit)
{
	return limit ? generator_next(g) % limit : 0;
}

static bool chance(struct generator *g, unsigned percent)
{
	return generator_below(g, 100) < percent;
}

typedef bool (*node_wanted)(const struct model_node *node);

static bool is_directory(const struct model_node *node)
{
	return S_ISDIR(node->mode);
}

static bool is_file(const struct model_node *node)
{
	return S_ISREG(node->mode);
}

static bool is_held(const struct model_node *node)
{
	return node->lookups > 0;
}

static bool is_temporary(const struct model_node *node)
{
	return node->temporary;
}

static bool is_symlink(const struct model_node *node)
{
	return S_ISLNK(node->mode);
}

static bool has_attributes(const struct model_node *node)
{
	return node->xattr_count > 0;
}

static bool is_any(const struct model_node *node)
{
	return node != NULL;
}

/* A random node that is wanted, or NULL. */
static const struct model_node *pick(struct generator *g, const struct model *model, node_wanted wanted)
{
	size_t start = generator_below(g, model->capacity);

	for (size_t i = 0; i < model->capacity; i++) {
		const struct model_node *node = model->nodes[(start + i) & (model->capacity - 1)];

		if (node && wanted(node))
			return node;
	}
	return NULL;
}

static uint64_t pick_ino(struct generator *g, const struct model *model, node_wanted wanted)
{
	const struct model_node *node = chance(g, 2) ? NULL : pick(g, model, wanted);

	node = node ? node : pick(g, model, is_any);
	return node ? node->ino : 1;
}

static void fresh_name(struct generator *g, char name[OP_NAME_SIZE])
{
	unsigned number = (unsigned)generator_below(g, g->names), kind = (unsigned)generator_below(g, 200);
	size_t length;

	snprintf(name, OP_NAME_SIZE, "n%u", number);
	if (kind >= 6)
		return;
	length = kind == 0 ? 256 : 150 + generator_below(g, 106); /* 256: too long */
	for (size_t i = strlen(name); i < length; i++)
		name[i] = (char)(i % 7 ? 'a' + (number + i) % 26 : 0xc3);
	name[length] = 0;
}

static void existing_name(struct generator *g, const struct model_node *directory, char name[OP_NAME_SIZE])
{
	if (directory && directory->entry_count && !chance(g, 5))
		snprintf(name, OP_NAME_SIZE, "%s", directory->entries[generator_below(g, directory->entry_count)].name);
	else
		fresh_name(g, name);
}

/* A directory that has entries, where there is one. */
static bool is_filled(const struct model_node *node)
{
	return S_ISDIR(node->mode) && node->entry_count;
}

static void subject_with_entry(struct generator *g, const struct model *model, struct op *op)
{
	op->ino = pick_ino(g, model, is_filled);
	existing_name(g, model_find(model, op->ino), op->name);
}

static void make_lookup(struct generator *g, const struct model *model, struct op *op)
{
	subject_with_entry(g, model, op);
	if (chance(g, 5))
		snprintf(op->name, sizeof(op->name), "%s",
			 chance(g, 50) || !model_find(model, op->ino)->nlink ? "." : "..");
}

static uint32_t random_type(struct generator *g)
{
	static const uint32_t special[] = { S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK };
	unsigned choice = (unsigned)generator_below(g, 100);

	if (choice < 62)
		return S_IFREG;
	if (choice < 82)
		return S_IFDIR;
	return choice < 95 ? S_IFLNK : special[generator_below(g, 4)];
}

static void random_target(struct generator *g, struct op *op)
{
	size_t length = chance(g, 80) ? 1 + generator_below(g, 100) : 1 + generator_below(g, 4095);

	op->target = test_alloc(length + 1);
	for (size_t i = 0; i < length; i++)
		op->target[i] = (char)('a' + (i * 7 + length) % 26);
}

static void random_owner(struct generator *g, struct op *op)
{
	op->create.mode |= (uint32_t)generator_below(g, 01000);
	if (S_ISDIR(op->create.mode) && chance(g, 15))
		op->create.mode |= S_ISGID;
	op->create.umask = chance(g, 50) ? 022 : (uint32_t)generator_below(g, 0100);
	op->create.uid = (uint32_t)generator_below(g, 4) * 500;
	op->create.gid = (uint32_t)generator_below(g, 4) * 100;
	op->create.rdev = 0x103 + generator_below(g, 1000);
}

static void make_create(struct generator *g, const struct model *model, struct op *op)
{
	op->ino = pick_ino(g, model, is_directory);
	fresh_name(g, op->name);
	op->create.mode = random_type(g);
	random_owner(g, op);
	if (S_ISLNK(op->create.mode))
		random_target(g, op);
}

static void make_tmpfile(struct generator *g, const struct model *model, struct op *op)
{
	op->ino = pick_ino(g, model, is_directory);
	op->create.mode = S_IFREG;
	random_owner(g, op);
}

static void make_link(struct generator *g, const struct model *model, struct op *op)
{
	const struct model_node *temporary = chance(g, 30) ? pick(g, model, is_temporary) : NULL, *node;

	op->ino = pick_ino(g, model, is_directory);
	op->ino2 = temporary ? temporary->ino : pick_ino(g, model, is_file);
	node = model_find(model, op->ino2);
	if (node && node->nlink == 0 && !node->temporary)
		op->kind = OP_NONE; /* the kernel never asks for it */
	fresh_name(g, op->name);
}

static void make_rename(struct generator *g, const struct model *model, struct op *op)
{
	unsigned choice = (unsigned)generator_below(g, 100);

	subject_with_entry(g, model, op);
	op->ino2 = chance(g, 40) ? op->ino : pick_ino(g, model, is_directory);
	if (chance(g, 50))
		existing_name(g, model_find(model, op->ino2), op->name2);
	else
		fresh_name(g, op->name2);
	op->flags = choice < 70 ? 0 :
		    choice < 80 ? RENAME_NOREPLACE :
		    choice < 92 ? RENAME_EXCHANGE :
		    choice < 96 ? RENAME_WHITEOUT :
		    choice < 97 ? (RENAME_WHITEOUT | RENAME_NOREPLACE) :
		    choice < 98 ? (RENAME_NOREPLACE | RENAME_EXCHANGE) :
		    choice < 99 ? (RENAME_WHITEOUT | RENAME_EXCHANGE) :
				  8;
	op->create = (struct ash_create){ .mode = S_IFCHR, .uid = 1000, .gid = 100 }; /* of a whiteout */
}

static void make_readlink(struct generator *g, const struct model *model, struct op *op)
{
	op->ino = pick_ino(g, model, is_symlink);
	op->length = 4096;
}

static void make_forget(struct generator *g, const struct model *model, struct op *op)
{
	const struct model_node *node = pick(g, model, is_held);

	if (!node) {
		op->kind = OP_NONE;
		return;
	}
	op->ino = node->ino;
	op->length = 1 + generator_below(g, node->lookups);
}

static void make_on_any(struct generator *g, const struct model *model, struct op *op)
{
	op->ino = pick_ino(g, model, is_any);
}

static struct timespec random_time(struct generator *g)
{
	return (struct timespec){ .tv_sec = (int64_t)generator_below(g, 1ull << 30) - (1 << 20), /* always past */
				  .tv_nsec = (long)generator_below(g, 1000000000) };
}

static uint64_t random_size(struct generator *g, const struct model_node *node)
{
	unsigned choice = (unsigned)generator_below(g, 100);
	uint64_t size = node ? node->size : 0;

	if (choice < 15)
		return 0;
	if (choice < 55)
		return generator_below(g, size + 1);
	if (choice < 75)
		return size < 1ull << 40 ? size + generator_below(g, 20000) : size / 2;
	if (choice < 90)
		return generator_below(g, 40) * 4096;
	if (choice < 97 || g->no_far_offsets)
		return generator_below(g, 300);
	return choice < 99 ? generator_below(g, 1ull << 42) : chance(g, 50) ? INT64_MAX : 1ull << 63;
}

static void make_truncate(struct generator *g, const struct model *model, struct op *op)
{
	op->kind = OP_SETATTR;
	op->ino = pick_ino(g, model, is_file);
	op->change.valid = ASH_SET_SIZE | (chance(g, 20) ? ASH_SET_KILL_SUIDGID : 0);
	op->change.size = random_size(g, model_find(model, op->ino));
}

static void make_setattr(struct generator *g, const struct model *model, struct op *op)
{
	static const uint32_t flags[] = { 0, 0x40, 0x80, 0x08, 0xc0 };

	op->ino = pick_ino(g, model, is_any);
	op->change = (struct ash_setattr){
		.mode = (uint32_t)generator_below(g, 010000),
		.uid = (uint32_t)generator_below(g, 3) * 1000,
		.gid = (uint32_t)generator_below(g, 3) * 1000,
		.flags = flags[generator_below(g, 5)],
		.atime = random_time(g),
		.mtime = random_time(g),
		.ctime = random_time(g),
	};
	switch (generator_below(g, 6)) {
	case 0:
		op->change.valid = ASH_SET_MODE;
		break;
	case 1:
		op->change.valid = ASH_SET_UID | (chance(g, 50) ? ASH_SET_GID : 0);
		break;
	case 2:
		op->change.valid = ASH_SET_ATIME | ASH_SET_MTIME;
		break;
	case 3:
		op->change.valid = chance(g, 50) ? ASH_SET_ATIME_NOW | ASH_SET_MTIME_NOW : ASH_SET_ATIME_NOW;
		break;
	case 4:
		op->change.valid = ASH_SET_FLAGS;
		break;
	default:
		op->change.valid = ASH_SET_MODE | ASH_SET_GID | ASH_SET_MTIME | (chance(g, 30) ? ASH_SET_CTIME : 0);
	}
}

static void random_range(struct generator *g, const struct model_node *node, uint64_t *offset, uint64_t *length)
{
	unsigned choice = (unsigned)generator_below(g, 100);
	uint64_t size = node && node->size < 1ull << 50 ? node->size : 10000;

	*length = choice < 40 ? 1 + generator_below(g, 200) :
		  choice < 80 ? 1 + generator_below(g, 9000) :
				1 + generator_below(g, 120000);
	choice = (unsigned)generator_below(g, 100);
	*offset = choice < 30 ? size :
		  choice < 70 ? generator_below(g, size + 1) :
		  choice < 90 ? generator_below(g, size + 50000) :
				0;
	if (chance(g, 25)) {
		*offset &= ~4095ull;
		*length = (*length + 4095) & ~4095ull;
	}
	if (chance(g, 1) && !g->no_far_offsets)
		*offset = chance(g, 70) ? generator_below(g, 1ull << 43) : INT64_MAX - generator_below(g, 100);
}

static void make_read(struct generator *g, const struct model *model, struct op *op)
{
	op->ino = pick_ino(g, model, is_file);
	random_range(g, model_find(model, op->ino), &op->offset, &op->length);
	if (chance(g, 20))
		op->length += 60000;
}

static void make_write(struct generator *g, const struct model *model, struct op *op)
{
	op->ino = pick_ino(g, model, is_file);
	random_range(g, model_find(model, op->ino), &op->offset, &op->length);
	op->pattern = g->next_pattern++;
	if (chance(g, 15))
		op->flags |= ASH_WRITE_APPEND;
	if (chance(g, 15))
		op->flags |= ASH_WRITE_THROUGH;
	if (chance(g, 10))
		op->flags |= ASH_WRITE_KILL_SUIDGID;
	if (chance(g, 5))
		op->flags |= ASH_WRITE_NO_TIMES;
	if (chance(g, 4) && !g->no_sync)
		op->flags |= ASH_WRITE_SYNC;
}

static void make_fallocate(struct generator *g, const struct model *model, struct op *op)
{
	static const int modes[] = { 0,
				     FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_ZERO_RANGE,
				     FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				     FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };

	op->ino = pick_ino(g, model, is_file);
	random_range(g, model_find(model, op->ino), &op->offset, &op->length);
	op->flags = chance(g, 2) ? FALLOC_FL_COLLAPSE_RANGE : modes[generator_below(g, 6)];
	if (chance(g, 1))
		op->length = 0;
}

static void make_seek(struct generator *g, const struct model *model, struct op *op)
{
	uint64_t length;

	op->ino = pick_ino(g, model, is_file);
	random_range(g, model_find(model, op->ino), &op->offset, &length);
	op->flags = chance(g, 50) ? SEEK_DATA : SEEK_HOLE;
}

static void make_copy(struct generator *g, const struct model *model, struct op *op)
{
	uint64_t length;

	op->ino = pick_ino(g, model, is_file);
	op->ino2 = pick_ino(g, model, is_file);
	random_range(g, model_find(model, op->ino), &op->offset, &op->length);
	random_range(g, model_find(model, op->ino2), &op->offset2, &length);
	if (op->offset2 > 1ull << 50)
		op->offset2 = 0;
}

static void attribute_name(struct generator *g, struct op *op)
{
	static const char *const names[] = { "user.a",
					     "user.b",
					     "user.c",
					     "user.some.longer.name",
					     "trusted.x",
					     "security.foo",
					     "security.capability",
					     "user.d",
					     "user.e" };
	unsigned choice = (unsigned)generator_below(g, 100);

	snprintf(op->name, sizeof(op->name), "%s", names[generator_below(g, 9)]);
	if (choice < 3) {
		snprintf(op->name, sizeof(op->name), "user.%0*u", (int)(100 + generator_below(g, 152)), choice);
	} else if (choice < 5) {
		snprintf(op->name, sizeof(op->name), "%s", choice < 4 ? "bogus.name" : "plain");
	}
}

static void make_setxattr(struct generator *g, const struct model *model, struct op *op)
{
	unsigned choice = (unsigned)generator_below(g, 100);

	op->ino = pick_ino(g, model, is_any);
	attribute_name(g, op);
	op->pattern = g->next_pattern++;
	op->length = choice < 60 ? generator_below(g, 60) :
		     choice < 80 ? generator_below(g, 600) :
		     choice < 95 ? generator_below(g, 6000) :
		     choice < 99 ? generator_below(g, 65537) :
				   65537;
	choice = (unsigned)generator_below(g, 100);
	op->flags = choice < 70 ? 0 : choice < 85 ? XATTR_CREATE : XATTR_REPLACE;
}

static void make_xattr_read(struct generator *g, const struct model *model, struct op *op)
{
	const struct model_node *node;

	op->ino = pick_ino(g, model, has_attributes);
	attribute_name(g, op);
	node = model_find(model, op->ino);
	if (node && node->xattr_count && chance(g, 70))
		snprintf(op->name, sizeof(op->name), "%s", node->xattrs[generator_below(g, node->xattr_count)].name);
	op->length = chance(g, 80) ? 65536 : chance(g, 50) ? 0 : generator_below(g, 100);
}

static void make_readdir(struct generator *g, const struct model *model, struct op *op)
{
	op->ino = pick_ino(g, model, is_directory);
	op->length = chance(g, 50) ? 0 : 1 + generator_below(g, 20);
}

static void make_fsync(struct generator *g, const struct model *model, struct op *op)
{
	op->ino = pick_ino(g, model, is_any);
	op->flags = chance(g, 40);
}

static void make_nothing(struct generator *g, const struct model *model, struct op *op)
{
	(void)g;
	(void)model;
	(void)op;
}

static const struct kind {
	enum op_kind kind;
	unsigned weight;
	void (*make)(struct generator *g, const struct model *model, struct op *op);
} kinds[] = {
	{ OP_CREATE, 160, make_create },
	{ OP_TMPFILE, 15, make_tmpfile },
	{ OP_LINK, 40, make_link },
	{ OP_UNLINK, 90, subject_with_entry },
	{ OP_RMDIR, 35, subject_with_entry },
	{ OP_RENAME, 90, make_rename },
	{ OP_LOOKUP, 60, make_lookup },
	{ OP_READLINK, 10, make_readlink },
	{ OP_FORGET, 80, make_forget },
	{ OP_GETATTR, 40, make_on_any },
	{ OP_SETATTR, 50, make_setattr },
	{ OP_SETATTR, 50, make_truncate },
	{ OP_READDIR, 25, make_readdir },
	{ OP_READ, 90, make_read },
	{ OP_WRITE, 170, make_write },
	{ OP_FALLOCATE, 50, make_fallocate },
	{ OP_SEEK, 30, make_seek },
	{ OP_COPY_RANGE, 25, make_copy },
	{ OP_SETXATTR, 50, make_setxattr },
	{ OP_GETXATTR, 20, make_xattr_read },
	{ OP_LISTXATTR, 10, make_xattr_read },
	{ OP_REMOVEXATTR, 25, make_xattr_read },
	{ OP_WRITE_BACK, 10, make_on_any },
	{ OP_STATFS, 5, make_nothing },
	{ OP_FSYNC, 25, make_fsync },
	{ OP_SYNC, 8, make_nothing },
	{ OP_CHECKPOINT, 3, make_nothing },
};
#define KIND_COUNT (sizeof(kinds) / sizeof(*kinds))

static const struct kind *random_kind(struct generator *g)
{
	unsigned total = 0, choice;

	for (size_t i = 0; i < KIND_COUNT; i++)
		total += kinds[i].weight;
	choice = (unsigned)generator_below(g, total);
	for (size_t i = 0; i < KIND_COUNT; i++) {
		if (choice < kinds[i].weight)
			return &kinds[i];
		choice -= kinds[i].weight;
	}
	return &kinds[0];
}

/* Too much data: something that gives space back. */
static const struct kind *shrinking_kind(struct generator *g)
{
	static const struct kind shrinking[] = { { OP_UNLINK, 0, subject_with_entry },
						 { OP_FORGET, 0, make_forget },
						 { OP_SETATTR, 0, make_truncate } };

	return &shrinking[generator_below(g, 3)];
}

static bool adds_data(enum op_kind kind)
{
	return kind == OP_WRITE || kind == OP_COPY_RANGE || kind == OP_FALLOCATE || kind == OP_CREATE ||
	       kind == OP_SETXATTR;
}

void generate(struct generator *g, const struct model *model, struct op *op)
{
	const struct kind *kind = random_kind(g);

	if (adds_data(kind->kind) && model_data_bytes(model) > g->data_limit)
		kind = shrinking_kind(g);
	if (g->without >> kind->kind & 1)
		kind = &kinds[0];
	if (g->no_sync && (kind->kind == OP_FSYNC || kind->kind == OP_SYNC || kind->kind == OP_CHECKPOINT))
		kind = &kinds[0];
	*op = (struct op){ .kind = kind->kind };
	kind->make(g, model, op);
	op->create.target = op->target;
}
