// Modifier bits of cvt and set (Insn::mode) and the numbers of special registers (Insn::imm of mov.special).
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace kw {

enum ConvertMode : int {
    kRoundNearest = 0, kRoundZero = 1, kRoundDown = 2, kRoundUp = 3, kRoundMask = 3,
    kSaturate = 4, kFlush = 8, kToInteger = 16, kRelu = 32, kSatFinite = 64,
};

// Bit of Insn::mode of comparisons: `set`, not `setp`. The low two bits are the boolean: none, and, or, xor.
constexpr int kSetValue = 4;

// Bits of Insn::mode of extended-precision arithmetic: the carry flag is added, is set.
constexpr int kReadsCarry = 1, kSetsCarry = 2;

// Bit of Insn::mode of cp.async: o[2] is a predicate, whose lanes read nothing and write zeros.
constexpr int kIgnoreSource = 1;

// tid, ntid, ctaid and nctaid take three numbers each: x, y, z.
enum SpecialRegister : int {
    kTid = 0, kNtid = 3, kCtaId = 6, kNctaId = 9, kLaneId = 12, kWarpId, kNwarpId, kSmId, kNsmId,
    kLaneMaskEq, kLaneMaskLt, kLaneMaskLe, kLaneMaskGe, kLaneMaskGt,
    kDynamicSmem, kTotalSmem, kClock, kClockHi, kZero, kClusterOne,
};

}  // namespace kw
