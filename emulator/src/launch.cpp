// One launch: which thread blocks are resident, each with its warps, shared memory and registers, and whose turn it is.
// SPDX-License-Identifier: Apache-2.0
#include "launch.h"

#include <algorithm>
#include <memory>
#include <new>

#include "barriers.h"
#include "parallel.h"
#include "register_pool.h"
#include "schedule.h"
#include "undefined.h"

namespace kw {
namespace {

constexpr uint8_t kPoison = 0xff;  // unwritten shared memory reads as NaN
constexpr uint64_t kReservedShared = 1024;     // bytes of shared memory that the system takes for each block, from sm_80 on
constexpr uint64_t kBlockTurn = 5'000'000;     // warp instructions after which others get a turn, even if the block does not poll
constexpr uint32_t kRandomBlockTurn = 5000;    // the most, with a seed
constexpr size_t kMixedBlocks = 8;             // interleaved with a seed although none of them waits
constexpr uint64_t kPatience = 1'000'000;      // polls between two looks for an endless wait: some tenths of a second
constexpr uint64_t kPollsOfEach = 1000;        // polls after which a warp counts as waiting

// A state for next_random(), never 0.
uint64_t mix(uint64_t seed, uint64_t index) {
    uint64_t z = seed * 0x9e3779b97f4a7c15ull + (index + 1) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 30)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) | 1u;
}

uint64_t count_blocks(const Launch& launch) { return static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2]; }

// How many blocks are resident at most: as many as asked for, else as the device holds by all limits but registers, which
// PTX does not tell.
uint64_t resident_window(const Launch& launch) {
    const Device& device = launch.config.device;
    const uint64_t warps = (launch.threads + kLanes - 1) / kLanes, shared = launch.kernel->dynamic_shared_at + launch.dynamic_shared + kReservedShared;
    const uint64_t by_threads = static_cast<uint64_t>(device.max_threads_per_sm) / (warps * kLanes), by_shared = static_cast<uint64_t>(device.smem_per_sm) / shared;
    const uint64_t of_sm = std::max<uint64_t>(1, std::min({by_threads, by_shared, static_cast<uint64_t>(device.max_blocks_per_sm)}));
    const uint64_t window = launch.config.resident_blocks ? launch.config.resident_blocks : of_sm * static_cast<uint64_t>(device.sms);
    return std::min(window, count_blocks(launch));
}

void make_params(Launch& launch, void** params) {
    const Kernel& kernel = *launch.kernel;
    launch.params.resize(kernel.param_bytes);
    for (size_t n = 0; n < kernel.params.size(); ++n) std::memcpy(launch.params.data() + kernel.params[n].offset, params[n], kernel.params[n].bytes);
}

