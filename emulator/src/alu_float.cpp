// Single- and double-precision arithmetic (PTX ISA, "Floating Point Instructions").
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "half.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

constexpr float kNan = __builtin_nanf("");

struct Add { template <class T> static T f(T a, T b) { return a + b; } };
struct Sub { template <class T> static T f(T a, T b) { return a - b; } };
struct Mul { template <class T> static T f(T a, T b) { return a * b; } };
struct Fma {
    static float f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
    static double f(double a, double b, double c) { return __builtin_fma(a, b, c); }
};
struct Div { template <class T> static T f(T a, T b) { return a / b; } };
struct Rcp { template <class T> static T f(T a) { return T(1) / a; } };
struct Sqrt { static float f(float a) { return __builtin_sqrtf(a); } static double f(double a) { return __builtin_sqrt(a); } };
struct Rsqrt { static float f(float a) { return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(a))); } };
struct Neg { static float f(float a) { return bits_as<float>(bits_as<uint32_t>(a) ^ 0x80000000u); } static double f(double a) { return -a; } };
struct Abs { static float f(float a) { return bits_as<float>(bits_as<uint32_t>(a) & 0x7fffffffu); } static double f(double a) { return __builtin_fabs(a); } };
struct CopySign { static float f(float a, float b) { return __builtin_copysignf(b, a); } static double f(double a, double b) { return __builtin_copysign(b, a); } };
// .approx.ftz.f64: the upper half of the result, without subnormals.
template <bool Root>
struct Coarse {
    static double f(double a) {
        const double x = flush64(a), y = Root ? 1.0 / __builtin_sqrt(x) : 1.0 / x;
        return y != y ? y : bits_as<double>(bits_as<uint64_t>(flush64(y)) & 0xffffffff00000000ull);
    }
    static double flush64(double x) {
        const uint64_t u = bits_as<uint64_t>(x);
        return bits_as<double>((u & 0x7ff0000000000000ull) ? u : (u & 0x8000000000000000ull));
    }
};
struct Rsqrt64 { static double f(double a) { return 1.0 / __builtin_sqrt(a); } };

// A NaN operand loses to a number; +0 is larger than -0 (PTX ISA, "max", "min").
template <bool Max, bool KeepNan>
struct Extreme {
    static float f(float a, float b) {
        const uint32_t ua = bits_as<uint32_t>(a), ub = bits_as<uint32_t>(b);
        const uint32_t equal = Max ? (ua & ub) : (ua | ub);
        const bool first = Max ? a > b : a < b;
        uint32_t out = first ? ua : ub;
        out = a == b ? equal : out;
        out = b != b ? ua : out;
        out = (KeepNan ? a != a || b != b : a != a && b != b) ? 0x7fffffffu : out;
        return bits_as<float>(out);
    }
    static double f(double a, double b) { return a != a ? b : b != b ? a : a == b ? (__builtin_signbit(a) == !Max ? a : b) : (Max ? a > b : a < b) ? a : b; }
};

// The smaller or larger magnitude, with the product's sign.
template <class F>
struct XorSign {
    static float f(float a, float b) {
        const float x = F::f(bits_as<float>(bits_as<uint32_t>(a) & 0x7fffffffu), bits_as<float>(bits_as<uint32_t>(b) & 0x7fffffffu));
        const uint32_t sign = (bits_as<uint32_t>(a) ^ bits_as<uint32_t>(b)) & 0x80000000u;
        return x != x ? x : bits_as<float>(bits_as<uint32_t>(x) | sign);
    }
};

// 2^x within one unit in the last place: 2^x = 2^n * p(x - n), n nearest to x, p of degree 7.
// The coefficients are the Taylor series of 2^f; at |f| <= 1/2 the remainder is below 2^-27.
struct Ex2 {
    static float f(float x) {
        const float clamped = x > 200.f ? 200.f : (x < -200.f ? -200.f : x);
        const float shifted = clamped + 12582912.f;  // 1.5 * 2^23: the integer lands in the low bits
        const int32_t n = bits_as<int32_t>(shifted) - 0x4b400000;
        const float r = clamped - (shifted - 12582912.f);
        float p = 1.52527338e-5f;
        p = p * r + 1.54035304e-4f;
        p = p * r + 1.33335581e-3f;
        p = p * r + 9.61812911e-3f;
        p = p * r + 5.55041087e-2f;
        p = p * r + 2.40226507e-1f;
        p = p * r + 6.93147181e-1f;
        p = p * r + 1.f;
        const int32_t half = n >> 1;
        const float y = p * bits_as<float>((half + 127) << 23) * bits_as<float>((n - half + 127) << 23);
        return x != x ? kNan : y;
    }
};
struct Lg2 {
    static float f(float x) { return x < 0 ? kNan : static_cast<float>(std::log2(static_cast<double>(x))); }
};
struct Sin { static float f(float x) { return static_cast<float>(std::sin(static_cast<double>(x))); } };
struct Cos { static float f(float x) { return static_cast<float>(std::cos(static_cast<double>(x))); } };
struct Tanh { static float f(float x) { return static_cast<float>(std::tanh(static_cast<double>(x))); } };

