// wmma.load, wmma.store and wmma.mma of f16 (PTX ISA, "Warp Level Matrix Instructions").
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "access.h"
#include "half.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

// Which element of a matrix a thread's fragment holds is each GPU's own affair; a program may only know that loads, mma and
// stores agree. Here element e, counted row by row, is the (e / 32)-th of lane e % 32. What has room for more elements than
// there are, A and B, repeats them.
static inline bool whole_warp(Warp& w, const Insn& i, Mask m) {
    if (__builtin_expect(m == kFullMask, 1)) return true;
    report(w, i, __builtin_ctz(~m), "divergent_warp", "wmma is executed by only some of the warp's 32 threads; every thread must reach it together");
    return false;
}

template <class T>
static inline T element(Warp& w, const uint32_t* o, int e) {
    constexpr int kPacked = 4 / sizeof(T);
    const int nth = e / kLanes;
    return source<T>(w, o[nth / kPacked])[e % kLanes * kPacked + nth % kPacked];
}
template <class T>
static inline void set_element(Warp& w, const uint32_t* o, int e, T value) {
    constexpr int kPacked = 4 / sizeof(T);
    const int nth = e / kLanes;
    destination<T>(w, o[nth / kPacked])[e % kLanes * kPacked + nth % kPacked] = value;
}

template <class T>
static inline bool is_uniform(const T* value) {
    return std::all_of(value, value + kLanes, [&](T other) { return other == value[0]; });
}

// Calls f(p, e, step, count) for each run of `count` elements that lie one after another at p: e, e + step, ... are their
// numbers in the matrix. A run is one access of 16 bytes by one lane. Of `o`, the address, the stride and a register of 64
// bits for the lanes' addresses, which may be the address's own.
template <int Rows, int Columns, class T, class F>
static inline void each_run(Warp& w, const Insn& i, const uint32_t* address, const uint32_t* stride_and_scratch, int access, F f) {
    constexpr int kRun = 16 / sizeof(T), kRuns = Rows * Columns / kRun;
    const bool wide = (*address & kOperandWide) != 0, by_column = (i.mode & kColumnMajor) != 0;
    const uint32_t* stride = source<uint32_t>(w, stride_and_scratch[0]);
    if (!is_uniform(stride) || !(wide ? is_uniform(source<uint64_t>(w, *address)) : is_uniform(source<uint32_t>(w, *address)))) {
        report(w, i, -1, "divergent_warp", "wmma is given an address or a stride that is not the same in all of the warp's threads");
        return;
    }
    const uint64_t base = wide ? *source<uint64_t>(w, *address) : *source<uint32_t>(w, *address), line_bytes = uint64_t{*stride} * sizeof(T);
    const int runs_in_line = (by_column ? Rows : Columns) / kRun;
    for (int first = 0; first < kRuns; first += kLanes) {
        const Mask lanes = kRuns - first >= kLanes ? kFullMask : (1u << (kRuns - first)) - 1u;
        uint64_t* at = destination<uint64_t>(w, stride_and_scratch[1]);
        KW_LANES {
            const uint64_t run = static_cast<uint64_t>(first + l), in_line = static_cast<uint64_t>(runs_in_line);
            at[l] = base + run / in_line * line_bytes + run % in_line * 16;
        }
        char* p[kLanes];
        const Mask ok = resolve(w, i, lanes, static_cast<Space>(i.mode & 7u), stride_and_scratch[1], 16, access, p);
        for (Mask left = ok; left; left &= left - 1) {
            const int l = __builtin_ctz(left), run = first + l, line = run / runs_in_line, in_line = run % runs_in_line * kRun;
            if (by_column) f(p[l], in_line * Columns + line, Columns, kRun);
            else f(p[l], line * Columns + in_line, 1, kRun);
        }
    }
}

template <int Rows, int Columns, class T, int Registers>
void load(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m)) return;
    const uint32_t* o = operands<Registers + 3>(w, i);
    T matrix[Rows * Columns] = {};
    each_run<Rows, Columns, T>(w, i, o + Registers, o + Registers + 1, kRead, [&](const char* p, int e, int step, int count) {
        for (int n = 0; n < count; ++n) std::memcpy(&matrix[e + n * step], p + static_cast<size_t>(n) * sizeof(T), sizeof(T));
    });
    constexpr int kRoom = Registers * kLanes * 4 / static_cast<int>(sizeof(T));
    for (int e = 0; e < kRoom; ++e) set_element<T>(w, o, e, matrix[e % (Rows * Columns)]);
}

