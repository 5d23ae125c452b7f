// PTX text to a syntax tree: directives, declarations, statements (PTX ISA, "Syntax", "Directives").
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <map>
#include <unordered_map>

#include "ast.h"
#include "base.h"
#include "lexer.h"

namespace kw {
namespace {

constexpr uint64_t kMaxVariableBytes = 1ull << 30;
constexpr uint32_t kMaxRegisters = 1u << 20;
constexpr int kMaxNesting = 64;

std::string quoted(std::string_view text) { return "'" + std::string(text.substr(0, 80)) + "'"; }

struct ScopeNames {
    struct Range {
        uint32_t first, count, step;
    };
    std::unordered_map<std::string_view, uint32_t> single;
    std::unordered_map<std::string_view, Range> ranges;  // %r<100>
};

using Place = std::array<uint64_t, 3>;  // file, line, column of a .loc

class Parser {
   public:
    explicit Parser(std::string_view text) : lexer_(text) { advance(); }

    ModuleAst module() {
        while (token_.kind != TokenKind::End) top_level();
        if (module_.target_sm == 0) fail("no .target directive: this is not a complete PTX module");
        return std::move(module_);
    }

   private:
    [[noreturn]] void fail(const std::string& what) const { throw LoadError(token_.line, what); }

    void advance() { token_ = lexer_.next(); }
    bool accept(char c) {
        if (!token_.is(c)) return false;
        advance();
        return true;
    }
    void expect(char c, const char* where) {
        if (token_.kind == TokenKind::End) fail(std::string("the text ends inside ") + where);
        if (!token_.is(c)) fail(std::string("expected '") + c + "' in " + where + ", found " + quoted(token_.text));
        advance();
    }
    std::string_view identifier(const char* where) {
        if (token_.kind == TokenKind::End) fail(std::string("the text ends inside ") + where);
        if (token_.kind != TokenKind::Identifier) fail(std::string("expected a name in ") + where + ", found " + quoted(token_.text));
        const std::string_view name = token_.text;
        advance();
        return name;
    }
    uint64_t integer(const char* where) {
        const bool negative = accept('-');
        if (token_.kind == TokenKind::End) fail(std::string("the text ends inside ") + where);
        if (token_.kind != TokenKind::Integer) fail(std::string("expected an integer in ") + where + ", found " + quoted(token_.text));
        const uint64_t value = token_.value;
        advance();
        return negative ? 0 - value : value;
    }
    void skip_line() {
        lexer_.skip_line(token_.line);
        advance();
    }
    void skip_braces() {
        expect('{', "a block");
        for (int depth = 1; depth > 0; advance()) {
            if (token_.kind == TokenKind::End) fail("the text ends inside a block: '}' is missing");
            depth += token_.is('{') ? 1 : token_.is('}') ? -1 : 0;
            if (depth == 0) break;
        }
        advance();
    }

    void top_level() {
        if (accept(';')) return;
        const std::string_view word = identifier("a directive");
        if (word == ".version") {
            version();
        } else if (word == ".target") {
            target();
        } else if (word == ".address_size") {
            if (integer(".address_size") != 64) fail("only .address_size 64 is supported");
        } else if (word == ".file") {
            file();
        } else if (word == ".section") {
            identifier(".section");
            skip_braces();
        } else if (word == ".visible" || word == ".extern" || word == ".weak" || word == ".common") {
            is_extern_ = word == ".extern";
            return;
        } else if (word == ".entry") {
            kernel();
        } else if (word == ".func") {
            function();
        } else if (word == ".global" || word == ".const" || word == ".shared") {
            const Space space = word == ".global" ? Space::Global : word == ".const" ? Space::Const : Space::Shared;
            variables(space, module_.variables);
        } else if (word == ".pragma") {
            advance();
            expect(';', ".pragma");
        } else {
            fail("unknown directive " + quoted(word));
        }
        is_extern_ = false;
    }

    void version() {
        module_.version_major = static_cast<int>(integer(".version"));
        // "9.0" reads as integer 9 and the name ".0"
        if (token_.kind == TokenKind::Identifier && token_.text.size() > 1) {
            for (char c : token_.text.substr(1)) {
                if (c < '0' || c > '9') fail("malformed .version");
                module_.version_minor = module_.version_minor * 10 + (c - '0');
            }
            advance();
        }
    }