void make_warps(const Launch& launch, Block& block) {
    const Kernel& kernel = *launch.kernel;
    const uint32_t count = (launch.threads + kLanes - 1) / kLanes;
    const size_t file = align_up(kernel.register_bytes, 64) + 64;  // not a power of two apart
    block.register_storage.resize(file * count);
    block.predicate_storage.assign(static_cast<size_t>(kernel.num_predicates) * count, 0);
    block.warps.resize(count);
    for (uint32_t w = 0; w < count; ++w) {
        Warp& warp = block.warps[w];
        warp.registers = block.register_storage.data() + file * w;
        warp.base[0] = warp.registers;
        warp.base[1] = kernel.constants.data();
        warp.predicates = block.predicate_storage.data() + static_cast<size_t>(kernel.num_predicates) * w;
        warp.block = &block;
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

}  // namespace

std::unique_ptr<Block> make_block(Launch& launch) {
    auto made = std::make_unique<Block>();
    Block& block = *made;
    block.shared_bytes = launch.kernel->dynamic_shared_at + launch.dynamic_shared;
    block.shared_storage.resize(block.shared_bytes + 64);
    block.shared = block.shared_storage.data();
    if (launch.shadowed) {
        block.shadow_storage.resize(block.shared_bytes + 64);
        block.shadow = reinterpret_cast<uint8_t*>(block.shadow_storage.data());
    }
    make_warps(launch, block);
    for (Warp& warp : block.warps) warp.launch = &launch;
    return made;
}

void start_block(Launch& launch, Block& block, uint64_t number) {
    block.id[0] = static_cast<uint32_t>(number % launch.grid[0]);
    block.id[1] = static_cast<uint32_t>(number / launch.grid[0] % launch.grid[1]);
    block.id[2] = static_cast<uint32_t>(number / launch.grid[0] / launch.grid[1]);
    std::memset(block.shared, kPoison, block.shared_bytes);
    if (launch.shadowed) std::memset(block.shadow, kUnwritten, block.shared_bytes);
    for (BarrierState& barrier : block.barriers) barrier = BarrierState{};
    block.mbarriers = Mbarriers{};
    block.bulk.clear();
    if (launch.kernel->wgmma_watch) block.layouts.assign(block.shared_bytes / kGranule + 1, 0);
    block.wgmma_components.assign(block.warps.size() / 4, 0);
    block.number = static_cast<uint32_t>(number);
    if (launch.checks.race) block.races.reset(static_cast<uint32_t>(block.warps.size()), block.shared_bytes);
    // Registers, predicates and local memory start the same for every block, whichever ran here before.
    std::memset(block.register_storage.data(), 0, block.register_storage.size());
    std::fill(block.predicate_storage.begin(), block.predicate_storage.end(), 0u);
    for (Warp& warp : block.warps) {
        warp.predicates[kPredicateTrue] = kFullMask;
        std::fill(warp.local.begin(), warp.local.end(), 0);
        warp.live = warp.start;
        warp.splits.assign(1, Split{launch.kernel->entry, warp.start, SplitState::Ready, 0});
        warp.copies.clear();
        warp.polls = warp.met_release = 0;
        std::memset(warp.groups_committed, 0, sizeof warp.groups_committed);
        if (launch.kernel->tracking) start_tracking(warp);
        std::memset(warp.last_landing, 0, sizeof warp.last_landing);
        warp.copies_issued = 0;
        warp.tracked.clear();
        std::memset(warp.bulk_committed, 0, sizeof warp.bulk_committed);
        std::memset(warp.bulk_component, 0, sizeof warp.bulk_component);
        warp.wgmma_committed = 0;
        warp.wgmma_open = false;
        warp.wgmma_fences = 1;
        if (launch.kernel->wgmma_watch) warp.wgmma_places.assign(launch.kernel->register_bytes / 128 + 2, WgmmaPlace{});
        warp.yielding = warp.polling = warp.stuck = 0;
        warp.failed_polls = 0;
        warp.failed_at_change = warp.stuck_at_change = 0;
    }
    start_registers(launch, block);
    block.next_warp = 0;
    block.splits_seen = 0;
    block.rng = mix(launch.config.seed, number);
    launch.counters.blocks += 1;
}

namespace {

// Runs the blocks in turns. They start in order of their index, so that a block may wait for an earlier one; up to `window`
// of them are resident at a time. A kernel whose blocks cannot wait for one another has a window of 1; in others the next
// block starts when one has nothing to do but poll. With a seed some blocks are interleaved at random.
class Rounds {
   public:
    explicit Rounds(Launch& launch)
        : launch_(launch), blocks_(count_blocks(launch)), window_(launch.kernel->may_wait ? resident_window(launch) : 1) {}

    void run() {
        while (Block* block = choose()) {
            const BlockTurn turn = run_block(launch_, *block, turn_length());
            if (turn == BlockTurn::Exited) {
                end_current();
                continue;
            }
            resident_[current_].idle = turn == BlockTurn::Idle;
            if (launch_.polls >= look_at_polls_) look_for_endless_wait();
            if (!launch_.config.seed) start_next_ = true;
        }
    }

   private:
    struct Resident {
        std::unique_ptr<Block> block;
        bool idle;  // all it did in its last turn was to poll
    };

    uint64_t turn_length() {
        if (window_ == 1) return kBlockTurn;
        return launch_.config.seed ? 1 + next_random(launch_.rng) % kRandomBlockTurn : kBlockTurn;
    }

    // The block to run; null when all have exited.
    Block* choose() {
        if (resident_.empty() && started_ < blocks_ && !split_failed_ && may_split(launch_, started_)) {
            try {
                if (run_split(launch_, started_)) return nullptr;
            } catch (const std::bad_alloc&) {  // before any thread began
            }
            split_failed_ = true;
        }
        const bool room = started_ < blocks_ && resident_.size() < window_;
        if (resident_.empty() && !room) return nullptr;
        if (resident_.empty() || (room && wants_another())) start();
        else if (launch_.config.seed) current_ = pick_at_random();
        else if (start_next_) current_ = (current_ + 1) % resident_.size();
        start_next_ = false;
        return resident_[current_].block.get();
    }
    bool wants_another() {
        if (!launch_.config.seed) return start_next_;
        return (resident_.size() < kMixedBlocks || resident_[current_].idle) && next_random(launch_.rng) % 2;
    }
    // Blocks that were not idle three times out of four: else one that works among many that wait would take for ever.
    size_t pick_at_random() {
        const size_t count = resident_.size(), at = next_random(launch_.rng) % count;
        if (next_random(launch_.rng) % 4)
            for (size_t n = 0; n < count; ++n)
                if (!resident_[(at + n) % count].idle) return (at + n) % count;
        return at;
    }
    void start() {
        std::unique_ptr<Block> block;
        if (spare_.empty()) {
            block = make_block(launch_);
        } else {
            block = std::move(spare_.back());
            spare_.pop_back();
        }
        start_block(launch_, *block, started_++);
        launch_.changed = true;
        current_ = resident_.size();
        resident_.push_back({std::move(block), false});
    }
    void end_current() {
        launch_.changed = true;
        if (spare_.empty()) spare_.push_back(std::move(resident_[current_].block));
        resident_.erase(resident_.begin() + static_cast<std::ptrdiff_t>(current_));
        if (current_ == resident_.size()) current_ = 0;
    }

    // Called once in a while when blocks poll. Nobody can end their wait if, for very many polls, no memory has got other
    // contents, no block has exited or started, and all that every warp did was to wait at a barrier or to poll.
    void look_for_endless_wait() {
        const bool was_watched = launch_.watched;
        look_at_polls_ = launch_.polls + kPatience;
        launch_.watched = !was_watched || !launch_.changed;
        if (!was_watched) {
            launch_.changed = false;
            for (Resident& one : resident_)
                for (Warp& warp : one.block->warps) warp.polls = 0;
        }
        if (!was_watched || launch_.changed) return;
        std::vector<Block*> blocks;
        for (Resident& one : resident_) {
            for (const Warp& warp : one.block->warps)
                if (runnable(warp) && warp.polls < kPollsOfEach) return;
            blocks.push_back(one.block.get());
        }
        report_endless_wait(launch_, blocks, window_, started_);
    }

    Launch& launch_;
    const uint64_t blocks_, window_;
    uint64_t started_ = 0;
    std::vector<Resident> resident_;
    std::vector<std::unique_ptr<Block>> spare_;
    size_t current_ = 0;
    bool start_next_ = false;  // a turn has ended: another block, a new one if there is room
    bool split_failed_ = false;
    uint64_t look_at_polls_ = kPatience;
};

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
    launch.rng = mix(config.seed, ~0ull);
    launch.poll = poll;
    launch.last_poll = std::chrono::steady_clock::now();
    try {
        make_params(launch, arguments.params);
        Rounds(launch).run();
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
