// Races on shared memory: two accesses to one byte, one of them a write, that no synchronisation orders.
//
// Happens-before by vector clocks, as FastTrack (Flanagan and Freund 2009) keeps them, with one component per warp and one
// per mbarrier, whose sequence number is its phase and whose accesses are the copies it tracks. A warp's sequence number grows at each of its synchronisations. know[w][v] > s means: all lanes of w come after what v did at
// sequence number s; know[w][w] is the warp's own last __syncwarp() of all its lanes. What orders two accesses:
//   - one thread's program order;
//   - bar.sync and barrier.sync, and bar.arrive for those who later wait (PTX ISA, "bar");
//   - bar.warp.sync among the lanes it names, and no other .sync instruction (PTX ISA, "bar.warp.sync");
//   - for the bytes of a cp.async, the issuing thread's wait, from where on they count as its own write;
//   - an atomic or a volatile, relaxed, acquire or release access, towards a later one of another thread to the same
//     address: what the storing thread did, and what its warp had synchronised before, precedes all that follows the load.
//     Scopes and the difference between relaxed and acquire are not looked at;
//   - mbarrier.arrive, towards the lanes whose test_wait or try_wait finds its phase complete: it releases what the arriving
//     lanes did and knew. Of a cp.async.mbarrier.arrive, the copies alone.
// Records are kept for 16-byte granules, and for bytes where a granule was accessed in part.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base.h"

namespace kw {

struct Insn;
struct Launch;
struct Warp;

// Who reads or writes: one of the 32 lanes, or
constexpr uint32_t kWholeWarp = 32;     // all of them in one instruction (ldmatrix), which each lane's later accesses follow
constexpr uint32_t kSeveralLanes = 33;  // more than one since the last synchronisation
constexpr uint32_t kStoredMatrix = 34;  // some of them, in one stmatrix
constexpr uint32_t kNoLane = 35;        // none: a copy that an mbarrier tracks

constexpr uint32_t kMaxComponents = 1u << 11;

// An access: sequence number, warp or other component of the clocks, lane, instruction. 0: none.
struct Record {
    uint64_t bits = 0;
    uint32_t seq() const { return static_cast<uint32_t>(bits >> 42); }
    uint32_t warp() const { return static_cast<uint32_t>(bits >> 31) & (kMaxComponents - 1); }
    uint32_t lane() const { return static_cast<uint32_t>(bits >> 25) & 63u; }
    uint32_t pc() const { return static_cast<uint32_t>(bits) & 0x1ffffffu; }
    static Record make(uint32_t seq, uint32_t warp, uint32_t lane, uint32_t pc) {
        return {static_cast<uint64_t>(seq) << 42 | static_cast<uint64_t>(warp) << 31 | static_cast<uint64_t>(lane) << 25 | pc};
    }
};
constexpr uint32_t kMaxSequence = (1u << 22) - 2;
constexpr uint64_t kSplitGranule = ~0ull;
constexpr uint32_t kGranule = 16;

// The last access to each byte of shared memory, of one kind.
class RecordTable {
   public:
    void reset(uint32_t bytes) {
        granules_.assign((bytes + kGranule - 1) / kGranule, 0);
        if (!bytes_.empty()) bytes_.assign(granules_.size() * kGranule, 0);
    }
    // Calls f(record) for the records of [offset, offset + bytes), which lies in one granule; equal neighbours once.
    template <class F>
    void visit(uint32_t offset, uint32_t bytes, F f) const {
        const uint64_t whole = granules_[offset / kGranule];
        if (__builtin_expect(whole != kSplitGranule, 1)) {
            if (whole) f(Record{whole});
            return;
        }
        uint64_t previous = 0;
        for (uint32_t n = offset; n < offset + bytes; ++n) {
            if (bytes_[n] && bytes_[n] != previous) f(Record{bytes_[n]});
            previous = bytes_[n];
        }
    }
    void set(uint32_t offset, uint32_t bytes, Record record) {
        uint64_t& whole = granules_[offset / kGranule];
        if (bytes == kGranule) {
            whole = record.bits;
            return;
        }
        if (whole == record.bits) return;
        split(offset / kGranule);
        for (uint32_t n = offset; n < offset + bytes; ++n) bytes_[n] = record.bits;
    }
    // As set, with each old record of the range mapped to its new one.
    template <class F>
    void update(uint32_t offset, uint32_t bytes, F f) {
        uint64_t& whole = granules_[offset / kGranule];
        if (bytes == kGranule && whole != kSplitGranule) {
            whole = f(Record{whole}).bits;
            return;
        }
        split(offset / kGranule);
        for (uint32_t n = offset; n < offset + bytes; ++n) bytes_[n] = f(Record{bytes_[n]}).bits;
    }

