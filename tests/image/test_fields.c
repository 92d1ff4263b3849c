/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is the table of fields the whole format? Every structure of include/ashlar/format.h is in it, and the fields of each
 * follow each other without a gap up to its end. Prints TAP.
 */
#include "fields.h"

#include <stdio.h>
#include <stdlib.h>

static unsigned tests, failures;

static void ok(bool good, const char *what, const char *name)
{
	failures += !good;
	printf("%sok %u - %s: %s\n", good ? "" : "not ", ++tests, name, what);
}

static bool in_table(const char *type)
{
	for (unsigned i = 0; i < STRUCTURES; i++)
		if (structures[i].type && !strcmp(structures[i].type, type))
			return true;
	return false;
}

static void test_gaps(const struct fields *fields)
{
	uint32_t end = 0;
	bool good = true;

	for (unsigned i = 0; i < fields->count; i++) {
		good &= fields->items[i].offset == end;
		end = fields->items[i].offset + fields->items[i].size;
	}
	ok(good && end == fields->size, "its fields leave no gap", fields->type ? fields->type : "a part");
}

/* Lines such as "struct ash_super {". */
static void test_header(const char *path)
{
	FILE *file = fopen(path, "r");
	unsigned found = 0;
	char line[512], type[128];

	if (!file) {
		ok(false, "cannot be read", path);
		return;
	}
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "struct %127[a-z0-9_] {", type) == 1 && strchr(line, '{')) {
			ok(in_table(type), "is in the table", type);
			found++;
		}
	fclose(file);
	ok(found >= 15, "has structures", path);
}

int main(void)
{
	const char *source = getenv("ASHLAR_SOURCE");
	char path[4096];

	for (unsigned i = 0; i < STRUCTURES; i++)
		test_gaps(&structures[i]);
	snprintf(path, sizeof(path), "%s/include/ashlar/format.h", source ? source : ".");
	test_header(path);
	printf("1..%u\n", tests);
	return failures ? 1 : 0;
}