template <int Rows, int Columns, class T, int Registers>
void store(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m)) return;
    const uint32_t* o = operands<Registers + 3>(w, i);  // address first
    w.launch->changed = true;
    each_run<Rows, Columns, T>(w, i, o, o + 1 + Registers, kWrite, [&](char* p, int e, int step, int count) {
        for (int n = 0; n < count; ++n) {
            const T value = element<T>(w, o + 1, e + n * step);
            std::memcpy(p + static_cast<size_t>(n) * sizeof(T), &value, sizeof(T));
        }
    });
}

static inline float widen(float value) { return value; }
static inline float widen(uint16_t value) { return half_to_float(value); }
static inline void narrow(float value, float& out) { out = value; }
static inline void narrow(float value, uint16_t& out) { out = static_cast<uint16_t>(float_to_half(value)); }

// As mma: in the order of k, in fp32. Products are exact there, so that multiply and add round as fma does.
template <int M, int N, int K, class D, class C>
void multiply(Warp& w, const Insn& i, Mask m) {
    if (!whole_warp(w, i, m)) return;
    constexpr int kHalves = 8, kD = 2 * sizeof(D), kC = 2 * sizeof(C);  // registers
    const uint32_t* o = operands<kD + 2 * kHalves + kC>(w, i);
    const uint32_t *a = o + kD, *b = a + kHalves, *c = b + kHalves;
    alignas(32) float wide_b[K][N], sum[M][N];
    for (int e = 0; e < K * N; ++e) wide_b[e / N][e % N] = half_to_float(element<uint16_t>(w, b, e));
    for (int r = 0; r < M; ++r) {
        for (int j = 0; j < N; ++j) sum[r][j] = widen(element<C>(w, c, r * N + j));
        for (int k = 0; k < K; ++k) {
            const float factor = half_to_float(element<uint16_t>(w, a, r * K + k));
            for (int j = 0; j < N; ++j) sum[r][j] += factor * wide_b[k][j];
        }
    }
    for (int e = 0; e < M * N; ++e) {
        D value;
        narrow(sum[e / N][e % N], value);
        set_element<D>(w, o, e, value);
    }
    if (w.launch->counting) {
        w.launch->counters.mma += 1;
        w.launch->counters.mma_flops += 2ull * M * N * K;
    }
}

constexpr Fidelity kApprox = Fidelity::Approximate;
#define KW_WMMA(SHAPE, M, N)                                                                                          \
    {"wmma.load.a." SHAPE ".f16", "RRRRRRRRmrL", load<M, 16, uint16_t, 8>},                                           \
        {"wmma.load.b." SHAPE ".f16", "RRRRRRRRmrL", load<16, N, uint16_t, 8>},                                       \
        {"wmma.load.c." SHAPE ".f16", "RRRRmrL", load<M, N, uint16_t, 4>},                                            \
        {"wmma.load.c." SHAPE ".f32", "RRRRRRRRmrL", load<M, N, float, 8>},                                           \
        {"wmma.store.d." SHAPE ".f16", "mrrrrrL", store<M, N, uint16_t, 4>},                                          \
        {"wmma.store.d." SHAPE ".f32", "mrrrrrrrrrL", store<M, N, float, 8>},                                         \
        {"wmma.mma." SHAPE ".f16.f16", "RRRRrrrrrrrrrrrrrrrrrrrr", multiply<M, N, 16, uint16_t, uint16_t>, kApprox},          \
        {"wmma.mma." SHAPE ".f16.f32", "RRRRrrrrrrrrrrrrrrrrrrrrrrrr", multiply<M, N, 16, uint16_t, float>, kApprox},         \
        {"wmma.mma." SHAPE ".f32.f16", "RRRRRRRRrrrrrrrrrrrrrrrrrrrr", multiply<M, N, 16, float, uint16_t>, kApprox},         \
        {"wmma.mma." SHAPE ".f32.f32", "RRRRRRRRrrrrrrrrrrrrrrrrrrrrrrrr", multiply<M, N, 16, float, float>, kApprox}

const Form kForms[] = {KW_WMMA("m16n16k16", 16, 16), KW_WMMA("m8n32k16", 8, 32), KW_WMMA("m32n8k16", 32, 8)};

}  // namespace

FormTable wmma_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
