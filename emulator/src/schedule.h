// Runs the warps of one thread block until all have exited.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.h"

namespace kw {

// Runs launch.block, whose id is set and whose warps are at the kernel's first instruction. Throws LaunchStopped.
void run_block(Launch& launch);

}  // namespace kw
