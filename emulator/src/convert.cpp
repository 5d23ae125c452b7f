// Moves, packing, conversions and special registers (PTX ISA, "Data Movement and Conversion Instructions").
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "convert_modes.h"
#include "half.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

using i8 = int8_t;
using u8 = uint8_t;
using i16 = int16_t;
using u16 = uint16_t;
using i32 = int32_t;
using u32 = uint32_t;
using i64 = int64_t;
using u64 = uint64_t;

// The lane type a value of T is kept in.
template <class T> struct LaneOf { using type = u32; };
template <> struct LaneOf<i64> { using type = u64; };
template <> struct LaneOf<u64> { using type = u64; };
template <> struct LaneOf<double> { using type = u64; };
template <class T> using Lane = typename LaneOf<T>::type;

template <class T>
void mov(Warp& w, const Insn& i, Mask m) {
    const T* a = source<T>(w, i.o[1]);
    map(destination<T>(w, i.o[0]), m, [=](int l) { return a[l]; });
}

// mov.b64 d, {lo, hi} and its relatives; the sink `_` is a register nobody reads.
void pack_2x32(Warp& w, const Insn& i, Mask m) {
    const u32* a = source<u32>(w, i.o[1]);
    const u32* b = source<u32>(w, i.o[2]);
    map(destination<u64>(w, i.o[0]), m, [=](int l) { return (static_cast<u64>(b[l]) << 32) | a[l]; });
}
void unpack_2x32(Warp& w, const Insn& i, Mask m) {
    const u64* a = source<u64>(w, i.o[2]);
    map(destination<u32>(w, i.o[0]), m, [=](int l) { return static_cast<u32>(a[l]); });
    map(destination<u32>(w, i.o[1]), m, [=](int l) { return static_cast<u32>(a[l] >> 32); });
}
void pack_2x16(Warp& w, const Insn& i, Mask m) {
    const u32* a = source<u32>(w, i.o[1]);
    const u32* b = source<u32>(w, i.o[2]);
    map(destination<u32>(w, i.o[0]), m, [=](int l) { return (b[l] << 16) | (a[l] & 0xffffu); });
}
void unpack_2x16(Warp& w, const Insn& i, Mask m) {
    alignas(64) u32 a[kLanes];  // a destination may share the source's place
    std::memcpy(a, source<u32>(w, i.o[2]), sizeof a);
    map(destination<u32>(w, i.o[0]), m, [&a](int l) { return a[l] & 0xffffu; });
    map(destination<u32>(w, i.o[1]), m, [&a](int l) { return a[l] >> 16; });
}
void pack_4x16(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = operands<5>(w, i);
    const u32 *a = source<u32>(w, o[1]), *b = source<u32>(w, o[2]), *c = source<u32>(w, o[3]), *d = source<u32>(w, o[4]);
    map(destination<u64>(w, o[0]), m, [=](int l) {
        return (a[l] & 0xffffull) | (b[l] & 0xffffull) << 16 | (c[l] & 0xffffull) << 32 | (d[l] & 0xffffull) << 48;
    });
}
void unpack_4x16(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = operands<5>(w, i);
    const u64* a = source<u64>(w, o[4]);
    for (int n = 0; n < 4; ++n) map(destination<u32>(w, o[n]), m, [=](int l) { return static_cast<u32>(a[l] >> (16 * n)) & 0xffffu; });
}

// Windows of the generic address space (PTX ISA, "cvta").
template <u64 Window, bool To>
void cvta(Warp& w, const Insn& i, Mask m) {
    const u64* a = source<u64>(w, i.o[1]);
    map(destination<u64>(w, i.o[0]), m, [=](int l) { return To ? (a[l] & ~kWindowMask) : (a[l] | Window); });
}

template <u64 Window>
void isspacep(Warp& w, const Insn& i, Mask m) {
    const u64* a = source<u64>(w, i.o[1]);
    Mask r = 0;
    for (int l = 0; l < kLanes; ++l) {
        const u64 window = a[l] & kWindowMask;
        const bool other = window == kSharedWindow || window == kLocalWindow || window == kParamWindow;
        r |= static_cast<Mask>(Window ? window == Window : !other) << l;
    }
    write_predicate(w, i.o[0], m, r);
}