   private:
    void split(uint32_t granule) {
        if (bytes_.empty()) bytes_.assign(granules_.size() * kGranule, 0);
        if (granules_[granule] == kSplitGranule) return;
        for (uint32_t n = 0; n < kGranule; ++n) bytes_[granule * kGranule + n] = granules_[granule];
        granules_[granule] = kSplitGranule;
    }

    std::vector<uint64_t> granules_, bytes_;
};

// What one thread released alone: its accesses up to a sequence number.
struct LaneRelease {
    uint32_t warp, lane, seq;
};

// What is known of other blocks' accesses: for a warp of one, or a lane of it, all below a sequence number. Sorted, never
// changed once made: many share one.
class Abroad {
   public:
    static constexpr uint32_t kAllLanes = 32;
    static uint64_t key(uint32_t block, uint32_t warp, uint32_t lane) { return static_cast<uint64_t>(block) << 16 | warp << 8 | lane; }

    bool covers(uint32_t block, Record record) const;
    bool knows(uint32_t block) const;

    std::vector<std::pair<uint64_t, uint32_t>> bounds;  // by key
};
using View = std::shared_ptr<const Abroad>;
// Adds what `from` knows.
void join(View& to, const View& from);

struct Clock {
    std::vector<uint32_t> warps;
    std::vector<LaneRelease> lanes;
    View abroad;
    // The same of accesses before which a fence.proxy.async came: the async proxy sees them.
    std::vector<uint32_t> fenced;
    std::vector<LaneRelease> fenced_lanes;
    uint32_t version = 0;  // grows with each release, never 0 then
};

// Who has a component of the clocks beside the warps: the copies that an mbarrier tracks (id: its offset), the bulk copies of
// a thread to global memory (id: warp * 32 + lane), the wgmmas of a warpgroup (id: its number).
enum class AgentKind : uint8_t { Mbarrier, Bulk, Wgmma };
struct Agent {
    AgentKind kind;
    uint32_t id;
};

class RaceDetector {
   public:
    // Forgets everything: a thread block begins.
    void reset(uint32_t warps, uint32_t shared_bytes);

    void read(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes);
    void write(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes);
    // cp.async: its issue must come after all earlier accesses; from its landing on it is a write of the thread.
    void issue_copy(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes);
    // Returns its sequence number.
    uint32_t land_copy(Warp& warp, uint32_t pc, uint32_t lane, uint32_t offset, uint32_t bytes);
    void land_tracked_copy(uint32_t component, uint32_t phase, uint32_t pc, uint32_t offset, uint32_t bytes);
    // A read by the async proxy: a bulk copy to global memory, or wgmma (of the whole warp). It must come after all writes to
    // the bytes and a fence.proxy.async after these; it is a read of the component at a sequence number.
    void async_read(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes, uint32_t component, uint32_t seq);
    // A copy of the async proxy to bytes that the generic proxy has written: a fence must lie between.
    void cross_proxy(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes, const char* verb);
    void fence_proxy(Warp& warp, Mask lanes);
    // Whether a copy that an mbarrier tracks was the last to write the byte.
    bool is_copied(uint32_t offset) const;
    // Whether all lanes of the warp come after the last write to a byte.
    bool comes_after_write(const Warp& warp, uint32_t offset) const;
    // Atomics, and accesses that are volatile, relaxed, acquire or release: they order, and do not race with one another.
    void strong(Warp& warp, Mask lanes, const uint32_t* offset, bool loads, bool stores);

