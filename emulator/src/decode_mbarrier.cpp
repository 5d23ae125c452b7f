// mbarrier instructions, and cp.async.mbarrier.arrive: which form, and with which modifiers.
// SPDX-License-Identifier: Apache-2.0
#include "decode.h"
#include "mbarrier_state.h"
#include "parts.h"

namespace kw {
void KernelDecoder::mbarrier(Parts parts) {
    const bool copies = parts[0] == "cp";  // cp.async.mbarrier.arrive
    if (has(parts, "expect_tx") || has(parts, "complete_tx")) fail(text() + " is not supported: transaction counts of mbarriers are not modelled");
    if (has(parts, "shared::cluster")) fail(text() + " is not supported: thread block clusters are not modelled");
    if (parts.size() < 3 || !take(parts, "b64")) unknown();
    std::vector<Operand> operands = statement_->operands;
    if (parts[1] == "pending_count") {
        if (parts.size() != 2) unknown();
        return emit("mbarrier.pending_count", operands);
    }
    int mode = take(parts, "shared") || take(parts, "shared::cta") ? 0 : kGenericAddress;
    if (copies) {
        if (take(parts, "noinc")) mode |= kNoIncrement;
        if (parts.size() != 4 || parts[1] != "async" || parts[3] != "arrive") unknown();
        emit("cp.async.mbarrier.arrive", operands);
        insn_.mode = static_cast<uint8_t>(mode);
        return;
    }
    const std::string_view what = parts[1];
    const bool waits = what == "test_wait" || what == "try_wait", arrives = what == "arrive" || what == "arrive_drop";
    if (waits || arrives) {
        const bool orders = take(parts, waits ? "acquire" : "release"), relaxed = !orders && take(parts, "relaxed");
        const bool scoped = take(parts, "cta") || take(parts, "cluster");
        if (relaxed && !scoped) unknown();
        if (relaxed) mode |= kRelaxed, need_target(90);
    }
    if (what == "init" || what == "inval") {
        if (parts.size() != 2) unknown();
        emit("mbarrier." + std::string(what), operands);
    } else if (arrives) {
        if (what == "arrive_drop") mode |= kDrop;
        if (take(parts, "noComplete")) mode |= kNoComplete;
        if (parts.size() != 2) unknown();
        if (operands.size() == 2 && (mode & kNoComplete)) fail(text() + " takes a count");
        if (operands.size() == 3 && !(mode & kNoComplete)) need_target(90);
        emit(operands.size() == 3 ? "mbarrier.arrive.count" : "mbarrier.arrive", operands);
    } else if (waits) {
        if (what == "try_wait") {
            need_target(90);
            mode |= kMayTimeOut;
            if (operands.size() == 4) operands.pop_back();  // the time limit is a hint
        }
        const bool parity = take(parts, "parity");
        if (parts.size() != 2) unknown();
        if (parity) mode |= kParity;
        emit(parity ? "mbarrier.wait.parity" : "mbarrier.wait", operands);
    } else {
        unknown();
    }
    insn_.mode = static_cast<uint8_t>(mode);
}

}  // namespace kw
