/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * State of one check, and what the passes offer each other.
 *
 * Files, in the order in which a check runs:
 *   check.c      the rounds: passes 0-3 again until nothing was repaired, then 4 and 5
 *   super.c      pass 0: superblock, backups, group table; evidence.c: which copy to believe
 *   journal.c    log control, replay or overlay
 *   table.c      the inode table: its map, run bitmaps, sequential reading (with a helper thread)
 *   known.c      what is known of each inode
 *   lost.c       runs that only a lost superblock knew
 *   inode.c      pass 1: every record; fork.c: extents and attributes; tree.c: walking trees
 *   claim.c      pass 1b: who owns blocks that are claimed twice
 *   directory.c  pass 2: names;  connect.c  pass 3: reachability, links, lost+found
 *   rebuild.c    writes a fork anew from its good records: the one way in which trees are repaired
 *   bitmap.c     passes 4 and 5
 *   io.c         reading through the log's overlay, writing with checksums; map.c  block maps
 *
 * Rules: nothing that was read is used before magic, checksum, owner, address and bounds are checked (I8). Only
 * io.c writes. A fork is never repaired in place: its good records are written to free blocks, flushed, and then
 * the 512-byte inode record is switched, so an interrupted repair leaves the old tree or the new one.
 * Locks: none; one thread checks. The helper of table.c only reads the device.
 */
#ifndef FSCK_INTERNAL_H
#define FSCK_INTERNAL_H

#include <ashlar/ashlar.h>
#include <ashlar/format.h>
#include <dirent.h>
#include <errno.h>
#include "check.h"
#include "fs/btree.h"
#include "fs/checksum.h"
#include "fs/recover.h"
#include "problem.h"

#define NODE_LEVELS (ASH_TREE_MAX_LEVEL + 1)
#define GROUP_WORDS (ASH_BITS_PER_BITMAP / 64u)
#define MAX_ROUNDS 8u
#define MAX_FILE_BLOCK (1ull << (63 - ASH_BLOCK_SHIFT))

/* ---- Block maps (map.c): bits of a group in the form of its bitmap block; NULL: only fixed blocks are in use. ---- */

struct block_map {
	uint64_t **groups;
	bool *full; /* groups that were set as a whole: setting one again takes no time */
	uint64_t group_count;
	uint64_t block_count;
	bool fixed; /* a new group starts with its fixed blocks and what lies behind the volume's end */
};
int map_open(struct block_map *map, uint64_t block_count, bool fixed);
void map_close(struct block_map *map);
bool map_test(const struct block_map *map, uint64_t block);
/* The bits of 64 blocks; `block`, a multiple of 64, is the lowest. */
uint64_t map_word(const struct block_map *map, uint64_t block);
/* Set a range inside the volume; bits that were set already go to `twice` (may be NULL) and are counted in *hits. */
int map_set(struct block_map *map, uint64_t start, uint64_t count, struct block_map *twice, uint64_t *hits);
bool map_any(const struct block_map *map, uint64_t start, uint64_t count);
/* Clear a range that was set. */
void map_clear(struct block_map *map, uint64_t start, uint64_t count);
uint64_t map_group_used(const struct block_map *map, uint64_t group);
/* Bits as the bitmap block of the group should hold them. */
void map_group_bits(const struct block_map *map, uint64_t group, uint64_t bits[GROUP_WORDS]);
uint64_t group_length(uint64_t block_count, uint64_t group);

/* ---- What is remembered ---- */

#define INODE_TYPE 0x0fu         /* DT_*; 0: free */
#define INODE_ORPHAN 0x10u       /* in the log's orphan set */
#define INODE_DAMAGED 0x20u      /* reported, not repaired */
#define INODE_REBUILD_DATA 0x40u /* the fork is on the list of rebuilds */
#define INODE_REBUILD_ATTRIBUTE 0x80u

struct inode_info {
	uint32_t nlink; /* of the record */
	uint32_t links; /* names found (and for directories: 2 + children, at the end) */
};

struct directory_info {
	uint64_t ino;
	uint64_t parent;       /* of the record */
	uint64_t found_parent; /* 0: none */
	uint64_t found_key;    /* of the entry that counts */
	uint32_t children;     /* directories in it */
	uint32_t mark;         /* of the reachability walk */
	bool entries;          /* it has some, or may have had some where it is damaged */
};

struct table_extent {
	uint64_t file_block, start, count;
};

/* File blocks of the table without a place. */
struct table_hole {
	uint64_t first, count;
	bool fill; /* at the end of the round */
};