template <class F>
struct Ftz {
    static float f(float a) { return flush(F::f(flush(a))); }
    static float f(float a, float b) { return flush(F::f(flush(a), flush(b))); }
    static float f(float a, float b, float c) { return flush(F::f(flush(a), flush(b), flush(c))); }
};
static inline float saturate(float x) { return x > 1.f ? 1.f : (x > 0.f ? x : 0.f); }  // NaN gives +0
template <class F>
struct Sat {
    static float f(float a) { return saturate(F::f(a)); }
    static float f(float a, float b) { return saturate(F::f(a, b)); }
    static float f(float a, float b, float c) { return saturate(F::f(a, b, c)); }
};

template <class F, class T>
void unary(Warp& w, const Insn& i, Mask m) {
    const T* a = source<T>(w, i.o[1]);
    map(destination<T>(w, i.o[0]), m, [=](int l) { return F::f(a[l]); });
}
template <class F, class T>
void unary_each(Warp& w, const Insn& i, Mask m) {
    const T* a = source<T>(w, i.o[1]);
    map_active(destination<T>(w, i.o[0]), m, [=](int l) { return F::f(a[l]); });
}
template <class F, class T>
void binary(Warp& w, const Insn& i, Mask m) {
    const T* a = source<T>(w, i.o[1]);
    const T* b = source<T>(w, i.o[2]);
    map(destination<T>(w, i.o[0]), m, [=](int l) { return F::f(a[l], b[l]); });
}
template <class F, class T>
void ternary(Warp& w, const Insn& i, Mask m) {
    const T* a = source<T>(w, i.o[1]);
    const T* b = source<T>(w, i.o[2]);
    const T* c = source<T>(w, i.o[3]);
    map(destination<T>(w, i.o[0]), m, [=](int l) { return F::f(a[l], b[l], c[l]); });
}
using XorMax = XorSign<Extreme<true, false>>;
using XorMin = XorSign<Extreme<false, false>>;
constexpr Fidelity kExact = Fidelity::Exact, kApprox = Fidelity::Approximate;
constexpr CountAs kFp32 = CountAs::Fp32, kMufu = CountAs::Mufu;

#define KW_F32(NAME, SIG, SHAPE, F)                                                                                   \
    {NAME ".f32", SIG, SHAPE<F, float>, kExact, kFp32}, {NAME ".ftz.f32", SIG, SHAPE<Ftz<F>, float>, kExact, kFp32},  \
        {NAME ".sat.f32", SIG, SHAPE<Sat<F>, float>, kExact, kFp32},                                                  \
        {NAME ".ftz.sat.f32", SIG, SHAPE<Sat<Ftz<F>>, float>, kExact, kFp32}
#define KW_FTZ(NAME, SIG, SHAPE, F, FIDELITY, COUNT) \
    {NAME ".f32", SIG, SHAPE<F, float>, FIDELITY, COUNT}, {NAME ".ftz.f32", SIG, SHAPE<Ftz<F>, float>, FIDELITY, COUNT}

