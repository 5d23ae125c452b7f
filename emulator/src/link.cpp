// Calls of functions: a kernel and all functions it can reach become one list of statements (PTX ISA, "Control Flow
// Instructions", "Function Calls").
//
// Callees come before their callers and the kernel comes last, so that the lanes inside a function have the lower pc and
// run until they are back where their warp waits. A function's registers and local memory exist once: recursion is
// refused. A call copies its arguments, notes where each lane returns to in a register of the function, and jumps. What
// the text cannot spell has a blank in its opcode: "call enter", "call return", "call jump", "call copy" and the like.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>

#include "ast.h"
#include "base.h"

namespace kw {
namespace {

constexpr size_t kMaxDepth = 256;
constexpr size_t kMaxRegisters = size_t{1} << 20;

std::string quoted(std::string_view text) { return "'" + std::string(text.substr(0, 80)) + "'"; }
bool is_call(const Statement& s) { return s.opcode == "call" || s.opcode == "call.uni"; }

uint32_t register_bytes(Width width) {
    switch (width) {
        case Width::B8: return 1;
        case Width::B16: return 2;
        case Width::B32: return 4;
        case Width::B64: return 8;
        case Width::B128: return 16;
        default: return 0;
    }
}

Operand integer(uint64_t value) {
    Operand out;
    out.kind = OperandKind::Integer;
    out.value = static_cast<int64_t>(value);
    return out;
}
Operand register_operand(uint32_t reg) {
    Operand out;
    out.kind = OperandKind::Register;
    out.reg = reg;
    return out;
}

// What a call hands over or gets back: a register or constant, or a .param variable.
struct Value {
    bool is_variable = false, is_sink = false;
    Operand operand;  // else
    std::string_view name;
    uint32_t scope = 0;   // in the linked kernel
    uint64_t bytes = 0;   // 0: of a constant, which takes any size
    bool is_predicate = false;
};

struct Part {
    const KernelAst* ast;
    std::map<std::pair<uint32_t, std::string_view>, uint32_t> variables;
    uint32_t register_base = 0, scope_base = 0, first_variable = 0, start = 0, return_register = 0;
    std::vector<size_t> callees;
    uint64_t frame = 0, frame_bytes = 0, frame_alignment = 16;
};

class Linker {
   public:
    Linker(const ModuleAst& module, const KernelAst& kernel, size_t& budget) : module_(module), kernel_(kernel), budget_(budget) {}

    KernelAst run() {
        part_of_.assign(module_.functions.size(), kUnseen);
        collect(kernel_, 0);
        out_.name = kernel_.name;
        out_.line = kernel_.line;
        out_.params = kernel_.params;
        std::copy(kernel_.maxntid, kernel_.maxntid + 3, out_.maxntid);
        std::copy(kernel_.reqntid, kernel_.reqntid + 3, out_.reqntid);
        for (Part& part : parts_) declare(part);
        for (Part& part : parts_) emit(part);
        for (const Part& part : parts_) out_.function_starts.push_back(part.start);
        out_.entry = parts_.back().start;
        out_.root_scope = parts_.back().scope_base;
        place_frames();
        return std::move(out_);
    }

   private:
    static constexpr size_t kUnseen = ~size_t{0}, kOpen = kUnseen - 1;

    void spend(size_t count, int line) {
        if (count > budget_) throw LoadError(line, "the kernels of this module and the functions they call need too many instructions");
        budget_ -= count;
    }

