// ld, st, atom and red (PTX ISA, "Data Movement", "Parallel Synchronization and Communication").
// SPDX-License-Identifier: Apache-2.0
#include "access.h"
#include "half.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

template <class T, int V, Space S>
void load(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = operands<V + 1>(w, i);
    char* p[kLanes];
    if (i.mode & kStrongAccess) note_poll(w, i);
    m = resolve(w, i, m, S, o[V], sizeof(T) * V, kRead, p);
    for (int v = 0; v < V; ++v) {
        if (sizeof(T) == 8 || (o[v] & kOperandWide)) {
            uint64_t* d = destination<uint64_t>(w, o[v]);
            for (Mask left = m; left; left &= left - 1) {
                const int l = __builtin_ctz(left);
                T value;
                std::memcpy(&value, p[l] + v * sizeof(T), sizeof(T));
                d[l] = static_cast<uint64_t>(value);  // sign-extends for signed T
            }
        } else {
            uint32_t* d = destination<uint32_t>(w, o[v]);
            for (Mask left = m; left; left &= left - 1) {
                const int l = __builtin_ctz(left);
                T value;
                std::memcpy(&value, p[l] + v * sizeof(T), sizeof(T));
                d[l] = static_cast<uint32_t>(value);
            }
        }
    }
}

// Whether a store would give some byte another value.
template <class T, int V>
bool changes(const Warp& w, const uint32_t* o, Mask m, char* const* p) {
    for (int v = 0; v < V; ++v) {
        for (Mask left = m; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            const T value = (o[1 + v] & kOperandWide) ? static_cast<T>(source<uint64_t>(w, o[1 + v])[l]) : static_cast<T>(source<uint32_t>(w, o[1 + v])[l]);
            if (std::memcmp(p[l] + v * sizeof(T), &value, sizeof(T))) return true;
        }
    }
    return false;
}

template <class T, int V, Space S>
void store(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = operands<V + 1>(w, i);  // address first
    char* p[kLanes];
    m = resolve(w, i, m, S, o[0], sizeof(T) * V, kWrite, p);
    if (__builtin_expect(w.launch->watched && S != Space::Local, 0)) w.launch->changed |= changes<T, V>(w, o, m, p);
    for (int v = 0; v < V; ++v) {
        if (o[1 + v] & kOperandWide) {
            const uint64_t* a = source<uint64_t>(w, o[1 + v]);
            for (Mask left = m; left; left &= left - 1) {
                const int l = __builtin_ctz(left);
                const T value = static_cast<T>(a[l]);
                std::memcpy(p[l] + v * sizeof(T), &value, sizeof(T));
            }
        } else {
            const uint32_t* a = source<uint32_t>(w, o[1 + v]);
            for (Mask left = m; left; left &= left - 1) {
                const int l = __builtin_ctz(left);
                const T value = static_cast<T>(a[l]);
                std::memcpy(p[l] + v * sizeof(T), &value, sizeof(T));
            }
        }
    }
}

struct Add { template <class T> static T f(T old, T b, T) { return static_cast<T>(old + b); } };
struct Min { template <class T> static T f(T old, T b, T) { return b < old ? b : old; } };
struct Max { template <class T> static T f(T old, T b, T) { return b > old ? b : old; } };
struct And { template <class T> static T f(T old, T b, T) { return old & b; } };
struct Or { template <class T> static T f(T old, T b, T) { return old | b; } };
struct Xor { template <class T> static T f(T old, T b, T) { return old ^ b; } };
struct Exch { template <class T> static T f(T, T b, T) { return b; } };
struct Cas { template <class T> static T f(T old, T b, T c) { return old == b ? c : old; } };
struct Inc { template <class T> static T f(T old, T b, T) { return old >= b ? T(0) : old + 1; } };
struct Dec { template <class T> static T f(T old, T b, T) { return old == 0 || old > b ? b : old - 1; } };
// f32 atomics on global memory flush subnormals to zero on hardware only for some forms; here they are kept.
struct AddHalf2 {
    template <class T>
    static T f(T old, T b, T) {
        const uint32_t x = static_cast<uint32_t>(old), y = static_cast<uint32_t>(b);
        const uint32_t low = float_to_half(half_to_float(x & 0xffffu) + half_to_float(y & 0xffffu));
        const uint32_t high = float_to_half(half_to_float(x >> 16) + half_to_float(y >> 16));
        return static_cast<T>(high << 16 | low);
    }
};
struct AddBfloat2 {
    template <class T>
    static T f(T old, T b, T) {
        const uint32_t x = static_cast<uint32_t>(old), y = static_cast<uint32_t>(b);
        return static_cast<T>(float_to_bf16(bf16_to_float(x >> 16) + bf16_to_float(y >> 16)) << 16 |
                              float_to_bf16(bf16_to_float(x & 0xffffu) + bf16_to_float(y & 0xffffu)));
    }
};

