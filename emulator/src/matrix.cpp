// ldmatrix, movmatrix and mma.sync (PTX ISA, "Warp Level Matrix Instructions").
// SPDX-License-Identifier: Apache-2.0
#include "access.h"
#include "half.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

// An 8x8 matrix of 16-bit elements in a register: thread 4 r + c / 2 holds row r, columns c and c + 1. Seen as memory, the
// register's 32 lanes are the matrix row by row.
using Matrix = uint16_t[8][8];

static inline void transpose(const void* const* rows, void* out) {
#if defined(__SSE2__)
    __m128i r[8], t[8];
    for (int n = 0; n < 8; ++n) r[n] = _mm_loadu_si128(static_cast<const __m128i*>(rows[n]));
    for (int n = 0; n < 4; ++n) {
        t[n] = _mm_unpacklo_epi16(r[2 * n], r[2 * n + 1]);
        t[n + 4] = _mm_unpackhi_epi16(r[2 * n], r[2 * n + 1]);
    }
    for (int n = 0; n < 4; n += 2) {
        r[n] = _mm_unpacklo_epi32(t[n], t[n + 1]);
        r[n + 1] = _mm_unpackhi_epi32(t[n], t[n + 1]);
        r[n + 4] = _mm_unpacklo_epi32(t[n + 4], t[n + 5]);
        r[n + 5] = _mm_unpackhi_epi32(t[n + 4], t[n + 5]);
    }
    __m128i* d = static_cast<__m128i*>(out);
    for (int half = 0; half < 2; ++half) {
        for (int n = 0; n < 2; ++n) {
            _mm_storeu_si128(d + 4 * half + 2 * n, _mm_unpacklo_epi64(r[4 * half + n], r[4 * half + n + 2]));
            _mm_storeu_si128(d + 4 * half + 2 * n + 1, _mm_unpackhi_epi64(r[4 * half + n], r[4 * half + n + 2]));
        }
    }
#else
    Matrix* d = static_cast<Matrix*>(out);
    for (int row = 0; row < 8; ++row)
        for (int column = 0; column < 8; ++column) std::memcpy(&(*d)[column][row], static_cast<const char*>(rows[row]) + 2 * column, 2);
#endif
}

static bool whole_warp(Warp& w, const Insn& i, Mask m, const char* what) {
    if (__builtin_expect(m == kFullMask, 1)) return true;
    report(w, i, __builtin_ctz(~m), "divergent_warp",
           std::string(what) + " is executed by only some of the warp's 32 threads; every thread must reach it together");
    return false;
}

template <int N, bool Transposed>
void ldmatrix(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m, "ldmatrix")) return;
    const uint32_t* o = operands<N + 1>(w, i);
    Launch& launch = *w.launch;
    alignas(64) uint32_t offset[kLanes];
    shared_offsets(w, o[N], i.imm, offset);
    constexpr Mask lanes = N == 4 ? kFullMask : (1u << (8 * N)) - 1u;
    if (shared_in_bounds(w, i, lanes, offset, 16) != lanes) return;
    if (launch.shadowed) shared_reads(w, i, lanes, offset, 16);
    if (launch.checks.race)
        for (int l = 0; l < 8 * N; ++l) launch.races.read(w, i, kWholeWarp, offset[l], 16);
    const char* shared = w.block->shared;
    for (int n = 0; n < N; ++n) {
        char* d = reinterpret_cast<char*>(destination<uint32_t>(w, o[n]));
        if (Transposed) {
            const void* rows[8];
            for (int r = 0; r < 8; ++r) rows[r] = shared + offset[8 * n + r];
            transpose(rows, d);
        } else {
            for (int r = 0; r < 8; ++r) std::memcpy(d + 16 * r, shared + offset[8 * n + r], 16);
        }
    }
    if (launch.counting) {
        Counters& c = launch.counters;
        for (int n = 0; n < N; ++n) {
            uint32_t columns = 0;
            for (int r = 0; r < 8; ++r) columns |= 1u << ((offset[8 * n + r] >> 4) & 7u);
            if (columns == 0xffu) {
                c.ldmatrix_wavefronts += 1;
                c.ldmatrix_wavefronts_ideal += 1;
            } else {
                count_wavefronts(offset, 0xffu << (8 * n), 16, c.ldmatrix_wavefronts, c.ldmatrix_wavefronts_ideal);
            }
        }
    }
}

