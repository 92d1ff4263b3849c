// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Writing out what the write-behind buffer holds.
 *
 * Concept: buffered data gets its blocks here (delayed allocation). One inode: its pages in order, each contiguous run
 * one claim and one vectored write, one transaction for as many as fit. The runs go in waves: for all of a wave the
 * places are found or claimed, then all are written together, then, in order, all are mapped. Many new files: a batch
 * takes them from the dirty list, claims one run of blocks for all their pages, writes it at once and puts all their
 * records into one transaction; that is what makes many small files cheap.
 *
 * Rules
 * - Data is complete before its record (I2). Pages leave the buffer when the record is appended, under the same lock, and
 *   not before: a sync that finds nothing dirty forces only what the log has (I5).
 * - All writes of a wave have ended, well or not, before anything else is done. The first of them that failed ends the
 *   wave as if those behind it had not been begun.
 * - A bad place of the device costs what can be nowhere else. A request that failed is done again in halves; a new block
 *   that cannot be written is exchanged for another; a block that the file has loses its new content.
 * - Space was reserved when the data was taken in, for blocks and tree nodes, so claims cannot fail for want of it.
 * - The error of lost data stays on the inode, which the icache keeps in core therefore, until an fsync has reported it
 *   (I5). A metadata error, and a device that takes nothing any more, drop all that the inode has buffered. After ENOMEM,
 *   or on a volume turned read-only, the pages stay.
 *
 * Locks: flush_lock -> transaction -> inode locks; those of a batch are only tried, never waited for.
 */
#include <stdlib.h>
#include "file_edit.h"

#define BATCH_FILES 48u /* locks held at once; ThreadSanitizer can follow 64 */
#define BATCH_PAGES 1024u
#define BATCH_CLAIMS 4u
#define BATCH_RANGES 4u /* of one file: with BATCH_CLAIMS its extents fit the root */
#define FLUSH_IOV 1024u
#define WAVE_STEPS 128u /* written together */

/* ---- One inode ---- */

/* Pages [index, ..) with adjacent file blocks, at most `limit`. */
static uint32_t run_length(const struct ash_write_buffer *buffer, uint32_t index, uint64_t limit)
{
	uint32_t count = 1;

	while (count < limit && index + count < buffer->count &&
	       buffer->pages[index + count].block == buffer->pages[index].block + count)
		count++;
	return count;
}

/* Vectors over `count` pages; neighbours in memory are joined. Returns how many vectors. */
static unsigned page_vectors(const struct ash_volume *volume, const struct ash_wb_page *pages, uint32_t count,
			     struct iovec *iov, unsigned used)
{
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *bytes = ash_wb_page_bytes(volume, pages[i].page);

		if (used && (uint8_t *)iov[used - 1].iov_base + iov[used - 1].iov_len == bytes)
			iov[used - 1].iov_len += ASH_BLOCK_SIZE;
		else
			iov[used++] = (struct iovec){ bytes, ASH_BLOCK_SIZE };
	}
	return used;
}

/* The flush of one inode, a chain of transactions. */
struct flush {
	struct ash_edit edit;
	uint32_t width;        /* pages of a step; below FLUSH_IOV, at most half, since a write failed: one at a time */
	uint32_t failed_pages; /* of the request that ended the current transaction; 0: none did */
	unsigned failures;     /* of requests, since one that worked */
	int error;             /* of data that is lost; 0: none is */
	/* Blocks that cannot be written: kept from being claimed again as long as this lasts. */
	unsigned refused_count;
	struct ash_extent refused[ASH_WB_FAILURES_MAX];
};

/* Pages that lie in one mapping, or get one. */
struct step {
	uint32_t index, count; /* pages */
	unsigned request;      /* which writes them */
	bool claimed;          /* `extent` is new: to be mapped once it is written */
	bool unwritten;        /* `extent` is to be marked as written then */
	struct ash_extent extent;
};

/* Steps whose writes are under way together. */
struct wave {
	unsigned steps, requests, vectors;
	unsigned changes; /* of the map */
	struct step step[WAVE_STEPS];
	struct bdev_request request[WAVE_STEPS];
	struct iovec iov[FLUSH_IOV];
};

