/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stage of workloads: the volume as it is before the recording, and the recording.
 *
 * Concept: setting the stage (mkfs, mount, the workload's setup, unmount) costs as much as many verdicts, so workloads
 * with the same setup share it. It is never changed: each recording works on a second arena, which goes back to the
 * stage by copying what differs.
 */
#ifndef TESTS_CRASH_STAGE_H
#define TESTS_CRASH_STAGE_H

#include "script.h"

#define STAGE_TEXT 1200

#define MARK_FORMATTED UINT64_MAX /* in the recording of a workload with record_mkfs */

struct stage {
	struct arena arena, scratch;
	struct model model;
	int64_t clock;
	uint32_t next_pattern;
};

/* The state that the workload's setup makes. False: `text` says what went wrong. stage_free() it in any case. */
bool stage_set(struct stage *stage, const struct workload *workload, char text[STAGE_TEXT]);
void stage_free(struct stage *stage);
/* Run the workload, recorded from mount to unmount. `script` is filled; stage_strike() it in any case. */
bool stage_record(struct stage *stage, const struct workload *workload, struct script *script, char text[STAGE_TEXT]);
void stage_strike(struct script *script);
/*
 * Would all operations of the workload succeed? The model alone is asked. A workload that looks at the volume's answers
 * cannot be asked about.
 */
bool stage_accepts(const struct stage *stage, const struct workload *workload);

#endif
