// Exchanges between the lanes of a warp: shfl, vote, match, redux, elect, activemask (PTX ISA, "Data Movement",
// "Parallel Synchronization and Communication").
// SPDX-License-Identifier: Apache-2.0
#include "checks.h"
#include "lanes.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

// The member mask must be the same in all active lanes and hold exactly the lanes that execute the instruction.
static inline Mask members(Warp& w, const Insn& i, Mask m, uint32_t operand, const char* what) {
    const uint32_t* member = source<uint32_t>(w, operand);
    const int first = __builtin_ctz(m);
    const Mask mask = member[first];
    if (__builtin_expect(!w.launch->checks.barrier, 0)) return mask;
    if (__builtin_expect((mask & w.live) != m || (mask & m) != m, 0)) {
        const Mask odd = ((mask & w.live) ^ m) ? ((mask & w.live) ^ m) : m;
        report(w, i, __builtin_ctz(odd), "divergent_warp",
               std::string(what) + " names other threads in its member mask than those that execute it; threads that are named and absent leave the result undefined");
    }
    return mask;
}

enum ShuffleMode { kUp, kDown, kButterfly, kIndex };

// o: d, p, a, b, c, membermask
template <int Mode>
void shfl(Warp& w, const Insn& i, Mask m) {
    const uint32_t* o = operands<6>(w, i);
    const Mask member = members(w, i, m, o[5], "shfl.sync");
    alignas(64) uint32_t a[kLanes], out[kLanes];
    std::memcpy(a, source<uint32_t>(w, o[2]), sizeof a);
    const uint32_t *b = source<uint32_t>(w, o[3]), *c = source<uint32_t>(w, o[4]);
    Mask in_range = 0, absent = 0;
    for (int l = 0; l < kLanes; ++l) {
        const int bval = static_cast<int>(b[l] & 31u), cval = static_cast<int>(c[l] & 31u), segment = static_cast<int>((c[l] >> 8) & 31u);
        const int max_lane = (l & segment) | (cval & ~segment), min_lane = l & segment;
        int from = l;
        bool ok = false;
        if (Mode == kUp) from = l - bval, ok = from >= max_lane;
        else if (Mode == kDown) from = l + bval, ok = from <= max_lane;
        else if (Mode == kButterfly) from = l ^ bval, ok = from <= max_lane;
        else from = min_lane | (bval & ~segment), ok = from <= max_lane;
        if (!ok) from = l;
        in_range |= static_cast<Mask>(ok) << l;
        absent |= static_cast<Mask>(!((m & member) >> (from & 31) & 1u)) << l;
        out[l] = a[from & 31];
    }
    if (__builtin_expect((absent & m) != 0, 0) && w.launch->checks.barrier)
        report(w, i, __builtin_ctz(absent & m), "divergent_warp", "shfl.sync reads a thread that does not take part; the value is undefined");
    uint32_t* d = destination<uint32_t>(w, o[0]);
    map(d, m, [&out](int l) { return out[l]; });
    write_predicate(w, o[1], m, in_range);
}

enum VoteMode { kAll, kAny, kUniform };
template <int Mode>
void vote(Warp& w, const Insn& i, Mask m) {  // P, p, membermask
    members(w, i, m, i.o[2], "vote.sync");
    const Mask p = read_predicate(w, i.o[1]) & m;
    const bool r = Mode == kAll ? p == m : Mode == kAny ? p != 0 : (p == m || p == 0);
    write_predicate(w, i.o[0], m, r ? kFullMask : 0);
}
void ballot(Warp& w, const Insn& i, Mask m) {  // R, p, membermask
    members(w, i, m, i.o[2], "vote.sync");
    const uint32_t r = read_predicate(w, i.o[1]) & m;
    map(destination<uint32_t>(w, i.o[0]), m, [r](int) { return r; });
}
void activemask(Warp& w, const Insn& i, Mask m) {
    map(destination<uint32_t>(w, i.o[0]), m, [m](int) { return m; });
}
// PTX leaves the choice open, and wants it to be the same whenever the members are.
void elect(Warp& w, const Insn& i, Mask m) {  // R, P, membermask
    members(w, i, m, i.o[2], "elect.sync");
    uint64_t state = (w.launch->config.seed + 1) * 0x9e3779b97f4a7c15ull ^ m;
    uint32_t skip = w.launch->config.seed ? next_random(state) % static_cast<uint32_t>(__builtin_popcount(m)) : 0;
    Mask left = m;
    for (; skip; --skip) left &= left - 1;
    const uint32_t leader = static_cast<uint32_t>(__builtin_ctz(left));
    map(destination<uint32_t>(w, i.o[0]), m, [leader](int) { return leader; });
    write_predicate(w, i.o[1], m, 1u << leader);
}
template <class T>
void match_any(Warp& w, const Insn& i, Mask m) {  // R, a, membermask
    members(w, i, m, i.o[2], "match.sync");
    const T* a = source<T>(w, i.o[1]);
    alignas(64) uint32_t out[kLanes] = {};
    for (int l = 0; l < kLanes; ++l)
        for (int n = 0; n < kLanes; ++n) out[l] |= static_cast<uint32_t>(a[n] == a[l] && (m >> n & 1u)) << n;
    map(destination<uint32_t>(w, i.o[0]), m, [&out](int l) { return out[l]; });
}