void movmatrix(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m, "movmatrix")) return;
    const char* a = reinterpret_cast<const char*>(source<uint32_t>(w, i.o[1]));
    const void* rows[8];
    for (int r = 0; r < 8; ++r) rows[r] = a + 16 * r;
    alignas(64) uint32_t out[kLanes];
    transpose(rows, out);
    std::memcpy(destination<uint32_t>(w, i.o[0]), out, sizeof out);
}

// Fragments of m16n8kK, K = 8 or 16, 16-bit operands. Register n of A holds rows 8 (n % 2) and on, columns 8 (n / 2) and
// on; register n of B holds, transposed, rows 8 n and on. Accumulators: thread 4 r + t holds in c0, c1 row r, columns
// 2 t and 2 t + 1, in c2, c3 the same of row r + 8. Rows below are kept with columns in the order 0 2 4 6 1 3 5 7, which is
// c0 and c1 of four threads next to one another.
constexpr int kColumnOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

struct HalfType { static float load(uint16_t h) { return half_to_float(h); } };
struct BfloatType { static float load(uint16_t h) { return bf16_to_float(h); } };

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
static inline __m256 widen(const void* p, HalfType) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
static inline __m256 widen(const void* p, BfloatType) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))), 16));
}

// Adds the product of the k-th 8 columns of A and rows of B to the 16 accumulator rows.
template <class T>
static inline void multiply_eight(const float (*a)[8], const uint32_t* b, __m256* rows) {
    const void* order[8];
    for (int n = 0; n < 8; ++n) order[n] = reinterpret_cast<const char*>(b) + 16 * kColumnOrder[n];
    alignas(32) uint16_t bt[8][8];
    transpose(order, bt);
    __m256 bk[8];
    for (int k = 0; k < 8; ++k) bk[k] = widen(bt[k], T{});
    for (int r = 0; r < 16; r += 4) {
        __m256 c0 = rows[r], c1 = rows[r + 1], c2 = rows[r + 2], c3 = rows[r + 3];
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
            c0 = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[r][k]), bk[k], c0);
            c1 = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[r + 1][k]), bk[k], c1);
            c2 = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[r + 2][k]), bk[k], c2);
            c3 = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[r + 3][k]), bk[k], c3);
        }
        rows[r] = c0, rows[r + 1] = c1, rows[r + 2] = c2, rows[r + 3] = c3;
    }
}
template <class T, int K>
static inline void multiply(const uint32_t* const* a, const uint32_t* const* b, float (*c)[8]) {
    __m256 rows[16];
    for (int r = 0; r < 16; ++r) rows[r] = _mm256_load_ps(c[r]);
    for (int k = 0; k < K / 8; ++k) {
        alignas(32) float wide[16][8];
        for (int r = 0; r < 8; ++r) {
            _mm256_store_ps(wide[r], widen(a[2 * k] + 4 * r, T{}));
            _mm256_store_ps(wide[r + 8], widen(a[2 * k + 1] + 4 * r, T{}));
        }
        multiply_eight<T>(wide, b[k], rows);
    }
    for (int r = 0; r < 16; ++r) _mm256_store_ps(c[r], rows[r]);
}
#else
// Products of two 16-bit operands are exact in fp32, so multiply and add round as fma does.
template <class T, int K>
static inline void multiply(const uint32_t* const* a, const uint32_t* const* b, float (*c)[8]) {
    for (int k = 0; k < K / 8; ++k) {
        float wide_a[16][8], wide_b[8][8];
        for (int r = 0; r < 8; ++r) {
            for (int n = 0; n < 8; ++n) {
                wide_a[r][n] = T::load((*reinterpret_cast<const Matrix*>(a[2 * k]))[r][n]);
                wide_a[r + 8][n] = T::load((*reinterpret_cast<const Matrix*>(a[2 * k + 1]))[r][n]);
                wide_b[r][n] = T::load((*reinterpret_cast<const Matrix*>(b[k]))[kColumnOrder[n]][r]);
            }
        }
        for (int r = 0; r < 16; ++r)
            for (int n = 0; n < 8; ++n)
                for (int j = 0; j < 8; ++j) c[r][j] += wide_a[r][n] * wide_b[n][j];
    }
}
#endif

template <int K>
static inline void count_mma(Warp& w) {
    w.launch->counters.mma += 1;
    w.launch->counters.mma_flops += 2ull * 16 * 8 * K;
}

