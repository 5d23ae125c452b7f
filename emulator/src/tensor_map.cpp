// Tensor maps: the driver's rules, and our own 128 bytes.
// SPDX-License-Identifier: Apache-2.0
#include "tensor_map.h"

#include <algorithm>
#include <cstddef>

namespace kw {
namespace {

constexpr char kMagic[8] = {'k', 'w', 't', 'e', 'n', 's', 'o', 'r'};
constexpr uint32_t kBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2};
constexpr int kFirstUnknownType = 16;
constexpr uint32_t kSpans[] = {0, 32, 64, 128};

uint32_t digest_of(const TensorMap& map) {  // FNV-1a
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(&map);
    uint32_t hash = 2166136261u;
    for (size_t n = 0; n < offsetof(TensorMap, digest); ++n) hash = (hash ^ bytes[n]) * 16777619u;
    return hash;
}

std::string number(uint64_t value) { return std::to_string(value); }
std::string at(const char* array, uint32_t index) { return std::string(array) + "[" + number(index) + "]"; }

}  // namespace

uint32_t type_bytes(TensorType type) { return kBytes[static_cast<size_t>(type)]; }

uint64_t box_bytes(const TensorMap& map) {
    uint64_t bytes = type_bytes(map.type);
    for (uint32_t d = 0; d < map.rank; ++d) bytes *= taken(map, d);
    return bytes;
}

int encode_tensor_map(const TensorMapRequest& r, void* out, std::string& message) {
    const auto refuse = [&message](const std::string& text) {
        message = "cuTensorMapEncodeTiled: " + text;
        return static_cast<int>(kInvalidValue);
    };
    const auto unsupported = [&message](const std::string& text) {
        message = "cuTensorMapEncodeTiled: " + text;
        return static_cast<int>(kNotSupported);
    };
    if (!out || reinterpret_cast<uintptr_t>(out) % kTensorMapAlignment) return refuse("tensorMap must be aligned to 64 bytes");
    if (r.type < 0 || r.type >= kFirstUnknownType) return refuse("tensorDataType " + std::to_string(r.type) + " does not exist");
    if (r.type > static_cast<int>(TensorType::BF16)) return unsupported("tensorDataType " + std::to_string(r.type) + " (tf32, flush to zero, or packed) is not modelled");
    if (r.rank < 1 || r.rank > kMaxTensorRank) return refuse("tensorRank must be 1 to 5, got " + number(r.rank));
    if (r.interleave < 0 || r.interleave > 2) return refuse("interleave " + std::to_string(r.interleave) + " does not exist");
    if (r.interleave) return unsupported("interleaved layouts are not modelled");
    if (r.swizzle < 0 || r.swizzle > 6) return refuse("swizzle " + std::to_string(r.swizzle) + " does not exist");
    if (r.swizzle > 3) return unsupported("swizzle " + std::to_string(r.swizzle) + " needs sm_100");
    if (r.promotion < 0 || r.promotion > 3) return refuse("l2Promotion " + std::to_string(r.promotion) + " does not exist");
    if (r.fill < 0 || r.fill > 1) return refuse("oobFill " + std::to_string(r.fill) + " does not exist");
    if (!r.extents || !r.box || !r.steps || (r.rank > 1 && !r.strides)) return refuse("an array is missing");
    TensorMap map;
    std::memset(&map, 0, sizeof map);
    map.type = static_cast<TensorType>(r.type);
    map.rank = static_cast<uint8_t>(r.rank);
    const bool is_float = map.type >= TensorType::F16;
    if (r.fill && !is_float) return refuse("oobFill of NaN needs a floating-point type");
    if (r.address % 16 || !r.address) return refuse("globalAddress must be a multiple of 16");
    const uint32_t bytes = type_bytes(map.type), span = kSpans[r.swizzle];
    for (uint32_t d = 0; d < r.rank; ++d) {
        if (r.extents[d] < 1 || r.extents[d] > 1ull << 32) return refuse(at("globalDim", d) + " must be 1 to 2^32, got " + number(r.extents[d]));
        if (r.box[d] < 1 || r.box[d] > 256) return refuse(at("boxDim", d) + " must be 1 to 256, got " + number(r.box[d]));
        if (r.steps[d] < 1 || r.steps[d] > 8) return refuse(at("elementStrides", d) + " must be 1 to 8, got " + number(r.steps[d]));
        map.last[d] = static_cast<uint32_t>(r.extents[d] - 1);
        map.box[d] = static_cast<uint16_t>(r.box[d]);
        map.steps[d] = static_cast<uint8_t>(d == 0 ? 1 : r.steps[d]);  // that of the innermost dimension is ignored
    }
    for (uint32_t d = 0; d + 1 < r.rank; ++d) {
        if (r.strides[d] % 16) return refuse(at("globalStrides", d) + " must be a multiple of 16 bytes, got " + number(r.strides[d]));
        if (r.strides[d] >= 1ull << 40) return refuse(at("globalStrides", d) + " must be below 2^40, got " + number(r.strides[d]));
        map.strides[d] = r.strides[d];
    }
    const uint32_t row = r.box[0] * bytes;
    if (row % 16) return refuse("boxDim[0] of " + number(r.box[0]) + " elements is " + number(row) + " bytes; it must be a multiple of 16");
    if (span && row > span) return refuse("boxDim[0] of " + number(r.box[0]) + " elements is " + number(row) + " bytes, more than the swizzle's " + number(span));
    if (span && row < span)
        return unsupported("boxDim[0] of " + number(r.box[0]) + " elements is " + number(row) + " bytes, less than the swizzle's " + number(span) +
                           ": where its rows lie in shared memory is not documented, and not modelled");
    std::memcpy(map.magic, kMagic, sizeof kMagic);
    map.address = r.address;
    map.swizzle_span = static_cast<uint8_t>(span);
    map.fills_with_nan = static_cast<uint8_t>(r.fill);
    map.digest = digest_of(map);
    std::memset(out, 0, kTensorMapBytes);
    std::memcpy(out, &map, sizeof map);
    return kSuccess;
}

bool read_tensor_map(const void* bytes, TensorMap& out) {
    std::memcpy(&out, bytes, sizeof out);
    return !std::memcmp(out.magic, kMagic, sizeof kMagic) && out.digest == digest_of(out);
}

}  // namespace kw
