// Races on global memory between thread blocks: one block reads or writes what another wrote, or writes what another
// read, in the same launch, and nothing orders the two. Blocks run in any order on hardware.
//
// A thread comes after another block's when its warp loads, by an atomic or a strong access, an address that a thread of the
// other block stored to by one: what that thread did before, and what its warp had synchronised before, at barriers above
// all, precedes all that follows the load in the warp, and in others once they have met it at a barrier. The clocks are those
// of race.h, with one component for each warp and releasing lane of each block that is known. Atomics do not race with one
// another. Records are kept for 4-byte words, one access of each kind with the bytes it touched; only memory that the launch
// may write is looked at, and two threads of one block are not compared.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base.h"
#include "race.h"

namespace kw {

struct Declared;
struct Launch;

class GlobalRaceDetector {
   public:
    // Looks at the writable ranges of a launch; one of a single block has no such races.
    void start(const std::vector<Declared>& declared, uint64_t blocks);
    bool is_active() const { return !ranges_.empty(); }
    // Whether [low, high) meets memory that is looked at.
    bool concerns(uint64_t low, uint64_t high) const {
        for (const Range& range : ranges_)
            if (low < range.end && high > range.begin) return true;
        return false;
    }
    // `alone`: no other lane executes the instruction. Where several release, each does so for the warp: they are many then,
    // as in a histogram, and would make the clocks grow with every thread.
    void access(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, bool reads, bool writes, bool strong, bool alone);
    // Whether both saw an access to some byte, one of the two a write. For kernels without strong accesses.
    bool meets(const GlobalRaceDetector& other) const;
    // After the accesses of all lanes of an instruction that is strong and stores: what follows is not released.
    void strong_stored(Warp& warp);

   private:
    struct Range {
        uint64_t begin, end;
    };
    // block + 1, who and where in it, bytes of the word; all 0: none
    struct Record {
        kw::Record access;
        uint32_t block = 0;
        uint16_t bytes = 0, ever = 0;  // of this access, of all there were
    };
    // Who stored to an address by a strong access, and what that published.
    struct Release {
        View view;
        uint64_t who;    // key of Abroad
        uint32_t bound;  // of the sequence numbers of that thread
    };
    struct Releases {
        std::vector<Release> all;
        uint64_t version = 0;  // grows with each release
    };
    static constexpr uint64_t kPageBytes = 1 << 14;
    using Table = std::array<Record, kPageBytes / 4>;
    struct Page {
        std::unique_ptr<Table> writes, reads, atomics;
    };

    static bool ordered(const Warp& warp, const Record& before);
    void check(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, const std::unique_ptr<Table>& table, uint64_t word, const char* verb, const char* did);
    void acquire(Warp& warp, uint64_t address);
    void release(Warp& warp, uint32_t lane, uint64_t address, bool follows_all, bool alone);

    std::vector<Range> ranges_;
    std::unordered_map<uint64_t, Page> pages_;
    std::unordered_map<uint64_t, Releases> released_;  // by address / 4
    uint64_t versions_ = 0;
};

}  // namespace kw
