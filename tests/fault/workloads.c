/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The workloads of the fault campaigns: those of the crash explorer, the recovery of what some of them leave in the log, and a few
 * that the explorer has no use for: reading all there is, a small buffer that is flushed under pressure, calls on the volume.
 */
#include "subject.h"

#include <errno.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MORE_MAX 256

/* ---- Reading ---- */

static void long_path(char path[200], int number)
{
	int used = snprintf(path, 200, "/d/entry%d-", number);

	memset(path + used, 'a' + number % 26, 80);
	path[used + 80] = 0;
}

/* A directory with a tree, a file of many extents, attributes in blocks of their own, a long link. */
static void setup_reading(struct script *s)
{
	char path[200];

	do_mkdir(s, "/d");
	for (int i = 0; i < 90; i++) {
		long_path(path, i);
		do_create(s, path);
	}
	do_create(s, "/frag");
	for (unsigned i = 0; i < 150; i++)
		do_write(s, "/frag", i * 8192ull, 4096, ASH_WRITE_THROUGH);
	do_create(s, "/plain");
	do_write(s, "/plain", 100, 50000, 0);
	do_setxattr(s, "/plain", "user.large", 9000);
	do_setxattr(s, "/plain", "user.medium", 700);
	do_setxattr(s, "/plain", "user.small", 20);
	do_symlink(s, "/link", 3000);
	do_sync(s);
}

static void on_inode(struct script *s, enum op_kind kind, const char *path, const char *name, uint64_t offset,
		     uint64_t length, int flags)
{
	struct op op = { .kind = kind, .ino = script_ino(s, path), .offset = offset, .length = length, .flags = flags };

	snprintf(op.name, sizeof(op.name), "%s", name);
	script_do(s, &op);
}

static void run_reading(struct script *s)
{
	char path[200];

	on_inode(s, OP_READDIR, "/", "", 0, 0, 0);
	on_inode(s, OP_READDIR, "/d", "", 0, 7, 0);
	for (int i = 0; i < 90; i += 9) {
		struct op op = { .kind = OP_LOOKUP, .ino = script_ino(s, "/d") };

		long_path(path, i);
		snprintf(op.name, sizeof(op.name), "%s", path + 3);
		script_do(s, &op);
		if (op.result == 0 && op.result_ino)
			do_forget(s, op.result_ino);
		on_inode(s, OP_GETATTR, path, "", 0, 0, 0);
	}
	on_inode(s, OP_READ, "/frag", "", 0, 1 << 20, 0);
	on_inode(s, OP_READ, "/frag", "", 777777, 5000, 0);
	on_inode(s, OP_SEEK, "/frag", "", 4096, 0, SEEK_DATA);
	on_inode(s, OP_SEEK, "/frag", "", 8192, 0, SEEK_HOLE);
	on_inode(s, OP_READ, "/plain", "", 0, 60000, 0);
	on_inode(s, OP_READ, "/plain", "", 4097, 11, 0);
	on_inode(s, OP_GETXATTR, "/plain", "user.large", 0, 65536, 0);
	on_inode(s, OP_GETXATTR, "/plain", "user.medium", 0, 65536, 0);
	on_inode(s, OP_LISTXATTR, "/plain", "", 0, 65536, 0);
	on_inode(s, OP_READLINK, "/link", "", 0, 4096, 0);
	do_write(s, "/plain", 4000, 200, 0);
	do_write(s, "/frag", 8000, 300, 0);
	do_write(s, "/frag", 700001, 3, ASH_WRITE_THROUGH);
	on_inode(s, OP_READ, "/plain", "", 0, 60000, 0);
	do_fsync(s, "/plain");
	on_inode(s, OP_READ, "/frag", "", 0, 100000, 0);
}

/* ---- A small buffer ---- */

static void run_pressure(struct script *s)
{
	char path[40];

	do_mkdir(s, "/p");
	for (int i = 0; i < 24; i++) {
		snprintf(path, sizeof(path), "/p/f%d", i);
		do_create(s, path);
		do_write(s, path, 0, (size_t)(i * 7919 % 60000) + 100, 0);
		if (i % 5 == 4)
			do_write(s, "/p/f0", (uint64_t)i * 9000, 5000, 0);
	}
	do_fsync(s, "/p/f0");
	do_fsync(s, "/p/f7");
	for (int i = 0; i < 12; i++) {
		snprintf(path, sizeof(path), "/p/f%d", i * 2);
		do_write(s, path, 2000, 30000, 0);
		if (i % 4 == 3)
			do_unlink(s, path);
	}
	do_sync(s);
}

