// The blocks of one launch on several host threads; see parallel.h for which, and what happens when one finds something.
// SPDX-License-Identifier: Apache-2.0
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "checks.h"
#include "launch.h"
#include "schedule.h"

namespace kw {

struct Team {
    std::atomic<uint64_t> next{0};  // block to start
    std::atomic<uint64_t> instructions{0};
    std::atomic<bool> stop{false};  // everything is to be undone, or was interrupted
    uint64_t blocks = 0, most = 0;
    std::mutex mutex;
    std::condition_variable ended;
    size_t at_work = 0;  // threads; guarded by the mutex
};

namespace {

constexpr uint64_t kWorthSplitting = 40'000;  // warp instructions, about 2 ms: a thread costs some tens of microseconds
constexpr uint64_t kShareOfThread = 10'000;
constexpr uint64_t kSavedBytesPerInstruction = 32;  // memory is saved in a small part of the time the launch takes
constexpr unsigned kMostThreads = 64;
constexpr uint64_t kMostPolls = 4'000'000;  // within a block: a wait that may never end is left to the one thread to judge

uint64_t blocks_of(const Launch& launch) { return static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2]; }

uint64_t remaining_work(const Launch& launch, uint64_t first) {
    return first ? launch.counters.warp_instructions / first * (blocks_of(launch) - first) : 0;
}

uint64_t threads_for(const Launch& launch, uint64_t first) {
    const uint64_t processors = std::min(std::max(std::thread::hardware_concurrency(), 1u), kMostThreads);
    const uint64_t threads = launch.config.threads ? std::min<uint64_t>(launch.config.threads, kMostThreads) : processors;
    return std::min({threads, blocks_of(launch) - first, remaining_work(launch, first) / kShareOfThread});
}

// What the launch may write, as it was.
class SavedMemory {
   public:
    explicit SavedMemory(const Launch& launch) {
        for (const Declared& range : launch.declared) {
            if (!(range.access & kWrite)) continue;
            const size_t bytes = range.end - range.begin;
            saved_.push_back({reinterpret_cast<char*>(range.begin), bytes, std::unique_ptr<char[]>(new char[bytes])});
            std::memcpy(saved_.back().copy.get(), saved_.back().at, bytes);
        }
    }
    void restore() const {
        for (const Range& range : saved_) std::memcpy(range.at, range.copy.get(), range.bytes);
    }

   private:
    struct Range {
        char* at;
        size_t bytes;
        std::unique_ptr<char[]> copy;
    };
    std::vector<Range> saved_;
};

std::unique_ptr<Launch> make_member(const Launch& launch, Team& team) {
    auto made = std::make_unique<Launch>();
    Launch& member = *made;
    member.kernel = launch.kernel;
    member.config = launch.config;
    member.config.collect = false;  // the first finding ends it
    member.checks = launch.checks;
    member.counting = launch.counting;
    member.shadowed = launch.shadowed;
    std::copy(launch.grid, launch.grid + 3, member.grid);
    std::copy(launch.block_dim, launch.block_dim + 3, member.block_dim);
    member.threads = launch.threads;
    member.dynamic_shared = launch.dynamic_shared;
    member.params.resize(launch.params.size());
    if (launch.params.size()) std::memcpy(member.params.data(), launch.params.data(), launch.params.size());
    member.declared = launch.declared;
    if (launch.checks.race) member.global_races.start(member.declared, team.blocks);
    member.executed.assign(launch.executed.size(), 0);
    member.last_poll = launch.last_poll;
    member.team = &team;
    return made;
}

void work(Launch& member, Team& team) {
    try {
        const std::unique_ptr<Block> block = make_block(member);
        for (uint64_t index; !team.stop && (index = team.next++) < team.blocks;) {
            start_block(member, *block, index);
            const uint64_t polls = member.polls;
            while (run_block(member, *block, ~0ull) != BlockTurn::Exited)
                if (member.polls - polls > kMostPolls) throw LaunchStopped{kLaunchFailed};
        }
        if (!tell_team(member)) team.stop = true;
    } catch (...) {  // whatever it was: the launch repeats these blocks in one thread, and meets it again or does not
        team.stop = true;
    }
}

// The other threads are done. Meanwhile the caller looks whether it is to be interrupted.
void wait_for(Team& team, Launch& mine) {
    std::unique_lock<std::mutex> lock(team.mutex);
    while (!team.ended.wait_for(lock, std::chrono::milliseconds(20), [&team] { return team.at_work == 0; })) {
        if (!mine.poll || mine.interrupted) continue;
        lock.unlock();
        mine.interrupted = mine.poll() != 0;
        if (mine.interrupted) team.stop = true;
        lock.lock();
    }
}

void add(Launch& launch, const Launch& member) {
#define KW_FIELD(name) launch.counters.name += member.counters.name;
    KW_COUNTERS(KW_FIELD)
#undef KW_FIELD
    for (size_t pc = 0; pc < launch.executed.size(); ++pc) launch.executed[pc] |= member.executed[pc];
}

bool keep_apart(const Launch& launch, const std::vector<std::unique_ptr<Launch>>& members) {
    for (size_t a = 0; a < members.size(); ++a) {
        if (members[a]->global_races.meets(launch.global_races)) return false;
        for (size_t b = 0; b < a; ++b)
            if (members[a]->global_races.meets(members[b]->global_races)) return false;
    }
    return true;
}

}  // namespace

