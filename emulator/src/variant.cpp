// The form tables of this instruction-set variant.
// SPDX-License-Identifier: Apache-2.0
#include "tables.h"

namespace kw {
namespace KW_ISA {

const Variant& variant() {
    static const Variant kVariant = {{integer_forms(), float_forms(), half_forms(), compare_forms(), convert_forms(),
                                      memory_forms(), warp_forms(), matrix_forms(), wmma_forms(), async_forms(), mbarrier_forms(), call_forms(),
                                      directed_forms(), tma_forms(), wgmma_forms()},
                                     15};
    return kVariant;
}

}  // namespace KW_ISA
}  // namespace kw
