// fp16 and bf16 conversions: exact, round to nearest even, NaN becomes the hardware's 0x7fff.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "convert_modes.h"
#include "lanes.h"

namespace kw {
namespace KW_ISA {

static inline float half_to_float(uint32_t h) {
    const uint32_t sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_as<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    // Place the fields so that a subnormal half is a tiny float, then scale by 2^112 exactly.
    const float scaled = bits_as<float>(magnitude << 13) * 0x1p112f;
    return bits_as<float>(bits_as<uint32_t>(scaled) | sign);
}

// Rounds a double to a format with `mantissa` stored bits and minimum normal exponent `min_exponent`, by a rounding of
// ConvertMode. Overflow gives infinity, or the largest finite number where rounding is toward zero.
static inline uint32_t round_to_small(double x, int mantissa, int min_exponent, uint32_t infinity, int rounding) {
    const uint64_t u = bits_as<uint64_t>(x);
    const uint32_t sign_bit = 0x8000u;
    const uint32_t sign = (u >> 63) ? sign_bit : 0;
    const uint64_t magnitude = u & 0x7fffffffffffffffull;
    if (magnitude > 0x7ff0000000000000ull) return 0x7fffu;
    if (magnitude == 0x7ff0000000000000ull) return sign | infinity;
    if (magnitude == 0) return sign;
    const bool away = rounding == (sign ? kRoundDown : kRoundUp);
    const bool toward_zero = rounding != kRoundNearest && !away;
    int exponent = static_cast<int>(magnitude >> 52) - 1023;
    if (exponent == -1023) return sign | away;  // a subnormal double is far below half of either format's smallest number
    const uint64_t significand = (magnitude & 0xfffffffffffffull) | 0x10000000000000ull;
    int drop = 52 - mantissa;
    int biased = exponent - min_exponent + 1;
    if (biased < 1) {
        drop += 1 - biased;
        biased = 0;
        if (drop > 60) return sign | away;
    }
    uint64_t kept = significand >> drop;
    const uint64_t rest = significand & ((1ull << drop) - 1), halfway = 1ull << (drop - 1);
    if (away ? rest != 0 : !toward_zero && (rest > halfway || (rest == halfway && (kept & 1)))) ++kept;
    // The implicit bit of a normal number adds one to the exponent field, so rounding up carries by itself.
    const uint64_t field = biased == 0 ? kept : (static_cast<uint64_t>(biased - 1) << mantissa) + kept;
    if (field >= infinity) return sign | (toward_zero ? infinity - 1 : infinity);
    return sign | static_cast<uint32_t>(field);
}

static inline uint32_t double_to_half(double x) { return round_to_small(x, 10, -14, 0x7c00u, kRoundNearest); }
static inline uint32_t double_to_bf16(double x) { return round_to_small(x, 7, -126, 0x7f80u, kRoundNearest); }

static inline uint32_t float_to_half(float x) {
#if defined(__F16C__)
    if (x != x) return 0x7fffu;
    return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#else
    return double_to_half(static_cast<double>(x));
#endif
}

static inline float bf16_to_float(uint32_t b) { return bits_as<float>(b << 16); }

static inline uint32_t float_to_bf16(float x) {
    const uint32_t u = bits_as<uint32_t>(x);
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : rounded;
}

// a * b + c with one rounding, for operands whose product is exact in double: the sum is rounded to odd.
static inline double fma_to_odd(double a, double b, double c) {
    const double p = a * b, s = p + c;
    const double back = s - p, error = (p - (s - back)) + (c - back);
    if (error == 0.0 || !(s - s == 0.0)) return s;
    uint64_t u = bits_as<uint64_t>(s);
    if (!(u & 1)) u += (error > 0) == (s > 0) ? 1 : -1;
    return bits_as<double>(u);
}

// fp8 (PTX ISA, "Alternate Floating-Point Data Formats"): e5m2 is the upper byte of an fp16; e4m3 has no infinity and one NaN.
static inline float e5m2_to_float(uint32_t b) { return half_to_float((b & 0xffu) << 8); }
static inline float e4m3_to_float(uint32_t b) {
    const uint32_t sign = (b & 0x80u) << 24, magnitude = b & 0x7fu;
    if (magnitude == 0x7fu) return bits_as<float>(sign | 0x7fffffffu);
    // As half_to_float: the fields of a float 2^120 times as small.
    return bits_as<float>(bits_as<uint32_t>(bits_as<float>(magnitude << 20) * 0x1p120f) | sign);
}

// Rounds to nearest even; beyond the largest finite number, infinity too, gives that number (.satfinite).
static inline uint32_t float_to_fp8(float x, int mantissa, int min_exponent, uint32_t largest) {
    if (x != x) return 0x7fu;
    const uint32_t wide = round_to_small(static_cast<double>(x), mantissa, min_exponent, 0x7fffu, false);
    const uint32_t magnitude = wide & 0x7fffu, sign = (wide >> 8) & 0x80u;
    return sign | (magnitude > largest ? largest : magnitude);
}
static inline uint32_t float_to_e4m3(float x) { return float_to_fp8(x, 3, -6, 0x7eu); }
static inline uint32_t float_to_e5m2(float x) { return float_to_fp8(x, 2, -14, 0x7bu); }

static inline float flush(float x) {  // .ftz: subnormals become zero of their sign
    const uint32_t u = bits_as<uint32_t>(x);
    return bits_as<float>((u & 0x7f800000u) ? u : (u & 0x80000000u));
}

// Converts 32 lanes of two floats into f16x2: `high` goes to the upper half.
static inline void pack_half2(uint32_t* out, const float* high, const float* low) {
#if defined(__F16C__) && defined(__AVX2__)
    for (int b = 0; b < 4; ++b) {
        const __m256 h = _mm256_loadu_ps(high + 8 * b), lo = _mm256_loadu_ps(low + 8 * b);
        __m256i hi16 = _mm256_cvtepu16_epi32(_mm256_cvtps_ph(h, _MM_FROUND_TO_NEAREST_INT));
        __m256i lo16 = _mm256_cvtepu16_epi32(_mm256_cvtps_ph(lo, _MM_FROUND_TO_NEAREST_INT));
        const __m256i nan16 = _mm256_set1_epi32(0x7fff);
        hi16 = _mm256_blendv_epi8(hi16, nan16, _mm256_castps_si256(_mm256_cmp_ps(h, h, _CMP_UNORD_Q)));
        lo16 = _mm256_blendv_epi8(lo16, nan16, _mm256_castps_si256(_mm256_cmp_ps(lo, lo, _CMP_UNORD_Q)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out) + b, _mm256_or_si256(_mm256_slli_epi32(hi16, 16), lo16));
    }
#else
    for (int l = 0; l < kLanes; ++l) out[l] = float_to_half(high[l]) << 16 | float_to_half(low[l]);
#endif
}

}  // namespace KW_ISA
}  // namespace kw