/* Only new blocks: those adjoin often, and others are mostly scattered. */
static bool joins_last(const struct wave *wave, const struct step *step)
{
	if (!wave->steps || !step->claimed)
		return false;
	const struct step *last = &wave->step[wave->steps - 1];
	return last->claimed && last->extent.start + last->extent.count == step->extent.start;
}

static void wave_append(struct ash_edit *edit, struct wave *wave, struct step step)
{
	const struct ash_wb_page *pages = edit->icore->buffered->pages + step.index;

	if (!joins_last(wave, &step))
		wave->request[wave->requests++] = (struct bdev_request){
			.op = BDEV_WRITE,
			.offset = step.extent.start << ASH_BLOCK_SHIFT,
			.iov = wave->iov + wave->vectors,
		};
	step.request = wave->requests - 1;
	struct bdev_request *request = &wave->request[step.request];
	unsigned first = (unsigned)(request->iov - wave->iov), used = (unsigned)request->iov_count;
	used = page_vectors(edit->volume, pages, step.count, wave->iov + first, used);
	request->iov_count = (int)used;
	request->length += (uint64_t)step.count << ASH_BLOCK_SHIFT;
	wave->vectors = first + used;
	wave->changes += step.claimed || step.unwritten;
	wave->step[wave->steps++] = step;
}

/* The step for up to `count` pages from `index` on: where they go. */
static int wave_plan(struct ash_edit *edit, struct wave *wave, uint32_t index, uint32_t count)
{
	uint64_t block = edit->icore->buffered->pages[index].block;
	struct ash_mapping mapping;
	int rc = ash_edit_map(edit, block, count, &mapping);

	if (rc)
		return rc;
	struct step step = { .index = index, .claimed = !mapping.start, .unwritten = mapping.unwritten };
	if (step.claimed) {
		rc = ash_edit_claim(edit, block, mapping.count, ASH_CLAIM_RESERVED, &step.extent);
	} else {
		step.extent = (struct ash_extent){ mapping.start, mapping.count };
		if (!step.unwritten)
			rc = ash_edit_settle_end(edit, block, mapping.count);
	}
	if (rc)
		return rc;
	rc = ash_data_check(edit->volume, step.extent);
	if (rc) {
		if (step.claimed)
			ash_edit_unclaim_last(edit);
		return rc;
	}
	step.count = (uint32_t)step.extent.count;
	wave_append(edit, wave, step);
	return 0;
}

/* Steps for pages from `index` on, as many as have room. An error is that of the next page. */
static int wave_fill(struct flush *flush, struct wave *wave, uint32_t index)
{
	struct ash_edit *edit = &flush->edit;
	const struct ash_write_buffer *buffer = edit->icore->buffered;
	unsigned most = flush->width < FLUSH_IOV ? 1 : WAVE_STEPS;
	int rc = 0;

	wave->steps = wave->requests = wave->vectors = wave->changes = 0;
	while (index < buffer->count && wave->steps < most && wave->changes < ASH_EDIT_CLAIMS && ash_edit_room(edit)) {
		uint32_t room = FLUSH_IOV - wave->vectors; /* a page takes one at most */

		if (!room)
			break;
		rc = wave_plan(edit, wave, index, run_length(buffer, index, room < flush->width ? room : flush->width));
		if (rc)
			break;
		index += wave->step[wave->steps - 1].count;
	}
	return rc;
}

/* A step is written: what the map has to say of it. */
static int step_map(struct ash_edit *edit, const struct step *step)
{
	uint64_t block = edit->icore->buffered->pages[step->index].block;

	if (step->claimed)
		return ash_edit_map_new(edit, block, step->extent, false);
	return step->unwritten ? ash_map_set_written(edit->txn, &edit->tree, block, step->extent.count) : 0;
}

/* Errors after which the pages stay. */
static bool may_try_again(int error)
{
	return error == -ENOSPC || error == -ENOMEM || error == -EROFS;
}

