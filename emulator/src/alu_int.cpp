// Integer, logic, shift and bit instructions (PTX ISA, "Integer Arithmetic", "Logic and Shift", "Extended-Precision").
// SPDX-License-Identifier: Apache-2.0
#include <type_traits>

#include "convert_modes.h"
#include "lanes.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

using i32 = int32_t;
using u32 = uint32_t;
using i64 = int64_t;
using u64 = uint64_t;

template <class F, class D, class A>
void unary(Warp& w, const Insn& i, Mask m) {
    const A* a = source<A>(w, i.o[1]);
    map(destination<D>(w, i.o[0]), m, [=](int l) { return F::f(a[l]); });
}
template <class F, class D, class A, class B>
void binary(Warp& w, const Insn& i, Mask m) {
    const A* a = source<A>(w, i.o[1]);
    const B* b = source<B>(w, i.o[2]);
    map(destination<D>(w, i.o[0]), m, [=](int l) { return F::f(a[l], b[l]); });
}
template <class F, class D, class A, class B, class C>
void ternary(Warp& w, const Insn& i, Mask m) {
    const A* a = source<A>(w, i.o[1]);
    const B* b = source<B>(w, i.o[2]);
    const C* c = source<C>(w, i.o[3]);
    map(destination<D>(w, i.o[0]), m, [=](int l) { return F::f(a[l], b[l], c[l]); });
}
template <class F, class D, class A, class B>
void binary_each(Warp& w, const Insn& i, Mask m) {  // lane by lane: division
    const A* a = source<A>(w, i.o[1]);
    const B* b = source<B>(w, i.o[2]);
    map_active(destination<D>(w, i.o[0]), m, [=](int l) { return F::f(a[l], b[l]); });
}

#define KW_OP(name, args, expression) \
    struct name {                     \
        template <class T>            \
        static T f args {             \
            return static_cast<T>(expression); \
        }                             \
    }
KW_OP(Add, (T a, T b), a + b);
KW_OP(Sub, (T a, T b), a - b);
KW_OP(Mul, (T a, T b), a* b);
KW_OP(Mad, (T a, T b, T c), a* b + c);
KW_OP(Min, (T a, T b), a < b ? a : b);
KW_OP(Max, (T a, T b), a > b ? a : b);
KW_OP(And, (T a, T b), a& b);
KW_OP(Or, (T a, T b), a | b);
KW_OP(Xor, (T a, T b), a ^ b);
KW_OP(Not, (T a), ~a);
KW_OP(Neg, (T a), T(0) - a);
KW_OP(Abs, (T a), a < 0 ? T(0) - a : a);
#undef KW_OP

// 16-bit values live in 32-bit lanes; the upper half is never read.
template <class F, class T>
struct Narrow {
    static u32 f(u32 a, u32 b) { return static_cast<uint16_t>(F::template f<T>(static_cast<T>(a), static_cast<T>(b))); }
    static u32 f(u32 a) { return static_cast<uint16_t>(F::template f<T>(static_cast<T>(a))); }
    static u32 f(u32 a, u32 b, u32 c) {
        return static_cast<uint16_t>(F::template f<T>(static_cast<T>(a), static_cast<T>(b), static_cast<T>(c)));
    }
};
template <class T, class W>
struct MulWide {
    static W f(T a, T b) { return static_cast<W>(a) * static_cast<W>(b); }
    static W f(T a, T b, W c) { return static_cast<W>(a) * static_cast<W>(b) + c; }
};
template <class T>
struct MulWide16 {
    static i32 f(i32 a, i32 b) { return static_cast<i32>(static_cast<T>(a)) * static_cast<i32>(static_cast<T>(b)); }
    static i32 f(i32 a, i32 b, i32 c) { return f(a, b) + c; }
};
template <class T, class W, int Shift>
struct MulHigh {
    static T f(T a, T b) { return static_cast<T>((static_cast<W>(a) * static_cast<W>(b)) >> Shift); }
    static T f(T a, T b, T c) { return f(a, b) + c; }
};
// Division by zero is unspecified in PTX; all ones is what the hardware sequence gives.
template <class T>
struct Div {
    static T f(T a, T b) { return b == 0 ? static_cast<T>(-1) : (T(-1) < T(0) && b == T(-1)) ? static_cast<T>(T(0) - a) : static_cast<T>(a / b); }
};
template <class T>
struct Rem {
    static T f(T a, T b) { return b == 0 ? a : (T(-1) < T(0) && b == T(-1)) ? T(0) : static_cast<T>(a % b); }
};
template <class T>
struct Shl {
    static T f(T a, u32 b) { return b > sizeof(T) * 8 - 1 ? T(0) : static_cast<T>(a << (b & (sizeof(T) * 8 - 1))); }
};
template <class T>
struct Shr {  // arithmetic for signed T
    static T f(T a, u32 b) {
        constexpr u32 top = sizeof(T) * 8 - 1;
        if constexpr (T(-1) < T(0)) return static_cast<T>(a >> (b > top ? top : b));
        else return b > top ? T(0) : static_cast<T>(a >> (b & top));
    }
};
template <class T>
struct Shift16 {
    static u32 left(u32 a, u32 b) { return b > 15 ? 0 : (a << b) & 0xffffu; }
    static u32 right(u32 a, u32 b) { return static_cast<uint16_t>(static_cast<i32>(static_cast<T>(a)) >> (b > 15 ? (T(-1) < T(0) ? 15 : 16) : b)); }
};
struct Shl16 { static u32 f(u32 a, u32 b) { return Shift16<uint16_t>::left(a, b); } };
template <class T> struct Shr16 { static u32 f(u32 a, u32 b) { return Shift16<T>::right(a, b); } };

