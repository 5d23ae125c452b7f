// One launch: thread blocks one after another, each with its warps, shared memory and registers.
// SPDX-License-Identifier: Apache-2.0
#include "launch.h"

#include <memory>
#include <new>

#include "schedule.h"
#include "undefined.h"

namespace kw {
namespace {

constexpr uint8_t kPoison = 0xff;  // unwritten shared memory reads as NaN

void make_params(Launch& launch, void** params) {
    const Kernel& kernel = *launch.kernel;
    launch.params.resize(kernel.param_bytes);
    for (size_t n = 0; n < kernel.params.size(); ++n) std::memcpy(launch.params.data() + kernel.params[n].offset, params[n], kernel.params[n].bytes);
}

void make_warps(Launch& launch) {
    const Kernel& kernel = *launch.kernel;
    const uint32_t count = (launch.threads + kLanes - 1) / kLanes;
    const size_t file = align_up(kernel.register_bytes, 64) + 64;  // not a power of two apart
    launch.register_storage.resize(file * count);
    launch.predicate_storage.assign(static_cast<size_t>(kernel.num_predicates) * count, 0);
    launch.block.warps.resize(count);
    for (uint32_t w = 0; w < count; ++w) {
        Warp& warp = launch.block.warps[w];
        warp.registers = launch.register_storage.data() + file * w;
        warp.base[0] = warp.registers;
        warp.base[1] = kernel.constants.data();
        warp.predicates = launch.predicate_storage.data() + static_cast<size_t>(kernel.num_predicates) * w;
        warp.predicates[kPredicateTrue] = kFullMask;
        warp.block = &launch.block;
        warp.launch = &launch;
        warp.ext = kernel.ext.data();
        warp.index = w;
        warp.local.assign(static_cast<size_t>(kernel.local_bytes) * kLanes, 0);
        const uint32_t first = w * kLanes;
        warp.start = launch.threads - first >= kLanes ? kFullMask : (1u << (launch.threads - first)) - 1u;
        for (uint32_t l = 0; l < kLanes; ++l) {
            const uint32_t t = first + l;
            warp.tid[0][l] = t % launch.block_dim[0];
            warp.tid[1][l] = t / launch.block_dim[0] % launch.block_dim[1];
            warp.tid[2][l] = t / launch.block_dim[0] / launch.block_dim[1];
        }
    }
}

void start_block(Launch& launch, uint32_t x, uint32_t y, uint32_t z) {
    Block& block = launch.block;
    block.id[0] = x, block.id[1] = y, block.id[2] = z;
    std::memset(block.shared, kPoison, block.shared_bytes);
    if (launch.shadowed) std::memset(block.shadow, kUnwritten, block.shared_bytes);
    for (BarrierState& barrier : block.barriers) barrier = BarrierState{};
    block.mbarriers = Mbarriers{};
    if (launch.checks.race) {
        launch.races.reset(static_cast<uint32_t>(block.warps.size()), block.shared_bytes);
        launch.global_races.begin_block((z * launch.grid[1] + y) * launch.grid[0] + x);
    }
    for (Warp& warp : block.warps) {
        warp.live = warp.start;
        warp.splits.assign(1, Split{launch.kernel->entry, warp.start, SplitState::Ready, 0});
        warp.copies.clear();
        std::memset(warp.groups_committed, 0, sizeof warp.groups_committed);
        if (launch.kernel->tracking) start_tracking(warp);
        std::memset(warp.last_landing, 0, sizeof warp.last_landing);
        warp.copies_issued = 0;
        warp.tracked.clear();
        warp.yielding = warp.polling = warp.stuck = 0;
        warp.polls = 0;
        warp.polls_at_change = warp.stuck_at_change = 0;
    }
    launch.counters.blocks += 1;
    run_block(launch);
}

}  // namespace

LaunchResult run_launch(const Kernel& kernel, const LaunchArguments& arguments, const Config& config, std::vector<Declared> declared, int (*poll)()) {
    LaunchResult result;
    auto owned = std::make_unique<Launch>();
    Launch& launch = *owned;
    launch.kernel = config.checks.init && kernel.tracked ? kernel.tracked.get() : &kernel;
    launch.config = config;
    launch.checks = config.checks;
    const bool any_check = config.checks.memory || config.checks.init || config.checks.async || config.checks.barrier || config.checks.race;
    launch.counting = config.counters_follow_checks ? any_check : config.counters;
    launch.shadowed = config.checks.init || config.checks.async || config.checks.barrier || config.checks.race;
    std::copy(arguments.grid, arguments.grid + 3, launch.grid);
    std::copy(arguments.block, arguments.block + 3, launch.block_dim);
    launch.threads = arguments.block[0] * arguments.block[1] * arguments.block[2];
    launch.dynamic_shared = arguments.dynamic_shared;
    launch.declared = std::move(declared);
    const Bytes& globals = kernel.module->globals;
    if (globals.size()) {
        Declared range;
        range.begin = reinterpret_cast<uint64_t>(globals.data());
        range.end = range.begin + globals.size();
        launch.declared.push_back(range);
    }
    if (launch.checks.race) launch.global_races.start(launch.declared, static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2]);
    launch.executed.assign(kernel.code.size(), 0);
    launch.rng = config.seed * 0x9e3779b97f4a7c15ull + 1;
    launch.poll = poll;
    launch.last_poll = std::chrono::steady_clock::now();
    try {
        make_params(launch, arguments.params);
        launch.block.shared_bytes = kernel.dynamic_shared_at + arguments.dynamic_shared;
        launch.shared_storage.resize(launch.block.shared_bytes + 64);
        launch.block.shared = launch.shared_storage.data();
        if (launch.shadowed) {
            launch.shadow_storage.resize(launch.block.shared_bytes + 64);
            launch.block.shadow = reinterpret_cast<uint8_t*>(launch.shadow_storage.data());
        }
        make_warps(launch);
        for (uint32_t z = 0; z < launch.grid[2]; ++z)
            for (uint32_t y = 0; y < launch.grid[1]; ++y)
                for (uint32_t x = 0; x < launch.grid[0]; ++x) start_block(launch, x, y, z);
        if (!launch.findings.empty()) result.code = kLaunchFailed;
    } catch (const LaunchStopped& stopped) {
        result.code = stopped.result;
    } catch (const std::bad_alloc&) {
        result.code = kOutOfMemory;
        launch.message = "the emulator ran out of host memory";
    }
    if (launch.print_is_full) launch.printed += "[what the kernel printed beyond 1 MiB is lost]\n";
    result.message = launch.message;
    result.printed = launch.printed;
    result.report = report_json(launch);
    return result;
}

}  // namespace kw
