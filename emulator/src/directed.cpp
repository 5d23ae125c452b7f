// Arithmetic that rounds toward zero, down or up, by the processor's rounding mode (PTX ISA, ".rz", ".rm", ".rp").
// SPDX-License-Identifier: Apache-2.0
#include <cfenv>
#include <cmath>

#include "half.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

struct Add { template <class T> static T f(T a, T b, T) { return a + b; } };
struct Sub { template <class T> static T f(T a, T b, T) { return a - b; } };
struct Mul { template <class T> static T f(T a, T b, T) { return a * b; } };
struct Div { template <class T> static T f(T a, T b, T) { return a / b; } };
struct Rcp { template <class T> static T f(T a, T, T) { return T(1) / a; } };
struct Sqrt { static float f(float a, float, float) { return __builtin_sqrtf(a); } static double f(double a, double, double) { return __builtin_sqrt(a); } };
struct Fma {
    static float f(float a, float b, float c) { return std::fma(a, b, c); }
    static double f(double a, double b, double c) { return std::fma(a, b, c); }
};

static inline double flush(double x) { return x; }

// The compiler knows nothing of rounding modes: what f reads comes from memory, and what it gives goes there, between
// two points that it may not move memory accesses across.
#define KW_FENCE __asm__ volatile("" ::: "memory")

template <class F, class T, int Operands, int Mode, bool Flush, bool Saturate>
void directed(Warp& w, const Insn& i, Mask m) {
    alignas(64) T a[kLanes], b[kLanes], c[kLanes], out[kLanes];
    std::memcpy(a, source<T>(w, i.o[1]), sizeof a);
    std::memcpy(b, source<T>(w, i.o[Operands > 1 ? 2 : 1]), sizeof b);
    std::memcpy(c, source<T>(w, i.o[Operands > 2 ? 3 : 1]), sizeof c);
    if (Flush) {
        for (int l = 0; l < kLanes; ++l) a[l] = KW_ISA::flush(a[l]), b[l] = KW_ISA::flush(b[l]), c[l] = KW_ISA::flush(c[l]);
    }
    // The addresses have escaped, so the fences keep reads and writes of the arrays in their place.
    __asm__ volatile("" : : "r"(a), "r"(b), "r"(c), "r"(out) : "memory");
    std::fesetround(Mode);
    KW_FENCE;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        out[l] = F::f(a[l], b[l], c[l]);
    }
    KW_FENCE;
    std::fesetround(FE_TONEAREST);
    KW_FENCE;
    map_active(destination<T>(w, i.o[0]), m, [&out](int l) {
        const T x = Flush ? KW_ISA::flush(out[l]) : out[l];
        return Saturate ? (x > T(1) ? T(1) : x > T(0) ? x : T(0)) : x;
    });
}

constexpr Fidelity kExact = Fidelity::Exact;
constexpr CountAs kFp32 = CountAs::Fp32, kMufu = CountAs::Mufu, kNone = CountAs::Nothing;

#define KW_MODES(NAME, TAIL, SIG, F, T, N, FLUSH, SAT, COUNT)                                          \
    {NAME ".rz" TAIL, SIG, directed<F, T, N, FE_TOWARDZERO, FLUSH, SAT>, kExact, COUNT},               \
        {NAME ".rm" TAIL, SIG, directed<F, T, N, FE_DOWNWARD, FLUSH, SAT>, kExact, COUNT},             \
        {NAME ".rp" TAIL, SIG, directed<F, T, N, FE_UPWARD, FLUSH, SAT>, kExact, COUNT}
#define KW_ALL(NAME, SIG32, SIG64, F, N)                                                               \
    KW_MODES(NAME, ".f32", SIG32, F, float, N, false, false, kFp32), KW_MODES(NAME, ".ftz.f32", SIG32, F, float, N, true, false, kFp32), \
        KW_MODES(NAME, ".sat.f32", SIG32, F, float, N, false, true, kFp32), KW_MODES(NAME, ".ftz.sat.f32", SIG32, F, float, N, true, true, kFp32), \
        KW_MODES(NAME, ".f64", SIG64, F, double, N, false, false, kNone)
#define KW_SLOW(NAME, SIG32, SIG64, F, N)                                                              \
    KW_MODES(NAME, ".f32", SIG32, F, float, N, false, false, kMufu), KW_MODES(NAME, ".ftz.f32", SIG32, F, float, N, true, false, kMufu), \
        KW_MODES(NAME, ".f64", SIG64, F, double, N, false, false, kNone)

const Form kForms[] = {
    KW_ALL("add", "Rrr", "Lll", Add, 2), KW_ALL("sub", "Rrr", "Lll", Sub, 2), KW_ALL("mul", "Rrr", "Lll", Mul, 2),
    KW_ALL("fma", "Rrrr", "Llll", Fma, 3), KW_ALL("mad", "Rrrr", "Llll", Fma, 3),
    KW_SLOW("div", "Rrr", "Lll", Div, 2), KW_SLOW("rcp", "Rr", "Ll", Rcp, 1), KW_SLOW("sqrt", "Rr", "Ll", Sqrt, 1),
};

}  // namespace

FormTable directed_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
