// Chooses the instruction-set variant this processor can run.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "forms.h"

namespace kw {

const Variant& variant() {
#if defined(KW_HAVE_AVX2)
    static const bool kFast = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                              __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt") &&
                              std::getenv("KERNELWRIGHT_EMULATOR_BASELINE") == nullptr;
    if (kFast) return isa_avx2::variant();
#endif
    return isa_base::variant();
}

}  // namespace kw
