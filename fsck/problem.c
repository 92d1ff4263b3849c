/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of problems and the one place where a repair is decided. See problem.h. No lock: one thread checks.
 */
#include "internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define PREEN 1u    /* safe without asking: gives nothing up */
#define NOTE 2u     /* not an inconsistency */
#define LOSS 4u     /* the repair gives something up */
#define HOPELESS 8u /* cannot be repaired here */
#define TOLD 16u    /* a note for people also when it is left */

struct problem_row {
	const char *code;
	unsigned flags;
	const char *message;
	const char *question;
};

/* %i inode, %b block, %d number, %h found, %w wanted, %y why, %n name */
static const struct problem_row rows[PROBLEM_COUNT] = {
	[PROBLEM_SUPER_BAD] = { "super-bad", 0, "Superblock is damaged (%y)",
				"Restore it from the backup at block %b" },
	[PROBLEM_SUPER_TABLE_INODE] = { "super-table-inode", 0,
					"Inode of the inode table is damaged in the superblock (%y)",
					"Restore it from the backup at block %b" },
	[PROBLEM_SUPER_TABLE_LOST] = { "super-table-lost", LOSS, "No copy of the inode table's inode is good (%y)",
				       "Search for the parts of the table" },
	[PROBLEM_SUPER_ERRORS] = { "super-errors", PREEN | NOTE | TOLD, "Volume is marked as having met damage",
				   "Clear the mark" },
	[PROBLEM_SUPER_COMPAT] = { "super-compat", PREEN,
				   "Inodes are immutable or append-only, and the superblock does not say so",
				   "Correct it" },
	[PROBLEM_BACKUP_BAD] = { "backup-bad", PREEN, "Backup superblock at block %b is damaged (%y)",
				 "Write it again" },
	[PROBLEM_BACKUP_STALE] = { "backup-stale", PREEN | NOTE, "Backup superblock at block %b is out of date",
				   "Write it again" },
	[PROBLEM_LOG_CONTROL_ONE] = { "log-control-one", PREEN | NOTE,
				      "One of the two log control blocks is not valid (block %b)", "Write it again" },
	[PROBLEM_LOG_CONTROL_BOTH] = { "log-control", LOSS, "Neither log control block is valid",
				       "Start an empty log" },
	[PROBLEM_LOG_REPLAY] = { "log-replay", LOSS, "The log cannot be replayed (%y)",
				 "Write what can be replayed, then start an empty log" },
	[PROBLEM_LOG_DAMAGED_BLOCK] = { "log-damaged-block", 0, "Block %b is damaged and the log does not restore it",
					"Note it" },
	[PROBLEM_LOG_UNREADABLE] = { "log-unreadable", PREEN, "Log block %b cannot be read; nothing in it is needed",
				     "Write it anew" },
	[PROBLEM_LOG_END_UNREADABLE] = { "log-end-unreadable", LOSS,
					 "Log block %b cannot be read; it may hold what was synced last",
					 "Give it up: the log ends before it" },
	[PROBLEM_LOG_HOME_UNREADABLE] = { "log-home-unreadable", LOSS,
					  "Block %b cannot be read, and the log holds only parts of it",
					  "Give it up: write it anew, as damaged" },
	[PROBLEM_GROUP_TABLE_BAD] = { "group-table-bad", 0, "Group table block %b is damaged (%y)", "Rebuild it" },
	[PROBLEM_GROUP_FLAGS] = { "group-flags", PREEN, "Group %d has unknown flags %h", "Clear them" },

	[PROBLEM_TABLE_SIZE] = { "table-size", 0, "Inode table has %h runs by the superblock, %w by its blocks",
				 "Correct the superblock" },
	[PROBLEM_TABLE_EXTENT] = { "table-extent", LOSS, "Inode table: %y at block %b", "Drop this part of the table" },
	[PROBLEM_TABLE_LOST_RUN] = { "table-lost-run", 0, "Inode run %d at block %b is not in the inode table",
				     "Put it back" },
	[PROBLEM_TABLE_HOLE] = { "table-hole", LOSS, "Inode table: blocks %d to %w of it have no place",
				 "Give them up: put empty ones there" },
	[PROBLEM_RUN_BITMAP] = { "run-bitmap", 0, "Bitmap of inode run %d at block %b is damaged (%y)",
				 "Rebuild it from the inodes" },
	[PROBLEM_BLOCK_UNREADABLE] = { "unreadable", LOSS,
				       "Block %b of the inode table cannot be read; inodes from %i on lie in it",
				       "Give them up: write it anew" },
	[PROBLEM_FREE_RECORD] = { "free-record", PREEN, "Free inode record %i holds rubbish", "Clear it" },
	[PROBLEM_INODE_DAMAGED] = { "inode-damaged", LOSS, "Inode %i is damaged (%y)", "Clear it" },
	[PROBLEM_INODE_CRC] = { "inode-checksum", 0, "Inode %i has a wrong checksum, but the form of an inode",
				"Keep what is plausible of it" },
	[PROBLEM_INODE_FIELD] = { "inode-field", 0, "Inode %i: %y", "Correct it" },
	[PROBLEM_INODE_TYPE] = { "inode-type", 0,
				 "Inode %i, whose checksum is wrong, is a directory by its %y, but not by its type",
				 "Make it one" },
	[PROBLEM_INODE_DOUBT] = { "inode-doubt", LOSS, "Inode %i, whose checksum is wrong: %y", "Do without it" },
	[PROBLEM_INODE_SIZE] = { "inode-size", LOSS,
				 "Inode %i, whose checksum is wrong, has size %h, its content ends at %w",
				 "Set the size to the end of its content" },
	[PROBLEM_INODE_BLOCKS] = { "inode-blocks", PREEN, "Inode %i says it has %h blocks, it has %w", "Correct it" },
	[PROBLEM_RESERVED_INODE] = { "reserved-inode", LOSS, "Reserved inode %i is in use", "Clear it" },
	[PROBLEM_ROOT_MISSING] = { "root-missing", 0, "Root directory is missing or not a directory",
				   "Make a new one" },
	[PROBLEM_TREE_DATA] = { "tree-data", LOSS, "Inode %i: extent tree is damaged at block %b (%y)",
				"Rebuild it from what is readable" },
	[PROBLEM_TREE_DIRECTORY] = { "tree-directory", LOSS, "Directory inode %i: tree is damaged at block %b (%y)",
				     "Rebuild it from what is readable" },
	[PROBLEM_TREE_ATTRIBUTE] = { "tree-attribute", LOSS, "Inode %i: attribute tree is damaged at block %b (%y)",
				     "Rebuild it from what is readable" },
	[PROBLEM_EXTENT] = { "extent", LOSS, "Inode %i: extent at file block %h: %y", "Drop it" },
	[PROBLEM_EXTENT_BEYOND_EOF] = { "extent-beyond-eof", 0,
					"Inode %i has written blocks behind its end of file (file block %h)",
					"Free them" },
	[PROBLEM_XATTR] = { "xattr", LOSS, "Inode %i: attribute record: %y", "Remove it" },
	[PROBLEM_XATTR_KEY] = { "xattr-key", 0, "Inode %i: attribute \"%n\" has the wrong key", "Correct it" },
	[PROBLEM_XATTR_VALUE] = { "xattr-value", LOSS, "Inode %i: attribute \"%n\": %y", "Remove it" },
	[PROBLEM_DUPLICATE_BLOCKS] = { "duplicate-blocks", LOSS,
				       "Inode %i claims %h blocks, the first is %b, that others own",
				       "Give it copies of them (or holes, where another's metadata lies)" },
	[PROBLEM_DUPLICATE_TOO_MANY] = { "duplicate-too-many", LOSS,
					 "Inode %i claims %h blocks, the first is %b, that others own, and copies of "
					 "all such blocks would fill the volume",
					 "Give it holes" },

	[PROBLEM_DIRENT] = { "dirent", LOSS, "Directory inode %i: entry: %y", "Remove it" },
	[PROBLEM_DIRENT_KEY] = { "dirent-key", 0, "Directory inode %i: entry \"%n\" has the wrong key", "Correct it" },
	[PROBLEM_DIRENT_TARGET] = { "dirent-target", LOSS, "Directory inode %i: entry \"%n\" points to unused inode %d",
				    "Remove it" },
	[PROBLEM_DIRENT_TYPE] = { "dirent-type", 0,
				  "Directory inode %i: entry \"%n\" says type %h, inode %d has type %w", "Correct it" },
	[PROBLEM_DIRENT_DUPLICATE] = { "dirent-duplicate", 0, "Directory inode %i: name \"%n\" occurs twice",
				       "Rename the second" },
	[PROBLEM_DIRENT_SECOND_PARENT] = { "dirent-second-parent", 0,
					   "Directory inode %i: entry \"%n\" is another link to directory %d",
					   "Remove it" },
	[PROBLEM_DIRECTORY_SIZE] = { "directory-size", PREEN, "Directory inode %i says it has %h entries, it has %w",
				     "Correct it" },
	[PROBLEM_DIRECTORY_PARENT] = { "directory-parent", 0, "Directory inode %i says its parent is %h, it is %w",
				       "Correct it" },

	[PROBLEM_UNREACHABLE_DIRECTORY] = { "unreachable-directory", 0,
					    "Directory inode %i is not connected to the root",
					    "Connect it to lost+found" },
	[PROBLEM_UNREACHABLE_INODE] = { "unreachable-inode", 0, "Inode %i has no name", "Connect it to lost+found" },
	[PROBLEM_LOST_ORPHAN] = { "lost-orphan", PREEN, "Inode %i is deleted but was never freed", "Free it" },
	[PROBLEM_LINK_COUNT] = { "link-count", PREEN, "Inode %i has link count %h, it should be %w", "Correct it" },

	[PROBLEM_BITMAP_BAD] = { "bitmap-bad", 0, "Bitmap of group %d at block %b is damaged (%y)", "Rebuild it" },
	[PROBLEM_BITMAP_MISSING_BITS] = { "bitmap-missing", 0,
					  "Group %d: %h blocks in use are marked free, the first is %b", "Correct it" },
	[PROBLEM_BITMAP_EXTRA_BITS] = { "bitmap-extra", PREEN,
					"Group %d: %h unused blocks are marked in use, the first is %b", "Correct it" },
	[PROBLEM_GROUP_UNINIT_USED] = { "group-uninit-used", 0,
					"Group %d is flagged as untouched but has %h blocks in use",
					"Write its bitmap" },
	[PROBLEM_GROUP_FREE_COUNT] = { "group-free-count", PREEN,
				       "Group %d has %h free blocks by the group table, %w in truth", "Correct it" },
	[PROBLEM_INODE_BITMAP_MISSING] = { "inode-bitmap-missing", 0,
					   "Inode run %d: %h inodes in use are marked free, the first is %i",
					   "Correct it" },
	[PROBLEM_INODE_BITMAP_EXTRA] = { "inode-bitmap-extra", PREEN,
					 "Inode run %d: %h free inodes are marked in use, the first is %i",
					 "Correct it" },
	[PROBLEM_TOTAL_BLOCKS] = { "total-blocks", PREEN, "The log says %h blocks are free, it is %w", "Correct it" },
	[PROBLEM_TOTAL_INODES] = { "total-inodes", PREEN, "The log says %h inodes are in use, it is %w", "Correct it" },
	[PROBLEM_NO_SPACE] = { "no-space", HOPELESS, "No free blocks for the repair of inode %i: it stays as it is",
			       "Go on" },
};

