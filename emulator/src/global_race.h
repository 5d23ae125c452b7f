// Races on global memory between thread blocks: one block reads or writes what another wrote, or writes what another
// read, in the same launch, and nothing orders the two. Blocks run in any order on hardware, one after another here.
//
// A block comes after another when it loads, by an atomic or a strong access, an address that the other stored to by one:
// from then on it follows all that the other block did before. (Threads of one block are taken for one: that all of them
// had met at a barrier is not looked at.) Atomics do not race with one another. Records are kept for 4-byte words, one
// access of each kind with the bytes it touched; only memory that the launch may write is looked at.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base.h"

namespace kw {

struct Declared;
struct Insn;
struct Launch;
struct Warp;

class GlobalRaceDetector {
   public:
    // Looks at the writable ranges of a launch; one of a single block has no such races.
    void start(const std::vector<Declared>& declared, uint64_t blocks);
    void begin_block(uint32_t block);
    bool is_active() const { return !ranges_.empty(); }
    // Whether [low, high) meets memory that is looked at.
    bool concerns(uint64_t low, uint64_t high) const {
        for (const Range& range : ranges_)
            if (low < range.end && high > range.begin) return true;
        return false;
    }
    void access(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, bool reads, bool writes, bool strong);

   private:
    struct Range {
        uint64_t begin, end;
    };
    // block + 1, epoch, instruction, bytes of the word; all 0: none
    struct Record {
        uint32_t block = 0, epoch = 0, pc = 0, bytes = 0;
    };
    static constexpr uint64_t kPageBytes = 1 << 14;
    using Table = std::array<Record, kPageBytes / 4>;
    struct Page {
        std::unique_ptr<Table> writes, reads, atomics;
    };
    using Clock = std::unordered_map<uint32_t, uint32_t>;  // by block + 1: all of its epochs below

    bool ordered(const Record& before) const;
    void check(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, const std::unique_ptr<Table>& table, uint64_t word, const char* verb, const char* did);
    static void join(Clock& to, const Clock& from);

    std::vector<Range> ranges_;
    std::unordered_map<uint64_t, Page> pages_;
    std::unordered_map<uint64_t, Clock> released_;  // by address / 4
    Clock know_;                                    // of the running block
    uint32_t block_ = 0, epoch_ = 0;
};

}  // namespace kw
