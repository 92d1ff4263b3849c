/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small JSON writer: one line per member, tabs by depth. The caller opens and closes in pairs; the writer only
 * places commas and escapes text.
 */
#include "mkfs/json.h"

#include "mkfs/standard.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Of the program's output, of which there is one. */
static bool begun;

bool json_has_begun(void)
{
	return begun;
}

void json_begin(struct json *json, FILE *out)
{
	begun = true;
	*json = (struct json){ .out = out };
}

int json_end(struct json *json)
{
	fputc('\n', json->out);
	return fflush(json->out) ? -errno : 0;
}

static void write_text(struct json *json, const char *text, size_t length)
{
	const unsigned char *p = (const unsigned char *)text, *end = p + length;

	fputc('"', json->out);
	while (p < end) {
		size_t bytes = standard_utf8_length((const char *)p, (size_t)(end - p));

		if (!bytes)
			fprintf(json->out, "\\udc%02x", *p++);
		else if (*p == '"' || *p == '\\')
			fprintf(json->out, "\\%c", *p++);
		else if (*p < ' ' || *p == 127)
			fprintf(json->out, "\\u%04x", *p++);
		else if (bytes == 2 && *p == 0xc2 && p[1] < 0xa0) { /* a control character, too: see standard_next() */
			fprintf(json->out, "\\u%04x", p[1]);
			p += bytes;
		} else
			p += fwrite(p, 1, bytes, json->out) == bytes ? bytes : (size_t)(end - p);
	}
	fputc('"', json->out);
}

static void begin_member(struct json *json, const char *key)
{
	if (json->has_members)
		fputc(',', json->out);
	if (json->depth)
		fprintf(json->out, "\n%.*s", (int)json->depth, "\t\t\t\t\t\t\t\t");
	json->has_members = true;
	if (key) {
		write_text(json, key, strlen(key));
		fputs(": ", json->out);
	}
}

void json_open(struct json *json, const char *key, char bracket)
{
	begin_member(json, key);
	fputc(bracket, json->out);
	json->depth++;
	json->has_members = false;
}

void json_close(struct json *json, char bracket)
{
	json->depth--;
	if (json->has_members)
		fprintf(json->out, "\n%.*s", (int)json->depth, "\t\t\t\t\t\t\t\t");
	fputc(bracket, json->out);
	json->has_members = true;
}

void json_bytes(struct json *json, const char *key, const char *text, size_t length)
{
	begin_member(json, key);
	write_text(json, text, length);
}

void json_string(struct json *json, const char *key, const char *text)
{
	json_bytes(json, key, text, strlen(text));
}

void json_number(struct json *json, const char *key, uint64_t value)
{
	begin_member(json, key);
	fprintf(json->out, "%" PRIu64, value);
}

void json_signed(struct json *json, const char *key, int64_t value)
{
	begin_member(json, key);
	fprintf(json->out, "%" PRId64, value);
}

void json_bool(struct json *json, const char *key, bool value)
{
	begin_member(json, key);
	fputs(value ? "true" : "false", json->out);
}

void json_print_error(const char *text)
{
	struct json json;

	json_begin(&json, stdout);
	json_open(&json, NULL, '{');
	json_string(&json, "error", text);
	json_close(&json, '}');
	json_end(&json);
}
