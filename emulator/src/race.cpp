// Races on shared memory; see race.h for what orders what.
// SPDX-License-Identifier: Apache-2.0
#include "race.h"

#include <algorithm>

#include "checks.h"

namespace kw {
namespace {

uint32_t pc_of(const Warp& warp, const Insn& insn) { return static_cast<uint32_t>(&insn - warp.launch->kernel->code.data()); }

void raise(std::vector<uint32_t>& to, const std::vector<uint32_t>& from) {
    for (size_t n = 0; n < to.size(); ++n) to[n] = std::max(to[n], from[n]);
}

void add(std::vector<LaneRelease>& to, const LaneRelease& one) {
    for (LaneRelease& old : to) {
        if (old.warp != one.warp || old.lane != one.lane) continue;
        old.seq = std::max(old.seq, one.seq);
        return;
    }
    to.push_back(one);
}

}  // namespace

void RaceDetector::reset(uint32_t warps, uint32_t shared_bytes) {
    warps_ = warps;
    seq_.assign(warps, 1);
    know_.assign(warps, Clock{std::vector<uint32_t>(warps, 0), {}});
    lanes_know_.assign(warps, {});
    writes_.reset(shared_bytes);
    reads_.resize(warps);
    for (RecordTable& table : reads_) table.reset(shared_bytes);
    for (uint32_t n = 0; n < 16; ++n) barrier_reset(n);
    released_.clear();
}

bool RaceDetector::ordered_slowly(Record before, uint32_t warp, uint32_t lane) const {
    for (const LaneRelease& one : know_[warp].lanes)
        if (one.warp == before.warp() && one.lane == before.lane() && one.seq >= before.seq()) return true;
    if (before.warp() != warp || lanes_know_[warp].empty() || before.lane() >= kLanes) return false;
    const std::vector<uint32_t>& know = lanes_know_[warp];
    if (lane < kLanes) return know[lane * kLanes + before.lane()] > before.seq();
    for (uint32_t l = 0; l < kLanes; ++l)  // a whole warp follows when each of its lanes does
        if (know[l * kLanes + before.lane()] <= before.seq() && l != before.lane()) return false;
    return true;
}

void RaceDetector::found(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, const char* verb, Record before, bool before_writes) {
    const Launch& launch = *warp.launch;
    const bool same_warp = before.warp() == warp.index;
    std::string who = same_warp ? "another thread of the warp" : "warp " + std::to_string(before.warp());
    if (before.lane() < kLanes) {
        const Warp& other = warp.block->warps[before.warp()];
        who = "thread " + std::to_string(other.tid[0][before.lane()]) + " (warp " + std::to_string(before.warp()) + ", lane " + std::to_string(before.lane()) + ")";
    }
    report(warp, insn, lane < kLanes ? static_cast<int>(lane) : -1, "race",
           std::string(verb) + " byte " + std::to_string(offset) + " of shared memory, which " + who + (before_writes ? " wrote at " : " read at ") +
               describe(launch, before.pc()) + "; nothing orders the two. " +
               (same_warp ? "A __syncwarp() or a barrier is missing between them" : "A barrier (__syncthreads()) is missing between them"));
}

void RaceDetector::check(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes, const char* verb, bool also_readers) {
    const uint32_t w = warp.index, pc = pc_of(warp, insn);
    writes_.visit(offset, bytes, [&](Record r) {
        // Lanes that store to one place in one instruction: one of them wins, which is defined if not which.
        if (!ordered(r, w, lane) && !(r.warp() == w && r.pc() == pc && r.seq() == seq_[w])) found(warp, insn, lane, offset, verb, r, true);
    });
    if (!also_readers) return;
    for (const RecordTable& table : reads_)
        table.visit(offset, bytes, [&](Record r) {
            if (!ordered(r, w, lane)) found(warp, insn, lane, offset, verb, r, false);
        });
}

void RaceDetector::read(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes) {
    const uint32_t w = warp.index;
    writes_.visit(offset, bytes, [&](Record r) {
        if (__builtin_expect(!ordered(r, w, lane), 0)) found(warp, insn, lane, offset, "reads", r, true);
    });
    const uint32_t seq = seq_[w];
    const Record mine = Record::make(seq, w, lane, pc_of(warp, insn));
    reads_[w].update(offset, bytes, [seq, lane, mine](Record old) {
        if (!old.bits || old.seq() != seq || old.lane() == lane || old.lane() == kWholeWarp) return mine;
        if (lane == kWholeWarp) return old;  // the lane's own read is the stricter one
        return Record::make(seq, mine.warp(), kSeveralLanes, mine.pc());
    });
}

void RaceDetector::write(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes) {
    check(warp, insn, lane, offset, bytes, "writes", true);
    writes_.set(offset, bytes, Record::make(seq_[warp.index], warp.index, lane, pc_of(warp, insn)));
}

void RaceDetector::issue_copy(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes) {
    check(warp, insn, lane, offset, bytes, "starts a copy to", true);
}

void RaceDetector::land_copy(Warp& warp, uint32_t pc, uint32_t lane, uint32_t offset, uint32_t bytes) {
    writes_.set(offset, bytes, Record::make(seq_[warp.index], warp.index, lane, pc));
}

void RaceDetector::strong(Warp& warp, Mask lanes, const uint32_t* offset, bool loads, bool stores) {
    const uint32_t w = warp.index;
    for (Mask left = lanes; left; left &= left - 1) {
        const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(left));
        if (loads) {
            const auto at = released_.find(offset[lane] / 4);
            if (at != released_.end()) join(w, at->second);
        }
        if (stores) {
            Clock& clock = released_[offset[lane] / 4];
            if (clock.warps.empty()) clock.warps.assign(warps_, 0);
            raise(clock.warps, know_[w].warps);
            for (const LaneRelease& one : know_[w].lanes) add(clock.lanes, one);
            add(clock.lanes, {w, lane, seq_[w]});
        }
    }
    if (stores) next_sequence(warp);  // what follows is not released
}

