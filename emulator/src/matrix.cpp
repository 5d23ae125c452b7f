// ldmatrix, stmatrix, movmatrix and mma.sync (PTX ISA, "Warp Level Matrix Instructions").
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
        for (int l = 0; l < 8 * N; ++l) w.block->races.read(w, i, kWholeWarp, offset[l], 16);
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

// Each row is stored by several lanes. To the race check their bytes are one store, which lanes must synchronise with
// before they read what others of them stored.
template <int N, bool Transposed>
void stmatrix(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m, "stmatrix")) return;
    const uint32_t* o = operands<N + 1>(w, i);
    Launch& launch = *w.launch;
    alignas(64) uint32_t offset[kLanes];
    shared_offsets(w, o[0], i.imm, offset);
    constexpr Mask lanes = N == 4 ? kFullMask : (1u << (8 * N)) - 1u;
    if (shared_in_bounds(w, i, lanes, offset, 16) != lanes) return;
    if (launch.shadowed) shared_writes(w, i, lanes, offset, 16);
    launch.changed = true;
    if (launch.checks.race)
        for (int l = 0; l < 8 * N; ++l) w.block->races.write(w, i, kStoredMatrix, offset[l], 16);
    for (int n = 0; n < N; ++n) {
        const char* a = reinterpret_cast<const char*>(source<uint32_t>(w, o[1 + n]));
        alignas(16) char transposed[128];
        if (Transposed) {
            const void* rows[8];
            for (int r = 0; r < 8; ++r) rows[r] = a + 16 * r;
            transpose(rows, transposed);
            a = transposed;
        }
        for (int r = 0; r < 8; ++r) std::memcpy(w.block->shared + offset[8 * n + r], a + 16 * r, 16);
    }
    if (launch.counting)
        for (int n = 0; n < N; ++n)
            count_wavefronts(offset, 0xffu << (8 * n), 16, launch.counters.stmatrix_wavefronts, launch.counters.stmatrix_wavefronts_ideal);
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

template <int K, int M = 16>
static inline void count_mma(Warp& w) {
    w.launch->counters.mma += 1;
    w.launch->counters.mma_flops += 2ull * M * 8 * K;
}

// fp32 accumulators, a register for each row half and column parity.
static inline void load_rows(Warp& w, const uint32_t* o, float (*c)[8]) {
    for (int half = 0; half < 2; ++half) {
        const float *even = source<float>(w, o[2 * half]), *odd = source<float>(w, o[2 * half + 1]);
        for (int r = 0; r < 8; ++r) {
            std::memcpy(&c[8 * half + r][0], even + 4 * r, 16);
            std::memcpy(&c[8 * half + r][4], odd + 4 * r, 16);
        }
    }
}
static inline void store_rows(Warp& w, const uint32_t* o, const float (*c)[8]) {
    for (int half = 0; half < 2; ++half) {
        float *even = destination<float>(w, o[2 * half]), *odd = destination<float>(w, o[2 * half + 1]);
        for (int r = 0; r < 8; ++r) {
            std::memcpy(even + 4 * r, &c[8 * half + r][0], 16);
            std::memcpy(odd + 4 * r, &c[8 * half + r][4], 16);
        }
    }
}
// fp16 accumulators, two columns a register.
static inline void load_half_rows(Warp& w, const uint32_t* o, float (*c)[8]) {
    for (int half = 0; half < 2; ++half) {
        const uint32_t* packed = source<uint32_t>(w, o[half]);
        for (int l = 0; l < kLanes; ++l) {
            c[8 * half + l / 4][l % 4] = half_to_float(packed[l] & 0xffffu);
            c[8 * half + l / 4][4 + l % 4] = half_to_float(packed[l] >> 16);
        }
    }
}
static inline void store_half_rows(Warp& w, const uint32_t* o, const float (*c)[8]) {
    for (int half = 0; half < 2; ++half) {
        uint32_t* packed = destination<uint32_t>(w, o[half]);
        for (int l = 0; l < kLanes; ++l)
            packed[l] = float_to_half(c[8 * half + l / 4][l % 4]) | float_to_half(c[8 * half + l / 4][4 + l % 4]) << 16;
    }
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
    load_rows(w, oc, c);
    multiply<T, K>(a, b, c);
    store_rows(w, o, c);
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
    load_half_rows(w, o + 2 + kA + kB, c);
    multiply<HalfType, K>(a, b, c);
    store_half_rows(w, o, c);
    if (w.launch->counting) count_mma<K>(w);
}