template <class D, class S>
void cvt_int(Warp& w, const Insn& i, Mask m) {
    const auto* a = source<Lane<S>>(w, i.o[1]);
    auto* d = destination<Lane<D>>(w, i.o[0]);
    if (i.mode & kSaturate) {
        map_active(d, m, [=](int l) {
            const __int128 v = static_cast<S>(a[l]);
            const __int128 low = D(-1) < D(0) ? -(static_cast<__int128>(1) << (sizeof(D) * 8 - 1)) : 0;
            const __int128 high = (static_cast<__int128>(1) << (sizeof(D) * 8 - (D(-1) < D(0) ? 1 : 0))) - 1;
            return static_cast<Lane<D>>(static_cast<D>(v < low ? low : v > high ? high : v));
        });
    } else {
        map(d, m, [=](int l) { return static_cast<Lane<D>>(static_cast<D>(static_cast<S>(a[l]))); });
    }
}

static double round_by(int mode, double x) {
    switch (mode & kRoundMask) {
        case kRoundZero: return std::trunc(x);
        case kRoundDown: return std::floor(x);
        case kRoundUp: return std::ceil(x);
        default: return std::nearbyint(x);
    }
}

struct F32 { using Store = u32; static double load(u32 v, int mode) { const float x = bits_as<float>(v); return static_cast<double>(mode & kFlush ? flush(x) : x); } };
struct F64 { using Store = u64; static double load(u64 v, int) { return bits_as<double>(v); } };
struct F16 { using Store = u32; static double load(u32 v, int) { return static_cast<double>(half_to_float(v & 0xffffu)); } };
struct Bf16 { using Store = u32; static double load(u32 v, int) { return static_cast<double>(bf16_to_float(v & 0xffffu)); } };

// Out of range clamps. NaN becomes 0, or the smallest signed value where one of the two types is of 64 bits (PTX ISA, "cvt").
template <class D, class S>
void cvt_to_int(Warp& w, const Insn& i, Mask m) {
    const auto* a = source<typename S::Store>(w, i.o[1]);
    const int mode = i.mode;
    map_active(destination<Lane<D>>(w, i.o[0]), m, [=](int l) {
        const double x = round_by(mode, S::load(a[l], mode));
        constexpr bool is_signed = D(-1) < D(0);
        const double high = std::ldexp(1.0, static_cast<int>(sizeof(D)) * 8 - (is_signed ? 1 : 0)), low = is_signed ? -high : 0.0;
        D r;
        constexpr bool is_long = sizeof(D) == 8 || sizeof(typename S::Store) == 8;
        if (x != x) r = is_long ? static_cast<D>(u64(1) << (sizeof(D) * 8 - 1)) : D(0);
        else if (x >= high) r = is_signed ? static_cast<D>((u64(1) << (sizeof(D) * 8 - 1)) - 1) : static_cast<D>(~u64(0));
        else if (x < low) r = is_signed ? static_cast<D>(u64(1) << (sizeof(D) * 8 - 1)) : D(0);
        else r = static_cast<D>(x);
        return static_cast<Lane<D>>(r);
    });
}

// Next to x, towards +infinity or -infinity.
static inline float step(float x, bool up) {
    const uint32_t u = bits_as<u32>(x);
    if ((u & 0x7fffffffu) == 0) return bits_as<float>(up ? 1u : 0x80000001u);
    return bits_as<float>(up == (u >> 31 == 0) ? u + 1 : u - 1);
}
static inline double step(double x, bool up) {
    const u64 u = bits_as<u64>(x);
    if ((u & 0x7fffffffffffffffull) == 0) return bits_as<double>(up ? 1ull : 0x8000000000000001ull);
    return bits_as<double>(up == (u >> 63 == 0) ? u + 1 : u - 1);
}
// `near` is the number nearest to an exact value: below it (compare < 0), equal to it or above. Gives the rounded one.
template <class T>
static inline T direct(T near, int compare, bool is_negative, int mode) {
    const int rounding = mode & kRoundMask;
    if (rounding == kRoundNearest || compare == 0) return near;
    const bool up = rounding == kRoundUp || (rounding == kRoundZero && is_negative);
    return up == (compare < 0) ? step(near, up) : near;
}
static inline float to_f32(double x, int mode) {
    const float near = static_cast<float>(x);
    const double back = static_cast<double>(near);
    return direct(near, back < x ? -1 : back > x ? 1 : 0, x < 0, mode);
}
template <class S>
static inline double to_f64(S x, int mode) {
    const double near = static_cast<double>(x);
    const __int128 back = static_cast<__int128>(near), exact = static_cast<__int128>(x);
    return direct(near, back < exact ? -1 : back > exact ? 1 : 0, x < S(0), mode);
}
// An integer as a double that any further rounding treats as the integer itself: rounded to odd.
template <class S>
static inline double to_odd(S x) {
    const double cut = to_f64(x, kRoundZero);
    return static_cast<__int128>(cut) == static_cast<__int128>(x) ? cut : bits_as<double>(bits_as<u64>(cut) | 1u);
}

