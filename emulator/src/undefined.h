// Undefined values: registers, predicates and local memory that a thread reads before it has written them.
//
// Copying and computing with an undefined value is legal, and compilers do it; a finding is a use that matters. Which
// registers can ever hold one is known when a kernel is decoded: those live at its start, all that is loaded from local
// memory, and what is computed from these. Where there are none, nothing is done. Else the kernel has a second form,
// which launches with the check `init` run: the instructions that touch such a register go through run_tracked, which
// keeps, for each lane, a set bit for each undefined bit.
//
// A register that is read before it is written is live from the kernel's start on, so that its place in the register file
// is its own until then (registers.cpp): the state may be kept by place.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "ast.h"
#include "machine.h"

namespace kw {

// How the undefined bits of an instruction's sources reach its destinations.
enum class Rule : uint8_t {
    Defined,     // they do not: loads from memory that is checked elsewhere, special registers
    Whole,       // any undefined bit makes all destinations undefined
    Move,        // bits are moved and nothing else: the handler itself, run on the undefined bits, moves these
    Select,      // Move, of one of two values
    Logic,       // bit by bit, by a truth table of three sources
    Carry,       // integer sums and products: bits below the lowest undefined one are defined
    Halves,      // two values of 16 bits
    PackHalves,  // two values, rounded to 16 bits and packed
    Compare,
    Predicates,  // and, or, xor, not, mov of predicates
    Shuffle,
    LoadLocal,   // or generic
    StoreLocal,  // or generic
    CopyLocal,   // from one place of local memory to another
};

// What an operand is to its instruction. All but the first two are uses that matter.
// Accumulator: of a wgmma, read only where its scale-d is true.
enum class Role : uint8_t { Source, Destination, Guard, Address, Stored, Selector, Members, Exchanged, Matrix, Accumulator, Barrier, Operand };

// An operand that may be undefined.
struct TrackedOperand {
    uint32_t place = 0;  // in the register file, in units of 128 bytes; or the predicate's index
    uint32_t reg = 0;    // virtual register
    uint64_t bits = 0;   // those that the instruction reads or writes
    Mask lanes = kFullMask;  // whose value is read
    uint8_t word = 0;    // of the instruction
    Role role = Role::Source;
    bool predicate = false, wide = false;
};

struct TrackedInsn {
    Handler fn = nullptr;
    uint32_t guard = 0;
    Mask guard_flip = 0;
    uint32_t guard_reg = 0;
    bool guard_tracked = false;
    bool effects = false;  // does more than write registers: whether it is executed matters
    bool in_ext = false;   // operand words are in Kernel::ext
    Rule rule = Rule::Defined;
    CountAs count = CountAs::Nothing;
    uint8_t words = 0;      // Move: operand words
    uint32_t moved = 0, written = 0;  // Move: words whose bits are moved, and of destinations; the others say where bits go
    uint32_t table = 0;     // Logic: truth table; Predicates: 0 and, 1 or, 2 xor, 3 copy; Compare: 1 for equality of integers;
                            // Shuffle: 0 up, 1 down, 2 butterfly, 3 index
    uint64_t bits = ~0ull;  // of each source that are read
    Space space = Space::Generic;  // LoadLocal, StoreLocal
    uint8_t bytes = 0, vector = 0;
    bool sign_extends = false;
    std::vector<TrackedOperand> operands;
};

struct Tracking {
    std::vector<uint32_t> at;  // by instruction: 1 + index into insns, 0 for none
    std::vector<TrackedInsn> insns;
    std::vector<TrackedOperand> from_start;  // registers that a thread may read before it writes them
    std::unordered_map<uint32_t, uint32_t> written_at;  // the first instruction that writes such a register
    std::vector<RegisterNames> names;
    bool local = false;

    std::string name(uint32_t reg) const;
};

// The handler of tracked instructions, which have no guard of their own: it applies the guard.
void run_tracked(Warp& warp, const Insn& insn, Mask lanes);
// The threads of a block start, of a kernel that is tracked.
void start_tracking(Warp& warp);
// Judges the operands of an instruction that has no handler: a branch, an exit, a barrier.
void check_control(Warp& warp, const Insn& insn, Mask lanes);

}  // namespace kw