// The wider elements and the narrower ones: fragments are unpacked to plain matrices first. A register holds W columns
// of a row of A for each thread, or W rows of a column of B: 1 of 32 bits or 4 of 8. Registers of A alternate between the
// upper and the lower eight rows, then go on by 4 W columns; those of B go on by 4 W rows.
template <class Element, int K, int W>
static inline void unpack_a(Warp& w, const uint32_t* o, int m, Element (*a)[K]) {
    const int halves = m / 8;
    for (int n = 0; n < halves * K / (4 * W); ++n) {
        const Element* from = reinterpret_cast<const Element*>(source<uint32_t>(w, o[n]));
        for (int r = 0; r < 8; ++r) std::memcpy(&a[8 * (n % halves) + r][4 * W * (n / halves)], from + 4 * W * r, 16);
    }
}
template <class Element, int K, int W>
static inline void unpack_b(Warp& w, const uint32_t* o, Element (*b)[8]) {  // columns in kColumnOrder
    for (int n = 0; n < K / (4 * W); ++n) {
        const Element* from = reinterpret_cast<const Element*>(source<uint32_t>(w, o[n]));
        for (int k = 0; k < 4 * W; ++k)
            for (int c = 0; c < 8; ++c) b[4 * W * n + k][c] = from[4 * W * kColumnOrder[c] + k];
    }
}

// Products are exact in fp32: multiply and add round as fma does.
template <int K>
static inline void multiply_rows(const float (*a)[K], const float (*b)[8], float (*c)[8]) {
    for (int r = 0; r < 16; ++r) {
        alignas(32) float sum[8];
        std::memcpy(sum, c[r], sizeof sum);
        for (int k = 0; k < K; ++k)
            for (int j = 0; j < 8; ++j) sum[j] += a[r][k] * b[k][j];
        std::memcpy(c[r], sum, sizeof sum);
    }
}

// The low 13 bits of the inputs do not take part.
template <int K>
void mma_tf32(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m, "mma")) return;
    constexpr int kA = K / 2, kB = K / 4;
    const uint32_t* o = operands<8 + kA + kB>(w, i);
    alignas(32) uint32_t a[16][K], b[K][8];
    unpack_a<uint32_t, K, 1>(w, o + 4, 16, a);
    unpack_b<uint32_t, K, 1>(w, o + 4 + kA, b);
    alignas(32) float fa[16][K], fb[K][8], c[16][8];
    for (int n = 0; n < 16 * K; ++n) fa[n / K][n % K] = bits_as<float>(a[n / K][n % K] & 0xffffe000u);
    for (int n = 0; n < 8 * K; ++n) fb[n / 8][n % 8] = bits_as<float>(b[n / 8][n % 8] & 0xffffe000u);
    load_rows(w, o + 4 + kA + kB, c);
    multiply_rows<K>(fa, fb, c);
    store_rows(w, o, c);
    if (w.launch->counting) count_mma<K>(w);
}

struct E4m3Type { static float load(uint8_t b) { return e4m3_to_float(b); } };
struct E5m2Type { static float load(uint8_t b) { return e5m2_to_float(b); } };
template <class T>
static inline const float* fp8_values() {
    static const struct Table {
        float values[256];
        Table() {
            for (int n = 0; n < 256; ++n) values[n] = T::load(static_cast<uint8_t>(n));
        }
    } kTable;
    return kTable.values;
}

