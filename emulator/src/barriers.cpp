// Block-wide barriers (PTX ISA, "bar", "barrier").
// SPDX-License-Identifier: Apache-2.0
#include "barriers.h"

#include "checks.h"
#include "register_pool.h"
#include "wgmma_state.h"

namespace kw {
namespace {

constexpr uint32_t kNumBarriers = 16;

uint32_t first_lane_value(const Warp& warp, uint32_t operand, Mask mask, bool& uniform) {
    const uint32_t* values = reinterpret_cast<const uint32_t*>(warp.base[operand & kOperandConstant] + (operand & ~kOperandFlags));
    const uint32_t value = values[__builtin_ctz(mask)];
    uniform = true;
    for (Mask left = mask; left; left &= left - 1) uniform &= values[__builtin_ctz(left)] == value;
    return value;
}

void reset(BarrierState& barrier) {
    barrier.open = false;
    barrier.reduces = false;
    barrier.arrived = barrier.popc = barrier.threads = 0;
    std::fill(barrier.arrived_lanes.begin(), barrier.arrived_lanes.end(), 0u);
}

void finish_reduction(Warp& warp, const Split& split, const Insn& insn, const BarrierState& barrier) {
    if (insn.ext == kReducePopc) {
        uint32_t* d = reinterpret_cast<uint32_t*>(warp.registers + (insn.o[2] & ~kOperandFlags));
        for (Mask left = split.mask; left; left &= left - 1) d[__builtin_ctz(left)] = barrier.popc;
        return;
    }
    const bool value = insn.ext == kReduceAnd ? barrier.popc == barrier.threads : barrier.popc != 0;
    Mask& p = warp.predicates[insn.o[2] >> 1];
    p = (p & ~split.mask) | (value ? split.mask : 0);
}

void complete(Launch& launch, Block& block, uint32_t id) {
    BarrierState& barrier = block.barriers[id];
    if (launch.counting) launch.counters.barriers += 1;
    for (Warp& warp : block.warps) {
        for (Split& split : warp.splits) {
            if (split.state != SplitState::AtBarrier || split.barrier != id) continue;
            const Insn& insn = launch.kernel->code[split.pc];
            if (insn.kind == Kind::BarrierReduce) finish_reduction(warp, split, insn, barrier);
            if (launch.checks.race) block.races.barrier_leave(warp, id);
            split.state = SplitState::Ready;
            split.pc += 1;
        }
    }
    if (launch.checks.race) block.races.barrier_reset(id);
    reset(barrier);
}

bool is_complete(const Block& block, const BarrierState& barrier) {
    if (barrier.expected) return barrier.arrived >= barrier.expected;
    for (const Warp& warp : block.warps)
        if (barrier.arrived_lanes[warp.index] != warp.live || (warp.live == 0)) return false;
    return true;
}

std::string count_text(uint32_t expected) { return expected ? std::to_string(expected) + " threads" : "all threads of the block"; }

}  // namespace

void arrive(Warp& warp, Split& split) {
    Launch& launch = *warp.launch;
    Block& block = *warp.block;
    const uint32_t pc = split.pc;
    const Insn& insn = launch.kernel->code[pc];
    const int lane = __builtin_ctz(split.mask);
    const bool check = launch.checks.barrier;
    bool uniform = true, uniform_count = true;
    uint32_t id = first_lane_value(warp, insn.o[0], split.mask, uniform);
    uint32_t expected = insn.o[1] == kNoOperand ? 0 : first_lane_value(warp, insn.o[1], split.mask, uniform_count);
    if ((!uniform || !uniform_count) && check)
        report_at(warp, pc, lane, "barrier", "threads of one warp name different barriers or thread counts in one instruction");
    if (id >= kNumBarriers) {
        if (check) report_at(warp, pc, lane, "barrier", "barrier " + std::to_string(id) + " does not exist; a block has barriers 0 to 15");
        id = 0;
    }
    if (expected % kLanes) {
        if (check) report_at(warp, pc, lane, "barrier", "a barrier's thread count must be a multiple of 32, got " + std::to_string(expected));
        expected = static_cast<uint32_t>(align_up(expected, kLanes));
    }
    const uint32_t in_block = static_cast<uint32_t>(block.warps.size()) * kLanes;
    if (expected > in_block && check)
        report_at(warp, pc, lane, "barrier", "the barrier waits for " + std::to_string(expected) + " threads, the block has " + std::to_string(launch.threads));
    if ((insn.imm & 1) && split.mask != warp.start && check) {
        const Mask absent = warp.start & ~split.mask;
        report_at(warp, pc, __builtin_ctz(absent), "divergent_barrier",
                  std::to_string(__builtin_popcount(absent)) + " threads of the warp " + ((absent & warp.live) ? "have gone elsewhere" : "have exited") +
                      " while the others execute this barrier; put __syncthreads() where all threads of a warp reach it together");
    }
    BarrierState& barrier = block.barriers[id];
    if (barrier.arrived_lanes.size() != block.warps.size()) barrier.arrived_lanes.assign(block.warps.size(), 0);
    if (!barrier.open) {
        barrier.open = true;
        barrier.expected = expected;
        barrier.first_pc = pc;
    } else if ((barrier.expected ? barrier.expected : in_block) != (expected ? expected : in_block) && check) {
        report_at(warp, pc, lane, "barrier",
                  "barrier " + std::to_string(id) + " is used here for " + count_text(expected) + ", but a warp that arrived before expects " +
                      count_text(barrier.expected) + " at " + describe(launch, barrier.first_pc));
    }
    if ((barrier.arrived_lanes[warp.index] & split.mask) && check && !barrier.expected)
        report_at(warp, pc, lane, "barrier", "a thread arrives twice at barrier " + std::to_string(id) + " before it completes");
    barrier.arrived_lanes[warp.index] |= split.mask;
    barrier.arrived += split.mask == warp.live ? static_cast<uint32_t>(kLanes) : static_cast<uint32_t>(__builtin_popcount(split.mask));
    if (insn.kind == Kind::BarrierReduce) {
        const Mask p = (warp.predicates[insn.o[3] >> 1] ^ (0u - (insn.o[3] & 1u))) & split.mask;
        barrier.popc += static_cast<uint32_t>(__builtin_popcount(p));
        barrier.threads += static_cast<uint32_t>(__builtin_popcount(split.mask));
    }
    if (launch.checks.race) block.races.barrier_arrive(warp, id);
    if (insn.kind == Kind::BarrierArrive) {
        split.pc += 1;
    } else {
        split.state = SplitState::AtBarrier;
        split.barrier = static_cast<uint8_t>(id);
    }
    if (is_complete(block, barrier)) complete(launch, block, id);
}

bool release_stuck_barriers(Launch& launch, Block& block) {
    for (uint32_t id = 0; id < kNumBarriers; ++id) {
        BarrierState& barrier = block.barriers[id];
        if (!barrier.open || barrier.expected) continue;
        bool missing = false, exited = false;
        Warp* waiting = nullptr;
        uint32_t pc = 0;
        for (Warp& warp : block.warps) {
            missing |= (warp.live & ~barrier.arrived_lanes[warp.index]) != 0;
            exited |= warp.live == 0;
            for (const Split& split : warp.splits)
                if (split.state == SplitState::AtBarrier && split.barrier == id) waiting = &warp, pc = split.pc;
        }
        if (missing || !waiting) continue;
        if (exited && launch.checks.barrier)
            report_at(*waiting, pc, -1, "exited_warp",
                      "warps of the block have exited, and this barrier waits for all threads; every thread must reach every __syncthreads()");
        complete(launch, block, id);
        return true;
    }
    return false;
}

namespace {

// Appends where the warp is, one entry for each of its splits.
void describe_wait(const Launch& launch, const Warp& warp, std::string& text) {
    if (warp.splits.empty()) text += " warp " + std::to_string(warp.index) + " has exited;";
    for (const Split& split : warp.splits) {
        const std::string polls = polled_by(warp, split);  // an mbarrier
        if (!polls.empty()) {
            text += " warp " + std::to_string(warp.index) + polls + ";";
            continue;
        }
        const bool spins = split.state == SplitState::Ready && warp.polls_in_turn;
        text += " warp " + std::to_string(warp.index) + (spins ? " spins at " : " waits at ") + describe(launch, spins ? warp.poll_pc : split.pc);
        if (split.state == SplitState::AtBarrier && split.barrier == kRegisterWait) {
            text += register_wait(warp, split);
        } else if (split.state == SplitState::AtBarrier && split.barrier == kWgmmaWait) {
            text += wgmma_wait_text(warp);
        } else if (split.state == SplitState::AtBarrier) {
            const BarrierState& barrier = warp.block->barriers[split.barrier];
            text += " (barrier " + std::to_string(split.barrier) + ": " + std::to_string(barrier.arrived) + " of " +
                    std::to_string(barrier.expected ? barrier.expected : static_cast<uint32_t>(warp.block->warps.size()) * kLanes) + " threads have arrived)";
        }
        text += ";";
    }
}

constexpr int kMaxWarpsNamed = 16;

std::string counted(uint64_t count, const char* what) { return std::to_string(count) + " " + what + (count == 1 ? "" : "s"); }

}  // namespace

void report_deadlock(Launch& launch, Block& block) {
    std::string text = "no warp can go on:";
    Warp* first = nullptr;
    uint32_t first_pc = 0;
    for (Warp& warp : block.warps) {
        describe_wait(launch, warp, text);
        if (!first && !warp.splits.empty()) first = &warp, first_pc = warp.splits[0].pc;
    }
    launch.config.collect = false;
    if (first) report_at(*first, first_pc, -1, "deadlock", text);
}

void report_endless_wait(Launch& launch, const std::vector<Block*>& resident, uint64_t window, uint64_t started) {
    const uint64_t blocks = static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2];
    std::string text = "threads wait for memory that nobody changes. " + std::to_string(resident.size()) + " of " + counted(blocks, "block") +
                       (resident.size() == 1 ? " is" : " are") + " resident";
    if (started < blocks) {
        text += ", as many as resident_blocks=" + std::to_string(window) + " allows, and the blocks from number " + std::to_string(started) +
                " on have not started. Where blocks wait for later ones, as at a grid barrier, all must be resident at once: launch it cooperatively, with "
                "no more blocks than the device holds, or let blocks wait for earlier ones only";
    } else {
        text += ", and all have started, so no other is left to end the wait: the store that it needs is missing, was made before, or comes after a wait itself";
    }
    Warp* first = nullptr;
    int named = 0, more = 0;
    for (Block* block : resident) {
        bool heading = false;
        for (Warp& warp : block->warps) {
            if (warp.splits.empty()) continue;
            if (!first && warp.polls_in_turn) first = &warp;
            if (named == kMaxWarpsNamed) {
                ++more;
                continue;
            }
            ++named;
            if (!heading) text += ". Block (" + std::to_string(block->id[0]) + ", " + std::to_string(block->id[1]) + ", " + std::to_string(block->id[2]) + "):";
            heading = true;
            describe_wait(launch, warp, text);
        }
    }
    text.pop_back();  // the last semicolon
    if (more) text += "; and " + counted(static_cast<uint64_t>(more), "other warp");
    launch.config.collect = false;  // nothing to continue with
    report_at(*first, first->poll_pc, -1, "deadlock", text);
}

}  // namespace kw
