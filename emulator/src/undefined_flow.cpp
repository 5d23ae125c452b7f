// Which instructions of a kernel can meet an undefined value, and the form of the kernel that watches them.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "decode.h"
#include "undefined.h"
#include "wgmma_state.h"

namespace kw {
namespace {

using Parts = std::vector<std::string_view>;

Parts split(std::string_view name) {
    Parts parts;
    for (;;) {
        const size_t dot = name.find('.');
        parts.push_back(name.substr(0, dot));
        if (dot == std::string_view::npos) return parts;
        name = name.substr(dot + 1);
    }
}
bool has(const Parts& parts, std::string_view word) { return std::find(parts.begin() + 1, parts.end(), word) != parts.end(); }

uint64_t low_bits(std::string_view type) {
    static const std::set<std::string_view> kByte = {"b8", "u8", "s8"}, kShort = {"b16", "u16", "s16", "f16", "bf16"}, kLong = {"b64", "u64", "s64", "f64"};
    return kByte.count(type) ? 0xffu : kShort.count(type) ? 0xffffu : kLong.count(type) ? ~0ull : 0xffffffffull;
}
bool is_integer(std::string_view type) { return !type.empty() && (type[0] == 'u' || type[0] == 's') && type.size() <= 3; }
bool is_packed(std::string_view type) { return type == "f16x2" || type == "bf16x2"; }

// Instructions that do no more than compute their destinations from their sources. What is not among them and not named
// in classify() reads all of its operands: a new instruction is judged strictly until it gets a rule here.
bool is_pure(std::string_view base) {
    static const std::set<std::string_view> kPure = {
        "add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "neg", "abs", "sad", "dp4a", "dp2a", "popc", "clz", "brev", "bfind", "bfe", "bfi",
        "prmt", "lop3", "shl", "shr", "shf", "and", "or", "xor", "not", "cnot", "setp", "set", "selp", "slct", "testp", "isspacep", "cvt", "cvta", "mov",
        "createpolicy", "copysign", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh", "mul24", "mad24", "fns", "szext", "bmsk", "activemask"};
    return kPure.count(base) != 0;
}

// Rule of an instruction that is_pure. `moved`: operand words whose bits are moved.
void classify_pure(const Insn& insn, const Parts& parts, TrackedInsn& out, uint32_t& moved) {
    const std::string_view base = parts[0], type = parts.back();
    out.bits = base == "mad" || has(parts, "wide") ? ~0ull : low_bits(type);
    out.rule = Rule::Whole;
    if (base == "mov" || base == "and" || base == "or" || base == "xor" || base == "not") {
        if (type == "pred") {
            out.rule = Rule::Predicates;
            out.table = base == "and" ? 0 : base == "or" ? 1 : base == "xor" ? 2 : 3;
        } else if (base == "mov") {
            out.rule = Rule::Move;
            moved = ~0u;
        } else {
            out.rule = Rule::Logic;
            out.table = base == "and" ? 0xc0u : base == "or" ? 0xfcu : base == "xor" ? 0x3cu : 0x0fu;
        }
    } else if (base == "lop3") {
        out.rule = Rule::Logic;
        out.table = static_cast<uint32_t>(insn.imm) & 255u;
    } else if (base == "shl" || base == "shr" || base == "bfe") {
        out.rule = Rule::Move;
        moved = 1u << 1;
    } else if (base == "shf" || base == "prmt" || base == "bfi" || base == "slct") {
        out.rule = Rule::Move;
        moved = 1u << 1 | 1u << 2;
    } else if (base == "selp") {
        out.rule = Rule::Select;
        moved = 1u << 1 | 1u << 2;
    } else if (base == "brev" || (base == "cvt" && is_integer(type) && is_integer(parts[parts.size() - 2]) && !has(parts, "sat")) ||
               (base == "cvta" && (has(parts, "global") || has(parts, "const")))) {
        out.rule = Rule::Move;
        moved = 1u << 1;
    } else if (base == "cvt" && type == "f32" && is_packed(parts[parts.size() - 2])) {
        out.rule = Rule::PackHalves;
    } else if (is_packed(type) && base != "set" && base != "setp") {
        out.rule = Rule::Halves;
    } else if (base == "setp" || base == "set") {
        out.rule = Rule::Compare;
        const bool exact = is_integer(type) || type[0] == 'b';
        out.table = exact && type != "bf16" && (parts[1] == "eq" || parts[1] == "ne");
    } else if ((base == "add" || base == "sub" || base == "mul" || base == "mad" || base == "neg") && is_integer(type) && !has(parts, "hi") && !has(parts, "sat")) {
        out.rule = Rule::Carry;
    }
}

void classify_shuffle(const Parts& parts, TrackedInsn& out) {
    out.rule = Rule::Shuffle;
    out.table = has(parts, "up") ? 0 : has(parts, "down") ? 1 : has(parts, "bfly") ? 2 : 3;
}

void classify_access(const Parts& parts, bool local, bool in_frame, TrackedInsn& out) {
    static const std::set<std::string_view> kOther = {"global", "shared", "shared::cta", "shared::cluster", "param", "param::entry", "param::func", "const"};
    const bool generic = std::none_of(parts.begin(), parts.end(), [](std::string_view part) { return kOther.count(part) != 0; });
    out.space = in_frame ? Space::Local : generic ? Space::Generic : Space::Global;
    out.bits = low_bits(parts.back());
    out.bytes = out.bits == 0xff ? 1 : out.bits == 0xffff ? 2 : out.bits == ~0ull ? 8 : 4;
    out.vector = has(parts, "v2") ? 2 : has(parts, "v4") ? 4 : has(parts, "v8") ? 8 : 1;
    out.sign_extends = parts.back()[0] == 's';
    if (local && out.space != Space::Global) out.rule = parts[0] == "st" ? Rule::StoreLocal : Rule::LoadLocal;
}

// The role of a register that the instruction reads. An operand that some modifier makes unread is to get Role::Source
// and the rule Defined.
Role role_of(const Parts& parts, uint32_t word, uint32_t last_word) {
    const std::string_view base = parts[0];
    if (has(parts, "cc")) return Role::Operand;  // the carry is not followed
    if (is_pure(base) || base == "movmatrix") return Role::Source;
    if (base == "ld" || base == "ldu" || base == "ldmatrix") return Role::Address;
    if (base == "st" || base == "red" || base == "stmatrix") return word == 0 ? Role::Address : Role::Stored;
    if (base == "atom") return word == 1 ? Role::Address : Role::Stored;
    if (base == "cp") return word < 2 ? Role::Address : Role::Operand;
    if (base == "mma") return Role::Matrix;
    if (base == "wgmma" && parts.size() > 4) {  // accumulators first; a predicate is scale-d
        if (word == kWgmmaScaleWord) return Role::Operand;
        return word < wgmma_accumulators(parts[4], parts[5]) ? Role::Accumulator : Role::Matrix;
    }
    if (base == "wmma") {  // beside the address of a store lie the fragment's registers and the stride
        const bool stored = parts[1] == "store" && word > 0 && word <= (parts.back() == "f32" ? 8u : 4u);
        return parts[1] == "mma" ? Role::Matrix : stored ? Role::Stored : Role::Address;
    }
    if (base == "bar" || base == "barrier") return has(parts, "warp") ? Role::Members : word == 3 ? Role::Exchanged : Role::Barrier;
    if (base == "shfl") return word == 2 ? Role::Source : word == 5 ? Role::Members : Role::Selector;
    if (base == "vote" || base == "match" || base == "redux" || base == "elect") return word == last_word ? Role::Members : Role::Exchanged;
    return Role::Operand;
}

// Lanes whose address a matrix load or store reads.
Mask lanes_read(const Parts& parts) {
    if (parts[0] != "ldmatrix" && parts[0] != "stmatrix") return kFullMask;
    return has(parts, "x1") ? 0xffu : has(parts, "x2") ? 0xffffu : kFullMask;
}

// One operand of one instruction, register or predicate.
struct Use {
    uint32_t insn, word, reg;
    bool defines, predicate, in_ext;
};

std::vector<Use> all_uses(const Kernel& kernel, const std::vector<RegisterUse>& registers, const std::vector<RegisterUse>& predicates) {
    std::vector<Use> out;
    out.reserve(registers.size() + predicates.size());
    for (const RegisterUse& use : registers) out.push_back({use.insn, use.in_ext ? use.word - kernel.code[use.insn].ext : use.word, use.reg, use.defines, false, use.in_ext});
    for (const RegisterUse& use : predicates) out.push_back({use.insn, use.word, use.reg, use.defines, true, false});
    std::stable_sort(out.begin(), out.end(), [](const Use& a, const Use& b) { return a.insn < b.insn; });
    return out;
}

class Tracker {
   public:
    Tracker(Kernel& kernel, const std::vector<RegisterDecl>& registers, const std::vector<uint32_t>& predicate_index, std::vector<Use> uses)
        : kernel_(kernel), registers_(registers), predicate_index_(predicate_index), uses_(std::move(uses)), tainted_(registers.size() + 2, false) {
        const size_t count = kernel.code.size();
        first_.assign(count + 1, 0);
        for (const Use& use : uses_) first_[use.insn + 1] += 1;
        for (size_t n = 0; n < count; ++n) first_[n + 1] += first_[n];
        for (const FormUse& form : kernel.forms) parts_.push_back(split(form.name));
        for (size_t pc = 0; kernel.local_bytes && pc < count; ++pc) local_ |= access(pc).rule == Rule::LoadLocal;
    }

    bool local() const { return local_; }

    // Closes the set of registers that may hold an undefined bit, whatever the order of instructions.
    void spread(const std::vector<uint32_t>& from_start) {
        std::vector<uint32_t> begin(tainted_.size() + 1, 0), readers(uses_.size());
        for (const Use& use : uses_) begin[use.reg + 1] += spreads(use);
        for (size_t r = 0; r < tainted_.size(); ++r) begin[r + 1] += begin[r];
        std::vector<uint32_t> fill(begin.begin(), begin.end() - 1);
        for (const Use& use : uses_)
            if (spreads(use)) readers[fill[use.reg]++] = use.insn;
        for (uint32_t r : from_start) taint(r);
        for (uint32_t pc = 0; local_ && pc < kernel_.code.size(); ++pc)
            if (access(pc).rule == Rule::LoadLocal) taint_destinations(pc);
        while (!work_.empty()) {
            const uint32_t r = work_.back();
            work_.pop_back();
            for (uint32_t n = begin[r]; n < begin[r + 1]; ++n) taint_destinations(readers[n]);
        }
    }

    // Puts the instructions that read or write such a register into `tracking` and makes run_tracked their handler.
    void track(Kernel& into, Tracking& tracking) {
        tracking.at.assign(kernel_.code.size(), 0);
        for (uint32_t pc = 0; pc < kernel_.code.size(); ++pc) {
            TrackedInsn out;
            if (!tracked(pc, out)) continue;
            tracking.insns.push_back(std::move(out));
            tracking.at[pc] = static_cast<uint32_t>(tracking.insns.size());
            Insn& insn = into.code[pc];
            if (insn.kind != Kind::Plain && insn.kind != Kind::Counted) continue;
            insn.fn = run_tracked;
            insn.guard = kPredicateTrue;
            insn.guard_flip = 0;
            insn.kind = Kind::Plain;
            insn.count = CountAs::Nothing;
        }
    }

   private:
    const Parts& parts(size_t pc) const { return parts_[kernel_.where[pc].form]; }
    TrackedInsn access(size_t pc) const {
        TrackedInsn out;
        const std::string_view base = parts(pc)[0];
        const bool in_frame = (kernel_.code[pc].mode & kFrameAccess) != 0;
        if (base == "ld" || base == "ldu" || base == "st") classify_access(parts(pc), kernel_.local_bytes != 0, in_frame, out);
        if (base == "call" && in_frame) out.rule = Rule::CopyLocal;
        return out;
    }
    Role role(const Use& use) const {
        if (use.defines) return Role::Destination;
        if (use.word == kGuardWord) return Role::Guard;
        const bool is_match = parts(use.insn)[0] == "elect" || parts(use.insn)[0] == "match" || parts(use.insn)[0] == "redux" || parts(use.insn)[0] == "vote";
        return role_of(parts(use.insn), use.word, is_match ? 2 : 0);
    }
    bool spreads(const Use& use) const { return !use.defines && (role(use) == Role::Source || use.word == kGuardWord); }
    void taint(uint32_t reg) {
        if (reg >= registers_.size() || tainted_[reg]) return;  // nobody reads the sinks
        tainted_[reg] = true;
        work_.push_back(reg);
    }
    void taint_destinations(uint32_t pc) {
        for (uint32_t u = first_[pc]; u < first_[pc + 1]; ++u)
            if (uses_[u].defines) taint(uses_[u].reg);
    }

    bool tracked(uint32_t pc, TrackedInsn& out) const {
        if (parts_.empty() || pc + 1 == kernel_.code.size()) return false;  // the last exit is nobody's text
        const Insn& insn = kernel_.code[pc];
        out = access(pc);
        uint32_t moved = 0, written = 0;
        bool touches = out.rule != Rule::Defined, reads = false;
        for (uint32_t u = first_[pc]; u < first_[pc + 1]; ++u) {
            const Use& use = uses_[u];
            out.in_ext |= use.in_ext;
            if (use.defines && !use.predicate) written |= 1u << (use.word & 31u);
            if (!tainted_[use.reg]) continue;
            touches = true;
            const Role as = role(use);
            reads |= as == Role::Source;
            if (as == Role::Guard) {
                out.guard_tracked = true;
                out.guard_reg = use.reg;
                continue;
            }
            TrackedOperand operand;
            operand.reg = use.reg;
            operand.predicate = use.predicate;
            operand.word = static_cast<uint8_t>(use.word);
            operand.role = as;
            if (as == Role::Address) operand.lanes = lanes_read(parts(pc));
            operand.wide = !use.predicate && registers_[use.reg].width == Width::B64;
            operand.place = use.predicate ? predicate_index_[use.reg] : place_of(insn, use);
            operand.bits = as == Role::Stored && parts(pc)[0] != "wmma" ? low_bits(parts(pc).back()) : operand.wide ? ~0ull : 0xffffffffull;
            out.operands.push_back(operand);
        }
        if (!touches) return false;
        out.fn = insn.fn;
        out.guard = insn.guard;
        out.guard_flip = insn.guard_flip;
        out.count = insn.count;
        out.effects = !is_pure(parts(pc)[0]);
        if (reads) {
            if (parts(pc)[0] == "shfl") classify_shuffle(parts(pc), out);
            else if (parts(pc)[0] == "movmatrix") out.rule = Rule::Move, moved = 1u << 1;
            else classify_pure(insn, parts(pc), out, moved);
            if ((parts(pc)[0] == "xor" || parts(pc)[0] == "sub") && same_sources(pc)) out.rule = Rule::Defined;
        }
        out.words = out.in_ext ? 5 : 4;
        out.moved = moved & ~written;
        out.written = written;
        return true;
    }
    uint32_t place_of(const Insn& insn, const Use& use) const {
        return (use.in_ext ? kernel_.ext[insn.ext + use.word] : insn.o[use.word]) / 128;
    }
    bool same_sources(uint32_t pc) const {
        const Use* source[2] = {nullptr, nullptr};
        for (uint32_t u = first_[pc]; u < first_[pc + 1]; ++u)
            if (!uses_[u].defines && (uses_[u].word == 1 || uses_[u].word == 2)) source[uses_[u].word - 1] = &uses_[u];
        return source[0] && source[1] && source[0]->reg == source[1]->reg && !source[0]->predicate;
    }

    Kernel& kernel_;
    const std::vector<RegisterDecl>& registers_;
    const std::vector<uint32_t>& predicate_index_;
    std::vector<Use> uses_;
    std::vector<uint32_t> first_;  // of each instruction, in uses_
    std::vector<Parts> parts_;     // of each form's name
    std::vector<bool> tainted_;
    std::vector<uint32_t> work_;
    bool local_ = false;
};

}  // namespace

void track_undefined(Kernel& kernel, const std::vector<RegisterDecl>& registers, const std::vector<RegisterNames>& names,
                     const std::vector<RegisterUse>& uses, const std::vector<RegisterUse>& predicates,
                     const std::vector<uint32_t>& predicate_index, const std::vector<uint32_t>& from_start) {
    if (from_start.empty() && kernel.local_bytes == 0) return;
    Tracker tracker(kernel, registers, predicate_index, all_uses(kernel, uses, predicates));
    if (from_start.empty() && !tracker.local()) return;
    tracker.spread(from_start);
    auto tracking = std::make_shared<Tracking>();
    auto tracked = std::make_shared<Kernel>(kernel);
    tracking->names = names;
    tracking->local = kernel.local_bytes != 0;
    tracker.track(*tracked, *tracking);
    std::unordered_map<uint32_t, uint32_t> place;  // of the registers live at the start
    for (const RegisterUse& use : uses) place[use.reg] = (use.in_ext ? kernel.ext[use.word] : kernel.code[use.insn].o[use.word]) / 128;
    for (uint32_t r : from_start) {
        TrackedOperand operand;
        operand.reg = r;
        operand.predicate = registers[r].width == Width::Pred;
        operand.wide = registers[r].width == Width::B64;
        operand.place = operand.predicate ? predicate_index[r] : place[r];
        tracking->from_start.push_back(operand);
    }
    for (const std::vector<RegisterUse>* list : {&uses, &predicates})
        for (const RegisterUse& use : *list)
            if (use.defines) tracking->written_at.emplace(use.reg, use.insn);
    tracked->tracking = std::move(tracking);
    count_runs(*tracked);
    kernel.tracked = std::move(tracked);
}

std::string Tracking::name(uint32_t reg) const {
    const auto after = std::upper_bound(names.begin(), names.end(), reg, [](uint32_t r, const RegisterNames& n) { return r < n.first; });
    if (after == names.begin()) return "a register";
    const RegisterNames& found = *(after - 1);
    return found.range ? found.name + std::to_string(reg - found.first) : found.name;
}

}  // namespace kw