/* Writes that go past the buffer, then the same places again. */
static void run_large(struct script *s)
{
	do_create(s, "/large");
	do_write(s, "/large", 0, 600 << 10, 0);
	do_write(s, "/large", 300 << 10, 600 << 10, 0);
	do_fsync(s, "/large");
	do_write(s, "/large", 4096, 560 << 10, 0);
	do_write(s, "/large", 900 << 10, 1000, ASH_WRITE_SYNC);
	do_truncate(s, "/large", 500000);
	do_fallocate(s, "/large", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100000, 200000);
	do_fsync(s, "/large");
	do_write(s, "/large", 150000, 530 << 10, 0);
	do_sync(s);
}

/* ---- The volume ---- */

static int64_t call_label(struct subject *x)
{
	return ash_set_label(x->script.runner.volume, "a label");
}

static int64_t call_uuid(struct subject *x)
{
	return ash_set_uuid(x->script.runner.volume, (const uint8_t[16]){ 9, 8, 7, 6 });
}

static int64_t call_trim(struct subject *x)
{
	uint64_t trimmed;

	return ash_trim(x->script.runner.volume, 0, UINT64_MAX, 4096, &trimmed);
}

static int64_t call_grow(struct subject *x)
{
	return ash_grow(x->script.runner.volume, 0);
}

static int64_t call_statfs(struct subject *x)
{
	struct ash_statfs out;

	return ash_statfs(x->script.runner.volume, &out);
}

static uint64_t first_file(struct subject *x)
{
	const struct model_node *node = model_path(&x->script.model, "/v/f");

	return node ? node->ino : 1;
}

static int64_t call_parent(struct subject *x)
{
	uint64_t parent;

	return ash_parent(x->script.runner.volume, 1, &parent);
}

static int64_t call_bmap(struct subject *x)
{
	uint64_t block;

	return ash_bmap(x->script.runner.volume, first_file(x), 0, &block);
}

static int no_entry(void *context, const char *name, size_t length, uint64_t ino, unsigned type, uint64_t next,
		    const struct ash_attr *attr)
{
	struct subject *x = context;

	(void)length;
	(void)type;
	(void)next;
	if (attr && strcmp(name, ".") && strcmp(name, ".."))
		x->counted[x->counted_count++ % 64] = ino;
	return 0;
}

/* With attributes: takes references, which are given back. */
static int64_t call_readdir_plus(struct subject *x)
{
	int result;

	x->counted_count = 0;
	result = ash_readdir(x->script.runner.volume, 1, 0, true, no_entry, x);
	for (unsigned i = 0; i < x->counted_count && i < 64; i++)
		ash_forget(x->script.runner.volume, x->counted[i], 1);
	return result;
}

static void queue_done(void *user, int64_t result)
{
	*(int64_t *)user = result;
}

/* A queue, a read and a write in place through it: the byte counts, or the first error. */
static int64_t call_queue(struct subject *x)
{
	struct ash_volume *volume = x->script.runner.volume;
	uint64_t ino = first_file(x);
	struct ash_queue *queue;
	static uint8_t block[4096] __attribute__((aligned(4096)));
	int64_t got = 4096;
	int error = ash_queue_open(volume, 4, &queue);

	if (error)
		return error;
	if (ash_submit_read(queue, ino, block, 4096, 4096, queue_done, &got) == 1) {
		while (ash_queue_in_flight(queue))
			ash_queue_reap(queue, true);
	}
	if (got == 4096 && ash_submit_write(queue, ino, block, 4096, 4096, ASH_WRITE_THROUGH | ASH_WRITE_NO_TIMES,
					    queue_done, &got) == 1) {
		while (ash_queue_in_flight(queue))
			ash_queue_reap(queue, true);
	}
	ash_queue_close(queue);
	return got == 4096 ? 0 : got;
}

static void setup_volume(struct script *s)
{
	do_mkdir(s, "/v");
	do_create(s, "/v/f");
	do_write(s, "/v/f", 0, 40000, 0);
	do_create(s, "/v/g");
	do_write(s, "/v/g", 0, 200000, 0);
	do_unlink(s, "/v/g");
	do_sync(s);
}

