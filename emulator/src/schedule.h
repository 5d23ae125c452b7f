// Runs the warps of a thread block.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.h"

namespace kw {

enum class BlockTurn {
    Exited,  // all of its threads
    Over,    // it has had its number of warp instructions
    Idle,    // all it does is to poll memory: another block should have a turn
};

// Runs a block that start_block() has set up, for `turn` warp instructions or little more. Throws LaunchStopped.
BlockTurn run_block(Launch& launch, Block& block, uint64_t turn);

// Whether some thread of the warp is not at a barrier of the block.
bool runnable(const Warp& warp);

}  // namespace kw