/* Of more than can be kept the oldest goes back: the search for free blocks has passed it. */
static void refuse_block(struct flush *flush, struct ash_extent block)
{
	if (flush->refused_count == ASH_WB_FAILURES_MAX) {
		ash_unclaim(flush->edit.volume, flush->refused[0], 0);
		memmove(flush->refused, flush->refused + 1, --flush->refused_count * sizeof(flush->refused[0]));
	}
	flush->refused[flush->refused_count++] = block;
}

/* The steps from `from` on come to nothing. */
static void wave_unclaim(struct flush *flush, const struct wave *wave, unsigned from)
{
	struct ash_edit *edit = &flush->edit;

	for (unsigned i = wave->steps; i > from; i--) {
		const struct step *step = &wave->step[i - 1];
		bool bad = i - 1 == from && flush->failed_pages == 1 &&
			   !may_try_again(wave->request[step->request].result);

		if (step->claimed && bad)
			refuse_block(flush, edit->claims[--edit->claim_count].extent);
		else if (step->claimed)
			ash_edit_unclaim_last(edit);
	}
}

/*
 * Map the steps in order, up to the first that was not written, or that does not fit the transaction any more. Its
 * claim and those behind it go back, and their pages come again. *done: pages that are settled.
 */
static int wave_settle(struct flush *flush, const struct wave *wave, uint32_t *done, bool *fatal)
{
	unsigned i;
	int rc = 0;

	for (i = 0; i < wave->steps; i++) {
		const struct step *step = &wave->step[i];
		const struct bdev_request *request = &wave->request[step->request];

		if ((step->claimed || step->unwritten) && !ash_edit_log_room(&flush->edit))
			break;
		rc = request->result;
		if (rc) {
			flush->failed_pages = (uint32_t)(request->length >> ASH_BLOCK_SHIFT);
			break;
		}
		rc = step_map(&flush->edit, step);
		*fatal = rc != 0;
		if (rc)
			return rc;
		*done += step->count;
		flush->failures = 0;
	}
	wave_unclaim(flush, wave, i);
	return rc;
}

/*
 * Write pages from *done on, in many places of the device at once: one after the other each would take its full time,
 * under the inode's lock. *done moves on over what is settled. `*fatal`: the transaction is spoilt.
 */
static int flush_wave(struct flush *flush, uint32_t *done, bool *fatal)
{
	struct wave wave;
	int planned = wave_fill(flush, &wave, *done);

	ash_data_write_many(flush->edit.volume, wave.request, wave.requests);
	int rc = wave_settle(flush, &wave, done, fatal);
	if (!rc)
		flush->width = flush->width < FLUSH_IOV / 2 ? 2 * flush->width : FLUSH_IOV;
	return rc ? rc : planned;
}

static bool stays_inline(const struct ash_write_buffer *buffer, const struct ash_inode *inode)
{
	return inode->data_kind != ASH_FORK_TREE && buffer->icore->buffered_size <= ASH_DATA_FORK_SIZE &&
	       buffer->count == 1 && buffer->pages[0].block == 0;
}

static void stamp(struct ash_inode *header, const struct ash_write_buffer *buffer)
{
	const struct timespec *at = &buffer->modified;
	int64_t ctime = (int64_t)ash_get64(header->ctime);

	if (!buffer->times)
		return;
	ash_stamp_mtime(header, *at);
	if (ctime < at->tv_sec || (ctime == at->tv_sec && ash_get32(header->ctime_ns) < at->tv_nsec))
		ash_stamp_ctime(header, *at);
}

/* Tree nodes that the flush claimed came out of the inode's reserve; those that it freed do not go back there. */
static void take_node_share(struct ash_edit *edit, uint32_t nodes)
{
	struct ash_write_buffer *buffer = edit->icore->buffered;

	assert(nodes <= buffer->reserved);
	buffer->reserved -= nodes;
	atomic_fetch_sub(&edit->volume->wb->reserved, nodes);
}

