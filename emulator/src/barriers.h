// Block-wide barriers (PTX ISA, "bar", "barrier").
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.h"

namespace kw {

// The split executes the barrier instruction at its pc: it arrives, and waits or goes on; a complete barrier releases all.
void arrive(Warp& warp, Split& split);
// Nobody can run: completes barriers that only threads of exited warps are missing from. Whether one was.
bool release_stuck_barriers(Launch& launch);
// Nobody can run and not all have exited: reports each waiting warp and its line.
void report_deadlock(Launch& launch);

}  // namespace kw
