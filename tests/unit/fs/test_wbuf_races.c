/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sync while another thread takes buffered data out of the buffer (I5). Two functions of the core are wrapped (meson.build):
 * the commit, before which that thread stays until the sync has ended or wants the lock of the file, and that lock. So
 * nothing here depends on time.
 */
#include "file_fixture.h"
#include "fs/inode.h"
#include "fs/txn.h"

#include <pthread.h>
#include <unistd.h>

#define BYTES 10000u

struct meeting {
	struct fixture f;
	uint64_t ino;
	pthread_t syncer;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool met; /* the sync has ended or waits for the holder */
	bool waits;
	int result;
};

/* Of the two threads; NULL in all others. */
static _Thread_local struct meeting *holds, *syncs;

static void tell_met(struct meeting *meeting, bool waits)
{
	pthread_mutex_lock(&meeting->lock);
	meeting->met = true;
	meeting->waits |= waits;
	pthread_cond_broadcast(&meeting->changed);
	pthread_mutex_unlock(&meeting->lock);
}

static void *sync_main(void *argument)
{
	struct meeting *meeting = argument;

	syncs = meeting;
	meeting->result = ash_sync(meeting->f.volume);
	tell_met(meeting, false);
	return NULL;
}

uint64_t __real_ash_txn_commit(struct ash_txn *txn);
uint64_t __wrap_ash_txn_commit(struct ash_txn *txn);
void __real_ash_icore_lock(struct ash_volume *volume, struct ash_icore *icore, bool exclusive);
void __wrap_ash_icore_lock(struct ash_volume *volume, struct ash_icore *icore, bool exclusive);

uint64_t __wrap_ash_txn_commit(struct ash_txn *txn)
{
	struct meeting *meeting = holds;

	if (meeting) {
		holds = NULL; /* once */
		cr_assert_eq(pthread_create(&meeting->syncer, NULL, sync_main, meeting), 0);
		pthread_mutex_lock(&meeting->lock);
		while (!meeting->met)
			pthread_cond_wait(&meeting->changed, &meeting->lock);
		pthread_mutex_unlock(&meeting->lock);
	}
	return __real_ash_txn_commit(txn);
}

void __wrap_ash_icore_lock(struct ash_volume *volume, struct ash_icore *icore, bool exclusive)
{
	if (syncs && icore->ino == syncs->ino)
		tell_met(syncs, true);
	__real_ash_icore_lock(volume, icore, exclusive);
}

/* ---- What takes pages out of the buffer ---- */

static int write_back(struct meeting *meeting)
{
	return ash_write_back(meeting->f.volume, meeting->ino);
}

static int seek(struct meeting *meeting)
{
	return ash_seek(meeting->f.volume, meeting->ino, 0, SEEK_HOLE) == BYTES ? 0 : -EIO;
}

static int write_through(struct meeting *meeting)
{
	return ash_write(meeting->f.volume, meeting->ino, "n", 1, 0, ASH_WRITE_THROUGH) == 1 ? 0 : -EIO;
}

static int truncate_to_zero(struct meeting *meeting)
{
	return set_size(&meeting->f, meeting->ino, 0);
}

static const struct taking {
	const char *name;
	int (*run)(struct meeting *meeting);
	int64_t size; /* of the file then */
} takings[] = {
	{ "write back", write_back, BYTES },
	{ "seek", seek, BYTES },
	{ "write through", write_through, BYTES },
	{ "truncate to zero", truncate_to_zero, 0 },
};
#define TAKINGS (sizeof(takings) / sizeof(takings[0]))

static void meeting_open(struct meeting *meeting, const uint8_t *bytes)
{
	*meeting = (struct meeting){ .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
	fixture_open(&meeting->f, "mem:64M", &(struct ash_open_options){ .no_threads = true, .atime = ASH_ATIME_NONE });
	meeting->ino = make_file(&meeting->f, "f");
	cr_assert_eq(ash_write(meeting->f.volume, meeting->ino, "old", 3, 0, 0), 3);
	cr_assert_eq(ash_sync(meeting->f.volume), 0);
	cr_assert_eq(ash_write(meeting->f.volume, meeting->ino, bytes, BYTES, 0, 0), BYTES);
}

static void sync_meets(const struct taking *taking)
{
	struct meeting meeting;
	uint8_t bytes[BYTES], got[BYTES];

	memset(bytes, 'n', BYTES);
	meeting_open(&meeting, bytes);
	holds = &meeting;
	cr_expect_eq(taking->run(&meeting), 0, "%s", taking->name);
	cr_assert_null(holds, "%s commits", taking->name);
	pthread_join(meeting.syncer, NULL);
	cr_expect_eq(meeting.result, 0, "%s", taking->name);
	cr_expect(meeting.waits, "%s: the sync ended without waiting for the record", taking->name);
	fixture_crash(&meeting.f);
	int64_t size = ash_read(meeting.f.volume, find_file(&meeting.f, "f"), got, BYTES, 0);
	cr_expect_eq(size, taking->size, "%s: after the sync and a crash the file has %lld bytes", taking->name,
		     (long long)size);
	cr_assert_geq(size, 0);
	cr_expect(!memcmp(got, bytes, (size_t)size), "%s: after the sync and a crash the file has old content",
		  taking->name);
	fixture_close(&meeting.f);
}

Test(wbuf_races, a_sync_waits_for_the_record_of_what_left_the_buffer, .timeout = 60)
{
	for (unsigned i = 0; i < TAKINGS; i++)
		sync_meets(&takings[i]);
}