/* ---- Text ---- */

struct text {
	char *to;
	size_t left; /* with the NUL */
};

static void text_char(struct text *text, char c)
{
	if (text->left < 2)
		return;
	*text->to++ = c;
	text->left--;
	*text->to = 0;
}

static void text_string(struct text *text, const char *string)
{
	while (*string)
		text_char(text, *string++);
}

static void text_number(struct text *text, uint64_t value)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%" PRIu64, value);
	text_string(text, digits);
}

/* Names come from the disk: anything that could play with a terminal is escaped. */
static void text_name(struct text *text, const struct problem_context *context)
{
	const uint8_t *name = context->name;

	for (size_t i = 0; name && i < context->name_length; i++) {
		char escaped[8];

		snprintf(escaped, sizeof(escaped), name[i] < 32 || name[i] >= 127 || name[i] == '\\' ? "\\x%02x" : "%c",
			 name[i]);
		text_string(text, escaped);
	}
}

static void expand(char *out, size_t size, const char *format, const struct problem_context *context)
{
	struct text text = { out, size };

	*out = 0;
	for (; *format; format++) {
		if (*format != '%') {
			text_char(&text, *format);
			continue;
		}
		switch (*++format) {
		case 'i':
			text_number(&text, context->ino);
			break;
		case 'b':
			text_number(&text, context->block);
			break;
		case 'd':
			text_number(&text, context->number);
			break;
		case 'h':
			text_number(&text, context->have);
			break;
		case 'w':
			text_number(&text, context->want);
			break;
		case 'y':
			text_string(&text, context->why ? context->why : "?");
			break;
		case 'n':
			text_name(&text, context);
			break;
		}
	}
}