    // Callees before callers.
    void collect(const KernelAst& ast, size_t depth) {
        spend(ast.statements.size(), ast.line);
        Part part;
        part.ast = &ast;
        for (const Statement& statement : ast.statements) {
            if (!is_call(statement)) continue;
            for (const uint32_t callee : targets(ast, statement)) {
                const KernelAst& function = module_.functions[callee];
                if (!function.has_body) continue;
                if (part_of_[callee] == kOpen)
                    throw LoadError(statement.line, "call of " + quoted(function.name) + " is recursive; recursion is not supported, for functions have one frame each");
                if (part_of_[callee] == kUnseen) {
                    if (depth >= kMaxDepth) throw LoadError(statement.line, "calls are nested too deeply");
                    part_of_[callee] = kOpen;
                    collect(function, depth + 1);
                    part_of_[callee] = parts_.size() - 1;
                }
                part.callees.push_back(part_of_[callee]);
            }
        }
        for (uint32_t v = 0; v < ast.variables.size(); ++v)
            if (!part.variables.emplace(std::make_pair(ast.variables[v].scope, ast.variables[v].name), v).second)
                throw LoadError(ast.variables[v].line, "variable " + quoted(ast.variables[v].name) + " is declared twice");
        parts_.push_back(std::move(part));
    }

    // {(results),} function {, (arguments)} {, list}
    struct Call {
        const Operand* target = nullptr;
        std::vector<Operand> results, arguments;
        std::string_view list;
        uint32_t list_scope = 0;
    };
    static Call read(const Statement& statement) {
        Call call;
        size_t at = 0;
        const std::vector<Operand>& o = statement.operands;
        if (at < o.size() && o[at].kind == OperandKind::List) call.results = o[at++].items;
        if (at < o.size() && (o[at].kind == OperandKind::Symbol || o[at].kind == OperandKind::Register)) call.target = &o[at++];
        if (!call.target || call.target->value || call.results.size() > 1) throw LoadError(statement.line, "malformed call");
        if (at < o.size() && o[at].kind == OperandKind::List) call.arguments = o[at++].items;
        if (at < o.size() && o[at].kind == OperandKind::Symbol) call.list = o[at].name, call.list_scope = o[at].scope, ++at;
        if (at != o.size()) throw LoadError(statement.line, "malformed call");
        return call;
    }