bool may_split(const Launch& launch, uint64_t first) {
    if (launch.kernel->may_wait || launch.kernel->reads_clock || launch.kernel->prints || !launch.findings.empty() || launch.declared.empty()) return false;
    const uint64_t work = remaining_work(launch, first);
    if (work < kWorthSplitting || threads_for(launch, first) < 2) return false;
    uint64_t bytes = 0;
    for (const Declared& range : launch.declared) {
        if (!range.written.empty()) return false;  // what a block may read depends on which ran before
        if (range.access & kWrite) bytes += range.end - range.begin;
    }
    return bytes / kSavedBytesPerInstruction <= work;
}

bool tell_team(Launch& launch) {
    Team& team = *launch.team;
    const uint64_t more = launch.counters.warp_instructions - launch.told_team;
    launch.told_team = launch.counters.warp_instructions;
    const uint64_t all = team.instructions.fetch_add(more) + more;
    return !team.stop && (team.most == 0 || all <= team.most);
}

bool run_split(Launch& launch, uint64_t first) {
    const SavedMemory saved(launch);
    Team team;
    team.next = first;
    team.instructions = launch.counters.warp_instructions;
    team.blocks = blocks_of(launch);
    team.most = launch.config.max_instructions;
    std::vector<std::unique_ptr<Launch>> members;
    for (uint64_t n = threads_for(launch, first); n > 0; --n) members.push_back(make_member(launch, team));
    Launch& mine = *members[0];
    mine.poll = launch.poll;
    std::vector<std::thread> threads;
    threads.reserve(members.size());
    for (size_t n = 1; n < members.size(); ++n) {
        Launch& member = *members[n];
        {
            std::lock_guard<std::mutex> lock(team.mutex);
            team.at_work += 1;
        }
        const auto leave = [&team] {
            std::lock_guard<std::mutex> lock(team.mutex);
            team.at_work -= 1;
            team.ended.notify_one();
        };
        try {
            threads.emplace_back([&member, &team, leave] {
                work(member, team);
                leave();
            });
        } catch (...) {  // no more threads: those there are do it
            leave();
        }
    }
    work(mine, team);
    wait_for(team, mine);
    for (std::thread& thread : threads) thread.join();
    if (mine.interrupted) stop(launch, kLaunchFailed, "interrupted");
    if (team.stop || !keep_apart(launch, members)) {
        saved.restore();
        return false;
    }
    for (const auto& member : members) add(launch, *member);
    return true;
}

}  // namespace kw