struct AddHalf { template <class T> static T f(T old, T b, T) { return static_cast<T>(float_to_half(half_to_float(old) + half_to_float(b))); } };
struct AddBfloat { template <class T> static T f(T old, T b, T) { return static_cast<T>(float_to_bf16(bf16_to_float(old) + bf16_to_float(b))); } };

// The same for 16-bit values, which live in lanes of 32 bits.
template <class F, bool Returns>
void atomic16(Warp& w, const Insn& i, Mask m) {
    const int at = Returns ? 1 : 0;
    char* p[kLanes];
    m = resolve(w, i, m, static_cast<Space>(i.mode & ~kNoResult), i.o[at], 2, kRead | kWrite, p);
    const uint32_t* b = source<uint32_t>(w, i.o[at + 1]);
    const uint32_t* c = Returns ? source<uint32_t>(w, i.o[3]) : b;
    if (w.launch->counting) w.launch->counters.atomics += static_cast<uint64_t>(__builtin_popcount(m));
    alignas(64) uint32_t old[kLanes];
    bool changed = false;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        uint16_t value;
        std::memcpy(&value, p[l], 2);
        old[l] = value;
        value = F::template f<uint16_t>(value, static_cast<uint16_t>(b[l]), static_cast<uint16_t>(c[l]));
        changed |= value != static_cast<uint16_t>(old[l]);
        std::memcpy(p[l], &value, 2);
    }
    if (changed) w.launch->changed = true;
    else if (Returns) note_poll(w, i);
    if (Returns) map_active(destination<uint32_t>(w, i.o[0]), m, [&old](int l) { return old[l]; });
}

// Sums of fp32 on global memory flush subnormal values and results, those on shared memory do not (PTX ISA, "atom").
template <class F, class T> struct Flushes { static constexpr bool value = false; };
template <> struct Flushes<Add, float> { static constexpr bool value = true; };
template <class T> static inline T flushed(T value) { return value; }
template <> inline float flushed(float value) { return __builtin_fabsf(value) < 0x1p-126f ? __builtin_copysignf(0.f, value) : value; }

// o: destination (atom only), address, b, [c]; mode = Space. Lanes go one after another, lowest first.
template <class F, class T, bool Returns>
void atomic(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = i.o;
    const int at = Returns ? 1 : 0;
    char* p[kLanes];
    m = resolve(w, i, m, static_cast<Space>(i.mode & ~kNoResult), o[at], sizeof(T), kRead | kWrite, p);
    const T* b = source<T>(w, o[at + 1]);
    const T* c = Returns ? source<T>(w, o[3]) : b;  // o[3] is b itself where there is no third operand
    if (w.launch->counting) w.launch->counters.atomics += static_cast<uint64_t>(__builtin_popcount(m));
    alignas(64) T old[kLanes];
    bool changed = false;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        std::memcpy(&old[l], p[l], sizeof(T));
        const bool flushes = Flushes<F, T>::value && !(p[l] >= w.block->shared && p[l] < w.block->shared + w.block->shared_bytes);
        const T value = flushes ? flushed(F::template f<T>(flushed(old[l]), flushed(b[l]), c[l])) : F::template f<T>(old[l], b[l], c[l]);
        changed |= std::memcmp(&old[l], &value, sizeof(T)) != 0;
        std::memcpy(p[l], &value, sizeof(T));
    }
    if (changed) w.launch->changed = true;
    else if (Returns) note_poll(w, i);
    if (Returns) map_active(destination<T>(w, o[0]), m, [&old](int l) { return old[l]; });
}

#define KW_LOAD_V(SPACE, NAME, TYPE, T)                                              \
    {"ld." NAME "." TYPE, "Am", load<T, 1, SPACE>}, {"ld." NAME ".v2." TYPE, "AAm", load<T, 2, SPACE>}, \
        {"ld." NAME ".v4." TYPE, "AAAAm", load<T, 4, SPACE>}
