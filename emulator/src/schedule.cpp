// The interpreter's loop: warps, their splits, reconvergence, and who runs next.
//
// A warp is a list of splits (pc, lanes). The split with the lowest pc runs until it reaches the pc of another, and the two
// merge: nvcc lays code out so that this reconverges where the hardware does. Warps run until they block; with a seed,
// for random numbers of instructions in random order.
// SPDX-License-Identifier: Apache-2.0
#include "schedule.h"

#include <algorithm>

#include "barriers.h"
#include "checks.h"
#include "parallel.h"
#include "register_pool.h"
#include "undefined.h"
#include "wgmma_state.h"

namespace kw {
namespace {

constexpr uint64_t kTurn = 20000;          // instructions before another warp gets a turn, so that spinning warps end
constexpr uint64_t kSplitTurn = 2000;      // the same between the splits of a warp
constexpr uint64_t kPollInterval = 1 << 15;  // warp instructions between two looks at the clock
constexpr int kPollMilliseconds = 20;

class BlockRunner {
   public:
    BlockRunner(Launch& launch, Block& block)
        : launch_(launch), kernel_(*launch.kernel), code_(kernel_.code.data()), run_(kernel_.run.data()), block_(block) {}

    BlockTurn run(uint64_t turn) {
        const uint64_t started = launch_.counters.warp_instructions;
        size_t idle = 0;  // turns of warps in a row that ended in polling
        for (;;) {
            Warp* warp = pick(block_.next_warp);
            if (!warp) {
                if (all_exited()) {
                    check_registers(launch_, block_);
                    bulk_finish(launch_, block_);
                    return BlockTurn::Exited;
                }
                if (release_stuck_barriers(launch_, block_)) continue;
                report_deadlock(launch_, block_);  // throws: no other block can complete a barrier of this one
            }
            launch_.turn_end = launch_.counters.warp_instructions + (launch_.config.seed ? 1 + next_random(block_.rng) % 200 : kTurn);
            warp->polls_in_turn = 0;
            launch_.yields = false;
            warp->yielding = 0;
            run_warp(*warp);
            idle = warp->polls_in_turn >= kPollsInTurn ? idle + 1 : 0;
            if (idle && idle >= count_runnable()) return BlockTurn::Idle;
            if (launch_.counters.warp_instructions - started >= turn) return BlockTurn::Over;
        }
    }

   private:
    size_t count_runnable() const { return static_cast<size_t>(std::count_if(block_.warps.begin(), block_.warps.end(), runnable)); }
    bool all_exited() const {
        for (const Warp& warp : block_.warps)
            if (!warp.splits.empty()) return false;
        return true;
    }
    Warp* pick(size_t& next) {
        const size_t count = block_.warps.size();
        if (launch_.config.seed) next = next_random(block_.rng) % count;
        for (size_t n = 0; n < count; ++n) {
            Warp& warp = block_.warps[(next + n) % count];
            if (!runnable(warp)) continue;
            next = (next + n + 1) % count;
            return &warp;
        }
        return nullptr;
    }

    // A split that has not polled an mbarrier in vain this turn.
    static bool other_can_run(const Warp& warp) {
        for (const Split& split : warp.splits)
            if (split.state == SplitState::Ready && !(split.mask & warp.yielding)) return true;
        return false;
    }
    bool turn_over() const { return launch_.yields || launch_.counters.warp_instructions >= launch_.turn_end; }