template <bool Left, bool Wrap>
struct Funnel {  // shf: (hi:lo) = (b:a)
    static u32 f(u32 a, u32 b, u32 c) {
        const u32 n = Wrap ? (c & 31u) : (c > 32u ? 32u : c);
        const u64 pair = (static_cast<u64>(b) << 32) | a;
        return Left ? static_cast<u32>((pair << n) >> 32) : static_cast<u32>(pair >> n);
    }
};
struct Popc32 { static u32 f(u32 a) { return static_cast<u32>(__builtin_popcount(a)); } };
struct Popc64 { static u32 f(u64 a) { return static_cast<u32>(__builtin_popcountll(a)); } };
struct Clz32 { static u32 f(u32 a) { return a ? static_cast<u32>(__builtin_clz(a)) : 32u; } };
struct Clz64 { static u32 f(u64 a) { return a ? static_cast<u32>(__builtin_clzll(a)) : 64u; } };
template <class T>
struct Brev {
    static T f(T a) {
        T r = 0;
        for (unsigned b = 0; b < sizeof(T) * 8; ++b) r = static_cast<T>(r | (((a >> b) & 1u) << (sizeof(T) * 8 - 1 - b)));
        return r;
    }
};
template <class T, class U>
struct Bfind {  // position of the most significant bit that is not a sign bit
    static u32 f(T a) {
        const U v = T(-1) < T(0) && a < T(0) ? static_cast<U>(~a) : static_cast<U>(a);
        if (v == 0) return 0xffffffffu;
        return sizeof(U) == 8 ? 63u - static_cast<u32>(__builtin_clzll(v)) : 31u - static_cast<u32>(__builtin_clz(static_cast<u32>(v)));
    }
};
template <class T, class U>
struct Bfe {
    static T f(T a, u32 b, u32 c) {
        constexpr u32 bits = sizeof(T) * 8;
        const u32 position = b & 255u, length = c & 255u;
        if (length == 0) return T(0);
        const bool is_signed = T(-1) < T(0);
        const U ua = static_cast<U>(a);
        const u32 last = position + length - 1 < bits - 1 ? position + length - 1 : bits - 1;
        const bool sign = is_signed && ((ua >> last) & 1u);
        U field = position >= bits ? U(0) : static_cast<U>(ua >> position);
        if (length < bits) {
            const U keep = static_cast<U>((U(1) << length) - 1);
            field &= keep;
            const u32 available = position >= bits ? 0 : bits - position;
            const U valid = available >= length ? keep : available == 0 ? U(0) : static_cast<U>((U(1) << available) - 1);
            if (sign) field |= static_cast<U>(~valid);
        } else if (sign && position > 0) {
            field |= position >= bits ? static_cast<U>(~U(0)) : static_cast<U>(~U(0) << (bits - position));
        }
        return static_cast<T>(field);
    }
};
template <class U>
static U insert_field(U a, U b, u32 c, u32 d) {
    constexpr u32 bits = sizeof(U) * 8;
    const u32 position = c & 255u, length = d & 255u;
    if (length == 0 || position >= bits) return b;
    const U ones = length >= bits ? static_cast<U>(~U(0)) : static_cast<U>((U(1) << length) - 1);
    const U keep = static_cast<U>(ones << position);
    return static_cast<U>((b & ~keep) | ((a << position) & keep));
}
template <class U>
void bfi(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = operands<5>(w, i);
    const U* a = source<U>(w, o[1]);
    const U* b = source<U>(w, o[2]);
    const u32* c = source<u32>(w, o[3]);
    const u32* d = source<u32>(w, o[4]);
    map(destination<U>(w, o[0]), m, [=](int l) { return insert_field<U>(a[l], b[l], c[l], d[l]); });
}

template <int Mode>  // prmt: 0 default, then f4e, b4e, rc8, ecl, ecr, rc16
struct Prmt {
    static u32 f(u32 a, u32 b, u32 c) {
        const u64 bytes = (static_cast<u64>(b) << 32) | a;
        u32 out = 0;
        for (u32 n = 0; n < 4; ++n) {
            const u32 k = c & 3u;
            u32 select = 0;
            if (Mode == 0) select = (c >> (4 * n)) & 15u;
            else if (Mode == 1) select = (k + n) & 7u;
            else if (Mode == 2) select = (k + 8 - n) & 7u;
            else if (Mode == 3) select = k;
            else if (Mode == 4) select = n < k ? k : n;
            else if (Mode == 5) select = n < k ? n : k;
            else select = (c & 1u) * 2 + (n & 1u);
            u32 byte = static_cast<u32>(bytes >> (8 * (select & 7u))) & 255u;
            if (select & 8u) byte = byte & 128u ? 255u : 0u;
            out |= byte << (8 * n);
        }
        return out;
    }
};

