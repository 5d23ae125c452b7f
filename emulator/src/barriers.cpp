// Block-wide barriers (PTX ISA, "bar", "barrier").
// SPDX-License-Identifier: Apache-2.0
#include "barriers.h"

#include "checks.h"

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

void complete(Launch& launch, uint32_t id) {
    Block& block = launch.block;
    BarrierState& barrier = block.barriers[id];
    if (launch.counting) launch.counters.barriers += 1;
    for (Warp& warp : block.warps) {
        for (Split& split : warp.splits) {
            if (split.state != SplitState::AtBarrier || split.barrier != id) continue;
            const Insn& insn = launch.kernel->code[split.pc];
            if (insn.kind == Kind::BarrierReduce) finish_reduction(warp, split, insn, barrier);
            if (launch.checks.race) launch.races.barrier_leave(warp, id);
            split.state = SplitState::Ready;
            split.pc += 1;
        }
    }
    if (launch.checks.race) launch.races.barrier_reset(id);
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
    if (!uniform || !uniform_count)
        report_at(warp, pc, lane, "barrier", "threads of one warp name different barriers or thread counts in one instruction");
    if (id >= kNumBarriers) {
        report_at(warp, pc, lane, "barrier", "barrier " + std::to_string(id) + " does not exist; a block has barriers 0 to 15");
        id = 0;
    }
    if (expected % kLanes) {
        report_at(warp, pc, lane, "barrier", "a barrier's thread count must be a multiple of 32, got " + std::to_string(expected));
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
    if (launch.checks.race) launch.races.barrier_arrive(warp, id);
    if (insn.kind == Kind::BarrierArrive) {
        split.pc += 1;
    } else {
        split.state = SplitState::AtBarrier;
        split.barrier = static_cast<uint8_t>(id);
    }
    if (is_complete(block, barrier)) complete(launch, id);
}

bool release_stuck_barriers(Launch& launch) {
    Block& block = launch.block;
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
        complete(launch, id);
        return true;
    }
    return false;
}

void report_deadlock(Launch& launch) {
    std::string text = "no warp can go on:";
    Warp* first = nullptr;
    uint32_t first_pc = 0;
    for (Warp& warp : launch.block.warps) {
        if (warp.splits.empty()) {
            text += " warp " + std::to_string(warp.index) + " has exited;";
            continue;
        }
        for (const Split& split : warp.splits) {
            if (!first) first = &warp, first_pc = split.pc;
            const std::string polls = polled_by(warp, split);
            if (!polls.empty()) {
                text += " warp " + std::to_string(warp.index) + polls + ";";
                continue;
            }
            text += " warp " + std::to_string(warp.index) + " waits at " + describe(launch, split.pc);
            if (split.state == SplitState::AtBarrier) {
                const BarrierState& barrier = launch.block.barriers[split.barrier];
                text += " (barrier " + std::to_string(split.barrier) + ": " + std::to_string(barrier.arrived) + " of " +
                        std::to_string(barrier.expected ? barrier.expected : static_cast<uint32_t>(launch.block.warps.size()) * kLanes) + " threads have arrived)";
            }
            text += ";";
        }
    }
    launch.config.collect = false;
    if (first) report_at(*first, first_pc, -1, "deadlock", text);
}

}  // namespace kw
