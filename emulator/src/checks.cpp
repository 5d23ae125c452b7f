// Findings: what is reported, and the slow paths of the memory checks.
// SPDX-License-Identifier: Apache-2.0
#include "checks.h"

#include <algorithm>

namespace kw {
namespace {

constexpr size_t kMaxFindings = 100;

std::string hex(uint64_t value) {
    static const char* kDigits = "0123456789abcdef";
    std::string out;
    do out.insert(out.begin(), kDigits[value & 15u]);
    while (value >>= 4);
    return "0x" + out;
}

std::string source_text(const Launch& launch, uint32_t pc) {
    const SourceLine& where = launch.kernel->where[pc];
    std::string out, raw = launch.kernel->module->text.substr(where.text_begin, where.text_end - where.text_begin);
    for (char c : raw) {  // one line, single spaces
        const bool space = c == ' ' || c == '\t' || c == '\n' || c == '\r';
        if (!space) out += c;
        else if (!out.empty() && out.back() != ' ') out += ' ';
    }
    while (!out.empty() && out.back() == ' ') out.pop_back();
    return out.size() > 160 ? out.substr(0, 157) + "..." : out;
}

std::string file_of(const Launch& launch, int file, int line) {
    const auto& files = launch.kernel->module->files;
    return line && static_cast<size_t>(file) < files.size() ? files[static_cast<size_t>(file)] : std::string();
}
// "fa.cu:44", or nothing
std::string place_in(const Launch& launch, int file, int line) {
    const std::string path = file_of(launch, file, line);
    return path.empty() ? path : path.substr(path.find_last_of('/') + 1) + ":" + std::to_string(line);
}
// " (inlined from copy.cuh:12)", or nothing
std::string inlined_from(const Launch& launch, const SourceLine& where) {
    const std::string inner = place_in(launch, where.inner_file, where.inner_line);
    return inner.empty() ? inner : " (inlined from " + inner + ")";
}

// Written without address + bytes, which wraps around for a small negative offset from a null pointer.
bool ends_inside(const Declared& range, uint64_t address, uint32_t bytes) { return address < range.end && range.end - address >= bytes; }

void report_mbarrier_access(Warp& warp, const Insn& insn, int lane, const char* verb, uint32_t offset, uint32_t bytes) {
    report(warp, insn, lane, "mbarrier",
           std::string(verb) + " " + std::to_string(bytes) + " bytes of shared memory at offset " + std::to_string(offset) +
               ", in which an mbarrier lives; only mbarrier instructions may touch it until mbarrier.inval");
}

}  // namespace

std::string describe(const Launch& launch, uint32_t pc) {
    const SourceLine& where = launch.kernel->where[pc];
    std::string out = "PTX line " + std::to_string(where.ptx_line) + " `" + source_text(launch, pc) + "`";
    const std::string outer = place_in(launch, where.cuda_file, where.cuda_line);
    if (!outer.empty()) out += " (" + outer + ")";
    return out + inlined_from(launch, where);
}

void stop(Launch& launch, int result, const std::string& message) {
    launch.message = message;
    throw LaunchStopped{result};
}

void report_at(Warp& warp, uint32_t pc, int lane, const char* kind, const std::string& text) {
    Launch& launch = *warp.launch;
    const SourceLine& where = launch.kernel->where[pc];
    for (const Finding& old : launch.findings)  // collecting: one finding for each kind and place
        if (old.ptx_line == where.ptx_line && old.kind == kind && launch.config.collect) return;
    Finding finding;
    finding.kind = kind;
    finding.text = text + inlined_from(launch, where);
    finding.ptx_line = where.ptx_line;
    finding.cuda_file = file_of(launch, where.cuda_file, where.cuda_line);
    finding.cuda_line = finding.cuda_file.empty() ? 0 : where.cuda_line;
    std::copy(warp.block->id, warp.block->id + 3, finding.block);
    finding.warp = static_cast<int>(warp.index);
    finding.lane = lane;
    launch.findings.push_back(finding);
    std::string message = std::string(kind) + " in kernel " + launch.kernel->name + " at " + describe(launch, pc) + ", block (" +
                          std::to_string(finding.block[0]) + ", " + std::to_string(finding.block[1]) + ", " + std::to_string(finding.block[2]) +
                          "), warp " + std::to_string(finding.warp);
    if (lane >= 0) {
        const uint32_t l = static_cast<uint32_t>(lane);
        message += ", lane " + std::to_string(lane) + " (thread " + std::to_string(warp.tid[0][l]) + ", " + std::to_string(warp.tid[1][l]) + ", " + std::to_string(warp.tid[2][l]) + ")";
    }
    message += ": " + text;
    if (launch.message.empty()) launch.message = message;
    if (!launch.config.collect) stop(launch, kLaunchFailed, message);
    if (launch.findings.size() >= kMaxFindings) stop(launch, kLaunchFailed, launch.message + " (and more: stopped after " + std::to_string(kMaxFindings) + " findings)");
}

void report(Warp& warp, const Insn& insn, int lane, const char* kind, const std::string& text) {
    report_at(warp, static_cast<uint32_t>(&insn - warp.launch->kernel->code.data()), lane, kind, text);
}

bool range_covers(Launch& launch, uint64_t low, uint64_t high, uint32_t bytes, int access) {
    const size_t count = launch.declared.size();
    for (size_t n = 0; n < count; ++n) {
        const size_t at = launch.last_range + n < count ? launch.last_range + n : launch.last_range + n - count;
        const Declared& range = launch.declared[at];
        if (low < range.begin || !ends_inside(range, high, bytes) || (range.access & access) != access) continue;
        if (!range.written.empty()) return false;  // per-byte state
        launch.last_range = at;
        return true;
    }
    return false;
}

bool check_global(Warp& warp, const Insn& insn, int lane, uint64_t address, uint32_t bytes, int access) {
    Launch& launch = *warp.launch;
    Declared* tracked = nullptr;
    const Declared *forbidden = nullptr, *nearest = nullptr;
    uint64_t distance = ~0ull;
    for (Declared& range : launch.declared) {
        if (address >= range.begin && ends_inside(range, address, bytes)) {
            if ((range.access & access) != access) {
                forbidden = &range;
                continue;
            }
            if (range.written.empty()) return true;
            tracked = &range;
        }
        const uint64_t away = address >= range.end ? address - range.end : range.begin > address ? range.begin - address : 0;
        if (away < distance) distance = away, nearest = &range;
    }
    if (tracked) {
        uint8_t* written = tracked->written.data() + (address - tracked->begin);
        const bool unread = (access & kRead) && launch.checks.init && std::find(written, written + bytes, 0) != written + bytes;
        if (access & kWrite) std::fill(written, written + bytes, 1);
        if (!unread) return true;
        report(warp, insn, lane, "uninitialised_read",
               "reads " + std::to_string(bytes) + " bytes of global memory, at byte " + std::to_string(address - tracked->begin) +
                   " of an array declared uninitialised, that this launch has not written");
        return true;
    }
    const char* what = access == kRead ? "reads " : access == kWrite ? "writes " : "updates ";
    if (forbidden) {
        report(warp, insn, lane, "access",
               std::string(what) + std::to_string(bytes) + " bytes at byte " + std::to_string(address - forbidden->begin) + " of an array declared " +
                   (forbidden->access == kRead ? "read-only" : "write-only"));
        return false;
    }
    std::string text = std::string(what) + std::to_string(bytes) + " bytes of global memory at " + hex(address);
    if (!nearest) text += "; no array was declared for this launch";
    else if (address >= nearest->end) text += ", " + std::to_string(address - nearest->end) + " bytes past the end of the nearest array (" + std::to_string(nearest->end - nearest->begin) + " bytes)";
    else if (address >= nearest->begin) text += ", across the end of an array of " + std::to_string(nearest->end - nearest->begin) + " bytes (it starts at byte " + std::to_string(address - nearest->begin) + ")";
    else text += ", " + std::to_string(nearest->begin - address) + " bytes before the nearest array (" + std::to_string(nearest->end - nearest->begin) + " bytes)";
    report(warp, insn, lane, "out_of_bounds", text + ". A bounds test or the array's declared size is wrong");
    return false;
}

void report_shared_bounds(Warp& warp, const Insn& insn, int lane, uint64_t offset, uint32_t bytes) {
    report(warp, insn, lane, "out_of_bounds",
           "accesses " + std::to_string(bytes) + " bytes of shared memory at offset " + std::to_string(offset) + ", the block has " +
               std::to_string(warp.block->shared_bytes) + " bytes (static and dynamic); an index is wrong or the launch asks for too little");
}

void report_misaligned(Warp& warp, const Insn& insn, int lane, const char* space, uint64_t address, uint32_t bytes) {
    report(warp, insn, lane, "misaligned",
           std::string("accesses ") + std::to_string(bytes) + " bytes of " + space + " memory at " + hex(address) + ", which is not a multiple of " +
               std::to_string(bytes) + "; the hardware would fault");
}

void report_shared_read(Warp& warp, const Insn& insn, int lane, uint32_t offset, uint32_t bytes) {
    Launch& launch = *warp.launch;
    const uint8_t* shadow = warp.block->shadow + offset;
    uint32_t bad = 0;
    while (bad < bytes && shadow[bad] == kWritten) ++bad;
    const uint32_t at = offset + bad;
    if (shadow[bad] == kUnwritten) {
        if (!launch.checks.init) return;
        report(warp, insn, lane, "uninitialised_read",
               "reads byte " + std::to_string(at) + " of shared memory, which no thread of the block has written");
        return;
    }
    if (shadow[bad] == kMbarrier) {
        if (launch.checks.barrier) report_mbarrier_access(warp, insn, lane, "reads", offset, bytes);
        return;
    }
    if (!launch.checks.async) return;
    for (const Warp& owner : warp.block->warps) {
        for (const PendingCopy& copy : owner.copies) {
            for (Mask left = copy.lanes; left; left &= left - 1) {
                const int l = __builtin_ctz(left);
                if (at < copy.dst[l] || at >= copy.dst[l] + copy.bytes) continue;
                const uint32_t committed = owner.groups_committed[l];
                std::string text = "reads byte " + std::to_string(at) + " of shared memory before the cp.async that fills it has completed: the copy at " +
                                   describe(launch, copy.pc) + " by thread " + std::to_string(owner.tid[0][l]);
                const std::string tracked = tracked_by(owner, static_cast<uint32_t>(l), copy.serial);
                if (!tracked.empty()) text += " is tracked by " + tracked + ", whose phase must be waited for with mbarrier.test_wait or try_wait";
                else if (copy.group >= committed) text += " is in no committed group; cp.async.commit_group and a cp.async.wait_group must come first";
                else
                    text += " needs that thread to execute cp.async.wait_group " + std::to_string(committed - copy.group - 1) +
                            " or less (its group has " + std::to_string(committed - copy.group - 1) + " younger), and a barrier if other threads read";
                report(warp, insn, lane, "async_read", text);
                return;
            }
        }
    }
    const std::string bulk = bulk_filling(launch, *warp.block, at);
    report(warp, insn, lane, "async_read", "reads byte " + std::to_string(at) + " of shared memory before the " +
               (bulk.empty() ? "cp.async that fills it has completed" : "bulk copy that fills it has completed: " + bulk));
}

void check_shared_write(Warp& warp, const Insn& insn, int lane, uint32_t offset, uint32_t bytes) {
    const Launch& launch = *warp.launch;
    const uint8_t *begin = warp.block->shadow + offset, *end = begin + bytes;
    if (launch.checks.barrier && std::find(begin, end, kMbarrier) != end) report_mbarrier_access(warp, insn, lane, "writes", offset, bytes);
    if (!launch.checks.async || std::find(begin, end, kInFlight) == end) return;
    const uint32_t at = offset + static_cast<uint32_t>(std::find(begin, end, kInFlight) - begin);
    const std::string bulk = bulk_filling(launch, *warp.block, at);
    report(warp, insn, lane, "async_write",
           "writes " + std::to_string(bytes) + " bytes of shared memory at offset " + std::to_string(offset) +
               " while an earlier " + (bulk.empty() ? "cp.async to them is still in flight; wait for it with cp.async.wait_group, or for the mbarrier that tracks it, first" :
           "bulk copy to them is still in flight: " + bulk));
}

}  // namespace kw
