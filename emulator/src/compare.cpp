// Comparison, selection and predicate logic (PTX ISA, "Comparison and Select Instructions").
// SPDX-License-Identifier: Apache-2.0
#include "convert_modes.h"
#include "half.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

// Ordered comparisons are false when an operand is NaN, the u-forms are true.
struct Eq { template <class T> static bool f(T a, T b) { return a == b; } };
struct Ne { template <class T> static bool f(T a, T b) { return (a < b) | (a > b); } };
struct Lt { template <class T> static bool f(T a, T b) { return a < b; } };
struct Le { template <class T> static bool f(T a, T b) { return a <= b; } };
struct Gt { template <class T> static bool f(T a, T b) { return a > b; } };
struct Ge { template <class T> static bool f(T a, T b) { return a >= b; } };
template <class F> struct Unordered { template <class T> static bool f(T a, T b) { return F::f(a, b) | (a != a) | (b != b); } };
struct Num { template <class T> static bool f(T a, T b) { return (a == a) & (b == b); } };
struct IsNan { template <class T> static bool f(T a, T b) { return (a != a) | (b != b); } };

template <class T> struct Plain { using Lane = T; static T load(T v) { return v; } };
template <class T> struct Short { using Lane = uint32_t; static int32_t load(uint32_t v) { return static_cast<int32_t>(static_cast<T>(v)); } };
struct Single { using Lane = float; static float load(float v) { return v; } };
struct SingleFtz { using Lane = float; static float load(float v) { return flush(v); } };
struct HalfLane { using Lane = uint32_t; static float load(uint32_t v) { return half_to_float(v & 0xffffu); } };
struct HalfFtz { using Lane = uint32_t; static float load(uint32_t v) { return half_to_float((v & 0x7c00u) ? v & 0xffffu : v & 0x8000u); } };
struct BfloatLane { using Lane = uint32_t; static float load(uint32_t v) { return bf16_to_float(v & 0xffffu); } };

template <class F, class T>
static inline Mask compare(Warp& w, uint32_t oa, uint32_t ob) {
    const auto* a = source<typename T::Lane>(w, oa);
    const auto* b = source<typename T::Lane>(w, ob);
    return mask_of([=](int l) { return F::f(T::load(a[l]), T::load(b[l])); });
}

static inline Mask combine(int mode, Mask result, Mask c) {
    return mode == 0 ? result : mode == 1 ? (result & c) : mode == 2 ? (result | c) : (result ^ c);
}

// setp p|q, a, b, c: o[0] = p, o[1] = q (or the sink), o[2] = a, o[3] = b, ext = c, mode = boolean.
// set.cmp.dtype d, a, b, c: the same with o[0] = d, and kSetValue in mode; imm holds the bits of true, -1 or 1.0f.
template <class F, class T>
void compare_into(Warp& w, const Insn& i, Mask m) {
    const Mask result = compare<F, T>(w, i.o[2], i.o[3]);
    const int boolean = i.mode & 3;
    const Mask c = boolean ? read_predicate(w, i.ext) : 0, p = combine(boolean, result, c);
    if (__builtin_expect(i.mode & kSetValue, 0)) {
        const uint32_t yes = static_cast<uint32_t>(i.imm);
        map(destination<uint32_t>(w, i.o[0]), m, [=](int l) { return (p >> l) & 1u ? yes : 0u; });
        return;
    }
    write_predicate(w, i.o[1], m, combine(boolean, ~result, c));
    write_predicate(w, i.o[0], m, p);
}

// Packed halves: setp gives one predicate for the lower and one for the upper half, set a half each.
template <class F, class T>
void compare_pair(Warp& w, const Insn& i, Mask m) {
    const uint32_t *a = source<uint32_t>(w, i.o[2]), *b = source<uint32_t>(w, i.o[3]);
    const int boolean = i.mode & 3;
    const Mask c = boolean ? read_predicate(w, i.ext) : 0;
    const Mask low = combine(boolean, mask_of([=](int l) { return F::f(T::load(a[l]), T::load(b[l])); }), c);
    const Mask high = combine(boolean, mask_of([=](int l) { return F::f(T::load(a[l] >> 16), T::load(b[l] >> 16)); }), c);
    if (i.mode & kSetValue) {
        const uint32_t yes = static_cast<uint32_t>(i.imm);
        map(destination<uint32_t>(w, i.o[0]), m, [=](int l) { return ((low >> l) & 1u ? yes & 0xffffu : 0u) | ((high >> l) & 1u ? yes & 0xffff0000u : 0u); });
        return;
    }
    write_predicate(w, i.o[0], m, low);
    write_predicate(w, i.o[1], m, high);
}

