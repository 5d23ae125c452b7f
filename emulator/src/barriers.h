// Block-wide barriers (PTX ISA, "bar", "barrier"), and waits that never end.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.h"

namespace kw {

// The split executes the barrier instruction at its pc: it arrives, and waits or goes on; a complete barrier releases all.
void arrive(Warp& warp, Split& split);
// Nobody can run: completes barriers that only threads of exited warps are missing from. Whether one was.
bool release_stuck_barriers(Launch& launch, Block& block);
// No warp of the block can run and not all have exited: reports each waiting warp and its line.
void report_deadlock(Launch& launch, Block& block);
// The warps of all resident blocks wait, at barriers or by polling memory that nobody changes: reports them. `window` blocks
// may be resident, `started` have started.
void report_endless_wait(Launch& launch, const std::vector<Block*>& resident, uint64_t window, uint64_t started);

}  // namespace kw