/* ---- Decisions ---- */

struct declined {
	enum problem_code code;
	uint64_t ino, block, number;
};

static bool was_declined(const struct checker *checker, enum problem_code code, const struct problem_context *context)
{
	size_t count = checker->repair ? checker->declined_count : checker->declined_before;

	for (size_t i = 0; i < count; i++) {
		const struct declined *old = &checker->declined[i];

		if (old->code == code && old->ino == context->ino && old->block == context->block &&
		    old->number == context->number)
			return true;
	}
	return false;
}

/*
 * Without memory it is only asked again: no harm. A check that only looks does not tell of it again in a second round; within
 * one it counts all, as a repair does.
 */
static void remember_declined(struct checker *checker, enum problem_code code, const struct problem_context *context)
{
	struct declined *grown;

	if (checker->declined_count >= 4096)
		return;
	grown = realloc(checker->declined, (checker->declined_count + 1) * sizeof(*grown));
	if (!grown)
		return;
	checker->declined = grown;
	grown[checker->declined_count++] = (struct declined){ code, context->ino, context->block, context->number };
}

static bool decide(struct checker *checker, const struct problem_row *row, struct ash_check_problem *report)
{
	const struct ash_check_options *options = checker->options;

	if (!checker->repair || (row->flags & HOPELESS))
		return false;
	switch (options->mode) {
	case ASH_CHECK_NO:
		return false;
	case ASH_CHECK_YES:
		return true;
	case ASH_CHECK_PREEN:
		if (!(row->flags & PREEN))
			checker->result->stopped = true;
		return row->flags & PREEN;
	case ASH_CHECK_ASK:
		if (row->flags & NOTE)
			return true;
		report->asked = options->ask != NULL;
		return options->ask && options->ask(options->context, report);
	}
	return false;
}

