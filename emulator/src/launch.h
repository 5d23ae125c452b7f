// One launch from arguments to report, and the settings it starts from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "machine.h"

namespace kw {

struct LaunchArguments {
    uint32_t grid[3], block[3];
    uint32_t dynamic_shared;
    void** params;
};

struct LaunchResult {
    int code = 0;  // CUresult
    std::string message, report, printed;
};

// The storage of a block, and a block's start in it, at the kernel's first instruction; blocks are numbered x fastest.
std::unique_ptr<Block> make_block(Launch& launch);
void start_block(Launch& launch, Block& block, uint64_t number);

// Runs the kernel to its end; the arguments have been validated.
LaunchResult run_launch(const Kernel& kernel, const LaunchArguments& arguments, const Config& config, std::vector<Declared> declared, int (*poll)());

// Applies "key=value,key=value"; false and a message if something in it is unknown, and then nothing is changed.
bool configure(Config& config, const std::string& text, std::string& message);

// The JSON of kw_report.
std::string report_json(const Launch& launch);

}  // namespace kw
