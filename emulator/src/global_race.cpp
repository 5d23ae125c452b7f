// Races on global memory between thread blocks; see global_race.h for what orders what.
// SPDX-License-Identifier: Apache-2.0
#include "global_race.h"

#include <algorithm>

#include "checks.h"

namespace kw {

void GlobalRaceDetector::start(const std::vector<Declared>& declared, uint64_t blocks) {
    if (blocks < 2) return;
    for (const Declared& range : declared)
        if (range.access & kWrite) ranges_.push_back({range.begin, range.end});
}

void GlobalRaceDetector::begin_block(uint32_t block) {
    block_ = block + 1;
    epoch_ = 0;
    know_.clear();
}

bool GlobalRaceDetector::ordered(const Record& before) const {
    if (before.block == 0 || before.block == block_) return true;
    const auto known = know_.find(before.block);
    return known != know_.end() && known->second > before.epoch;
}

void GlobalRaceDetector::join(Clock& to, const Clock& from) {
    for (const auto& [block, epoch] : from) {
        uint32_t& known = to[block];
        known = std::max(known, epoch);
    }
}

void GlobalRaceDetector::check(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, const std::unique_ptr<Table>& table, uint64_t word, const char* verb, const char* did) {
    if (!table) return;
    const Record& before = (*table)[word];
    if (!(before.bytes & bytes) || ordered(before)) return;
    const Launch& launch = *warp.launch;
    uint64_t offset = address;
    for (const Declared& range : launch.declared)
        if (address >= range.begin && address < range.end) offset = address - range.begin;
    const uint32_t other = before.block - 1, x = launch.grid[0], y = launch.grid[1];
    const std::string where = "(" + std::to_string(other % x) + ", " + std::to_string(other / x % y) + ", " + std::to_string(other / x / y) + ")";
    report(warp, insn, lane, "global_race",
           std::string(verb) + " byte " + std::to_string(offset) + " of an array in global memory, which block " + where + did + describe(launch, before.pc) +
               "; blocks run in any order, and nothing orders the two");
}

void GlobalRaceDetector::access(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, bool reads, bool writes, bool strong) {
    const uint32_t pc = static_cast<uint32_t>(&insn - warp.launch->kernel->code.data());
    if (strong && reads) {
        const auto at = released_.find(address / 4);
        if (at != released_.end()) join(know_, at->second);
    }
    for (uint64_t at = address / 4 * 4; at < address + bytes; at += 4) {
        const uint64_t first = std::max(at, address) - at, last = std::min(at + 4, address + bytes) - at;
        const uint32_t touched = ((1u << last) - 1u) & ~((1u << first) - 1u);
        Page& page = pages_[at / kPageBytes];
        const uint64_t word = at % kPageBytes / 4;
        const char* verb = strong ? "updates" : writes ? "writes" : "reads";
        check(warp, insn, lane, at, touched, page.writes, word, verb, " wrote at ");
        if (writes && !strong) check(warp, insn, lane, at, touched, page.reads, word, verb, " read at ");
        if (!strong) check(warp, insn, lane, at, touched, page.atomics, word, verb, " updated at ");
        std::unique_ptr<Table>& table = strong ? page.atomics : writes ? page.writes : page.reads;
        if (!table) table = std::make_unique<Table>();
        Record& record = (*table)[word];
        // A finished block's read or update that this block does not follow stays: whoever conflicts with it comes later.
        if ((strong || !writes) && !ordered(record) && (record.bytes & touched) == touched) continue;
        const bool same = record.block == block_ && record.epoch == epoch_;
        record = {block_, epoch_, pc, same ? record.bytes | touched : touched};
    }
    if (strong && writes) {
        Clock& clock = released_[address / 4];
        join(clock, know_);
        clock[block_] = ++epoch_;
    }
}

}  // namespace kw