template <class S>
void cvt_int_to_f32(Warp& w, const Insn& i, Mask m) {
    const auto* a = source<Lane<S>>(w, i.o[1]);
    const int mode = i.mode;
    if (mode) {
        map_active(destination<float>(w, i.o[0]), m, [=](int l) {
            const float x = to_f32(to_odd(static_cast<S>(a[l])), mode);
            return mode & kSaturate ? (x > 1.f ? 1.f : x > 0.f ? x : 0.f) : x;
        });
        return;
    }
    map(destination<float>(w, i.o[0]), m, [=](int l) { return static_cast<float>(static_cast<S>(a[l])); });
}
template <class S>
void cvt_int_to_f64(Warp& w, const Insn& i, Mask m) {
    const auto* a = source<Lane<S>>(w, i.o[1]);
    const int mode = i.mode;
    map_active(destination<double>(w, i.o[0]), m, [=](int l) {
        const double x = to_f64(static_cast<S>(a[l]), mode);
        return mode & kSaturate ? (x > 1.0 ? 1.0 : x > 0.0 ? x : 0.0) : x;
    });
}
static inline u32 to_small(double x, int mode, bool bfloat) {
    if (mode & kToInteger) x = round_by(mode, x);
    if (mode & kSaturate) x = x > 1 ? 1 : x > 0 ? x : 0;
    if ((mode & kRelu) && x < 0) x = 0;
    const u32 infinity = bfloat ? 0x7f80u : 0x7c00u;
    const int rounding = mode & kToInteger ? static_cast<int>(kRoundNearest) : mode & kRoundMask;
    const u32 out = bfloat ? round_to_small(x, 7, -126, infinity, rounding) : round_to_small(x, 10, -14, infinity, rounding);
    return (mode & kSatFinite) && (out & 0x7fffu) == infinity ? out - 1 : out;
}
template <class S, bool Bfloat>
void cvt_int_to_small(Warp& w, const Insn& i, Mask m) {
    const auto* a = source<Lane<S>>(w, i.o[1]);
    const int mode = i.mode;
    map_active(destination<u32>(w, i.o[0]), m, [=](int l) { return to_small(to_odd(static_cast<S>(a[l])), mode, Bfloat); });
}

template <class S, bool Bfloat>
void cvt_to_small(Warp& w, const Insn& i, Mask m) {
    const auto* a = source<typename S::Store>(w, i.o[1]);
    const int mode = i.mode;
    map_active(destination<u32>(w, i.o[0]), m, [=](int l) { return to_small(S::load(a[l], mode), mode, Bfloat); });
}
template <bool Bfloat>
void cvt_pair(Warp& w, const Insn& i, Mask m) {  // d = {a: upper, b: lower}
    const float* a = source<float>(w, i.o[1]);
    const float* b = source<float>(w, i.o[2]);
    u32* d = destination<u32>(w, i.o[0]);
    const int mode = i.mode;
    if (mode == 0 && Bfloat) {
        map(d, m, [=](int l) { return (float_to_bf16(a[l]) << 16) | float_to_bf16(b[l]); });
    } else if (mode == 0 && m == kFullMask) {
        alignas(64) u32 packed[kLanes];
        pack_half2(packed, a, b);
        std::memcpy(d, packed, sizeof packed);
    } else {
        map_active(d, m, [=](int l) {
            return (to_small(static_cast<double>(a[l]), mode, Bfloat) << 16) | to_small(static_cast<double>(b[l]), mode, Bfloat);
        });
    }
}

