// mbarrier objects (PTX ISA, "mbarrier"): what the opaque 64 bits in shared memory stand for.
//
// The memory holds a pattern; counts and phases are kept here, by address. Phases are numbered on through invalidation and
// a second initialisation, so that a state operand or a record of the race check names one phase for ever.
// An arrive-on of cp.async.mbarrier.arrive happens as late as it may: when a wait polls its object and no arrival but such
// ones is missing. The copies it tracks land then, as writes of the object's own component in the race check's clocks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unordered_map>
#include <vector>

#include "base.h"
#include "race.h"

namespace kw {

constexpr uint32_t kMaxMbarrierCount = (1u << 20) - 1;
constexpr uint32_t kMbarrierBytes = 8;
constexpr int64_t kMaxTransactions = (1 << 20) - 1;  // of a phase, in bytes, either way

// Modifier bits of Insn::mode.
enum MbarrierMode : int { kGenericAddress = 1, kRelaxed = 2, kNoComplete = 4, kDrop = 8, kParity = 16, kMayTimeOut = 32, kNoIncrement = 64, kExpects = 128 };

struct Mbarrier {
    bool live = false;
    uint32_t offset = 0;    // in shared memory
    uint32_t index = 0;     // among the block's
    uint32_t expected = 0;  // arrivals of the next phase
    uint32_t pending = 0;   // arrivals of this phase that are missing
    int64_t transactions = 0;  // bytes this phase still waits for; below zero where they come before they are expected
    int64_t announced = 0;     // bytes that this phase was told to expect, in all
    uint32_t expect_pc = 0, arrive_pc = 0;  // of the last in this phase
    uint32_t arrivals_seen = 0;             // in this phase
    uint32_t first = 0, phase = 0;  // number of the first phase since initialisation, of the current one
    uint32_t init_pc = 0;
    uint32_t init_warp = 0, init_lane = 0;
    bool proxied = false;  // a fence has made the initialisation visible to the async proxy
    uint32_t component = 0;       // of the race check's clocks
    Clock arriving, completed;    // what arrivals so far have released, and those of completed phases
};

// An arrive-on that has not happened: of `lane` once its copies before number `serial` have landed.
struct AsyncArrival {
    uint32_t mbarrier, warp, lane, serial, pc;
};

struct Mbarriers {
    std::vector<Mbarrier> all;
    std::unordered_map<uint32_t, uint32_t> at;  // index by offset
    std::vector<AsyncArrival> arrivals;         // oldest first
    uint64_t changes = 0;                       // of any state: warps that poll while it stands still are stuck
};

// Copies of a warp that landed because an mbarrier tracked them: the latest of each object.
struct TrackedCopies {
    uint32_t mbarrier, phase, serial, group;
    Mask lanes;
};

struct Block;
struct Insn;
struct Launch;
struct Warp;
struct Split;

// One instruction of the lanes `m`, whose offsets are in bounds and aligned.
void mbarrier_init(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint32_t* count);
void mbarrier_invalidate(Warp& w, const Insn& i, Mask m, const uint32_t* offset);
// Fills state[l] with what mbarrier.arrive returns. `bytes`: those that arrive.expect_tx announces before it arrives, or null.
void mbarrier_arrive(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint32_t* count, uint64_t* state, const uint32_t* bytes);
void mbarrier_expect(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint32_t* bytes);
void mbarrier_complete(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint32_t* bytes);
void mbarrier_track_copies(Warp& w, const Insn& i, Mask m, const uint32_t* offset);
// The lanes for which the phase named by `state`, or by its parity, is complete.
Mask mbarrier_wait(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint64_t* state);
inline uint32_t mbarrier_pending(uint64_t state) { return static_cast<uint32_t>(state) & kMaxMbarrierCount; }

// The object that a bulk copy names to count its bytes; null and a finding if it is not initialised.
Mbarrier* mbarrier_for_copy(Warp& w, const Insn& i, uint32_t lane, uint32_t offset);
// A copy's bytes have landed.
void mbarrier_bytes(Launch& launch, Block& block, Mbarrier& b, uint32_t bytes);
// fence.mbarrier_init or fence.proxy.async by lanes of a warp.
void mbarrier_fence(Warp& w, Mask m);
// Where the object is and what its phase lacks.
std::string mbarrier_text(const Launch& launch, const Block& block, const Mbarrier& b);

// cp.async.wait_group or wait_all by lanes whose copies an mbarrier has landed: `covered` says which groups are waited for.
void wait_for_tracked(Warp& w, Mask m, bool all, uint32_t keep);
// The object that tracks a copy in flight, as text; empty if none does.
std::string tracked_by(const Warp& owner, uint32_t lane, uint32_t serial);
// What a lane of the split polls, as text; empty if it polls nothing.
std::string polled_by(const Warp& w, const Split& split);

}  // namespace kw