    // Accounts for `n` instructions by `active` lanes from pc on; looks after the budget and the caller's poll.
    void account(Warp& warp, uint32_t pc, uint32_t n, Mask mask) {
        Counters& c = launch_.counters;
        c.warp_instructions += n;
        launch_.executed[pc] = 1;
        if (launch_.counting) {
            const uint32_t lanes = static_cast<uint32_t>(__builtin_popcount(mask));
            c.fp32_ops += static_cast<uint64_t>(kernel_.fp32_before[pc + n] - kernel_.fp32_before[pc]) * lanes;
            c.mufu += static_cast<uint64_t>(kernel_.mufu_before[pc + n] - kernel_.mufu_before[pc]) * lanes;
        }
        if (c.warp_instructions >= launch_.next_look) look(warp, pc);
    }
    void look(Warp& warp, uint32_t pc) {
        const uint64_t done = launch_.counters.warp_instructions, most = launch_.config.max_instructions;
        if (most && done > most) {
            launch_.config.collect = false;  // nothing to continue with
            report_at(warp, pc, -1, "instruction_budget",
                      "the launch executed more than max_instructions=" + std::to_string(most) +
                          " warp instructions: an endless loop, or a problem too large for the emulator");
        }
        if (launch_.team && !tell_team(launch_)) throw LaunchStopped{kLaunchFailed};
        launch_.next_look = done + kPollInterval;
        if (most && launch_.next_look > most) launch_.next_look = most + 1;
        if (!launch_.poll) return;
        const auto now = std::chrono::steady_clock::now();
        if (now - launch_.last_poll < std::chrono::milliseconds(kPollMilliseconds)) return;
        launch_.last_poll = now;
        launch_.interrupted = launch_.poll() != 0;
        if (launch_.interrupted) stop(launch_, kLaunchFailed, "interrupted");
    }

    void execute(Warp& warp, uint32_t pc, uint32_t n, Mask mask) {
        const Mask* predicates = warp.predicates;
        for (const Insn *i = code_ + pc, *end = i + n; i != end; ++i) {
            const Mask m = mask & (predicates[i->guard] ^ i->guard_flip);
            if (m) i->fn(warp, *i, m);
        }
    }

    void run_warp(Warp& warp) {
        while (!warp.splits.empty() && !turn_over()) {
            if (warp.splits.size() == 1) {
                Split& split = warp.splits[0];
                if (split.state == SplitState::AtBarrier) return;
                split.state = SplitState::Ready;
                run_together(warp);
            } else if (!run_one_split(warp)) {
                return;
            } else if (launch_.yields && other_can_run(warp)) {
                launch_.yields = false;  // the lanes that poll may wait for others of their warp
            }
        }
    }

    // One split: no lane has to be waited for.
    void run_together(Warp& warp) {
        while (warp.splits.size() == 1 && warp.splits[0].state == SplitState::Ready && !turn_over()) {
            Split& split = warp.splits[0];
            const uint32_t whole = run_[split.pc];
            const uint32_t n = static_cast<uint32_t>(std::min<uint64_t>(whole, launch_.turn_end - launch_.counters.warp_instructions));
            if (n) {
                account(warp, split.pc, n, split.mask);
                execute(warp, split.pc, n, split.mask);
                split.pc += n;
            }
            if (n < whole) return;
            control(warp, 0);
        }
    }

    // Several splits: the lowest pc first, up to the next one's. False: all wait at barriers.
    bool run_one_split(Warp& warp) {
        merge(warp);
        if (warp.splits.size() == 1) return true;
        size_t best = warp.splits.size();
        const Mask skip = other_can_run(warp) ? warp.yielding : 0;
        for (size_t s = 0; s < warp.splits.size(); ++s) {
            if (warp.splits[s].state != SplitState::Ready || (warp.splits[s].mask & skip)) continue;
            if (best == warp.splits.size() || before(warp, s, best)) best = s;
        }
        if (best == warp.splits.size()) return converge(warp);
        Split& split = warp.splits[best];
        const uint64_t started = launch_.counters.warp_instructions;
        for (;;) {
            uint32_t n = run_[split.pc];
            for (const Split& other : warp.splits)
                if (other.pc > split.pc && other.state != SplitState::AtBarrier) n = std::min(n, other.pc - split.pc);
            for (uint32_t k = 0; k < n; ++k)
                if (code_[split.pc + k].converged) n = k;
            if (n) {
                account(warp, split.pc, n, split.mask);
                execute(warp, split.pc, n, split.mask);
                split.pc += n;
            }
            if (launch_.yields || meets_other(warp, best)) return true;
            if (code_[split.pc].converged && split.mask != warp.live) {
                split.state = SplitState::AtConvergence;
                return true;
            }
            if (!step(warp, best)) return true;
            if (launch_.counters.warp_instructions - started > kSplitTurn) return true;
        }
    }
    // Lowest pc first; now and then another one, or lanes that spin would starve those they wait for.
    bool before(const Warp& warp, size_t a, size_t b) {
        block_.splits_seen += 1;
        const bool lower = warp.splits[a].pc < warp.splits[b].pc;
        return block_.splits_seen % 1024 > 1000 ? !lower : lower;
    }
    static bool meets_other(const Warp& warp, size_t index) {
        for (size_t s = 0; s < warp.splits.size(); ++s)
            if (s != index && warp.splits[s].pc == warp.splits[index].pc && warp.splits[s].state != SplitState::AtBarrier) return true;
        return false;
    }
    static void merge(Warp& warp) {
        std::vector<Split>& splits = warp.splits;
        for (size_t a = 0; a < splits.size(); ++a) {
            for (size_t b = a + 1; b < splits.size();) {
                const bool same = splits[a].pc == splits[b].pc && splits[a].state != SplitState::AtBarrier && splits[b].state != SplitState::AtBarrier;
                if (!same) {
                    ++b;
                    continue;
                }
                splits[a].mask |= splits[b].mask;
                splits[a].state = SplitState::Ready;
                splits.erase(splits.begin() + static_cast<std::ptrdiff_t>(b));
            }
        }
    }