/* The first `done` pages are on the device and mapped: the record follows, the pages go. All of them: the buffer, too. */
static void finish_pages(struct ash_edit *edit, uint32_t done, uint64_t blocks_before, uint32_t nodes)
{
	struct ash_icore *icore = edit->icore;
	struct ash_write_buffer *buffer = icore->buffered;
	uint64_t size = icore->buffered_size;
	bool added = buffer->holes; /* blocks of which no answer has told, if nobody asked since */
	struct ash_inode header;

	take_node_share(edit, nodes);
	if (done < buffer->count) {
		uint64_t reached = (buffer->pages[done - 1].block + 1) << ASH_BLOCK_SHIFT;

		if (reached < size)
			size = reached;
	}
	ash_edit_header(edit, &header);
	if (size > ash_get64(header.size))
		header.size = ash_put64(size);
	stamp(&header, buffer);
	ash_edit_set_header(edit, &header);
	ash_edit_commit_locked(edit, true);
	ash_wb_remove_pages(edit->volume, buffer, 0, done);
	if (!buffer->count)
		ash_wb_detach(edit->volume, icore);
	if (added || ash_get64(header.blocks) != blocks_before)
		ash_wb_blocks_changed(edit->volume, icore->ino);
}

/* The first `count` pages are lost: keep the error for fsync, and with it the in-core inode (I5). */
static void lose_pages(struct flush *flush, uint32_t count, int error)
{
	struct ash_volume *volume = flush->edit.volume;
	struct ash_icore *icore = flush->edit.icore;

	ash_say(volume, ASH_LOG_ERROR, "inode %llu: buffered data lost: %s", (unsigned long long)icore->ino,
		strerror(-error));
	flush->error = error;
	ash_wb_note_loss(volume, icore, error);
	ash_wb_remove_pages(volume, icore->buffered, 0, count);
	if (!icore->buffered->count)
		ash_wb_detach(volume, icore);
}

/*
 * To exchange a block takes another one, and what parts a run there takes nodes: the extents on both sides are records of
 * their own. Halves take nothing more: the reserve allows for any pieces of the device.
 */
static bool room_to_part(struct flush *flush)
{
	const struct ash_edit *edit = &flush->edit;
	bool tree = edit->record.inode->data_kind == ASH_FORK_TREE;
	struct ash_write_buffer *buffer = edit->icore->buffered;
	uint64_t need = ash_wb_reserve_needed(&edit->record, &edit->tree, buffer->holes, buffer->ranges) + 1 +
			2 * ((tree ? ash_tree_height(&edit->tree) : 0) + 2);

	if (!ash_wb_raise_reserve(edit->volume, buffer, need))
		return true;
	ash_drop_preallocation(edit->volume, edit->icore);
	return !ash_wb_raise_reserve(edit->volume, buffer, need);
}

/*
 * The first pages of what is left could not be written, and all before them is settled. A block that the file has keeps
 * its old content, in whole or in part, or zeroes if it is an unwritten one. Where the file ends in it, what lies behind
 * its end there is not known to be zeroes, and the size must not grow over it (I2): so those behind it are lost as well.
 */
static int answer_failure(struct flush *flush, int error)
{
	const struct ash_edit *edit = &flush->edit;
	const struct ash_write_buffer *buffer = edit->icore->buffered;
	const struct ash_wb_page *page = &buffer->pages[0];

	if (may_try_again(error))
		return error;
	bool alone = flush->failed_pages == 1, parts = alone && (page->hole || page->unwritten);
	if (++flush->failures >= ASH_WB_FAILURES_MAX || (parts && !room_to_part(flush))) {
		lose_pages(flush, buffer->count, error);
		return error;
	}
	/* Neighbours in memory share a vector, so that a request can have more pages than there are vectors. */
	flush->width = alone ? 1 : flush->failed_pages / 2;
	if (flush->width > FLUSH_IOV / 2)
		flush->width = FLUSH_IOV / 2;
	if (alone && !page->hole) {
		bool ends = !page->unwritten && (page->block + 1) << ASH_BLOCK_SHIFT > ash_edit_disk_size(edit);

		lose_pages(flush, ends ? buffer->count : 1, error);
	}
	return 1;
}

