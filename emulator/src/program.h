// Decoded kernels: what the interpreter runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base.h"

namespace kw {

struct Warp;
struct Insn;
using Handler = void (*)(Warp&, const Insn&, Mask);

// Operand words. A data operand is a byte offset into the warp's register file (a multiple of 128, one 32-lane
// array per register) with flags in the low bits; a predicate operand is index * 2 + negated.
constexpr uint32_t kOperandConstant = 1;  // the offset is into the kernel's constants (immediates, one value in all lanes)
constexpr uint32_t kOperandWide = 2;      // 64-bit lanes
constexpr uint32_t kOperandFlags = 127;

constexpr uint32_t kPredicateTrue = 0, kPredicateFalse = 1, kPredicateSink = 2, kFirstPredicate = 3;

enum class Kind : uint8_t {
    Plain,    // executed by its handler, falls through
    Counted,  // as Plain, but a guarded floating-point instruction: its active lanes are counted one by one
    Branch,   // imm = target
    Jump,     // o[0] = index into the imm targets at ext in Kernel::targets
    Call,     // imm = target, o[0] = register that gets the pc to return to
    Return,   // o[0] = pc, one of the imm targets at ext in Kernel::targets
    Exit,
    BarrierSync,    // o[0] id, o[1] count or kNoOperand, imm = 1 if .aligned
    BarrierArrive,
    BarrierReduce,  // o[0] id, o[1] count, o[2] destination, o[3] predicate, ext = ReduceKind
    WarpSync,       // o[0] member mask
    WgmmaWait,      // imm = groups that may be in flight still
    SetRegisters,   // imm = registers of each thread, mode = 1 to get more
    Trap,
};
enum ReduceKind : uint32_t { kReducePopc, kReduceAnd, kReduceOr };
constexpr uint32_t kNoOperand = 0xffffffffu;

enum class Fidelity : uint8_t { Exact, Approximate, NotModelled };
enum class CountAs : uint8_t { Nothing, Fp32, Mufu };

struct Insn {
    Handler fn = nullptr;
    uint32_t guard = 0;       // predicate index; index 0 is always true
    Mask guard_flip = 0;      // all ones for @!p
    uint32_t o[4] = {0, 0, 0, 0};
    int32_t imm = 0;
    uint32_t ext = 0;         // index into Kernel::ext, for operands beyond the fourth, or a modifier
    Kind kind = Kind::Plain;
    CountAs count = CountAs::Nothing;
    bool converged = false;   // a .sync instruction: lanes of the warp should be together
    uint8_t mode = 0;         // modifier bits, by instruction
};

struct SourceLine {
    int ptx_line = 0;
    int cuda_file = 0, cuda_line = 0, inner_file = 0, inner_line = 0;  // as in Statement
    uint32_t text_begin = 0, text_end = 0;
    uint16_t form = 0;  // index into Kernel::forms
};

struct FormUse {
    std::string name;
    Fidelity fidelity;
};

struct Parameter {
    uint32_t offset, bytes;
};

// A 64-byte aligned byte array.
class Bytes {
   public:
    Bytes() = default;
    explicit Bytes(size_t bytes) { resize(bytes); }
    Bytes(const Bytes& other) {
        resize(other.size_);
        if (size_) std::memcpy(data_, other.data_, size_);
    }
    Bytes& operator=(const Bytes&) = delete;
    void resize(size_t bytes) {
        storage_.reset(new char[bytes + 64]());
        data_ = storage_.get() + (64 - reinterpret_cast<uintptr_t>(storage_.get()) % 64) % 64;
        size_ = bytes;
    }
    char* data() { return data_; }
    const char* data() const { return data_; }
    size_t size() const { return size_; }

   private:
    std::unique_ptr<char[]> storage_;
    char* data_ = nullptr;
    size_t size_ = 0;
};

struct Module;
struct Tracking;
struct WgmmaWatch;

struct Kernel {
    std::string name;
    Module* module = nullptr;
    std::vector<Insn> code;  // ends with an Exit that no text belongs to
    uint32_t entry = 0;      // the pc to start at; functions that are called come before it
    std::vector<uint32_t> targets;  // of Jump and Return
    std::vector<uint32_t> run;  // run[pc]: Plain instructions from pc on before anything else
    std::vector<uint32_t> fp32_before, mufu_before;  // prefix sums over unguarded instructions
    std::vector<uint32_t> ext;
    std::vector<SourceLine> where;
    std::vector<FormUse> forms;
    Bytes constants;
    std::vector<Parameter> params;
    uint32_t param_bytes = 0;
    uint32_t register_bytes = 0;
    uint32_t num_predicates = kFirstPredicate;
    uint32_t static_shared = 0, dynamic_shared_at = 0;
    uint32_t local_bytes = 0;  // per thread
    uint32_t maxntid[3] = {0, 0, 0}, reqntid[3] = {0, 0, 0};
    uint32_t maxnreg = 0;  // 0: not given
    std::shared_ptr<const Kernel> tracked;  // the form that launches with the check `init` run; null: nothing can be undefined
    std::shared_ptr<const Tracking> tracking;  // of that form; see undefined.h
    std::shared_ptr<const WgmmaWatch> wgmma_watch;  // null: the kernel has no wgmma
    bool may_wait = false;  // strong accesses to global memory or atomics on it: a block may wait for another
    bool reads_clock = false;  // which counts the instructions of the launch so far
    bool prints = false;       // in the order of execution
    int max_dynamic_shared = -1;  // what cuKernelSetAttribute set; -1: unset
};

struct Module {
    std::string text;
    int target_sm = 0;
    bool target_specific = false;
    int version_major = 0, version_minor = 0;
    std::vector<std::string> files;
    Bytes globals;  // .global and .const variables
    std::vector<std::unique_ptr<Kernel>> kernels;
};

// Parses and decodes; throws LoadError.
std::unique_ptr<Module> load_module(std::string text);

}  // namespace kw