void lop3(Warp& w, const Insn& i, Mask m) {  // o[0] = d, a, b, c; imm = truth table
    const u32* a = source<u32>(w, i.o[1]);
    const u32* b = source<u32>(w, i.o[2]);
    const u32* c = source<u32>(w, i.o[3]);
    u32 t[8];
    for (int k = 0; k < 8; ++k) t[k] = (i.imm >> k) & 1 ? 0xffffffffu : 0u;
    map(destination<u32>(w, i.o[0]), m, [=](int l) {
        const u32 x = a[l], y = b[l], z = c[l];
        const u32 low = (~y & ((~z & t[0]) | (z & t[1]))) | (y & ((~z & t[2]) | (z & t[3])));
        const u32 high = (~y & ((~z & t[4]) | (z & t[5]))) | (y & ((~z & t[6]) | (z & t[7])));
        return (~x & low) | (x & high);
    });
}

struct CnotOp { template <class T> static T f(T a) { return a == 0 ? T(1) : T(0); } };
struct Sad { static u32 f(i32 a, i32 b, u32 c) { return c + (a < b ? static_cast<u32>(b) - static_cast<u32>(a) : static_cast<u32>(a) - static_cast<u32>(b)); } };
struct SadU { static u32 f(u32 a, u32 b, u32 c) { return c + (a < b ? b - a : a - b); } };
template <class T> struct Cnot { static T f(T a) { return a == 0 ? T(1) : T(0); } };

// dp4a: four byte products (PTX ISA, "dp4a")
template <class A, class B>
struct Dp4a {
    static i32 f(u32 a, u32 b, i32 c) {
        for (int k = 0; k < 4; ++k) c += static_cast<i32>(static_cast<A>(a >> (8 * k))) * static_cast<i32>(static_cast<B>(b >> (8 * k)));
        return c;
    }
};

// dp2a: two byte products with the 16-bit halves of a (PTX ISA, "dp2a"); High takes the upper two bytes of b.
template <class A, class B, bool High>
struct Dp2a {
    static i32 f(u32 a, u32 b, i32 c) {
        for (int k = 0; k < 2; ++k) c += static_cast<i32>(static_cast<A>(a >> (16 * k))) * static_cast<i32>(static_cast<B>(b >> (8 * k + (High ? 16 : 0))));
        return c;
    }
};

// 24-bit products: the low 32 bits of 48, or the high 32.
template <class T, bool High>
struct Mul24 {
    static T f(T a, T b) {
        const i64 x = T(-1) < T(0) ? static_cast<i64>(static_cast<i32>(static_cast<u32>(a) << 8) >> 8) : static_cast<i64>(static_cast<u32>(a) & 0xffffffu);
        const i64 y = T(-1) < T(0) ? static_cast<i64>(static_cast<i32>(static_cast<u32>(b) << 8) >> 8) : static_cast<i64>(static_cast<u32>(b) & 0xffffffu);
        return static_cast<T>((x * y) >> (High ? 16 : 0));
    }
    static T f(T a, T b, T c) { return static_cast<T>(static_cast<u32>(f(a, b)) + static_cast<u32>(c)); }
};
static inline i32 clamp32(i64 x) { return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : static_cast<i32>(x); }
struct AddSat { static i32 f(i32 a, i32 b) { return clamp32(static_cast<i64>(a) + b); } };
struct SubSat { static i32 f(i32 a, i32 b) { return clamp32(static_cast<i64>(a) - b); } };
struct MadHighSat { static i32 f(i32 a, i32 b, i32 c) { return clamp32(((static_cast<i64>(a) * b) >> 32) + c); } };
struct Mad24HighSat { static i32 f(i32 a, i32 b, i32 c) { return clamp32(static_cast<i64>(Mul24<i32, true>::f(a, b)) + c); } };
template <class T, class U>
struct SadOf { static U f(T a, T b, U c) { return static_cast<U>(c + (a < b ? static_cast<U>(b) - static_cast<U>(a) : static_cast<U>(a) - static_cast<U>(b))); } };
template <class T>
struct Sad16 { static u32 f(u32 a, u32 b, u32 c) { const i32 x = static_cast<T>(a), y = static_cast<T>(b); return static_cast<uint16_t>(c + static_cast<u32>(x < y ? y - x : x - y)); } };
template <class T>
struct MulHigh16 {
    static u32 f(u32 a, u32 b) { return static_cast<uint16_t>((static_cast<i32>(static_cast<T>(a)) * static_cast<i32>(static_cast<T>(b))) >> 16); }
    static u32 f(u32 a, u32 b, u32 c) { return static_cast<uint16_t>(f(a, b) + c); }
};
template <class T> struct DivNarrow { static u32 f(u32 a, u32 b) { return static_cast<uint16_t>(Div<T>::f(static_cast<T>(a), static_cast<T>(b))); } };
template <class T> struct RemNarrow { static u32 f(u32 a, u32 b) { return static_cast<uint16_t>(Rem<T>::f(static_cast<T>(a), static_cast<T>(b))); } };
template <class T, class U>
struct ShiftAmount {  // bfind.shiftamt
    static u32 f(T a) { const u32 at = Bfind<T, U>::f(a); return at == 0xffffffffu ? at : static_cast<u32>(sizeof(U)) * 8 - 1 - at; }
};

