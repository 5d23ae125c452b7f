// Instructions that came with sm_90 and are neither copies nor matrix products: which form, and with which modifiers.
// SPDX-License-Identifier: Apache-2.0
#include "decode.h"
#include "parts.h"

namespace kw {

// setmaxnreg.inc/dec.sync.aligned.u32 count
void KernelDecoder::set_registers(Parts parts) {
    need_specific(90);
    const bool more = take(parts, "inc"), less = !more && take(parts, "dec");
    if ((!more && !less) || !take(parts, "sync") || !take(parts, "aligned") || !take(parts, "u32") || parts.size() != 1) unknown();
    if (statement_->operands.size() != 1 || operand(0).kind != OperandKind::Integer) fail(text() + " takes a constant");
    const int64_t count = operand(0).value;
    if (count < 24 || count > 256 || count % 8) fail(text() + " takes a multiple of 8 from 24 to 256, not " + std::to_string(count));
    form_only(std::string(statement_->opcode), Fidelity::Exact);
    insn_.kind = Kind::SetRegisters;
    insn_.imm = static_cast<int32_t>(count);
    insn_.mode = more;
    insn_.converged = true;
}

void KernelDecoder::fence(Parts parts) {
    if (!statement_->operands.empty() && !(parts.size() > 2 && parts[2] == "tensormap::generic")) fail(text() + " takes no operands");
    if (parts.size() > 1 && parts[1] == "mbarrier_init") {
        if (parts.size() != 4 || parts[2] != "release" || parts[3] != "cluster") unknown();
        need_target(90);
        return emit("fence.mbarrier_init", {});
    }
    if (parts.size() > 2 && parts[1] == "proxy" && parts[2] != "alias") {
        need_target(90);
        if (parts[2].substr(0, 9) == "tensormap") fail(text() + " is not supported: tensor maps are not changed by kernels here");
        if (parts[2] != "async" || parts.size() > 4) unknown();
        if (parts.size() == 4 && parts[3] != "global" && parts[3] != "shared::cta" && parts[3] != "shared::cluster") unknown();
        // Global memory is not watched: such a fence does nothing here.
        return emit(parts.size() == 4 && parts[3] == "global" ? "fence" : "fence.proxy.async", {});
    }
    emit("fence", {});
}

// Launches are one after another: the grid before has ended, and what follows may start at any time.
void KernelDecoder::dependent_grids(const Parts& parts) {
    need_target(90);
    if (parts.size() != 2 || (parts[1] != "wait" && parts[1] != "launch_dependents") || !statement_->operands.empty()) unknown();
    emit("griddepcontrol", {});
}

}  // namespace kw