/* [first, end) */
struct inode_range {
	uint64_t first, end;
};

struct run_info {
	uint64_t bitmap_block;
	uint32_t initialized; /* inode blocks to look at */
	bool valid;           /* bitmap block is good */
};

/* A fork that will be written anew at the end of the round. */
struct rebuild {
	uint64_t ino;
	bool attribute;
};
/* A name that will be added to a directory then. */
struct addition {
	uint64_t directory, ino; /* in this order: LIST_FROM() */
	uint8_t type;
};
/* Blocks of a fork that it must give up. */
struct loss {
	uint64_t ino;
	uint64_t start, count; /* device blocks */
	bool attribute;
	bool node; /* of its tree: only until claims_resolve() ends */
	bool copy; /* it gets a copy */
};

#define LIST(type)                   \
	struct {                     \
		type *items;         \
		size_t count, space; \
	}
int list_grow(void *items, size_t *space, size_t count, size_t size);
/* 0 or -ENOMEM */
#define LIST_ADD(list, ...)                                                                    \
	(((list)->count < (list)->space ||                                                     \
	  !list_grow(&(list)->items, &(list)->space, (list)->count, sizeof(*(list)->items))) ? \
		 ((list)->items[(list)->count++] = (__VA_ARGS__), 0) :                         \
		 -ENOMEM)
/*
 * The first item not below `key`, `count` when there is none: of a list in the order of the uint64_t that its items begin
 * with.
 */
size_t list_from(const void *items, size_t count, size_t size, uint64_t key);
#define LIST_FROM(list, key) list_from((list)->items, (list)->count, sizeof(*(list)->items), key)
#define LIST_FREE(list) (free((list)->items), (list)->items = NULL, (list)->count = (list)->space = 0)

struct declined;
struct known;

struct checker {
	struct bdev *dev;
	const struct ash_check_options *options;
	struct ash_check_result *result;
	bool repair;                 /* mode allows writing */
	bool log_clean;              /* totals and free counts must be true */
	bool controls_wait;          /* those of the log are written anew when the superblock is accepted */
	bool marked;                 /* ASH_STATE_ERRORS was set before the first write */
	bool stale_super;            /* table inode came from a backup: runs may be missing */
	const char *outvoted;        /* the primary looks good, and why a backup is taken all the same */
	bool behind;                 /* ... or is older, as the log leaves it, than one of them */
	uint64_t backup_runs;        /* of the inode table, by the backup that counts most */
	uint64_t named_runs;         /* likewise, by names that lead behind the last run of the table; */
	bool names_counted;          /* of all directories */
	bool restore;                /* the primary will be written when the table is known: see lost.c */
	uint64_t super_from;         /* block */
	bool first_run_gone;         /* of the inode table: lost.c found nothing of it */
	struct ash_overlay *overlay; /* NULL: the device itself is current */
	LIST(uint64_t) images;       /* blocks for which the overlay has an answer, ascending */
	const uint64_t *orphans;
	size_t orphan_count;
	struct declined *declined;
	size_t declined_count;
	size_t declined_before; /* in earlier rounds */

	struct ash_super *super; /* current content, aligned */
	uint64_t block_count;
	uint64_t group_count;
	uint32_t seed, inodes_per_run;

	/* a round's findings */
	bool changed; /* this round repaired structure: run another */
	struct block_map found, twice;
	uint64_t twice_count;
	LIST(struct table_extent) table;
	LIST(uint64_t) table_nodes; /* tree blocks of the table's extents */
	LIST(struct table_hole) holes;
	struct run_info *runs;
	uint64_t run_count;
	uint64_t inode_count;                    /* run_count * inodes_per_run */
	struct known **known;                    /* see known.c; a piece is NULL where nothing is known */
	uint8_t **inode_bits;                    /* as on disk, run by run; likewise */
	LIST(struct inode_range) unplaced;       /* inodes in holes of the table: INODE_DAMAGED; ascending */
	LIST(struct directory_info) directories; /* by ascending number */
	LIST(struct rebuild) rebuilds;
	LIST(struct addition) additions;
	LIST(struct loss) losses; /* by fork and block */
	bool inode_flags;         /* some inode is immutable or append-only */
	uint64_t lost_found;      /* 0: none */
	bool lost_found_taken;    /* the root has that name for something else */
	uint64_t next_free_block; /* where the repair's allocator looks next */
	uint32_t *group_flags;    /* per group; valid where group_table_good */
	uint32_t *group_free;
	bool *table_block_good;