    // The functions a call may reach, by number.
    std::vector<uint32_t> targets(const KernelAst& ast, const Statement& statement) {
        const Call call = read(statement);
        if (call.target->kind == OperandKind::Symbol) return {find(call.target->name, statement.line, true)};
        const TargetList* list = nullptr;
        for (uint32_t scope = call.list_scope; !list; scope = ast.scope_parent[scope]) {
            for (const TargetList& one : ast.target_lists)
                if (one.scope == scope && one.name == call.list) list = &one;
            if (ast.scope_parent[scope] == scope) break;
        }
        if (!list || list->kind == TargetList::Branches) throw LoadError(statement.line, "call through a register without a .callprototype or .calltargets");
        std::vector<uint32_t> out;
        if (list->kind == TargetList::Calls) {
            for (const std::string_view name : list->targets) out.push_back(find(name, list->line, false));
        } else {
            const std::vector<uint64_t> results = sizes(ast, call.results), arguments = sizes(ast, call.arguments);
            spend(with_address(statement.line).size(), statement.line);
            for (const uint32_t number : with_address_) {
                const KernelAst& function = module_.functions[number];
                if (fits(results, function, function.results) && fits(arguments, function, function.formals)) out.push_back(number);
            }
        }
        std::sort(out.begin(), out.end());
        out.erase(std::unique(out.begin(), out.end()), out.end());
        spend(out.size() * (8 + call.arguments.size()), statement.line);
        return out;
    }
    uint32_t find(std::string_view name, int line, bool builtins) const {
        const auto found = module_.function_index.find(name);
        const bool has_body = found != module_.function_index.end() && module_.functions[found->second].has_body;
        const bool builtin = builtins && found != module_.function_index.end() && (name == "vprintf" || name == "__assertfail");
        if (!has_body && !builtin)
            throw LoadError(line, "call of " + quoted(name) + ", a function that has no body in this module and is not one the emulator provides (vprintf, __assertfail)");
        return found->second;
    }
    // Functions whose address is taken somewhere in the module.
    const std::vector<uint32_t>& with_address(int line) {
        if (addresses_known_) return with_address_;
        addresses_known_ = true;
        const auto note = [&](std::string_view name) {
            const auto found = module_.function_index.find(name);
            if (found != module_.function_index.end() && module_.functions[found->second].has_body) with_address_.push_back(found->second);
        };
        for (const Variable& variable : module_.variables)
            for (const Relocation& one : variable.relocations) note(one.symbol);
        const auto scan = [&](const KernelAst& ast) {
            spend(ast.statements.size(), line);
            for (const Statement& statement : ast.statements)
                if (!is_call(statement))
                    for (const Operand& operand : statement.operands)
                        if (operand.kind == OperandKind::Symbol) note(operand.name);
        };
        for (const KernelAst& ast : module_.kernels) scan(ast);
        for (const KernelAst& ast : module_.functions) scan(ast);
        std::sort(with_address_.begin(), with_address_.end());
        with_address_.erase(std::unique(with_address_.begin(), with_address_.end()), with_address_.end());
        return with_address_;
    }
    // Bytes of each value a call hands over or gets back; 0 where any size will do.
    static std::vector<uint64_t> sizes(const KernelAst& caller, const std::vector<Operand>& given) {
        std::vector<uint64_t> out;
        for (const Operand& one : given) {
            uint64_t bytes = 0;
            if (one.kind == OperandKind::Register) bytes = register_bytes(caller.registers[one.reg].width);
            for (uint32_t scope = one.scope; one.kind == OperandKind::Symbol && !bytes; scope = caller.scope_parent[scope]) {
                for (const Variable& v : caller.variables)
                    if (v.scope == scope && v.name == one.name) bytes = v.bytes;
                if (caller.scope_parent[scope] == scope) break;
            }
            out.push_back(bytes);
        }
        return out;
    }
    static bool fits(const std::vector<uint64_t>& given, const KernelAst& function, const std::vector<Formal>& formals) {
        if (given.size() != formals.size()) return false;
        for (size_t n = 0; n < given.size(); ++n) {
            const uint64_t want = formals[n].is_register ? register_bytes(function.registers[formals[n].reg].width) : function.variables[formals[n].variable].bytes;
            if (given[n] && given[n] != want) return false;
        }
        return true;
    }

    void declare(Part& part) {
        const KernelAst& ast = *part.ast;
        part.register_base = static_cast<uint32_t>(out_.registers.size());
        part.scope_base = static_cast<uint32_t>(out_.scope_parent.size());
        part.first_variable = static_cast<uint32_t>(out_.variables.size());
        out_.registers.insert(out_.registers.end(), ast.registers.begin(), ast.registers.end());
        for (const RegisterNames& names : ast.register_names) out_.register_names.push_back({names.first + part.register_base, names.range, names.name});
        if (ast.is_function) part.return_register = new_register(Width::B32);
        if (out_.registers.size() > kMaxRegisters) throw LoadError(ast.line, "too many registers");
        for (const uint32_t parent : ast.scope_parent) out_.scope_parent.push_back(parent + part.scope_base);
        for (const TargetList& list : ast.target_lists) {
            out_.target_lists.push_back(list);
            out_.target_lists.back().scope += part.scope_base;
        }
        for (const Variable& variable : ast.variables) {
            out_.variables.push_back(variable);
            Variable& copy = out_.variables.back();
            copy.scope += part.scope_base;
            if (copy.space != Space::Local) continue;
            part.frame_bytes = align_up(part.frame_bytes, copy.alignment);
            copy.address = part.frame_bytes;
            part.frame_alignment = std::max<uint64_t>(part.frame_alignment, copy.alignment);
            part.frame_bytes += copy.bytes;
        }
        part.frame_bytes = align_up(part.frame_bytes, 16);
    }
    uint32_t new_register(Width width) {
        out_.registers.push_back({width});
        out_.register_names.push_back({static_cast<uint32_t>(out_.registers.size() - 1), false, "a register of the call"});
        return static_cast<uint32_t>(out_.registers.size() - 1);
    }