// Two fp8 in 16 bits: `a` goes to the upper byte.
template <bool E4m3>
static inline u32 to_fp8(float x, int mode) {
    if ((mode & kRelu) && x < 0) x = 0;
    return E4m3 ? float_to_e4m3(x) : float_to_e5m2(x);
}
template <bool E4m3>
void cvt_pair_fp8(Warp& w, const Insn& i, Mask m) {
    const float* a = source<float>(w, i.o[1]);
    const float* b = source<float>(w, i.o[2]);
    const int mode = i.mode;
    map_active(destination<u32>(w, i.o[0]), m, [=](int l) { return to_fp8<E4m3>(a[l], mode) << 8 | to_fp8<E4m3>(b[l], mode); });
}
template <bool E4m3>
void cvt_half2_to_fp8(Warp& w, const Insn& i, Mask m) {
    const u32* a = source<u32>(w, i.o[1]);
    const int mode = i.mode;
    map_active(destination<u32>(w, i.o[0]), m, [=](int l) {
        return to_fp8<E4m3>(half_to_float(a[l] >> 16), mode) << 8 | to_fp8<E4m3>(half_to_float(a[l] & 0xffffu), mode);
    });
}
template <bool E4m3>
void cvt_fp8_to_half2(Warp& w, const Insn& i, Mask m) {  // exact
    const u32* a = source<u32>(w, i.o[1]);
    const int mode = i.mode;
    const auto one = [mode](u32 byte) {
        const float x = E4m3 ? e4m3_to_float(byte) : e5m2_to_float(byte);
        return float_to_half((mode & kRelu) && x < 0 ? 0.f : x);
    };
    map_active(destination<u32>(w, i.o[0]), m, [=](int l) { return one(a[l] >> 8 & 0xffu) << 16 | one(a[l] & 0xffu); });
}

template <class S>
void cvt_to_f32(Warp& w, const Insn& i, Mask m) {  // from f16, bf16, f64, and f32 itself (rounding to integers, ftz, sat)
    const auto* a = source<typename S::Store>(w, i.o[1]);
    const int mode = i.mode;
    map_active(destination<float>(w, i.o[0]), m, [=](int l) {
        double x = S::load(a[l], mode);
        if (mode & kToInteger) x = round_by(mode, x);
        float r = mode & kToInteger ? static_cast<float>(x) : to_f32(x, mode);
        if (mode & kFlush) r = flush(r);
        if (mode & kSaturate) r = r > 1.f ? 1.f : r > 0.f ? r : 0.f;
        return r;
    });
}
void cvt_half_to_f32(Warp& w, const Insn& i, Mask m) {
    const u32* a = source<u32>(w, i.o[1]);
    map(destination<float>(w, i.o[0]), m, [=](int l) { return half_to_float(a[l] & 0xffffu); });
}
void cvt_bf16_to_f32(Warp& w, const Insn& i, Mask m) {
    const u32* a = source<u32>(w, i.o[1]);
    map(destination<float>(w, i.o[0]), m, [=](int l) { return bf16_to_float(a[l] & 0xffffu); });
}
template <class S>
void cvt_to_f64(Warp& w, const Insn& i, Mask m) {
    const auto* a = source<typename S::Store>(w, i.o[1]);
    const int mode = i.mode;
    map_active(destination<double>(w, i.o[0]), m, [=](int l) {
        const double x = mode & kToInteger ? round_by(mode, S::load(a[l], mode)) : S::load(a[l], mode);
        return mode & kSaturate ? (x > 1.0 ? 1.0 : x > 0.0 ? x : 0.0) : x;
    });
}

// tf32: an fp32 number with ten stored bits of significand, the lower 13 bits zero. .rna rounds halves away from zero.
template <bool Away>
void cvt_tf32(Warp& w, const Insn& i, Mask m) {
    const u32* a = source<u32>(w, i.o[1]);
    const int mode = i.mode;
    map(destination<u32>(w, i.o[0]), m, [=](int l) {
        const u32 u = a[l];
        if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fffffffu;
        if ((mode & kRelu) && u >> 31) return 0u;
        u32 out = u;
        if ((u & 0x7fffffffu) < 0x7f800000u) out = Away ? u + 0x1000u : (mode & kRoundMask) == kRoundNearest ? u + 0xfffu + ((u >> 13) & 1u) : u;
        out &= 0xffffe000u;
        return (mode & kSatFinite) && (out & 0x7fffffffu) == 0x7f800000u ? out - 0x2000u : out;
    });
}

