// From operands to host pointers: bounds, alignment, shadow state and traffic counters of one warp-wide access.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "ast.h"
#include "checks.h"
#include "lanes.h"

namespace kw {
namespace KW_ISA {

// Addresses of all lanes: register plus the offset written in the instruction.
static inline void lane_addresses(const Warp& w, uint32_t operand, int64_t offset, uint64_t* out) {
    if (operand & kOperandWide) {
        const uint64_t* a = source<uint64_t>(w, operand);
        KW_LANES out[l] = a[l] + static_cast<uint64_t>(offset);
    } else {
        const uint32_t* a = source<uint32_t>(w, operand);
        KW_LANES out[l] = static_cast<uint32_t>(a[l] + static_cast<uint32_t>(offset));
    }
}
static inline void shared_offsets(const Warp& w, uint32_t operand, int32_t offset, uint32_t* out) {
    if (operand & kOperandWide) {
        // An address that is in no window, or further into it than 32 bits reach, is out of bounds, not cut off.
        constexpr uint32_t kBeyond = 0xffffff00u;
        const uint64_t* a = source<uint64_t>(w, operand);
        KW_LANES {
            const uint64_t full = a[l] + static_cast<uint64_t>(static_cast<int64_t>(offset));
            const uint64_t inside = (full & kWindowMask) == kSharedWindow ? full & ~kWindowMask : full;
            out[l] = inside >> 32 ? kBeyond : static_cast<uint32_t>(inside);
        }
    } else {
        const uint32_t* a = source<uint32_t>(w, operand);
        KW_LANES out[l] = a[l] + static_cast<uint32_t>(offset);
    }
}

// Distinct 32-byte sectors; accesses are aligned to their size, so none straddles two.
static inline uint32_t count_sectors(const uint64_t* address, Mask m) {
    uint64_t previous = 0;
    uint32_t transitions = 0;
    bool ascending = true;
    for (Mask left = m; left; left &= left - 1) {
        const uint64_t sector = (address[__builtin_ctz(left)] >> 5) + 1;
        transitions += sector != previous;
        ascending &= sector >= previous;
        previous = sector;
    }
    if (ascending) return transitions;
    uint64_t seen[64] = {};
    uint32_t distinct = 0;
    for (Mask left = m; left; left &= left - 1) {
        const uint64_t sector = (address[__builtin_ctz(left)] >> 5) + 1;
        uint32_t slot = static_cast<uint32_t>((sector * 0x9e3779b97f4a7c15ull) >> 58);
        while (seen[slot] && seen[slot] != sector) slot = (slot + 1) & 63u;
        distinct += seen[slot] == 0;
        seen[slot] = sector;
    }
    return distinct;
}

// Shared memory has 32 banks of 4 bytes. Accesses of 4, 8 and 16 bytes a lane are served in phases of 32, 16 and 8 lanes;
// within a phase, lanes that need different rows of one column of banks take turns.
static inline void count_wavefronts(const uint32_t* offset, Mask m, uint32_t bytes, uint64_t& actual, uint64_t& ideal) {
    const uint32_t shift = bytes <= 4 ? 2 : bytes == 8 ? 3 : 4, columns = 128u >> shift;
    for (uint32_t first = 0; first < kLanes; first += columns) {
        Mask left = columns == 32 ? m : m & (((1u << columns) - 1u) << first);
        if (!left) continue;
        ideal += 1;
        uint32_t row[32], turns[32], extra[32], extras = 0, worst = 1;
        uint32_t seen = 0;
        for (; left; left &= left - 1) {
            const uint32_t key = offset[__builtin_ctz(left)] >> shift, column = key & (columns - 1);
            if (!(seen >> column & 1u)) {
                seen |= 1u << column;
                row[column] = key;
                turns[column] = 1;
                continue;
            }
            if (row[column] == key) continue;
            uint32_t at = 0;
            while (at < extras && extra[at] != key) ++at;
            if (at < extras) continue;
            extra[extras++] = key;
            turns[column] += 1;
            worst = turns[column] > worst ? turns[column] : worst;
        }
        actual += worst;
    }
}

static inline bool all_written(const uint8_t* shadow, uint32_t bytes) {
    switch (bytes) {
        case 1: return *shadow == kWritten;
        case 2: return *reinterpret_cast<const uint16_t*>(shadow) == 0x0101u;
        case 4: return *reinterpret_cast<const uint32_t*>(shadow) == 0x01010101u;
        case 8: return *reinterpret_cast<const uint64_t*>(shadow) == 0x0101010101010101ull;
        default: {
            const uint64_t* s = reinterpret_cast<const uint64_t*>(shadow);
            return ((s[0] ^ 0x0101010101010101ull) | (s[1] ^ 0x0101010101010101ull)) == 0;
        }
    }
}
static inline bool any_in_use(const uint8_t* shadow, uint32_t bytes) {  // by a copy in flight or an mbarrier
    for (uint32_t n = 0; n < bytes; ++n)
        if (shadow[n] >= kInFlight) return true;
    return false;
}

// Lanes of m that may go on: in bounds and aligned. Bounds of shared memory are checked always, or a kernel could
// overwrite the interpreter; misalignment is an error on hardware too.
static inline Mask shared_in_bounds(Warp& w, const Insn& i, Mask m, const uint32_t* offset, uint32_t bytes) {
    const uint32_t size = w.block->shared_bytes;
    uint32_t bad = 0;
    if (size >= bytes) {
        alignas(64) uint32_t wrong[kLanes];
        const uint32_t last = size - bytes;
        KW_LANES wrong[l] = ((offset[l] > last) | ((offset[l] & (bytes - 1)) != 0)) ? 0xffffffffu : 0u;
        bad = to_mask(wrong) & m;
    } else {
        bad = m;
    }
    if (__builtin_expect(bad != 0, 0)) {
        for (Mask left = bad; left; left &= left - 1) {
            const int l = __builtin_ctz(left);
            if (static_cast<uint64_t>(offset[l]) + bytes > size) report_shared_bounds(w, i, l, offset[l], bytes);
            else report_misaligned(w, i, l, "shared", offset[l], bytes);
        }
        m &= ~bad;
    }
    return m;
}

static inline void shared_reads(Warp& w, const Insn& i, Mask m, const uint32_t* offset, uint32_t bytes) {
    const uint8_t* shadow = w.block->shadow;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        if (__builtin_expect(!all_written(shadow + offset[l], bytes), 0)) report_shared_read(w, i, l, offset[l], bytes);
    }
}
// Whether an access orders others: atomics, and loads and stores that say so.
static inline bool is_strong(const Insn& i, int access) { return access == (kRead | kWrite) || (i.mode & kStrongAccess) != 0; }
static inline bool loads(const Insn& i, int access) { return (access & kRead) != 0 && !(access == (kRead | kWrite) && (i.mode & kNoResult) != 0); }

// Accesses of single lanes for the race check.
static inline void order_reads(Warp& w, const Insn& i, Mask m, const uint32_t* offset, uint32_t bytes) {
    for (Mask left = m; left; left &= left - 1) {
        const uint32_t l = static_cast<uint32_t>(__builtin_ctz(left));
        w.block->races.read(w, i, l, offset[l], bytes);
    }
}
static inline void order_writes(Warp& w, const Insn& i, Mask m, const uint32_t* offset, uint32_t bytes) {
    for (Mask left = m; left; left &= left - 1) {
        const uint32_t l = static_cast<uint32_t>(__builtin_ctz(left));
        w.block->races.write(w, i, l, offset[l], bytes);
    }
}
static inline void shared_writes(Warp& w, const Insn& i, Mask m, const uint32_t* offset, uint32_t bytes) {
    uint8_t* shadow = w.block->shadow;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        if (__builtin_expect(!all_written(shadow + offset[l], bytes), 0)) {
            check_shared_write(w, i, l, offset[l], bytes);
            std::memset(shadow + offset[l], kWritten, bytes);
        }
    }
}

