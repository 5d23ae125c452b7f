// wgmma.mma_async (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate"): one warp's sixteen rows of D = A B + D.
// SPDX-License-Identifier: Apache-2.0
#include "access.h"
#include "half.h"
#include "tables.h"
#include "wgmma_state.h"

namespace kw {
namespace KW_ISA {
namespace {

constexpr int kMaxColumns = 256, kChunk = 16;  // a matrix in shared memory is made of chunks of 16 bytes

// PTX ISA, "Matrix Descriptor Format".
struct Descriptor {
    uint32_t start, leading, stride, base, span;  // bytes, but for `base`, which is in units of 128
    explicit Descriptor(uint64_t bits)
        : start(static_cast<uint32_t>(bits & 0x3fffu) << 4), leading(static_cast<uint32_t>(bits >> 16 & 0x3fffu) << 4),
          stride(static_cast<uint32_t>(bits >> 32 & 0x3fffu) << 4), base(static_cast<uint32_t>(bits >> 49 & 7u)),
          span(bits >> 62 == 0 ? 0 : 256u >> (bits >> 62)) {}
    // The chunk at a distance from the start: bits 4 to 6 of the address are swizzled by bits 7 to 9, counted from `base` on.
    uint32_t place(uint32_t distance) const {
        const uint32_t at = start + distance;
        return span ? at ^ (((at >> 7) - base) & (span / 16 - 1)) << 4 : at;
    }
    // K-major: chunk c of the two that hold a row's k (PTX ISA, "Strides", in units of 16 bytes).
    uint32_t along_k(uint32_t row, uint32_t c) const { return place((row / 8) * stride + (row % 8) * (span ? span : 16u) + c * (span ? 16u : leading)); }
    // MN-major: the chunk of eight rows (or columns) number c, at k.
    uint32_t along_mn(uint32_t c, uint32_t k) const {
        if (!span) return place(c * stride + (k % 8) * 16 + (k / 8) * leading);
        const uint32_t chunks = span / 16;
        return place((c / chunks) * leading + (c % chunks) * 16 + (k / 8) * stride + (k % 8) * span);
    }
};

// Reads chunks of shared memory for the async proxy.
class Reader {
   public:
    Reader(Warp& w, const Insn& i) : w_(w), i_(i), component_(w.launch->checks.race ? wgmma_component(w) : 0) {}
    // 16 bytes, or null and a finding.
    const char* chunk(uint32_t at) {
        if (at + uint64_t{kChunk} > w_.block->shared_bytes) {
            if (!outside_) report_shared_bounds(w_, i_, -1, at, kChunk);
            outside_ = true;
            return kZeros;
        }
        if (w_.launch->shadowed && __builtin_expect(!all_written(w_.block->shadow + at, kChunk), 0)) report_shared_read(w_, i_, -1, at, kChunk);
        if (w_.launch->checks.race) {
            w_.block->races.async_read(w_, i_, kWholeWarp, at, kChunk, component_, w_.wgmma_committed);
            const uint32_t layout = w_.block->layouts[at / kGranule];
            if (__builtin_expect(layout && layout != span_ + 1, 0)) judge_layout(at, layout - 1);
        }
        return w_.block->shared + at;
    }
    void of(const Descriptor& descriptor) { span_ = descriptor.span; }

   private:
    // What TMA has put there lies otherwise than the descriptor says.
    void judge_layout(uint32_t at, uint32_t copied) {
        if (mixed_ || !w_.block->races.is_copied(at)) return;
        mixed_ = true;
        report(w_, i_, -1, "wgmma", "reads byte " + std::to_string(at) + " of shared memory by a descriptor with " + name(span_) + ", where a copy with " + name(copied) +
                   " has put it; both must have the same swizzle");
    }
    static std::string name(uint32_t span) { return span ? "a swizzle of " + std::to_string(span) + " bytes" : std::string("no swizzle"); }

