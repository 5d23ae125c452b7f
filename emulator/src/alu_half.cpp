// fp16 and bf16 arithmetic, one or two values a register (PTX ISA, "Half Precision Floating Point Instructions").
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "half.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

struct Half {
    static float load(uint32_t h) { return half_to_float(h & 0xffffu); }
    static uint32_t store(double x) { return double_to_half(x); }
    static uint32_t flush(uint32_t h) { return (h & 0x7c00u) ? h : (h & 0x8000u); }
};
struct Bfloat {
    static float load(uint32_t h) { return bf16_to_float(h & 0xffffu); }
    static uint32_t store(double x) { return double_to_bf16(x); }
    static uint32_t flush(uint32_t h) { return h; }
};

// Sums and products of two values are exact in double to more than twice the result's precision, so rounding once more
// to 16 bits gives the correctly rounded result; fma rounds to odd in between.
struct Add { static double f(double a, double b) { return a + b; } };
struct Sub { static double f(double a, double b) { return a - b; } };
struct Mul { static double f(double a, double b) { return a * b; } };
struct Fma { static double f(double a, double b, double c) { return fma_to_odd(a, b, c); } };
struct FmaRelu { static double f(double a, double b, double c) { const double x = fma_to_odd(a, b, c); return x > 0 || x != x ? x : 0.0; } };
template <bool KeepNan>
struct Max { static double f(double a, double b) { return a != a ? (KeepNan ? a : b) : b != b ? (KeepNan ? b : a) : a == b ? (std::signbit(a) ? b : a) : a > b ? a : b; } };
template <bool KeepNan>
struct Min { static double f(double a, double b) { return a != a ? (KeepNan ? a : b) : b != b ? (KeepNan ? b : a) : a == b ? (std::signbit(a) ? a : b) : a < b ? a : b; } };
struct Saturate { static double f(double x) { return x > 1 ? 1 : x > 0 ? x : 0; } };  // NaN gives +0
template <class F>
struct Sat {
    static double f(double a, double b) { return Saturate::f(F::f(a, b)); }
    static double f(double a, double b, double c) { return Saturate::f(F::f(a, b, c)); }
};
// The smaller or larger magnitude, with the product's sign.
template <class F>
struct XorSign {
    static double f(double a, double b) {
        const double x = F::f(std::fabs(a), std::fabs(b));
        return x != x ? x : std::signbit(a) != std::signbit(b) ? -x : x;
    }
};
struct Ex2 { static double f(double a) { return std::exp2(a); } };
// A result that is subnormal in bf16, as in fp32, is flushed.
struct Ex2Ftz { static double f(double a) { const double x = std::exp2(a); return x < 0x1p-126 ? 0.0 : x; } };
struct Tanh { static double f(double a) { return std::tanh(a); } };

template <class T, bool Flush>
static inline double in(uint32_t v, int shift) {
    const uint32_t h = (v >> shift) & 0xffffu;
    return static_cast<double>(T::load(Flush ? T::flush(h) : h));
}
template <class T, bool Flush>
static inline uint32_t out(double x) {
    const uint32_t h = T::store(x);
    return Flush ? T::flush(h) : h;
}

template <class F, class T, int N, bool Flush = false>
void unary(Warp& w, const Insn& i, Mask m) {
    const uint32_t* a = source<uint32_t>(w, i.o[1]);
    map_active(destination<uint32_t>(w, i.o[0]), m, [=](int l) {
        uint32_t r = 0;
        for (int n = 0; n < N; ++n) r |= out<T, Flush>(F::f(in<T, Flush>(a[l], 16 * n))) << (16 * n);
        return r;
    });
}
template <class F, class T, int N, bool Flush = false>
void binary(Warp& w, const Insn& i, Mask m) {
    const uint32_t* a = source<uint32_t>(w, i.o[1]);
    const uint32_t* b = source<uint32_t>(w, i.o[2]);
    map_active(destination<uint32_t>(w, i.o[0]), m, [=](int l) {
        uint32_t r = 0;
        for (int n = 0; n < N; ++n) r |= out<T, Flush>(F::f(in<T, Flush>(a[l], 16 * n), in<T, Flush>(b[l], 16 * n))) << (16 * n);
        return r;
    });
}
template <class F, class T, int N, bool Flush = false>
void ternary(Warp& w, const Insn& i, Mask m) {
    const uint32_t* a = source<uint32_t>(w, i.o[1]);
    const uint32_t* b = source<uint32_t>(w, i.o[2]);
    const uint32_t* c = source<uint32_t>(w, i.o[3]);
    map_active(destination<uint32_t>(w, i.o[0]), m, [=](int l) {
        uint32_t r = 0;
        for (int n = 0; n < N; ++n)
            r |= out<T, Flush>(F::f(in<T, Flush>(a[l], 16 * n), in<T, Flush>(b[l], 16 * n), in<T, Flush>(c[l], 16 * n))) << (16 * n);
        return r;
    });
}
template <uint32_t Xor, uint32_t And, bool Flush = false>
void sign(Warp& w, const Insn& i, Mask m) {
    const uint32_t* a = source<uint32_t>(w, i.o[1]);
    map(destination<uint32_t>(w, i.o[0]), m, [=](int l) {
        const uint32_t x = Flush ? Half::flush(a[l] & 0xffffu) | Half::flush(a[l] >> 16) << 16 : a[l];
        return (x ^ Xor) & And;
    });
}