// fns: the position of the |offset|-th set bit from `base` on, upwards or downwards; offset 0 asks for bit `base` itself.
struct Fns {
    static u32 f(u32 mask, u32 base, i32 offset) {
        if (base > 31) return 0xffffffffu;
        if (offset == 0) return (mask >> base) & 1u ? base : 0xffffffffu;
        const int step = offset > 0 ? 1 : -1;
        i64 left = offset > 0 ? offset : -static_cast<i64>(offset);
        for (int at = static_cast<int>(base); at >= 0 && at < 32; at += step)
            if (((mask >> at) & 1u) && --left == 0) return static_cast<u32>(at);
        return 0xffffffffu;
    }
};
template <bool Wrap>
struct Bmsk {
    static u32 f(u32 a, u32 b) {
        const u64 first = Wrap ? a & 31u : a, width = Wrap ? b & 31u : b;
        if (first > 31) return 0;
        const u64 ones = width > 31 ? 0xffffffffull : (1ull << width) - 1;
        return static_cast<u32>(ones << first);
    }
};
template <class T, bool Wrap>
struct Szext {  // sign- or zero-extends the low b bits
    static T f(T a, u32 b) {
        const u32 n = Wrap ? b & 31u : b;
        if (n > 31) return a;
        if (n == 0) return T(0);
        const u32 kept = static_cast<u32>(a) & ((1u << n) - 1);
        return static_cast<T>(T(-1) < T(0) && (kept >> (n - 1)) & 1u ? kept | ~((1u << n) - 1) : kept);
    }
};

// Two 16-bit or four 8-bit values in a register.
template <class F, class T>
struct Packed {
    static u32 f(u32 a, u32 b) {
        constexpr int bits = static_cast<int>(sizeof(T)) * 8;
        u32 out = 0;
        for (int at = 0; at < 32; at += bits)
            out |= static_cast<u32>(static_cast<std::make_unsigned_t<T>>(F::template f<T>(static_cast<T>(a >> at), static_cast<T>(b >> at)))) << at;
        return out;
    }
};
struct MinRelu { template <class T> static T f(T a, T b) { const T x = a < b ? a : b; return x > 0 ? x : T(0); } };
struct MaxRelu { template <class T> static T f(T a, T b) { const T x = a > b ? a : b; return x > 0 ? x : T(0); } };
// vabsdiff2 and vabsdiff4: absolute differences of each part, or with .add their sum and c.
template <class T, bool Sum>
struct VideoAbsDiff {
    static u32 f(u32 a, u32 b, u32 c) {
        constexpr int bits = static_cast<int>(sizeof(T)) * 8;
        u32 out = Sum ? c : 0;
        for (int at = 0; at < 32; at += bits) {
            const i32 x = static_cast<T>(a >> at), y = static_cast<T>(b >> at);
            const u32 d = static_cast<u32>(x < y ? y - x : x - y);
            if (Sum) out += d;
            else out |= (d & (0xffffffffu >> (32 - bits))) << at;
        }
        return out;
    }
};

// lop3.and, lop3.or: d|p = a, b, c, table, q; p = (d != 0) combined with q.
template <bool And>
void lop3_bool(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = operands<6>(w, i);
    const u32 *a = source<u32>(w, o[2]), *b = source<u32>(w, o[3]), *c = source<u32>(w, o[4]);
    const Mask q = read_predicate(w, o[5]);
    alignas(64) u32 out[kLanes];
    for (int l = 0; l < kLanes; ++l) {
        out[l] = 0;
        for (int k = 0; k < 8; ++k)
            if ((i.imm >> k) & 1) out[l] |= (k & 4 ? a[l] : ~a[l]) & (k & 2 ? b[l] : ~b[l]) & (k & 1 ? c[l] : ~c[l]);
    }
    const Mask some = mask_of([&out](int l) { return out[l] != 0; });
    map(destination<u32>(w, o[0]), m, [&out](int l) { return out[l]; });
    write_predicate(w, o[1], m, And ? (some & q) : (some | q));
}

