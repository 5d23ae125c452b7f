// Races on shared memory; see race.h for what orders what.
// SPDX-License-Identifier: Apache-2.0
#include "race.h"

#include <algorithm>

#include "checks.h"

namespace kw {
namespace {

uint32_t pc_of(const Warp& warp, const Insn& insn) { return static_cast<uint32_t>(&insn - warp.launch->kernel->code.data()); }

void raise(std::vector<uint32_t>& to, const std::vector<uint32_t>& from) {
    if (to.size() < from.size()) to.resize(from.size(), 0);
    for (size_t n = 0; n < from.size(); ++n) to[n] = std::max(to[n], from[n]);
}

void add(std::vector<LaneRelease>& to, const LaneRelease& one) {
    for (LaneRelease& old : to) {
        if (old.warp != one.warp || old.lane != one.lane) continue;
        old.seq = std::max(old.seq, one.seq);
        return;
    }
    to.push_back(one);
}

void raise(std::vector<uint32_t>& to, uint32_t component, uint32_t value) {
    if (to.size() <= component) to.resize(component + 1, 0);
    to[component] = std::max(to[component], value);
}

void merge(Clock& to, const Clock& from) {
    raise(to.warps, from.warps);
    for (const LaneRelease& one : from.lanes) add(to.lanes, one);
    join(to.abroad, from.abroad);
    raise(to.fenced, from.fenced);
    for (const LaneRelease& one : from.fenced_lanes) add(to.fenced_lanes, one);
}

bool knows(const Clock& clock, Record before) {
    if (before.warp() < clock.warps.size() && clock.warps[before.warp()] > before.seq()) return true;
    for (const LaneRelease& one : clock.lanes)
        if (one.warp == before.warp() && one.lane == before.lane() && one.seq >= before.seq()) return true;
    return false;
}

}  // namespace

bool Abroad::covers(uint32_t block, Record record) const {
    if (record.lane() == kSeveralLanes) {  // one of them is enough
        auto at = std::lower_bound(bounds.begin(), bounds.end(), std::make_pair(key(block, record.warp(), 0), 0u));
        for (; at != bounds.end() && at->first <= key(block, record.warp(), kAllLanes); ++at)
            if (at->second > record.seq()) return true;
        return false;
    }
    for (const uint32_t lane : {kAllLanes, record.lane()}) {
        const auto at = std::lower_bound(bounds.begin(), bounds.end(), std::make_pair(key(block, record.warp(), lane), 0u));
        if (at != bounds.end() && at->first == key(block, record.warp(), lane) && at->second > record.seq()) return true;
    }
    return false;
}

bool Abroad::knows(uint32_t block) const {
    const auto at = std::lower_bound(bounds.begin(), bounds.end(), std::make_pair(key(block, 0, 0), 0u));
    return at != bounds.end() && at->first >> 16 == block;
}

namespace {
// Whether `small` says nothing that `large` does not.
bool includes(const std::vector<std::pair<uint64_t, uint32_t>>& large, const std::vector<std::pair<uint64_t, uint32_t>>& small) {
    auto at = large.begin();
    for (const auto& one : small) {
        at = small.size() < 8 ? std::lower_bound(at, large.end(), std::make_pair(one.first, 0u)) : std::find_if(at, large.end(), [&one](const auto& other) { return other.first >= one.first; });
        if (at == large.end() || at->first != one.first || at->second < one.second) return false;
    }
    return true;
}
}  // namespace

void join(View& to, const View& from) {
    if (!from || from == to) return;
    if (!to) {
        to = from;
        return;
    }
    if (includes(to->bounds, from->bounds)) return;
    auto made = std::make_shared<Abroad>();
    made->bounds.reserve(to->bounds.size() + from->bounds.size());
    auto a = to->bounds.begin(), b = from->bounds.begin();
    while (a != to->bounds.end() || b != from->bounds.end()) {
        if (b == from->bounds.end() || (a != to->bounds.end() && a->first < b->first)) {
            made->bounds.push_back(*a++);
        } else if (a == to->bounds.end() || b->first < a->first) {
            made->bounds.push_back(*b++);
        } else {
            made->bounds.emplace_back(a->first, std::max(a->second, b->second));
            ++a, ++b;
        }
    }
    to = std::move(made);
}

void RaceDetector::reset(uint32_t warps, uint32_t shared_bytes) {
    warps_ = warps;
    seq_.assign(warps, 1);
    know_.assign(warps, Clock{std::vector<uint32_t>(warps, 0), {}, {}, {}, {}, 0});
    lanes_know_.assign(warps, {});
    lanes_acquired_.assign(warps, {});
    agents_.clear();
    agent_reads_.clear();
    shared_bytes_ = shared_bytes;
    writes_.reset(shared_bytes);
    reads_.resize(warps);
    for (RecordTable& table : reads_) table.reset(shared_bytes);
    for (uint32_t n = 0; n < 16; ++n) barrier_reset(n);
    released_.clear();
    met_.assign(warps, Met{0, 0});
    outward_.assign(warps, nullptr);
    versions_ = 0;
}

bool RaceDetector::ordered_slowly(Record before, uint32_t warp, uint32_t lane) const {
    for (const LaneRelease& one : know_[warp].lanes)
        if (one.warp == before.warp() && one.lane == before.lane() && one.seq >= before.seq()) return true;
    Mask acquired = 0;
    for (const Acquired& one : lanes_acquired_[warp])
        if (knows(one.clock, before)) acquired |= one.lanes;
    if (lane < kLanes ? (acquired >> lane & 1u) != 0 : acquired == kFullMask) return true;
    if (before.warp() != warp || lanes_know_[warp].empty() || before.lane() >= kLanes) return false;
    const std::vector<uint32_t>& know = lanes_know_[warp];
    if (lane < kLanes) return know[lane * kLanes + before.lane()] > before.seq();
    for (uint32_t l = 0; l < kLanes; ++l)  // a whole warp follows when each of its lanes does
        if (know[l * kLanes + before.lane()] <= before.seq() && l != before.lane()) return false;
    return true;
}

void RaceDetector::found(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, const char* verb, Record before, bool before_writes) {
    const Launch& launch = *warp.launch;
    if (before.warp() >= warps_ && !before_writes) {
        const bool multiplies = agents_[before.warp() - warps_].kind == AgentKind::Wgmma;
        report(warp, insn, lane < kLanes ? static_cast<int>(lane) : -1, "race",
               std::string(verb) + " byte " + std::to_string(offset) + " of shared memory, which the " + (multiplies ? "wgmma" : "copy") + " at " +
                   describe(launch, before.pc()) + " may still read; nothing orders the two. " +
                   (multiplies ? "wgmma.wait_group must come first, by a warp of its warpgroup that this thread synchronises with"
                               : "Its thread must wait with cp.async.bulk.wait_group or wait_group.read first, and this thread synchronise with it"));
        return;
    }
    if (before.warp() >= warps_) {
        report(warp, insn, lane < kLanes ? static_cast<int>(lane) : -1, "race",
               std::string(verb) + " byte " + std::to_string(offset) + " of shared memory, which the copy at " + describe(launch, before.pc()) +
                   " wrote; nothing orders the two. The copy is tracked by the mbarrier at byte " + std::to_string(agents_[before.warp() - warps_].id) +
                   ": its phase must be waited for with mbarrier.test_wait or try_wait, by this thread or by one that this thread synchronises with");
        return;
    }
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
    for (const auto& table : agent_reads_)
        table.second.visit(offset, bytes, [&](Record r) {
            if (!ordered(r, w, lane)) found(warp, insn, lane, offset, verb, r, false);
        });
}

// Whether a fence.proxy.async lies between an access of the generic proxy and what the lane does now.
bool RaceDetector::proxied(Record before, uint32_t warp, uint32_t lane) const {
    const auto holds = [before](const Clock& clock) {
        if (before.warp() < clock.fenced.size() && clock.fenced[before.warp()] > before.seq()) return true;
        for (const LaneRelease& one : clock.fenced_lanes)
            if (one.warp == before.warp() && one.lane == before.lane() && one.seq >= before.seq()) return true;
        return false;
    };
    if (holds(know_[warp])) return true;
    for (const Acquired& one : lanes_acquired_[warp])
        if ((lane >= kLanes || (one.lanes >> lane & 1u)) && holds(one.clock)) return true;
    return false;
}

void RaceDetector::cross_proxy(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes, const char* verb) {
    writes_.visit(offset, bytes, [&](Record r) {
        if (r.warp() >= warps_ || !ordered(r, warp.index, lane) || proxied(r, warp.index, lane)) return;  // unordered: a race, reported as such
        report(warp, insn, lane < kLanes ? static_cast<int>(lane) : -1, "proxy",
               std::string(verb) + " byte " + std::to_string(offset) + " of shared memory in the async proxy, which warp " + std::to_string(r.warp()) + " wrote at " +
                   describe(*warp.launch, r.pc()) + " in the generic proxy; fence.proxy.async must come between the two, best by the thread that wrote, before the barrier");
    });
}

void RaceDetector::async_read(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes, uint32_t component, uint32_t seq) {
    const uint32_t w = warp.index;
    writes_.visit(offset, bytes, [&](Record r) {
        if (!ordered(r, w, lane)) found(warp, insn, lane, offset, "reads", r, true);
        else if (r.warp() < warps_ && !proxied(r, w, lane)) cross_proxy(warp, insn, lane, offset, bytes, "reads");
    });
    auto at = agent_reads_.find(component);
    if (at == agent_reads_.end()) {
        at = agent_reads_.emplace(component, RecordTable()).first;
        at->second.reset(shared_bytes_);
    }
    at->second.set(offset, bytes, Record::make(seq, component, kNoLane, pc_of(warp, insn)));
}

void RaceDetector::fence_proxy(Warp& warp, Mask lanes) {
    const uint32_t w = warp.index;
    Clock& know = know_[w];
    raise(know.fenced, know.warps);
    for (const LaneRelease& one : know.lanes) add(know.fenced_lanes, one);
    for (const Acquired& one : lanes_acquired_[w]) {
        if (!(one.lanes & lanes)) continue;
        raise(know.fenced, one.clock.warps);
        for (const LaneRelease& release : one.clock.lanes) add(know.fenced_lanes, release);
    }
    if (lanes == warp.start) {
        raise(know.fenced, w, seq_[w] + 1);
    } else {
        const std::vector<uint32_t>& met = lanes_know_[w];
        for (Mask left = lanes; left; left &= left - 1) {
            const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(left));
            for (uint32_t other = 0; other < kLanes && !met.empty(); ++other)
                if (met[lane * kLanes + other]) add(know.fenced_lanes, {w, other, met[lane * kLanes + other] - 1});
            add(know.fenced_lanes, {w, lane, seq_[w]});
        }
    }
    std::vector<LaneRelease>& singles = know.fenced_lanes;
    singles.erase(std::remove_if(singles.begin(), singles.end(), [&know](const LaneRelease& one) { return one.warp < know.fenced.size() && know.fenced[one.warp] > one.seq; }), singles.end());
    next_sequence(warp);  // what follows is not fenced
}

