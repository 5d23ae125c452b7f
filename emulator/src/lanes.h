// Reading and writing registers as 32-lane arrays. Compiled once per instruction-set variant (KW_ISA).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "forms.h"
#include "machine.h"

#if defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef KW_ISA
#error "KW_ISA names the variant: isa_base or isa_avx2"
#endif

// A destination may be the very array a source is in, never one shifted against it: lane loops carry no dependence.
#define KW_LANES _Pragma("GCC ivdep") for (int l = 0; l < kLanes; ++l)

namespace kw {
namespace KW_ISA {
// Everything in here is `static`: the linker must never merge a function of one variant with the other's.

template <class T>
static inline const T* source(const Warp& w, uint32_t operand) {
    return reinterpret_cast<const T*>(w.base[operand & kOperandConstant] + (operand & ~kOperandFlags));
}

template <class T>
static inline T* destination(Warp& w, uint32_t operand) {
    return reinterpret_cast<T*>(w.registers + (operand & ~kOperandFlags));
}

template <int N>
static inline const uint32_t* operands(const Warp& w, const Insn& i) {
    return N <= 4 ? i.o : w.ext + i.ext;
}

static inline Mask read_predicate(const Warp& w, uint32_t operand) {
    return w.predicates[operand >> 1] ^ (0u - (operand & 1u));
}

static inline void write_predicate(Warp& w, uint32_t operand, Mask m, Mask value) {
    Mask& p = w.predicates[operand >> 1];
    p = (p & ~m) | (value & m);
}

// Runs f over all lanes and stores into the lanes of m.
template <class D, class F>
static inline void map(D* d, Mask m, F f) {
    if (m == kFullMask) {
        KW_LANES d[l] = static_cast<D>(f(l));
    } else {
        KW_LANES {
            const D value = static_cast<D>(f(l));
            d[l] = (m >> l) & 1u ? value : d[l];
        }
    }
}

// As map, for an f that is costly or must not run on inactive lanes.
template <class D, class F>
static inline void map_active(D* d, Mask m, F f) {
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        d[l] = static_cast<D>(f(l));
    }
}

// Bit l of the result: lane l of `set` (0 or all ones) is set.
static inline Mask to_mask(const uint32_t* set) {
#if defined(__AVX2__)
    Mask out = 0;
    for (int i = 0; i < 4; ++i) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(set) + i);
        out |= static_cast<Mask>(_mm256_movemask_ps(_mm256_castsi256_ps(v))) << (8 * i);
    }
    return out;
#elif defined(__SSE2__)
    Mask out = 0;
    for (int i = 0; i < 8; ++i) {
        const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(set) + i);
        out |= static_cast<Mask>(_mm_movemask_ps(_mm_castsi128_ps(v))) << (4 * i);
    }
    return out;
#else
    Mask out = 0;
    for (int l = 0; l < kLanes; ++l) out |= (set[l] & 1u) << l;
    return out;
#endif
}

// Mask of lanes for which f is true.
template <class F>
static inline Mask mask_of(F f) {
    alignas(64) uint32_t set[kLanes];
    KW_LANES set[l] = f(l) ? 0xffffffffu : 0u;
    return to_mask(set);
}

}  // namespace KW_ISA
}  // namespace kw
