// Places in the register file by liveness: a backward data-flow pass, then linear scan.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "decode.h"

namespace kw {
namespace {

constexpr size_t kMaxFlowWords = size_t{1} << 24;  // 128 MiB in each of the four sets below
constexpr size_t kMaxEdges = size_t{1} << 22;      // returns times calls, and targets of indexed branches

// Liveness per lane: a lane follows one path through the control-flow graph, and every write is masked by lane, so what
// holds for a thread holds for a warp whose lanes have gone different ways.
struct Flow {
    std::vector<uint32_t> starts;  // first instruction of each basic block
    std::vector<std::vector<uint32_t>> next;
};

bool goes_elsewhere(Kind kind) {
    return kind == Kind::Branch || kind == Kind::Exit || kind == Kind::Jump || kind == Kind::Call || kind == Kind::Return;
}

Flow control_flow(const Kernel& kernel) {
    const uint32_t count = static_cast<uint32_t>(kernel.code.size());
    std::vector<uint8_t> leader(count + 1, 0);
    leader[0] = 1;
    for (uint32_t pc = 0; pc < count; ++pc) {
        const Insn& insn = kernel.code[pc];
        if (insn.kind == Kind::Branch || insn.kind == Kind::Call) leader[static_cast<uint32_t>(insn.imm)] = 1;
        if (insn.kind == Kind::Jump || insn.kind == Kind::Return)
            for (int32_t n = 0; n < insn.imm; ++n) leader[kernel.targets[insn.ext + static_cast<uint32_t>(n)]] = 1;
        if (goes_elsewhere(insn.kind)) leader[pc + 1] = 1;
    }
    leader[kernel.entry] = 1;
    Flow flow;
    std::vector<uint32_t> block_of(count + 1, 0);
    for (uint32_t pc = 0; pc < count; ++pc) {
        if (leader[pc]) flow.starts.push_back(pc);
        block_of[pc] = static_cast<uint32_t>(flow.starts.size()) - 1;
    }
    flow.next.resize(flow.starts.size());
    size_t edges = 0;
    for (size_t b = 0; b < flow.starts.size(); ++b) {
        const uint32_t last = (b + 1 < flow.starts.size() ? flow.starts[b + 1] : count) - 1;
        const Insn& insn = kernel.code[last];
        const bool always = insn.guard == kPredicateTrue && insn.guard_flip == 0;
        if (insn.kind == Kind::Branch || insn.kind == Kind::Call) flow.next[b].push_back(block_of[static_cast<uint32_t>(insn.imm)]);
        if (insn.kind == Kind::Jump || insn.kind == Kind::Return)
            for (int32_t n = 0; n < insn.imm; ++n) flow.next[b].push_back(block_of[kernel.targets[insn.ext + static_cast<uint32_t>(n)]]);
        edges += flow.next[b].size();
        if (edges > kMaxEdges) throw LoadError(0, "kernel '" + kernel.name + "' has too many calls, returns and branch targets");
        const bool falls = !(goes_elsewhere(insn.kind) && always);
        if (falls && last + 1 < count) flow.next[b].push_back(block_of[last + 1]);
    }
    return flow;
}

bool is_wide_register(RegisterDecl reg) { return reg.width == Width::B64 || reg.width == Width::B128; }

struct Interval {
    uint32_t reg;
    uint32_t begin, end;  // positions: 2 pc for reads, 2 pc + 1 for writes
};

}  // namespace

std::vector<uint32_t> allocate_registers(Kernel& kernel, const std::vector<RegisterDecl>& registers, const std::vector<RegisterUse>& uses,
                                         const std::vector<RegisterUse>& predicates, uint32_t sink32, uint32_t sink64, const std::vector<bool>& alone) {
    const uint32_t count = static_cast<uint32_t>(kernel.code.size());
    const size_t num = registers.size() + 2;
    const Flow flow = control_flow(kernel);
    const size_t blocks = flow.starts.size(), words = (num + 63) / 64;
    if (blocks * words > kMaxFlowWords) throw LoadError(0, "kernel '" + kernel.name + "' has too many registers and branches");
    using Bits = std::vector<uint64_t>;
    std::vector<Bits> reads(blocks, Bits(words)), writes(blocks, Bits(words)), in(blocks, Bits(words)), out(blocks, Bits(words));
    const auto get = [](const Bits& bits, uint32_t r) { return (bits[r / 64] >> (r % 64)) & 1u; };
    const auto set = [](Bits& bits, uint32_t r) { bits[r / 64] |= 1ull << (r % 64); };
    const auto block_at = [&](uint32_t pc) {
        return static_cast<size_t>(std::upper_bound(flow.starts.begin(), flow.starts.end(), pc) - flow.starts.begin()) - 1;
    };
    // Uses come in program order, the reads of an instruction not necessarily before its writes.
    constexpr uint32_t kNever = 0xffffffffu;
    std::vector<uint32_t> begin(num, kNever), end(num, 0);
    const auto extend = [&](uint32_t r, uint32_t from, uint32_t to) {
        begin[r] = std::min(begin[r], from);
        end[r] = std::max(end[r], to);
    };
    for (size_t first = 0; first < uses.size();) {
        size_t last = first;
        while (last < uses.size() && uses[last].insn == uses[first].insn) ++last;
        const uint32_t pc = uses[first].insn;
        const size_t b = block_at(pc);
        const bool guarded = kernel.code[pc].guard != kPredicateTrue;
        for (size_t u = first; u < last; ++u) {
            if (uses[u].defines) {
                extend(uses[u].reg, 2 * pc + 1, 2 * pc + 1);
                if (!guarded) continue;  // else the old value survives in some lanes: a read as well
            } else {
                extend(uses[u].reg, 2 * pc, 2 * pc);
            }
            if (!get(writes[b], uses[u].reg)) set(reads[b], uses[u].reg);
        }
        for (size_t u = first; u < last; ++u)
            if (uses[u].defines && !guarded) set(writes[b], uses[u].reg);
        first = last;
    }
    for (size_t first = 0; first < predicates.size();) {  // likewise
        size_t last = first;
        while (last < predicates.size() && predicates[last].insn == predicates[first].insn) ++last;
        const size_t b = block_at(predicates[first].insn);
        const bool guarded = kernel.code[predicates[first].insn].guard != kPredicateTrue;
        for (size_t u = first; u < last; ++u)
            if ((!predicates[u].defines || guarded) && !get(writes[b], predicates[u].reg)) set(reads[b], predicates[u].reg);
        for (size_t u = first; u < last; ++u)
            if (predicates[u].defines && !guarded) set(writes[b], predicates[u].reg);
        first = last;
    }
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t b = blocks; b-- > 0;) {
            for (size_t w = 0; w < words; ++w) {
                uint64_t live = 0;
                for (uint32_t n : flow.next[b]) live |= in[n][w];
                out[b][w] = live;
                const uint64_t entering = reads[b][w] | (live & ~writes[b][w]);
                changed |= entering != in[b][w];
                in[b][w] = entering;
            }
        }
    }
    for (size_t b = 0; b < blocks; ++b) {
        const uint32_t from = 2 * flow.starts[b], to = 2 * (b + 1 < blocks ? flow.starts[b + 1] : count) - 1;
        for (uint32_t r = 0; r < num; ++r) {
            if (r < registers.size() && registers[r].width == Width::Pred) continue;
            if (get(in[b], r)) extend(r, from, from);
            if (get(out[b], r)) extend(r, to, to);
        }
    }
    for (uint32_t r = 0; r < alone.size(); ++r)
        if (alone[r]) extend(r, 0, 2 * count);
    std::vector<Interval> intervals;
    for (uint32_t r = 0; r < num; ++r)
        if (begin[r] != kNever) intervals.push_back({r, begin[r], end[r]});
    std::sort(intervals.begin(), intervals.end(), [](const Interval& a, const Interval& b) { return a.begin != b.begin ? a.begin < b.begin : a.reg < b.reg; });

    std::vector<uint32_t> slot(num, 0);
    uint32_t used[2] = {0, 0};
    for (int wide = 0; wide < 2; ++wide) {
        std::vector<std::pair<uint32_t, uint32_t>> active;  // (end, slot)
        std::vector<uint32_t> free;
        for (const Interval& interval : intervals) {
            const bool is_wide = interval.reg == sink64 || (interval.reg != sink32 && is_wide_register(registers[interval.reg]));
            if (is_wide != (wide == 1)) continue;
            for (size_t a = 0; a < active.size();) {
                if (active[a].first < interval.begin) {
                    free.push_back(active[a].second);
                    active[a] = active.back();
                    active.pop_back();
                } else {
                    ++a;
                }
            }
            uint32_t s;
            if (free.empty()) {
                s = used[wide]++;
            } else {
                s = free.back();
                free.pop_back();
            }
            slot[interval.reg] = s;
            active.emplace_back(interval.end, s);
        }
    }
    const uint32_t wide_base = used[0] * 128;
    for (const RegisterUse& use : uses) {
        const bool is_wide = use.reg == sink64 || (use.reg != sink32 && is_wide_register(registers[use.reg]));
        const uint32_t word = is_wide ? (wide_base + slot[use.reg] * 256) | kOperandWide : slot[use.reg] * 128;
        (use.in_ext ? kernel.ext[use.word] : kernel.code[use.insn].o[use.word]) = word;
    }
    kernel.register_bytes = wide_base + used[1] * 256;
    std::vector<uint32_t> from_start;
    for (uint32_t r = 0; r < registers.size(); ++r)
        if (get(in[block_at(kernel.entry)], r)) from_start.push_back(r);
    return from_start;
}

}  // namespace kw
