// wgmma: groups in flight and watched registers; see wgmma_state.h.
// SPDX-License-Identifier: Apache-2.0
#include "wgmma_state.h"

#include <algorithm>

#include "checks.h"

namespace kw {
namespace {

uint32_t pc_of(const Warp& w, const Insn& i) { return static_cast<uint32_t>(&i - w.launch->kernel->code.data()); }
bool is_move(const Kernel& kernel, uint32_t pc) {
    const std::string& name = kernel.forms[kernel.where[pc].form].name;
    return name == "mov.b32" || name == "mov.u32" || name == "mov.s32" || name == "mov.f32";
}
bool is_wgmma(const Kernel& kernel, uint32_t pc) { return kernel.forms[kernel.where[pc].form].name.compare(0, 6, "wgmma.") == 0; }

void complain(Warp& w, uint32_t pc, const std::string& text) {
    if (w.launch->checks.async) report_at(w, pc, -1, "wgmma", text);
}

// Which wgmma uses a register, and how.
std::string user_of(const Warp& w, const WgmmaPlace& place) {
    return std::string("the wgmma at ") + describe(*w.launch, place.pc) + (place.shape ? " may still write" : " may still read") +
           "; wgmma.wait_group must come first, with few enough groups allowed in flight";
}

// The handler of watched instructions.
void watch(Warp& w, const Insn& i, Mask m) {
    const WgmmaWatch& all = *w.launch->kernel->wgmma_watch;
    const uint32_t pc = pc_of(w, i);
    const Watched& one = all.insns[all.at[pc] - 1];
    if (m & (w.predicates[one.guard] ^ one.guard_flip)) {
        std::vector<WgmmaPlace>& places = w.wgmma_places;
        if (one.moves && !one.reads.empty() && !one.writes.empty()) {
            WgmmaPlace& to = places[one.writes[0].first];
            if (to.group && places[one.reads[0].first].group != to.group) complain(w, pc, "writes " + all.name(one.writes[0].second) + ", which " + user_of(w, to));
            to = places[one.reads[0].first];
        } else {
            for (const auto& [place, reg] : one.reads) {
                if (!places[place].group) continue;
                complain(w, pc, "reads " + all.name(reg) + ", which " + user_of(w, places[place]));
                places[place].group = 0;
            }
            for (const auto& [place, reg] : one.writes) {
                if (places[place].group) complain(w, pc, "writes " + all.name(reg) + ", which " + user_of(w, places[place]));
                places[place] = WgmmaPlace{};
                places[place].written = w.wgmma_fences;
                places[place].write_pc = pc;
            }
        }
    }
    one.fn(w, i, m);
}

// Warps wait until their whole warpgroup has committed the groups.
bool is_over(const Warp& w, uint32_t groups) {
    const uint32_t first = w.index / kWarpsOfGroup * kWarpsOfGroup;
    for (uint32_t n = first; n < first + kWarpsOfGroup && n < w.block->warps.size(); ++n)
        if (w.block->warps[n].wgmma_committed < groups) return false;
    return true;
}
uint32_t groups_waited_for(const Warp& w, const Split& split) {
    const uint32_t keep = static_cast<uint32_t>(w.launch->kernel->code[split.pc].imm);
    return w.wgmma_committed > keep ? w.wgmma_committed - keep : 0;
}

void leave(Warp& w, Split& split, uint32_t groups) {
    for (WgmmaPlace& place : w.wgmma_places)
        if (place.group && place.group <= groups) place.group = 0;
    const size_t group = w.index / kWarpsOfGroup;
    if (w.launch->checks.race && groups && group < w.block->wgmma_components.size() && w.block->wgmma_components[group]) {
        Clock clock;
        w.block->races.release_component(clock, w.block->wgmma_components[group], groups - 1);
        w.block->races.acquire(w, split.mask, clock);
    }
    split.state = SplitState::Ready;
    split.pc += 1;
}

}  // namespace

std::string WgmmaWatch::name(uint32_t reg) const {
    const auto after = std::upper_bound(names.begin(), names.end(), reg, [](uint32_t r, const RegisterNames& n) { return r < n.first; });
    if (after == names.begin()) return "a register";
    const RegisterNames& found = *(after - 1);
    return found.range ? found.name + std::to_string(reg - found.first) : found.name;
}

uint32_t wgmma_accumulators(std::string_view shape, std::string_view type) {
    uint32_t n = 0;
    for (size_t at = shape.find('n') + 1; at < shape.size() && shape[at] >= '0' && shape[at] <= '9'; ++at) n = n * 10 + static_cast<uint32_t>(shape[at] - '0');
    return type == "f16" ? n / 4 : n / 2;
}

std::vector<bool> wgmma_copies(const Kernel& kernel, size_t registers, const std::vector<RegisterUse>& uses, const std::vector<uint32_t>& roots) {
    if (roots.empty()) return {};
    std::vector<bool> out(registers, false);
    std::vector<std::vector<uint32_t>> moved(registers);
    for (size_t first = 0; first < uses.size();) {
        size_t last = first;
        while (last < uses.size() && uses[last].insn == uses[first].insn) ++last;
        if (last - first == 2 && is_move(kernel, uses[first].insn) && uses[first].reg < registers && uses[first + 1].reg < registers) {
            moved[uses[first].reg].push_back(uses[first + 1].reg);
            moved[uses[first + 1].reg].push_back(uses[first].reg);
        }
        first = last;
    }
    std::vector<uint32_t> work;
    const auto take = [&](uint32_t reg) {
        if (reg >= registers || out[reg]) return;
        out[reg] = true;
        work.push_back(reg);
    };
    for (const uint32_t reg : roots) take(reg);
    while (!work.empty()) {
        const uint32_t reg = work.back();
        work.pop_back();
        for (const uint32_t other : moved[reg]) take(other);
    }
    return out;
}

void watch_wgmma(Kernel& kernel, const std::vector<bool>& watched, const std::vector<RegisterUse>& uses, const std::vector<RegisterNames>& names) {
    auto plain = std::make_shared<WgmmaWatch>();
    plain->at.assign(kernel.code.size(), 0);
    plain->names = names;
    for (const RegisterUse& use : uses) {
        if (use.reg >= watched.size() || !watched[use.reg] || is_wgmma(kernel, use.insn)) continue;
        if (!plain->at[use.insn]) {
            Watched one;
            const Insn& insn = kernel.code[use.insn];
            one.fn = insn.fn;
            one.guard = insn.guard;
            one.guard_flip = insn.guard_flip;
            one.moves = is_move(kernel, use.insn);
            plain->insns.push_back(std::move(one));
            plain->at[use.insn] = static_cast<uint32_t>(plain->insns.size());
        }
        Watched& one = plain->insns[plain->at[use.insn] - 1];
        const uint32_t place = (use.in_ext ? kernel.ext[use.word] : kernel.code[use.insn].o[use.word]) / 128;
        (use.defines ? one.writes : one.reads).emplace_back(place, use.reg);
    }
    if (kernel.tracked) {
        auto form = std::make_shared<Kernel>(*kernel.tracked);
        auto of_form = std::make_shared<WgmmaWatch>(*plain);
        for (uint32_t pc = 0; pc < form->code.size(); ++pc) {
            if (!of_form->at[pc] || !form->code[pc].fn) continue;
            of_form->insns[of_form->at[pc] - 1].fn = form->code[pc].fn;
            form->code[pc].fn = watch;
        }
        form->wgmma_watch = std::move(of_form);
        kernel.tracked = std::move(form);
    }
    for (uint32_t pc = 0; pc < kernel.code.size(); ++pc)
        if (plain->at[pc] && kernel.code[pc].fn) kernel.code[pc].fn = watch;
    kernel.wgmma_watch = std::move(plain);
}

void wgmma_issue(Warp& w, const Insn& i, const uint32_t* accumulators, uint32_t count, const uint32_t* a, uint32_t a_count, uint32_t shape) {
    const uint32_t pc = pc_of(w, i);
    if (w.index / kWarpsOfGroup * kWarpsOfGroup + kWarpsOfGroup > w.block->warps.size())
        complain(w, pc, "wgmma is executed by a warpgroup, of four warps; the last " + std::to_string(w.block->warps.size() % kWarpsOfGroup) + " warps of the block are none");
    if (w.wgmma_fences == 1) complain(w, pc, "the first wgmma of a warpgroup needs a wgmma.fence before it");
    const auto judge = [&](uint32_t word, bool sums) {
        WgmmaPlace& place = w.wgmma_places[word / 128];
        if (place.written == w.wgmma_fences) {
            complain(w, pc, std::string(sums ? "adds to" : "reads A from") + " a register that was written at " + describe(*w.launch, place.write_pc) + "; wgmma.fence must come between");
            place.written = 0;
        }
        if (place.group && (sums ? place.shape != shape : place.shape != 0))
            complain(w, pc, std::string(sums ? "adds to" : "reads A from") + " a register that " + user_of(w, place));
        if (!sums && place.group) return;  // another product reads it too
        place.group = w.wgmma_committed + 1;
        place.pc = pc;
        place.shape = sums ? shape : 0;
        place.written = 0;
    };
    for (uint32_t n = 0; n < a_count; ++n) judge(a[n], false);
    for (uint32_t n = 0; n < count; ++n) judge(accumulators[n], true);
    w.wgmma_open = true;
}

uint32_t wgmma_component(Warp& w) {
    const size_t group = w.index / kWarpsOfGroup;
    if (group >= w.block->wgmma_components.size()) w.block->wgmma_components.resize(group + 1, 0);
    uint32_t& component = w.block->wgmma_components[group];
    if (!component) component = w.block->races.add_component(*w.launch, {AgentKind::Wgmma, static_cast<uint32_t>(group)});
    return component;
}

void wgmma_fence(Warp& w) { w.wgmma_fences += 1; }

void wgmma_commit(Warp& w) {
    w.wgmma_committed += 1;
    w.wgmma_open = false;
    const uint32_t first = w.index / kWarpsOfGroup * kWarpsOfGroup;
    for (uint32_t n = first; n < first + kWarpsOfGroup && n < w.block->warps.size(); ++n) {
        Warp& other = w.block->warps[n];
        for (Split& split : other.splits) {
            if (split.state != SplitState::AtBarrier || split.barrier != kWgmmaWait) continue;
            const uint32_t groups = groups_waited_for(other, split);
            if (!is_over(other, groups)) continue;
            leave(other, split, groups);
            w.launch->changed = true;
        }
    }
}

void wgmma_wait(Warp& w, Split& split) {
    const uint32_t groups = groups_waited_for(w, split);
    if (is_over(w, groups)) return leave(w, split, groups);
    split.state = SplitState::AtBarrier;
    split.barrier = kWgmmaWait;
}

std::string wgmma_wait_text(const Warp& w) {
    std::string text = " (for the warps of its warpgroup to commit the same groups; committed have";
    const uint32_t first = w.index / kWarpsOfGroup * kWarpsOfGroup;
    for (uint32_t n = first; n < first + kWarpsOfGroup && n < w.block->warps.size(); ++n) text += " " + std::to_string(w.block->warps[n].wgmma_committed);
    return text + ")";
}

}  // namespace kw