#define KW_STORE_V(SPACE, NAME, TYPE, T)                                             \
    {"st." NAME "." TYPE, "ma", store<T, 1, SPACE>}, {"st." NAME ".v2." TYPE, "maa", store<T, 2, SPACE>}, \
        {"st." NAME ".v4." TYPE, "maaaa", store<T, 4, SPACE>}
#define KW_LOADS(SPACE, NAME)                                                                                           \
    KW_LOAD_V(SPACE, NAME, "u8", uint8_t), KW_LOAD_V(SPACE, NAME, "s8", int8_t), KW_LOAD_V(SPACE, NAME, "u16", uint16_t), \
        KW_LOAD_V(SPACE, NAME, "s16", int16_t), KW_LOAD_V(SPACE, NAME, "u32", uint32_t), KW_LOAD_V(SPACE, NAME, "s32", int32_t), \
        {"ld." NAME ".u64", "Lm", load<uint64_t, 1, SPACE>}, {"ld." NAME ".v2.u64", "LLm", load<uint64_t, 2, SPACE>}
#define KW_STORES(SPACE, NAME)                                                                                      \
    KW_STORE_V(SPACE, NAME, "u8", uint8_t), KW_STORE_V(SPACE, NAME, "u16", uint16_t), KW_STORE_V(SPACE, NAME, "u32", uint32_t), \
        {"st." NAME ".u64", "ml", store<uint64_t, 1, SPACE>}, {"st." NAME ".v2.u64", "mll", store<uint64_t, 2, SPACE>}
#define KW_ATOM(OP, F, TYPE, T, R, r) \
    {"atom." OP "." TYPE, R "m" r, atomic<F, T, true>}, {"red." OP "." TYPE, "m" r, atomic<F, T, false>}
#define KW_ATOM_INT(OP, F) \
    KW_ATOM(OP, F, "u32", uint32_t, "R", "r"), KW_ATOM(OP, F, "s32", int32_t, "R", "r"), KW_ATOM(OP, F, "u64", uint64_t, "L", "l"), KW_ATOM(OP, F, "s64", int64_t, "L", "l")
#define KW_ATOM_BIT(OP, F) KW_ATOM(OP, F, "b32", uint32_t, "R", "r"), KW_ATOM(OP, F, "b64", uint64_t, "L", "l")

const Form kForms[] = {
    KW_LOADS(Space::Global, "global"), KW_LOADS(Space::Shared, "shared"), KW_LOADS(Space::Local, "local"),
    KW_LOADS(Space::Param, "param"), KW_LOADS(Space::Generic, "generic"), KW_LOADS(Space::Const, "const"),
    KW_STORES(Space::Global, "global"), KW_STORES(Space::Shared, "shared"), KW_STORES(Space::Local, "local"),
    KW_STORES(Space::Generic, "generic"),
    KW_ATOM_INT("add", Add), KW_ATOM_INT("min", Min), KW_ATOM_INT("max", Max),
    KW_ATOM_BIT("and", And), KW_ATOM_BIT("or", Or), KW_ATOM_BIT("xor", Xor), KW_ATOM_BIT("exch", Exch),
    KW_ATOM("inc", Inc, "u32", uint32_t, "R", "r"), KW_ATOM("dec", Dec, "u32", uint32_t, "R", "r"),
    KW_ATOM("add", Add, "f32", float, "R", "r"), KW_ATOM("add", Add, "f64", double, "L", "l"),
    KW_ATOM("add", AddHalf2, "f16x2", uint32_t, "R", "r"), KW_ATOM("add", AddBfloat2, "bf16x2", uint32_t, "R", "r"),
    {"atom.add.f16", "Rmr", atomic16<AddHalf, true>}, {"red.add.f16", "mr", atomic16<AddHalf, false>},
    {"atom.add.bf16", "Rmr", atomic16<AddBfloat, true>}, {"red.add.bf16", "mr", atomic16<AddBfloat, false>},
    {"atom.cas.b16", "Rmrr", atomic16<Cas, true>},
    {"atom.cas.b32", "Rmrr", atomic<Cas, uint32_t, true>}, {"atom.cas.b64", "Lmll", atomic<Cas, uint64_t, true>},
};

}  // namespace

FormTable memory_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
