/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The part of criterion that our unit tests use, small enough to run under ThreadSanitizer. Criterion itself does
 * not: its event loop ends in an abort there. Used in builds with b_sanitize=thread only; see tests/meson.build.
 *
 * Every test runs in a forked child; what it returns is TAP. An assertion that fails ends the child.
 */
#ifndef PLAIN_CRITERION_H
#define PLAIN_CRITERION_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct plain_options {
	double timeout; /* seconds; 0: none */
	bool disabled;
	void (*init)(void);
	void (*fini)(void);
};

struct plain_parameters {
	void *first;
	size_t size, count;
};

struct plain_test {
	const char *suite, *name;
	void (*run)(void *parameter);
	struct plain_parameters (*parameters)(void); /* NULL: one run without a parameter */
	struct plain_options options;
	struct plain_test *next;
};

void plain_register(struct plain_test *test);
/* `format` may be empty, which is why the compiler does not check it here: builds with criterion do. */
void plain_check(bool good, bool fatal, const char *file, int line, const char *what, const char *format, ...);
void plain_skip(const char *format, ...) __attribute__((noreturn));

#define PLAIN_TEST(parameter, list, test_suite, test_name, ...)                                    \
	static void plain_##test_suite##_##test_name(parameter);                                   \
	__attribute__((constructor)) static void plain_register_##test_suite##_##test_name(void)   \
	{                                                                                          \
		static struct plain_test test = {                                                  \
			.suite = #test_suite,                                                      \
			.name = #test_name,                                                        \
			.run = (void (*)(void *))(void (*)(void))plain_##test_suite##_##test_name, \
			.parameters = list,                                                        \
			.options = { __VA_ARGS__ },                                                \
		};                                                                                 \
		plain_register(&test);                                                             \
	}                                                                                          \
	static void plain_##test_suite##_##test_name(parameter)

#define Test(suite, name, ...) PLAIN_TEST(void, NULL, suite, name, ##__VA_ARGS__)

#define PLAIN_CHECK(good, fatal, what, ...) plain_check(good, fatal, __FILE__, __LINE__, what, "" __VA_ARGS__)

#define cr_assert(x, ...) PLAIN_CHECK((x), true, #x, __VA_ARGS__)
#define cr_assert_not(x, ...) PLAIN_CHECK(!(x), true, "!" #x, __VA_ARGS__)
#define cr_assert_null(x, ...) PLAIN_CHECK(!(x), true, #x " == NULL", __VA_ARGS__)
#define cr_assert_not_null(x, ...) PLAIN_CHECK(!!(x), true, #x " != NULL", __VA_ARGS__)
#define cr_assert_eq(a, b, ...) PLAIN_CHECK((a) == (b), true, #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) PLAIN_CHECK((a) != (b), true, #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) PLAIN_CHECK((a) < (b), true, #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) PLAIN_CHECK((a) <= (b), true, #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) PLAIN_CHECK((a) > (b), true, #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) PLAIN_CHECK((a) >= (b), true, #a " >= " #b, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) PLAIN_CHECK(strcmp((a), (b)) == 0, true, #a " is " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) PLAIN_CHECK(strcmp((a), (b)) != 0, true, #a " is not " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) PLAIN_CHECK(memcmp((a), (b), (n)) == 0, true, #a " is " #b, __VA_ARGS__)
#define cr_assert_fail(...) PLAIN_CHECK(false, true, "reached", __VA_ARGS__)

#define cr_expect(x, ...) PLAIN_CHECK((x), false, #x, __VA_ARGS__)
#define cr_expect_not(x, ...) PLAIN_CHECK(!(x), false, "!" #x, __VA_ARGS__)
#define cr_expect_null(x, ...) PLAIN_CHECK(!(x), false, #x " == NULL", __VA_ARGS__)
#define cr_expect_not_null(x, ...) PLAIN_CHECK(!!(x), false, #x " != NULL", __VA_ARGS__)
#define cr_expect_eq(a, b, ...) PLAIN_CHECK((a) == (b), false, #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) PLAIN_CHECK((a) != (b), false, #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) PLAIN_CHECK((a) < (b), false, #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) PLAIN_CHECK((a) <= (b), false, #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) PLAIN_CHECK((a) > (b), false, #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) PLAIN_CHECK((a) >= (b), false, #a " >= " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) PLAIN_CHECK(strcmp((a), (b)) == 0, false, #a " is " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) PLAIN_CHECK(strcmp((a), (b)) != 0, false, #a " is not " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) PLAIN_CHECK(memcmp((a), (b), (n)) == 0, false, #a " is " #b, __VA_ARGS__)
#define cr_expect_fail(...) PLAIN_CHECK(false, false, "reached", __VA_ARGS__)

#define cr_skip_test(...) plain_skip("" __VA_ARGS__)

#endif