	uint8_t *node_buffers; /* NODE_LEVELS blocks: one for each level of a walk */
	uint8_t *scratch;      /* 2 blocks */
	uint8_t *value;        /* ASH_XATTR_SIZE_MAX, for external values; on demand */
	uint8_t *names;        /* of equal hash, in one directory; on demand */
};

/* ---- io.c ---- */

int block_read(struct checker *checker, uint64_t block, void *data);
/*
 * `count` blocks; those that cannot be read are zero, and `bad` (of `count`, may be NULL) tells of each. 0, -ENOMEM or
 * -ENODEV.
 */
int blocks_read(struct checker *checker, uint64_t first, uint64_t count, void *data, bool *bad);
/*
 * The first block in [block, end) that may hold anything; `end` where there is none. Holes of an image file are
 * passed over: what is claimed of them costs no time.
 */
uint64_t block_with_data(const struct checker *checker, uint64_t block, uint64_t end);
/* NULL when the header (crc included) is right, else what is wrong. */
const char *block_wrong(const struct checker *checker, const void *data, uint64_t block, uint32_t magic,
			uint64_t owner);
void block_begin(const struct checker *checker, void *data, uint64_t block, uint32_t magic, uint64_t owner);
/* Seal and write a block with a header. */
int block_write(struct checker *checker, uint64_t block, void *data);
int block_write_raw(struct checker *checker, uint64_t block, const void *data, uint64_t count);
/* Set ASH_STATE_ERRORS in block 0, durably, unless this check did, or block 0 is not good and is written last. */
int mark_volume(struct checker *checker);
/* A block that cannot be read was counted as repaired, and the device does not take it: it is left. */
void repair_refused(struct checker *checker, const char *what, uint64_t block);
int check_flush(struct checker *checker);
/* Replace record `ino` of the table (sealed here). Record 0 is never in use: */
int record_write(struct checker *checker, uint64_t ino, struct ash_inode *record);
/* the inode of that number is the table's own and lies in the superblock. */
int inode_write(struct checker *checker, uint64_t ino, struct ash_inode *record);
int inode_read(struct checker *checker, uint64_t ino, struct ash_inode *record);
/* In volume, not behind its end, count at least 1. */
bool extent_inside(const struct checker *checker, uint64_t start, uint64_t count);
void say(struct checker *checker, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* 0, or -ECANCELED: between two steps, where nothing is half written. */
int check_cancelled(struct checker *checker);
void progress(struct checker *checker, unsigned pass, uint64_t done, uint64_t total);

/* ---- super.c, journal.c ---- */

/* NULL when it is a superblock of a volume that fits the device and that we know, else what is wrong; *error is
 * -ENOTSUP, -ENODATA or -EINVAL then. */
const char *super_wrong(const struct ash_super *super, uint64_t address, uint64_t device_blocks, int *error);
int super_find(struct checker *checker);
#define BACKUP_MAX 64u
/* The blocks of the backups of a volume of that size; returns how many. */
unsigned backup_places(uint64_t list[BACKUP_MAX], uint64_t block_count);
/*
 * Take the best backup for checker->super: 0, -ENOENT, -ENOMEM, -ENODEV or -ECANCELED. `told`: blocks that a bad block
 * 0 still claims (torn while the volume grew: the old size or the new one, and there is a backup for either), or 0.
 */
int backup_find(struct checker *checker, uint64_t told);
/*
 * Take a backup instead of a good primary, when it is believed: the primary differs from all of them, or is old. -ENOENT:
 * there is nothing else of the primary's volume; -ENOTUNIQ: it and that of the backup in *other are both there;
 * -ENOMEM, -ENODEV or -ECANCELED.
 */
int backup_outvote(struct checker *checker, uint64_t *other);
/* Is there a good copy of checker->super in its last block? checker->scratch is used. */
bool backup_is_last(struct checker *checker);
/* Take the one in that block: 0, -ENOENT. */
int super_choose(struct checker *checker, uint64_t block);
/* The most runs of the inode table that a good backup of that superblock counts. checker->scratch is used. */
uint64_t backups_count_runs(struct checker *checker, const struct ash_super *super);
/* Runs that the superblock, a newer backup or names count. */
uint64_t runs_counted(const struct checker *checker);
/* Fields that never change, or change together with the volume's shape. */
bool same_constants(const struct ash_super *a, const struct ash_super *b);
/* How much of the volume is found where this superblock says (evidence.c). The second block of checker->scratch is used. */
unsigned super_evidence(struct checker *checker, const struct ash_super *super);
/* Is some of it from places that never change: group table, log? */
bool super_evidence_is_fixed(unsigned evidence);
/* Is nothing of the inode table where this superblock says, and something where the other one does? Likewise. */
bool table_is_elsewhere(struct checker *checker, const struct ash_super *super, const struct ash_super *than);
/* Is anything of its inode table on the device, where it says or anywhere? 0, -ENOMEM, -ENODEV or -ECANCELED. */
int table_find(struct checker *checker, const struct ash_super *super, bool *found);
/* Do the bitmap of the last group, or the group table, know of blocks behind its end? Likewise. */
bool super_is_outgrown(struct checker *checker, const struct ash_super *super);
/* Not only that, but as growing leaves them? `last_is_lost`: its last block is no backup of it any more. Likewise. */
bool super_has_surely_grown(struct checker *checker, const struct ash_super *super, bool last_is_lost);
/* Does its table inode lead to a run to which the other's does not? */
bool table_leads_further(struct checker *checker, const struct ash_super *super, const struct ash_super *than);
int super_check(struct checker *checker);
/* On sound structure only: a primary that lies must not take its good backups with it. */
int backups_check(struct checker *checker);
/* Write checker->super home and to the backups. */
int super_write(struct checker *checker);
int super_write_all(struct checker *checker);
void super_geometry(struct checker *checker);
int group_table_check(struct checker *checker);
int journal_open(struct checker *checker);
/* What journal_open() put off: after super_check(). */
int journal_settle(struct checker *checker);
void journal_close(struct checker *checker);
/* The valid control block with the highest sequence: 0, -ENOENT. */
int journal_control(struct checker *checker, struct ash_log_control *out, uint64_t *block);
int journal_totals(struct checker *checker, uint64_t free_blocks, uint64_t used_inodes);
/* Is block 0 larger in the log than at home? Then a crash cut a growth off, and the replay ends it. */
bool journal_grows(struct checker *checker);

/* ---- tree.c ---- */

struct tree_walk {
	struct checker *checker;
	uint64_t owner;
	void *context;
	/* All return 0 to go on, else the walk ends with that value. `node`: a good node below the root; returning 1 skips what
	 * lies under it. `bad`: a node that cannot be used; block 0: the root. */
	int (*node)(void *context, uint64_t block);
	int (*bad)(void *context, uint64_t block, const char *why);
	int (*record)(void *context, uint64_t key, const uint8_t *value, uint32_t length);
};
int tree_walk(struct tree_walk *walk, const uint8_t *root, uint32_t size);

/* ---- table.c ---- */

/* Of a run of the inode table: its bitmap, and the records. */
uint64_t run_blocks(const struct checker *checker);
int table_load(struct checker *checker);
uint64_t table_block(const struct checker *checker, uint64_t file_block); /* 0: hole */
/* How many of `count` file blocks from `first` on have a place. */
uint64_t table_mapped(const struct checker *checker, uint64_t first, uint64_t count);
/* Take file blocks [first, end) out of the map; table_tidy() puts it in order again. */
int table_cut(struct checker *checker, uint64_t first, uint64_t end);
/* ... of extent *index; what lies behind them becomes the last extent, and *index leads there. */
int table_cut_extent(struct checker *checker, size_t *index, uint64_t first, uint64_t end);
void table_tidy(struct checker *checker);
/* After pass 1, which knows what is in use: empty blocks for the holes of the table. */
int table_holes_fill(struct checker *checker);
/* Device block and offset of a record; -ENOENT. */
int table_locate(const struct checker *checker, uint64_t ino, uint64_t *block, uint32_t *offset);
/* Visit initialized inode blocks in order. With `wanted`, only blocks with an inode for which it says yes. */
typedef int (*table_visit)(struct checker *checker, uint64_t first_ino, struct ash_inode *records);
int table_scan(struct checker *checker, unsigned pass, bool (*wanted)(struct checker *checker, uint64_t ino),
	       table_visit visit);
bool bit_test(const uint8_t *bits, uint64_t bit);
void bit_set(uint8_t *bits, uint64_t bit, bool value);

/* ---- known.c: of inodes below inode_count ---- */

int known_open(struct checker *checker);
void known_close(struct checker *checker);
uint8_t inode_state(const struct checker *checker, uint64_t ino); /* INODE_* */
/* 0 or -ENOMEM */
int inode_state_add(struct checker *checker, uint64_t ino, uint8_t bits);
void inode_state_drop(struct checker *checker, uint64_t ino, uint8_t bits);
/* Of an inode that has a state, or had one. */
struct inode_info *inode_info(const struct checker *checker, uint64_t ino);
/* The first in [ino, end) of which something may be known; `end`: none. */
uint64_t inode_known_from(const struct checker *checker, uint64_t ino, uint64_t end);
bool inode_bit(const struct checker *checker, uint64_t ino);
/* The bits of a run, inodes_per_run / 8 bytes. 0 or -ENOMEM */
int inode_bits_put(struct checker *checker, uint64_t run, const uint8_t *bits);
void inode_bits_get(const struct checker *checker, uint64_t run, uint8_t *bits);
uint64_t inode_bits_count(const struct checker *checker);

/* ---- lost.c ---- */

/* After table_map(): put runs into the table's map that are not where it says, or that it lacks. */
int lost_runs_find(struct checker *checker);
/* Is any of the runs that the map has not there? */
bool lost_runs_any(struct checker *checker);
/* The number of the first inode in a block of records, by the first record that tells its own; false: none does. */
bool records_numbered(const struct ash_inode *records, uint64_t *first_ino);
/* How many records with right checksums by `seed` are in a block in which `first_ino` would be the first? */
uint32_t records_sealed(uint32_t seed, const struct ash_inode *records, uint64_t first_ino);

/* ---- inode.c, fork.c ---- */

int inodes_check(struct checker *checker);
/* Header fields: NULL or what is wrong. */
const char *record_wrong(const struct ash_inode *record);
bool record_is_zero(const struct ash_inode *record);

struct fork_result {
	uint64_t blocks;     /* nodes and data */
	uint64_t end;        /* file block behind the last extent */
	uint64_t written;    /* ... behind the last one that is written */
	bool damaged;        /* something was wrong in it */
	uint64_t beyond_eof; /* a written extent behind the end of file: its file block + 1; 0: none */
	uint64_t records;
};
/* Walk both forks: mark blocks, report and schedule what is wrong. `quiet`: mark only, report nothing. */
int forks_check(struct checker *checker, uint64_t ino, const struct ash_inode *record, bool quiet,
		struct fork_result *data, struct fork_result *attribute);
/* One extent of a file: NULL or what is wrong. */
const char *extent_wrong(const struct checker *checker, uint64_t file_block, const uint8_t *value, uint32_t length,
			 uint64_t floor);
/* One attribute, but for its external value. */
const char *attribute_wrong(const struct checker *checker, const uint8_t *value, uint32_t length);
/* Where a long value lies, decoded: on disk it follows the name and so has no alignment. */
struct external {
	uint32_t crc, count;
	struct block_run {
		uint64_t start, count;
	} extents[ASH_XATTR_MAX_EXTENTS];
};
/* Of an attribute that ash_xattr_check() let through; count 0 when the value is in the record. */
void external_get(const struct ash_xattr_value *attribute, struct external *out);
/* NULL or what is wrong with the value of a well-formed external attribute. */
const char *attribute_value_wrong(struct checker *checker, const uint8_t *value, int *error);
uint64_t name_key(const struct checker *checker, const void *name, size_t length);
#define KEY_COLLISION_MASK ((1ull << ASH_DIR_COLLISION_BITS) - 1)
int rebuild_schedule(struct checker *checker, uint64_t ino, bool attribute);
/* A place for names of equal hash: true when the name was there already. */
struct name_set {
	uint64_t hash;
	uint32_t used; /* bytes of checker->names */
};
int name_set_add(struct checker *checker, struct name_set *set, uint64_t key, const uint8_t *name, uint8_t length,
		 bool *seen);

/* ---- claim.c ---- */

int claims_resolve(struct checker *checker);
/* The first part of this range that the fork gives up; NULL: none. */
const struct loss *loss_find(const struct checker *checker, uint64_t ino, bool attribute, uint64_t start,
			     uint64_t count);

/* ---- directory.c, connect.c ---- */

/* -EAGAIN: names lead to runs that the table does not have. They have not been looked for, nor the names been judged. */
int directories_check(struct checker *checker);
const char *dirent_wrong(const uint8_t *value, uint32_t length);
struct directory_info *directory_find(struct checker *checker, uint64_t ino);
int connect_check(struct checker *checker);

/* ---- rebuild.c ---- */

/* `names_known`: pass 2 ran to its end; else directories' trees wait for the next round. */
int rebuild_all(struct checker *checker, bool names_known);
/* 1 to `most` free blocks in one piece: 0, -ENOSPC, -ENOMEM. */
int blocks_allocate(struct checker *checker, uint32_t most, uint64_t *block, uint32_t *count);

/* ---- bitmap.c ---- */

int bitmaps_check(struct checker *checker);
int inode_bitmaps_check(struct checker *checker);
int totals_check(struct checker *checker);

#endif
