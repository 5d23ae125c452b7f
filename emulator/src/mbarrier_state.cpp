// mbarrier objects: arrivals, phases, waiting; see mbarrier_state.h.
// SPDX-License-Identifier: Apache-2.0
#include "mbarrier_state.h"

#include <algorithm>

#include "barriers.h"
#include "bulk.h"
#include "checks.h"

namespace kw {
namespace {

constexpr char kPattern[] = "mbarrier";  // in memory, in place of the hardware's bits
constexpr uint32_t kStuckPolls = 10000;  // of each warp, without a change of state: nobody will arrive
constexpr uint32_t kTimeOutOdds = 8;     // with a seed, one try_wait in so many times out

// A state operand: number of the phase, index of the object, pending count before the arrival.
uint64_t state_of(const Mbarrier& b) { return static_cast<uint64_t>(b.phase) << 36 | static_cast<uint64_t>(b.index & 0xffffu) << 20 | b.pending; }
uint32_t state_index(uint64_t state) { return static_cast<uint32_t>(state >> 20) & 0xffffu; }
uint64_t state_phase(uint64_t state) { return state >> 36; }

void complain(Warp& w, const Insn& i, int lane, const std::string& text) {
    if (w.launch->checks.barrier) report(w, i, lane, "mbarrier", text);
}

uint32_t pc_of(const Warp& w, const Insn& i) { return static_cast<uint32_t>(&i - w.launch->kernel->code.data()); }

std::string name_of(const Mbarrier& b) { return "the mbarrier at byte " + std::to_string(b.offset) + " of shared memory"; }

std::string progress_of(const Mbarrier& b) {
    return "phase " + std::to_string(b.phase - b.first) + ", " + std::to_string(b.pending) + " of " + std::to_string(b.expected) + " arrivals pending" +
           (b.transactions ? ", " + std::to_string(b.transactions) + " bytes pending" : "");
}

// What a warp that waits for ever wants to know beside that: who was last heard of.
std::string history_of(const Launch& launch, const Block& block, const Mbarrier& b) {
    std::string text;
    if (b.arrivals_seen) text += "; the last of " + std::to_string(b.arrivals_seen) + " arrivals was at " + describe(launch, b.arrive_pc);
    if (!b.transactions) return text;
    const uint64_t flying = bulk_in_flight(block, b);
    if (flying) text += "; copies of " + std::to_string(flying) + " bytes are in flight";
    if (!b.announced) return text + "; copies brought " + std::to_string(-b.transactions) + " bytes and no expect_tx announced any";
    text += "; " + std::to_string(b.announced) + " bytes were announced, the last at " + describe(launch, b.expect_pc) + ", and copies brought " +
            std::to_string(b.announced - b.transactions);
    return text;
}

// The live object at an offset, after its use has been noted; null and a finding if there is none.
Mbarrier* use(Warp& w, const Insn& i, uint32_t lane, uint32_t offset) {
    Mbarriers& objects = w.block->mbarriers;
    const auto found = objects.at.find(offset);
    if (found == objects.at.end() || !objects.all[found->second].live) {
        complain(w, i, static_cast<int>(lane),
                 "uses byte " + std::to_string(offset) + " of shared memory as an mbarrier, which is not initialised" +
                     (found == objects.at.end() ? "; mbarrier.init by one thread and a barrier must come first" : " any more: mbarrier.inval ended it"));
        return nullptr;
    }
    if (w.launch->checks.race) w.block->races.use_mbarrier(w, i, lane, offset, kMbarrierBytes);
    return &objects.all[found->second];
}

void advance_if_complete(Launch& launch, Block& block, Mbarrier& b) {
    if (b.pending || b.transactions) return;
    b.phase += 1;
    if (b.phase > kMaxSequence && launch.checks.race)
        stop(launch, kLaunchFailed, "the race check counts " + std::to_string(kMaxSequence) + " phases of an mbarrier and no more; leave it out with checks=memory+init+async+barrier");
    b.pending = b.expected;
    b.announced = 0;
    b.arrivals_seen = 0;
    b.completed = b.arriving;
    block.mbarriers.changes += 1;
}

// Changes the count of bytes by `bytes`; a finding where it leaves its range.
void transact(Warp& w, const Insn& i, uint32_t lane, Mbarrier& b, int64_t bytes) {
    const int64_t after = b.transactions + bytes;
    if (after > kMaxTransactions || after < -kMaxTransactions) {
        complain(w, i, static_cast<int>(lane),
                 "makes the pending bytes of " + name_of(b) + " " + std::to_string(after) + "; a phase counts from -1048575 to 1048575");
        return;
    }
    b.transactions = after;
    w.block->mbarriers.changes += 1;
}

void expect(Warp& w, const Insn& i, uint32_t lane, Mbarrier& b, uint32_t bytes) {
    transact(w, i, lane, b, bytes);
    b.announced += bytes;
    b.expect_pc = pc_of(w, i);
}

void land(Warp& owner, PendingCopy& copy, uint32_t lane) {
    char* d = owner.block->shared + copy.dst[lane];
    const uint32_t read = copy.src_bytes[lane];
    if (read) std::memcpy(d, reinterpret_cast<const char*>(copy.src[lane]), read);
    std::memset(d + read, 0, copy.bytes - read);
    std::memset(owner.block->shadow + copy.dst[lane], kWritten, copy.bytes);
    copy.lanes &= ~(1u << lane);
}

// The asynchronous arrive-on: its copies land, and it is counted.
void arrive_now(Block& block, Mbarrier& b, const AsyncArrival& arrival) {
    Warp& owner = block.warps[arrival.warp];
    Launch& launch = *owner.launch;
    const Mask bit = 1u << arrival.lane;
    uint32_t landed = 0, group = 0;
    for (PendingCopy& copy : owner.copies) {
        if (!(copy.lanes & bit) || copy.serial >= arrival.serial) continue;
        land(owner, copy, arrival.lane);
        if (launch.checks.race) block.races.land_tracked_copy(b.component, b.phase, copy.pc, copy.dst[arrival.lane], copy.bytes);
        landed = copy.serial + 1;
        group = std::max(group, copy.group);
    }
    owner.copies.erase(std::remove_if(owner.copies.begin(), owner.copies.end(), [](const PendingCopy& c) { return c.lanes == 0; }), owner.copies.end());
    if (launch.checks.race) {
        Clock& clock = b.arriving;
        block.races.release_component(clock, b.component, b.phase);
        // Copies it tracks that others have landed already: another object, or the thread's own wait.
        for (const TrackedCopies& earlier : owner.tracked)
            if ((earlier.lanes & bit) && earlier.serial <= arrival.serial)
                block.races.release_component(clock, block.mbarriers.all[earlier.mbarrier].component, earlier.phase);
        if (owner.last_landing[arrival.lane]) block.races.release_lane_until(clock, owner.index, arrival.lane, owner.last_landing[arrival.lane]);
        if (landed) {
            const auto same = std::find_if(owner.tracked.begin(), owner.tracked.end(), [&b](const TrackedCopies& t) { return t.mbarrier == b.index; });
            TrackedCopies& now = same == owner.tracked.end() ? owner.tracked.emplace_back(TrackedCopies{b.index, b.phase, 0, 0, 0}) : *same;
            now.phase = b.phase;
            now.serial = std::max(now.serial, landed);
            now.group = std::max(now.group, group);
            now.lanes |= bit;
        }
    }
    b.pending -= 1;
}

// Lets the arrive-ons happen that complete the phase, if nothing else is missing.
void settle(Launch& launch, Block& block, Mbarrier& b) {
    std::vector<AsyncArrival>& arrivals = block.mbarriers.arrivals;
    const auto mine = [&b](const AsyncArrival& a) { return a.mbarrier == b.index; };
    if (!b.pending) return bulk_settle(launch, block, b);
    if (static_cast<size_t>(std::count_if(arrivals.begin(), arrivals.end(), mine)) < b.pending) return;
    std::vector<AsyncArrival> left, now;
    for (const AsyncArrival& arrival : arrivals) (mine(arrival) && now.size() < b.pending ? now : left).push_back(arrival);
    arrivals = std::move(left);
    for (const AsyncArrival& arrival : now) arrive_now(block, b, arrival);
    const uint32_t phase = b.phase;
    bulk_settle(launch, block, b);
    if (b.phase != phase) return;  // the bytes that landed have completed it
    advance_if_complete(launch, block, b);
}

// Whether every thread of the block that could go on polls, and has for long.
bool all_stuck(const Block& block) {
    for (const Warp& w : block.warps) {
        Mask could = 0;
        for (const Split& split : w.splits)
            if (split.state == SplitState::Ready) could |= split.mask;
        if (could && (w.stuck_at_change != block.mbarriers.changes || (could & ~w.stuck))) return false;
    }
    return true;
}

void note_failed_poll(Warp& w, const Insn& i, Mask failed, const uint32_t* offset) {
    const uint64_t changes = w.block->mbarriers.changes;
    if (w.failed_at_change != changes) w.failed_at_change = changes, w.failed_polls = 0, w.polling = 0, w.launch->changed = true;
    const uint32_t pc = pc_of(w, i);
    for (Mask left = failed; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        w.failed_pc[l] = pc;
        w.failed_offset[l] = offset[l];
    }
    w.polling |= failed;
    w.yielding |= failed;
    w.launch->yields = true;
    note_poll(w, i);
    w.polls_in_turn = kPollsInTurn;  // and so is its part of the block's
    if (++w.failed_polls < kStuckPolls) return;
    w.stuck = w.polling;
    w.stuck_at_change = changes;
    w.failed_polls = 0;
    w.polling = 0;
    if (all_stuck(*w.block)) report_deadlock(*w.launch, *w.block);
}

}  // namespace

void mbarrier_init(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint32_t* count) {
    Launch& launch = *w.launch;
    Mbarriers& objects = w.block->mbarriers;
    for (Mask left = m; left; left &= left - 1) {
        const uint32_t l = static_cast<uint32_t>(__builtin_ctz(left)), at = offset[l];
        const auto [found, is_new] = objects.at.emplace(at, static_cast<uint32_t>(objects.all.size()));
        if (is_new) {
            Mbarrier object;
            object.offset = at;
            object.index = found->second;
            if (launch.checks.race) object.component = w.block->races.add_component(launch, {AgentKind::Mbarrier, at});
            objects.all.push_back(object);
        }
        Mbarrier& b = objects.all[found->second];
        if (b.live)
            complain(w, i, static_cast<int>(l),
                     "initialises " + name_of(b) + " again, which was at " + describe(launch, b.init_pc) + "; mbarrier.inval must come between");
        const bool fits = count[l] >= 1 && count[l] <= kMaxMbarrierCount;
        if (!fits) complain(w, i, static_cast<int>(l), "an mbarrier's count of arrivals must be 1 to 1048575, got " + std::to_string(count[l]));
        if (launch.shadowed) check_shared_write(w, i, static_cast<int>(l), at, kMbarrierBytes);
        if (launch.checks.race) w.block->races.write(w, i, l, at, kMbarrierBytes);
        b.live = true;
        b.expected = b.pending = fits ? count[l] : 1;
        b.transactions = b.announced = 0;
        b.arrivals_seen = 0;
        if (b.phase != b.first) b.phase += 2;
        b.first = b.phase;
        b.init_pc = pc_of(w, i);
        b.init_warp = w.index;
        b.init_lane = l;
        b.proxied = false;
        std::memcpy(w.block->shared + at, kPattern, kMbarrierBytes);
        if (launch.shadowed) std::memset(w.block->shadow + at, kMbarrier, kMbarrierBytes);
    }
    objects.changes += 1;
}

void mbarrier_invalidate(Warp& w, const Insn& i, Mask m, const uint32_t* offset) {
    Launch& launch = *w.launch;
    Mbarriers& objects = w.block->mbarriers;
    for (Mask left = m; left; left &= left - 1) {
        const uint32_t l = static_cast<uint32_t>(__builtin_ctz(left));
        Mbarrier* b = use(w, i, l, offset[l]);
        if (!b) continue;
        const auto mine = [b](const AsyncArrival& a) { return a.mbarrier == b->index; };
        if (std::any_of(objects.arrivals.begin(), objects.arrivals.end(), mine)) {
            complain(w, i, static_cast<int>(l), "invalidates " + name_of(*b) + " while it tracks copies that nobody has waited for");
            objects.arrivals.erase(std::remove_if(objects.arrivals.begin(), objects.arrivals.end(), mine), objects.arrivals.end());
        }
        if (launch.checks.race) w.block->races.write(w, i, l, offset[l], kMbarrierBytes);
        b->live = false;
        b->phase += 2;  // states of this life are of no phase of the next
        std::memset(w.block->shared + offset[l], 0xff, kMbarrierBytes);
        if (launch.shadowed) std::memset(w.block->shadow + offset[l], kUnwritten, kMbarrierBytes);
    }
    objects.changes += 1;
}

void mbarrier_arrive(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint32_t* count, uint64_t* state, const uint32_t* bytes) {
    RaceDetector* races = w.launch->checks.race && !(i.mode & kRelaxed) ? &w.block->races : nullptr;
    while (m) {
        const uint32_t at = offset[__builtin_ctz(m)];
        Mask same = 0;
        uint64_t total = 0;
        for (Mask left = m; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            if (offset[l] != at) continue;
            same |= 1u << l;
            total += count[l];
        }
        m &= ~same;
        bool released = false;
        for (Mask left = same; left; left &= left - 1) {
            const uint32_t l = static_cast<uint32_t>(__builtin_ctz(left));
            Mbarrier* b = use(w, i, l, at);
            state[l] = b ? state_of(*b) : 0;
            if (!b) continue;
            if (bytes) expect(w, i, l, *b, bytes[l]);
            // One release of the whole warp where all of it belongs to this phase.
            if (races && !released) {
                released = same == w.start && total <= b->pending;
                races->release(w, released ? same : 1u << l, b->arriving);
            }
            uint32_t n = count[l];
            if (n < 1 || n > b->pending) {
                complain(w, i, static_cast<int>(l),
                         "arrives " + std::to_string(n) + " times at " + name_of(*b) + ", of which " + std::to_string(b->pending) +
                             " arrivals are pending; the count of mbarrier.init is too small, or a thread arrives too often");
                n = std::min(n, b->pending);
            }
            if ((i.mode & kNoComplete) && n == b->pending && n)
                complain(w, i, static_cast<int>(l), "arrives with .noComplete at " + name_of(*b) + ", whose phase this arrival completes");
            if (i.mode & kDrop) {
                if (n > b->expected) complain(w, i, static_cast<int>(l), "drops more arrivals than " + name_of(*b) + " expects");
                b->expected -= std::min(n, b->expected);
            }
            if (!n) continue;
            b->pending -= n;
            b->arrivals_seen += n;
            b->arrive_pc = pc_of(w, i);
            w.block->mbarriers.changes += 1;
            advance_if_complete(*w.launch, *w.block, *b);
        }
    }
    if (races) races->next_sequence(w);  // what follows is not released
}

void mbarrier_expect(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint32_t* bytes) {
    for (Mask left = m; left; left &= left - 1) {
        const uint32_t l = static_cast<uint32_t>(__builtin_ctz(left));
        Mbarrier* b = use(w, i, l, offset[l]);
        if (b) expect(w, i, l, *b, bytes[l]);
    }
}

Mbarrier* mbarrier_for_copy(Warp& w, const Insn& i, uint32_t lane, uint32_t offset) {
    Mbarrier* b = use(w, i, lane, offset);
    if (b && !b->proxied && w.launch->checks.race) {
        report(w, i, static_cast<int>(lane), "proxy",
               "counts its bytes by " + name_of(*b) + ", whose initialisation at " + describe(*w.launch, b->init_pc) +
                   " the async proxy may not see; fence.mbarrier_init or fence.proxy.async must come after it, and then a barrier");
        b->proxied = true;
    }
    return b;
}

void mbarrier_bytes(Launch& launch, Block& block, Mbarrier& b, uint32_t bytes) {
    b.transactions -= bytes;
    block.mbarriers.changes += 1;
    advance_if_complete(launch, block, b);
}

void mbarrier_fence(Warp& w, Mask m) {
    for (Mbarrier& b : w.block->mbarriers.all) {
        if (!b.live || b.proxied) continue;
        b.proxied = (b.init_warp == w.index && (m >> b.init_lane & 1u)) || !w.launch->checks.race || w.block->races.comes_after_write(w, b.offset);
    }
}

std::string mbarrier_text(const Launch& launch, const Block& block, const Mbarrier& b) {
    return name_of(b) + " (" + progress_of(b) + history_of(launch, block, b) + ")";
}

// As a copy does, but by a thread: it releases nothing.
void mbarrier_complete(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint32_t* bytes) {
    for (Mask left = m; left; left &= left - 1) {
        const uint32_t l = static_cast<uint32_t>(__builtin_ctz(left));
        Mbarrier* b = use(w, i, l, offset[l]);
        if (!b) continue;
        transact(w, i, l, *b, -static_cast<int64_t>(bytes[l]));
        advance_if_complete(*w.launch, *w.block, *b);
    }
}

void mbarrier_track_copies(Warp& w, const Insn& i, Mask m, const uint32_t* offset) {
    Launch& launch = *w.launch;
    Mbarriers& objects = w.block->mbarriers;
    bool released = false;
    for (Mask left = m; left; left &= left - 1) {
        const uint32_t l = static_cast<uint32_t>(__builtin_ctz(left));
        Mbarrier* b = use(w, i, l, offset[l]);
        if (!b) continue;
        if (!(i.mode & kNoIncrement)) {
            if (b->pending >= kMaxMbarrierCount) {
                complain(w, i, static_cast<int>(l), "makes the pending arrivals of " + name_of(*b) + " exceed 1048575");
                continue;
            }
            b->pending += 1;
        }
        objects.changes += 1;
        if (launch.checks.async) {
            objects.arrivals.push_back({b->index, w.index, l, w.copies_issued, pc_of(w, i)});
            continue;
        }
        // Copies have landed as they were issued.
        if (launch.checks.race) w.block->races.release(w, 1u << l, b->arriving), released = true;
        if (!b->pending) {
            complain(w, i, static_cast<int>(l), "arrives at " + name_of(*b) + ", of which no arrival is pending");
            continue;
        }
        b->pending -= 1;
        advance_if_complete(launch, *w.block, *b);
    }
    if (released) w.block->races.next_sequence(w);
}

Mask mbarrier_wait(Warp& w, const Insn& i, Mask m, const uint32_t* offset, const uint64_t* state) {
    Launch& launch = *w.launch;
    const bool parity = (i.mode & kParity) != 0;
    Mask complete = 0, absent = 0;
    for (Mask left = m; left; left &= left - 1) {
        const uint32_t l = static_cast<uint32_t>(__builtin_ctz(left));
        Mbarrier* b = use(w, i, l, offset[l]);
        if (!b) {
            absent |= 1u << l;  // nothing to wait for
            continue;
        }
        uint64_t wanted = 0;
        if (parity) {
            if (state[l] > 1) complain(w, i, static_cast<int>(l), "waits for a phase of parity " + std::to_string(state[l]) + "; it is 0 or 1");
            wanted = b->phase - (((b->phase - b->first) & 1u) != (state[l] & 1u));
        } else if (state_index(state[l]) != (b->index & 0xffffu) || state_phase(state[l]) > b->phase || state_phase(state[l]) + 1 < b->phase) {
            complain(w, i, static_cast<int>(l),
                     "waits at " + name_of(*b) + " with a state that is of neither its current phase (" + std::to_string(b->phase - b->first) +
                         ") nor the one before; the state must come from this object's mbarrier.arrive, and be waited for before another phase completes");
            absent |= 1u << l;
            continue;
        } else {
            wanted = state_phase(state[l]);
        }
        if (wanted == b->phase) settle(launch, *w.block, *b);
        if (static_cast<uint32_t>(wanted) != b->phase) complete |= 1u << l;
    }
    const Mask failed = m & ~(complete | absent);
    if (failed) note_failed_poll(w, i, failed, offset);
    if ((i.mode & kMayTimeOut) && launch.config.seed && next_random(w.block->rng) % kTimeOutOdds == 0) return absent;
    if (launch.checks.race && !(i.mode & kRelaxed)) {
        for (Mask left = complete; left;) {
            const uint32_t at = offset[__builtin_ctz(left)];
            Mask same = 0;
            for (Mask one = left; one; one &= one - 1)
                if (offset[__builtin_ctz(one)] == at) same |= one & (0u - one);
            left &= ~same;
            w.block->races.acquire(w, same, w.block->mbarriers.all[w.block->mbarriers.at.at(at)].completed);
        }
    }
    return complete | absent;
}

void wait_for_tracked(Warp& w, Mask m, bool all, uint32_t keep) {
    RaceDetector& races = w.block->races;
    for (const TrackedCopies& copies : w.tracked) {
        Mask lanes = 0;
        for (Mask left = copies.lanes & m; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            if (all || (w.groups_committed[l] >= keep && copies.group < w.groups_committed[l] - keep)) lanes |= 1u << l;
        }
        if (!lanes) continue;
        Clock clock;
        races.release_component(clock, w.block->mbarriers.all[copies.mbarrier].component, copies.phase);
        races.acquire(w, lanes, clock);
    }
}

std::string tracked_by(const Warp& owner, uint32_t lane, uint32_t serial) {
    const Mbarriers& objects = owner.block->mbarriers;
    for (const AsyncArrival& arrival : objects.arrivals) {
        if (arrival.warp != owner.index || arrival.lane != lane || serial >= arrival.serial) continue;
        const Mbarrier& b = objects.all[arrival.mbarrier];
        return name_of(b) + " (" + progress_of(b) + ")";
    }
    return "";
}

std::string polled_by(const Warp& w, const Split& split) {
    const Mbarriers& objects = w.block->mbarriers;
    const Mask polling = split.mask & (w.stuck | w.polling);
    if (split.state != SplitState::Ready || !polling || w.failed_at_change != objects.changes) return "";
    const int l = __builtin_ctz(polling);
    const auto found = objects.at.find(w.failed_offset[l]);
    if (found == objects.at.end()) return "";
    const Mbarrier& b = objects.all[found->second];
    return " polls at " + describe(*w.launch, w.failed_pc[l]) + " (" + name_of(b) + ": " + progress_of(b) + history_of(*w.launch, *w.block, b) + ")";
}

}  // namespace kw