// Accumulates in fp32, as mma_f32; Hopper's tensor cores keep fewer bits.
template <class A, class B, int K, bool HalfSum>
void mma_fp8(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m, "mma")) return;
    constexpr int kA = K / 8, kB = K / 16, kD = HalfSum ? 2 : 4;
    const uint32_t* o = operands<2 * kD + kA + kB>(w, i);
    alignas(32) uint8_t a[16][K], b[K][8];
    unpack_a<uint8_t, K, 4>(w, o + kD, 16, a);
    unpack_b<uint8_t, K, 4>(w, o + kD + kA, b);
    alignas(32) float fa[16][K], fb[K][8], c[16][8];
    const float *va = fp8_values<A>(), *vb = fp8_values<B>();
    for (int n = 0; n < 16 * K; ++n) fa[n / K][n % K] = va[a[n / K][n % K]];
    for (int n = 0; n < 8 * K; ++n) fb[n / 8][n % 8] = vb[b[n / 8][n % 8]];
    const uint32_t* oc = o + kD + kA + kB;
    if (HalfSum) load_half_rows(w, oc, c);
    else load_rows(w, oc, c);
    multiply_rows<K>(fa, fb, c);
    if (HalfSum) store_half_rows(w, o, c);
    else store_rows(w, o, c);
    if (w.launch->counting) count_mma<K>(w);
}

// Sums wrap around, or with .satfinite the exact sum is clamped.
template <class A, class B, int M, int K>
void mma_s32(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m, "mma")) return;
    constexpr int kA = M * K / 128, kB = K / 16, kD = M / 4;
    const uint32_t* o = operands<2 * kD + kA + kB>(w, i);
    alignas(32) uint8_t a[M][K], b[K][8];
    unpack_a<uint8_t, K, 4>(w, o + kD, M, a);
    unpack_b<uint8_t, K, 4>(w, o + kD + kA, b);
    const uint32_t* oc = o + kD + kA + kB;
    for (int r = 0; r < M; ++r) {
        int32_t sum[8] = {};  // of at most 32 products below 2^16
        for (int k = 0; k < K; ++k)
            for (int j = 0; j < 8; ++j) sum[j] += static_cast<int32_t>(static_cast<A>(a[r][k])) * static_cast<int32_t>(static_cast<B>(b[k][j]));
        for (int j = 0; j < 8; ++j) {
            const int n = 2 * (r / 8) + j / 4, lane = 4 * (r % 8) + j % 4;
            const int64_t exact = static_cast<int64_t>(source<int32_t>(w, oc[n])[lane]) + sum[j];
            const int64_t clamped = exact > INT32_MAX ? INT32_MAX : exact < INT32_MIN ? INT32_MIN : exact;
            destination<uint32_t>(w, o[n])[lane] = static_cast<uint32_t>(i.mode ? clamped : exact);
        }
    }
    if (w.launch->counting) count_mma<K, M>(w);
}

void mma_f64(Warp& w, const Insn& i, Mask m) {  // m8n8k4: thread 4 r + t holds A[r][t], B[t][r], C[r][2 t] and the next
    if (!whole_warp(w, i, m, "mma")) return;
    const uint32_t* o = operands<6>(w, i);
    const double *a = source<double>(w, o[2]), *b = source<double>(w, o[3]);
    double sum[8][8];
    for (int r = 0; r < 8; ++r) {
        for (int j = 0; j < 8; ++j) {
            sum[r][j] = source<double>(w, o[4 + j % 2])[4 * r + j / 2];
            for (int k = 0; k < 4; ++k) sum[r][j] = std::fma(a[4 * r + k], b[4 * j + k], sum[r][j]);
        }
    }
    for (int r = 0; r < 8; ++r)
        for (int j = 0; j < 8; ++j) destination<double>(w, o[j % 2])[4 * r + j / 2] = sum[r][j];
    if (w.launch->counting) count_mma<4, 8>(w);
}