// Extended precision. The carry flag is the predicate in ext; mode says whether it is added and whether it is set. For
// subtraction it holds the borrow.
enum Extended { kAdd, kSub, kMadLow, kMadHigh };
template <class T> struct Double { using type = u64; };
template <> struct Double<i32> { using type = i64; };
template <> struct Double<u64> { using type = unsigned __int128; };
template <> struct Double<i64> { using type = __int128; };
template <int Op, class T>
void extended(Warp& w, const Insn& i, Mask m) {
    using U = std::make_unsigned_t<T>;
    const T *a = source<T>(w, i.o[1]), *b = source<T>(w, i.o[2]), *c = source<T>(w, i.o[Op >= kMadLow ? 3 : 2]);
    const Mask in = i.mode & kReadsCarry ? w.predicates[i.ext] : 0;
    U* d = destination<U>(w, i.o[0]);
    Mask out = 0;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        U x = static_cast<U>(a[l]), y = static_cast<U>(b[l]);
        if (Op >= kMadLow) {
            using W = typename Double<T>::type;
            const W product = static_cast<W>(a[l]) * static_cast<W>(b[l]);
            x = static_cast<U>(Op == kMadHigh ? product >> (sizeof(T) * 8) : product);
            y = static_cast<U>(c[l]);
        }
        const U carry = (in >> l) & 1u;
        U r;
        bool over;
        if (Op == kSub) {
            over = x < y || (x == y && carry);
            r = static_cast<U>(x - y - carry);
        } else {
            r = static_cast<U>(x + y + carry);
            over = static_cast<unsigned __int128>(x) + y + carry > static_cast<U>(~U(0));
        }
        d[l] = r;
        out |= static_cast<Mask>(over) << l;
    }
    if (i.mode & kSetsCarry) w.predicates[i.ext] = (w.predicates[i.ext] & ~m) | out;
}

template <class Op, class T>
struct As {
    static T f(T a) { return Op::template f<T>(a); }
    static T f(T a, T b) { return Op::template f<T>(a, b); }
    static T f(T a, T b, T c) { return Op::template f<T>(a, b, c); }
};

#define KW_BIN(NAME, OP)                                                                                             \
    {NAME ".s32", "Rrr", binary<As<OP, i32>, i32, i32, i32>}, {NAME ".u32", "Rrr", binary<As<OP, u32>, u32, u32, u32>},        \
        {NAME ".s64", "Lll", binary<As<OP, i64>, i64, i64, i64>}, {NAME ".u64", "Lll", binary<As<OP, u64>, u64, u64, u64>},    \
        {NAME ".s16", "Rrr", binary<Narrow<OP, int16_t>, u32, u32, u32>},                                            \
        {NAME ".u16", "Rrr", binary<Narrow<OP, uint16_t>, u32, u32, u32>}
#define KW_LOGIC(NAME, OP)                                                                                           \
    {NAME ".b32", "Rrr", binary<As<OP, u32>, u32, u32, u32>}, {NAME ".b64", "Lll", binary<As<OP, u64>, u64, u64, u64>}, \
        {NAME ".b16", "Rrr", binary<Narrow<OP, uint16_t>, u32, u32, u32>}

// The decoder writes "extended" where the text has .cc or a base with c.
#define KW_EXTENDED(NAME, SIG32, SIG64, OP)                                                          \
    {"extended." NAME ".s32", SIG32, extended<OP, i32>}, {"extended." NAME ".u32", SIG32, extended<OP, u32>}, \
        {"extended." NAME ".s64", SIG64, extended<OP, i64>}, {"extended." NAME ".u64", SIG64, extended<OP, u64>}