    // No split can go on alone. bar.warp.sync releases its members once all are at one; any other .sync instruction goes
    // ahead with the lanes it has and lets its handler judge the member mask.
    bool converge(Warp& warp) {
        Mask waiting = 0;
        size_t other = warp.splits.size(), sync = warp.splits.size();
        for (size_t s = 0; s < warp.splits.size(); ++s) {
            const Split& split = warp.splits[s];
            if (split.state != SplitState::AtConvergence) continue;
            if (code_[split.pc].kind == Kind::WarpSync) waiting |= split.mask, sync = s;
            else other = s;
        }
        if (sync < warp.splits.size()) {
            const Split& split = warp.splits[sync];
            const Mask member = warp_sync_members(warp, code_[split.pc], split.mask);
            if ((member & warp.live & ~waiting) == 0) return release_warp_sync(warp), true;
            if (other == warp.splits.size()) {
                if (launch_.checks.barrier)
                    report_at(warp, split.pc, __builtin_ctz(member & warp.live & ~waiting), "divergent_warp",
                              "bar.warp.sync (__syncwarp) waits for threads that have gone elsewhere");
                return release_warp_sync(warp), true;
            }
        }
        if (other == warp.splits.size()) return false;  // all are at block barriers
        Split& split = warp.splits[other];
        split.state = SplitState::Ready;
        step(warp, other);
        return true;
    }
    static Mask warp_sync_members(const Warp& warp, const Insn& insn, Mask mask) {
        const uint32_t* member = reinterpret_cast<const uint32_t*>(warp.base[insn.o[0] & kOperandConstant] + (insn.o[0] & ~kOperandFlags));
        return member[__builtin_ctz(mask)];
    }
    void release_warp_sync(Warp& warp) {
        Mask synchronised = 0;
        for (Split& split : warp.splits) {
            if (split.state != SplitState::AtConvergence || code_[split.pc].kind != Kind::WarpSync) continue;
            synchronised |= split.mask;
            split.state = SplitState::Ready;
            split.pc += 1;
        }
        if (launch_.checks.race) block_.races.warp_sync(warp, synchronised);
    }

    // Executes the instruction at the split's pc. False: it was not Plain, and the splits may be others now.
    bool step(Warp& warp, size_t index) {
        Split& split = warp.splits[index];
        if (code_[split.pc].kind != Kind::Plain) return control(warp, index), false;
        account(warp, split.pc, 1, split.mask);
        execute(warp, split.pc, 1, split.mask);
        split.pc += 1;
        return true;
    }

