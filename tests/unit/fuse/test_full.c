/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files whose data found no room: which write(2) is to fail, and for how long. */
#include "front_stubs.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#define MIB UINT64_C(1048576)
#define SECOND UINT64_C(1000000000)

/* ---- The clock, the volume, and who asks ---- */

static uint64_t now, available;
static uint64_t blocks = 1u << 20; /* 4 GiB */
static bool read_only, writing;
static unsigned told, looks;
static uint64_t told_last;

uint64_t front_now_ns(void)
{
	return now;
}

int ash_statfs(struct ash_volume *volume, struct ash_statfs *out)
{
	(void)volume;
	*out = (struct ash_statfs){ .block_size = 4096, .blocks = blocks, .available_blocks = available / 4096 };
	return 0;
}

int ash_volume_info(struct ash_volume *volume, struct ash_volume_info *out)
{
	(void)volume;
	*out = (struct ash_volume_info){ .read_only = read_only };
	return 0;
}

void notify_attributes_soon(struct front *front, uint64_t ino)
{
	(void)front;
	told++;
	told_last = ino;
}

bool caller_writes(const struct request *request)
{
	(void)request;
	looks++;
	return writing;
}

void crew_kick(struct worker *worker)
{
	(void)worker;
}

void crew_wait_begin(void *context)
{
	(void)context;
}

void crew_wait_end(void *context)
{
	(void)context;
}

/* ---- Tests ---- */

static struct front front;

static void setup(void)
{
	memset(&front, 0, sizeof(front));
	pthread_mutex_init(&front.full.lock, NULL);
	now = SECOND;
	available = 0;
	writing = true;
}

static int ask_with(uint64_t ino, uint32_t flags)
{
	struct fuse_getattr_in in = { .getattr_flags = flags };
	struct request request = { .front = &front, .nodeid = ino, .argument = &in, .argument_length = sizeof(in) };

	return full_write_error(&request);
}

static int ask(uint64_t ino)
{
	return ask_with(ino, FUSE_GETATTR_FH);
}

Test(full, the_next_write_fails_while_there_is_no_room)
{
	setup();
	full_written(&front, 7, 4096);
	cr_assert(full_empty(&front));
	cr_assert_eq(full_validity(&front, 7), FRONT_TIMEOUT_SECONDS);
	full_written(&front, 7, -ENOSPC);
	cr_assert_not(full_empty(&front));
	cr_assert_eq(told, 1);
	cr_assert_eq(told_last, 7);
	now += 3600 * SECOND;
	cr_assert_eq(ask(7), -ENOSPC);
	cr_assert_eq(ask(7), -ENOSPC);
	cr_assert_eq(full_validity(&front, 7), 0);
	cr_assert_eq(ask(8), 0, "another file");
	cr_assert_eq(full_validity(&front, 8), FRONT_TIMEOUT_SECONDS);
}

Test(full, who_does_not_write_is_answered)
{
	setup();
	full_written(&front, 7, -ENOSPC);
	cr_assert_eq(ask_with(7, 0), 0, "stat(2)");
	cr_assert_eq(ask(8), 0);
	cr_assert_eq(looks, 0, "nobody is looked at without need");
	writing = false;
	cr_assert_eq(ask(7), 0, "read(2)");
	cr_assert_eq(looks, 1);
	cr_assert_eq(full_validity(&front, 7), 0, "the next one asks again");
}

Test(full, other_errors_are_left_to_fsync)
{
	setup();
	full_written(&front, 7, -EIO);
	full_written(&front, 7, -EPERM);
	cr_assert(full_empty(&front));
	cr_assert_eq(told, 0);
}

Test(full, room_ends_it)
{
	setup();
	full_written(&front, 7, -ENOSPC);
	available = MIB - 4096;
	cr_assert_eq(ask(7), -ENOSPC);
	available = MIB;
	cr_assert_eq(ask(7), 0);
	cr_assert(full_empty(&front));
	cr_assert_eq(full_validity(&front, 7), FRONT_TIMEOUT_SECONDS);
}

Test(full, room_is_less_on_a_small_volume)
{
	setup();
	blocks = 1024;
	full_written(&front, 7, -ENOSPC);
	available = 15 * 4096;
	cr_assert_eq(ask(7), -ENOSPC);
	available = 16 * 4096;
	cr_assert_eq(ask(7), 0);
}

Test(full, room_that_did_not_help_is_not_trusted_at_once)
{
	setup();
	available = 5 * MIB;
	full_written(&front, 7, -ENOSPC);
	cr_assert_eq(ask(7), -ENOSPC);
	available = 6 * MIB;
	cr_assert_eq(ask(7), 0, "there is more now");
	full_written(&front, 7, -ENOSPC);
	now += SECOND - 1;
	cr_assert_eq(ask(7), -ENOSPC);
	now += 1;
	cr_assert_eq(ask(7), 0);
}

Test(full, a_read_only_volume)
{
	setup();
	read_only = true;
	full_written(&front, 7, -EROFS);
	available = 100 * MIB;
	now += 3600 * SECOND;
	cr_assert_eq(ask(7), -EROFS);
	read_only = false;
	cr_assert_eq(ask(7), 0);
	cr_assert(full_empty(&front));
}

Test(full, what_is_written_or_let_go_is_forgotten)
{
	setup();
	full_written(&front, 7, -ENOSPC);
	full_written(&front, 8, -ENOSPC);
	full_written(&front, 9, -ENOSPC);
	full_written(&front, 8, 4096);
	cr_assert_eq(ask(8), 0);
	cr_assert_eq(ask(7), -ENOSPC);
	cr_assert_eq(ask(9), -ENOSPC);
	full_forget(&front, 9);
	full_forget(&front, 9);
	cr_assert_eq(ask(9), 0);
	full_forget(&front, 7);
	cr_assert(full_empty(&front));
}

Test(full, the_first_goes_when_there_are_too_many)
{
	setup();
	for (uint64_t ino = 1; ino <= FULL_FILES; ino++)
		full_written(&front, ino, -ENOSPC);
	full_written(&front, 1, -ENOSPC);
	cr_assert_eq(front.full.count, FULL_FILES);
	full_written(&front, 1000, -ENOSPC);
	cr_assert_eq(front.full.count, FULL_FILES);
	cr_assert_eq(ask(1), 0);
	for (uint64_t ino = 2; ino <= FULL_FILES; ino++)
		cr_assert_eq(ask(ino), -ENOSPC);
	cr_assert_eq(ask(1000), -ENOSPC);
}
