// The form tables of one variant, one function per file of handlers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "forms.h"

namespace kw {
namespace KW_ISA {
FormTable integer_forms();
FormTable float_forms();
FormTable half_forms();
FormTable compare_forms();
FormTable convert_forms();
FormTable memory_forms();
FormTable warp_forms();
FormTable matrix_forms();
FormTable wmma_forms();
FormTable async_forms();
FormTable mbarrier_forms();
FormTable call_forms();
FormTable tma_forms();
FormTable wgmma_forms();
FormTable directed_forms();
}  // namespace KW_ISA
}  // namespace kw
