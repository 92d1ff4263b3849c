/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log: an endless stream of records in a ring of blocks, group commit, checkpoint, tail.
 *
 * append (under log.lock, memory only) -> force (one leader writes for all: flush the device so that data is
 * durable before its pointers, I2; write log blocks; flush) -> checkpoint (home-write records forced, then
 * home writes, flush) -> tail moves (control block written, then the space counts as free; I1, I4).
 * A failed or ambiguous write or flush of any of these is sticky (I6).
 */
#ifndef FS_LOG_H
#define FS_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ash_volume;

/* Everything before `lsn` is durable when it returns 0; -EROFS/-EIO after a failure (I6). May block. */
int ash_log_force(struct ash_volume *volume, uint64_t lsn);
/* The current end of the log (LSN of the next record). */
uint64_t ash_log_end(struct ash_volume *volume);
/* Everything before this is durable. */
uint64_t ash_log_durable(struct ash_volume *volume);
/* File data was written to the device: the next force must flush before its log write (I2). */
void ash_log_note_data(struct ash_volume *volume);
/* Make all data writes noted so far durable. Shares flushes with others. */
int ash_log_flush_data(struct ash_volume *volume);
/* Both: everything before `lsn`, and all data writes noted when it is called, with or without records. */
int ash_log_make_durable(struct ash_volume *volume, uint64_t lsn);
/* True: the calling thread puts such waits off (ash_defer_begin()), and this is one of them now. */
bool ash_log_defer(struct ash_volume *volume, uint64_t lsn);
/* After home writes and backups: as data. When the flush fails nobody knows what is on the device: the volume fails (I6). */
int ash_log_flush_home(struct ash_volume *volume);
/* The orphan set as committed: a malloc'ed list (may be NULL when empty). */
int ash_log_orphans(struct ash_volume *volume, uint64_t **list, size_t *count);
/* Write dirty metadata home. `all`: everything, tail to the end; else a batch that frees log space. */
int ash_log_checkpoint(struct ash_volume *volume, bool all);
/* Sticky failure: read-only for good, logged once (I6). Returns -EROFS. */
int ash_volume_fail(struct ash_volume *volume, int error, const char *what);

#endif
