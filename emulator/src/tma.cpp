// cp.async.bulk and cp.async.bulk.tensor: operands of the lanes; bulk.h does the rest.
// SPDX-License-Identifier: Apache-2.0
#include "access.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

// Operand words lie in Kernel::ext: addresses, then coordinates or the size, then the addresses' offsets.
// Insn::o[0] is the BulkOp, o[1] the TensorType of a reduction without a tensor, imm the number of coordinates.
constexpr uint32_t kBulkAlignment = 16, kBoxAlignment = 128;

static inline uint64_t address_of(const Warp& w, uint32_t word, uint32_t offset, int lane) {
    const int64_t more = static_cast<int32_t>(offset);
    if (word & kOperandWide) return source<uint64_t>(w, word)[lane] + static_cast<uint64_t>(more);
    return static_cast<uint32_t>(source<uint32_t>(w, word)[lane] + static_cast<uint32_t>(more));
}

// The offset in shared memory that an address stands for; false and a finding if it is none or misaligned.
static bool shared_place(Warp& w, const Insn& i, int lane, uint64_t address, uint32_t alignment, uint32_t& out) {
    const uint64_t inside = (address & kWindowMask) == kSharedWindow ? address & ~kWindowMask : address;
    if (inside >= w.block->shared_bytes) {
        report_shared_bounds(w, i, lane, inside, alignment);
        return false;
    }
    out = static_cast<uint32_t>(inside);
    if (out % alignment == 0) return true;
    report_misaligned(w, i, lane, "shared", out, alignment);
    return false;
}

static bool fits(Warp& w, const Insn& i, int lane, const TensorMap& map) {
    if (map.rank == i.imm) return true;
    report(w, i, lane, "tensor_map", "gives " + std::to_string(i.imm) + " coordinates of a tensor of " + std::to_string(map.rank) + " dimensions");
    return false;
}

static bool box_of(Warp& w, const Insn& i, int lane, const uint32_t* coordinates, uint64_t map_address, uint32_t shared, BulkCopy& copy) {
    TensorMap map;
    if (!load_tensor_map(w, i, lane, map_address, map)) return false;
    if (!fits(w, i, lane, map)) return false;
    const uint64_t bytes = box_bytes(map);
    if (bytes > w.block->shared_bytes) {
        report(w, i, lane, "out_of_bounds",
               "copies a box of " + std::to_string(bytes) + " bytes, and the block has " + std::to_string(w.block->shared_bytes) + " bytes of shared memory");
        return false;
    }
    int32_t at[kMaxTensorRank] = {};
    for (int n = 0; n < i.imm; ++n) at[n] = source<int32_t>(w, coordinates[n])[lane];
    add_box(map, at, shared, copy);
    return true;
}

void tensor_load(Warp& w, const Insn& i, Mask m) {  // dst, map, mbarrier, coordinates; offsets of the first three
    const uint32_t *o = w.ext + i.ext, *offset = o + 3 + i.imm;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        uint32_t to = 0, bar = 0;
        BulkCopy copy;
        if (!shared_place(w, i, l, address_of(w, o[0], offset[0], l), kBoxAlignment, to)) continue;
        if (!shared_place(w, i, l, address_of(w, o[2], offset[2], l), kMbarrierBytes, bar)) continue;
        if (!box_of(w, i, l, o + 3, address_of(w, o[1], offset[1], l), to, copy)) continue;
        bulk_load(w, i, static_cast<uint32_t>(l), bar, std::move(copy));
    }
}