    void target() {
        do {
            const std::string_view name = identifier(".target");
            if (name.substr(0, 3) != "sm_") continue;
            int sm = 0;
            size_t at = 3;
            for (; at < name.size() && name[at] >= '0' && name[at] <= '9' && sm < 10000; ++at) sm = sm * 10 + (name[at] - '0');
            module_.target_sm = sm;
            module_.target_specific = at < name.size() && name[at] == 'a';
        } while (accept(','));
    }

    void file() {
        const uint64_t index = integer(".file");
        if (token_.kind != TokenKind::String) fail("expected a file name in .file");
        if (index > 100000) fail(".file index out of range");
        if (module_.files.size() <= index) module_.files.resize(index + 1);
        module_.files[index] = std::string(token_.text);
        skip_line();
    }

    static uint32_t type_bytes(std::string_view type) {
        static const std::unordered_map<std::string_view, uint32_t> kBytes = {
            {".b8", 1}, {".u8", 1}, {".s8", 1}, {".b16", 2}, {".u16", 2}, {".s16", 2}, {".f16", 2}, {".bf16", 2},
            {".b32", 4}, {".u32", 4}, {".s32", 4}, {".f32", 4}, {".f16x2", 4}, {".bf16x2", 4},
            {".b64", 8}, {".u64", 8}, {".s64", 8}, {".f64", 8}, {".b128", 16}};
        const auto found = kBytes.find(type);
        return found == kBytes.end() ? 0 : found->second;
    }

    // The part of a variable declaration after its state space: .align 8 .b8 name[64] = {...}
    Variable variable(Space space) {
        Variable out;
        out.space = space;
        out.line = token_.line;
        if (!open_.empty()) out.scope = open_.back();
        uint32_t element = 0;
        while (token_.kind == TokenKind::Identifier && token_.text[0] == '.') {
            const std::string_view word = token_.text;
            advance();
            if (word == ".align") {
                const uint64_t alignment = integer(".align");
                if (alignment == 0 || alignment > 65536 || (alignment & (alignment - 1))) fail(".align must be a power of two");
                out.alignment = static_cast<uint32_t>(alignment);
            } else if (type_bytes(word)) {
                element = type_bytes(word);
            } else if (word == ".ptr" || word == ".global" || word == ".shared" || word == ".const" || word == ".local" ||
                       word == ".attribute") {
                if (word == ".attribute") skip_parentheses();
            } else {
                fail("unknown type or attribute " + quoted(word) + " in a declaration");
            }
        }
        if (element == 0) fail("a declaration without a type");
        out.alignment = std::max(out.alignment, element);
        out.name = identifier("a declaration");
        uint64_t count = 1;
        while (accept('[')) {
            if (accept(']')) {
                out.dynamic = true;
                count = 0;
                continue;
            }
            const uint64_t extent = integer("an array extent");
            if (extent > kMaxVariableBytes || count * extent > kMaxVariableBytes) fail("array " + quoted(out.name) + " is too large");
            count *= extent;
            expect(']', "an array extent");
        }
        if (count * element > kMaxVariableBytes) fail("array " + quoted(out.name) + " is too large");
        out.bytes = count * element;
        if (token_.is('=')) {
            if (space != Space::Global && space != Space::Const) fail("variable " + quoted(out.name) + " must not have an initial value: only .global and .const ones may");
            advance();
            initialiser(out, element, 0);
            if (out.dynamic) out.bytes = out.initial.size(), out.dynamic = false;
            if (out.initial.size() > out.bytes) fail("too many values for " + quoted(out.name));
        }
        return out;
    }

    void skip_parentheses() {
        expect('(', "an attribute");
        while (!accept(')')) {
            if (token_.kind == TokenKind::End) fail("the text ends inside an attribute");
            advance();
        }
    }