    void warp_sync(Warp& warp, Mask lanes);
    void barrier_arrive(Warp& warp, uint32_t barrier);
    void barrier_leave(Warp& warp, uint32_t barrier);  // after the last arrival, for each warp that waited
    void barrier_reset(uint32_t barrier);

    // mbarriers: a component for the copies that the one at `offset` tracks; releasing into its clock, and acquiring from it.
    uint32_t add_component(Launch& launch, Agent agent);
    void use_mbarrier(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes);  // must come after its initialisation
    void release(Warp& warp, Mask lanes, Clock& into) const;  // next_sequence comes after the last
    void release_component(Clock& into, uint32_t component, uint32_t phase) const;
    void release_lane_until(Clock& into, uint32_t warp, uint32_t lane, uint32_t seq) const;
    void acquire(Warp& warp, Mask lanes, const Clock& from);
    uint32_t next_sequence(Warp& warp);
    // Towards other blocks (global_race.h). What the warp knows of them, and how it stands itself:
    const View& abroad(const Warp& warp) const;
    Record stamp(const Warp& warp, uint32_t lane, uint32_t pc) const;
    // What a release by one lane publishes: what its warp had synchronised before, and what the thread did, up to the sequence
    // number of stamp().
    const View& release(const Warp& warp, uint32_t block, uint32_t lane);
    // The warp has met a release of a block, its own or another.
    void acquire(const Warp& warp, uint32_t block, const View& released);
    void released(Warp& warp) { next_sequence(warp); }

   private:
    struct Acquired {
        Mask lanes;
        Clock clock;
    };
    View outward(const Clock& know, uint32_t block) const;
    bool ordered(Record before, uint32_t warp, uint32_t lane) const;
    bool proxied(Record before, uint32_t warp, uint32_t lane) const;
    bool ordered_slowly(Record before, uint32_t warp, uint32_t lane) const;
    void check(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes, const char* verb, bool also_readers);
    void found(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, const char* verb, Record before, bool before_writes);
    void join(uint32_t warp, const Clock& clock);
    void release_lane(uint32_t warp, uint32_t lane, Clock& into) const;

    uint32_t warps_ = 0;
    std::vector<Agent> agents_;  // whose components come after the warps'
    std::vector<uint32_t> seq_;
    std::vector<Clock> know_;
    std::vector<std::vector<uint32_t>> lanes_know_;  // per warp, once lanes have synchronised in part: [lane][lane]
    std::vector<std::vector<Acquired>> lanes_acquired_;  // per warp: what some of its lanes know beyond know_
    RecordTable writes_;
    std::vector<RecordTable> reads_;  // per warp
    uint32_t shared_bytes_ = 0;
    std::unordered_map<uint32_t, RecordTable> agent_reads_;  // by component
    Clock barriers_[16];
    std::unordered_map<uint32_t, Clock> released_;  // by address / 4
    struct Met {
        uint32_t address, version;
    };
    std::vector<Met> met_;  // per warp, the release it met last: polls meet the same again and again
    std::vector<View> outward_;  // per warp, what its releases have in common; null when it has changed
    View met_lanes_;
    uint32_t versions_ = 0;
};

inline bool RaceDetector::ordered(Record before, uint32_t warp, uint32_t lane) const {
    const uint32_t other = before.warp();
    if (know_[warp].warps[other] > before.seq()) return true;
    if (other == warp && (before.lane() == lane || before.lane() == kWholeWarp)) return true;
    return ordered_slowly(before, warp, lane);
}

}  // namespace kw