/* One transaction. 1: more is buffered, 0: nothing left, negative errno. Ends the edit. */
static int flush_piece(struct flush *flush)
{
	struct ash_edit *edit = &flush->edit;
	struct ash_write_buffer *buffer = edit->icore->buffered;
	uint64_t blocks = ash_get64(edit->record.inode->blocks);
	uint32_t done = 0, nodes = 0;
	bool fatal = false;
	int rc = 0;

	flush->failed_pages = 0;
	edit->tree.claim_flags = ASH_CLAIM_RESERVED;
	edit->tree.claimed = &nodes;
	if (stays_inline(buffer, edit->record.inode)) {
		ash_edit_set_inline(edit, ash_wb_page_bytes(edit->volume, buffer->pages[0].page),
				    edit->icore->buffered_size);
		done = 1;
	} else if (edit->record.inode->data_kind == ASH_FORK_INLINE) {
		ash_edit_set_inline(edit, NULL, 0); /* page 0 holds it */
	}
	while (done < buffer->count && !rc && ash_edit_room(edit))
		rc = flush_wave(flush, &done, &fatal);
	bool more = done < buffer->count, commit = !fatal && done;
	if (commit)
		finish_pages(edit, done, blocks, nodes);
	else
		ash_edit_undo(edit);
	if (flush->failed_pages) {
		rc = answer_failure(flush, rc);
	} else if (commit) {
		rc = more;
	} else {
		rc = rc ? rc : -EIO;
		if (!may_try_again(rc))
			lose_pages(flush, buffer->count, rc);
	}
	ash_edit_unlock(edit);
	return rc;
}

/* One step of the chain: 1 when there may be another. */
static int flush_on(struct flush *flush, struct ash_volume *volume, struct ash_icore *icore)
{
	int rc = ash_edit_begin(&flush->edit, volume, icore, ASH_EDIT_LOG_BYTES);

	if (rc)
		return rc == -ESTALE ? 0 : rc;
	if (ash_truncation_pending(volume, icore->ino)) {
		ash_edit_abort(&flush->edit);
		rc = ash_file_resume_truncate(volume, icore);
		return rc ? rc : 1;
	}
	if (!icore->buffered) {
		ash_edit_abort(&flush->edit);
		return 0;
	}
	return flush_piece(flush);
}

int ash_wb_flush_inode(struct ash_volume *volume, struct ash_icore *icore)
{
	struct flush flush = { .width = FLUSH_IOV };
	int rc;

	do
		rc = flush_on(&flush, volume, icore);
	while (rc > 0);
	while (flush.refused_count)
		ash_unclaim(volume, flush.refused[--flush.refused_count], 0);
	return rc ? rc : flush.error;
}

int ash_wb_settle_inode(struct ash_volume *volume, struct ash_icore *icore)
{
	int rc = ash_wb_flush_inode(volume, icore);

	return may_try_again(rc) ? rc : 0;
}

/* ---- A batch of new files ---- */

struct batch_file {
	struct ash_write_buffer *buffer;
	struct ash_icore *icore;
	struct ash_record record;
	bool joined;   /* locked and part of the batch's transaction */
	bool embedded; /* content goes into the inode */
};

struct batch {
	struct ash_volume *volume;
	struct ash_txn *txn;
	unsigned count, pages, claim_count;
	struct ash_extent claims[BATCH_CLAIMS];
	struct batch_file files[BATCH_FILES];
};

/* Take buffers off the dirty list, oldest first, no newer than `sequence`. */
static void batch_collect(struct batch *batch, uint64_t sequence)
{
	struct ash_write_behind *wb = batch->volume->wb;

	pthread_mutex_lock(&wb->lock);
	for (struct ash_write_buffer *buffer = wb->head, *next; buffer && batch->count < BATCH_FILES; buffer = next) {
		next = buffer->next;
		if (buffer->sequence > sequence)
			continue;
		ash_wb_unlink(wb, buffer);
		buffer->taken = true;
		batch->files[batch->count++] = (struct batch_file){ .buffer = buffer, .icore = buffer->icore };
	}
	pthread_mutex_unlock(&wb->lock);
}

