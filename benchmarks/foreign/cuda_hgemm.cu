// SPDX-License-Identifier: Apache-2.0
// One kernel of cuda_hgemm, with the host functions beside it that are not run.
#include KW_SOURCE