#define KW_FP8(AN, A, BN, B)                                                                                                  \
    {"mma.m16n8k32.f32." AN "." BN ".f32", "RRRRrrrrrrrrrr", mma_fp8<A, B, 32, false>, kApprox},                              \
        {"mma.m16n8k32.f16." AN "." BN ".f16", "RRrrrrrrrr", mma_fp8<A, B, 32, true>, kApprox},                               \
        {"mma.m16n8k16.f32." AN "." BN ".f32", "RRRRrrrrrrr", mma_fp8<A, B, 16, false>, kApprox},                             \
        {"mma.m16n8k16.f16." AN "." BN ".f16", "RRrrrrr", mma_fp8<A, B, 16, true>, kApprox}
#define KW_S32(AN, A, BN, B)                                                                                                  \
    {"mma.m8n8k16.s32." AN "." BN ".s32", "RRrrrr", mma_s32<A, B, 8, 16>},                                                    \
        {"mma.m16n8k16.s32." AN "." BN ".s32", "RRRRrrrrrrr", mma_s32<A, B, 16, 16>},                                         \
        {"mma.m16n8k32.s32." AN "." BN ".s32", "RRRRrrrrrrrrrr", mma_s32<A, B, 16, 32>}

constexpr Fidelity kApprox = Fidelity::Approximate;

const Form kForms[] = {
    {"ldmatrix.x1", "Rm", ldmatrix<1, false>}, {"ldmatrix.x2", "RRm", ldmatrix<2, false>}, {"ldmatrix.x4", "RRRRm", ldmatrix<4, false>},
    {"ldmatrix.x1.trans", "Rm", ldmatrix<1, true>}, {"ldmatrix.x2.trans", "RRm", ldmatrix<2, true>},
    {"ldmatrix.x4.trans", "RRRRm", ldmatrix<4, true>},
    {"movmatrix.trans", "Rr", movmatrix},
    {"stmatrix.x1", "mr", stmatrix<1, false>}, {"stmatrix.x2", "mrr", stmatrix<2, false>}, {"stmatrix.x4", "mrrrr", stmatrix<4, false>},
    {"stmatrix.x1.trans", "mr", stmatrix<1, true>}, {"stmatrix.x2.trans", "mrr", stmatrix<2, true>}, {"stmatrix.x4.trans", "mrrrr", stmatrix<4, true>},
    {"mma.m16n8k16.f32.f16.f16.f32", "RRRRrrrrrrrrrr", mma_f32<HalfType, 16>, kApprox},
    {"mma.m16n8k16.f32.bf16.bf16.f32", "RRRRrrrrrrrrrr", mma_f32<BfloatType, 16>, kApprox},
    {"mma.m16n8k8.f32.f16.f16.f32", "RRRRrrrrrrr", mma_f32<HalfType, 8>, kApprox},
    {"mma.m16n8k8.f32.bf16.bf16.f32", "RRRRrrrrrrr", mma_f32<BfloatType, 8>, kApprox},
    {"mma.m16n8k16.f16.f16.f16.f16", "RRrrrrrrrr", mma_f16<16>, kApprox},
    {"mma.m16n8k8.f16.f16.f16.f16", "RRrrrrr", mma_f16<8>, kApprox},
    {"mma.m16n8k8.f32.tf32.tf32.f32", "RRRRrrrrrrrrrr", mma_tf32<8>, kApprox},
    {"mma.m16n8k4.f32.tf32.tf32.f32", "RRRRrrrrrrr", mma_tf32<4>, kApprox},
    {"mma.m8n8k4.f64.f64.f64.f64", "LLllll", mma_f64, kApprox},
    KW_FP8("e4m3", E4m3Type, "e4m3", E4m3Type), KW_FP8("e4m3", E4m3Type, "e5m2", E5m2Type),
    KW_FP8("e5m2", E5m2Type, "e4m3", E4m3Type), KW_FP8("e5m2", E5m2Type, "e5m2", E5m2Type),
    KW_S32("s8", int8_t, "s8", int8_t), KW_S32("s8", int8_t, "u8", uint8_t), KW_S32("u8", uint8_t, "s8", int8_t), KW_S32("u8", uint8_t, "u8", uint8_t),
};

}  // namespace

FormTable matrix_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