// cvt.pack.sat: a and b saturated, a above b, and for parts of 8 bits and less c above both.
template <int Bits, bool Signed, bool Rest>
void cvt_pack(Warp& w, const Insn& i, Mask m) {
    const i32 *a = source<i32>(w, i.o[1]), *b = source<i32>(w, i.o[2]);
    const u32* c = source<u32>(w, i.o[Rest ? 3 : 1]);
    map(destination<u32>(w, i.o[0]), m, [=](int l) {
        constexpr i32 low = Signed ? -(1 << (Bits - 1)) : 0, high = (1 << (Bits - (Signed ? 1 : 0))) - 1;
        constexpr u32 keep = (1u << Bits) - 1;
        const u32 x = static_cast<u32>(a[l] < low ? low : a[l] > high ? high : a[l]) & keep;
        const u32 y = static_cast<u32>(b[l] < low ? low : b[l] > high ? high : b[l]) & keep;
        const u32 both = x << Bits | y;
        return Rest ? both | c[l] << (2 * Bits % 32) : both;
    });
}

// Bytes in 16- and 32-bit registers.
void pack_2x8(Warp& w, const Insn& i, Mask m) {
    const u32 *a = source<u32>(w, i.o[1]), *b = source<u32>(w, i.o[2]);
    map(destination<u32>(w, i.o[0]), m, [=](int l) { return (b[l] & 255u) << 8 | (a[l] & 255u); });
}
void unpack_2x8(Warp& w, const Insn& i, Mask m) {
    alignas(64) u32 a[kLanes];  // a destination may share the source's place
    std::memcpy(a, source<u32>(w, i.o[2]), sizeof a);
    for (int n = 0; n < 2; ++n) map(destination<u32>(w, i.o[n]), m, [&a, n](int l) { return (a[l] >> (8 * n)) & 255u; });
}
void pack_4x8(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = operands<5>(w, i);
    const u32 *a = source<u32>(w, o[1]), *b = source<u32>(w, o[2]), *c = source<u32>(w, o[3]), *d = source<u32>(w, o[4]);
    map(destination<u32>(w, o[0]), m, [=](int l) { return (a[l] & 255u) | (b[l] & 255u) << 8 | (c[l] & 255u) << 16 | d[l] << 24; });
}
void unpack_4x8(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = operands<5>(w, i);
    alignas(64) u32 a[kLanes];
    std::memcpy(a, source<u32>(w, o[4]), sizeof a);
    for (int n = 0; n < 4; ++n) map(destination<u32>(w, o[n]), m, [&a, n](int l) { return (a[l] >> (8 * n)) & 255u; });
}
// mov.b128 between a pair of 64-bit registers and another; a destination may share a source's place.
void mov_2x64(Warp& w, const Insn& i, Mask m) {  // LLll
    alignas(64) u64 a[kLanes], b[kLanes];
    std::memcpy(a, source<u64>(w, i.o[2]), sizeof a);
    std::memcpy(b, source<u64>(w, i.o[3]), sizeof b);
    map(destination<u64>(w, i.o[0]), m, [&a](int l) { return a[l]; });
    map(destination<u64>(w, i.o[1]), m, [&b](int l) { return b[l]; });
}