    // A function's frame lies above those of all its callers.
    void place_frames() {
        for (size_t p = parts_.size(); p-- > 0;) {
            Part& part = parts_[p];
            part.frame = align_up(part.frame, part.frame_alignment);
            for (const size_t callee : part.callees) parts_[callee].frame = std::max(parts_[callee].frame, part.frame + part.frame_bytes);
        }
        for (const Part& part : parts_) {
            for (size_t v = 0; v < part.ast->variables.size(); ++v) {
                Variable& variable = out_.variables[part.first_variable + v];
                if (variable.space != Space::Local) continue;
                variable.address += part.frame;
                variable.is_placed = true;
            }
        }
    }

    Operand moved(const Part& part, const Operand& from) const {
        Operand out = from;
        if (out.kind == OperandKind::Register || (out.kind == OperandKind::Address && out.has_base)) out.reg += part.register_base;
        out.scope += part.scope_base;
        for (Operand& item : out.items) item = moved(part, item);
        return out;
    }

    void emit(Part& part) {
        const KernelAst& ast = *part.ast;
        part.start = size();
        std::vector<uint32_t> at(ast.statements.size() + 1);
        for (size_t n = 0; n < ast.statements.size(); ++n) {
            const Statement& from = ast.statements[n];
            at[n] = size();
            if (is_call(from)) {
                call(part, from);
                continue;
            }
            Statement to = from;
            if (to.guard >= 0) to.guard += static_cast<int>(part.register_base);
            for (Operand& operand : to.operands) operand = moved(part, operand);
            if (ast.is_function && (to.opcode == "ret" || to.opcode == "ret.uni")) {
                if (!to.operands.empty()) throw LoadError(to.line, "'ret' takes no operands");
                leave(part, to);
            }
            out_.statements.push_back(std::move(to));
        }
        at[ast.statements.size()] = size();
        if (ast.is_function) {  // falling off the end returns
            Statement last;
            last.line = ast.end_line;
            leave(part, last);
            out_.statements.push_back(std::move(last));
        }
        for (const Label& label : ast.labels) out_.labels.push_back({label.name, label.scope + part.scope_base, at[label.target]});
    }
    void leave(const Part& part, Statement& statement) const {
        statement.opcode = "call return";
        statement.operands = {register_operand(part.return_register), integer(static_cast<uint64_t>(&part - parts_.data()))};
    }
    uint32_t size() const { return static_cast<uint32_t>(out_.statements.size()); }

    // Adds a statement that stands for a part of `call`; returns its index.
    uint32_t add(const Statement& call, std::string_view opcode, std::vector<Operand> operands) {
        Statement out;
        out.opcode = opcode;
        out.operands = std::move(operands);
        out.line = call.line;
        out.cuda_file = call.cuda_file;
        out.cuda_line = call.cuda_line;
        out.inner_file = call.inner_file;
        out.inner_line = call.inner_line;
        out.text_begin = call.text_begin;
        out.text_end = call.text_end;
        out_.statements.push_back(std::move(out));
        return size() - 1;
    }
    void land(uint32_t jump) { out_.statements[jump].operands[0].value = size(); }