const Form kForms[] = {
    KW_F32("add", "Rrr", binary, Add),
    KW_F32("sub", "Rrr", binary, Sub),
    KW_F32("mul", "Rrr", binary, Mul),
    KW_F32("fma", "Rrrr", ternary, Fma),
    KW_F32("mad", "Rrrr", ternary, Fma),
    {"max.f32", "Rrr", binary<Extreme<true, false>, float>, kExact, kFp32},
    {"max.ftz.f32", "Rrr", binary<Ftz<Extreme<true, false>>, float>, kExact, kFp32},
    {"max.NaN.f32", "Rrr", binary<Extreme<true, true>, float>, kExact, kFp32},
    {"max.ftz.NaN.f32", "Rrr", binary<Ftz<Extreme<true, true>>, float>, kExact, kFp32},
    {"min.f32", "Rrr", binary<Extreme<false, false>, float>, kExact, kFp32},
    {"min.ftz.f32", "Rrr", binary<Ftz<Extreme<false, false>>, float>, kExact, kFp32},
    {"min.NaN.f32", "Rrr", binary<Extreme<false, true>, float>, kExact, kFp32},
    {"min.ftz.NaN.f32", "Rrr", binary<Ftz<Extreme<false, true>>, float>, kExact, kFp32},
    KW_FTZ("neg", "Rr", unary, Neg, kExact, kFp32),
    KW_FTZ("abs", "Rr", unary, Abs, kExact, kFp32),
    KW_FTZ("max.xorsign", "Rrr", binary, XorMax, kExact, kFp32),
    KW_FTZ("min.xorsign", "Rrr", binary, XorMin, kExact, kFp32),
    {"max.xorsign.NaN.f32", "Rrr", binary<XorSign<Extreme<true, true>>, float>, kExact, kFp32},
    {"min.xorsign.NaN.f32", "Rrr", binary<XorSign<Extreme<false, true>>, float>, kExact, kFp32},
    {"max.xorsign.ftz.NaN.f32", "Rrr", binary<Ftz<XorSign<Extreme<true, true>>>, float>, kExact, kFp32},
    {"min.xorsign.ftz.NaN.f32", "Rrr", binary<Ftz<XorSign<Extreme<false, true>>>, float>, kExact, kFp32},
    {"copysign.f64", "Lll", binary<CopySign, double>},
    {"rcp.approx.ftz.f64", "Ll", unary<Coarse<false>, double>, kApprox, kMufu}, {"rsqrt.approx.ftz.f64", "Ll", unary<Coarse<true>, double>, kApprox, kMufu},
    {"rsqrt.approx.f64", "Ll", unary<Rsqrt64, double>, kApprox, kMufu},
    {"copysign.f32", "Rrr", binary<CopySign, float>, kExact, kFp32},
    KW_FTZ("div", "Rrr", binary, Div, kExact, kMufu),
    KW_FTZ("div.full", "Rrr", binary, Div, kApprox, kMufu),
    KW_FTZ("div.approx", "Rrr", binary, Div, kApprox, kMufu),
    KW_FTZ("rcp", "Rr", unary, Rcp, kExact, kMufu),
    KW_FTZ("rcp.approx", "Rr", unary, Rcp, kApprox, kMufu),
    KW_FTZ("sqrt", "Rr", unary, Sqrt, kExact, kMufu),
    KW_FTZ("sqrt.approx", "Rr", unary, Sqrt, kApprox, kMufu),
    KW_FTZ("rsqrt.approx", "Rr", unary, Rsqrt, kApprox, kMufu),
    KW_FTZ("ex2.approx", "Rr", unary, Ex2, kApprox, kMufu),
    KW_FTZ("lg2.approx", "Rr", unary_each, Lg2, kApprox, kMufu),
    KW_FTZ("sin.approx", "Rr", unary_each, Sin, kApprox, kMufu),
    KW_FTZ("cos.approx", "Rr", unary_each, Cos, kApprox, kMufu),
    {"tanh.approx.f32", "Rr", unary_each<Tanh, float>, kApprox, kMufu},
    {"add.f64", "Lll", binary<Add, double>}, {"sub.f64", "Lll", binary<Sub, double>}, {"mul.f64", "Lll", binary<Mul, double>},
    {"fma.f64", "Llll", ternary<Fma, double>}, {"mad.f64", "Llll", ternary<Fma, double>}, {"div.f64", "Lll", binary<Div, double>}, {"rcp.f64", "Ll", unary<Rcp, double>},
    {"sqrt.f64", "Ll", unary<Sqrt, double>}, {"neg.f64", "Ll", unary<Neg, double>}, {"abs.f64", "Ll", unary<Abs, double>},
    {"max.f64", "Lll", binary<Extreme<true, false>, double>}, {"min.f64", "Lll", binary<Extreme<false, false>, double>},
};

}  // namespace

FormTable float_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
