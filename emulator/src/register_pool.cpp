// setmaxnreg: registers that warps hand to one another; see register_pool.h.
// SPDX-License-Identifier: Apache-2.0
#include "register_pool.h"

#include <algorithm>

#include "checks.h"

namespace kw {
namespace {

constexpr uint32_t kWarpsOfGroup = 4;
constexpr uint32_t kRegisterStep = 8;    // ptxas allocates registers of a thread in steps
constexpr uint32_t kMostRegisters = 255;  // that an instruction can name

void misuse(Warp& warp, uint32_t pc, const std::string& text) {
    if (warp.launch->checks.barrier) report_at(warp, pc, -1, "registers", text);
}

// Warps wait for what others give back, in the order of their numbers.
void serve(Block& block) {
    for (Warp& warp : block.warps) {
        for (Split& split : warp.splits) {
            if (split.state != SplitState::AtBarrier || split.barrier != kRegisterWait) continue;
            const uint32_t want = static_cast<uint32_t>(warp.launch->kernel->code[split.pc].imm);
            const uint32_t more = (want - warp.registers_held) * kLanes;
            if (more > block.free_registers) continue;
            block.free_registers -= more;
            warp.registers_held = want;
            split.state = SplitState::Ready;
            split.pc += 1;
            warp.launch->changed = true;
        }
    }
}

}  // namespace

void start_registers(const Launch& launch, Block& block) {
    const uint32_t warps = static_cast<uint32_t>(block.warps.size());
    uint32_t each = static_cast<uint32_t>(launch.config.registers);
    if (!each) each = launch.kernel->maxnreg;
    if (!each) each = std::min(static_cast<uint32_t>(launch.config.device.regs_per_sm) / (warps * kLanes), kMostRegisters);
    each = std::min(each, kMostRegisters + 1) / kRegisterStep * kRegisterStep;
    block.free_registers = 0;
    for (Warp& warp : block.warps) warp.registers_held = each, warp.registers_set = 0;
}

void set_registers(Warp& warp, Split& split) {
    Block& block = *warp.block;
    const uint32_t pc = split.pc;
    const Insn& insn = warp.launch->kernel->code[pc];
    const uint32_t want = static_cast<uint32_t>(insn.imm), held = warp.registers_held;
    const bool more = insn.mode != 0;
    warp.registers_set += 1;
    warp.registers_pc = pc;
    if (split.mask != warp.start)
        misuse(warp, pc, "only some threads of the warp execute setmaxnreg; all of its warpgroup must");
    if (block.warps.size() / kWarpsOfGroup * kWarpsOfGroup <= warp.index)
        misuse(warp, pc, "setmaxnreg is for warpgroups, of four warps each; the last " + std::to_string(block.warps.size() % kWarpsOfGroup) + " warps of the block are none");
    if (more ? want < held : want > held) {
        misuse(warp, pc, std::string("setmaxnreg.") + (more ? "inc" : "dec") + " to " + std::to_string(want) + " registers, where each thread holds " + std::to_string(held) +
                             (warp.launch->config.registers ? "" : ", taken to be what ptxas gave it; say registers=N if that was another number"));
        split.pc += 1;
        return;
    }
    if (!more) {
        block.free_registers += (held - want) * kLanes;
        warp.registers_held = want;
        split.pc += 1;
        serve(block);
        return;
    }
    split.state = SplitState::AtBarrier;
    split.barrier = kRegisterWait;
    serve(block);
}

void check_registers(Launch& launch, Block& block) {
    (void)launch;
    for (size_t first = 0; first + kWarpsOfGroup <= block.warps.size(); first += kWarpsOfGroup) {
        for (size_t n = first + 1; n < first + kWarpsOfGroup; ++n) {
            Warp &a = block.warps[first], &b = block.warps[n];
            if (a.registers_set == b.registers_set && a.registers_held == b.registers_held) continue;
            Warp& one = a.registers_set >= b.registers_set ? a : b;
            misuse(one, one.registers_pc, "the warps of a warpgroup execute setmaxnreg differently: warp " + std::to_string(a.index) + " " + std::to_string(a.registers_set) +
                                              " times, to " + std::to_string(a.registers_held) + " registers, and warp " + std::to_string(b.index) + " " +
                                              std::to_string(b.registers_set) + " times, to " + std::to_string(b.registers_held));
            return;
        }
    }
}

std::string register_wait(const Warp& warp, const Split& split) {
    const uint32_t want = static_cast<uint32_t>(warp.launch->kernel->code[split.pc].imm);
    std::string text = " (" + std::to_string((want - warp.registers_held) * kLanes) + " more registers, of which " + std::to_string(warp.block->free_registers) + " are free; warps hold";
    uint64_t total = warp.block->free_registers;
    for (const Warp& one : warp.block->warps) {
        text += " " + std::to_string(one.registers_held);
        total += uint64_t{one.registers_held} * kLanes;
    }
    return text + " for each thread; the block was launched with " + std::to_string(total) + ")";
}

}  // namespace kw
