// Sizes and small helpers that every part of the emulator shares.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace kw {

using Mask = uint32_t;  // one bit per lane of a warp

constexpr int kLanes = 32;
constexpr Mask kFullMask = 0xffffffffu;

// Generic addresses of the windows that are not global memory (PTX ISA, "Generic Addressing").
// Host user addresses never have the upper byte set, so the windows cannot collide with tensors.
constexpr uint64_t kWindowMask = 0xffff000000000000ull;
constexpr uint64_t kSharedWindow = 0xff01000000000000ull;
constexpr uint64_t kLocalWindow = 0xff02000000000000ull;
constexpr uint64_t kParamWindow = 0xff03000000000000ull;

// Values of CUresult (cuda.h) that are used here.
enum Result : int {
    kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kInvalidDevice = 101, kInvalidImage = 200, kInvalidContext = 201,
    kNoBinary = 209, kInvalidPtx = 218, kInvalidHandle = 400, kNotFound = 500, kLaunchFailed = 719, kNotSupported = 801, kUnknown = 999,
};

// A PTX text that cannot be loaded; `line` is 1-based, 0 where no line applies.
struct LoadError : std::runtime_error {
    int line;
    LoadError(int line_, const std::string& text) : std::runtime_error(text), line(line_) {}
};

template <class To, class From>
inline To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To out;
    std::memcpy(&out, &value, sizeof out);
    return out;
}

inline uint64_t align_up(uint64_t value, uint64_t alignment) {
    return (value + alignment - 1) / alignment * alignment;
}

}  // namespace kw
