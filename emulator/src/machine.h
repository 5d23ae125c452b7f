// The state of one launch: configuration, counters, findings, thread blocks, warps.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "base.h"
#include "bulk.h"
#include "global_race.h"
#include "mbarrier_state.h"
#include "program.h"
#include "race.h"

namespace kw {

struct Device {
    std::string name = "kernelwright emulator";
    int sm = 80;
    int sms = 108;
    int smem_optin = 166912;
    int smem_per_sm = 167936;
    int regs_per_sm = 65536;
    int max_threads_per_sm = 2048;
    int max_blocks_per_sm = 32;
};

struct Checks {
    bool memory = true;   // bounds, alignment and declared access of global memory
    bool init = true;     // reads of unwritten memory
    bool async = true;    // asynchronous copies land late and poison their destination
    bool barrier = true;  // barrier misuse
    bool race = true;     // accesses to shared memory that nothing orders
};

struct Config {
    Device device;
    Checks checks;
    bool counters = true;
    bool counters_follow_checks = true;
    bool collect = false;
    bool print = true;  // what the kernel printed goes to stdout at the end of the launch
    uint64_t seed = 0;
    uint64_t max_instructions = 20'000'000'000ull;
    uint64_t threads = 0;          // of the host; 0: one for each processor
    uint64_t resident_blocks = 0;  // that may wait on one another; 0: what the device holds
    uint64_t registers = 0;        // that ptxas gave each thread, for setmaxnreg; 0: as many as the device has for the block
};

#define KW_COUNTERS(X)                                                                                              \
    X(warp_instructions) X(mma) X(mma_flops) X(mufu) X(fp32_ops) X(global_load_bytes) X(global_store_bytes)         \
    X(global_load_sectors) X(global_load_sectors_ideal) X(global_store_sectors) X(global_store_sectors_ideal)       \
    X(shared_load_wavefronts) X(shared_load_wavefronts_ideal) X(shared_store_wavefronts)                            \
    X(shared_store_wavefronts_ideal) X(ldmatrix_wavefronts) X(ldmatrix_wavefronts_ideal) X(stmatrix_wavefronts)      \
    X(stmatrix_wavefronts_ideal) X(cp_async_wavefronts)                                                             \
    X(cp_async_wavefronts_ideal) X(cp_async_bytes) X(bulk_load_bytes) X(bulk_store_bytes) X(wgmma) X(wgmma_flops)                            \
    X(atomics) X(barriers) X(blocks)

struct Counters {
#define KW_FIELD(name) uint64_t name = 0;
    KW_COUNTERS(KW_FIELD)
#undef KW_FIELD
};

struct Finding {
    std::string kind, text, cuda_file;
    int ptx_line = 0, cuda_line = 0;
    uint32_t block[3] = {0, 0, 0};
    int warp = -1, lane = -1;
};

constexpr int kRead = 1, kWrite = 2;

struct Declared {
    uint64_t begin = 0, end = 0;
    int access = kRead | kWrite;
    bool initialised = true;
    std::vector<uint8_t> written;  // one per byte, for ranges declared uninitialised
};

// Ends a launch; the message is already in Launch::message.
struct LaunchStopped {
    int result;
};

// One warp-wide cp.async whose bytes have not landed yet.
struct PendingCopy {
    Mask lanes = 0;      // lanes whose bytes are still in flight
    uint32_t group = 0;  // per-thread group number the copy belongs to
    uint32_t serial = 0;  // number among the warp's copies
    uint32_t pc = 0;
    uint32_t bytes = 0;
    uint32_t dst[kLanes];
    uint64_t src[kLanes];
    uint32_t src_bytes[kLanes];
};

enum class SplitState : uint8_t { Ready, AtBarrier, AtConvergence };

// Lanes of a warp that are at the same place (PTX ISA, "Independent Thread Scheduling").
struct Split {
    uint32_t pc = 0;
    Mask mask = 0;
    SplitState state = SplitState::Ready;
    uint8_t barrier = 0;
};

// What the asynchronous proxy does with a register: the last wgmma that uses it, and the last other write to it.
struct WgmmaPlace {
    uint32_t group = 0;    // 1 + number of the group of a wgmma that may still use the register
    uint32_t pc = 0;       // of that wgmma
    uint32_t shape = 0;    // of its accumulators; 0: it reads the register as A
    uint32_t written = 0;  // Warp::wgmma_fences at the last write by another instruction
    uint32_t write_pc = 0;
};

struct Block;
struct Launch;
struct UndefinedState;
struct Team;

struct Warp {
    const char* base[2] = {nullptr, nullptr};  // registers, constants: indexed by kOperandConstant
    char* registers = nullptr;
    Mask* predicates = nullptr;
    Block* block = nullptr;
    Launch* launch = nullptr;
    const uint32_t* ext = nullptr;
    uint32_t index = 0;   // in the block
    Mask start = 0;       // lanes that exist
    Mask live = 0;        // lanes that have not exited
    std::vector<Split> splits;
    std::vector<PendingCopy> copies;  // oldest first
    uint32_t groups_committed[kLanes];  // cp.async groups, per thread
    uint32_t copies_issued = 0;
    uint32_t last_landing[kLanes];       // race check: sequence number at the last wait that landed copies of the thread
    std::vector<TrackedCopies> tracked;  // landed through mbarriers
    uint32_t bulk_committed[kLanes];     // cp.async.bulk groups, per thread
    uint32_t bulk_component[kLanes];     // race check: of the thread's bulk copies to global memory; 0: none yet
    uint32_t wgmma_committed = 0;        // groups
    bool wgmma_open = false;             // a wgmma is in no committed group
    uint32_t wgmma_fences = 1;           // executed, and 1
    std::vector<WgmmaPlace> wgmma_places;  // by place in the register file, of registers that wgmma uses
    // Polls of mbarriers that failed since the state of any last changed.
    Mask yielding = 0;  // lanes that let the others of the warp go first
    Mask polling = 0, stuck = 0;
    uint32_t failed_polls = 0;
    uint64_t failed_at_change = 0, stuck_at_change = 0;
    uint32_t failed_pc[kLanes], failed_offset[kLanes];
    uint32_t tid[3][kLanes];
    std::vector<char> local;
    uint32_t registers_held = 0, registers_set = 0;  // of each thread, and how often setmaxnreg changed that
    uint32_t registers_pc = 0;                       // of the last setmaxnreg
    std::shared_ptr<UndefinedState> undefined;  // null: nothing is tracked
    uint64_t polls = 0;          // as Launch::polls, since the watch began
    uint32_t polls_in_turn = 0;
    uint32_t poll_pc = 0;        // of the last
    uint64_t met_release = 0;    // version of the last that GlobalRaceDetector let the warp meet
};

struct BarrierState {
    bool open = false;           // somebody waits or has arrived
    uint32_t expected = 0;       // threads; 0: all of the block
    uint32_t arrived = 0;        // threads
    uint32_t first_pc = 0;
    bool reduces = false;
    uint32_t popc = 0, threads = 0;  // of BarrierReduce
    std::vector<Mask> arrived_lanes;  // per warp
};

// A thread block that has started and not ended. Its address is its identity: where its state lies does not follow from its id.
struct Block {
    uint32_t id[3] = {0, 0, 0};
    char* shared = nullptr;
    uint8_t* shadow = nullptr;  // one state per shared byte, see ShadowState
    uint32_t shared_bytes = 0;
    BarrierState barriers[16];
    uint32_t free_registers = 0;  // that warps have given back, setmaxnreg
    Mbarriers mbarriers;
    std::vector<BulkCopy> bulk;  // in flight, oldest first
    std::vector<uint8_t> layouts;  // by granule: BulkCopy::layout of the last copy to it
    std::vector<uint32_t> wgmma_components;  // race check: by warpgroup, of what its wgmmas read; 0: none yet
    std::vector<Warp> warps;
    RaceDetector races;
    uint32_t number = 0;  // in the grid, x fastest
    size_t next_warp = 0;  // whose turn it is
    uint64_t splits_seen = 0;
    uint64_t rng = 0;
    Bytes shared_storage, shadow_storage, register_storage;
    std::vector<Mask> predicate_storage;
};

// xorshift64*
inline uint32_t next_random(uint64_t& state) {
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return static_cast<uint32_t>((state * 0x2545f4914f6cdd1dull) >> 32);
}

enum ShadowState : uint8_t { kUnwritten = 0, kWritten = 1, kInFlight = 2, kMbarrier = 3 };

struct Launch {
    const Kernel* kernel = nullptr;
    Config config;
    Checks checks;
    bool counting = false;
    bool shadowed = false;  // shared memory has shadow bytes
    bool yields = false;    // the warp that runs waits for others: its turn is over
    GlobalRaceDetector global_races;
    uint32_t grid[3], block_dim[3];
    uint32_t threads = 0, dynamic_shared = 0;
    Bytes params;
    std::vector<Declared> declared;
    size_t last_range = 0;  // index of the range the last access lay in
    Counters counters;
    std::vector<Finding> findings;
    std::string printed;         // by vprintf, in the order of execution
    bool print_is_full = false;  // there was more
    std::vector<uint8_t> executed;  // per instruction: a straight run began here
    std::string message;
    uint64_t rng = 0;       // of the order of blocks
    uint64_t turn_end = 0;  // of the running warp, in warp instructions
    uint64_t next_look = 0;  // at the budget and the clock
    // Polls are strong loads, and atomics that change nothing: what a thread does that waits for another. While the launch
    // is watched, `changed` notes that some memory got other contents.
    uint64_t polls = 0;
    bool watched = false, changed = false;
    int (*poll)() = nullptr;
    std::chrono::steady_clock::time_point last_poll;
    bool interrupted = false;  // by the poll
    Team* team = nullptr;    // the launch is one thread's share of another
    uint64_t told_team = 0;  // warp instructions the team knows of
};

constexpr uint32_t kPollsInTurn = 32;  // after which the warp's turn is over: somebody else has to do something

inline void note_poll(Warp& warp, const Insn& insn) {
    Launch& launch = *warp.launch;
    launch.polls += 1;
    warp.polls += 1;
    warp.poll_pc = static_cast<uint32_t>(&insn - launch.kernel->code.data());
    if (++warp.polls_in_turn >= kPollsInTurn) launch.turn_end = 0;
}

}  // namespace kw