/* A file that has no extents yet and that can be locked at once joins. */
static void batch_join(struct batch *batch, struct batch_file *file)
{
	struct ash_volume *volume = batch->volume;
	struct ash_write_buffer *buffer = file->buffer;
	struct ash_icore *icore = file->icore;

	if (pthread_rwlock_trywrlock(&icore->lock))
		return;
	if (icore->buffered != buffer || icore->deleted || batch->pages + buffer->count > BATCH_PAGES ||
	    buffer->ranges > BATCH_RANGES || buffer->holes != buffer->count ||
	    ash_truncation_pending(volume, icore->ino) || ash_record_get(volume, icore->ino, &file->record))
		goto unlock;
	if (!S_ISREG(ash_get32(file->record.inode->mode)) || file->record.inode->data_kind == ASH_FORK_TREE) {
		ash_record_put(volume, &file->record);
		goto unlock;
	}
	file->joined = true;
	file->embedded = stays_inline(buffer, file->record.inode);
	if (!file->embedded)
		batch->pages += buffer->count;
	return;
unlock:
	ash_icore_unlock(icore);
}

static int batch_claim(struct batch *batch)
{
	struct ash_volume *volume = batch->volume;
	uint64_t left = batch->pages;

	while (left) {
		struct ash_extent *extent = &batch->claims[batch->claim_count];

		if (batch->claim_count == BATCH_CLAIMS)
			return -ENOSPC;
		int rc = ash_claim(volume, atomic_load_explicit(&volume->wb->rotor, memory_order_relaxed), left,
				   ASH_CLAIM_RESERVED, extent);
		if (rc)
			return rc;
		batch->claim_count++;
		left -= extent->count;
		atomic_store_explicit(&volume->wb->rotor, extent->start + extent->count, memory_order_relaxed);
	}
	return 0;
}

/* Where the next block of the batch comes from. */
struct supply {
	unsigned claim;
	uint64_t used; /* blocks of it */
};

/* Write all pages, claim by claim. */
static int batch_write(struct batch *batch)
{
	struct iovec iov[BATCH_PAGES];
	struct supply supply = { 0 };
	unsigned used = 0;
	int rc = 0;

	for (unsigned i = 0; i < batch->count && !rc; i++) {
		const struct batch_file *file = &batch->files[i];
		uint32_t index = 0;

		while (file->joined && !file->embedded && index < file->buffer->count && !rc) {
			const struct ash_extent *claim = &batch->claims[supply.claim];
			uint64_t left = claim->count - supply.used;
			uint32_t take = file->buffer->count - index < left ? file->buffer->count - index :
									     (uint32_t)left;

			used = page_vectors(batch->volume, file->buffer->pages + index, take, iov, used);
			index += take;
			supply.used += take;
			if (supply.used < claim->count)
				continue;
			rc = ash_data_writev(batch->volume, iov, used, claim->start);
			supply = (struct supply){ supply.claim + 1, 0 };
			used = 0;
		}
	}
	return rc;
}

/* Map the file's pages to the next blocks of the claims. */
static int batch_map(struct batch *batch, struct batch_file *file, struct supply *supply)
{
	struct ash_write_buffer *buffer = file->buffer;
	struct ash_tree tree;
	uint32_t index = 0;

	ash_record_tree(batch->volume, &file->record, false, &tree);
	while (index < buffer->count) {
		const struct ash_extent *claim = &batch->claims[supply->claim];
		uint32_t count = run_length(buffer, index, claim->count - supply->used);
		const struct ash_mapping mapping = { .file_block = buffer->pages[index].block,
						     .count = count,
						     .start = claim->start + supply->used };
		int rc = ash_map_insert(batch->txn, &tree, &mapping);

		if (rc)
			return rc;
		index += count;
		supply->used += count;
		if (supply->used == claim->count)
			*supply = (struct supply){ supply->claim + 1, 0 };
	}
	return 0;
}