// imm says which register; see convert_modes.h for the order.
void special(Warp& w, const Insn& i, Mask m) {
    u32* d = destination<u32>(w, i.o[0]);
    const Launch& launch = *w.launch;
    const Block& block = *w.block;
    const int which = i.imm;
    if (which < 3) return map(d, m, [&w, which](int l) { return w.tid[which][l]; });
    if (which == kLaneId) return map(d, m, [](int l) { return static_cast<u32>(l); });
    if (which >= kLaneMaskEq && which <= kLaneMaskGt) {
        return map(d, m, [which](int l) {
            const u32 eq = 1u << l, lt = eq - 1;
            return which == kLaneMaskEq ? eq : which == kLaneMaskLt ? lt : which == kLaneMaskLe ? (lt | eq) : which == kLaneMaskGe ? ~lt : ~(lt | eq);
        });
    }
    u32 value = 0;
    if (which < kCtaId) value = launch.block_dim[which - kNtid];
    else if (which < kNctaId) value = block.id[which - kCtaId];
    else if (which < kLaneId) value = launch.grid[which - kNctaId];
    else if (which == kWarpId) value = w.index;
    else if (which == kNwarpId) value = static_cast<u32>(block.warps.size());
    else if (which == kSmId) value = static_cast<u32>((block.id[0] + launch.grid[0] * (block.id[1] + launch.grid[1] * block.id[2])) % static_cast<u32>(launch.config.device.sms));
    else if (which == kNsmId) value = static_cast<u32>(launch.config.device.sms);
    else if (which == kDynamicSmem) value = launch.dynamic_shared;
    else if (which == kTotalSmem) value = block.shared_bytes;
    else if (which == kClock || which == kClockHi) value = static_cast<u32>(w.launch->counters.warp_instructions >> (which == kClock ? 0 : 32));
    else if (which == kClusterOne) value = 1;
    map(d, m, [value](int) { return value; });
}
void clock64(Warp& w, const Insn& i, Mask m) {
    const u64 value = w.launch->counters.warp_instructions;
    map(destination<u64>(w, i.o[0]), m, [value](int) { return value; });
}

#define KW_FROM(D, DN, DS)                                                                                            \
    {"cvt." DN ".u8", DS "r", cvt_int<D, u8>}, {"cvt." DN ".s8", DS "r", cvt_int<D, i8>},                             \
        {"cvt." DN ".u16", DS "r", cvt_int<D, u16>}, {"cvt." DN ".s16", DS "r", cvt_int<D, i16>},                     \
        {"cvt." DN ".u32", DS "r", cvt_int<D, u32>}, {"cvt." DN ".s32", DS "r", cvt_int<D, i32>},                     \
        {"cvt." DN ".u64", DS "l", cvt_int<D, u64>}, {"cvt." DN ".s64", DS "l", cvt_int<D, i64>},                     \
        {"cvt." DN ".f32", DS "r", cvt_to_int<D, F32>}, {"cvt." DN ".f64", DS "l", cvt_to_int<D, F64>},               \
        {"cvt." DN ".f16", DS "r", cvt_to_int<D, F16>}, {"cvt." DN ".bf16", DS "r", cvt_to_int<D, Bf16>}
#define KW_INT_TO(S, SN, SS)                                                                                          \
    {"cvt.f32." SN, "R" SS, cvt_int_to_f32<S>}, {"cvt.f64." SN, "L" SS, cvt_int_to_f64<S>},                           \
        {"cvt.f16." SN, "R" SS, cvt_int_to_small<S, false>}, {"cvt.bf16." SN, "R" SS, cvt_int_to_small<S, true>}