// Accumulation is a sequence of fp32 fused multiply-adds in the order of k; tensor cores align and truncate instead.
template <class T, int K>
void mma_f32(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m, "mma")) return;
    constexpr int kA = K / 4, kB = K / 8;
    const uint32_t* o = operands<8 + kA + kB>(w, i);
    const uint32_t *a[kA], *b[kB];
    for (int n = 0; n < kA; ++n) a[n] = source<uint32_t>(w, o[4 + n]);
    for (int n = 0; n < kB; ++n) b[n] = source<uint32_t>(w, o[4 + kA + n]);
    const uint32_t* oc = o + 4 + kA + kB;
    alignas(32) float c[16][8];
    for (int half = 0; half < 2; ++half) {
        const float *even = source<float>(w, oc[2 * half]), *odd = source<float>(w, oc[2 * half + 1]);
        for (int r = 0; r < 8; ++r) {
            std::memcpy(&c[8 * half + r][0], even + 4 * r, 16);
            std::memcpy(&c[8 * half + r][4], odd + 4 * r, 16);
        }
    }
    multiply<T, K>(a, b, c);
    for (int half = 0; half < 2; ++half) {
        float *even = destination<float>(w, o[2 * half]), *odd = destination<float>(w, o[2 * half + 1]);
        for (int r = 0; r < 8; ++r) {
            std::memcpy(even + 4 * r, &c[8 * half + r][0], 16);
            std::memcpy(odd + 4 * r, &c[8 * half + r][4], 16);
        }
    }
    if (w.launch->counting) count_mma<K>(w);
}

template <int K>
void mma_f16(Warp& w, const Insn& i, Mask m) {  // fp16 accumulators, two columns a register
    if (!whole_warp(w, i, m, "mma")) return;
    constexpr int kA = K / 4, kB = K / 8;
    const uint32_t* o = operands<4 + kA + kB>(w, i);
    const uint32_t *a[kA], *b[kB];
    for (int n = 0; n < kA; ++n) a[n] = source<uint32_t>(w, o[2 + n]);
    for (int n = 0; n < kB; ++n) b[n] = source<uint32_t>(w, o[2 + kA + n]);
    alignas(32) float c[16][8];
    for (int half = 0; half < 2; ++half) {
        const uint32_t* packed = source<uint32_t>(w, o[2 + kA + kB + half]);
        for (int l = 0; l < kLanes; ++l) {
            c[8 * half + l / 4][l % 4] = half_to_float(packed[l] & 0xffffu);
            c[8 * half + l / 4][4 + l % 4] = half_to_float(packed[l] >> 16);
        }
    }
    multiply<HalfType, K>(a, b, c);
    for (int half = 0; half < 2; ++half) {
        uint32_t* packed = destination<uint32_t>(w, o[half]);
        for (int l = 0; l < kLanes; ++l)
            packed[l] = float_to_half(c[8 * half + l / 4][l % 4]) | float_to_half(c[8 * half + l / 4][4 + l % 4]) << 16;
    }
    if (w.launch->counting) count_mma<K>(w);
}

constexpr Fidelity kApprox = Fidelity::Approximate;

const Form kForms[] = {
    {"ldmatrix.x1", "Rm", ldmatrix<1, false>}, {"ldmatrix.x2", "RRm", ldmatrix<2, false>}, {"ldmatrix.x4", "RRRRm", ldmatrix<4, false>},
    {"ldmatrix.x1.trans", "Rm", ldmatrix<1, true>}, {"ldmatrix.x2.trans", "RRm", ldmatrix<2, true>},
    {"ldmatrix.x4.trans", "RRRRm", ldmatrix<4, true>},
    {"movmatrix.trans", "Rr", movmatrix},
    {"mma.m16n8k16.f32.f16.f16.f32", "RRRRrrrrrrrrrr", mma_f32<HalfType, 16>, kApprox},
    {"mma.m16n8k16.f32.bf16.bf16.f32", "RRRRrrrrrrrrrr", mma_f32<BfloatType, 16>, kApprox},
    {"mma.m16n8k8.f32.f16.f16.f32", "RRRRrrrrrrr", mma_f32<HalfType, 8>, kApprox},
    {"mma.m16n8k8.f32.bf16.bf16.f32", "RRRRrrrrrrr", mma_f32<BfloatType, 8>, kApprox},
    {"mma.m16n8k16.f16.f16.f16.f16", "RRrrrrrrrr", mma_f16<16>, kApprox},
    {"mma.m16n8k8.f16.f16.f16.f16", "RRrrrrr", mma_f16<8>, kApprox},
};

}  // namespace

FormTable matrix_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
