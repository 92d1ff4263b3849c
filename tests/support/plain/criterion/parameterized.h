/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tests with a parameter: see criterion.h beside this. */
#ifndef PLAIN_CRITERION_PARAMETERIZED_H
#define PLAIN_CRITERION_PARAMETERIZED_H

#include <criterion/criterion.h>

#define cr_make_param_array(type, array, length) ((struct plain_parameters){ (array), sizeof(type), (length) })
#define ParameterizedTestParameters(suite, name) static struct plain_parameters plain_list_##suite##_##name(void)
#define ParameterizedTest(parameter, suite, name, ...) \
	PLAIN_TEST(parameter, plain_list_##suite##_##name, suite, name, ##__VA_ARGS__)

#endif