static void more_volume(struct subject *x)
{
	subject_call(x, "label", call_label, 0);
	subject_call(x, "uuid", call_uuid, 0);
	subject_call(x, "statfs", call_statfs, 0);
	subject_call(x, "bmap", call_bmap, 0);
	subject_call(x, "parent", call_parent, 0);
	subject_call(x, "readdir with attributes", call_readdir_plus, 0);
	subject_call(x, "queue", call_queue, 0);
	subject_call(x, "trim", call_trim, 0);
	do_create(&x->script, "/v/last");
	do_sync(&x->script);
}

static void more_grow(struct subject *x)
{
	subject_call(x, "grow", call_grow, 0);
	do_create(&x->script, "/after");
	do_write(&x->script, "/after", 0, 1 << 20, 0);
	do_sync(&x->script);
	subject_call(x, "trim", call_trim, 0);
}

static void run_little(struct script *s)
{
	do_create(s, "/little");
	do_write(s, "/little", 0, 9000, 0);
	do_sync(s);
	do_truncate(s, "/little", 100);
}

static const struct fault_workload own[] = {
	{ .base = { .name = "read everything", .setup = setup_reading, .run = run_reading } },
	{ .base = { .name = "small buffer under pressure", .run = run_pressure }, .write_behind = 256 << 10 },
	{ .base = { .name = "small buffer under pressure, FUA", .run = run_pressure, .fua = true },
	  .write_behind = 256 << 10 },
	{ .base = { .name = "large writes", .run = run_large } },
	{ .base = { .name = "large writes, write-through", .run = run_large, .write_through = true, .fua = true } },
	{ .base = { .name = "calls on the volume", .setup = setup_volume, .run = run_little }, .more = more_volume },
	{ .base = { .name = "grow and trim", .run = run_little }, .more = more_grow, .small_blocks = 1100 },
	{ .base = { .name = "mkfs" }, .special = SPECIAL_MKFS },
	{ .base = { .name = "fsck of a good volume", .setup = setup_reading }, .special = SPECIAL_CHECK },
	{ .base = { .name = "fsck of a damaged volume", .setup = setup_reading },
	  .special = SPECIAL_CHECK,
	  .damaged = true },
	{ .base = { .name = "repair", .setup = setup_reading }, .special = SPECIAL_REPAIR, .damaged = true },
};

/* Whose log is worth a recovery under faults. */
static const char *const recovered[] = {
	"create",
	"rename over",
	"many small files",
	"log wrap-around",
	"orphans kept open",
	"truncation chain",
	"reuse: metadata to data",
	"reuse on a full volume",
	"attributes small and large",
	"checkpoints",
	"random 1",
};

static void recover_only(struct script *s)
{
	struct op op = { .kind = OP_READDIR, .ino = 1 };

	script_do(s, &op);
	do_create(s, "/recovered");
	do_write(s, "/recovered", 0, 5000, 0);
	do_fsync(s, "/recovered");
}

static void add_recovery(struct fault_workload *out, const struct workload *before)
{
	char *name = test_alloc(100);

	snprintf(name, 100, "recovery after: %s", before->name);
	*out = (struct fault_workload){ .base = *before, .before = before };
	out->base.name = name;
	out->base.run = recover_only;
}

const struct fault_workload *fault_workloads(size_t *count)
{
	static struct fault_workload all[MORE_MAX];
	static size_t made;

	for (size_t i = 0; !made && i < scripted_workload_count && *count < MORE_MAX / 2; i++) {
		if (!scripted_workloads[i].record_mkfs)
			all[(*count)++] = (struct fault_workload){ .base = scripted_workloads[i] };
	}
	for (size_t i = 0; !made && i < sizeof(own) / sizeof(*own); i++)
		all[(*count)++] = own[i];
	for (size_t i = 0; !made && i < sizeof(recovered) / sizeof(*recovered); i++) {
		for (size_t j = 0; j < scripted_workload_count; j++) {
			if (!strcmp(scripted_workloads[j].name, recovered[i]))
				add_recovery(&all[(*count)++], &scripted_workloads[j]);
		}
	}
	made = made ? made : *count;
	*count = made;
	return all;
}
