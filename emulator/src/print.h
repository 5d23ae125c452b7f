// What kernels say: printf and failed assertions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.h"

namespace kw {

// vprintf of one lane: appends to Launch::printed. Returns the number of arguments, -1 without a format, -2 for a bad one.
int32_t print_lane(Warp& warp, const Insn& insn, int lane, uint64_t format, uint64_t arguments);

// __assertfail of one lane; ends the launch.
void assertion_failed(Warp& warp, const Insn& insn, int lane, uint64_t message, uint64_t file, uint32_t line, uint64_t function);

// A call through a register that holds no function's address; ends the launch.
void call_of_nothing(Warp& warp, const Insn& insn, int lane, uint64_t address);

}  // namespace kw