static int batch_log_file(struct batch *batch, struct batch_file *file, struct supply *supply)
{
	struct ash_volume *volume = batch->volume;
	struct ash_edit edit = { .volume = volume, .icore = file->icore, .txn = batch->txn, .record = file->record };
	struct ash_inode header;
	int rc = 0;

	if (file->embedded) {
		ash_edit_set_inline(&edit, ash_wb_page_bytes(volume, file->buffer->pages[0].page),
				    file->icore->buffered_size);
	} else {
		if (file->record.inode->data_kind == ASH_FORK_INLINE)
			ash_edit_set_inline(&edit, NULL, 0);
		rc = batch_map(batch, file, supply);
		edit.added = file->buffer->count;
	}
	if (rc)
		return rc;
	ash_edit_header(&edit, &header);
	if (file->icore->buffered_size > ash_get64(header.size))
		header.size = ash_put64(file->icore->buffered_size);
	stamp(&header, file->buffer);
	ash_edit_set_header(&edit, &header);
	ash_icore_touch(batch->txn, file->icore, true);
	return 0;
}

static int batch_log(struct batch *batch)
{
	struct supply supply = { 0 };
	int rc = 0;

	for (unsigned i = 0; i < batch->claim_count && !rc; i++)
		rc = ash_alloc_log(batch->txn, batch->claims[i]);
	for (unsigned i = 0; i < batch->count && !rc; i++)
		if (batch->files[i].joined)
			rc = batch_log_file(batch, &batch->files[i], &supply);
	return rc;
}

/* The claims became blocks: they no longer count as reserved. */
static void batch_release_pages(struct batch *batch, struct batch_file *file)
{
	struct ash_volume *volume = batch->volume;
	struct ash_write_buffer *buffer = file->buffer;

	if (!file->embedded) {
		buffer->reserved -= buffer->count;
		atomic_fetch_sub(&volume->wb->reserved, buffer->count);
	}
	ash_wb_remove_pages(volume, buffer, 0, buffer->count);
	ash_wb_detach(volume, file->icore);
	ash_wb_blocks_changed(volume, file->icore->ino);
}

static void batch_unlock(struct batch *batch)
{
	for (unsigned i = 0; i < batch->count; i++) {
		struct batch_file *file = &batch->files[i];

		if (!file->joined)
			continue;
		ash_record_put(batch->volume, &file->record);
		ash_icore_unlock(file->icore);
		file->joined = false;
	}
}

/* All that joined, or none. */
static void batch_run(struct batch *batch)
{
	struct ash_volume *volume = batch->volume;

	if (ash_txn_begin(volume, ASH_EDIT_LOG_BYTES, &batch->txn))
		return;
	for (unsigned i = 0; i < batch->count; i++)
		batch_join(batch, &batch->files[i]);
	int rc = batch_claim(batch);
	if (!rc)
		rc = batch_write(batch);
	if (!rc)
		rc = batch_log(batch);
	if (rc) {
		ash_txn_abort(batch->txn);
		while (batch->claim_count)
			ash_unclaim(volume, batch->claims[--batch->claim_count], ASH_CLAIM_RESERVED);
	} else {
		ash_txn_commit(batch->txn);
		for (unsigned i = 0; i < batch->count; i++)
			if (batch->files[i].joined)
				batch_release_pages(batch, &batch->files[i]);
	}
	batch_unlock(batch);
}

/* Those that did not join are flushed alone. True: the buffer is gone. */
static bool batch_settle(struct batch *batch, struct batch_file *file, int *error)
{
	struct ash_write_behind *wb = batch->volume->wb;

	pthread_mutex_lock(&wb->lock);
	bool detached = file->buffer->detached;
	pthread_mutex_unlock(&wb->lock);
	if (!detached) {
		int rc = ash_wb_flush_inode(batch->volume, file->icore);

		if (rc && !*error)
			*error = rc;
	}
	pthread_mutex_lock(&wb->lock);
	detached = file->buffer->detached;
	if (!detached) {
		file->buffer->taken = false;
		ash_wb_append(wb, file->buffer);
	}
	pthread_mutex_unlock(&wb->lock);
	if (detached) {
		ash_wb_free(file->buffer);
		ash_icore_put(batch->volume, file->icore);
	}
	return detached;
}