const Form kForms[] = {
    {"mov.b32", "Rr", mov<u32>}, {"mov.b64", "Ll", mov<u64>}, {"mov.special", "R", special}, {"mov.special64", "L", clock64},
    {"mov.b64.pack2", "Lrr", pack_2x32}, {"mov.b64.unpack2", "RRl", unpack_2x32},
    {"mov.b32.pack2", "Rrr", pack_2x16}, {"mov.b32.unpack2", "RRr", unpack_2x16},
    {"mov.b16.pack2", "Rrr", pack_2x8}, {"mov.b16.unpack2", "RRr", unpack_2x8}, {"mov.b32.pack4", "Rrrrr", pack_4x8}, {"mov.b32.unpack4", "RRRRr", unpack_4x8},
    {"mov.b128", "LLll", mov_2x64},
    {"cvt.rna.tf32.f32", "Rr", cvt_tf32<true>}, {"cvt.tf32.f32", "Rr", cvt_tf32<false>},
    {"cvt.pack.u16.s32", "Rrr", cvt_pack<16, false, false>}, {"cvt.pack.s16.s32", "Rrr", cvt_pack<16, true, false>},
    {"cvt.pack.u8.s32.b32", "Rrrr", cvt_pack<8, false, true>}, {"cvt.pack.s8.s32.b32", "Rrrr", cvt_pack<8, true, true>},
    {"cvt.pack.u4.s32.b32", "Rrrr", cvt_pack<4, false, true>}, {"cvt.pack.s4.s32.b32", "Rrrr", cvt_pack<4, true, true>},
    {"cvt.pack.u2.s32.b32", "Rrrr", cvt_pack<2, false, true>}, {"cvt.pack.s2.s32.b32", "Rrrr", cvt_pack<2, true, true>},
    {"mov.b64.pack4", "Lrrrr", pack_4x16}, {"mov.b64.unpack4", "RRRRl", unpack_4x16},
    {"cvta.global", "Ll", mov<u64>}, {"cvta.to.global", "Ll", mov<u64>}, {"cvta.const", "Ll", mov<u64>}, {"cvta.to.const", "Ll", mov<u64>},
    {"cvta.shared", "Ll", cvta<kSharedWindow, false>}, {"cvta.to.shared", "Ll", cvta<kSharedWindow, true>},
    {"cvta.local", "Ll", cvta<kLocalWindow, false>}, {"cvta.to.local", "Ll", cvta<kLocalWindow, true>},
    {"cvta.param", "Ll", cvta<kParamWindow, false>}, {"cvta.to.param", "Ll", cvta<kParamWindow, true>},
    {"isspacep.shared", "Pl", isspacep<kSharedWindow>}, {"isspacep.local", "Pl", isspacep<kLocalWindow>}, {"isspacep.global", "Pl", isspacep<0>},
    {"isspacep.param", "Pl", isspacep<kParamWindow>},
    KW_FROM(u8, "u8", "R"), KW_FROM(i8, "s8", "R"), KW_FROM(u16, "u16", "R"), KW_FROM(i16, "s16", "R"),
    KW_FROM(u32, "u32", "R"), KW_FROM(i32, "s32", "R"), KW_FROM(u64, "u64", "L"), KW_FROM(i64, "s64", "L"),
    KW_INT_TO(u8, "u8", "r"), KW_INT_TO(i8, "s8", "r"), KW_INT_TO(u16, "u16", "r"), KW_INT_TO(i16, "s16", "r"),
    KW_INT_TO(u32, "u32", "r"), KW_INT_TO(i32, "s32", "r"), KW_INT_TO(u64, "u64", "l"), KW_INT_TO(i64, "s64", "l"),
    {"cvt.f16.f32", "Rr", cvt_to_small<F32, false>}, {"cvt.bf16.f32", "Rr", cvt_to_small<F32, true>},
    {"cvt.f16.f64", "Rl", cvt_to_small<F64, false>}, {"cvt.bf16.f64", "Rl", cvt_to_small<F64, true>},
    {"cvt.f16.f16", "Rr", cvt_to_small<F16, false>}, {"cvt.bf16.f16", "Rr", cvt_to_small<F16, true>}, {"cvt.f16.bf16", "Rr", cvt_to_small<Bf16, false>},
    {"cvt.bf16.bf16", "Rr", cvt_to_small<Bf16, true>}, {"cvt.f64.bf16", "Lr", cvt_to_f64<Bf16>},
    {"cvt.f16x2.f32", "Rrr", cvt_pair<false>}, {"cvt.bf16x2.f32", "Rrr", cvt_pair<true>},
    {"cvt.e4m3x2.f32", "Rrr", cvt_pair_fp8<true>}, {"cvt.e5m2x2.f32", "Rrr", cvt_pair_fp8<false>},
    {"cvt.e4m3x2.f16x2", "Rr", cvt_half2_to_fp8<true>}, {"cvt.e5m2x2.f16x2", "Rr", cvt_half2_to_fp8<false>},
    {"cvt.f16x2.e4m3x2", "Rr", cvt_fp8_to_half2<true>}, {"cvt.f16x2.e5m2x2", "Rr", cvt_fp8_to_half2<false>},
    {"cvt.f32.f16", "Rr", cvt_half_to_f32}, {"cvt.f32.bf16", "Rr", cvt_bf16_to_f32},
    {"cvt.mode.f32.f16", "Rr", cvt_to_f32<F16>}, {"cvt.mode.f32.bf16", "Rr", cvt_to_f32<Bf16>},
    {"cvt.f32.f32", "Rr", cvt_to_f32<F32>}, {"cvt.f32.f64", "Rl", cvt_to_f32<F64>}, {"cvt.f64.f32", "Lr", cvt_to_f64<F32>},
    {"cvt.f64.f64", "Ll", cvt_to_f64<F64>}, {"cvt.f64.f16", "Lr", cvt_to_f64<F16>},
};

}  // namespace

FormTable convert_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