    void call(const Part& part, const Statement& statement) {
        const Call c = read(statement);
        uint32_t past = 0;
        if (statement.guard >= 0) {
            past = add(statement, "call jump", {integer(0)});
            out_.statements[past].guard = statement.guard + static_cast<int>(part.register_base);
            out_.statements[past].guard_negated = !statement.guard_negated;
        }
        std::vector<Value> results, arguments;
        for (const Operand& one : c.results) results.push_back(actual(part, statement, one));
        for (const Operand& one : c.arguments) arguments.push_back(actual(part, statement, one));
        if (c.target->kind == OperandKind::Symbol) {
            enter(statement, find(c.target->name, statement.line, true), results, arguments);
        } else {
            const Operand target = moved(part, *c.target);
            if (out_.registers[target.reg].width != Width::B64) throw LoadError(statement.line, "call through a register that is not of 64 bits");
            const uint32_t matches = new_register(Width::Pred);
            const std::vector<uint32_t> candidates = targets(*part.ast, statement);
            std::vector<uint32_t> to, from;
            for (const uint32_t number : candidates) {
                add(statement, "setp.eq.u64", {register_operand(matches), target, integer(function_address(number))});
                to.push_back(add(statement, "call jump", {integer(0)}));
                out_.statements.back().guard = static_cast<int>(matches);
            }
            add(statement, "call nowhere", {target});
            for (size_t n = 0; n < candidates.size(); ++n) {
                land(to[n]);
                enter(statement, candidates[n], results, arguments);
                from.push_back(add(statement, "call jump", {integer(0)}));
            }
            for (const uint32_t jump : from) land(jump);
        }
        if (statement.guard >= 0) land(past);
    }

    void enter(const Statement& statement, uint32_t number, const std::vector<Value>& results, const std::vector<Value>& arguments) {
        const KernelAst& function = module_.functions[number];
        if (!function.has_body) return builtin(statement, function.name, results, arguments);
        if (results.size() != function.results.size() || arguments.size() != function.formals.size())
            throw LoadError(statement.line, "call of " + quoted(function.name) + " with " + std::to_string(arguments.size()) + " arguments and " + std::to_string(results.size()) +
                                                " results; it has " + std::to_string(function.formals.size()) + " and " + std::to_string(function.results.size()));
        const Part& callee = parts_[part_of_[number]];
        for (size_t n = 0; n < arguments.size(); ++n) copy(statement, formal(callee, function.formals[n]), arguments[n]);
        add(statement, "call enter", {register_operand(callee.return_register), integer(part_of_[number])});
        for (size_t n = 0; n < results.size(); ++n) copy(statement, results[n], formal(callee, function.results[n]));
    }

    void builtin(const Statement& statement, std::string_view name, const std::vector<Value>& results, const std::vector<Value>& arguments) {
        const bool prints = name == "vprintf";
        static const uint64_t kPrint[] = {8, 8}, kAssert[] = {8, 8, 4, 8, 8};
        const uint64_t* bytes = prints ? kPrint : kAssert;
        if (arguments.size() != (prints ? 2u : 5u) || results.size() > (prints ? 1u : 0u)) throw LoadError(statement.line, "call of " + quoted(name) + " with the wrong number of arguments");
        std::vector<Operand> operands;
        const Operand result = register_operand(new_register(Width::B32));
        if (prints) operands.push_back(result);
        for (size_t n = 0; n < arguments.size(); ++n) {
            Value temporary;
            temporary.bytes = bytes[n];
            temporary.operand = register_operand(new_register(bytes[n] == 8 ? Width::B64 : Width::B32));
            copy(statement, temporary, arguments[n]);
            operands.push_back(temporary.operand);
        }
        add(statement, prints ? "call vprintf" : "call assertfail", operands);
        if (results.empty()) return;
        Value from;
        from.bytes = 4;
        from.operand = result;
        copy(statement, results[0], from);
    }

