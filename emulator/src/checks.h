// Findings: what is reported, and the slow paths of the memory checks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "machine.h"

namespace kw {

// Records a finding about `insn` of `warp`; throws LaunchStopped unless findings are collected.
void report(Warp& warp, const Insn& insn, int lane, const char* kind, const std::string& text);
void report_at(Warp& warp, uint32_t pc, int lane, const char* kind, const std::string& text);

// Ends the launch with a message that is no finding.
[[noreturn]] void stop(Launch& launch, int result, const std::string& message);

// "kernel.ptx line 17 `ld.global...` (fa.cu:44)" for messages that name an instruction.
std::string describe(const Launch& launch, uint32_t pc);

// Whether [address, address + bytes) lies in one declared range that allows `access`; notes writes and reports reads of
// unwritten bytes. `false`: the access was reported and must be skipped.
bool check_global(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, int access);
// The whole warp's accesses, of `bytes` each and the outermost at `low` and `high`, lie in one range that needs no per-byte
// state: nothing more to check.
bool range_covers(Launch& launch, uint64_t low, uint64_t high, uint32_t bytes, int access);

void report_shared_bounds(Warp& warp, const Insn& insn, int lane, uint64_t offset, uint32_t bytes);
void report_misaligned(Warp& warp, const Insn& insn, int lane, const char* space, uint64_t address, uint32_t bytes);
// Some byte of [offset, offset + bytes) is not kWritten: says why, or nothing if that check is off.
void report_shared_read(Warp& warp, const Insn& insn, int lane, uint32_t offset, uint32_t bytes);
// A write, or a copy, to bytes of which some are not kWritten: reports a copy in flight to them, or an mbarrier there.
void check_shared_write(Warp& warp, const Insn& insn, int lane, uint32_t offset, uint32_t bytes);

}  // namespace kw
