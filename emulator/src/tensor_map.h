// Tensor maps: what TMA is told of a tensor in global memory (CUDA driver API, "Tensor Map Object Management").
//
// On a GPU the 128 bytes are the hardware's own. Here they hold the fields below; a kernel that looks into them is no CUDA
// program, so nobody can tell.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base.h"

namespace kw {

constexpr uint32_t kMaxTensorRank = 5;
constexpr uint32_t kTensorMapBytes = 128, kTensorMapAlignment = 64;

// CUtensorMapDataType
enum class TensorType : uint8_t { U8, U16, U32, S32, U64, S64, F16, F32, F64, BF16 };

struct TensorMap {
    char magic[8];
    uint64_t address;
    uint64_t strides[kMaxTensorRank - 1];        // bytes, of the outer dimensions
    uint32_t last[kMaxTensorRank];               // extent less 1, for 2^32 is one
    uint16_t box[kMaxTensorRank];                // elements the box reaches over
    uint8_t steps[kMaxTensorRank];               // from one element taken to the next
    TensorType type;
    uint8_t rank;
    uint8_t swizzle_span;                        // bytes: 0, 32, 64, 128
    uint8_t fills_with_nan;
    uint32_t digest;                             // of all before it
};
static_assert(sizeof(TensorMap) <= kTensorMapBytes, "fits the driver's type");

uint32_t type_bytes(TensorType type);
inline uint32_t taken(const TensorMap& map, uint32_t dimension) {  // elements of the box along a dimension
    return (map.box[dimension] + map.steps[dimension] - 1u) / map.steps[dimension];
}
uint64_t box_bytes(const TensorMap& map);

// What cuTensorMapEncodeTiled is given.
struct TensorMapRequest {
    int type, interleave, swizzle, promotion, fill;
    uint32_t rank;
    uint64_t address;
    const uint64_t *extents, *strides;
    const uint32_t *box, *steps;
};
// Writes 128 bytes to `out`; else a Result and why.
int encode_tensor_map(const TensorMapRequest& request, void* out, std::string& message);
// Reads them back; false if they are no tensor map.
bool read_tensor_map(const void* bytes, TensorMap& out);

}  // namespace kw