    alignas(16) static constexpr char kZeros[kChunk] = {};
    Warp& w_;
    const Insn& i_;
    uint32_t component_, span_ = 0;
    bool outside_ = false, mixed_ = false;
};
constexpr char Reader::kZeros[kChunk];

struct F16 { using Bits = uint16_t; using Value = float; static constexpr int k = 16; static Value load(Bits b) { return half_to_float(b); } };
struct Bf16 { using Bits = uint16_t; using Value = float; static constexpr int k = 16; static Value load(Bits b) { return bf16_to_float(b); } };
struct Tf32 { using Bits = uint32_t; using Value = float; static constexpr int k = 8; static Value load(Bits b) { return bits_as<float>(b & 0xffffe000u); } };
struct E4m3 { using Bits = uint8_t; using Value = float; static constexpr int k = 32; static Value load(Bits b) { return e4m3_to_float(b); } };
struct E5m2 { using Bits = uint8_t; using Value = float; static constexpr int k = 32; static Value load(Bits b) { return e5m2_to_float(b); } };
struct S8 { using Bits = uint8_t; using Value = int32_t; static constexpr int k = 32; static Value load(Bits b) { return static_cast<int8_t>(b); } };
struct U8 { using Bits = uint8_t; using Value = int32_t; static constexpr int k = 32; static Value load(Bits b) { return b; } };

// Rows `first` to `first + rows` of a matrix in shared memory, by row and k.
template <class T>
static void read_matrix(Reader& reader, const Descriptor& from, bool by_mn, uint32_t first, uint32_t rows, bool negates, typename T::Value (*out)[T::k]) {
    using Bits = typename T::Bits;
    constexpr uint32_t kOfChunk = kChunk / sizeof(Bits);
    reader.of(from);
    Bits bits[kOfChunk];
    if (!by_mn) {
        for (uint32_t r = 0; r < rows; ++r) {
            for (uint32_t c = 0; c < 2; ++c) {
                std::memcpy(bits, reader.chunk(from.along_k(first + r, c)), sizeof bits);
                for (uint32_t e = 0; e < kOfChunk; ++e) out[r][c * kOfChunk + e] = negates ? -T::load(bits[e]) : T::load(bits[e]);
            }
        }
        return;
    }
    for (uint32_t c = 0; c < rows / kOfChunk; ++c) {  // 16-bit elements only, eight in a chunk
        for (uint32_t k = 0; k < T::k; ++k) {
            std::memcpy(bits, reader.chunk(from.along_mn(first / kOfChunk + c, k)), sizeof bits);
            for (uint32_t e = 0; e < kOfChunk; ++e) out[c * kOfChunk + e][k] = negates ? -T::load(bits[e]) : T::load(bits[e]);
        }
    }
}

// Register n of A holds, for thread 4 r + t, row r + 8 (n % 2) and the columns of W elements from W t + 4 W (n / 2) on.
template <class T>
static void read_registers(const Warp& w, const uint32_t* o, bool negates, typename T::Value (*out)[T::k]) {
    using Bits = typename T::Bits;
    constexpr int W = 4 / sizeof(Bits);
    for (int n = 0; n < 4; ++n) {
        const Bits* from = reinterpret_cast<const Bits*>(source<uint32_t>(w, o[n]));
        for (int l = 0; l < kLanes; ++l)
            for (int e = 0; e < W; ++e) {
                const auto value = T::load(from[W * l + e]);
                out[l / 4 + 8 * (n % 2)][W * (l % 4) + 4 * W * (n / 2) + e] = negates ? -value : value;
            }
    }
}

// Accumulator n of thread 4 r + t is in row r + 8 (n / 2 % 2) and column 8 (n / 4) + 2 t + n % 2.
template <class Value>
static void read_sum(const Warp& w, const uint32_t* o, int columns, Value (*c)[kMaxColumns]) {
    for (int n = 0; n < columns / 2; ++n) {
        const Value* from = source<Value>(w, o[n]);
        for (int l = 0; l < kLanes; ++l) c[l / 4 + 8 * (n / 2 % 2)][8 * (n / 4) + 2 * (l % 4) + n % 2] = from[l];
    }
}
template <class Value>
static void write_sum(Warp& w, const uint32_t* o, int columns, const Value (*c)[kMaxColumns]) {
    for (int n = 0; n < columns / 2; ++n) {
        Value* to = destination<Value>(w, o[n]);
        for (int l = 0; l < kLanes; ++l) to[l] = c[l / 4 + 8 * (n / 2 % 2)][8 * (n / 4) + 2 * (l % 4) + n % 2];
    }
}
// fp16: two neighbouring columns a register.
static void read_half_sum(const Warp& w, const uint32_t* o, int columns, float (*c)[kMaxColumns]) {
    for (int n = 0; n < columns / 4; ++n) {
        const uint32_t* from = source<uint32_t>(w, o[n]);
        for (int l = 0; l < kLanes; ++l) {
            float* to = &c[l / 4 + 8 * (n % 2)][8 * (n / 2) + 2 * (l % 4)];
            to[0] = half_to_float(from[l] & 0xffffu);
            to[1] = half_to_float(from[l] >> 16);
        }
    }
}
static void write_half_sum(Warp& w, const uint32_t* o, int columns, const float (*c)[kMaxColumns]) {
    for (int n = 0; n < columns / 4; ++n) {
        uint32_t* to = destination<uint32_t>(w, o[n]);
        for (int l = 0; l < kLanes; ++l) {
            const float* from = &c[l / 4 + 8 * (n % 2)][8 * (n / 2) + 2 * (l % 4)];
            to[l] = float_to_half(from[0]) | float_to_half(from[1]) << 16;
        }
    }
}

static inline int32_t add_product(int32_t sum, int32_t a, int32_t b) { return static_cast<int32_t>(static_cast<uint32_t>(sum) + static_cast<uint32_t>(a * b)); }
// Products are exact in fp32: multiply and add round as fma does.
static inline float add_product(float sum, float a, float b) { return sum + a * b; }

// Sums in order of k, as mma does here; the hardware aligns and truncates.
template <class A, class B, bool HalfSum>
void product(Warp& w, const Insn& i, Mask m) {
    using Value = typename A::Value;
    if (m != kFullMask) {
        report(w, i, __builtin_ctz(~m), "divergent_warp", "wgmma is executed by only some of the warp's 32 threads; every thread must reach it together");
        return;
    }
    const int columns = i.imm;
    const uint32_t count = static_cast<uint32_t>(HalfSum ? columns / 4 : columns / 2);
    const uint32_t *o = w.ext + i.ext, *oa = o + count;
    const bool a_in_registers = (i.mode & kAInRegisters) != 0;
    const Mask scale = read_predicate(w, i.o[0]);
    if (scale != 0 && scale != kFullMask) report(w, i, __builtin_ctz(~scale), "wgmma", "scale-d differs between the threads of a warp");
    wgmma_issue(w, i, o, count, oa, a_in_registers ? 4 : 0, static_cast<uint32_t>(columns) | (HalfSum ? 1u << 16 : 1u << 17));
    alignas(64) static thread_local Value a[16][A::k], b[kMaxColumns][A::k], bt[A::k][kMaxColumns], c[16][kMaxColumns];
    Reader reader(w, i);
    const uint32_t quarter = w.index % 4;
    if (a_in_registers) read_registers<A>(w, oa, (i.mode & kNegatesA) != 0, a);
    else read_matrix<A>(reader, Descriptor(source<uint64_t>(w, oa[0])[0]), (i.mode & kTransposesA) != 0, 16 * quarter, 16, (i.mode & kNegatesA) != 0, a);
    read_matrix<B>(reader, Descriptor(source<uint64_t>(w, oa[a_in_registers ? 4 : 1])[0]), (i.mode & kTransposesB) != 0, 0, static_cast<uint32_t>(columns),
                   (i.mode & kNegatesB) != 0, b);
    for (int n = 0; n < columns; ++n)
        for (int k = 0; k < A::k; ++k) bt[k][n] = b[n][k];
    if (!scale) std::memset(c, 0, sizeof c);
    else if constexpr (HalfSum) read_half_sum(w, o, columns, c);
    else read_sum<Value>(w, o, columns, c);
    for (int r = 0; r < 16; ++r) {
        Value* row = c[r];
        if (i.mode & kSaturatesSum) {
            for (int n = 0; n < columns; ++n) {
                int64_t exact = static_cast<int64_t>(row[n]);
                for (int k = 0; k < A::k; ++k) exact += static_cast<int64_t>(a[r][k]) * static_cast<int64_t>(bt[k][n]);
                row[n] = static_cast<Value>(exact > INT32_MAX ? INT32_MAX : exact < INT32_MIN ? INT32_MIN : exact);
            }
            continue;
        }
        for (int k = 0; k < A::k; ++k) {
            const Value factor = a[r][k];
            for (int n = 0; n < columns; ++n) row[n] = add_product(row[n], factor, bt[k][n]);
        }
    }
    if constexpr (HalfSum) write_half_sum(w, o, columns, c);
    else write_sum<Value>(w, o, columns, c);
    if (w.launch->counting) {
        w.launch->counters.wgmma += quarter == 0;
        w.launch->counters.wgmma_flops += 2ull * 16 * static_cast<uint64_t>(columns) * A::k;
    }
}

void fence(Warp& w, const Insn&, Mask) { wgmma_fence(w); }
void commit(Warp& w, const Insn&, Mask) { wgmma_commit(w); }

constexpr Fidelity kApprox = Fidelity::Approximate;
#define KW_FP8(AN, A, BN, B) {"wgmma.f32." AN "." BN, "", product<A, B, false>, kApprox}, {"wgmma.f16." AN "." BN, "", product<A, B, true>, kApprox}

const Form kForms[] = {
    {"wgmma.fence", "", fence}, {"wgmma.commit_group", "", commit},
    {"wgmma.f32.f16.f16", "", product<F16, F16, false>, kApprox}, {"wgmma.f16.f16.f16", "", product<F16, F16, true>, kApprox},
    {"wgmma.f32.bf16.bf16", "", product<Bf16, Bf16, false>, kApprox}, {"wgmma.f32.tf32.tf32", "", product<Tf32, Tf32, false>, kApprox},
    KW_FP8("e4m3", E4m3, "e4m3", E4m3), KW_FP8("e4m3", E4m3, "e5m2", E5m2), KW_FP8("e5m2", E5m2, "e4m3", E4m3), KW_FP8("e5m2", E5m2, "e5m2", E5m2),
    {"wgmma.s32.s8.s8", "", product<S8, S8, false>}, {"wgmma.s32.s8.u8", "", product<S8, U8, false>},
    {"wgmma.s32.u8.s8", "", product<U8, S8, false>}, {"wgmma.s32.u8.u8", "", product<U8, U8, false>},
};

}  // namespace

FormTable wgmma_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
