// Which form an instruction is: modifiers that do not matter here are dropped, spellings with one meaning made one.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <set>

#include "convert_modes.h"
#include "decode.h"
#include "parts.h"

namespace kw {
namespace {

constexpr size_t kMaxTargets = size_t{1} << 22;

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

}  // namespace

uint32_t KernelDecoder::label(std::string_view name, uint32_t scope) const {
    for (;; scope = ast_.scope_parent[scope]) {
        const auto found = labels_.find({scope, name});
        if (found != labels_.end()) return found->second;
        if (ast_.scope_parent[scope] == scope) fail("label '" + std::string(name) + "' is not defined");
    }
}

void KernelDecoder::branch(const Statement& statement) {
    const Operand& to = operand(0);
    if (to.kind != OperandKind::Symbol || statement.operands.size() != 1) unknown();
    form_only("bra", Fidelity::Exact);
    insn_.kind = Kind::Branch;
    insn_.imm = static_cast<int32_t>(label(to.name, to.scope));
}

// brx.idx{.uni} index, list
void KernelDecoder::branch_indexed(Parts parts) {
    take(parts, "uni");
    if (parts.size() != 2 || parts[1] != "idx" || statement_->operands.size() != 2 || operand(1).kind != OperandKind::Symbol) unknown();
    form_only("brx.idx", Fidelity::Exact);
    insn_.o[0] = encode('r', operand(0), 0);
    const TargetList* list = nullptr;
    for (uint32_t scope = operand(1).scope; !list; scope = ast_.scope_parent[scope]) {
        for (const TargetList& one : ast_.target_lists)
            if (one.scope == scope && one.name == operand(1).name && one.kind == TargetList::Branches) list = &one;
        if (ast_.scope_parent[scope] == scope) break;
    }
    if (!list) fail("'" + std::string(operand(1).name) + "' is not a .branchtargets list");
    insn_.kind = Kind::Jump;
    insn_.ext = static_cast<uint32_t>(kernel_->targets.size());
    insn_.imm = static_cast<int32_t>(list->targets.size());
    if (kernel_->targets.size() + list->targets.size() > kMaxTargets) fail("too many targets of indexed branches");
    for (const std::string_view name : list->targets) kernel_->targets.push_back(label(name, list->scope));
}

// The statements the linker made of calls (link.cpp).
void KernelDecoder::call(std::string_view what) {
    const auto number = [&](size_t n) { return static_cast<uint32_t>(operand(n).value); };
    is_carry_set_ = false;  // the carry flag is not preserved across calls
    if (what == "jump") {
        form_only("call", Fidelity::Exact);
        insn_.kind = Kind::Branch;
        insn_.imm = static_cast<int32_t>(number(0));
    } else if (what == "enter") {
        form_only("call", Fidelity::Exact);
        insn_.o[0] = encode('R', operand(0), 0);
        insn_.kind = Kind::Call;
        insn_.imm = static_cast<int32_t>(ast_.function_starts[number(1)]);
        return_points_[number(1)].push_back(static_cast<uint32_t>(kernel_->code.size()) + 1);
    } else if (what == "return") {
        form_only("ret", Fidelity::Exact);
        insn_.o[0] = encode('r', operand(0), 0);
        insn_.kind = Kind::Return;
        insn_.ext = number(1);  // until link_returns
    } else if (what == "copy") {
        uint64_t to = 0, from = 0;
        value_of(operand(0), true, to);
        value_of(operand(1), true, from);
        emit("call copy", {});
        insn_.o[0] = static_cast<uint32_t>(to);
        insn_.o[1] = static_cast<uint32_t>(from);
        insn_.o[2] = number(2);
        insn_.mode = kFrameAccess;
    } else {
        emit("call " + std::string(what), statement_->operands);
        kernel_->prints |= what == "vprintf";
    }
}

void KernelDecoder::link_returns() {
    std::vector<uint32_t> starts;
    for (const std::vector<uint32_t>& points : return_points_) {
        starts.push_back(static_cast<uint32_t>(kernel_->targets.size()));
        kernel_->targets.insert(kernel_->targets.end(), points.begin(), points.end());
    }
    for (Insn& insn : kernel_->code) {
        if (insn.kind != Kind::Return) continue;
        const uint32_t function = insn.ext;
        insn.ext = starts[function];
        insn.imm = static_cast<int32_t>(return_points_[function].size());
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
        {"%clock_hi", kClockHi}, {"%globaltimer_lo", kClock}, {"%globaltimer_hi", kClockHi}, {"%cluster_ctarank", kZero}, {"%cluster_ctaid.x", kZero}, {"%cluster_ctaid.y", kZero}, {"%cluster_ctaid.z", kZero},
        {"%cluster_nctaid.x", kClusterOne}, {"%cluster_nctaid.y", kClusterOne}, {"%cluster_nctaid.z", kClusterOne}, {"%cluster_nctarank", kClusterOne}};
    kernel_->reads_clock |= from.name.substr(0, 6) == "%clock" || from.name.substr(0, 12) == "%globaltimer";
    if (from.name == "%clock64" || from.name == "%globaltimer") return emit("mov.special64", {to});
    if (from.name == "%gridid" && type_bits(statement_->opcode.substr(statement_->opcode.rfind('.') + 1)) == 64) {  // one grid at a time
        Operand zero;
        zero.kind = OperandKind::Integer;
        return emit("mov.b64", {to, zero});
    }
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
    if (parts[1] == "b128") return emit("mov.b128", wide_halves());
    const int bits = type_bits(parts[1]);
    if (bits < 16) unknown();
    const std::string name = bits == 64 ? "mov.b64" : "mov.b32";
    if (from.kind == OperandKind::Special) return special(to, from);
    if (to.kind == OperandKind::Vector || from.kind == OperandKind::Vector) {
        const size_t count = std::max(to.items.size(), from.items.size());
        if (count != 2 && (count != 4 || bits == 16)) unknown();
        return emit((bits == 16 ? "mov.b16" : name) + (to.kind == OperandKind::Vector ? ".unpack" : ".pack") + std::to_string(count), flat());
    }
    emit(name, {to, from});
}

// The statement's operands with each .b128 register, and each {low, high}, as two registers of 64 bits.
std::vector<Operand> KernelDecoder::wide_halves() const {
    std::vector<Operand> out;
    for (const Operand& one : flat()) {
        out.push_back(one);
        if (one.kind != OperandKind::Register || width(one) != Width::B128) continue;
        out.back().is_half = true;
        out.push_back(one);
        out.back().reg += 1;
    }
    return out;
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
    if (parts[1] == "pack") {  // cvt.pack.sat.type.s32{.b32}
        if (!take(parts, "sat")) unknown();
        return emit(join(parts), statement_->operands);
    }
    const std::string_view from = parts.back(), to = parts[parts.size() - 2];
    parts.resize(parts.size() - 2);
    if (is_fp8_pair(to) || is_fp8_pair(from)) return convert_fp8(parts, to, from);
    int mode = 0;
    bool rounds = false, to_nearest_away = false;
    for (size_t n = 1; n < parts.size(); ++n) {
        static const std::unordered_map<std::string_view, int> kModes = {
            {"rn", kRoundNearest}, {"rz", kRoundZero}, {"rm", kRoundDown}, {"rp", kRoundUp},
            {"rni", kRoundNearest | kToInteger}, {"rzi", kRoundZero | kToInteger}, {"rmi", kRoundDown | kToInteger},
            {"rpi", kRoundUp | kToInteger}, {"ftz", kFlush}, {"sat", kSaturate}, {"relu", kRelu}, {"satfinite", kSatFinite}};
        if (parts[n] == "rna" && to == "tf32") {
            to_nearest_away = rounds = true;
            continue;
        }
        const auto found = kModes.find(parts[n]);
        if (found == kModes.end()) unknown();
        mode |= found->second;
        rounds |= parts[n][0] == 'r' && parts[n] != "relu";
    }
    if (to == "tf32" && from == "f32") {
        if (!rounds || (mode & ~(kRoundMask | kRelu | kSatFinite)) || (mode & kRoundMask) > kRoundZero) unknown();
        emit(to_nearest_away ? "cvt.rna.tf32.f32" : "cvt.tf32.f32", statement_->operands);
        insn_.mode = static_cast<uint8_t>(mode);
        return;
    }
    if (!type_bits(to) || !type_bits(from)) unknown();
    const bool to_float = to[0] == 'f' || to[0] == 'b', from_float = from[0] == 'f' || from[0] == 'b';
    const bool narrow_float = to.substr(0, 3) == "f16" || to.substr(0, 4) == "bf16";
    const bool directed = !(mode & kToInteger) && (mode & kRoundMask) != kRoundNearest;
    const bool widens = to_float && from_float && type_bits(to) > type_bits(from);
    if (to_float && directed && (widens || (to == from && !narrow_float))) unknown();
    if (narrow_float && (mode & kToInteger) && to != from) unknown();
    if ((mode & kSatFinite) && !(narrow_float && from == "f32")) unknown();
    if (to == from && from_float && !rounds && narrow_float && !(mode & kSaturate)) unknown();
    if (widens && to == "f32" && mode) {  // .sat and .ftz
        emit("cvt.mode.f32." + std::string(from), statement_->operands);
        insn_.mode = static_cast<uint8_t>(mode);
        return;
    }
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
        static const std::unordered_map<std::string_view, uint32_t> kTrue = {
            {"f32", 0x3f800000u}, {"u32", 0xffffffffu}, {"s32", 0xffffffffu}, {"u16", 0xffffu}, {"s16", 0xffffu},
            {"f16", 0x3c00u}, {"bf16", 0x3f80u}, {"f16x2", 0x3c003c00u}, {"bf16x2", 0x3f803f80u}};
        const auto found = kTrue.find(parts[parts.size() - 2]);
        if (found == kTrue.end()) unknown();
        const bool pair = found->first.find("x2") != std::string_view::npos;
        if (pair && parts.back().find("x2") == std::string_view::npos) unknown();
        yes = found->second;
        parts.erase(parts.end() - 2);
    }
    if (parts[0] == "set" && parts.back() == "bf16x2" && take(parts, "ftz")) unknown();
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

// A .param that is not a kernel's lies in local memory, as does what its address is taken of in a function.
std::string_view KernelDecoder::param_or_local(std::string_view space) const {
    if (space != "param") return space;
    for (const Operand& operand : statement_->operands) {
        if (operand.kind != OperandKind::Address) continue;
        if (operand.has_base) return kernel_->code.size() < ast_.entry ? "local" : "param";
        const Symbol* symbol = operand.name.empty() ? nullptr : find_symbol(operand.name, operand.scope);
        if (symbol && symbol->space == Space::Local) return "local";
    }
    return space;
}

void KernelDecoder::load_store(Parts parts) {
    const bool strong = is_strong(parts), policy = drop_hints(parts);
    const std::string space(param_or_local(take_space(parts)));
    int count = take(parts, "v2") ? 2 : take(parts, "v4") ? 4 : take(parts, "v8") ? 8 : 1;
    if (parts.size() != 2) unknown();
    const bool load = parts[0] != "st";
    const std::string_view type = parts[1];
    std::vector<Operand> operands;
    int bits = type_bits(type);
    if (type == "b128" && count == 1) {  // two registers of 64 bits
        operands = wide_halves();
        bits = 64, count = 2;
    } else {
        operands = flat();
    }
    if (bits == 0 || (count == 8 && bits != 32)) unknown();
    if (bits * count > 128) fail(text() + " accesses 32 bytes, which needs sm_100");
    const std::string vector = count == 1 ? "" : ".v" + std::to_string(count);
    const bool is_signed = load && type[0] == 's' && bits < 64;
    if (policy && !operands.empty()) operands.pop_back();
    emit(std::string(load ? "ld." : "st.") + space + vector + (is_signed ? ".s" : ".u") + std::to_string(bits), operands);
    if (strong) insn_.mode = kStrongAccess;
    if (space == "local") insn_.mode |= kFrameAccess;
    if (strong && (space == "global" || space == "generic")) kernel_->may_wait = true;
}

void KernelDecoder::atomic(Parts parts) {
    const bool policy = drop_hints(parts);
    take(parts, "noftz");
    const std::string_view space = take_space(parts);
    if (parts.size() != 3 || (space != "global" && space != "shared" && space != "generic")) unknown();
    const int bits = type_bits(parts[2]);
    if ((parts[1] == "exch" || parts[1] == "cas") && bits) parts[2] = bits == 64 ? "b64" : bits == 16 && parts[1] == "cas" ? "b16" : bits == 32 ? "b32" : parts[2];
    std::vector<Operand> operands = statement_->operands;
    if (policy && operands.size() > 2) operands.pop_back();
    emit(join(parts), operands);
    if (parts[0] == "atom" && operands.size() == 3) {
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
    if (space != "shared") kernel_->may_wait = true;
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
    if (operands.size() < 3 || operands.size() > 4 || operands[2].kind != OperandKind::Integer) fail(text() + " takes 2 addresses, a size, and at most a source size or an ignore-src predicate");
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
    insn_.o[2] = kNoOperand;
    if (operands.size() == 4) {
        const bool ignores = operands[3].negated || (operands[3].kind == OperandKind::Register && width(operands[3]) == Width::Pred);
        if (ignores) insn_.mode = kIgnoreSource;
        insn_.o[2] = encode(ignores ? 'p' : 'r', operands[3], 2);
    }
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
    } else if (base == "match" && parts[1] == "all" && operand(0).kind != OperandKind::Pair) {
        operands.insert(operands.begin() + 1, Operand{});
    } else if (base == "elect" && operand(0).kind != OperandKind::Pair) {
        unknown();
    }
    emit(join(parts), operands);
    insn_.converged = true;
}

void KernelDecoder::arithmetic(Parts parts) {
    static const std::set<std::string_view> kNearest = {"add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt"};
    static const std::set<std::string_view> kNothing = {"membar", "prefetch", "prefetchu", "nanosleep", "pmevent", "discard", "applypriority"};
    const std::string_view base = parts[0];  // of the text, not of `parts`
    if (kNothing.count(base)) return emit(base == "membar" ? "fence" : base == "prefetchu" || base == "applypriority" ? "prefetch" : std::string(base), {});
    if (base == "isspacep") {  // constants lie in global memory here, but not for isspacep.const
        if (parts.size() != 2) unknown();
        if (parts[1] == "shared::cta" || parts[1] == "shared::cluster") parts[1] = "shared";
        if (parts[1] == "param::entry") parts[1] = "param";
        return emit(join(parts), statement_->operands);
    }
    if (kNearest.count(base)) take(parts, "rn");
    if (base == "shr" && parts.size() == 2 && parts[1].substr(0, 1) == "b") return emit("shr.u" + std::string(parts[1].substr(1)), statement_->operands);
    if ((base == "and" || base == "or" || base == "xor" || base == "not") && parts.size() == 2 && parts[1] != "pred") {
        return emit(std::string(base) + ".b" + std::to_string(type_bits(parts[1])), statement_->operands);
    }
    const bool reads = base == "addc" || base == "subc" || base == "madc", sets = take(parts, "cc");
    if (reads || sets) return extended(std::move(parts), reads, sets);
    if (base == "lop3" && operand(0).kind == OperandKind::Pair) return emit(join(parts), flat());
    if (base == "lop3" && parts.size() == 3) {  // without a predicate result
        std::vector<Operand> operands = statement_->operands;
        if (!operands.empty()) operands.insert(operands.begin() + 1, Operand{});
        return emit(join(parts), operands);
    }
    if ((base == "min" || base == "max") && take(parts, "xorsign")) {
        if (!take(parts, "abs")) unknown();
        parts.insert(parts.begin() + 1, "xorsign");
    }
    if ((base == "min" || base == "max") && take(parts, "relu")) parts.insert(parts.begin() + 1, "relu");
    const bool is_half = parts.back().substr(0, 3) == "f16" || parts.back().substr(0, 4) == "bf16";
    if (is_half && take(parts, "ftz")) parts.insert(parts.end() - 1, "ftz");
    emit(join(parts), statement_->operands);
}

// add.cc, addc{.cc}, sub.cc, subc{.cc}, mad{.lo,.hi}.cc and madc{.lo,.hi}{.cc}
void KernelDecoder::extended(Parts parts, bool reads, bool sets) {
    if (reads) parts[0].remove_suffix(1);
    if (reads && !is_carry_set_) fail(text() + " reads a carry that no instruction before it sets");
    emit("extended." + join(parts), statement_->operands);
    if (carry_ == 0) carry_ = kernel_->num_predicates++;
    is_carry_set_ |= sets;
    insn_.ext = carry_;
    insn_.mode = static_cast<uint8_t>((reads ? kReadsCarry : 0) | (sets ? kSetsCarry : 0));
}

}  // namespace kw
