// The blocks of one launch on several host threads.
//
// Only for kernels whose blocks have nothing to do with one another: no strong access to global memory, no atomic on it, no
// clock, and nothing the launch has to remember of global memory (arrays declared uninitialised). Whether the blocks do keep
// apart is what the race check sees: each thread keeps its own records, which are compared at the end. When two meet in one
// place, or anything else happens that is to be reported, what the threads did is undone and the launch goes on as if they
// had never been: so findings, counters and results are those of one thread, whatever the number and the timing.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.h"

namespace kw {

// Whether it pays to run the blocks from `first` on in several threads, going by what the earlier ones took, and may be done.
bool may_split(const Launch& launch, uint64_t first);

// Runs the blocks from `first` on. False: nothing was done, so run them one after another. Throws LaunchStopped only when the
// caller's poll ends the launch.
bool run_split(Launch& launch, uint64_t first);

// For a member's launch, once in a while. False: the team has been stopped.
bool tell_team(Launch& launch);

}  // namespace kw
