// What the parser hands to the decoder: a PTX module as written, names resolved to declarations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kw {

enum class Width : uint8_t { Pred, B8, B16, B32, B64, B128 };

struct RegisterDecl {
    Width width;
};

// What .reg declared: registers `first` and on are called `name`, or name0, name1, ... for a range.
struct RegisterNames {
    uint32_t first;
    bool range;
    std::string name;
};

enum class OperandKind : uint8_t { Register, Special, Integer, Float32, Float64, Symbol, Address, Vector, Pair, Sink };

struct Operand {
    OperandKind kind = OperandKind::Sink;
    bool negated = false;        // !%p1
    uint32_t reg = 0;            // virtual register, for Register and for an Address with has_base
    bool has_base = false;       // Address: base register present
    int64_t value = 0;           // Integer and float bits; offset of a Symbol or an Address
    std::string_view name;       // Special, Symbol, or the symbol inside an Address
    uint32_t scope = 0;          // where a label is looked up
    std::vector<Operand> items;  // Vector and Pair
};

struct Statement {
    std::string_view opcode;  // with all modifiers: "ld.global.v4.u32"
    std::vector<Operand> operands;
    int guard = -1;  // virtual predicate register, -1 for none
    bool guard_negated = false;
    int line = 0;
    int cuda_file = 0, cuda_line = 0;
    size_t text_begin = 0, text_end = 0;  // in the module text, for reports
};

enum class Space : uint8_t { Global, Shared, Local, Param, Const, Generic };
// Bits of Insn::mode beside the Space.
constexpr uint8_t kStrongAccess = 0x80;  // a load or store that is volatile, relaxed, acquire or release
constexpr uint8_t kNoResult = 0x40;      // red: an atomic that loads nothing

struct Variable {
    std::string_view name;
    Space space = Space::Global;
    uint64_t bytes = 0;
    uint32_t alignment = 1;
    bool dynamic = false;  // extern .shared base
    std::vector<uint8_t> initial;
    uint64_t address = 0;  // offset inside its space; global and const: bytes from the module's storage
};

struct Label {
    std::string_view name;
    uint32_t scope = 0;
    uint32_t target = 0;  // index of a statement
};

struct KernelAst {
    std::string_view name;
    int line = 0;
    std::vector<Variable> params;
    std::vector<Variable> variables;  // declared inside the body
    std::vector<RegisterDecl> registers;
    std::vector<RegisterNames> register_names;  // ascending
    std::vector<uint32_t> scope_parent;  // scope 0 is the body
    std::vector<Label> labels;
    std::vector<Statement> statements;
    uint32_t maxntid[3] = {0, 0, 0}, reqntid[3] = {0, 0, 0};
};

struct ModuleAst {
    int target_sm = 0;
    bool target_specific = false;  // sm_90a and the like
    int version_major = 0, version_minor = 0;
    std::vector<Variable> variables;
    std::vector<std::string> files;  // by .file index
    std::vector<KernelAst> kernels;
};

// Parses `text`, which must outlive the result. Throws LoadError.
ModuleAst parse_module(std::string_view text);

}  // namespace kw