static enum ash_check_severity severity_of(const struct problem_row *row)
{
	if (row->flags & NOTE)
		return ASH_CHECK_NOTE;
	return row->flags & LOSS ? ASH_CHECK_LOSS : ASH_CHECK_ERROR;
}

static void count(struct checker *checker, const struct problem_row *row, const char *message, bool fix)
{
	struct ash_check_result *result = checker->result;

	if (row->flags & NOTE) {
		result->notes++;
		return;
	}
	if (!result->problems++)
		snprintf(result->first, sizeof(result->first), "%.255s", message);
	if (fix)
		result->fixed++;
	else
		result->left++;
}

bool problem(struct checker *checker, enum problem_code code, const struct problem_context *context)
{
	static const struct problem_context nothing;
	const struct problem_row *row = &rows[code];
	char message[2048], question[256];
	struct ash_check_problem report = {
		.code = row->code,
		.severity = severity_of(row),
		.message = message,
		.question = question,
		.told = row->flags & TOLD,
	};
	bool fix;

	if (!context)
		context = &nothing;
	/* After preen has met what it must not touch, it touches nothing: e2fsck stops there too. */
	if (checker->result->stopped || was_declined(checker, code, context))
		return false;
	expand(message, sizeof(message), row->message, context);
	if (check_cancelled(checker)) {
		count(checker, row, message, false);
		return false;
	}
	expand(question, sizeof(question), row->question, context);
	report.ino = context->ino;
	report.block = context->block;
	fix = decide(checker, row, &report);
	report.fixed = fix;
	count(checker, row, message, fix);
	if (!fix)
		remember_declined(checker, code, context);
	if (checker->options->report)
		checker->options->report(checker->options->context, &report);
	return fix;
}
