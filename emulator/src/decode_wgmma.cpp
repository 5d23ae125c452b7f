// wgmma instructions: which form, and with which modifiers.
// SPDX-License-Identifier: Apache-2.0
#include "decode.h"
#include "parts.h"
#include "wgmma_state.h"

namespace kw {
namespace {

// n of a shape m64nNkK whose k is as wanted; 0: another shape.
int columns_of(std::string_view shape, std::string_view k) {
    if (shape.substr(0, 4) != "m64n" || shape.size() < k.size() + 5 || shape.substr(shape.size() - k.size()) != k) return 0;
    int n = 0;
    for (const char digit : shape.substr(4, shape.size() - 4 - k.size())) {
        if (digit < '0' || digit > '9' || n > 256) return 0;
        n = n * 10 + (digit - '0');
    }
    return n % 8 || n > 256 ? 0 : n;
}

}  // namespace

void KernelDecoder::wgmma(Parts parts) {
    need_specific(90);
    if (!take(parts, "sync") || !take(parts, "aligned") || parts.size() < 2) unknown();
    if (parts[1] == "mma_async" && parts.size() >= 5) return wgmma_product(parts);
    if (parts.size() != 2) unknown();
    if (parts[1] == "fence" || parts[1] == "commit_group") {
        emit("wgmma." + std::string(parts[1]), statement_->operands);
    } else if (parts[1] == "wait_group") {
        if (statement_->operands.size() != 1 || operand(0).kind != OperandKind::Integer || operand(0).value < 0 || operand(0).value > 7) fail(text() + " takes a constant from 0 to 7");
        form_only(std::string(statement_->opcode), Fidelity::Exact);
        insn_.kind = Kind::WgmmaWait;
        insn_.imm = static_cast<int32_t>(operand(0).value);
    } else {
        unknown();
    }
    insn_.converged = true;
}

// wgmma.mma_async.shape.dtype.atype.btype d, a, b-desc, scale-d, scale-a, scale-b, trans-a, trans-b
void KernelDecoder::wgmma_product(Parts parts) {
    const bool saturates = take(parts, "satfinite");
    if (parts.size() != 6) unknown();
    const std::string_view shape = parts[2], sum = parts[3], a_type = parts[4], b_type = parts[5];
    const bool half = a_type == "f16" || a_type == "bf16", fp8 = a_type == "e4m3" || a_type == "e5m2", tf32 = a_type == "tf32", integer = a_type == "s8" || a_type == "u8";
    if (!half && !fp8 && !tf32 && !integer) fail(text() + " is not supported: of these types");
    if ((half || tf32) && a_type != b_type) unknown();
    if (fp8 && b_type != "e4m3" && b_type != "e5m2") unknown();
    if (integer && b_type != "s8" && b_type != "u8") unknown();
    if (integer ? sum != "s32" : sum != "f32" && !(sum == "f16" && (fp8 || a_type == "f16"))) unknown();
    if (saturates && !integer) unknown();
    const int n = columns_of(shape, half ? "k16" : tf32 ? "k8" : "k32");
    if (!n || (integer && n > 32 && n % 16)) unknown();
    const std::vector<Operand>& given = statement_->operands;
    const size_t scales = integer ? 0 : 2;
    if (given.size() < 4 || given[0].kind != OperandKind::Vector) fail(text() + " has the wrong operands");
    const bool a_in_registers = given[1].kind == OperandKind::Vector;
    const size_t transposes = !half ? 0 : a_in_registers ? 1 : 2;
    if (given.size() != 4 + scales + transposes) fail(text() + " takes " + std::to_string(4 + scales + transposes) + " operands here, found " + std::to_string(given.size()));
    const uint32_t accumulators = wgmma_accumulators(shape, sum);
    if (given[0].items.size() != accumulators || (a_in_registers && given[1].items.size() != 4))
        fail(text() + " takes " + std::to_string(accumulators) + " registers of D" + (a_in_registers ? " and 4 of A" : ""));
    emit("wgmma." + std::string(sum) + "." + std::string(a_type) + "." + std::string(b_type), {});
    std::vector<uint32_t> words;
    for (const Operand& d : given[0].items) {
        if (d.kind != OperandKind::Register) fail("the accumulators of " + text() + " must be registers");
        words.push_back(encode('R', d, static_cast<int>(words.size())));
        RegisterUse read = pending_.back();
        read.defines = false;  // where scale-d is true
        pending_.push_back(read);
        wgmma_registers_.push_back(d.reg);
    }
    if (a_in_registers) {
        for (const Operand& a : given[1].items) {
            words.push_back(encode('r', a, static_cast<int>(words.size())));
            if (a.kind == OperandKind::Register) wgmma_registers_.push_back(a.reg);
        }
    } else {
        words.push_back(encode('l', given[1], static_cast<int>(words.size())));
    }
    words.push_back(encode('l', given[2], static_cast<int>(words.size())));
    insn_.ext = static_cast<uint32_t>(kernel_->ext.size());
    kernel_->ext.insert(kernel_->ext.end(), words.begin(), words.end());
    for (RegisterUse& use : pending_) {
        use.in_ext = true;
        use.word += insn_.ext;
    }
    insn_.o[0] = encode_predicate(given[3], false, kWgmmaScaleWord);
    int mode = (a_in_registers ? kAInRegisters : 0) | (saturates ? kSaturatesSum : 0);
    const auto constant_of = [&given, this](size_t index, int64_t low, int64_t high) {
        const Operand& one = given[index];
        if (one.kind != OperandKind::Integer || (one.value != low && one.value != high)) fail("a scale of " + text() + " is 1 or -1, a transposition 0 or 1");
        return one.value;
    };
    if (scales) {
        if (constant_of(4, -1, 1) < 0) mode |= kNegatesA;
        if (constant_of(5, -1, 1) < 0) mode |= kNegatesB;
    }
    if (transposes == 2 && constant_of(6, 0, 1)) mode |= kTransposesA;
    if (transposes && constant_of(5 + transposes, 0, 1)) mode |= kTransposesB;
    insn_.imm = n;
    insn_.mode = static_cast<uint8_t>(mode);
    insn_.converged = true;
}

}  // namespace kw
