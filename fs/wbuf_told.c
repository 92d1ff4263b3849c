// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What others are told of writing buffered data out.
 *
 * Lost data: each fsync of the inode is told by the inode itself (icore->write_error); a sync by what is counted here, once for
 * all that nobody has told of. Block counts: delayed allocation changes what stat(2) shows with no reply that could say so, and
 * the worker tells of such inodes from time to time.
 *
 * Locks: that of the write-behind buffer, a leaf; whoever is told is called without it.
 */
#include <stdlib.h>
#include "file_edit.h"

#define CHANGED_START 64u

/* ---- Lost data ---- */

void ash_wb_note_loss(struct ash_volume *volume, struct ash_icore *icore, int error)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	if (!icore->write_error || icore->error_round != wb->loss_round)
		wb->losses++;
	wb->lost++;
	wb->loss_error = error;
	icore->error_round = wb->loss_round;
	pthread_mutex_unlock(&wb->lock);
	icore->write_error = error;
}

void ash_wb_loss_told(struct ash_volume *volume, const struct ash_icore *icore)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	if (icore->error_round == wb->loss_round && wb->losses)
		wb->losses--;
	pthread_mutex_unlock(&wb->lock);
}

uint64_t ash_wb_losses_told(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	uint64_t told = wb->losses ? wb->lost - 1 : wb->lost;
	pthread_mutex_unlock(&wb->lock);
	return told;
}

int ash_wb_take_loss(struct ash_volume *volume, uint64_t since)
{
	struct ash_write_behind *wb = volume->wb;
	int error = 0;

	pthread_mutex_lock(&wb->lock);
	if (wb->losses || wb->lost != since)
		error = wb->loss_error;
	if (wb->losses) {
		wb->losses = 0;
		wb->loss_round++;
	}
	pthread_mutex_unlock(&wb->lock);
	return error;
}

/* ---- Block counts ---- */

static bool changed_room(struct ash_write_behind *wb)
{
	unsigned capacity = wb->changed_capacity ? wb->changed_capacity * 2 : CHANGED_START;

	if (wb->changed_count < wb->changed_capacity)
		return true;
	uint64_t *changed = realloc(wb->changed, capacity * sizeof(*changed));
	if (!changed)
		return false;
	wb->changed = changed;
	wb->changed_capacity = capacity;
	return true;
}

/* Without memory the kernel goes on believing in an old st_blocks: no reason to fail a flush. */
void ash_wb_blocks_changed(struct ash_volume *volume, uint64_t ino)
{
	struct ash_write_behind *wb = volume->wb;

	if (!volume->options.attributes_changed || volume->options.no_threads)
		return; /* nobody to tell, or to tell it */
	pthread_mutex_lock(&wb->lock);
	bool known = wb->changed_count && wb->changed[wb->changed_count - 1] == ino;
	if (!known && changed_room(wb))
		wb->changed[wb->changed_count++] = ino;
	pthread_mutex_unlock(&wb->lock);
}

static int by_number(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

void ash_wb_tell_changed(struct ash_volume *volume)
{
	struct ash_write_behind *wb = volume->wb;

	pthread_mutex_lock(&wb->lock);
	uint64_t *changed = wb->changed;
	unsigned count = wb->changed_count;
	wb->changed = NULL;
	wb->changed_count = wb->changed_capacity = 0;
	pthread_mutex_unlock(&wb->lock);
	/* Files that are written in turn come up again and again. */
	if (count > 1)
		qsort(changed, count, sizeof(*changed), by_number);
	for (unsigned i = 0; i < count; i++)
		if (!i || changed[i] != changed[i - 1])
			volume->options.attributes_changed(volume->options.context, changed[i]);
	free(changed);
}
