// Copies of the async proxy: cp.async.bulk, cp.async.bulk.tensor (TMA) and their reductions (PTX ISA, "Data Movement and
// Conversion Instructions: Asynchronous copy").
//
// Copies to shared memory land when a wait polls the mbarrier that counts their bytes and they are what is missing: as late
// as they may. With a seed some land at once, before their bytes are expected even. Copies to global memory read shared
// memory when their thread waits for that (cp.async.bulk.wait_group.read) and land when it waits for all of it. Without the
// check `async` all happens at once. In the race check a load is a write of its mbarrier's component of the clocks, and a
// store is a read by a component of the issuing thread's own, whose sequence number is the group.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base.h"
#include "tensor_map.h"

namespace kw {

struct Block;
struct Insn;
struct Launch;
struct Mbarrier;
struct Warp;

enum class BulkOp : uint8_t { Copy, Add, Min, Max, Inc, Dec, And, Or, Xor };

// Bytes that lie side by side in both memories. global 0: outside the tensor.
struct BulkPiece {
    uint64_t global;
    uint32_t shared, bytes;
};

struct BulkCopy {
    std::vector<BulkPiece> pieces;
    std::vector<char> data;  // what a store has read
    uint32_t pc = 0, warp = 0, lane = 0;
    uint32_t bytes = 0;      // that an mbarrier counts
    uint32_t mbarrier = 0;   // index among the block's
    uint32_t group = 0;      // of the thread
    uint32_t component = 0;  // of the race check's clocks
    bool loads = false, has_read = false, fills_with_nan = false;
    uint8_t layout = 0;  // 1 + the swizzle's bytes, of a box; else 0
    BulkOp op = BulkOp::Copy;
    TensorType type = TensorType::U8;
};

// A box of a tensor at `coordinates`, no larger than a block's shared memory, where it lies from `shared` on.
void add_box(const TensorMap& map, const int32_t* coordinates, uint32_t shared, BulkCopy& copy);
// The tensor map at a generic address; false: the access was reported.
bool load_tensor_map(Warp& w, const Insn& i, int lane, uint64_t address, TensorMap& out);

void bulk_load(Warp& w, const Insn& i, uint32_t lane, uint32_t mbarrier_offset, BulkCopy&& copy);
void bulk_store(Warp& w, const Insn& i, uint32_t lane, BulkCopy&& copy);
void bulk_commit(Warp& w, Mask m);
void bulk_wait(Warp& w, Mask m, uint32_t keep, bool read_only);

// Lands the loads that bring an mbarrier the bytes its phase waits for, if those in flight can.
void bulk_settle(Launch& launch, Block& block, Mbarrier& b);
// Bytes of loads in flight that an mbarrier counts.
uint64_t bulk_in_flight(const Block& block, const Mbarrier& b);
// The load that fills a byte of shared memory, as text; empty if none does.
std::string bulk_filling(const Launch& launch, const Block& block, uint32_t at);
// The block has ended: reports what still reads or writes its shared memory, and lands stores.
void bulk_finish(Launch& launch, Block& block);

}  // namespace kw
