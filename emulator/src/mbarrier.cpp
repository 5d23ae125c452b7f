// mbarrier instructions and cp.async.mbarrier.arrive (PTX ISA, "mbarrier"): operands of the lanes; mbarrier_state.h does the rest.
// SPDX-License-Identifier: Apache-2.0
#include "access.h"
#include "mbarrier_state.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

// Offsets in shared memory of the objects that the lanes name, and the lanes whose object lies in it.
static inline Mask objects(Warp& w, const Insn& i, Mask m, uint32_t operand, uint32_t* offset) {
    if (i.mode & kGenericAddress) {
        alignas(64) uint64_t address[kLanes];
        lane_addresses(w, operand, i.imm, address);
        for (Mask left = m; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            offset[l] = static_cast<uint32_t>(address[l]);
            if ((address[l] & kWindowMask) == kSharedWindow) continue;
            report(w, i, l, "mbarrier", "names an address that is not in shared memory, where every mbarrier must be");
            m &= ~(1u << l);
        }
        KW_LANES offset[l] = (m >> l) & 1u ? offset[l] : 0u;
    } else {
        shared_offsets(w, operand, i.imm, offset);
    }
    return shared_in_bounds(w, i, m, offset, kMbarrierBytes);
}

void init(Warp& w, const Insn& i, Mask m) {
    alignas(64) uint32_t offset[kLanes];
    m = objects(w, i, m, i.o[0], offset);
    mbarrier_init(w, i, m, offset, source<uint32_t>(w, i.o[1]));
}

void inval(Warp& w, const Insn& i, Mask m) {
    alignas(64) uint32_t offset[kLanes];
    m = objects(w, i, m, i.o[0], offset);
    mbarrier_invalidate(w, i, m, offset);
}

enum Extra { kNothing, kCount, kBytes };
template <Extra Third>
void arrive(Warp& w, const Insn& i, Mask m) {
    alignas(64) uint32_t offset[kLanes], count[kLanes];
    alignas(64) uint64_t state[kLanes];
    m = objects(w, i, m, i.o[1], offset);
    if (Third == kCount) {
        std::memcpy(count, source<uint32_t>(w, i.o[2]), sizeof count);
    } else {
        KW_LANES count[l] = 1;
    }
    mbarrier_arrive(w, i, m, offset, count, state, Third == kBytes ? source<uint32_t>(w, i.o[2]) : nullptr);
    map_active(destination<uint64_t>(w, i.o[0]), m, [&state](int l) { return state[l]; });
}

void expect(Warp& w, const Insn& i, Mask m) {
    alignas(64) uint32_t offset[kLanes];
    m = objects(w, i, m, i.o[0], offset);
    mbarrier_expect(w, i, m, offset, source<uint32_t>(w, i.o[1]));
}
void complete(Warp& w, const Insn& i, Mask m) {
    alignas(64) uint32_t offset[kLanes];
    m = objects(w, i, m, i.o[0], offset);
    mbarrier_complete(w, i, m, offset, source<uint32_t>(w, i.o[1]));
}

template <bool Parity>
void wait(Warp& w, const Insn& i, Mask m) {
    alignas(64) uint32_t offset[kLanes];
    alignas(64) uint64_t state[kLanes];
    const Mask all = m;
    m = objects(w, i, m, i.o[1], offset);
    if (Parity) {
        const uint32_t* parity = source<uint32_t>(w, i.o[2]);
        KW_LANES state[l] = parity[l];
    } else {
        std::memcpy(state, source<uint64_t>(w, i.o[2]), sizeof state);
    }
    write_predicate(w, i.o[0], all, mbarrier_wait(w, i, m, offset, state) | (all & ~m));
}

void pending_count(Warp& w, const Insn& i, Mask m) {
    const uint64_t* state = source<uint64_t>(w, i.o[1]);
    map(destination<uint32_t>(w, i.o[0]), m, [state](int l) { return mbarrier_pending(state[l]); });
}

void track_copies(Warp& w, const Insn& i, Mask m) {
    alignas(64) uint32_t offset[kLanes];
    m = objects(w, i, m, i.o[0], offset);
    mbarrier_track_copies(w, i, m, offset);
}

const Form kForms[] = {
    {"mbarrier.init", "mr", init}, {"mbarrier.inval", "m", inval},
    {"mbarrier.arrive", "Lm", arrive<kNothing>}, {"mbarrier.arrive.count", "Lmr", arrive<kCount>},
    {"mbarrier.arrive.bytes", "Lmr", arrive<kBytes>}, {"mbarrier.expect_tx", "mr", expect}, {"mbarrier.complete_tx", "mr", complete},
    {"mbarrier.wait", "Pml", wait<false>}, {"mbarrier.wait.parity", "Pmr", wait<true>},
    {"mbarrier.pending_count", "Rl", pending_count}, {"cp.async.mbarrier.arrive", "m", track_copies},
};

}  // namespace

FormTable mbarrier_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
