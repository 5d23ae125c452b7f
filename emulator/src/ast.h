// What the parser hands to the decoder: a PTX module as written, names resolved to declarations.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
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

enum class OperandKind : uint8_t { Register, Special, Integer, Float32, Float64, Symbol, Address, Vector, Pair, List, Sink };

struct Operand {
    OperandKind kind = OperandKind::Sink;
    bool negated = false;        // !%p1
    uint32_t reg = 0;            // virtual register, for Register and for an Address with has_base
    bool has_base = false;       // Address: base register present
    int64_t value = 0;           // Integer and float bits; offset of a Symbol or an Address
    std::string_view name;       // Special, Symbol, or the symbol inside an Address
    uint32_t scope = 0;          // where a label or a variable is looked up
    bool is_half = false;        // Register: one 64-bit half of a .b128 register
    std::vector<Operand> items;  // Vector, Pair, and List: (arguments of a call)
};

struct Statement {
    std::string_view opcode;  // with all modifiers: "ld.global.v4.u32"
    std::vector<Operand> operands;
    int guard = -1;  // virtual predicate register, -1 for none
    bool guard_negated = false;
    int line = 0;
    int cuda_file = 0, cuda_line = 0;    // in the kernel itself
    int inner_file = 0, inner_line = 0;  // of code inlined there, else 0
    size_t text_begin = 0, text_end = 0;  // in the module text, for reports
};

enum class Space : uint8_t { Global, Shared, Local, Param, Const, Generic };
// Bits of Insn::mode beside the Space.
constexpr uint8_t kStrongAccess = 0x80;  // a load or store that is volatile, relaxed, acquire or release
constexpr uint8_t kFrameAccess = 0x20;  // an access to, or a copy between, what lies in the thread's local memory
constexpr uint8_t kNoResult = 0x40;      // red: an atomic that loads nothing
constexpr uint8_t kColumnMajor = 0x10;   // wmma: the matrix lies in memory column by column

// An address in an initialiser, known once everything is placed.
struct Relocation {
    uint64_t offset = 0;  // in Variable::initial
    uint32_t bytes = 0;
    std::string_view symbol;
    uint64_t addend = 0;
    bool is_generic = false;  // generic(symbol)
    uint64_t mask = 0;        // 0xFF00(symbol): the bits to take, shifted down; 0 for all
    int line = 0;
};

struct Variable {
    std::string_view name;
    Space space = Space::Global;
    uint64_t bytes = 0;
    uint32_t alignment = 1;
    bool dynamic = false;  // extern .shared base
    std::vector<uint8_t> initial;
    std::vector<Relocation> relocations;
    uint32_t scope = 0;      // declared in a body: the scope it is seen in
    bool is_placed = false;  // local: `address` is set
    uint64_t address = 0;    // offset inside its space
    int line = 0;
};

struct Label {
    std::string_view name;
    uint32_t scope = 0;
    uint32_t target = 0;  // index of a statement
};

// name: .branchtargets, .calltargets or .callprototype
struct TargetList {
    std::string_view name;
    uint32_t scope = 0;
    enum Kind : uint8_t { Branches, Calls, Prototype } kind = Branches;
    std::vector<std::string_view> targets;  // labels or functions
    int line = 0;
};

// A parameter or result of a function: a .reg, or a .param, which is then a variable in thread-local memory.
struct Formal {
    bool is_register = false;
    uint32_t reg = 0;       // register
    uint32_t variable = 0;  // index into KernelAst::variables
};

// A kernel, or a function with the kernel's parts it can have.
struct KernelAst {
    std::string_view name;
    int line = 0;
    bool is_function = false, has_body = true, has_calls = false;
    std::vector<Formal> results, formals;  // of a function
    std::vector<TargetList> target_lists;
    int end_line = 0;
    uint32_t entry = 0;                     // linked: index of the statement a kernel starts with
    uint32_t root_scope = 0;                // linked: the scope of the kernel's parameters
    std::vector<uint32_t> function_starts;  // linked: the same of each function, by number
    std::vector<Variable> params;
    std::vector<Variable> variables;  // declared inside the body
    std::vector<RegisterDecl> registers;
    std::vector<RegisterNames> register_names;  // ascending
    std::vector<uint32_t> scope_parent;  // scope 0 is the body; the outermost scope is its own parent
    std::vector<Label> labels;
    std::vector<Statement> statements;
    uint32_t maxntid[3] = {0, 0, 0}, reqntid[3] = {0, 0, 0};
    uint32_t maxnreg = 0;
};

struct ModuleAst {
    int target_sm = 0;
    bool target_specific = false;  // sm_90a and the like
    int version_major = 0, version_minor = 0;
    std::vector<Variable> variables;
    std::vector<std::string> files;  // by .file index
    std::vector<KernelAst> kernels;
    std::vector<KernelAst> functions;
    std::unordered_map<std::string_view, uint32_t> function_index;
};

// Parses `text`, which must outlive the result. Throws LoadError.
ModuleAst parse_module(std::string_view text);

// A kernel with the functions it can reach in front of it, calls made into jumps that note where to return to. `budget`
// is how many statements may still be linked in this module. Throws LoadError.
KernelAst link_kernel(const ModuleAst& module, const KernelAst& kernel, size_t& budget);

// Where a function's address lies in the generic address space: no data is there.
constexpr uint64_t kFunctionWindow = 0xff04000000000000ull;
constexpr uint64_t function_address(uint32_t index) { return kFunctionWindow | (static_cast<uint64_t>(index) + 1) << 4; }

}  // namespace kw
