/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ashlarctl log: what a mount would replay. Reading and checking the log is recover.c's; here it is only printed.
 * A record was checked for length, its items were not: they are walked with every length verified.
 */
#include "mkfs/ctl.h"

#include "fs/recover.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct printer {
	const struct ctl *ctl;
	struct json json;
	uint64_t records;
	bool damaged;
};

static const char *const item_names[] = {
	[ASH_LOG_BYTES] = "bytes",
	[ASH_LOG_FORMAT] = "format",
	[ASH_LOG_BITS_SET] = "bits-set",
	[ASH_LOG_BITS_CLEAR] = "bits-clear",
	[ASH_LOG_REVOKE] = "revoke",
	[ASH_LOG_HOME] = "home-write",
	[ASH_LOG_ORPHAN_ADD] = "orphan-add",
	[ASH_LOG_ORPHAN_DEL] = "orphan-del",
	[ASH_LOG_ORPHAN_RESET] = "orphan-reset",
};

static const char *item_name(uint8_t kind)
{
	const char *name = kind < sizeof(item_names) / sizeof(item_names[0]) ? item_names[kind] : NULL;

	return name ? name : "unknown";
}

/* The number behind an item's header: owner, count or LSN, by kind. */
static uint64_t item_number(const struct ash_log_item *item, const uint8_t *tail)
{
	uint64_t value = 0;
	uint16_t length = ash_get16(item->length);

	for (unsigned i = length < 8 ? length : 8; i-- > 0;)
		value = value << 8 | tail[i];
	return value;
}

static const char *item_number_name(uint8_t kind)
{
	switch (kind) {
	case ASH_LOG_FORMAT:
		return "owner";
	case ASH_LOG_BITS_SET:
	case ASH_LOG_BITS_CLEAR:
	case ASH_LOG_REVOKE:
		return "count";
	case ASH_LOG_HOME:
		return "lsn";
	}
	return NULL;
}

static const char *item_value_name(uint8_t kind)
{
	switch (kind) {
	case ASH_LOG_BYTES:
		return "offset";
	case ASH_LOG_BITS_SET:
	case ASH_LOG_BITS_CLEAR:
		return "first";
	case ASH_LOG_HOME:
		return "crc";
	}
	return NULL;
}

static const char *item_target_name(uint8_t kind)
{
	return kind == ASH_LOG_ORPHAN_ADD || kind == ASH_LOG_ORPHAN_DEL ? "inode" : "block";
}

static void item_text(const struct ash_log_item *item, const uint8_t *tail)
{
	const char *value = item_value_name(item->kind), *number = item_number_name(item->kind);
	const char *type = ctl_block_type(ash_get32(item->value));

	printf("    %-13s", item_name(item->kind));
	if (item->kind != ASH_LOG_ORPHAN_RESET)
		printf("%s %" PRIu64, item_target_name(item->kind), ash_get64(item->block));
	if (item->kind == ASH_LOG_FORMAT)
		printf(" as %s", type ? type : "inode table");
	if (value)
		printf(" %s %" PRIu32, value, ash_get32(item->value));
	if (item->kind == ASH_LOG_BYTES)
		printf(" length %" PRIu16, ash_get16(item->length));
	if (number)
		printf(" %s %" PRIu64, number, item_number(item, tail));
	putchar('\n');
}

static void item_json(struct json *json, const struct ash_log_item *item, const uint8_t *tail)
{
	const char *value = item_value_name(item->kind), *number = item_number_name(item->kind);

	json_open(json, NULL, '{');
	json_string(json, "kind", item_name(item->kind));
	json_number(json, item_target_name(item->kind), ash_get64(item->block));
	if (value)
		json_number(json, value, ash_get32(item->value));
	if (item->kind == ASH_LOG_BYTES)
		json_number(json, "length", ash_get16(item->length));
	if (number)
		json_number(json, number, item_number(item, tail));
	json_close(json, '}');
}