    void initialiser(Variable& out, uint32_t element, int depth) {
        if (depth > kMaxNesting) fail("initialiser nested too deeply");
        if (accept('{')) {
            while (!accept('}')) {
                initialiser(out, element, depth + 1);
                if (!token_.is('}')) expect(',', "an initialiser");
            }
            return;
        }
        const bool negative = accept('-');
        if (token_.kind == TokenKind::End) fail("the text ends inside an initialiser");
        uint64_t value = token_.value;
        if (token_.kind == TokenKind::Identifier && !negative) {
            address_value(out, element, 0);
            value = 0;
        } else {
            const bool is_integer = token_.kind == TokenKind::Integer;
            if (!is_integer && token_.kind != TokenKind::Float32 && token_.kind != TokenKind::Float64)
                fail("expected a number or an address in an initialiser, found " + quoted(token_.text));
            advance();
            if (is_integer && !negative && accept('(')) {  // 0xFF00(symbol): some of the address's bits
                if (value == 0) fail("the mask of an address is 0");
                address_value(out, element, value);
                expect(')', "an initialiser");
                value = 0;
            }
        }
        if (negative) value = 0 - value;
        if (out.initial.size() > kMaxVariableBytes) fail("too many values for " + quoted(out.name));
        for (uint32_t i = 0; i < element; ++i) out.initial.push_back(i < 8 ? static_cast<uint8_t>(value >> (8 * i)) : 0);
    }

    // symbol, symbol+4, generic(symbol), generic(symbol)+4
    void address_value(Variable& out, uint32_t element, uint64_t mask) {
        Relocation address;
        address.offset = out.initial.size();
        address.bytes = element;
        address.mask = mask;
        address.line = token_.line;
        address.symbol = identifier("an initialiser");
        address.is_generic = address.symbol == "generic" && token_.is('(');
        if (address.is_generic) {
            advance();
            address.symbol = identifier("an initialiser");
            if (accept('+')) address.addend = integer("an initialiser");
            expect(')', "an initialiser");
        }
        if (accept('+')) address.addend += integer("an initialiser");
        if (mask == 0 && element != 8) fail("the address of " + quoted(address.symbol) + " needs an element of 64 bits");
        out.relocations.push_back(address);
    }

    void variables(Space space, std::vector<Variable>& into) {
        do {
            Variable one = variable(space);
            if (one.dynamic && space != Space::Shared) fail("array " + quoted(one.name) + " has no extent");
            if (is_extern_ && space != Space::Shared) fail("extern variable " + quoted(one.name) + " is not supported: it has no definition here");
            into.push_back(std::move(one));
        } while (accept(','));
        expect(';', "a declaration");
    }

    void start(KernelAst& ast) {
        ast = KernelAst{};
        ast.line = token_.line;
        names_.assign(1, ScopeNames{});
        ast.scope_parent.assign(1, 0);
        open_.assign(1, 0);
        cuda_file_ = cuda_line_ = inner_file_ = inner_line_ = 0;
        outermost_.clear();
    }
    void whole_body() {
        expect('{', "a kernel");
        while (!token_.is('}') || open_.size() > 1) body();
        kernel_.end_line = token_.line;
        advance();
        open_.clear();
    }

    void kernel() {
        start(kernel_);
        kernel_.name = identifier(".entry");
        if (accept('(')) {
            while (!accept(')')) {
                if (identifier("a parameter list") != ".param") fail("expected .param in the parameter list of " + quoted(kernel_.name));
                kernel_.params.push_back(variable(Space::Param));
                if (!token_.is(')')) expect(',', "a parameter list");
            }
        }
        while (token_.kind == TokenKind::Identifier) entry_directive();
        whole_body();
        module_.kernels.push_back(std::move(kernel_));
    }

    // .func (results) name (parameters) { ... }, or without a body: a declaration.
    void function() {
        start(kernel_);
        kernel_.is_function = true;
        if (token_.is('(')) formals(kernel_.results);
        kernel_.name = identifier(".func");
        if (token_.is('(')) formals(kernel_.formals);
        while (token_.kind == TokenKind::Identifier) {
            if (!token_.is(".noreturn")) entry_directive();
            else advance();
        }
        kernel_.has_body = !token_.is(';');
        if (kernel_.has_body) whole_body();
        else advance();
        open_.clear();
        const auto known = module_.function_index.emplace(kernel_.name, static_cast<uint32_t>(module_.functions.size()));
        if (known.second) return module_.functions.push_back(std::move(kernel_));
        KernelAst& old = module_.functions[known.first->second];
        if (!kernel_.has_body) return;
        if (old.has_body) throw LoadError(kernel_.line, "function " + quoted(kernel_.name) + " is defined twice");
        old = std::move(kernel_);
    }
    void formals(std::vector<Formal>& into) {
        expect('(', "a function's parameters");
        while (!accept(')')) {
            Formal formal;
            const std::string_view space = identifier("a function's parameters");
            formal.is_register = space == ".reg";
            if (formal.is_register) {
                formal.reg = static_cast<uint32_t>(kernel_.registers.size());
                const Width width = register_width(identifier(".reg"));
                const std::string_view name = identifier("a function's parameters");
                names_[0].single[name] = formal.reg;
                kernel_.register_names.push_back({formal.reg, false, std::string(name)});
                add_registers(1, width);
            } else if (space == ".param") {
                formal.variable = static_cast<uint32_t>(kernel_.variables.size());
                Variable one = variable(Space::Local);
                if (one.dynamic) fail("array " + quoted(one.name) + " has no extent");
                kernel_.variables.push_back(std::move(one));
            } else {
                fail("expected .param or .reg in a function's parameters, found " + quoted(space));
            }
            into.push_back(formal);
            if (!token_.is(')')) expect(',', "a function's parameters");
        }
    }