void tensor_store(Warp& w, const Insn& i, Mask m) {  // map, src, coordinates; offsets of the first two
    const uint32_t *o = w.ext + i.ext, *offset = o + 2 + i.imm;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        uint32_t from = 0;
        BulkCopy copy;
        copy.op = static_cast<BulkOp>(i.o[0]);
        if (!shared_place(w, i, l, address_of(w, o[1], offset[1], l), kBoxAlignment, from)) continue;
        if (!box_of(w, i, l, o + 2, address_of(w, o[0], offset[0], l), from, copy)) continue;
        const TensorType t = copy.type;
        const bool is_float = t >= TensorType::F16, half = t == TensorType::F16 || t == TensorType::BF16, narrow = t == TensorType::U8 || t == TensorType::U16;
        const bool min_max = copy.op == BulkOp::Min || copy.op == BulkOp::Max, add = copy.op == BulkOp::Add;
        if (copy.op != BulkOp::Copy && (narrow || (is_float && !add && !(half && min_max)) || ((copy.op == BulkOp::Inc || copy.op == BulkOp::Dec) && t != TensorType::U32))) {
            report(w, i, l, "tensor_map", "reduces in a way that elements of the tensor's type do not have");
            continue;
        }
        bulk_store(w, i, static_cast<uint32_t>(l), std::move(copy));
    }
}

void tensor_prefetch(Warp& w, const Insn& i, Mask m) {  // map, coordinates; offset of the map
    const uint32_t* o = w.ext + i.ext;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        TensorMap map;
        if (load_tensor_map(w, i, l, address_of(w, o[0], o[1 + i.imm], l), map)) fits(w, i, l, map);
    }
}

static bool whole_chunks(Warp& w, const Insn& i, int lane, uint64_t global, uint32_t bytes) {
    if (global % kBulkAlignment) report_misaligned(w, i, lane, "global", global, kBulkAlignment);
    else if (bytes % kBulkAlignment) report(w, i, lane, "misaligned", "copies " + std::to_string(bytes) + " bytes; a bulk copy is of a multiple of 16");
    else return bytes != 0;
    return false;
}

void load(Warp& w, const Insn& i, Mask m) {  // dst, src, mbarrier, size; offsets of the first three
    const uint32_t *o = w.ext + i.ext, *offset = o + 4;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        uint32_t to = 0, bar = 0;
        const uint64_t from = address_of(w, o[1], offset[1], l);
        BulkCopy copy;
        copy.bytes = source<uint32_t>(w, o[3])[l];
        if (!shared_place(w, i, l, address_of(w, o[0], offset[0], l), kBulkAlignment, to)) continue;
        if (!shared_place(w, i, l, address_of(w, o[2], offset[2], l), kMbarrierBytes, bar)) continue;
        if (!whole_chunks(w, i, l, from, copy.bytes)) continue;
        copy.pieces.push_back({from, to, copy.bytes});
        bulk_load(w, i, static_cast<uint32_t>(l), bar, std::move(copy));
    }
}

void store(Warp& w, const Insn& i, Mask m) {  // dst, src, size; offsets of the first two
    const uint32_t *o = w.ext + i.ext, *offset = o + 3;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        uint32_t from = 0;
        const uint64_t to = address_of(w, o[0], offset[0], l);
        BulkCopy copy;
        copy.op = static_cast<BulkOp>(i.o[0]);
        copy.type = static_cast<TensorType>(i.o[1]);
        copy.bytes = source<uint32_t>(w, o[2])[l];
        if (!shared_place(w, i, l, address_of(w, o[1], offset[1], l), kBulkAlignment, from)) continue;
        if (!whole_chunks(w, i, l, to, copy.bytes)) continue;
        copy.pieces.push_back({to, from, copy.bytes});
        bulk_store(w, i, static_cast<uint32_t>(l), std::move(copy));
    }
}

void commit(Warp& w, const Insn&, Mask m) { bulk_commit(w, m); }
template <bool ReadOnly>
void wait(Warp& w, const Insn& i, Mask m) { bulk_wait(w, m, static_cast<uint32_t>(i.imm), ReadOnly); }

const Form kForms[] = {
    {"bulk.tensor.load", "", tensor_load}, {"bulk.tensor.store", "", tensor_store}, {"bulk.tensor.prefetch", "", tensor_prefetch, Fidelity::NotModelled},
    {"bulk.load", "", load}, {"bulk.store", "", store}, {"bulk.commit_group", "", commit}, {"bulk.wait_group", "i", wait<false>}, {"bulk.wait_group.read", "i", wait<true>},
};

}  // namespace

FormTable tma_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