uint32_t RaceDetector::next_sequence(Warp& warp) {
    if (seq_[warp.index] >= kMaxSequence)
        stop(*warp.launch, kLaunchFailed, "the race check counts " + std::to_string(kMaxSequence) + " synchronisations of a warp and no more; leave it out with checks=memory+init+async+barrier");
    return ++seq_[warp.index];
}

void RaceDetector::join(uint32_t warp, const Clock& clock) {
    // The warp's own component is set by its own synchronisations alone: another warp cannot order its lanes.
    const uint32_t own = know_[warp].warps[warp];
    raise(know_[warp].warps, clock.warps);
    know_[warp].warps[warp] = own;
    for (const LaneRelease& one : clock.lanes) add(know_[warp].lanes, one);
}

void RaceDetector::warp_sync(Warp& warp, Mask lanes) {
    const uint32_t w = warp.index, now = next_sequence(warp);
    std::vector<uint32_t>& know = lanes_know_[w];
    if (lanes == warp.start) {
        know_[w].warps[w] = now;
        know.clear();
        return;
    }
    if (know.empty()) know.assign(kLanes * kLanes, know_[w].warps[w]);
    uint32_t all[kLanes] = {};
    for (uint32_t a = 0; a < kLanes; ++a)
        if (lanes >> a & 1u)
            for (uint32_t b = 0; b < kLanes; ++b) all[b] = std::max(all[b], lanes >> b & 1u ? now : know[a * kLanes + b]);
    for (uint32_t a = 0; a < kLanes; ++a)
        if (lanes >> a & 1u) std::copy(all, all + kLanes, know.begin() + a * kLanes);
}

void RaceDetector::barrier_arrive(Warp& warp, uint32_t barrier) {
    const uint32_t w = warp.index;
    Clock& clock = barriers_[barrier];
    if (clock.warps.empty()) clock.warps.assign(warps_, 0);
    const uint32_t now = next_sequence(warp);
    raise(clock.warps, know_[w].warps);
    clock.warps[w] = now;
    for (const LaneRelease& one : know_[w].lanes) add(clock.lanes, one);
}

void RaceDetector::barrier_leave(Warp& warp, uint32_t barrier) {
    const Clock& clock = barriers_[barrier];
    const uint32_t w = warp.index;
    join(w, clock);
    know_[w].warps[w] = std::max(know_[w].warps[w], clock.warps[w]);  // its lanes waited for one another too
    lanes_know_[w].clear();
    std::vector<LaneRelease>& lanes = know_[w].lanes;
    lanes.erase(std::remove_if(lanes.begin(), lanes.end(), [&](const LaneRelease& one) { return know_[w].warps[one.warp] > one.seq; }), lanes.end());
}

void RaceDetector::barrier_reset(uint32_t barrier) { barriers_[barrier] = Clock{}; }

}  // namespace kw