    void entry_directive() {
        const std::string_view word = identifier("a kernel's directives");
        uint32_t sizes[3] = {1, 1, 1};
        if (word == ".pragma") {
            advance();
            accept(';');
            return;
        }
        int n = 0;
        if (token_.kind == TokenKind::Integer) {
            do {
                const uint64_t value = integer("a kernel's directives");
                if (n < 3) sizes[n++] = static_cast<uint32_t>(value);
            } while (accept(','));
        }
        if (word == ".maxntid") std::copy(sizes, sizes + 3, kernel_.maxntid);
        else if (word == ".reqntid") std::copy(sizes, sizes + 3, kernel_.reqntid);
        else if (word == ".maxnreg") kernel_.maxnreg = sizes[0];
        else if (word == ".reqnctapercluster" && sizes[0] * sizes[1] * sizes[2] != 1) fail("thread block clusters are not modelled");
        else if (word != ".minnctapersm" && word != ".reqnctapercluster" && word != ".maxclusterrank")
            fail("unknown kernel directive " + quoted(word));
    }

    void body() {
        if (token_.kind == TokenKind::End) fail("the text ends inside kernel " + quoted(kernel_.name));
        if (accept(';')) return;
        if (accept('{')) {
            if (open_.size() > kMaxNesting) fail("blocks nested too deeply");
            kernel_.scope_parent.push_back(open_.back());
            open_.push_back(static_cast<uint32_t>(names_.size()));
            names_.emplace_back();
            return;
        }
        if (token_.is('}')) {
            open_.pop_back();
            advance();
            return;
        }
        if (token_.kind == TokenKind::Identifier && token_.text[0] == '.') return body_directive();
        statement();
    }

    // .loc file line column{, function_name label, inlined_at file line column}. It ends with its line. What it says of
    // inlined code is the line that the caller has been given by a .loc of its own, inlined or not, before.
    void location() {
        const int line = token_.line;
        advance();
        const Place at = place(line);
        Place outermost = at;
        while (token_.line == line && token_.kind != TokenKind::End) {
            const bool is_inlined = token_.is("inlined_at");
            advance();
            if (!is_inlined) continue;
            const Place caller = place(line);
            const auto known = outermost_.find(caller);
            outermost = known == outermost_.end() ? caller : known->second;
        }
        outermost_[at] = outermost;
        const auto set = [](const Place& from, int& file, int& number) { file = static_cast<int>(from[0]), number = static_cast<int>(from[1]); };
        set(outermost[1] ? outermost : at, cuda_file_, cuda_line_);
        set(outermost[1] && outermost != at ? at : Place{}, inner_file_, inner_line_);
    }
    Place place(int line) {
        Place out{};
        for (uint64_t& number : out) {
            if (token_.line != line || token_.kind != TokenKind::Integer) {
                if (&number != &out[2]) fail("malformed .loc");
                break;
            }
            number = token_.value;
            advance();
        }
        return out;
    }

    void body_directive() {
        const std::string_view word = token_.text;
        if (word == ".loc") {
            location();
            return;
        }
        advance();
        if (word == ".reg") {
            registers(register_width(identifier(".reg")));
        } else if (word.substr(0, 5) == ".reg.") {  // written without a blank
            registers(register_width(word.substr(4)));
        } else if (word == ".shared" || word == ".local" || word == ".param" || word == ".const" || word == ".global") {
            // A .param in a body holds an argument or a result of a call: memory of the thread's own.
            const Space space = word == ".shared" ? Space::Shared : word == ".local" || word == ".param" ? Space::Local : word == ".const" ? Space::Const : Space::Global;
            variables(space, kernel_.variables);
        } else if (word == ".pragma") {
            advance();
            expect(';', ".pragma");
        } else {
            fail("directive " + quoted(word) + " is not supported inside a kernel");
        }
    }

