/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a volume tells of itself, and the two fields of the superblock that its owner may set: label and UUID.
 *
 * Locks: for a moment those of the superblock's buffer and of the log, one after the other: figures that change while
 * they are read need not be of one moment.
 */
#include "engine.h"

/* ---- Figures ---- */

int ash_statfs(struct ash_volume *volume, struct ash_statfs *out)
{
	const struct ash_super *super = (const void *)volume->super->data;
	uint64_t total, used;

	memset(out, 0, sizeof(*out));
	out->block_size = ASH_BLOCK_SIZE;
	out->blocks = volume->block_count;
	ash_alloc_counts(volume, &out->free_blocks, &out->available_blocks);
	ash_itable_counts(volume, &total, &used);
	/* the table grows: every free block can become eight inodes */
	out->free_inodes = (total > used ? total - used : 0) + out->available_blocks * ASH_INODES_PER_BLOCK;
	out->inodes = used + out->free_inodes;
	out->name_max = ASH_NAME_MAX;
	ash_lock(&volume->super->lock);
	memcpy(out->uuid, super->uuid, 16);
	ash_unlock(&volume->super->lock);
	return 0;
}

static void info_super(const struct ash_volume *volume, struct ash_volume_info *out)
{
	const struct ash_super *super = (const void *)volume->super->data;

	ash_lock(&volume->super->lock); /* the inode table grows meanwhile */
	memcpy(out->uuid, super->uuid, 16);
	memcpy(out->label, super->label, ASH_LABEL_SIZE);
	out->compat = ash_get64(super->compat);
	out->ro_compat = ash_get64(super->ro_compat);
	out->incompat = ash_get64(super->incompat);
	out->created = ash_get64(super->created);
	out->error_count = ash_get64(super->error_count);
	out->error_time = ash_get64(super->error_time);
	out->inode_runs = ash_get64(super->inode_runs);
	out->version = ash_get32(super->version);
	out->state = ash_get32(super->state);
	ash_unlock(&volume->super->lock);
}

int ash_volume_info(struct ash_volume *volume, struct ash_volume_info *out)
{
	struct ash_log *log = volume->log;
	uint64_t total, available;

	memset(out, 0, sizeof(*out));
	info_super(volume, out);
	memcpy(out->metadata_uuid, volume->metadata_uuid, 16);
	out->block_count = volume->block_count;
	out->group_count = volume->group_count;
	out->log_start = volume->log_start;
	out->log_blocks = volume->log_blocks;
	out->group_table_start = volume->group_table_start;
	out->group_table_blocks = volume->group_table_blocks;
	out->inodes_per_run = volume->inodes_per_run;
	out->epoch = volume->epoch;
	ash_itable_counts(volume, &total, &out->used_inodes);
	ash_alloc_counts(volume, &out->free_blocks, &available);
	pthread_mutex_lock(&log->lock);
	out->log_tail_lsn = log->tail_lsn;
	out->log_end_lsn = ash_log_append_lsn(log);
	out->log_durable_lsn = log->durable_lsn;
	pthread_mutex_unlock(&log->lock);
	out->read_only = atomic_load(&volume->read_only);
	out->no_write = volume->no_write;
	out->failed = atomic_load(&volume->failed) != 0;
	out->was_clean = volume->was_clean;
	return 0;
}

void ash_counters(struct ash_volume *volume, struct ash_counters *out)
{
	struct ash_log *log = volume->log;

	memset(out, 0, sizeof(*out));
	out->transactions = atomic_load(&log->transactions);
	out->log_records_bytes = atomic_load(&log->record_bytes);
	out->log_blocks_written = atomic_load(&log->blocks_written);
	out->commits = atomic_load(&log->commits);
	out->flushes = atomic_load(&volume->flushes);
	out->checkpoints = atomic_load(&log->checkpoints);
	out->home_writes = atomic_load(&log->home_writes);
	ash_cache_hits(volume, &out->cache_hits, &out->cache_misses);
	out->cache_blocks = ash_cache_blocks(volume);
	out->inodes_in_core = ash_icache_count(volume);
	out->write_behind_bytes = ash_wb_bytes(volume);
	out->damaged_blocks = atomic_load(&volume->damaged_blocks);
}

/* ---- Label and UUID ---- */

/* A field of the superblock: owned by rename_lock, which everything that changes the whole volume takes. */
static int super_field_set(struct ash_volume *volume, uint32_t offset, const void *value, uint32_t length)
{
	struct ash_txn *txn;
	uint64_t lsn;
	int error;

	ash_lock_long(volume, &volume->rename_lock);
	error = ash_txn_begin(volume, ASH_TXN_SMALL, &txn);
	if (!error) {
		ash_txn_set(txn, volume->super, offset, value, length);
		lsn = ash_txn_commit(txn);
		error = ash_log_force(volume, lsn);
	}
	pthread_mutex_unlock(&volume->rename_lock);
	return error;
}

int ash_set_label(struct ash_volume *volume, const char *label)
{
	char padded[ASH_LABEL_SIZE] = { 0 };
	size_t length = strlen(label);

	if (length > ASH_LABEL_SIZE)
		return -E2BIG;
	memcpy(padded, label, length);
	return super_field_set(volume, offsetof(struct ash_super, label), padded, sizeof(padded));
}

int ash_set_uuid(struct ash_volume *volume, const uint8_t uuid[16])
{
	return super_field_set(volume, offsetof(struct ash_super, uuid), uuid, 16);
}
