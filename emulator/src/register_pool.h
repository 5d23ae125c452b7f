// setmaxnreg: registers that warps hand to one another (PTX ISA, "setmaxnreg").
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.h"

namespace kw {

// Split::barrier of a split that waits for registers.
constexpr uint8_t kRegisterWait = 254;

// A block starts: each thread holds what ptxas gave it.
void start_registers(const Launch& launch, Block& block);
// The split executes setmaxnreg: it goes on, or waits until there are as many registers as it wants.
void set_registers(Warp& warp, Split& split);
// The block has ended: the warps of a warpgroup have executed the same.
void check_registers(Launch& launch, Block& block);
// What a split that waits for registers lacks, as text.
std::string register_wait(const Warp& warp, const Split& split);

}  // namespace kw