constexpr Fidelity kExact = Fidelity::Exact, kApprox = Fidelity::Approximate;
constexpr CountAs kNone = CountAs::Nothing, kMufu = CountAs::Mufu;

#define KW_TYPES(NAME, SIG, SHAPE, F)                                                        \
    {NAME ".f16", SIG, SHAPE<F, Half, 1>}, {NAME ".f16x2", SIG, SHAPE<F, Half, 2>},          \
        {NAME ".ftz.f16", SIG, SHAPE<F, Half, 1, true>}, {NAME ".ftz.f16x2", SIG, SHAPE<F, Half, 2, true>}, \
        {NAME ".bf16", SIG, SHAPE<F, Bfloat, 1>}, {NAME ".bf16x2", SIG, SHAPE<F, Bfloat, 2>}

const Form kForms[] = {
    KW_TYPES("add", "Rrr", binary, Add),
    KW_TYPES("sub", "Rrr", binary, Sub),
    KW_TYPES("mul", "Rrr", binary, Mul),
    KW_TYPES("fma", "Rrrr", ternary, Fma),
    KW_TYPES("fma.relu", "Rrrr", ternary, FmaRelu),
    KW_TYPES("max", "Rrr", binary, Max<false>),
    KW_TYPES("min", "Rrr", binary, Min<false>),
    KW_TYPES("max.NaN", "Rrr", binary, Max<true>),
    KW_TYPES("min.NaN", "Rrr", binary, Min<true>),
    KW_TYPES("add.sat", "Rrr", binary, Sat<Add>),
    KW_TYPES("sub.sat", "Rrr", binary, Sat<Sub>),
    KW_TYPES("mul.sat", "Rrr", binary, Sat<Mul>),
    KW_TYPES("fma.sat", "Rrrr", ternary, Sat<Fma>),
    KW_TYPES("max.xorsign", "Rrr", binary, XorSign<Max<false>>),
    KW_TYPES("min.xorsign", "Rrr", binary, XorSign<Min<false>>),
    KW_TYPES("max.xorsign.NaN", "Rrr", binary, XorSign<Max<true>>),
    KW_TYPES("min.xorsign.NaN", "Rrr", binary, XorSign<Min<true>>),
    {"neg.ftz.f16", "Rr", sign<0x8000u, 0xffffu, true>, kExact, kNone},
    {"neg.ftz.f16x2", "Rr", sign<0x80008000u, 0xffffffffu, true>, kExact, kNone},
    {"abs.ftz.f16", "Rr", sign<0, 0x7fffu, true>, kExact, kNone},
    {"abs.ftz.f16x2", "Rr", sign<0, 0x7fff7fffu, true>, kExact, kNone},
    {"ex2.approx.f16", "Rr", unary<Ex2, Half, 1>, kApprox, kMufu},
    {"ex2.approx.f16x2", "Rr", unary<Ex2, Half, 2>, kApprox, kMufu},
    {"ex2.approx.ftz.bf16", "Rr", unary<Ex2Ftz, Bfloat, 1>, kApprox, kMufu},
    {"ex2.approx.ftz.bf16x2", "Rr", unary<Ex2Ftz, Bfloat, 2>, kApprox, kMufu},
    {"tanh.approx.f16", "Rr", unary<Tanh, Half, 1>, kApprox, kMufu},
    {"tanh.approx.f16x2", "Rr", unary<Tanh, Half, 2>, kApprox, kMufu},
    {"tanh.approx.bf16", "Rr", unary<Tanh, Bfloat, 1>, kApprox, kMufu},
    {"tanh.approx.bf16x2", "Rr", unary<Tanh, Bfloat, 2>, kApprox, kMufu},
    {"neg.f16", "Rr", sign<0x8000u, 0xffffu>, kExact, kNone},
    {"neg.f16x2", "Rr", sign<0x80008000u, 0xffffffffu>, kExact, kNone},
    {"neg.bf16", "Rr", sign<0x8000u, 0xffffu>, kExact, kNone},
    {"neg.bf16x2", "Rr", sign<0x80008000u, 0xffffffffu>, kExact, kNone},
    {"abs.f16", "Rr", sign<0, 0x7fffu>, kExact, kNone},
    {"abs.f16x2", "Rr", sign<0, 0x7fff7fffu>, kExact, kNone},
    {"abs.bf16", "Rr", sign<0, 0x7fffu>, kExact, kNone},
    {"abs.bf16x2", "Rr", sign<0, 0x7fff7fffu>, kExact, kNone},
};

}  // namespace

FormTable half_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