/* `print` may be NULL: only check. False when the items do not fit the record. */
static bool each_item(const struct ash_log_view *view,
		      void (*print)(void *, const struct ash_log_item *, const uint8_t *), void *context)
{
	uint32_t at = sizeof(struct ash_log_record);

	for (uint32_t i = 0; i < view->items; i++) {
		struct ash_log_item item;

		if (view->length < at || view->length - at < sizeof(item))
			return false;
		memcpy(&item, view->record + at, sizeof(item));
		at += sizeof(item);
		if (ash_get16(item.length) > view->length - at)
			return false;
		if (print)
			print(context, &item, view->record + at);
		at += ash_get16(item.length);
	}
	return true;
}

static void print_item(void *context, const struct ash_log_item *item, const uint8_t *tail)
{
	struct printer *printer = context;

	if (printer->ctl->json)
		item_json(&printer->json, item, tail);
	else
		item_text(item, tail);
}

static int print_record(void *context, const struct ash_log_view *view)
{
	struct printer *printer = context;
	bool items = printer->ctl->detailed || printer->ctl->json;

	printer->records++;
	if (printer->ctl->json) {
		json_open(&printer->json, NULL, '{');
		json_number(&printer->json, "lsn", view->lsn);
		json_number(&printer->json, "position", view->position);
		json_number(&printer->json, "length", view->length);
		json_open(&printer->json, "items", '[');
	} else {
		printf("LSN %" PRIu64 "  position %" PRIu64 "  %" PRIu32 " bytes  %" PRIu32 " item%s\n", view->lsn,
		       view->position, view->length, view->items, view->items == 1 ? "" : "s");
	}
	if (!each_item(view, items ? print_item : NULL, printer))
		printer->damaged = true;
	if (printer->ctl->json) {
		json_close(&printer->json, ']');
		json_close(&printer->json, '}');
	}
	return 0;
}

static void print_control_text(const struct ash_overlay_info *info)
{
	const struct ash_log_control *control = &info->control;

	printf("control    sequence %" PRIu64 ", epoch %" PRIu64 ", %s\n", ash_get64(control->sequence),
	       ash_get64(control->epoch), info->clean ? "clean" : "to be replayed");
	printf("tail       position %" PRIu64 ", LSN %" PRIu64 "\n", ash_get64(control->tail_position),
	       ash_get64(control->tail_lsn));
	printf("end        position %" PRIu64 "\n", info->end_position);
	printf("content    %" PRIu64 " records, %" PRIu64 " bytes\n", info->records, info->bytes);
}

static void print_control_json(struct json *json, const struct ash_overlay_info *info)
{
	const struct ash_log_control *control = &info->control;

	json_number(json, "sequence", ash_get64(control->sequence));
	json_number(json, "epoch", ash_get64(control->epoch));
	json_bool(json, "clean", info->clean);
	json_number(json, "tail_position", ash_get64(control->tail_position));
	json_number(json, "tail_lsn", ash_get64(control->tail_lsn));
	json_number(json, "end_position", info->end_position);
	json_number(json, "record_count", info->records);
	json_number(json, "bytes", info->bytes);
}

static int print_log(struct printer *printer, const struct ash_overlay *overlay)
{
	const struct ash_overlay_info *info = ash_overlay_info(overlay);
	int result;

	if (!printer->ctl->json) {
		print_control_text(info);
		return ash_overlay_each_record(overlay, print_record, printer);
	}
	json_begin(&printer->json, stdout);
	json_open(&printer->json, NULL, '{');
	print_control_json(&printer->json, info);
	json_open(&printer->json, "records", '[');
	result = ash_overlay_each_record(overlay, print_record, printer);
	json_close(&printer->json, ']');
	json_close(&printer->json, '}');
	json_end(&printer->json);
	return result;
}

int ctl_log(const struct ctl *ctl)
{
	struct printer printer = { .ctl = ctl };
	struct ctl_raw raw;
	int result = ctl_open_raw(ctl->arguments[0], true, &raw);

	if (result)
		return result;
	result = print_log(&printer, raw.overlay);
	if (result)
		tool_error(result, "%s: reading the log: %s", ctl->arguments[0], strerror(-result));
	else if (printer.damaged)
		result = tool_error(-EUCLEAN, "%s: the log has records with damaged items", ctl->arguments[0]);
	ctl_close_raw(&raw);
	return result;
}
