// From the syntax tree to what the interpreter runs: variables, labels, operands.
// SPDX-License-Identifier: Apache-2.0
#include "decode.h"
#include "wgmma_state.h"

#include <algorithm>

namespace kw {
namespace {

constexpr uint32_t kModuleScope = 0xffffffffu;  // shared variables of the module that a kernel names

const std::unordered_map<std::string_view, const Form*>& form_map() {
    static const std::unordered_map<std::string_view, const Form*> kMap = [] {
        std::unordered_map<std::string_view, const Form*> map;
        const Variant& v = variant();
        for (size_t t = 0; t < v.num_tables; ++t)
            for (size_t f = 0; f < v.tables[t].count; ++f) map.emplace(v.tables[t].forms[f].name, &v.tables[t].forms[f]);
        return map;
    }();
    return kMap;
}

}  // namespace

std::string KernelDecoder::text() const {
    std::string out(statement_->opcode.substr(0, 5) == "call " ? "call" : statement_->opcode);
    return "'" + out + "'";
}

void KernelDecoder::fail(const std::string& what) const { throw LoadError(statement_ ? statement_->line : ast_.line, what); }

void KernelDecoder::unknown() const { fail("instruction " + text() + " is not one the emulator knows"); }

void KernelDecoder::need_target(int sm) const {
    if (into_.target_sm < sm) fail(text() + " needs .target sm_" + std::to_string(sm) + " or later, the module is for sm_" + std::to_string(into_.target_sm));
}

void KernelDecoder::need_specific(int sm) const {
    if (into_.target_sm != sm || !into_.target_specific)
        fail(text() + " needs .target sm_" + std::to_string(sm) + "a, the module is for sm_" + std::to_string(into_.target_sm) + (into_.target_specific ? "a" : ""));
}

void KernelDecoder::place_variables() {
    Kernel& k = *kernel_;
    uint32_t at = 0;
    for (const Variable& param : ast_.params) {
        at = static_cast<uint32_t>(align_up(at, param.alignment));
        k.params.push_back({at, static_cast<uint32_t>(param.bytes)});
        local_symbols_[{ast_.root_scope, param.name}] = {Space::Param, at};
        at += static_cast<uint32_t>(param.bytes);
        if (at > 32764) fail("the parameters need more than 32,764 bytes");
    }
    k.param_bytes = at;

    // Shared variables of the module belong to the kernels that name them.
    std::map<std::string_view, bool> named;
    const auto note = [&](const Operand& operand, const auto& self) -> void {
        if (!operand.name.empty()) named[operand.name] = true;
        for (const Operand& item : operand.items) self(item, self);
    };
    for (const Statement& statement : ast_.statements)
        for (const Operand& operand : statement.operands) note(operand, note);
    uint64_t shared = 0, local = 0;
    std::vector<std::pair<const Variable*, uint64_t*>> dynamic;  // and where its address goes
    const auto place = [&](const Variable& variable, uint64_t& address) {  // the map's nodes stay where they are
        if (variable.space == Space::Local && variable.is_placed) {
            address = variable.address;
            local = std::max(local, address + variable.bytes);
        } else if (variable.space == Space::Local) {
            address = local = align_up(local, variable.alignment);
            local += variable.bytes;
        } else if (variable.space == Space::Shared && variable.dynamic) {
            dynamic.emplace_back(&variable, &address);
        } else if (variable.space == Space::Shared) {
            address = shared = align_up(shared, variable.alignment);
            shared += variable.bytes;
        } else {
            throw LoadError(variable.line, "variables of this state space must be declared outside of kernels");
        }
    };
    for (const Variable& variable : module_.variables)
        if (variable.space == Space::Shared && named.count(variable.name)) place(variable, local_symbols_.emplace(std::make_pair(kModuleScope, variable.name), Symbol{Space::Shared, 0}).first->second.address);
    for (const Variable& variable : ast_.variables) {
        const auto entry = local_symbols_.emplace(std::make_pair(variable.scope, variable.name), Symbol{variable.space, 0});
        if (!entry.second) throw LoadError(variable.line, "variable '" + std::string(variable.name) + "' is declared twice");
        place(variable, entry.first->second.address);
    }
    if (shared > (1u << 24) || local > (1u << 20)) fail("the kernel's variables need too much memory");
    uint32_t alignment = 16;
    for (const auto& one : dynamic) alignment = std::max(alignment, one.first->alignment);
    k.static_shared = static_cast<uint32_t>(shared);
    k.dynamic_shared_at = static_cast<uint32_t>(align_up(shared, dynamic.empty() ? 1 : alignment));
    for (const auto& one : dynamic) *one.second = k.dynamic_shared_at;
    k.local_bytes = static_cast<uint32_t>(align_up(local, 16));
}

void KernelDecoder::place_labels() {
    for (const Label& label : ast_.labels)
        if (!labels_.emplace(std::make_pair(label.scope, label.name), label.target).second) fail("label '" + std::string(label.name) + "' is defined twice");
}

std::unique_ptr<Kernel> KernelDecoder::decode() {
    kernel_ = std::make_unique<Kernel>();
    kernel_->name = std::string(ast_.name);
    kernel_->module = &into_;
    std::copy(ast_.maxntid, ast_.maxntid + 3, kernel_->maxntid);
    std::copy(ast_.reqntid, ast_.reqntid + 3, kernel_->reqntid);
    kernel_->maxnreg = ast_.maxnreg;
    place_variables();
    place_labels();
    kernel_->entry = ast_.entry;
    return_points_.resize(ast_.function_starts.size());
    sink32_ = static_cast<uint32_t>(ast_.registers.size());
    sink64_ = sink32_ + 1;
    predicate_index_.assign(ast_.registers.size(), 0);
    for (size_t r = 0; r < ast_.registers.size(); ++r)
        if (ast_.registers[r].width == Width::Pred) predicate_index_[r] = kernel_->num_predicates++;
    kernel_->code.reserve(ast_.statements.size() + 1);
    for (const Statement& statement : ast_.statements) instruction(statement);
    statement_ = nullptr;
    link_returns();
    finish();
    return std::move(kernel_);
}

void KernelDecoder::instruction(const Statement& statement) {
    statement_ = &statement;
    insn_ = Insn{};
    pending_.clear();
    if (statement.guard >= 0) {
        insn_.guard = predicate_index_[static_cast<size_t>(statement.guard)];
        insn_.guard_flip = statement.guard_negated ? kFullMask : 0;
        predicate_uses_.push_back({static_cast<uint32_t>(kernel_->code.size()), kGuardWord, false, false, static_cast<uint32_t>(statement.guard)});
    }
    SourceLine where;
    where.ptx_line = statement.line;
    where.cuda_file = statement.cuda_file;
    where.cuda_line = statement.cuda_line;
    where.inner_file = statement.inner_file;
    where.inner_line = statement.inner_line;
    where.text_begin = static_cast<uint32_t>(statement.text_begin);
    where.text_end = static_cast<uint32_t>(statement.text_end);
    kernel_->where.push_back(where);

    Parts parts;
    std::string_view rest = statement.opcode;
    for (;;) {
        const size_t dot = rest.find('.');
        parts.push_back(rest.substr(0, dot));
        if (dot == std::string_view::npos) break;
        rest = rest.substr(dot + 1);
    }
    const std::string_view base = parts[0];
    if (base == "bra") branch(statement);
    else if (base == "brx") branch_indexed(parts);
    else if (base.substr(0, 5) == "call ") call(base.substr(5));
    else if (base == "ret" || base == "exit" || base == "trap" || base == "brkpt") control(parts);
    else if (base == "bar" || base == "barrier") barrier(parts);
    else if (base == "setmaxnreg") set_registers(parts);
    else if (base == "fence") fence(parts);
    else if (base == "griddepcontrol") dependent_grids(parts);
    else if (base == "mov" || base == "createpolicy") move(parts);
    else if (base == "cvt" || base == "cvta") convert(parts);
    else if (base == "setp" || base == "set" || base == "selp" || base == "slct") compare(parts);
    else if (base == "ld" || base == "st" || base == "ldu") load_store(parts);
    else if (base == "atom" || base == "red") atomic(parts);
    else if (base == "mbarrier" || (base == "cp" && parts.size() > 2 && parts[2] == "mbarrier")) mbarrier(parts);
    else if (base == "cp" && parts.size() > 2 && (parts[1] == "reduce" || parts[2] == "bulk")) bulk(parts);
    else if (base == "cp") copy_async(parts);
    else if (base == "wgmma") wgmma(parts);
    else if (base == "tensormap") fail(text() + " is not supported: tensor maps are not changed by kernels here");
    else if (base == "wmma") wmma(parts);
    else if (base == "ldmatrix" || base == "stmatrix" || base == "movmatrix" || base == "mma") matrix(parts);
    else if (base == "shfl" || base == "vote" || base == "match" || base == "redux" || base == "elect" || base == "activemask")
        shuffle(parts);
    else arithmetic(parts);

    const uint32_t index = static_cast<uint32_t>(kernel_->code.size());
    for (RegisterUse& use : pending_) {
        use.insn = index;
        uses_.push_back(use);
    }
    kernel_->code.push_back(insn_);
}

const Form& KernelDecoder::form(const std::string& name) {
    const auto found = form_map().find(name);
    if (found == form_map().end()) unknown();
    const std::string shown(statement_->opcode.substr(0, 5) == "call " ? "call" : statement_->opcode);
    const auto known = form_index_.find(shown);
    if (known != form_index_.end()) {
        kernel_->where.back().form = known->second;
    } else {
        const uint16_t index = static_cast<uint16_t>(kernel_->forms.size());
        kernel_->forms.push_back({shown, found->second->fidelity});
        form_index_[shown] = index;
        kernel_->where.back().form = index;
    }
    return *found->second;
}

const Operand& KernelDecoder::operand(size_t index) const {
    if (index >= statement_->operands.size()) fail(text() + " has too few operands");
    return statement_->operands[index];
}

std::vector<Operand> KernelDecoder::flat() const {
    std::vector<Operand> out;
    for (const Operand& operand : statement_->operands) {
        if (operand.kind == OperandKind::Vector || operand.kind == OperandKind::Pair) out.insert(out.end(), operand.items.begin(), operand.items.end());
        else out.push_back(operand);
    }
    return out;
}

uint32_t KernelDecoder::constant(uint64_t value, bool wide) {
    if (!wide) value &= 0xffffffffu;
    const auto key = std::make_pair(wide, value);
    const auto found = constants_.find(key);
    if (found != constants_.end()) return found->second;
    const uint32_t word = constant_bytes_ | kOperandConstant | (wide ? kOperandWide : 0);
    constants_[key] = word;
    constant_values_.push_back(key);
    constant_bytes_ += wide ? 256 : 128;
    return word;
}

// Innermost scope first, then the module's names.
const Symbol* KernelDecoder::find_symbol(std::string_view name, uint32_t scope) const {
    if (scope < ast_.scope_parent.size()) {
        for (;; scope = ast_.scope_parent[scope]) {
            const auto found = local_symbols_.find({scope, name});
            if (found != local_symbols_.end()) return &found->second;
            if (ast_.scope_parent[scope] == scope) break;
        }
    }
    const auto local = local_symbols_.find({kModuleScope, name});
    if (local != local_symbols_.end()) return &local->second;
    const auto found = symbols_.find(name);
    return found == symbols_.end() ? nullptr : &found->second;
}

bool KernelDecoder::value_of(const Operand& operand, bool wide, uint64_t& value) const {
    switch (operand.kind) {
        case OperandKind::Integer: value = static_cast<uint64_t>(operand.value); return true;
        case OperandKind::Float32:
            value = wide ? bits_as<uint64_t>(static_cast<double>(bits_as<float>(static_cast<uint32_t>(operand.value)))) : static_cast<uint64_t>(operand.value);
            return true;
        case OperandKind::Float64:
            value = wide ? static_cast<uint64_t>(operand.value) : bits_as<uint32_t>(static_cast<float>(bits_as<double>(operand.value)));
            return true;
        case OperandKind::Symbol: {
            if (operand.name == "WARP_SZ") return value = kLanes, true;
            const Symbol* found = find_symbol(operand.name, operand.scope);
            if (!found) fail("undeclared name '" + std::string(operand.name) + "'");
            value = found->address + static_cast<uint64_t>(operand.value);
            return true;
        }
        default: return false;
    }
}

uint32_t KernelDecoder::encode_register(const Operand& operand, bool wide, bool either, bool defines, int word) {
    uint32_t reg = 0;
    if (operand.kind == OperandKind::Sink && defines) {
        reg = wide || either ? sink64_ : sink32_;
    } else if (operand.kind == OperandKind::Register) {
        reg = operand.reg;
        const Width w = width(operand);
        if (w == Width::Pred || (w == Width::B128 && !(operand.is_half && wide)) || (!either && (w == Width::B64 || operand.is_half) != wide)) fail("an operand of " + text() + " has the wrong type of register");
    } else if (defines) {
        fail("the destination of " + text() + " must be a register");
    } else {
        uint64_t value = 0;
        if (operand.kind == OperandKind::Special) fail("special register '" + std::string(operand.name) + "' can only be read by mov");
        if (!value_of(operand, wide, value)) fail("malformed operand of " + text());  // 64-bit stores are not `either`
        if (operand.negated) fail("'!' applies to predicates only");
        return constant(value, wide || either);
    }
    if (operand.negated) fail("'!' applies to predicates only");
    pending_.push_back({0, static_cast<uint32_t>(word), false, defines, reg});
    return 0;
}

uint32_t KernelDecoder::encode_predicate(const Operand& operand, bool defines, int word) {
    if (operand.kind == OperandKind::Sink) return kPredicateSink * 2;
    if (defines && (operand.kind != OperandKind::Register || operand.negated)) fail("the destination of " + text() + " must be a predicate register");
    if (operand.kind == OperandKind::Integer) return (operand.value != 0) != operand.negated ? kPredicateTrue * 2 : kPredicateFalse * 2;
    if (operand.kind != OperandKind::Register || width(operand) != Width::Pred) fail("an operand of " + text() + " must be a predicate");
    predicate_uses_.push_back({static_cast<uint32_t>(kernel_->code.size()), static_cast<uint32_t>(word), false, defines, operand.reg});
    return predicate_index_[operand.reg] * 2 + (operand.negated ? 1 : 0);
}

void KernelDecoder::encode_address(const Operand& operand, std::vector<uint32_t>& words) {
    if (operand.kind != OperandKind::Address) fail("an operand of " + text() + " must be an address in brackets");
    if (!operand.items.empty()) fail(text() + " with coordinates is not supported");
    if (operand.has_base) {
        if (operand.value > INT32_MAX || operand.value < INT32_MIN) fail("address offset out of range");
        Operand base;
        base.kind = OperandKind::Register;
        base.reg = operand.reg;
        words.push_back(encode_register(base, false, true, false, static_cast<int>(words.size())));
        insn_.imm = static_cast<int32_t>(operand.value);
        return;
    }
    uint64_t value = static_cast<uint64_t>(operand.value);
    if (!operand.name.empty()) {
        if (operand.name[0] == '%') fail("undeclared register '" + std::string(operand.name) + "'");
        const Symbol* found = find_symbol(operand.name, operand.scope);
        if (!found) fail("undeclared name '" + std::string(operand.name) + "'");
        value += found->address;
    }
    words.push_back(constant(value, true));
    insn_.imm = 0;
}

uint32_t KernelDecoder::encode(char letter, const Operand& operand, int word) {
    switch (letter) {
        case 'R': return encode_register(operand, false, false, true, word);
        case 'L': return encode_register(operand, true, false, true, word);
        case 'A': return encode_register(operand, false, true, true, word);
        case 'r': return encode_register(operand, false, false, false, word);
        case 'l': return encode_register(operand, true, false, false, word);
        case 'a': return encode_register(operand, false, true, false, word);
        default: return encode_predicate(operand, letter == 'P', word);
    }
}

void KernelDecoder::emit(const std::string& name, const std::vector<Operand>& operands) {
    const Form& f = form(name);
    const std::string_view signature = f.signature;
    if (operands.size() != signature.size())
        fail(text() + " takes " + std::to_string(signature.size()) + " operands here, found " + std::to_string(operands.size()));
    std::vector<uint32_t> words;
    for (size_t n = 0; n < signature.size(); ++n) {
        const char letter = signature[n];
        if (letter == 'i') {
            if (operands[n].kind != OperandKind::Integer) fail("an operand of " + text() + " must be an integer");
            insn_.imm = static_cast<int32_t>(operands[n].value);
        } else if (letter == 'm') {
            encode_address(operands[n], words);
        } else {
            words.push_back(encode(letter, operands[n], static_cast<int>(words.size())));
        }
    }
    if (words.size() <= 4) {
        std::copy(words.begin(), words.end(), insn_.o);
    } else {
        insn_.ext = static_cast<uint32_t>(kernel_->ext.size());
        kernel_->ext.insert(kernel_->ext.end(), words.begin(), words.end());
        for (RegisterUse& use : pending_) {
            use.in_ext = true;
            use.word += insn_.ext;
        }
    }
    insn_.fn = f.fn;
    insn_.count = f.count;
    insn_.kind = f.count != CountAs::Nothing && statement_->guard >= 0 ? Kind::Counted : Kind::Plain;
}

void count_runs(Kernel& k) {
    const size_t count = k.code.size();
    k.run.assign(count + 1, 0);
    k.fp32_before.assign(count + 1, 0);
    k.mufu_before.assign(count + 1, 0);
    for (size_t pc = count; pc-- > 0;) k.run[pc] = k.code[pc].kind == Kind::Plain ? k.run[pc + 1] + 1 : 0;
    for (size_t pc = 0; pc < count; ++pc) {
        const bool plain = k.code[pc].kind == Kind::Plain;
        k.fp32_before[pc + 1] = k.fp32_before[pc] + (plain && k.code[pc].count == CountAs::Fp32);
        k.mufu_before[pc + 1] = k.mufu_before[pc] + (plain && k.code[pc].count == CountAs::Mufu);
    }
}

void KernelDecoder::finish() {
    Kernel& k = *kernel_;
    Insn last;  // falling off the end returns
    last.kind = Kind::Exit;
    k.code.push_back(last);
    k.where.push_back(k.where.empty() ? SourceLine{} : k.where.back());
    if (k.forms.empty()) k.forms.push_back({"ret", Fidelity::Exact});
    const std::vector<bool> watched = wgmma_copies(k, ast_.registers.size(), uses_, wgmma_registers_);
    const std::vector<uint32_t> from_start = allocate_registers(k, ast_.registers, uses_, predicate_uses_, sink32_, sink64_, watched);
    count_runs(k);
    k.constants.resize(constant_bytes_);
    uint32_t at = 0;
    for (const auto& [wide, value] : constant_values_) {
        for (int l = 0; l < kLanes; ++l) {
            if (wide) std::memcpy(k.constants.data() + at + 8 * l, &value, 8);
            else std::memcpy(k.constants.data() + at + 4 * l, &value, 4);
        }
        at += wide ? 256 : 128;
    }
    track_undefined(k, ast_.registers, ast_.register_names, uses_, predicate_uses_, predicate_index_, from_start);
    if (!wgmma_registers_.empty()) watch_wgmma(k, watched, uses_, ast_.register_names);
}

namespace {

constexpr size_t kMaxLinked = size_t{1} << 20;  // statements of a module's kernels that call, with the functions they call

// Writes an address into a variable's initial value. Global and generic addresses are the same here.
void relocate(const Relocation& one, const std::unordered_map<std::string_view, Symbol>& symbols, char* variable) {
    const auto found = symbols.find(one.symbol);
    if (found == symbols.end())
        throw LoadError(one.line, "the initial value names '" + std::string(one.symbol) + "', which is no global or constant variable and no function with a body");
    uint64_t value = found->second.address + one.addend;
    if (one.mask) value = (value & one.mask) >> __builtin_ctzll(one.mask);
    std::memcpy(variable + one.offset, &value, std::min(one.bytes, 8u));
}

}  // namespace

std::unique_ptr<Module> load_module(std::string text) {
    auto module = std::make_unique<Module>();
    module->text = std::move(text);
    const ModuleAst ast = parse_module(module->text);
    module->target_sm = ast.target_sm;
    module->target_specific = ast.target_specific;
    module->version_major = ast.version_major;
    module->version_minor = ast.version_minor;
    module->files = ast.files;
    uint64_t bytes = 0;
    std::vector<uint64_t> offsets;
    for (const Variable& variable : ast.variables) {
        if (variable.space == Space::Shared) {
            offsets.push_back(0);
            continue;
        }
        bytes = align_up(bytes, std::max(variable.alignment, 16u));
        offsets.push_back(bytes);
        bytes += variable.bytes;
        if (bytes > (1ull << 30)) throw LoadError(0, "the module's variables need too much memory");
    }
    module->globals.resize(bytes);
    std::unordered_map<std::string_view, Symbol> symbols;
    for (size_t v = 0; v < ast.variables.size(); ++v) {
        const Variable& variable = ast.variables[v];
        if (variable.space == Space::Shared) continue;
        char* at = module->globals.data() + offsets[v];
        std::copy(variable.initial.begin(), variable.initial.end(), at);
        symbols[variable.name] = {variable.space, reinterpret_cast<uint64_t>(at)};
    }
    for (const auto& [name, index] : ast.function_index)
        if (ast.functions[index].has_body) symbols.emplace(name, Symbol{Space::Generic, function_address(index)});
    for (size_t v = 0; v < ast.variables.size(); ++v)
        for (const Relocation& one : ast.variables[v].relocations) relocate(one, symbols, module->globals.data() + offsets[v]);
    size_t budget = kMaxLinked;
    for (const KernelAst& kernel : ast.kernels) {
        for (const auto& other : module->kernels)
            if (other->name == kernel.name) throw LoadError(kernel.line, "kernel '" + other->name + "' is defined twice");
        if (!kernel.has_calls) {
            module->kernels.push_back(KernelDecoder(ast, kernel, *module, symbols).decode());
            continue;
        }
        const KernelAst linked = link_kernel(ast, kernel, budget);
        module->kernels.push_back(KernelDecoder(ast, linked, *module, symbols).decode());
    }
    return module;
}

}  // namespace kw
