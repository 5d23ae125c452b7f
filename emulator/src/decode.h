// Parts of the decoder.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "ast.h"
#include "forms.h"

namespace kw {

// Where an operand word that names a virtual register sits, until it gets its place in the register file.
struct RegisterUse {
    uint32_t insn;
    uint32_t word;     // index into Insn::o, or into Kernel::ext; of a predicate always the operand's word, 4 for Insn::ext
    bool in_ext;
    bool defines;
    uint32_t reg;      // virtual register
};

constexpr uint32_t kGuardWord = 255;  // RegisterUse::word of a guard

// Gives every virtual register a place in the register file and writes it into the operand words. Registers that are
// never live at the same time share a place, so that a warp's file stays in the first-level cache. `predicates`: uses of
// predicates, guards too, which need no place. Returns the registers and predicates that a thread may read before it has
// written them: those live at the kernel's start.
// Those of `alone` share their place with no other.
std::vector<uint32_t> allocate_registers(Kernel& kernel, const std::vector<RegisterDecl>& registers, const std::vector<RegisterUse>& uses,
                                         const std::vector<RegisterUse>& predicates, uint32_t sink32, uint32_t sink64, const std::vector<bool>& alone);

// Fills what is derived from Kernel::code.
void count_runs(Kernel& kernel);

// Makes Kernel::tracked if a thread may read a value nobody wrote: a register of `from_start`, or local memory.
// `predicate_index` is by virtual register.
void track_undefined(Kernel& kernel, const std::vector<RegisterDecl>& registers, const std::vector<RegisterNames>& names,
                     const std::vector<RegisterUse>& uses, const std::vector<RegisterUse>& predicates,
                     const std::vector<uint32_t>& predicate_index, const std::vector<uint32_t>& from_start);

// What a symbol stands for.
struct Symbol {
    Space space;
    uint64_t address;
};

class KernelDecoder {
   public:
    KernelDecoder(const ModuleAst& module, const KernelAst& ast, Module& into, const std::unordered_map<std::string_view, Symbol>& globals)
        : module_(module), ast_(ast), into_(into), symbols_(globals) {}
    std::unique_ptr<Kernel> decode();

   private:
    using Parts = std::vector<std::string_view>;

    [[noreturn]] void fail(const std::string& what) const;
    [[noreturn]] void unknown() const;
    // The instruction exists from this compute capability on.
    void need_target(int sm) const;
    // Of exactly this one with its own features: sm_90a.
    void need_specific(int sm) const;
    void place_variables();
    void place_labels();
    void finish();

    // One statement.
    void instruction(const Statement& statement);
    void control(const Parts& parts);
    void barrier(Parts parts);
    void set_registers(Parts parts);
    void bulk(Parts parts);
    void bulk_operands(const std::string& form, const std::vector<Operand>& addresses, const std::vector<Operand>& values);
    void wgmma(Parts parts);
    void wgmma_product(Parts parts);
    void fence(Parts parts);
    void dependent_grids(const Parts& parts);
    void branch(const Statement& statement);
    void branch_indexed(Parts parts);
    uint32_t label(std::string_view name, uint32_t scope) const;
    void call(std::string_view what);
    void link_returns();
    void move(Parts parts);
    void convert(Parts parts);
    void convert_fp8(Parts parts, std::string_view to, std::string_view from);
    void compare(Parts parts);
    void load_store(Parts parts);
    void atomic(Parts parts);
    void copy_async(Parts parts);
    void shuffle(Parts parts);
    void mbarrier(Parts parts);
    void matrix(Parts parts);
    void multiply(Parts parts);
    void wmma(Parts parts);
    void arithmetic(Parts parts);
    void extended(Parts parts, bool reads, bool sets);
    void special(const Operand& to, const Operand& from);
    void form_only(const std::string& name, Fidelity fidelity);

    // Looks the form up and encodes `operands` by its signature.
    void emit(const std::string& name, const std::vector<Operand>& operands);
    const Form& form(const std::string& name);
    uint32_t encode(char letter, const Operand& operand, int word);
    uint32_t encode_register(const Operand& operand, bool wide, bool either, bool defines, int word);
    uint32_t encode_predicate(const Operand& operand, bool defines, int word);
    void encode_address(const Operand& operand, std::vector<uint32_t>& words);
    uint32_t constant(uint64_t value, bool wide);
    bool value_of(const Operand& operand, bool wide, uint64_t& value) const;
    const Symbol* find_symbol(std::string_view name, uint32_t scope) const;
    std::vector<Operand> wide_halves() const;
    std::string_view param_or_local(std::string_view space) const;
    const Operand& operand(size_t index) const;
    std::vector<Operand> flat() const;
    Width width(const Operand& operand) const { return ast_.registers[operand.reg].width; }
    std::string text() const;

    const ModuleAst& module_;
    const KernelAst& ast_;
    Module& into_;
    const std::unordered_map<std::string_view, Symbol>& symbols_;
    std::map<std::pair<uint32_t, std::string_view>, Symbol> local_symbols_;  // by scope
    std::unique_ptr<Kernel> kernel_;
    const Statement* statement_ = nullptr;
    Insn insn_;
    std::vector<RegisterUse> uses_, pending_;  // pending_: of the statement being decoded
    std::vector<RegisterUse> predicate_uses_;
    std::vector<uint32_t> wgmma_registers_;  // accumulators, and those that hold A
    std::vector<uint32_t> predicate_index_;
    std::map<std::pair<bool, uint64_t>, uint32_t> constants_;
    std::vector<std::pair<bool, uint64_t>> constant_values_;
    uint32_t constant_bytes_ = 0;
    std::unordered_map<std::string, uint16_t> form_index_;
    std::map<std::pair<uint32_t, std::string_view>, uint32_t> labels_;
    uint32_t sink32_ = 0, sink64_ = 0;
    std::vector<std::vector<uint32_t>> return_points_;  // by function: the pcs after its calls
    uint32_t carry_ = 0;                                // the predicate that is the carry flag, 0 where there is none
    bool is_carry_set_ = false;
};

}  // namespace kw
