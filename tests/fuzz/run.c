/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A main for the harnesses where libFuzzer is not to be had: runs files, or inputs from a seeded generator.
 *
 *   fuzz_X_run FILE...              each file once
 *   fuzz_X_run --random COUNT SEED  that many inputs; prints TAP. A failing one aborts, and --random 1 with the number
 *                                   that was printed last gives it again.
 */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>

#define INPUT_MAX 2048u

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t mutate_state;

/* What libFuzzer gives its mutators; here chance only. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
	if (!size && max_size)
		data[size++] = 0;
	for (size_t i = 0; i < 1 + size / 64 && size; i++)
		data[next_random(&mutate_state) % size] = (uint8_t)next_random(&mutate_state);
	return size;
}

/* The image harnesses are linked with one that knows the format. */
__attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* One to six changes of nothing. */
static size_t generate_structured(uint64_t seed, uint8_t *out)
{
	size_t size = 0;

	mutate_state = seed * 0x9e3779b97f4a7c15ull + 1;
	for (unsigned i = 0; i < 1 + seed % 6; i++)
		size = LLVMFuzzerCustomMutator(out, size, INPUT_MAX, (unsigned)(seed * 31 + i));
	return size;
}

/* Mostly few patches, with small and large numbers more often than chance gives. */
static size_t generate(uint64_t seed, uint8_t *out)
{
	static const uint8_t special[] = { 0, 1, 2, 3, 7, 8, 16, 0x7f, 0x80, 0xff, 0xfe };
	uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
	size_t size;

	for (unsigned i = 0; i < 8; i++)
		next_random(&state);
	size = next_random(&state) % 4 ? 4 + next_random(&state) % 60 : next_random(&state) % INPUT_MAX;
	for (size_t i = 0; i < size; i++)
		out[i] = next_random(&state) % 4 ? (uint8_t)next_random(&state) :
						   special[next_random(&state) % sizeof(special)];
	return size;
}

static int run_random(unsigned long count, unsigned long seed)
{
	uint8_t input[INPUT_MAX];

	for (unsigned long i = 0; i < count; i++) {
		if (i % 500 == 0) {
			printf("# input %lu of seed %lu\n", i, seed);
			fflush(stdout);
		}
		if (getenv("FUZZ_TRACE"))
			fprintf(stderr, "# seed %lu\n", seed + i);
		if (LLVMFuzzerCustomMutator && (seed + i) % 8)
			LLVMFuzzerTestOneInput(input, generate_structured(seed + i, input));
		else
			LLVMFuzzerTestOneInput(input, generate(seed + i, input));
	}
	printf("ok 1 - %lu inputs from seed %lu\n1..1\n", count, seed);
	return 0;
}

static int run_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *input = malloc(1u << 20);
	size_t size;

	if (!file || !input) {
		perror(path);
		free(input);
		return 1;
	}
	size = fread(input, 1, 1u << 20, file);
	fclose(file);
	LLVMFuzzerTestOneInput(input, size);
	free(input);
	return 0;
}

int main(int argc, char **argv)
{
	int result = 0;

	if (argc == 4 && !strcmp(argv[1], "--random"))
		return run_random(strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0));
	for (int i = 1; i < argc && !result; i++) {
		result = run_file(argv[i]);
		if (!result)
			printf("ok %d - %s\n", i, argv[i]);
	}
	printf("1..%d\n", argc - 1);
	return result;
}
