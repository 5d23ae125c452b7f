// mbarrier instructions, and cp.async.mbarrier.arrive: which form, and with which modifiers.
// SPDX-License-Identifier: Apache-2.0
#include "decode.h"
#include "mbarrier_state.h"
#include "parts.h"

namespace kw {
void KernelDecoder::mbarrier(Parts parts) {
    const bool copies = parts[0] == "cp";  // cp.async.mbarrier.arrive
    if (parts.size() < 3 || !take(parts, "b64")) unknown();
    std::vector<Operand> operands = statement_->operands;
    if (parts[1] == "pending_count") {
        if (parts.size() != 2) unknown();
        return emit("mbarrier.pending_count", operands);
    }
    const bool remote = take(parts, "shared::cluster");  // a block alone is a cluster: its own shared memory
    if (remote) need_target(90);
    int mode = remote || take(parts, "shared") || take(parts, "shared::cta") ? 0 : kGenericAddress;
    if (remote && (copies || parts[1] == "init" || parts[1] == "inval" || parts[1] == "test_wait" || parts[1] == "try_wait")) unknown();
    if (copies) {
        if (take(parts, "noinc")) mode |= kNoIncrement;
        if (parts.size() != 4 || parts[1] != "async" || parts[3] != "arrive") unknown();
        emit("cp.async.mbarrier.arrive", operands);
        insn_.mode = static_cast<uint8_t>(mode);
        return;
    }
    const std::string_view what = parts[1];
    const bool waits = what == "test_wait" || what == "try_wait", arrives = what == "arrive" || what == "arrive_drop";
    if (what == "expect_tx" || what == "complete_tx") {
        need_target(90);
        const bool relaxed = take(parts, "relaxed"), scoped = take(parts, "cta") || take(parts, "cluster");
        if (parts.size() != 2 || relaxed != scoped) unknown();
        emit("mbarrier." + std::string(what), operands);
        insn_.mode = static_cast<uint8_t>(mode);
        return;
    }
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
        const bool expects = take(parts, "expect_tx");
        if (parts.size() != 2 || (expects && (mode & kNoComplete))) unknown();
        if (remote && (operands.empty() || operands[0].kind != OperandKind::Sink)) fail(text() + " gives no state: its destination is _");
        if (expects) {
            need_target(90);
            mode |= kExpects;
            emit("mbarrier.arrive.bytes", operands);
            insn_.mode = static_cast<uint8_t>(mode);
            return;
        }
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