const Form kForms[] = {
    KW_BIN("add", Add), KW_BIN("sub", Sub), KW_BIN("mul.lo", Mul), KW_BIN("min", Min), KW_BIN("max", Max),
    KW_LOGIC("and", And), KW_LOGIC("or", Or), KW_LOGIC("xor", Xor),
    {"not.b32", "Rr", unary<As<Not, u32>, u32, u32>}, {"not.b64", "Ll", unary<As<Not, u64>, u64, u64>},
    {"not.b16", "Rr", unary<Narrow<Not, uint16_t>, u32, u32>},
    {"neg.s32", "Rr", unary<As<Neg, i32>, i32, i32>}, {"neg.s64", "Ll", unary<As<Neg, i64>, i64, i64>},
    {"neg.s16", "Rr", unary<Narrow<Neg, int16_t>, u32, u32>},
    {"abs.s32", "Rr", unary<As<Abs, i32>, i32, i32>}, {"abs.s64", "Ll", unary<As<Abs, i64>, i64, i64>},
    {"abs.s16", "Rr", unary<Narrow<Abs, int16_t>, u32, u32>},
    {"cnot.b32", "Rr", unary<Cnot<u32>, u32, u32>}, {"cnot.b64", "Ll", unary<Cnot<u64>, u64, u64>},
    {"mad.lo.s32", "Rrrr", ternary<As<Mad, i32>, i32, i32, i32, i32>}, {"mad.lo.u32", "Rrrr", ternary<As<Mad, u32>, u32, u32, u32, u32>},
    {"mad.lo.s64", "Llll", ternary<As<Mad, i64>, i64, i64, i64, i64>}, {"mad.lo.u64", "Llll", ternary<As<Mad, u64>, u64, u64, u64, u64>},
    {"mad.lo.s16", "Rrrr", ternary<Narrow<Mad, int16_t>, u32, u32, u32, u32>}, {"mad.lo.u16", "Rrrr", ternary<Narrow<Mad, uint16_t>, u32, u32, u32, u32>},
    {"mul.wide.s32", "Lrr", binary<MulWide<i32, i64>, i64, i32, i32>}, {"mul.wide.u32", "Lrr", binary<MulWide<u32, u64>, u64, u32, u32>},
    {"mul.wide.s16", "Rrr", binary<MulWide16<int16_t>, i32, i32, i32>}, {"mul.wide.u16", "Rrr", binary<MulWide16<uint16_t>, i32, i32, i32>},
    {"mad.wide.s32", "Lrrl", ternary<MulWide<i32, i64>, i64, i32, i32, i64>}, {"mad.wide.u32", "Lrrl", ternary<MulWide<u32, u64>, u64, u32, u32, u64>},
    {"mad.wide.s16", "Rrrr", ternary<MulWide16<int16_t>, i32, i32, i32, i32>}, {"mad.wide.u16", "Rrrr", ternary<MulWide16<uint16_t>, i32, i32, i32, i32>},
    {"mul.hi.s32", "Rrr", binary<MulHigh<i32, i64, 32>, i32, i32, i32>}, {"mul.hi.u32", "Rrr", binary<MulHigh<u32, u64, 32>, u32, u32, u32>},
    {"mul.hi.s64", "Lll", binary<MulHigh<i64, __int128, 64>, i64, i64, i64>}, {"mul.hi.u64", "Lll", binary<MulHigh<u64, unsigned __int128, 64>, u64, u64, u64>},
    {"mad.hi.s32", "Rrrr", ternary<MulHigh<i32, i64, 32>, i32, i32, i32, i32>}, {"mad.hi.u32", "Rrrr", ternary<MulHigh<u32, u64, 32>, u32, u32, u32, u32>},
    {"div.s32", "Rrr", binary_each<Div<i32>, i32, i32, i32>}, {"div.u32", "Rrr", binary_each<Div<u32>, u32, u32, u32>},
    {"div.s64", "Lll", binary_each<Div<i64>, i64, i64, i64>}, {"div.u64", "Lll", binary_each<Div<u64>, u64, u64, u64>},
    {"rem.s32", "Rrr", binary_each<Rem<i32>, i32, i32, i32>}, {"rem.u32", "Rrr", binary_each<Rem<u32>, u32, u32, u32>},
    {"rem.s64", "Lll", binary_each<Rem<i64>, i64, i64, i64>}, {"rem.u64", "Lll", binary_each<Rem<u64>, u64, u64, u64>},
    {"shl.b32", "Rrr", binary<Shl<u32>, u32, u32, u32>}, {"shl.b64", "Llr", binary<Shl<u64>, u64, u64, u32>}, {"shl.b16", "Rrr", binary<Shl16, u32, u32, u32>},
    {"shr.u32", "Rrr", binary<Shr<u32>, u32, u32, u32>}, {"shr.s32", "Rrr", binary<Shr<i32>, i32, i32, u32>},
    {"shr.u64", "Llr", binary<Shr<u64>, u64, u64, u32>}, {"shr.s64", "Llr", binary<Shr<i64>, i64, i64, u32>},
    {"shr.u16", "Rrr", binary<Shr16<uint16_t>, u32, u32, u32>}, {"shr.s16", "Rrr", binary<Shr16<int16_t>, u32, u32, u32>},
    {"shf.l.wrap.b32", "Rrrr", ternary<Funnel<true, true>, u32, u32, u32, u32>}, {"shf.r.wrap.b32", "Rrrr", ternary<Funnel<false, true>, u32, u32, u32, u32>},
    {"shf.l.clamp.b32", "Rrrr", ternary<Funnel<true, false>, u32, u32, u32, u32>}, {"shf.r.clamp.b32", "Rrrr", ternary<Funnel<false, false>, u32, u32, u32, u32>},
    {"popc.b32", "Rr", unary<Popc32, u32, u32>}, {"popc.b64", "Rl", unary<Popc64, u32, u64>},
    {"clz.b32", "Rr", unary<Clz32, u32, u32>}, {"clz.b64", "Rl", unary<Clz64, u32, u64>},
    {"brev.b32", "Rr", unary<Brev<u32>, u32, u32>}, {"brev.b64", "Ll", unary<Brev<u64>, u64, u64>},
    {"bfind.u32", "Rr", unary<Bfind<u32, u32>, u32, u32>}, {"bfind.s32", "Rr", unary<Bfind<i32, u32>, u32, i32>},
    {"bfind.u64", "Rl", unary<Bfind<u64, u64>, u32, u64>}, {"bfind.s64", "Rl", unary<Bfind<i64, u64>, u32, i64>},
    {"bfe.u32", "Rrrr", ternary<Bfe<u32, u32>, u32, u32, u32, u32>}, {"bfe.s32", "Rrrr", ternary<Bfe<i32, u32>, i32, i32, u32, u32>},
    {"bfe.u64", "Llrr", ternary<Bfe<u64, u64>, u64, u64, u32, u32>}, {"bfe.s64", "Llrr", ternary<Bfe<i64, u64>, i64, i64, u32, u32>},
    {"bfi.b32", "Rrrrr", bfi<u32>}, {"bfi.b64", "Lllrr", bfi<u64>},
    {"prmt.b32", "Rrrr", ternary<Prmt<0>, u32, u32, u32, u32>}, {"prmt.b32.f4e", "Rrrr", ternary<Prmt<1>, u32, u32, u32, u32>},
    {"prmt.b32.b4e", "Rrrr", ternary<Prmt<2>, u32, u32, u32, u32>}, {"prmt.b32.rc8", "Rrrr", ternary<Prmt<3>, u32, u32, u32, u32>},
    {"prmt.b32.ecl", "Rrrr", ternary<Prmt<4>, u32, u32, u32, u32>}, {"prmt.b32.ecr", "Rrrr", ternary<Prmt<5>, u32, u32, u32, u32>},
    {"prmt.b32.rc16", "Rrrr", ternary<Prmt<6>, u32, u32, u32, u32>},
    {"lop3.b32", "Rrrri", lop3},
    {"sad.s32", "Rrrr", ternary<Sad, u32, i32, i32, u32>}, {"sad.u32", "Rrrr", ternary<SadU, u32, u32, u32, u32>},
    {"add.sat.s32", "Rrr", binary<AddSat, i32, i32, i32>}, {"sub.sat.s32", "Rrr", binary<SubSat, i32, i32, i32>},
    {"mad.hi.sat.s32", "Rrrr", ternary<MadHighSat, i32, i32, i32, i32>}, {"mad24.hi.sat.s32", "Rrrr", ternary<Mad24HighSat, i32, i32, i32, i32>},
    {"mul24.lo.s32", "Rrr", binary<Mul24<i32, false>, i32, i32, i32>}, {"mul24.lo.u32", "Rrr", binary<Mul24<u32, false>, u32, u32, u32>},
    {"mul24.hi.s32", "Rrr", binary<Mul24<i32, true>, i32, i32, i32>}, {"mul24.hi.u32", "Rrr", binary<Mul24<u32, true>, u32, u32, u32>},
    {"mad24.lo.s32", "Rrrr", ternary<Mul24<i32, false>, i32, i32, i32, i32>}, {"mad24.lo.u32", "Rrrr", ternary<Mul24<u32, false>, u32, u32, u32, u32>},
    {"mad24.hi.s32", "Rrrr", ternary<Mul24<i32, true>, i32, i32, i32, i32>}, {"mad24.hi.u32", "Rrrr", ternary<Mul24<u32, true>, u32, u32, u32, u32>},
    {"sad.s16", "Rrrr", ternary<Sad16<int16_t>, u32, u32, u32, u32>}, {"sad.u16", "Rrrr", ternary<Sad16<uint16_t>, u32, u32, u32, u32>},
    {"sad.s64", "Llll", ternary<SadOf<i64, u64>, u64, i64, i64, u64>}, {"sad.u64", "Llll", ternary<SadOf<u64, u64>, u64, u64, u64, u64>},
    {"mul.hi.s16", "Rrr", binary<MulHigh16<int16_t>, u32, u32, u32>}, {"mul.hi.u16", "Rrr", binary<MulHigh16<uint16_t>, u32, u32, u32>},
    {"mad.hi.s16", "Rrrr", ternary<MulHigh16<int16_t>, u32, u32, u32, u32>}, {"mad.hi.u16", "Rrrr", ternary<MulHigh16<uint16_t>, u32, u32, u32, u32>},
    {"mad.hi.s64", "Llll", ternary<MulHigh<i64, __int128, 64>, i64, i64, i64, i64>}, {"mad.hi.u64", "Llll", ternary<MulHigh<u64, unsigned __int128, 64>, u64, u64, u64, u64>},
    {"div.s16", "Rrr", binary_each<DivNarrow<int16_t>, u32, u32, u32>}, {"div.u16", "Rrr", binary_each<DivNarrow<uint16_t>, u32, u32, u32>},
    {"rem.s16", "Rrr", binary_each<RemNarrow<int16_t>, u32, u32, u32>}, {"rem.u16", "Rrr", binary_each<RemNarrow<uint16_t>, u32, u32, u32>},
    {"cnot.b16", "Rr", unary<Narrow<CnotOp, uint16_t>, u32, u32>},
    {"bfind.shiftamt.u32", "Rr", unary<ShiftAmount<u32, u32>, u32, u32>}, {"bfind.shiftamt.s32", "Rr", unary<ShiftAmount<i32, u32>, u32, i32>},
    {"bfind.shiftamt.u64", "Rl", unary<ShiftAmount<u64, u64>, u32, u64>}, {"bfind.shiftamt.s64", "Rl", unary<ShiftAmount<i64, u64>, u32, i64>},
    {"fns.b32", "Rrrr", ternary<Fns, u32, u32, u32, i32>},
    {"bmsk.clamp.b32", "Rrr", binary<Bmsk<false>, u32, u32, u32>}, {"bmsk.wrap.b32", "Rrr", binary<Bmsk<true>, u32, u32, u32>},
    {"szext.clamp.s32", "Rrr", binary<Szext<i32, false>, i32, i32, u32>}, {"szext.clamp.u32", "Rrr", binary<Szext<u32, false>, u32, u32, u32>},
    {"szext.wrap.s32", "Rrr", binary<Szext<i32, true>, i32, i32, u32>}, {"szext.wrap.u32", "Rrr", binary<Szext<u32, true>, u32, u32, u32>},
    {"lop3.and.b32", "RPrrrip", lop3_bool<true>}, {"lop3.or.b32", "RPrrrip", lop3_bool<false>},
    {"add.s16x2", "Rrr", binary<Packed<Add, int16_t>, u32, u32, u32>}, {"add.u16x2", "Rrr", binary<Packed<Add, uint16_t>, u32, u32, u32>},
    {"min.s16x2", "Rrr", binary<Packed<Min, int16_t>, u32, u32, u32>}, {"min.u16x2", "Rrr", binary<Packed<Min, uint16_t>, u32, u32, u32>},
    {"max.s16x2", "Rrr", binary<Packed<Max, int16_t>, u32, u32, u32>}, {"max.u16x2", "Rrr", binary<Packed<Max, uint16_t>, u32, u32, u32>},
    {"min.relu.s16x2", "Rrr", binary<Packed<MinRelu, int16_t>, u32, u32, u32>}, {"max.relu.s16x2", "Rrr", binary<Packed<MaxRelu, int16_t>, u32, u32, u32>},
    {"min.relu.s32", "Rrr", binary<As<MinRelu, i32>, i32, i32, i32>}, {"max.relu.s32", "Rrr", binary<As<MaxRelu, i32>, i32, i32, i32>},
    {"vabsdiff2.u32.u32.u32", "Rrrr", ternary<VideoAbsDiff<uint16_t, false>, u32, u32, u32, u32>}, {"vabsdiff2.s32.s32.s32", "Rrrr", ternary<VideoAbsDiff<int16_t, false>, u32, u32, u32, u32>},
    {"vabsdiff4.u32.u32.u32", "Rrrr", ternary<VideoAbsDiff<uint8_t, false>, u32, u32, u32, u32>}, {"vabsdiff4.s32.s32.s32", "Rrrr", ternary<VideoAbsDiff<int8_t, false>, u32, u32, u32, u32>},
    {"vabsdiff2.u32.u32.u32.add", "Rrrr", ternary<VideoAbsDiff<uint16_t, true>, u32, u32, u32, u32>}, {"vabsdiff2.s32.s32.s32.add", "Rrrr", ternary<VideoAbsDiff<int16_t, true>, u32, u32, u32, u32>},
    {"vabsdiff4.u32.u32.u32.add", "Rrrr", ternary<VideoAbsDiff<uint8_t, true>, u32, u32, u32, u32>}, {"vabsdiff4.s32.s32.s32.add", "Rrrr", ternary<VideoAbsDiff<int8_t, true>, u32, u32, u32, u32>},
    KW_EXTENDED("add", "Rrr", "Lll", kAdd), KW_EXTENDED("sub", "Rrr", "Lll", kSub),
    KW_EXTENDED("mad.lo", "Rrrr", "Llll", kMadLow), KW_EXTENDED("mad.hi", "Rrrr", "Llll", kMadHigh),
    {"dp2a.lo.s32.s32", "Rrrr", ternary<Dp2a<int16_t, int8_t, false>, i32, u32, u32, i32>}, {"dp2a.lo.u32.u32", "Rrrr", ternary<Dp2a<uint16_t, uint8_t, false>, i32, u32, u32, i32>},
    {"dp2a.lo.s32.u32", "Rrrr", ternary<Dp2a<int16_t, uint8_t, false>, i32, u32, u32, i32>}, {"dp2a.lo.u32.s32", "Rrrr", ternary<Dp2a<uint16_t, int8_t, false>, i32, u32, u32, i32>},
    {"dp2a.hi.s32.s32", "Rrrr", ternary<Dp2a<int16_t, int8_t, true>, i32, u32, u32, i32>}, {"dp2a.hi.u32.u32", "Rrrr", ternary<Dp2a<uint16_t, uint8_t, true>, i32, u32, u32, i32>},
    {"dp2a.hi.s32.u32", "Rrrr", ternary<Dp2a<int16_t, uint8_t, true>, i32, u32, u32, i32>}, {"dp2a.hi.u32.s32", "Rrrr", ternary<Dp2a<uint16_t, int8_t, true>, i32, u32, u32, i32>},
    {"dp4a.s32.u32", "Rrrr", ternary<Dp4a<int8_t, uint8_t>, i32, u32, u32, i32>}, {"dp4a.u32.s32", "Rrrr", ternary<Dp4a<uint8_t, int8_t>, i32, u32, u32, i32>},
    {"dp4a.s32.s32", "Rrrr", ternary<Dp4a<int8_t, int8_t>, i32, u32, u32, i32>}, {"dp4a.u32.u32", "Rrrr", ternary<Dp4a<uint8_t, uint8_t>, i32, u32, u32, i32>},
};

}  // namespace

FormTable integer_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
