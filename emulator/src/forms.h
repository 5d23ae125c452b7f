// The instruction forms the interpreter knows, as tables; each instruction-set variant of the hot code has its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "program.h"

namespace kw {

// Signature letters, in operand order:
//   R r  destination, source with 32-bit lanes (8- and 16-bit registers live there too)
//   L l  destination, source with 64-bit lanes
//   A a  destination, source of either lane width (the handler reads kOperandWide)
//   P p  destination, source predicate
//   i    immediate integer, put in Insn::imm
//   m    address in brackets; its offset is put in Insn::imm
struct Form {
    const char* name;
    const char* signature;
    Handler fn;
    Fidelity fidelity = Fidelity::Exact;
    CountAs count = CountAs::Nothing;
};

struct FormTable {
    const Form* forms;
    size_t count;
};

// One compiled variant of the hot code.
struct Variant {
    FormTable tables[16];
    size_t num_tables;
};

// The variant this processor can run.
const Variant& variant();

namespace isa_base {
const Variant& variant();
}
namespace isa_avx2 {
const Variant& variant();
}

}  // namespace kw