    Width register_width(std::string_view type) const {
        if (type == ".pred") return Width::Pred;
        switch (type_bytes(type)) {
            case 1: return Width::B8;
            case 2: return Width::B16;
            case 4: return Width::B32;
            case 8: return Width::B64;
            case 16: return Width::B128;
            default: fail("unknown register type " + quoted(type));
        }
    }
    // A .b128 register is two of 64 bits, the lower half first.
    void add_registers(uint64_t count, Width width) {
        const bool pair = width == Width::B128;
        if (kernel_.registers.size() + count * (pair ? 2 : 1) > kMaxRegisters) fail("too many registers");
        for (uint64_t n = 0; n < count; ++n) {
            kernel_.registers.push_back({width});
            if (pair) kernel_.registers.push_back({Width::B64});
        }
    }
    void registers(Width width) {
        ScopeNames& names = names_[open_.back()];
        do {
            const std::string_view name = identifier(".reg");
            const uint32_t first = static_cast<uint32_t>(kernel_.registers.size());
            uint64_t count = 1;
            const bool range = token_.is('<');
            if (accept('<')) {
                count = integer("a register range");
                expect('>', "a register range");
                if (count > kMaxRegisters) fail("too many registers");
                names.ranges[name] = {first, static_cast<uint32_t>(count), width == Width::B128 ? 2u : 1u};
            } else {
                names.single[name] = first;
            }
            kernel_.register_names.push_back({first, range, std::string(name)});
            add_registers(count, width);
        } while (accept(','));
        expect(';', ".reg");
    }

    bool find_register(std::string_view name, uint32_t& reg) const {
        size_t digits = name.size();
        while (digits > 0 && name[digits - 1] >= '0' && name[digits - 1] <= '9') --digits;
        uint64_t index = 0;
        for (char c : name.substr(digits)) index = std::min<uint64_t>(index * 10 + (c - '0'), kMaxRegisters);
        for (size_t i = open_.size(); i-- > 0;) {
            const ScopeNames& names = names_[open_[i]];
            const auto single = names.single.find(name);
            if (single != names.single.end()) return reg = single->second, true;
            if (digits == name.size()) continue;
            const auto range = names.ranges.find(name.substr(0, digits));
            if (range != names.ranges.end() && index < range->second.count) return reg = range->second.first + static_cast<uint32_t>(index) * range->second.step, true;
        }
        return false;
    }

    void statement() {
        Statement out;
        out.line = token_.line;
        out.text_begin = token_.begin;
        out.cuda_file = cuda_file_;
        out.cuda_line = cuda_line_;
        out.inner_file = inner_file_;
        out.inner_line = inner_line_;
        if (accept('@')) {
            out.guard_negated = accept('!');
            uint32_t reg = 0;
            const std::string_view name = identifier("a guard");
            if (!find_register(name, reg)) fail("undeclared predicate " + quoted(name));
            if (kernel_.registers[reg].width != Width::Pred) fail("guard " + quoted(name) + " is not a predicate");
            out.guard = static_cast<int>(reg);
        }
        out.opcode = identifier("a statement");
        if (out.guard < 0 && accept(':')) {
            if (token_.is(".branchtargets") || token_.is(".calltargets") || token_.is(".callprototype")) return target_list(out.opcode);
            kernel_.labels.push_back({out.opcode, open_.back(), static_cast<uint32_t>(kernel_.statements.size())});
            return;
        }
        while (!token_.is(';')) {
            out.operands.push_back(operand(0));
            if (!token_.is(';')) expect(',', "the operands of an instruction");
        }
        out.text_end = token_.begin;
        advance();
        kernel_.has_calls |= out.opcode == "call" || out.opcode == "call.uni";
        kernel_.statements.push_back(std::move(out));
    }