template <class T>
void selp(Warp& w, const Insn& i, Mask m) {
    const T* a = source<T>(w, i.o[1]);
    const T* b = source<T>(w, i.o[2]);
    const Mask p = read_predicate(w, i.o[3]);
    map(destination<T>(w, i.o[0]), m, [=](int l) { return (p >> l) & 1u ? a[l] : b[l]; });
}
template <class T, class C>
void slct(Warp& w, const Insn& i, Mask m) {
    const T* a = source<T>(w, i.o[1]);
    const T* b = source<T>(w, i.o[2]);
    const C* c = source<C>(w, i.o[3]);
    map(destination<T>(w, i.o[0]), m, [=](int l) { return c[l] >= 0 ? a[l] : b[l]; });
}

void and_pred(Warp& w, const Insn& i, Mask m) { write_predicate(w, i.o[0], m, read_predicate(w, i.o[1]) & read_predicate(w, i.o[2])); }
void or_pred(Warp& w, const Insn& i, Mask m) { write_predicate(w, i.o[0], m, read_predicate(w, i.o[1]) | read_predicate(w, i.o[2])); }
void xor_pred(Warp& w, const Insn& i, Mask m) { write_predicate(w, i.o[0], m, read_predicate(w, i.o[1]) ^ read_predicate(w, i.o[2])); }
void not_pred(Warp& w, const Insn& i, Mask m) { write_predicate(w, i.o[0], m, ~read_predicate(w, i.o[1])); }
void mov_pred(Warp& w, const Insn& i, Mask m) { write_predicate(w, i.o[0], m, read_predicate(w, i.o[1])); }

template <int Property>
void testp64(Warp& w, const Insn& i, Mask m) {
    const uint64_t* a = source<uint64_t>(w, i.o[1]);
    constexpr uint64_t kInfinity = 0x7ff0000000000000ull, kSmallest = 0x0010000000000000ull;
    const Mask r = mask_of([=](int l) {
        const uint64_t u = a[l] & 0x7fffffffffffffffull;
        return Property == 0 ? u < kInfinity : Property == 1 ? u == kInfinity : Property == 2 ? u <= kInfinity
               : Property == 3 ? u > kInfinity : Property == 4 ? (u >= kSmallest && u < kInfinity) : (u > 0 && u < kSmallest);
    });
    write_predicate(w, i.o[0], m, r);
}
// testp: properties of a float, by its bits.
template <int Property>
void testp(Warp& w, const Insn& i, Mask m) {
    const uint32_t* a = source<uint32_t>(w, i.o[1]);
    const Mask r = mask_of([=](int l) {
        const uint32_t u = a[l] & 0x7fffffffu;
        return Property == 0 ? u < 0x7f800000u : Property == 1 ? u == 0x7f800000u : Property == 2 ? u <= 0x7f800000u
               : Property == 3 ? u > 0x7f800000u : Property == 4 ? (u >= 0x00800000u && u < 0x7f800000u) : (u > 0 && u < 0x00800000u);
    });
    write_predicate(w, i.o[0], m, r);
}

#define KW_ROW(CMP, NAME, TYPE, LANE, SIG) {"setp." CMP "." TYPE, "PP" SIG SIG, compare_into<NAME, LANE>}, {"set." CMP "." TYPE, "RP" SIG SIG, compare_into<NAME, LANE>}
#define KW_SIX(TYPE, LANE, SIG)                                                                             \
    KW_ROW("eq", Eq, TYPE, LANE, SIG), KW_ROW("ne", Ne, TYPE, LANE, SIG), KW_ROW("lt", Lt, TYPE, LANE, SIG), \
        KW_ROW("le", Le, TYPE, LANE, SIG), KW_ROW("gt", Gt, TYPE, LANE, SIG), KW_ROW("ge", Ge, TYPE, LANE, SIG)
#define KW_UNSIGNED(TYPE, LANE, SIG)                                                                            \
    KW_SIX(TYPE, LANE, SIG), KW_ROW("lo", Lt, TYPE, LANE, SIG), KW_ROW("ls", Le, TYPE, LANE, SIG),              \
        KW_ROW("hi", Gt, TYPE, LANE, SIG), KW_ROW("hs", Ge, TYPE, LANE, SIG)