// Lanes of m whose global access may go on.
static inline Mask global_in_bounds(Warp& w, const Insn& i, Mask m, const uint64_t* address, uint32_t bytes, int access) {
    uint64_t low = ~0ull, high = 0, misaligned = 0;
    if (m == kFullMask) {
        for (int l = 0; l < kLanes; ++l) {
            low = address[l] < low ? address[l] : low;
            high = address[l] > high ? address[l] : high;
            misaligned |= address[l];
        }
    } else {
        for (Mask left = m; left; left &= left - 1) {
            const uint64_t a = address[__builtin_ctz(left)];
            low = a < low ? a : low;
            high = a > high ? a : high;
            misaligned |= a;
        }
    }
    if (!m) return m;
    if (__builtin_expect((misaligned & (bytes - 1)) == 0 && range_covers(*w.launch, low, high, bytes, access), 1)) return m;
    Mask ok = 0;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        if (address[l] & (bytes - 1)) report_misaligned(w, i, l, "global", address[l], bytes);
        else if (check_global(w, i, l, address[l], bytes, access)) ok |= 1u << l;
    }
    return ok;
}

static inline void count_global(Warp& w, Mask m, const uint64_t* address, uint32_t bytes, bool load) {
    Counters& c = w.launch->counters;
    const uint64_t total = static_cast<uint64_t>(__builtin_popcount(m)) * bytes;
    const uint32_t sectors = count_sectors(address, m);
    if (load) {
        c.global_load_bytes += total;
        c.global_load_sectors += sectors;
        c.global_load_sectors_ideal += (total + 31) / 32;
    } else {
        c.global_store_bytes += total;
        c.global_store_sectors += sectors;
        c.global_store_sectors_ideal += (total + 31) / 32;
    }
}