    // Executes the instruction at the split's pc, which is not Plain.
    void control(Warp& warp, size_t index) {
        Split* split = &warp.splits[index];
        const uint32_t pc = split->pc;
        const Insn& insn = code_[pc];
        account(warp, pc, 1, split->mask);
        if (warp.undefined) check_control(warp, insn, split->mask);
        const Mask m = split->mask & (warp.predicates[insn.guard] ^ insn.guard_flip);
        if (insn.kind == Kind::Branch) {
            if (m == split->mask) split->pc = static_cast<uint32_t>(insn.imm);
            else if (m == 0) split->pc = pc + 1;
            else {
                split->mask &= ~m;
                split->pc = pc + 1;
                warp.splits.push_back({static_cast<uint32_t>(insn.imm), m, SplitState::Ready, 0});
            }
            return;
        }
        if (m == 0) {
            split->pc = pc + 1;
            return;
        }
        if (insn.kind == Kind::Jump || insn.kind == Kind::Call || insn.kind == Kind::Return) return jump(warp, index, m);
        if (insn.kind == Kind::Exit) {
            warp.live &= ~m;
            split->mask &= ~m;
            split->pc = pc + 1;
            if (split->mask == 0) warp.splits.erase(warp.splits.begin() + static_cast<std::ptrdiff_t>(index));
            return;
        }
        if (insn.kind == Kind::Counted) {
            const uint64_t lanes = static_cast<uint64_t>(__builtin_popcount(m));
            if (launch_.counting) (insn.count == CountAs::Mufu ? launch_.counters.mufu : launch_.counters.fp32_ops) += lanes;
            insn.fn(warp, insn, m);
            split->pc = pc + 1;
            return;
        }
        if (m != split->mask) {  // lanes whose guard is false go past
            const Mask past = split->mask & ~m;
            split->mask = m;
            warp.splits.push_back({pc + 1, past, SplitState::Ready, 0});
            split = &warp.splits[index];
        }
        switch (insn.kind) {
            case Kind::WarpSync:
                if (warp.splits.size() == 1) {
                    if (launch_.checks.race) block_.races.warp_sync(warp, split->mask);
                    split->pc = pc + 1;
                } else {
                    split->state = SplitState::AtConvergence;
                }
                return;
            case Kind::WgmmaWait:
                wgmma_wait(warp, *split);
                return;
            case Kind::SetRegisters:
                set_registers(warp, *split);
                return;
            case Kind::Trap:
                launch_.config.collect = false;
                report_at(warp, pc, __builtin_ctz(m), "trap", "the kernel executed trap (a failed assertion or __trap())");
                return;
            default:
                arrive(warp, *split);
        }
    }

    // Calls, returns and indexed branches: the lanes of m of a split go where each is told to.
    void jump(Warp& warp, size_t index, Mask m) {
        const uint32_t pc = warp.splits[index].pc;
        const Insn& insn = code_[pc];
        const Mask past = warp.splits[index].mask & ~m;
        if (past) {
            warp.splits[index].mask = m;
            warp.splits.push_back({pc + 1, past, SplitState::Ready, 0});
        }
        if (insn.kind == Kind::Call) {
            uint32_t* back = reinterpret_cast<uint32_t*>(warp.registers + (insn.o[0] & ~kOperandFlags));
            for (Mask left = m; left; left &= left - 1) back[__builtin_ctz(left)] = pc + 1;
            warp.splits[index].pc = static_cast<uint32_t>(insn.imm);
            return;
        }
        const uint32_t* value = reinterpret_cast<const uint32_t*>(warp.base[insn.o[0] & kOperandConstant] + (insn.o[0] & ~kOperandFlags));
        for (bool first = true; m; first = false) {
            const uint32_t chosen = value[__builtin_ctz(m)];
            Mask same = 0;
            for (Mask left = m; left; left &= left - 1) same |= value[__builtin_ctz(left)] == chosen ? left & (0u - left) : 0u;
            m &= ~same;
            if (insn.kind == Kind::Jump && chosen >= static_cast<uint32_t>(insn.imm)) {
                launch_.config.collect = false;  // there is nowhere to go on
                report_at(warp, pc, __builtin_ctz(same), "branch_index",
                          "brx.idx with index " + std::to_string(chosen) + " into a list of " + std::to_string(insn.imm) + " targets");
            }
            const uint32_t to = insn.kind == Kind::Jump ? kernel_.targets[insn.ext + chosen] : chosen;
            if (first) warp.splits[index].pc = to, warp.splits[index].mask = same;
            else warp.splits.push_back({to, same, SplitState::Ready, 0});
        }
    }

    Launch& launch_;
    const Kernel& kernel_;
    const Insn* code_;
    const uint32_t* run_;
    Block& block_;
};

}  // namespace

BlockTurn run_block(Launch& launch, Block& block, uint64_t turn) { return BlockRunner(launch, block).run(turn); }

bool runnable(const Warp& warp) {
    for (const Split& split : warp.splits)
        if (split.state != SplitState::AtBarrier) return true;
    return false;
}

}  // namespace kw