    void target_list(std::string_view name) {
        TargetList out;
        out.name = name;
        out.scope = open_.back();
        out.line = token_.line;
        const std::string_view word = identifier("a list of targets");
        if (word == ".callprototype") {  // the sizes are those of the functions called
            out.kind = TargetList::Prototype;
            while (!token_.is(';')) {
                if (token_.kind == TokenKind::End) fail("the text ends inside a .callprototype");
                advance();
            }
        } else {
            out.kind = word == ".branchtargets" ? TargetList::Branches : TargetList::Calls;
            do out.targets.push_back(identifier("a list of targets"));
            while (accept(','));
        }
        expect(';', "a list of targets");
        kernel_.target_lists.push_back(std::move(out));
    }

    Operand operand(int depth) {
        if (depth > kMaxNesting) fail("operand nested too deeply");
        if (token_.kind == TokenKind::End) fail("the text ends inside an instruction");
        Operand out;
        if (accept('{')) {
            out.kind = OperandKind::Vector;
            while (!accept('}')) {
                out.items.push_back(operand(depth + 1));
                if (!token_.is('}')) expect(',', "a vector operand");
            }
            return out;
        }
        if (accept('[')) return address(depth);
        if (accept('(')) {
            out.kind = OperandKind::List;
            while (!accept(')')) {
                out.items.push_back(operand(depth + 1));
                if (!token_.is(')')) expect(',', "the arguments of a call");
            }
            return out;
        }
        if (accept('!')) {
            out = operand(depth + 1);
            out.negated = !out.negated;
            return out;
        }
        const bool negative = accept('-');
        if (token_.kind == TokenKind::Integer || token_.kind == TokenKind::Float32 || token_.kind == TokenKind::Float64) {
            out.kind = token_.kind == TokenKind::Integer ? OperandKind::Integer
                       : token_.kind == TokenKind::Float32 ? OperandKind::Float32
                                                           : OperandKind::Float64;
            out.value = static_cast<int64_t>(token_.value);
            if (negative) {
                if (out.kind == OperandKind::Integer) out.value = static_cast<int64_t>(0 - token_.value);
                else out.value ^= static_cast<int64_t>(1ull << (out.kind == OperandKind::Float32 ? 31 : 63));
            }
            advance();
            return out;
        }
        if (negative) fail("expected a number after '-'");
        const std::string_view name = identifier("an operand");
        out.scope = open_.back();
        const bool sink = name == "_";
        if (sink || find_register(name, out.reg)) {
            if (!sink) out.kind = OperandKind::Register;
            if (accept('|')) {
                Operand pair;
                pair.kind = OperandKind::Pair;
                pair.items.push_back(out);
                pair.items.push_back(operand(depth + 1));
                return pair;
            }
            return out;
        }
        out.name = name;
        out.kind = name[0] == '%' ? OperandKind::Special : OperandKind::Symbol;
        if (out.kind == OperandKind::Symbol && accept('+')) out.value = static_cast<int64_t>(integer("an offset"));
        return out;
    }

    Operand address(int depth) {
        Operand out;
        out.kind = OperandKind::Address;
        out.scope = open_.back();
        if (token_.kind == TokenKind::Integer || token_.is('-')) {
            out.value = static_cast<int64_t>(integer("an address"));
        } else {
            const std::string_view name = identifier("an address");
            if (find_register(name, out.reg)) out.has_base = true;
            else out.name = name;
            while (token_.is('+') || token_.is('-')) {
                const bool minus = token_.is('-');
                advance();
                const int64_t value = static_cast<int64_t>(integer("an address"));
                out.value = static_cast<int64_t>(static_cast<uint64_t>(out.value) + static_cast<uint64_t>(minus ? -value : value));
            }
            if (accept(',')) {  // [tensorMap, {coordinates}]
                out.items.push_back(operand(depth + 1));
            }
        }
        expect(']', "an address");
        return out;
    }

    Lexer lexer_;
    Token token_;
    ModuleAst module_;
    KernelAst kernel_;
    bool is_extern_ = false;
    std::vector<ScopeNames> names_;
    std::vector<uint32_t> open_;  // scopes open now, outermost first
    int cuda_file_ = 0, cuda_line_ = 0, inner_file_ = 0, inner_line_ = 0;
    std::map<Place, Place> outermost_;  // by the places .loc has named in this body: where their code was inlined to
};

}  // namespace

ModuleAst parse_module(std::string_view text) { return Parser(text).module(); }

}  // namespace kw