template <class T>
void match_all(Warp& w, const Insn& i, Mask m) {  // R, P, a, membermask
    members(w, i, m, i.o[3], "match.sync");
    const T* a = source<T>(w, i.o[2]);
    const T first = a[__builtin_ctz(m)];
    bool same = true;
    for (Mask left = m; left; left &= left - 1) same &= a[__builtin_ctz(left)] == first;
    map(destination<uint32_t>(w, i.o[0]), m, [=](int) { return same ? m : 0u; });
    write_predicate(w, i.o[1], m, same ? kFullMask : 0);
}

struct Add { template <class T> static T f(T a, T b) { return static_cast<T>(a + b); } };
struct Min { template <class T> static T f(T a, T b) { return a < b ? a : b; } };
struct Max { template <class T> static T f(T a, T b) { return a > b ? a : b; } };
struct And { template <class T> static T f(T a, T b) { return a & b; } };
struct Or { template <class T> static T f(T a, T b) { return a | b; } };
struct Xor { template <class T> static T f(T a, T b) { return a ^ b; } };
template <class F, class T>
void redux(Warp& w, const Insn& i, Mask m) {  // R, a, membermask
    members(w, i, m, i.o[2], "redux.sync");
    const T* a = source<T>(w, i.o[1]);
    T r = a[__builtin_ctz(m)];
    for (Mask left = m & (m - 1); left; left &= left - 1) r = F::template f<T>(r, a[__builtin_ctz(left)]);
    map(destination<T>(w, i.o[0]), m, [r](int) { return r; });
}

void nothing(Warp&, const Insn&, Mask) {}
void fence_proxy(Warp& w, const Insn&, Mask m) {
    mbarrier_fence(w, m);
    if (w.launch->checks.race) w.block->races.fence_proxy(w, m);
}
void fence_mbarrier_init(Warp& w, const Insn&, Mask m) { mbarrier_fence(w, m); }

const Form kForms[] = {
    {"shfl.up", "RPrrrr", shfl<kUp>}, {"shfl.down", "RPrrrr", shfl<kDown>}, {"shfl.bfly", "RPrrrr", shfl<kButterfly>}, {"shfl.idx", "RPrrrr", shfl<kIndex>},
    {"vote.all.pred", "Ppr", vote<kAll>}, {"vote.any.pred", "Ppr", vote<kAny>}, {"vote.uni.pred", "Ppr", vote<kUniform>}, {"vote.ballot.b32", "Rpr", ballot},
    {"activemask.b32", "R", activemask}, {"elect", "RPr", elect},
    {"match.any.b32", "Rrr", match_any<uint32_t>}, {"match.any.b64", "Rlr", match_any<uint64_t>},
    {"match.all.b32", "RPrr", match_all<uint32_t>}, {"match.all.b64", "RPlr", match_all<uint64_t>},
    {"redux.add.u32", "Rrr", redux<Add, uint32_t>}, {"redux.add.s32", "Rrr", redux<Add, int32_t>},
    {"redux.min.u32", "Rrr", redux<Min, uint32_t>}, {"redux.min.s32", "Rrr", redux<Min, int32_t>},
    {"redux.max.u32", "Rrr", redux<Max, uint32_t>}, {"redux.max.s32", "Rrr", redux<Max, int32_t>},
    {"redux.and.b32", "Rrr", redux<And, uint32_t>}, {"redux.or.b32", "Rrr", redux<Or, uint32_t>}, {"redux.xor.b32", "Rrr", redux<Xor, uint32_t>},
    // Memory is sequentially consistent here, and there are no caches to prefetch into.
    {"fence", "", nothing, Fidelity::NotModelled}, {"fence.proxy.async", "", fence_proxy}, {"fence.mbarrier_init", "", fence_mbarrier_init},
    {"prefetch", "", nothing, Fidelity::NotModelled}, {"nanosleep", "", nothing, Fidelity::NotModelled},
    {"griddepcontrol", "", nothing, Fidelity::NotModelled}, {"pmevent", "", nothing, Fidelity::NotModelled}, {"discard", "", nothing, Fidelity::NotModelled},
};

}  // namespace

FormTable warp_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
