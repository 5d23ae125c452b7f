// cp.async and its groups (PTX ISA, "Asynchronous copy"). Groups are per thread. With the check on, bytes land at the
// wait that covers them and not before, and their destination is unreadable until then; without it they land at once.
// SPDX-License-Identifier: Apache-2.0
#include "access.h"
#include "convert_modes.h"
#include "tables.h"

namespace kw {
namespace KW_ISA {
namespace {

static inline void land(char* d, const char* s, uint32_t bytes, uint32_t src_bytes) {
    if (src_bytes == bytes) {
        switch (bytes) {
            case 16: std::memcpy(d, s, 16); return;
            case 8: std::memcpy(d, s, 8); return;
            default: std::memcpy(d, s, 4); return;
        }
    }
    if (src_bytes) std::memcpy(d, s, src_bytes);
    std::memset(d + src_bytes, 0, bytes - src_bytes);
}

// o[0] destination, o[1] source, o[2] src-size, ignore-src or kNoOperand, o[3] offset of the source address; imm offset of the destination.
template <uint32_t Bytes>
void cp_async(Warp& w, const Insn& i, Mask m) {
    Launch& launch = *w.launch;
    PendingCopy copy;
    alignas(64) uint64_t source_address[kLanes];
    shared_offsets(w, i.o[0], i.imm, copy.dst);
    lane_addresses(w, i.o[1], static_cast<int32_t>(i.o[3]), source_address);
    if (i.o[2] == kNoOperand) {
        KW_LANES copy.src_bytes[l] = Bytes;
    } else if (i.mode & kIgnoreSource) {
        const Mask ignored = read_predicate(w, i.o[2]);
        KW_LANES copy.src_bytes[l] = (ignored >> l) & 1u ? 0 : Bytes;
    } else {
        const uint32_t* size = source<uint32_t>(w, i.o[2]);
        KW_LANES copy.src_bytes[l] = size[l] < Bytes ? size[l] : Bytes;
    }
    m = shared_in_bounds(w, i, m, copy.dst, Bytes);
    Mask whole = 0, part = 0;  // lanes that read all of their bytes, or some of them; the others read nothing
    alignas(64) uint32_t set[kLanes];
    KW_LANES set[l] = copy.src_bytes[l] == Bytes ? 0xffffffffu : 0u;
    whole = to_mask(set) & m;
    if (whole != m) {
        for (Mask left = m & ~whole; left; left &= left - 1)
            if (copy.src_bytes[__builtin_ctz(left)]) part |= left & (0u - left);
    }
    if (launch.checks.memory) {
        const Mask ok = global_in_bounds(w, i, whole, source_address, Bytes, kRead);
        m &= ~(whole & ~ok);
        whole = ok;
        for (Mask left = part; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            if (!check_global(w, i, l, source_address[l], copy.src_bytes[l], kRead)) m &= ~(1u << l), part &= ~(1u << l);
        }
    }
    if (launch.counting) {
        Counters& c = launch.counters;
        uint64_t bytes = static_cast<uint64_t>(__builtin_popcount(whole)) * Bytes;
        for (Mask left = part; left; left &= left - 1) bytes += copy.src_bytes[__builtin_ctz(left)];
        c.cp_async_bytes += bytes;
        c.global_load_bytes += bytes;
        c.global_load_sectors += count_sectors(source_address, whole | part);
        c.global_load_sectors_ideal += (bytes + 31) / 32;
        count_wavefronts(copy.dst, m, Bytes, c.cp_async_wavefronts, c.cp_async_wavefronts_ideal);
    }
    if (launch.checks.race && launch.global_races.is_active()) order_global(w, i, whole | part, source_address, Bytes, kRead);
    char* shared = w.block->shared;
    if (!launch.checks.async) {
        launch.changed = true;
        for (Mask left = m; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            land(shared + copy.dst[l], reinterpret_cast<const char*>(source_address[l]), Bytes, copy.src_bytes[l]);
            if (launch.shadowed) {
                check_shared_write(w, i, l, copy.dst[l], Bytes);
                std::memset(w.block->shadow + copy.dst[l], kWritten, Bytes);
            }
            if (launch.checks.race) w.block->races.write(w, i, static_cast<uint32_t>(l), copy.dst[l], Bytes);
        }
        return;
    }
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        uint8_t* shadow = w.block->shadow + copy.dst[l];
        if (__builtin_expect(any_in_use(shadow, Bytes), 0)) check_shared_write(w, i, l, copy.dst[l], Bytes);
        std::memset(shadow, kInFlight, Bytes);
        if (launch.checks.race) w.block->races.issue_copy(w, i, static_cast<uint32_t>(l), copy.dst[l], Bytes);
    }
    copy.bytes = Bytes;
    copy.serial = w.copies_issued++;
    copy.pc = static_cast<uint32_t>(&i - launch.kernel->code.data());
    std::memcpy(copy.src, source_address, sizeof copy.src);
    // One record per group number among the lanes; lanes that always ran together share one.
    while (m) {
        const uint32_t group = w.groups_committed[__builtin_ctz(m)];
        const Mask same = mask_of([&w, group](int l) { return w.groups_committed[l] == group; }) & m;
        copy.group = group;
        copy.lanes = same;
        w.copies.push_back(copy);
        m &= ~same;
    }
}

// Lands, for the lanes of m, the copies whose group number is below the lane's committed count minus `keep`.
static void land_groups(Warp& w, Mask m, uint32_t keep, bool all) {
    Block& block = *w.block;
    if (__builtin_expect(!w.tracked.empty(), 0)) wait_for_tracked(w, m, all, keep);
    bool some_done = false;
    for (PendingCopy& copy : w.copies) {
        Mask now = 0;
        const Mask candidates = copy.lanes & m;
        if (!candidates) continue;
        if (all) now = candidates;
        else now = mask_of([&](int l) { return w.groups_committed[l] >= keep && copy.group < w.groups_committed[l] - keep; }) & candidates;
        for (Mask left = now; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            land(block.shared + copy.dst[l], reinterpret_cast<const char*>(copy.src[l]), copy.bytes, copy.src_bytes[l]);
            std::memset(block.shadow + copy.dst[l], kWritten, copy.bytes);
            if (w.launch->checks.race) w.last_landing[l] = block.races.land_copy(w, copy.pc, static_cast<uint32_t>(l), copy.dst[l], copy.bytes);
        }
        copy.lanes &= ~now;
        some_done |= copy.lanes == 0;
    }
    if (!some_done) return;
    w.launch->changed = true;
    size_t kept = 0;
    for (size_t n = 0; n < w.copies.size(); ++n) {
        if (!w.copies[n].lanes) continue;
        if (kept != n) w.copies[kept] = w.copies[n];
        ++kept;
    }
    w.copies.resize(kept);
}

void commit_group(Warp& w, const Insn&, Mask m) {
    map(w.groups_committed, m, [&w](int l) { return w.groups_committed[l] + 1; });
}
void wait_group(Warp& w, const Insn& i, Mask m) {
    if (!w.copies.empty() || !w.tracked.empty()) land_groups(w, m, static_cast<uint32_t>(i.imm), false);
}
void wait_all(Warp& w, const Insn&, Mask m) {
    if (!w.copies.empty() || !w.tracked.empty()) land_groups(w, m, 0, true);
}

const Form kForms[] = {
    {"cp.async.4", "", cp_async<4>}, {"cp.async.8", "", cp_async<8>}, {"cp.async.16", "", cp_async<16>},
    {"cp.async.commit_group", "", commit_group}, {"cp.async.wait_group", "i", wait_group}, {"cp.async.wait_all", "", wait_all},
};

}  // namespace

FormTable async_forms() { return {kForms, sizeof kForms / sizeof *kForms}; }

}  // namespace KW_ISA
}  // namespace kw
