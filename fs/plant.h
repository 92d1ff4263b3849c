/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Deliberate defects, only in the build of tests/crash that proves that the explorer sees them
 * (-DASHLAR_PLANT, which defines `int ash_plant` itself). Everywhere else ASH_PLANTED() is a constant 0.
 */
#ifndef FS_PLANT_H
#define FS_PLANT_H

enum ash_plant_kind {
	ASH_PLANT_NONE,
	ASH_PLANT_LOG_AFTER_HOME,  /* checkpoint: home writes before the log is forced (I1) */
	ASH_PLANT_NO_DATA_FLUSH,   /* log force: no flush of file data before the log write (I2) */
	ASH_PLANT_NO_REVOKE,       /* freed metadata is not revoked (I3) */
	ASH_PLANT_EARLY_REUSE,     /* freed blocks can be claimed at commit, not when that is durable (I3) */
	ASH_PLANT_TAIL_EARLY,      /* the tail moves before the home writes are done (I4) */
	ASH_PLANT_NO_TAIL_ZERO,    /* growth does not zero from the old end of file to the block's end (I2) */
	ASH_PLANT_RENAME_SPLIT,    /* rename over an existing name takes that away in a transaction of its own (I7) */
	ASH_PLANT_NO_ORPHAN,       /* an orphan is not logged */
	ASH_PLANT_TAIL_OVER_FREED, /* the tail passes records of metadata whose freeing is not durable (I4) */
	ASH_PLANT_GROW_NO_FLUSH,   /* growth: what the new part needs is not flushed before the size is logged */
	ASH_PLANT_GROW_BITMAP,     /* growth: the new last bitmap is written when the size is durable */
	ASH_PLANT_GROW_BACKUPS,    /* growth: the old groups' backups are written before the size is durable */
	ASH_PLANT_GROW_UNLOGGED,   /* growth: it ends before the size is durable (I5) */
};

#ifdef ASHLAR_PLANT
extern int ash_plant;
#define ASH_PLANTED(kind) (ash_plant == (kind))
#else
#define ASH_PLANTED(kind) 0
#endif

#endif