#define KW_FLOAT(TYPE, LANE, SIG)                                                                                   \
    KW_SIX(TYPE, LANE, SIG), KW_ROW("equ", KW_U(Eq), TYPE, LANE, SIG), KW_ROW("neu", KW_U(Ne), TYPE, LANE, SIG),    \
        KW_ROW("ltu", KW_U(Lt), TYPE, LANE, SIG), KW_ROW("leu", KW_U(Le), TYPE, LANE, SIG),                         \
        KW_ROW("gtu", KW_U(Gt), TYPE, LANE, SIG), KW_ROW("geu", KW_U(Ge), TYPE, LANE, SIG),                         \
        KW_ROW("num", Num, TYPE, LANE, SIG), KW_ROW("nan", IsNan, TYPE, LANE, SIG)
#define KW_U(F) Unordered<F>
#define KW_PAIR_ROW(CMP, NAME, TYPE, LANE) {"setp." CMP "." TYPE, "PPrr", compare_pair<NAME, LANE>}, {"set." CMP "." TYPE, "RPrr", compare_pair<NAME, LANE>}
#define KW_PAIRS(TYPE, LANE)                                                                                        \
    KW_PAIR_ROW("eq", Eq, TYPE, LANE), KW_PAIR_ROW("ne", Ne, TYPE, LANE), KW_PAIR_ROW("lt", Lt, TYPE, LANE),        \
        KW_PAIR_ROW("le", Le, TYPE, LANE), KW_PAIR_ROW("gt", Gt, TYPE, LANE), KW_PAIR_ROW("ge", Ge, TYPE, LANE),    \
        KW_PAIR_ROW("equ", KW_U(Eq), TYPE, LANE), KW_PAIR_ROW("neu", KW_U(Ne), TYPE, LANE),                         \
        KW_PAIR_ROW("ltu", KW_U(Lt), TYPE, LANE), KW_PAIR_ROW("leu", KW_U(Le), TYPE, LANE),                         \
        KW_PAIR_ROW("gtu", KW_U(Gt), TYPE, LANE), KW_PAIR_ROW("geu", KW_U(Ge), TYPE, LANE),                         \
        KW_PAIR_ROW("num", Num, TYPE, LANE), KW_PAIR_ROW("nan", IsNan, TYPE, LANE)

const Form kForms[] = {
    KW_SIX("s32", Plain<int32_t>, "r"), KW_UNSIGNED("u32", Plain<uint32_t>, "r"), KW_SIX("b32", Plain<uint32_t>, "r"),
    KW_SIX("s64", Plain<int64_t>, "l"), KW_UNSIGNED("u64", Plain<uint64_t>, "l"), KW_SIX("b64", Plain<uint64_t>, "l"),
    KW_SIX("s16", Short<int16_t>, "r"), KW_UNSIGNED("u16", Short<uint16_t>, "r"), KW_SIX("b16", Short<uint16_t>, "r"),
    KW_FLOAT("f32", Single, "r"), KW_FLOAT("ftz.f32", SingleFtz, "r"), KW_FLOAT("f64", Plain<double>, "l"),
    KW_FLOAT("f16", HalfLane, "r"), KW_FLOAT("bf16", BfloatLane, "r"), KW_FLOAT("ftz.f16", HalfFtz, "r"),
    KW_PAIRS("f16x2", HalfLane), KW_PAIRS("ftz.f16x2", HalfFtz), KW_PAIRS("bf16x2", BfloatLane),
    {"selp.b32", "Rrrp", selp<uint32_t>}, {"selp.b64", "Lllp", selp<uint64_t>},
    {"slct.b32.s32", "Rrrr", slct<uint32_t, int32_t>}, {"slct.b32.f32", "Rrrr", slct<uint32_t, float>},
    {"slct.b64.s32", "Lllr", slct<uint64_t, int32_t>}, {"slct.b64.f32", "Lllr", slct<uint64_t, float>},
    {"and.pred", "Ppp", and_pred}, {"or.pred", "Ppp", or_pred}, {"xor.pred", "Ppp", xor_pred}, {"not.pred", "Pp", not_pred}, {"mov.pred", "Pp", mov_pred},
    {"testp.finite.f32", "Pr", testp<0>}, {"testp.infinite.f32", "Pr", testp<1>}, {"testp.number.f32", "Pr", testp<2>},
    {"testp.finite.f64", "Pl", testp64<0>}, {"testp.infinite.f64", "Pl", testp64<1>}, {"testp.number.f64", "Pl", testp64<2>},
    {"testp.notanumber.f64", "Pl", testp64<3>}, {"testp.normal.f64", "Pl", testp64<4>}, {"testp.subnormal.f64", "Pl", testp64<5>},
    {"testp.notanumber.f32", "Pr", testp<3>}, {"testp.normal.f32", "Pr", testp<4>}, {"testp.subnormal.f32", "Pr", testp<5>},
};

}  // namespace

FormTable compare_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