// Accesses to global memory for the race check between blocks.
static inline void order_global(Warp& w, const Insn& i, Mask m, const uint64_t* address, uint32_t bytes, int access) {
    GlobalRaceDetector& races = w.launch->global_races;
    uint64_t low = ~0ull, high = 0;
    for (Mask left = m; left; left &= left - 1) {
        const uint64_t a = address[__builtin_ctz(left)];
        low = a < low ? a : low;
        high = a > high ? a : high;
    }
    if (!m || !races.concerns(low, high + bytes)) return;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        if (races.concerns(address[l], address[l] + bytes)) races.access(w, i, l, address[l], bytes, loads(i, access), (access & kWrite) != 0, is_strong(i, access), (m & (m - 1)) == 0);
    }
    if (is_strong(i, access) && (access & kWrite)) races.strong_stored(w);
}

// Fills p[l] for the lanes that may go on and returns them.
static Mask resolve(Warp& w, const Insn& i, Mask m, Space space, uint32_t operand, uint32_t bytes, int access, char** p) {
    Launch& launch = *w.launch;
    if (space == Space::Shared) {
        alignas(64) uint32_t offset[kLanes];
        shared_offsets(w, operand, i.imm, offset);
        m = shared_in_bounds(w, i, m, offset, bytes);
        if (launch.shadowed) {
            if (access & kRead) shared_reads(w, i, m, offset, bytes);
            if (access & kWrite) shared_writes(w, i, m, offset, bytes);
        }
        if (launch.checks.race) {
            const bool reads = loads(i, access), writes = (access & kWrite) != 0;
            if (is_strong(i, access)) w.block->races.strong(w, m, offset, reads, writes);
            else if (reads) order_reads(w, i, m, offset, bytes);
            else order_writes(w, i, m, offset, bytes);
        }
        if (launch.counting) {
            Counters& c = launch.counters;
            if (access & kRead) count_wavefronts(offset, m, bytes, c.shared_load_wavefronts, c.shared_load_wavefronts_ideal);
            else count_wavefronts(offset, m, bytes, c.shared_store_wavefronts, c.shared_store_wavefronts_ideal);
        }
        KW_LANES p[l] = w.block->shared + offset[l];
        return m;
    }
    alignas(64) uint64_t address[kLanes];
    lane_addresses(w, operand, i.imm, address);
    if (space == Space::Global || space == Space::Const) {
        if (launch.checks.memory) m = global_in_bounds(w, i, m, address, bytes, access);
        if (launch.checks.race && launch.global_races.is_active())
            order_global(w, i, m, address, bytes, access);
        if (launch.counting) count_global(w, m, address, bytes, (access & kRead) != 0);
        KW_LANES p[l] = reinterpret_cast<char*>(address[l]);
        return m;
    }
    if (space == Space::Generic) {
        Mask done = 0;
        Mask in[4] = {0, 0, 0, 0};  // global, shared, local, param
        for (int l = 0; l < kLanes; ++l) {
            const uint64_t window = address[l] & kWindowMask;
            in[window == kSharedWindow ? 1 : window == kLocalWindow ? 2 : window == kParamWindow ? 3 : 0] |= (1u << l) & m;
        }
        static const Space kSpaces[4] = {Space::Global, Space::Shared, Space::Local, Space::Param};
        for (int s = 0; s < 4; ++s) {
            if (!in[s]) continue;
            char* q[kLanes];
            const Mask ok = resolve(w, i, in[s], kSpaces[s], operand, bytes, access, q);
            for (Mask left = ok; left; left &= left - 1) p[__builtin_ctz(left)] = q[__builtin_ctz(left)];
            done |= ok;
        }
        return done;
    }
    // Local and param: small windows of their own.
    const bool local = space == Space::Local;
    const uint64_t size = local ? launch.kernel->local_bytes : launch.params.size();
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        const uint64_t at = address[l] & ~kWindowMask;
        if (at > size || bytes > size - at) {
            report(w, i, l, "out_of_bounds",
                   std::string("reads or writes ") + std::to_string(bytes) + " bytes at offset " + std::to_string(static_cast<int64_t>(at)) + " of " +
                       (local ? "local memory" : "the parameters") + ", which hold " + std::to_string(size) + " bytes");
            m &= ~(1u << l);
            continue;
        }
        if (at & (bytes - 1)) {
            report_misaligned(w, i, l, local ? "local" : "param", at, bytes);
            m &= ~(1u << l);
            continue;
        }
        p[l] = local ? w.local.data() + static_cast<size_t>(l) * size + at : const_cast<char*>(launch.params.data()) + at;
    }
    return m;
}

}  // namespace KW_ISA
}  // namespace kw