/* flush_lock held. Flush some of the oldest; returns how many buffers went away. */
static unsigned flush_some(struct ash_volume *volume, uint64_t sequence, int *error, unsigned *tried)
{
	struct batch *batch = malloc(sizeof(*batch));
	unsigned gone = 0;

	if (!batch) {
		*error = *error ? *error : -ENOMEM;
		return 0;
	}
	batch->volume = volume;
	batch->count = batch->pages = batch->claim_count = 0;
	batch_collect(batch, sequence);
	*tried += batch->count;
	if (batch->count > 1)
		batch_run(batch);
	for (unsigned i = 0; i < batch->count; i++)
		gone += batch_settle(batch, &batch->files[i], error);
	free(batch);
	return gone;
}

/* ---- All, by amount, by age ---- */

int ash_wb_flush_all(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;
	int error = 0;

	ash_lock_long(volume, &wb->flush_lock);
	pthread_mutex_lock(&wb->lock);
	uint64_t sequence = wb->sequence;
	unsigned count = 0, tried = 0;
	for (const struct ash_write_buffer *buffer = wb->head; buffer; buffer = buffer->next)
		count++;
	pthread_mutex_unlock(&wb->lock);
	/*
	 * Those that stay go to the end of the list: so all are tried, also behind a batch that cannot be written now.
	 */
	unsigned before;
	do
		before = tried;
	while (flush_some(volume, sequence, &error, &tried) || (tried != before && tried < count));
	pthread_mutex_unlock(&wb->flush_lock);
	return error;
}

static uint32_t pages_in_use(struct ash_write_behind *wb)
{
	pthread_mutex_lock(&wb->lock);
	uint32_t used = wb->page_count - wb->free_count;
	pthread_mutex_unlock(&wb->lock);
	return used;
}

int ash_wb_flush_down(struct ash_volume *volume, uint32_t pages)
{
	struct ash_write_behind *wb = volume->wb;
	int error = 0;

	ash_lock_long(volume, &wb->flush_lock);
	/* What others buffer meanwhile is theirs: as fast as it is written out they could go on for ever. */
	pthread_mutex_lock(&wb->lock);
	uint64_t sequence = wb->sequence;
	pthread_mutex_unlock(&wb->lock);
	while (pages_in_use(wb) > pages && flush_some(volume, sequence, &error, &(unsigned){ 0 }))
		;
	pthread_mutex_unlock(&wb->flush_lock);
	return error;
}

/* The youngest buffer that is old enough: 0 if none is. */
static uint64_t sequence_before(struct ash_write_behind *wb, uint64_t limit_ns)
{
	uint64_t sequence = 0;

	pthread_mutex_lock(&wb->lock);
	for (const struct ash_write_buffer *buffer = wb->head; buffer; buffer = buffer->next)
		if (buffer->since_ns <= limit_ns && buffer->sequence > sequence)
			sequence = buffer->sequence;
	pthread_mutex_unlock(&wb->lock);
	return sequence;
}

/* The worker comes by several times in a commit interval: half of it leaves time for that and for the log. */
bool ash_wb_tick(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;
	uint64_t interval = (volume->options.commit_seconds ? volume->options.commit_seconds : 5) * 1000000000ull;
	uint64_t now = ash_monotonic_ns();
	int error = 0;

	if (atomic_load(&volume->read_only))
		return false;
	if (pages_in_use(wb) > wb->page_count / 2)
		ash_wb_flush_down(volume, wb->page_count / 4);
	uint64_t sequence = sequence_before(wb, now > interval / 2 ? now - interval / 2 : 0);
	if (sequence) {
		ash_lock_long(volume, &wb->flush_lock);
		while (flush_some(volume, sequence, &error, &(unsigned){ 0 }))
			;
		pthread_mutex_unlock(&wb->flush_lock);
	}
	ash_wb_drop_kept(volume, now > interval ? now - interval : 0);
	ash_wb_tell_changed(volume);
	return sequence != 0;
}
