// wgmma: what is in flight, and the registers that only the asynchronous proxy may touch meanwhile (PTX ISA, "Asynchronous
// Warpgroup Level Matrix Multiply-Accumulate Operation").
//
// Products are computed when they are issued. Their accumulators, and registers that hold A, are marked from then on until a
// wgmma.wait_group covers them: another instruction that reads or writes one is a finding, but for a mov, which carries the
// mark on, as compilers copy registers between one wgmma and the next that ptxas gives one place. Likewise a register that an
// instruction writes is marked until the next wgmma.fence. All that is watched is known when a kernel is decoded; no other
// instruction is any slower. The shared memory that a product reads is read by a component of its warpgroup's in the clocks
// of the race check, up to the wait. A wait ends when all four warps have committed the groups it waits for.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ast.h"
#include "decode.h"
#include "machine.h"

namespace kw {

// Split::barrier of a split that waits for a wgmma group.
constexpr uint8_t kWgmmaWait = 253;
constexpr uint32_t kWgmmaScaleWord = 250;  // RegisterUse::word of the predicate scale-d
constexpr uint32_t kWarpsOfGroup = 4;

// Modifier bits of Insn::mode.
enum WgmmaMode : int { kNegatesA = 1, kNegatesB = 2, kTransposesA = 4, kTransposesB = 8, kAInRegisters = 16, kSaturatesSum = 32 };

// An instruction that touches a watched register.
struct Watched {
    Handler fn = nullptr;
    uint32_t guard = 0;
    Mask guard_flip = 0;
    bool moves = false;  // one register to another
    std::vector<std::pair<uint32_t, uint32_t>> reads, writes;  // place in the register file, virtual register
};
struct WgmmaWatch {
    std::vector<uint32_t> at;  // by instruction: 1 + index into insns, 0 for none
    std::vector<Watched> insns;
    std::vector<RegisterNames> names;
    std::string name(uint32_t reg) const;
};

// Registers of accumulators, 32 bits each, of a shape like m64n128k16 and a type of D.
uint32_t wgmma_accumulators(std::string_view shape, std::string_view type);
// By virtual register: those of `roots`, and all that plain moves connect with them.
std::vector<bool> wgmma_copies(const Kernel& kernel, size_t registers, const std::vector<RegisterUse>& uses, const std::vector<uint32_t>& roots);
// Puts the watch into a kernel whose registers have their places, and into its tracked form.
void watch_wgmma(Kernel& kernel, const std::vector<bool>& watched, const std::vector<RegisterUse>& uses, const std::vector<RegisterNames>& names);

// A product is issued: judges and marks its registers. `accumulators` and `a` are operand words, `shape` tells accumulators apart.
void wgmma_issue(Warp& w, const Insn& i, const uint32_t* accumulators, uint32_t count, const uint32_t* a, uint32_t a_count, uint32_t shape);
// The component of what the warp's products read, and the sequence number of its open group.
uint32_t wgmma_component(Warp& w);
void wgmma_fence(Warp& w);
void wgmma_commit(Warp& w);
void wgmma_wait(Warp& w, Split& split);
std::string wgmma_wait_text(const Warp& w);

}  // namespace kw
