// Which form an instruction is: modifiers that do not matter here are dropped, spellings with one meaning made one.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "convert_modes.h"
#include "decode.h"
#include "parts.h"

namespace kw {
namespace {

int type_bits(std::string_view type) {
    static const std::unordered_map<std::string_view, int> kBits = {
        {"b8", 8}, {"u8", 8}, {"s8", 8}, {"b16", 16}, {"u16", 16}, {"s16", 16}, {"f16", 16}, {"bf16", 16}, {"b32", 32}, {"u32", 32},
        {"s32", 32}, {"f32", 32}, {"f16x2", 32}, {"bf16x2", 32}, {"b64", 64}, {"u64", 64}, {"s64", 64}, {"f64", 64}};
    const auto found = kBits.find(type);
    return found == kBits.end() ? 0 : found->second;
}

// Caching, ordering and scope: no effect where memory is sequentially consistent and there are no caches.
bool is_hint(std::string_view part) {
    static const std::set<std::string_view> kHints = {"weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "sys", "gpu", "cta",
                                                      "cluster", "nc", "ca", "cg", "cs", "cv", "lu", "wb", "wt", "mmio", "unified"};
    return kHints.count(part) || part.substr(0, 4) == "L1::" || part.substr(0, 4) == "L2::";
}
// Drops hints; true if one of them takes a cache policy operand.
bool drop_hints(Parts& parts) {
    const bool policy = std::find(parts.begin(), parts.end(), "L2::cache_hint") != parts.end();
    parts.erase(std::remove_if(parts.begin() + 1, parts.end(), is_hint), parts.end());
    return policy;
}

// Accesses that order others (PTX ISA, "Memory Consistency Model": strong operations).
bool is_strong(const Parts& parts) {
    static const std::set<std::string_view> kStrong = {"volatile", "relaxed", "acquire", "release", "mmio"};
    return std::any_of(parts.begin(), parts.end(), [](std::string_view part) { return kStrong.count(part) != 0; });
}

bool is_fp8_pair(std::string_view type) { return type == "e4m3x2" || type == "e5m2x2"; }

std::string_view take_space(Parts& parts) {
    static const std::pair<std::string_view, std::string_view> kSpaces[] = {
        {"global", "global"}, {"shared", "shared"}, {"shared::cta", "shared"}, {"local", "local"}, {"param", "param"},
        {"param::entry", "param"}, {"const", "const"}};
    for (const auto& [written, space] : kSpaces)
        if (take(parts, written)) return space;
    return "generic";
}

}  // namespace

void KernelDecoder::branch(const Statement& statement) {
    const Operand& to = operand(0);
    if (to.kind != OperandKind::Symbol || statement.operands.size() != 1) unknown();
    form_only("bra", Fidelity::Exact);
    uint32_t scope = to.scope;
    for (;;) {
        const auto found = labels_.find({scope, to.name});
        if (found != labels_.end()) {
            insn_.kind = Kind::Branch;
            insn_.imm = static_cast<int32_t>(found->second);
            return;
        }
        if (scope == 0) fail("label '" + std::string(to.name) + "' is not defined");
        scope = ast_.scope_parent[scope];
    }
}

void KernelDecoder::form_only(const std::string& name, Fidelity fidelity) {
    const auto known = form_index_.find(name);
    if (known == form_index_.end()) {
        form_index_[name] = static_cast<uint16_t>(kernel_->forms.size());
        kernel_->forms.push_back({name, fidelity});
    }
    kernel_->where.back().form = form_index_[name];
}

void KernelDecoder::control(const Parts& parts) {
    Parts rest = parts;
    take(rest, "uni");
    if (rest.size() != 1 || !statement_->operands.empty()) unknown();
    form_only(std::string(parts[0]), Fidelity::Exact);
    insn_.kind = parts[0] == "ret" || parts[0] == "exit" ? Kind::Exit : Kind::Trap;
}

void KernelDecoder::barrier(Parts parts) {
    form_only(std::string(statement_->opcode), Fidelity::Exact);
    if (parts[0] == "bar" && parts.size() == 3 && parts[1] == "warp" && parts[2] == "sync") {
        if (statement_->operands.size() != 1) fail(text() + " takes a member mask");
        insn_.o[0] = encode('r', operand(0), 0);
        insn_.kind = Kind::WarpSync;
        insn_.converged = false;
        return;
    }
    const bool aligned = take(parts, "aligned") || parts[0] == "bar";
    take(parts, "cta");
    const std::vector<Operand> operands = statement_->operands;
    insn_.imm = aligned;
    insn_.converged = aligned;
    insn_.o[1] = kNoOperand;
    if (parts.size() == 2 && (parts[1] == "sync" || parts[1] == "arrive")) {
        insn_.kind = parts[1] == "sync" ? Kind::BarrierSync : Kind::BarrierArrive;
        if (operands.empty() || operands.size() > 2 || (parts[1] == "arrive" && operands.size() != 2)) fail(text() + " has the wrong number of operands");
        insn_.o[0] = encode('r', operands[0], 0);
        if (operands.size() == 2) insn_.o[1] = encode('r', operands[1], 1);
        return;
    }
    if (parts.size() == 4 && parts[1] == "red") {  // d, a{, b}, {!}c
        insn_.kind = Kind::BarrierReduce;
        const bool popc = parts[2] == "popc";
        if ((popc && parts[3] != "u32") || (!popc && parts[3] != "pred") || (!popc && parts[2] != "and" && parts[2] != "or")) unknown();
        if (operands.size() < 3 || operands.size() > 4) fail(text() + " has the wrong number of operands");
        insn_.ext = popc ? kReducePopc : parts[2] == "and" ? kReduceAnd : kReduceOr;
        insn_.o[0] = encode('r', operands[1], 0);
        if (operands.size() == 4) insn_.o[1] = encode('r', operands[2], 1);
        insn_.o[2] = encode(popc ? 'R' : 'P', operands[0], 2);
        insn_.o[3] = encode('p', operands.back(), 3);
        return;
    }
    unknown();
}

void KernelDecoder::special(const Operand& to, const Operand& from) {
    static const std::unordered_map<std::string_view, int> kRegisters = {
        {"%tid.x", kTid}, {"%tid.y", kTid + 1}, {"%tid.z", kTid + 2}, {"%ntid.x", kNtid}, {"%ntid.y", kNtid + 1}, {"%ntid.z", kNtid + 2},
        {"%ctaid.x", kCtaId}, {"%ctaid.y", kCtaId + 1}, {"%ctaid.z", kCtaId + 2},
        {"%nctaid.x", kNctaId}, {"%nctaid.y", kNctaId + 1}, {"%nctaid.z", kNctaId + 2},
        {"%laneid", kLaneId}, {"%warpid", kWarpId}, {"%nwarpid", kNwarpId}, {"%smid", kSmId}, {"%nsmid", kNsmId},
        {"%lanemask_eq", kLaneMaskEq}, {"%lanemask_lt", kLaneMaskLt}, {"%lanemask_le", kLaneMaskLe}, {"%lanemask_ge", kLaneMaskGe},
        {"%lanemask_gt", kLaneMaskGt}, {"%dynamic_smem_size", kDynamicSmem}, {"%total_smem_size", kTotalSmem}, {"%clock", kClock},
        {"%clock_hi", kClockHi}, {"%cluster_ctarank", kZero}, {"%cluster_ctaid.x", kZero}, {"%cluster_ctaid.y", kZero}, {"%cluster_ctaid.z", kZero},
        {"%cluster_nctaid.x", kClusterOne}, {"%cluster_nctaid.y", kClusterOne}, {"%cluster_nctaid.z", kClusterOne}, {"%cluster_nctarank", kClusterOne}};
    if (from.name == "%clock64" || from.name == "%globaltimer") return emit("mov.special64", {to});
    const auto found = kRegisters.find(from.name);
    if (found == kRegisters.end()) fail("special register '" + std::string(from.name) + "' is not one the emulator knows, or a register is undeclared");
    emit("mov.special", {to});
    insn_.imm = found->second;
}

void KernelDecoder::move(Parts parts) {
    if (parts[0] == "createpolicy") {  // a cache policy has no effect here
        Operand zero;
        zero.kind = OperandKind::Integer;
        emit("mov.b64", {operand(0), zero});
        kernel_->forms[kernel_->where.back().form].fidelity = Fidelity::NotModelled;
        return;
    }
    if (parts.size() != 2) unknown();
    if (statement_->operands.size() != 2) fail(text() + " takes 2 operands");
    const Operand &to = operand(0), &from = operand(1);
    if (parts[1] == "pred") return emit("mov.pred", {to, from});
    const int bits = type_bits(parts[1]);
    if (bits < 16) unknown();
    const std::string name = bits == 64 ? "mov.b64" : "mov.b32";
    if (from.kind == OperandKind::Special) return special(to, from);
    if (to.kind == OperandKind::Vector || from.kind == OperandKind::Vector) {
        const size_t count = std::max(to.items.size(), from.items.size());
        if (bits == 16 || (count != 2 && count != 4)) unknown();
        return emit(name + (to.kind == OperandKind::Vector ? ".unpack" : ".pack") + std::to_string(count), flat());
    }
    emit(name, {to, from});
}

void KernelDecoder::convert(Parts parts) {
    if (parts[0] == "cvta") {
        if (parts.back() != "u64") unknown();
        parts.pop_back();
        take(parts, "entry");
        for (std::string_view& part : parts)
            if (part == "shared::cta") part = "shared";
            else if (part == "param::entry") part = "param";
        return emit(join(parts), statement_->operands);
    }
    if (parts.size() < 3) unknown();
    const std::string_view from = parts.back(), to = parts[parts.size() - 2];
    parts.resize(parts.size() - 2);
    if (is_fp8_pair(to) || is_fp8_pair(from)) return convert_fp8(parts, to, from);
    int mode = 0;
    bool rounds = false;
    for (size_t n = 1; n < parts.size(); ++n) {
        static const std::unordered_map<std::string_view, int> kModes = {
            {"rn", kRoundNearest}, {"rz", kRoundZero}, {"rm", kRoundDown}, {"rp", kRoundUp},
            {"rni", kRoundNearest | kToInteger}, {"rzi", kRoundZero | kToInteger}, {"rmi", kRoundDown | kToInteger},
            {"rpi", kRoundUp | kToInteger}, {"ftz", kFlush}, {"sat", kSaturate}, {"relu", kRelu}};
        const auto found = kModes.find(parts[n]);
        if (found == kModes.end()) unknown();
        mode |= found->second;
        rounds |= parts[n][0] == 'r' && parts[n] != "relu";
    }
    if (!type_bits(to) || !type_bits(from)) unknown();
    const bool to_float = to[0] == 'f' || to[0] == 'b', from_float = from[0] == 'f' || from[0] == 'b';
    const bool narrow_float = to.substr(0, 3) == "f16" || to.substr(0, 4) == "bf16";
    // Rounding other than to nearest exists here only for conversions to 16 bits and to integers.
    if (to_float && !(mode & kToInteger) && (mode & kRoundMask) != kRoundNearest && !(narrow_float && (mode & kRoundMask) == kRoundZero && from_float)) unknown();
    if (narrow_float && (mode & kToInteger)) unknown();
    if (to == from && from_float && !rounds && narrow_float && !(mode & kSaturate)) unknown();
    emit("cvt." + std::string(to) + "." + std::string(from), statement_->operands);
    insn_.mode = static_cast<uint8_t>(mode);
    if (!to_float && from_float && !(mode & kToInteger)) fail(text() + " needs an integer rounding modifier");
}

// cvt.rn.satfinite{.relu} to two fp8, cvt.rn{.relu} from them.
void KernelDecoder::convert_fp8(Parts parts, std::string_view to, std::string_view from) {
    const bool relu = take(parts, "relu");
    if (!take(parts, "rn") || take(parts, "satfinite") != is_fp8_pair(to) || parts.size() != 1) unknown();
    emit("cvt." + std::string(to) + "." + std::string(from), statement_->operands);
    need_target(89);
    insn_.mode = relu ? kRelu : 0;
}

void KernelDecoder::compare(Parts parts) {
    const std::string_view base = parts[0];
    if (base == "selp") {
        if (parts.size() != 2) unknown();
        return emit(type_bits(parts[1]) == 64 ? "selp.b64" : type_bits(parts[1]) ? "selp.b32" : "selp", statement_->operands);
    }
    if (base == "slct") {
        take(parts, "ftz");
        if (parts.size() != 3) unknown();
        return emit(std::string(type_bits(parts[1]) == 64 ? "slct.b64." : "slct.b32.") + std::string(parts[2]), statement_->operands);
    }
    const int combine = take(parts, "and") ? 1 : take(parts, "or") ? 2 : take(parts, "xor") ? 3 : 0;
    uint32_t yes = 0xffffffffu;
    if (base == "set") {  // set.cmp{.ftz}.dtype.stype
        if (parts.size() < 4) unknown();
        const std::string_view type = parts[parts.size() - 2];
        if (type == "f32") yes = 0x3f800000u;
        else if (type != "u32" && type != "s32") unknown();
        parts.erase(parts.end() - 2);
    }
    std::vector<Operand> operands = statement_->operands;
    if (operands.size() != (combine ? 4u : 3u)) fail(text() + " has the wrong number of operands");
    std::vector<Operand> both;
    if (operands[0].kind == OperandKind::Pair) both = operands[0].items;
    else both = {operands[0], Operand{}};
    emit(join(parts), {both[0], both[1], operands[1], operands[2]});
    insn_.mode = static_cast<uint8_t>(combine);
    if (combine) insn_.ext = encode_predicate(operands[3], false, 4);
    if (base == "set") {
        insn_.mode |= kSetValue;
        insn_.imm = static_cast<int32_t>(yes);
    }
}

void KernelDecoder::load_store(Parts parts) {
    const bool strong = is_strong(parts), policy = drop_hints(parts);
    const std::string space(take_space(parts));
    std::string vector;
    if (take(parts, "v2")) vector = ".v2";
    else if (take(parts, "v4")) vector = ".v4";
    if (parts.size() != 2) unknown();
    const bool load = parts[0] != "st";
    const std::string_view type = parts[1];
    const int bits = type_bits(type);
    if (bits == 0) unknown();
    const bool is_signed = load && type[0] == 's' && bits < 64;
    std::vector<Operand> operands = flat();
    if (policy && !operands.empty()) operands.pop_back();
    emit(std::string(load ? "ld." : "st.") + space + vector + (is_signed ? ".s" : ".u") + std::to_string(bits), operands);
    if (strong) insn_.mode = kStrongAccess;
}

void KernelDecoder::atomic(Parts parts) {
    drop_hints(parts);
    take(parts, "noftz");
    const std::string_view space = take_space(parts);
    if (parts.size() != 3 || (space != "global" && space != "shared" && space != "generic")) unknown();
    if ((parts[1] == "exch" || parts[1] == "cas") && type_bits(parts[2])) parts[2] = type_bits(parts[2]) == 64 ? "b64" : "b32";
    emit(join(parts), statement_->operands);
    if (parts[0] == "atom" && statement_->operands.size() == 3) {
        insn_.o[3] = insn_.o[2];
        for (size_t n = 0, count = pending_.size(); n < count; ++n) {
            RegisterUse use = pending_[n];
            if (use.word != 2) continue;
            use.word = 3;
            pending_.push_back(use);
        }
    }
    insn_.mode = static_cast<uint8_t>(space == "global" ? Space::Global : space == "shared" ? Space::Shared : Space::Generic);
    if (parts[0] == "red") insn_.mode |= kNoResult;
}

void KernelDecoder::copy_async(Parts parts) {
    if (parts.size() < 3 || parts[1] != "async") unknown();
    const std::string_view third = parts[2];
    if (parts.size() == 3 && (third == "commit_group" || third == "wait_group" || third == "wait_all")) {
        emit(join(parts), statement_->operands);
        if (third == "wait_group" && insn_.imm < 0) fail("cp.async.wait_group takes a count of 0 or more");
        return;
    }
    const bool policy = drop_hints(parts);
    for (std::string_view& part : parts)
        if (part == "shared::cta") part = "shared";
    if (parts.size() != 4 || parts[2] != "shared" || parts[3] != "global") unknown();
    std::vector<Operand> operands = statement_->operands;
    if (policy && operands.size() > 3) operands.pop_back();
    if (operands.size() < 3 || operands.size() > 4 || operands[2].kind != OperandKind::Integer) fail(text() + " takes 2 addresses, a size, and at most a source size");
    const int64_t bytes = operands[2].value;
    if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async copies 4, 8 or 16 bytes, not " + std::to_string(bytes));
    if (bytes != 16 && statement_->opcode.find(".cg") != std::string_view::npos) fail("cp.async.cg copies 16 bytes, not " + std::to_string(bytes));
    emit("cp.async." + std::to_string(bytes), {});
    std::vector<uint32_t> words;
    encode_address(operands[1], words);
    const uint32_t source = words[0];
    const int32_t source_offset = insn_.imm;
    for (RegisterUse& use : pending_) use.word = 1;
    words.clear();
    encode_address(operands[0], words);
    insn_.o[0] = words[0];
    insn_.o[1] = source;
    insn_.o[2] = operands.size() == 4 ? encode('r', operands[3], 2) : kNoOperand;
    insn_.o[3] = static_cast<uint32_t>(source_offset);
}

void KernelDecoder::shuffle(Parts parts) {
    const std::string_view base = parts[0];
    if (base == "activemask") return emit(join(parts), statement_->operands);
    if (!take(parts, "sync")) unknown();
    std::vector<Operand> operands = flat();
    if (base == "shfl") {
        if (parts.back() != "b32") unknown();
        parts.pop_back();
        if (operand(0).kind != OperandKind::Pair) operands.insert(operands.begin() + 1, Operand{});
    } else if (base == "elect" && operand(0).kind != OperandKind::Pair) {
        unknown();
    }
    emit(join(parts), operands);
    insn_.converged = true;
}

void KernelDecoder::arithmetic(Parts parts) {
    static const std::set<std::string_view> kNearest = {"add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt"};
    static const std::set<std::string_view> kNothing = {"membar", "fence", "prefetch", "prefetchu", "nanosleep", "griddepcontrol", "pmevent", "discard", "applypriority"};
    const std::string_view base = parts[0];
    if (kNothing.count(base)) return emit(base == "membar" ? "fence" : base == "prefetchu" || base == "applypriority" ? "prefetch" : std::string(base), {});
    if (kNearest.count(base)) take(parts, "rn");
    if (base == "shr" && parts.size() == 2 && parts[1].substr(0, 1) == "b") return emit("shr.u" + std::string(parts[1].substr(1)), statement_->operands);
    if ((base == "and" || base == "or" || base == "xor" || base == "not") && parts.size() == 2 && parts[1] != "pred") {
        return emit(std::string(base) + ".b" + std::to_string(type_bits(parts[1])), statement_->operands);
    }
    std::vector<Operand> operands = statement_->operands;
    emit(join(parts), operands);
}

}  // namespace kw
