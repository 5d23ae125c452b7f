// Chooses the instruction-set variant this processor can run.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "forms.h"

#if defined(KW_HAVE_AVX2)
#include <cpuid.h>
#endif

namespace kw {
namespace {

#if defined(KW_HAVE_AVX2)
bool has_avx2_fma_f16c() {
    constexpr unsigned kF16c = 1u << 29;  // leaf 1, ECX; older compilers' __builtin_cpu_supports does not know it
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kF16c)) return false;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
}
#endif

}  // namespace

const Variant& variant() {
#if defined(KW_HAVE_AVX2)
    static const bool kFast = has_avx2_fma_f16c() && std::getenv("KERNELWRIGHT_EMULATOR_BASELINE") == nullptr;
    if (kFast) return isa_avx2::variant();
#endif
    return isa_base::variant();
}

}  // namespace kw
