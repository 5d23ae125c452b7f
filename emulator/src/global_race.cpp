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

bool GlobalRaceDetector::ordered(const Warp& warp, const Record& before) {
    if (before.block == 0 || before.block == warp.block->number + 1) return true;
    const View& abroad = warp.block->races.abroad(warp);
    return abroad && abroad->covers(before.block, before.access);
}

void GlobalRaceDetector::acquire(Warp& warp, uint64_t address) {
    const auto at = released_.find(address / 4);
    if (at == released_.end() || at->second.version == warp.met_release) return;  // a poll meets the same again and again
    for (const Release& one : at->second.all) {
        auto thread = std::make_shared<Abroad>();
        thread->bounds.emplace_back(one.who, one.bound);
        warp.block->races.acquire(warp, warp.block->number + 1, one.view);
        warp.block->races.acquire(warp, warp.block->number + 1, thread);
    }
    warp.met_release = at->second.version;
}

void GlobalRaceDetector::release(Warp& warp, uint32_t lane, uint64_t address, bool follows_all, bool alone) {
    Releases& releases = released_[address / 4];
    releases.version = ++versions_;
    const uint32_t block = warp.block->number + 1;
    Release mine{warp.block->races.release(warp, block, lane), Abroad::key(block, warp.index, alone ? lane : Abroad::kAllLanes), warp.block->races.stamp(warp, lane, 0).seq() + 1};
    if (follows_all) releases.all.clear();
    for (Release& old : releases.all) {
        if (old.who != mine.who) continue;
        old = std::move(mine);
        return;
    }
    releases.all.push_back(std::move(mine));
}

bool GlobalRaceDetector::meets(const GlobalRaceDetector& other) const {
    const auto overlap = [](const std::unique_ptr<Table>& a, const std::unique_ptr<Table>& b) {
        if (!a || !b) return false;
        for (size_t n = 0; n < a->size(); ++n)
            if ((*a)[n].ever & (*b)[n].ever) return true;
        return false;
    };
    for (const auto& [number, page] : pages_) {
        const auto at = other.pages_.find(number);
        if (at == other.pages_.end()) continue;
        if (overlap(page.writes, at->second.writes) || overlap(page.writes, at->second.reads) || overlap(page.reads, at->second.writes)) return true;
    }
    return false;
}

void GlobalRaceDetector::strong_stored(Warp& warp) { warp.block->races.released(warp); }

void GlobalRaceDetector::check(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, const std::unique_ptr<Table>& table, uint64_t word, const char* verb, const char* did) {
    if (!table) return;
    const Record& before = (*table)[word];
    if (!(before.bytes & bytes) || ordered(warp, before)) return;
    const Launch& launch = *warp.launch;
    uint64_t offset = address;
    for (const Declared& range : launch.declared)
        if (address >= range.begin && address < range.end) offset = address - range.begin;
    const uint32_t other = before.block - 1, x = launch.grid[0], y = launch.grid[1];
    const std::string where = "(" + std::to_string(other % x) + ", " + std::to_string(other / x % y) + ", " + std::to_string(other / x / y) + ")";
    const std::string who = "warp " + std::to_string(before.access.warp()) +
                            (before.access.lane() < kLanes ? ", lane " + std::to_string(before.access.lane()) + "," : "");
    const View& abroad = warp.block->races.abroad(warp);
    const bool met = abroad && abroad->knows(before.block);
    report(warp, insn, lane, "global_race",
           std::string(verb) + " byte " + std::to_string(offset) + " of an array in global memory, which block " + where + did + describe(launch, before.access.pc()) +
               (met ? "; this block has met a release of that one, but not one by which " + who + " had passed on that access: a barrier (__syncthreads()) is missing before the release or after the acquiring load"
                    : "; blocks run in any order, and nothing orders the two"));
}

void GlobalRaceDetector::access(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, bool reads, bool writes, bool strong, bool alone) {
    const uint32_t pc = static_cast<uint32_t>(&insn - warp.launch->kernel->code.data());
    const uint32_t block = warp.block->number + 1;
    const kw::Record mine = warp.block->races.stamp(warp, static_cast<uint32_t>(lane), pc);
    if (strong && reads) acquire(warp, address);
    for (uint64_t at = address / 4 * 4; at < address + bytes; at += 4) {
        const uint64_t first = std::max(at, address) - at, last = std::min(at + 4, address + bytes) - at;
        const uint16_t touched = static_cast<uint16_t>(((1u << last) - 1u) & ~((1u << first) - 1u));
        Page& page = pages_[at / kPageBytes];
        const uint64_t word = at % kPageBytes / 4;
        const char* verb = strong ? "updates" : writes ? "writes" : "reads";
        check(warp, insn, lane, at, touched, page.writes, word, verb, " wrote at ");
        if (writes && !strong) check(warp, insn, lane, at, touched, page.reads, word, verb, " read at ");
        if (!strong) check(warp, insn, lane, at, touched, page.atomics, word, verb, " updated at ");
        std::unique_ptr<Table>& table = strong ? page.atomics : writes ? page.writes : page.reads;
        if (!table) table = std::make_unique<Table>();
        Record& record = (*table)[word];
        record.ever |= touched;
        // A finished block's read or update that this block does not follow stays: whoever conflicts with it comes later.
        if ((strong || !writes) && !ordered(warp, record) && (record.bytes & touched) == touched) continue;
        const bool same = record.block == block && record.access.warp() == mine.warp() && record.access.seq() == mine.seq();
        const bool one_lane = !same || record.access.lane() == mine.lane();
        record = {one_lane ? mine : kw::Record::make(mine.seq(), mine.warp(), kSeveralLanes, pc), block, static_cast<uint16_t>(same ? record.bytes | touched : touched), record.ever};
    }
    if (strong && writes) release(warp, static_cast<uint32_t>(lane), address, reads, alone);
}

}  // namespace kw
