/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a check leaves behind: a volume that is skipped the next time must be one that can be mounted, and in which
 * nothing is known to be wrong.
 */
#include "sick_fixture.h"

/* Without `force`. */
static struct ash_check_result check_again(struct sick *sick, enum ash_check_mode mode)
{
	struct ash_check_options options = { .mode = mode, .no_threads = true, .report = note_code, .context = sick };
	struct ash_check_result result;

	sick->codes[0] = 0;
	cr_assert_eq(ash_check(sick->engine.dev, &options, &result), 0, "%s", result.error);
	return result;
}

/* A problem that is more than preen repairs, and that no mount looks at. */
static void bitmap_spoil(struct sick *sick)
{
	image_spoil(&sick->engine, ash_group_bitmap(0), 100);
}

/* ---- What is left is not forgotten ---- */

Test(check, preen_remembers_where_it_stopped)
{
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	bitmap_spoil(&sick);
	engine_mount(&sick.engine);
	ash_abandon(sick.engine.volume); /* the log is not closed: preen replays it, and closes it */
	sick.engine.volume = NULL;
	for (unsigned i = 0; i < 3; i++) {
		result = check_again(&sick, ASH_CHECK_PREEN);
		cr_expect(result.stopped, "run %u: %s", i, sick.codes);
		cr_expect(!result.skipped, "run %u", i);
		cr_expect_gt(result.left, 0, "run %u", i);
	}
	cr_expect_eq(check_again(&sick, ASH_CHECK_YES).left, 0);
	cr_expect(check_again(&sick, ASH_CHECK_PREEN).skipped);
	engine_close(&sick.engine);
}

/* Nothing was written, for nobody wanted it: the next run asks again, also without force. */
Test(check, what_was_declined_is_remembered)
{
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	bitmap_spoil(&sick);
	cr_expect_gt(check(&sick, ASH_CHECK_ASK).left, 0);
	result = check_again(&sick, ASH_CHECK_ASK);
	cr_expect(!result.skipped);
	cr_expect_gt(result.left, 0, "%s", sick.codes);
	engine_close(&sick.engine);
}

Test(check, looking_sets_no_mark)
{
	struct ash_check_result result;
	struct sick sick;

	sick_open(&sick, true);
	bitmap_spoil(&sick);
	result = check(&sick, ASH_CHECK_NO);
	cr_expect_gt(result.left, 0);
	cr_expect(!result.changed);
	engine_close(&sick.engine);
}
