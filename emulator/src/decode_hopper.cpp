// Instructions that came with sm_90, but for those of mbarriers and wgmma: which form, and with which modifiers.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "bulk.h"
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

// Puts the operands into Kernel::ext: addresses, then values, then the addresses' offsets.
void KernelDecoder::bulk_operands(const std::string& form, const std::vector<Operand>& addresses, const std::vector<Operand>& values) {
    emit(form, {});
    std::vector<uint32_t> words, offsets;
    for (const Operand& address : addresses) {
        Operand plain = address;
        plain.items.clear();  // the coordinates
        encode_address(plain, words);
        offsets.push_back(static_cast<uint32_t>(insn_.imm));
    }
    for (const Operand& value : values) words.push_back(encode('r', value, static_cast<int>(words.size())));
    insn_.imm = 0;
    insn_.ext = static_cast<uint32_t>(kernel_->ext.size());
    kernel_->ext.insert(kernel_->ext.end(), words.begin(), words.end());
    kernel_->ext.insert(kernel_->ext.end(), offsets.begin(), offsets.end());
    for (RegisterUse& use : pending_) {
        use.in_ext = true;
        use.word += insn_.ext;
    }
}

// cp.async.bulk and cp.reduce.async.bulk, with and without a tensor
void KernelDecoder::bulk(Parts parts) {
    need_target(90);
    const bool reduces = take(parts, "reduce");
    if (parts.size() < 3 || parts[1] != "async" || parts[2] != "bulk") unknown();
    parts.erase(parts.begin(), parts.begin() + 2);  // "bulk" is what is left of the name
    std::vector<Operand> operands = statement_->operands;
    if (parts.size() == 2 && parts[1] == "commit_group" && !reduces) return emit("bulk.commit_group", operands);
    if (parts.size() > 1 && parts[1] == "wait_group" && !reduces) {
        const bool read = take(parts, "read");
        if (parts.size() != 2) unknown();
        emit(read ? "bulk.wait_group.read" : "bulk.wait_group", operands);
        if (insn_.imm < 0) fail(text() + " takes a count of 0 or more");
        return;
    }
    const bool policy = take(parts, "L2::cache_hint"), prefetch = take(parts, "prefetch"), tensor = take(parts, "tensor");
    if (policy && !operands.empty()) operands.pop_back();
    if (take(parts, "multicast::cluster")) fail(text() + " is not supported: thread block clusters are not modelled");
    size_t rank = 0;
    if (tensor) {
        for (size_t n = 1; n <= kMaxTensorRank; ++n)
            if (take(parts, std::string(1, static_cast<char>('0' + n)) + "d")) rank = n;
        if (!rank) unknown();
        take(parts, "tile");
        for (const std::string_view part : parts)
            if (part.substr(0, 6) == "im2col" || part.substr(0, 4) == "tile") fail(text() + " is not supported: only boxes (.tile) are");
    }
    BulkOp op = BulkOp::Copy;
    TensorType type = TensorType::U8;
    if (reduces) {
        static const std::pair<std::string_view, BulkOp> kOps[] = {{"add", BulkOp::Add}, {"min", BulkOp::Min}, {"max", BulkOp::Max}, {"inc", BulkOp::Inc},
                                                                   {"dec", BulkOp::Dec}, {"and", BulkOp::And}, {"or", BulkOp::Or}, {"xor", BulkOp::Xor}};
        for (const auto& [name, value] : kOps)
            if (take(parts, name)) op = value;
        if (op == BulkOp::Copy) unknown();
        kernel_->may_wait = true;  // as other atomics: its blocks run on one host thread
        if (!tensor) {
            const bool rounds = !take(parts, "noftz");
            static const std::pair<std::string_view, TensorType> kTypes[] = {
                {"u32", TensorType::U32}, {"s32", TensorType::S32}, {"u64", TensorType::U64}, {"s64", TensorType::S64}, {"b32", TensorType::U32},
                {"b64", TensorType::U64}, {"f16", TensorType::F16}, {"bf16", TensorType::BF16}, {"f32", TensorType::F32}, {"f64", TensorType::F64}};
            bool known = false;
            for (const auto& [name, value] : kTypes)
                if (take(parts, name)) type = value, known = true;
            const bool half = type == TensorType::F16 || type == TensorType::BF16, add = op == BulkOp::Add, min_max = op == BulkOp::Min || op == BulkOp::Max;
            if (!known || rounds == (half && add) || (type >= TensorType::F16 && !add && !(half && min_max))) unknown();
            if ((op == BulkOp::Inc || op == BulkOp::Dec) && type != TensorType::U32) unknown();
        }
    }
    const auto addresses = [&operands, this](std::initializer_list<size_t> which) {
        std::vector<Operand> out;
        for (const size_t n : which) {
            if (n >= operands.size() || operands[n].kind != OperandKind::Address) fail("an operand of " + text() + " must be an address in brackets");
            out.push_back(operands[n]);
        }
        return out;
    };
    const auto coordinates = [&operands, rank, this](size_t which) {
        if (which >= operands.size() || operands[which].items.size() != 1 || operands[which].items[0].kind != OperandKind::Vector || operands[which].items[0].items.size() != rank)
            fail(text() + " takes a tensor map and " + std::to_string(rank) + " coordinates");
        return operands[which].items[0].items;
    };
    const auto count = [&operands, this](size_t wanted) {
        if (operands.size() != wanted) fail(text() + " has the wrong number of operands");
    };
    const auto is = [&parts](std::initializer_list<std::string_view> words) { return parts.size() == words.size() + 1 && std::equal(words.begin(), words.end(), parts.begin() + 1); };
    const bool loads = is({"shared::cluster", "global", "mbarrier::complete_tx::bytes"}) || is({"shared::cta", "global", "mbarrier::complete_tx::bytes"});
    const bool stores = is({"global", "shared::cta", "bulk_group"});
    if (prefetch && !reduces && is({"L2", "global"})) {
        count(tensor ? 1 : 2);
        if (!tensor) return emit("prefetch", {});
        bulk_operands("bulk.tensor.prefetch", addresses({0}), coordinates(0));
    } else if (loads && !reduces) {
        count(tensor ? 3 : 4);
        if (tensor) bulk_operands("bulk.tensor.load", addresses({0, 1, 2}), coordinates(1));
        else bulk_operands("bulk.load", addresses({0, 1, 3}), {operands[2]});
    } else if (stores) {
        count(tensor ? 2 : 3);
        if (tensor) bulk_operands("bulk.tensor.store", addresses({0, 1}), coordinates(0));
        else bulk_operands("bulk.store", addresses({0, 1}), {operands[2]});
    } else if (is({"shared::cluster", "shared::cta", "mbarrier::complete_tx::bytes"})) {
        fail(text() + " is not supported: thread block clusters are not modelled");
    } else {
        unknown();
    }
    insn_.imm = static_cast<int32_t>(rank);
    insn_.o[0] = static_cast<uint32_t>(op);
    insn_.o[1] = static_cast<uint32_t>(type);
}

}  // namespace kw