bool RaceDetector::is_copied(uint32_t offset) const {
    bool copied = false;
    writes_.visit(offset, 1, [&](Record r) { copied = r.warp() >= warps_; });
    return copied;
}

bool RaceDetector::comes_after_write(const Warp& warp, uint32_t offset) const {
    bool after = true;
    writes_.visit(offset, 1, [&](Record r) { after &= ordered(r, warp.index, kWholeWarp); });
    return after;
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

uint32_t RaceDetector::land_copy(Warp& warp, uint32_t pc, uint32_t lane, uint32_t offset, uint32_t bytes) {
    writes_.set(offset, bytes, Record::make(seq_[warp.index], warp.index, lane, pc));
    return seq_[warp.index];
}

void RaceDetector::land_tracked_copy(uint32_t component, uint32_t phase, uint32_t pc, uint32_t offset, uint32_t bytes) {
    writes_.set(offset, bytes, Record::make(phase, component, kNoLane, pc));
}

void RaceDetector::strong(Warp& warp, Mask lanes, const uint32_t* offset, bool loads, bool stores) {
    const uint32_t w = warp.index;
    for (Mask left = lanes; left; left &= left - 1) {
        const uint32_t lane = static_cast<uint32_t>(__builtin_ctz(left));
        if (loads) {
            const auto at = released_.find(offset[lane] / 4);
            if (at != released_.end() && (met_[w].address != at->first || met_[w].version != at->second.version)) {
                join(w, at->second);
                met_[w] = {at->first, at->second.version};
            }
        }
        if (stores) {
            Clock& clock = released_[offset[lane] / 4];
            release_lane(w, lane, clock);
            clock.version = ++versions_;
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
    raise(know_[warp].fenced, clock.fenced);
    for (const LaneRelease& one : clock.fenced_lanes) add(know_[warp].fenced_lanes, one);
    kw::join(know_[warp].abroad, clock.abroad);
    outward_[warp] = nullptr;
}

void RaceDetector::warp_sync(Warp& warp, Mask lanes) {
    const uint32_t w = warp.index, now = next_sequence(warp);
    std::vector<uint32_t>& know = lanes_know_[w];
    std::vector<Acquired>& acquired = lanes_acquired_[w];
    for (Acquired& one : acquired)
        if (one.lanes & lanes) one.lanes |= lanes;
    if (lanes == warp.start) {
        for (const Acquired& one : acquired) join(w, one.clock);
        acquired.clear();
        know_[w].warps[w] = now;
        know.clear();
        outward_[w] = nullptr;
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
    const uint32_t now = next_sequence(warp);
    merge(clock, know_[w]);
    clock.warps[w] = now;
    for (const Acquired& one : lanes_acquired_[w]) merge(clock, one.clock);
}

void RaceDetector::barrier_leave(Warp& warp, uint32_t barrier) {
    const Clock& clock = barriers_[barrier];
    const uint32_t w = warp.index;
    join(w, clock);
    for (const Acquired& one : lanes_acquired_[w]) join(w, one.clock);
    lanes_acquired_[w].clear();
    know_[w].warps[w] = std::max(know_[w].warps[w], clock.warps[w]);  // its lanes waited for one another too
    lanes_know_[w].clear();
    std::vector<LaneRelease>& lanes = know_[w].lanes;
    lanes.erase(std::remove_if(lanes.begin(), lanes.end(), [&](const LaneRelease& one) { return know_[w].warps[one.warp] > one.seq; }), lanes.end());
}

void RaceDetector::barrier_reset(uint32_t barrier) { barriers_[barrier] = Clock{}; }

uint32_t RaceDetector::add_component(Launch& launch, Agent agent) {
    const uint32_t component = warps_ + static_cast<uint32_t>(agents_.size());
    if (component >= kMaxComponents)
        stop(launch, kLaunchFailed, "the race check knows " + std::to_string(kMaxComponents - warps_) + " mbarriers and threads with bulk copies of a block and no more; leave it out with checks=memory+init+async+barrier");
    agents_.push_back(agent);
    for (Clock& clock : know_) clock.warps.resize(component + 1, 0);
    return component;
}

void RaceDetector::use_mbarrier(Warp& warp, const Insn& insn, uint32_t lane, uint32_t offset, uint32_t bytes) {
    check(warp, insn, lane, offset, bytes, "uses the mbarrier at", false);
}

// What one lane did and knows: its warp's knowledge, and its own of other lanes.
void RaceDetector::release_lane(uint32_t warp, uint32_t lane, Clock& into) const {
    merge(into, know_[warp]);
    for (const Acquired& one : lanes_acquired_[warp])
        if (one.lanes >> lane & 1u) merge(into, one.clock);
    const std::vector<uint32_t>& know = lanes_know_[warp];
    for (uint32_t other = 0; other < kLanes && !know.empty(); ++other)
        if (other != lane && know[lane * kLanes + other] > know_[warp].warps[warp]) add(into.lanes, {warp, other, know[lane * kLanes + other] - 1});
    add(into.lanes, {warp, lane, seq_[warp]});
}

void RaceDetector::release(Warp& warp, Mask lanes, Clock& into) const {
    const uint32_t w = warp.index;
    if (lanes == warp.start) {
        merge(into, know_[w]);
        for (const Acquired& one : lanes_acquired_[w]) merge(into, one.clock);
        raise(into.warps, w, seq_[w] + 1);
        return;
    }
    for (Mask left = lanes; left; left &= left - 1) release_lane(w, static_cast<uint32_t>(__builtin_ctz(left)), into);
}

void RaceDetector::release_component(Clock& into, uint32_t component, uint32_t phase) const { raise(into.warps, component, phase + 1); }

void RaceDetector::release_lane_until(Clock& into, uint32_t warp, uint32_t lane, uint32_t seq) const { add(into.lanes, {warp, lane, seq}); }

void RaceDetector::acquire(Warp& warp, Mask lanes, const Clock& from) {
    const uint32_t w = warp.index;
    if ((warp.live & ~lanes) == 0) {  // all its lanes: they come after one another's arrivals too
        merge(know_[w], from);
        outward_[w] = nullptr;
        return;
    }
    for (Acquired& one : lanes_acquired_[w]) {
        if (one.lanes != lanes) continue;
        merge(one.clock, from);
        return;
    }
    std::vector<Acquired>& acquired = lanes_acquired_[w];
    acquired.push_back({lanes, from});
    if (acquired.size() <= kLanes) return;
    std::vector<Acquired> each;  // one for each lane, so that no number of different masks piles up
    for (uint32_t l = 0; l < kLanes; ++l) {
        Acquired mine{1u << l, Clock{}};
        for (const Acquired& one : acquired)
            if (one.lanes >> l & 1u) merge(mine.clock, one.clock);
        if (!mine.clock.warps.empty()) each.push_back(std::move(mine));
    }
    acquired = std::move(each);
}

const View& RaceDetector::abroad(const Warp& warp) const { return know_[warp.index].abroad; }

Record RaceDetector::stamp(const Warp& warp, uint32_t lane, uint32_t pc) const { return Record::make(seq_[warp.index], warp.index, lane, pc); }

// What a clock says of its own block, as other blocks are told.
View RaceDetector::outward(const Clock& know, uint32_t block) const {
    auto told = std::make_shared<Abroad>();
    for (uint32_t v = 0; v < warps_ && v < know.warps.size(); ++v)
        if (know.warps[v]) told->bounds.emplace_back(Abroad::key(block, v, Abroad::kAllLanes), know.warps[v]);
    for (const LaneRelease& one : know.lanes)
        if (one.warp < warps_ && (one.warp >= know.warps.size() || one.seq >= know.warps[one.warp])) told->bounds.emplace_back(Abroad::key(block, one.warp, one.lane), one.seq + 1);
    std::sort(told->bounds.begin(), told->bounds.end());
    return told;
}

const View& RaceDetector::release(const Warp& warp, uint32_t block, uint32_t lane) {
    const uint32_t w = warp.index;
    const Clock& know = know_[w];
    if (!outward_[w]) {
        outward_[w] = outward(know, block);
        kw::join(outward_[w], know.abroad);
    }
    const std::vector<uint32_t>& lanes = lanes_know_[w];
    const bool has_acquired = std::any_of(lanes_acquired_[w].begin(), lanes_acquired_[w].end(), [lane](const Acquired& one) { return one.lanes >> lane & 1u; });
    if (lanes.empty() && !has_acquired) return outward_[w];
    auto met = std::make_shared<Abroad>();  // the lanes that it has met at a __syncwarp() of some
    for (uint32_t l = 0; l < kLanes && !lanes.empty(); ++l) met->bounds.emplace_back(Abroad::key(block, w, l), lanes[lane * kLanes + l]);
    met_lanes_ = outward_[w];
    kw::join(met_lanes_, met);
    for (const Acquired& one : lanes_acquired_[w]) {  // what the lane alone learnt from mbarriers
        if (!(one.lanes >> lane & 1u)) continue;
        kw::join(met_lanes_, outward(one.clock, block));
        kw::join(met_lanes_, one.clock.abroad);
    }
    return met_lanes_;
}

void RaceDetector::acquire(const Warp& warp, uint32_t block, const View& released) {
    if (!released) return;
    const uint32_t w = warp.index;
    Clock& know = know_[w];
    const View before = know.abroad;
    kw::join(know.abroad, released);
    if (know.abroad == before) return;
    outward_[w] = nullptr;
    const auto& bounds = released->bounds;
    for (auto at = std::lower_bound(bounds.begin(), bounds.end(), std::make_pair(Abroad::key(block, 0, 0), 0u)); at != bounds.end() && at->first >> 16 == block; ++at) {
        const uint32_t other = static_cast<uint32_t>(at->first >> 8) & 0xffu, lane = static_cast<uint32_t>(at->first) & 0xffu;
        if (lane != Abroad::kAllLanes) add(know.lanes, {other, lane, at->second - 1});
        else if (other != w) know.warps[other] = std::max(know.warps[other], at->second);
    }
}

}  // namespace kw