    Value actual(const Part& part, const Statement& statement, const Operand& operand) const {
        Value out;
        out.operand = moved(part, operand);
        switch (operand.kind) {
            case OperandKind::Sink: out.is_sink = true; return out;
            case OperandKind::Register:
                out.bytes = register_bytes(part.ast->registers[operand.reg].width);
                out.is_predicate = part.ast->registers[operand.reg].width == Width::Pred;
                return out;
            case OperandKind::Integer: case OperandKind::Float32: case OperandKind::Float64: return out;
            case OperandKind::Symbol:
                for (uint32_t scope = operand.scope;; scope = part.ast->scope_parent[scope]) {
                    const auto found = part.variables.find({scope, operand.name});
                    if (found != part.variables.end() && part.ast->variables[found->second].space == Space::Local) {
                        out.is_variable = true;
                        out.name = operand.name;
                        out.scope = scope + part.scope_base;
                        out.bytes = part.ast->variables[found->second].bytes;
                        return out;
                    }
                    if (part.ast->scope_parent[scope] == scope) break;
                }
                throw LoadError(statement.line, "argument " + quoted(operand.name) + " of a call is not declared");
            default: throw LoadError(statement.line, "malformed argument of a call");
        }
    }
    Value formal(const Part& callee, const Formal& formal) const {
        Value out;
        if (formal.is_register) {
            const Width width = callee.ast->registers[formal.reg].width;
            out.operand = register_operand(formal.reg + callee.register_base);
            out.bytes = register_bytes(width);
            out.is_predicate = width == Width::Pred;
            return out;
        }
        const Variable& variable = callee.ast->variables[formal.variable];
        out.is_variable = true;
        out.name = variable.name;
        out.scope = variable.scope + callee.scope_base;
        out.bytes = variable.bytes;
        return out;
    }
    static Operand symbol(const Value& value, OperandKind kind) {
        Operand out;
        out.kind = kind;
        out.name = value.name;
        out.scope = value.scope;
        return out;
    }

    void copy(const Statement& statement, const Value& to, const Value& from) {
        if (to.is_sink || from.is_sink) {
            if (from.is_sink) throw LoadError(statement.line, "'_' is not an argument");
            return;
        }
        const uint64_t bytes = to.bytes ? to.bytes : from.bytes;
        if ((from.bytes && from.bytes != bytes) || to.is_predicate != (from.is_predicate || (to.is_predicate && from.bytes == 0 && !from.is_variable)))
            throw LoadError(statement.line, "a call hands over " + std::to_string(from.bytes) + " bytes where " + std::to_string(to.bytes) + " are declared");
        if (to.is_variable && from.is_variable) {
            add(statement, "call copy", {symbol(to, OperandKind::Symbol), symbol(from, OperandKind::Symbol), integer(bytes)});
            return;
        }
        if (to.is_predicate) {
            add(statement, "mov.pred", {to.operand, from.operand});
            return;
        }
        static const std::string_view kStore[] = {"st.param.b8", "st.param.b16", "st.param.b32", "st.param.b64", "st.param.b128"};
        static const std::string_view kLoad[] = {"ld.param.b8", "ld.param.b16", "ld.param.b32", "ld.param.b64", "ld.param.b128"};
        static const std::string_view kMove[] = {"mov.b32", "mov.b32", "mov.b32", "mov.b64", "mov.b128"};
        int size = 0;
        while (size < 5 && (uint64_t{1} << size) != bytes) ++size;
        if (size == 5) throw LoadError(statement.line, "a call hands over " + std::to_string(bytes) + " bytes in a register");
        if (to.is_variable) add(statement, kStore[size], {symbol(to, OperandKind::Address), from.operand});
        else if (from.is_variable) add(statement, kLoad[size], {to.operand, symbol(from, OperandKind::Address)});
        else add(statement, kMove[size], {to.operand, from.operand});
    }

    const ModuleAst& module_;
    const KernelAst& kernel_;
    size_t& budget_;
    KernelAst out_;
    std::vector<Part> parts_;       // callees before callers, the kernel last
    std::vector<size_t> part_of_;   // by function: its part
    bool addresses_known_ = false;
    std::vector<uint32_t> with_address_;
};

}  // namespace

KernelAst link_kernel(const ModuleAst& module, const KernelAst& kernel, size_t& budget) { return Linker(module, kernel, budget).run(); }

}  // namespace kw
