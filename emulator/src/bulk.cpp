// Copies of the async proxy; see bulk.h.
// SPDX-License-Identifier: Apache-2.0
#ifndef KW_ISA
#define KW_ISA isa_common
#endif
#include "bulk.h"

#include <algorithm>

#include "checks.h"
#include "half.h"

namespace kw {
namespace {

constexpr uint32_t kEarlyOdds = 4;  // with a seed, one load in so many lands when it is issued

using namespace KW_ISA;

uint32_t pc_of(const Warp& w, const Insn& i) { return static_cast<uint32_t>(&i - w.launch->kernel->code.data()); }

// What fills elements outside the tensor: which NaN is not documented.
void fill(char* d, uint32_t bytes, TensorType type, bool with_nan) {
    std::memset(d, 0, bytes);
    if (!with_nan) return;
    const uint64_t nan = type == TensorType::F32 ? 0x7fffffffull : type == TensorType::F64 ? 0x7fffffffffffffffull : 0x7fffull;
    const uint32_t size = type_bytes(type);
    for (uint32_t n = 0; n < bytes; n += size) std::memcpy(d + n, &nan, size);
}

template <class T, class F>
void combine(char* to, const char* from, uint32_t bytes, F f) {
    for (uint32_t n = 0; n < bytes; n += sizeof(T)) {
        T old, value;
        std::memcpy(&old, to + n, sizeof(T));
        std::memcpy(&value, from + n, sizeof(T));
        value = static_cast<T>(f(old, value));
        std::memcpy(to + n, &value, sizeof(T));
    }
}
template <class T>
void combine_integers(BulkOp op, char* to, const char* from, uint32_t bytes) {
    switch (op) {
        case BulkOp::Add: return combine<T>(to, from, bytes, [](T a, T b) { return static_cast<T>(a + b); });
        case BulkOp::Min: return combine<T>(to, from, bytes, [](T a, T b) { return b < a ? b : a; });
        case BulkOp::Max: return combine<T>(to, from, bytes, [](T a, T b) { return b > a ? b : a; });
        case BulkOp::Inc: return combine<T>(to, from, bytes, [](T a, T b) { return a >= b ? T(0) : static_cast<T>(a + 1); });
        case BulkOp::Dec: return combine<T>(to, from, bytes, [](T a, T b) { return a == 0 || a > b ? b : static_cast<T>(a - 1); });
        case BulkOp::And: return combine<T>(to, from, bytes, [](T a, T b) { return a & b; });
        case BulkOp::Or: return combine<T>(to, from, bytes, [](T a, T b) { return a | b; });
        default: return combine<T>(to, from, bytes, [](T a, T b) { return a ^ b; });
    }
}
template <class Load, class Store>
void combine_halves(BulkOp op, char* to, const char* from, uint32_t bytes, Load load, Store store) {
    combine<uint16_t>(to, from, bytes, [&](uint16_t a, uint16_t b) -> uint16_t {
        const float x = load(a), y = load(b);
        if (op == BulkOp::Add) return static_cast<uint16_t>(store(x + y));
        if (x != x || y != y) return x != x ? b : a;
        return (op == BulkOp::Min ? y < x : y > x) ? b : a;
    });
}

void apply(const BulkCopy& copy, char* to, const char* from, uint32_t bytes) {
    if (copy.op == BulkOp::Copy) {
        std::memcpy(to, from, bytes);
        return;
    }
    switch (copy.type) {
        case TensorType::F16: return combine_halves(copy.op, to, from, bytes, [](uint32_t h) { return half_to_float(h); }, [](float x) { return float_to_half(x); });
        case TensorType::BF16: return combine_halves(copy.op, to, from, bytes, [](uint32_t h) { return bf16_to_float(h); }, [](float x) { return float_to_bf16(x); });
        case TensorType::F32: return combine<float>(to, from, bytes, [](float a, float b) { return a + b; });
        case TensorType::F64: return combine<double>(to, from, bytes, [](double a, double b) { return a + b; });
        case TensorType::S32: return combine_integers<int32_t>(copy.op, to, from, bytes);
        case TensorType::S64: return combine_integers<int64_t>(copy.op, to, from, bytes);
        case TensorType::U64: return combine_integers<uint64_t>(copy.op, to, from, bytes);
        default: return combine_integers<uint32_t>(copy.op, to, from, bytes);
    }
}

// Pieces whose global bytes this launch may touch; drops the others after they were reported.
void check_global_pieces(Warp& w, const Insn& i, uint32_t lane, BulkCopy& copy, int access) {
    Launch& launch = *w.launch;
    if (!launch.checks.memory) return;
    uint64_t low = ~0ull, high = 0;
    for (const BulkPiece& piece : copy.pieces) {
        if (!piece.global) continue;
        low = std::min(low, piece.global);
        high = std::max(high, piece.global + piece.bytes);
    }
    if (low < high && high - low < 1ull << 31 && range_covers(launch, low, low, static_cast<uint32_t>(high - low), access)) return;
    for (BulkPiece& piece : copy.pieces)
        if (piece.global && !check_global(w, i, static_cast<int>(lane), piece.global, piece.bytes, access)) piece.global = 0;
}

void count_global_pieces(Launch& launch, const BulkCopy& copy) {
    uint64_t bytes = 0, sectors = 0, previous = ~0ull;
    for (const BulkPiece& piece : copy.pieces) {
        if (!piece.global) continue;
        bytes += piece.bytes;
        for (uint64_t sector = piece.global / 32; sector <= (piece.global + piece.bytes - 1) / 32; ++sector) sectors += sector != previous, previous = sector;
    }
    Counters& c = launch.counters;
    if (copy.loads) {
        c.bulk_load_bytes += copy.bytes;
        c.global_load_bytes += bytes, c.global_load_sectors += sectors, c.global_load_sectors_ideal += (bytes + 31) / 32;
    } else {
        c.bulk_store_bytes += bytes;
        c.global_store_bytes += bytes, c.global_store_sectors += sectors, c.global_store_sectors_ideal += (bytes + 31) / 32;
    }
}

void order_global_pieces(Warp& w, const Insn& i, uint32_t lane, const BulkCopy& copy, bool writes) {
    GlobalRaceDetector& races = w.launch->global_races;
    if (!w.launch->checks.race || !races.is_active()) return;
    const bool strong = copy.op != BulkOp::Copy;  // reductions are atomic, and order nothing else
    for (const BulkPiece& piece : copy.pieces)
        if (piece.global && !strong && races.concerns(piece.global, piece.global + piece.bytes))
            races.access(w, i, static_cast<int>(lane), piece.global, piece.bytes, !writes, writes, false, true);
}

// Whether all of the copy's bytes lie in shared memory.
bool in_shared(Warp& w, const Insn& i, uint32_t lane, const BulkCopy& copy) {
    for (const BulkPiece& piece : copy.pieces) {
        if (static_cast<uint64_t>(piece.shared) + piece.bytes <= w.block->shared_bytes) continue;
        report_shared_bounds(w, i, static_cast<int>(lane), piece.shared, piece.bytes);
        return false;
    }
    return true;
}

void land_load(Launch& launch, Block& block, BulkCopy& copy) {
    Mbarrier& b = block.mbarriers.all[copy.mbarrier];
    for (const BulkPiece& piece : copy.pieces) {
        char* d = block.shared + piece.shared;
        if (piece.global) std::memcpy(d, reinterpret_cast<const char*>(piece.global), piece.bytes);
        else fill(d, piece.bytes, copy.type, copy.fills_with_nan);
        if (launch.shadowed) std::memset(block.shadow + piece.shared, kWritten, piece.bytes);
        if (!launch.checks.race) continue;
        for (uint32_t at = piece.shared / kGranule; !block.layouts.empty() && at <= (piece.shared + piece.bytes - 1) / kGranule; ++at) block.layouts[at] = copy.layout;
        for (uint32_t at = piece.shared, end = at + piece.bytes; at < end;) {
            const uint32_t bytes = std::min(end, (at / kGranule + 1) * kGranule) - at;
            block.races.land_tracked_copy(b.component, b.phase, copy.pc, at, bytes);
            at += bytes;
        }
    }
    if (launch.checks.race) block.races.release_component(b.arriving, b.component, b.phase);
    launch.changed = true;
    mbarrier_bytes(launch, block, b, copy.bytes);
}

void read_source(const Block& block, BulkCopy& copy) {
    if (copy.has_read) return;
    copy.has_read = true;
    for (const BulkPiece& piece : copy.pieces) copy.data.insert(copy.data.end(), block.shared + piece.shared, block.shared + piece.shared + piece.bytes);
}

void land_store(Launch& launch, Block& block, BulkCopy& copy) {
    read_source(block, copy);
    size_t at = 0;
    for (const BulkPiece& piece : copy.pieces) {
        if (piece.global) apply(copy, reinterpret_cast<char*>(piece.global), copy.data.data() + at, piece.bytes);
        at += piece.bytes;
    }
    launch.changed = true;
}

template <class F>
void for_granules(const BulkCopy& copy, F f) {
    for (const BulkPiece& piece : copy.pieces) {
        for (uint32_t at = piece.shared, end = at + piece.bytes; at < end;) {
            const uint32_t bytes = std::min(end, (at / kGranule + 1) * kGranule) - at;
            f(at, bytes);
            at += bytes;
        }
    }
}

std::string thread_of(const Block& block, const BulkCopy& copy) {
    return "thread " + std::to_string(block.warps[copy.warp].tid[0][copy.lane]) + " (warp " + std::to_string(copy.warp) + ")";
}

}  // namespace

void add_box(const TensorMap& map, const int32_t* coordinates, uint32_t shared, BulkCopy& copy) {
    const uint32_t size = type_bytes(map.type), row_elements = map.box[0], row_bytes = row_elements * size;
    const uint32_t chunk = map.swizzle_span ? 16 : row_bytes, mask = map.swizzle_span ? map.swizzle_span / 16u - 1 : 0;
    copy.type = map.type;
    copy.fills_with_nan = map.fills_with_nan != 0;
    copy.layout = static_cast<uint8_t>(map.swizzle_span + 1);
    uint32_t index[kMaxTensorRank] = {};
    const auto place = [&](uint32_t at, uint64_t global, uint32_t bytes) {
        if (!bytes) return;
        const uint32_t to = at ^ ((at >> 7 & mask) << 4);
        if (!copy.pieces.empty()) {
            BulkPiece& last = copy.pieces.back();
            const bool follows = last.shared + last.bytes == to && (global ? last.global && last.global + last.bytes == global : !last.global);
            if (follows) {
                last.bytes += bytes;
                return;
            }
        }
        copy.pieces.push_back({global, to, bytes});
    };
    for (;;) {
        uint64_t row = map.address;
        bool inside = true;
        for (uint32_t d = 1; d < map.rank; ++d) {
            const int64_t c = int64_t{coordinates[d]} + int64_t{index[d]} * map.steps[d];
            inside &= c >= 0 && c <= int64_t{map.last[d]};
            row += static_cast<uint64_t>(c) * map.strides[d - 1];
        }
        // Elements of the row that exist.
        const int64_t first = coordinates[0], begin = std::min<int64_t>(std::max<int64_t>(-first, 0), row_elements);
        const int64_t end = std::max<int64_t>(begin, std::min<int64_t>(int64_t{map.last[0]} + 1 - first, row_elements));
        const uint32_t from = inside ? static_cast<uint32_t>(begin) * size : row_bytes, to = inside ? static_cast<uint32_t>(end) * size : row_bytes;
        for (uint32_t at = 0; at < row_bytes; at += chunk) {
            const uint32_t stop = at + chunk, a = std::min(std::max(from, at), stop), b = std::min(std::max(to, a), stop);
            place(shared + at, 0, a - at);
            place(shared + a, row + static_cast<uint64_t>(first * static_cast<int64_t>(size) + a), b - a);
            place(shared + b, 0, stop - b);
        }
        shared += row_bytes;
        uint32_t d = 1;
        for (; d < map.rank; ++d) {
            if (++index[d] < taken(map, d)) break;
            index[d] = 0;
        }
        if (d >= map.rank) break;
    }
    copy.bytes = static_cast<uint32_t>(box_bytes(map));
}

bool load_tensor_map(Warp& w, const Insn& i, int lane, uint64_t address, TensorMap& out) {
    Launch& launch = *w.launch;
    const char* from = nullptr;
    if (address % kTensorMapAlignment) {
        report(w, i, lane, "tensor_map", "names a tensor map at an address that is no multiple of 64; pass it as a __grid_constant__ parameter of type CUtensorMap");
        return false;
    }
    if ((address & kWindowMask) == kParamWindow) {
        const uint64_t at = address & ~kWindowMask;
        if (at + kTensorMapBytes <= launch.params.size()) from = launch.params.data() + at;
    } else if ((address & kWindowMask) == 0) {
        if (launch.checks.memory && !check_global(w, i, lane, address, kTensorMapBytes, kRead)) return false;
        from = reinterpret_cast<const char*>(address);
    }
    if (from && read_tensor_map(from, out)) return true;
    report(w, i, lane, "tensor_map",
           "names an address at which no tensor map lies; it must be in a parameter or in global or constant memory, and come from emulator.TensorMap or from this "
           "library's cuTensorMapEncodeTiled");
    return false;
}

void bulk_load(Warp& w, const Insn& i, uint32_t lane, uint32_t mbarrier_offset, BulkCopy&& copy) {
    Launch& launch = *w.launch;
    Block& block = *w.block;
    Mbarrier* b = mbarrier_for_copy(w, i, lane, mbarrier_offset);
    if (!in_shared(w, i, lane, copy) || !b) return;
    copy.pc = pc_of(w, i);
    copy.warp = w.index;
    copy.lane = lane;
    copy.loads = true;
    copy.mbarrier = b->index;
    check_global_pieces(w, i, lane, copy, kRead);
    order_global_pieces(w, i, lane, copy, false);
    if (launch.counting) count_global_pieces(launch, copy);
    if (launch.shadowed) {
        for (const BulkPiece& piece : copy.pieces) {
            uint8_t *begin = block.shadow + piece.shared, *end = begin + piece.bytes;
            if (std::any_of(begin, end, [](uint8_t state) { return state >= kInFlight; })) check_shared_write(w, i, static_cast<int>(lane), piece.shared, piece.bytes);
            std::fill(begin, end, launch.checks.async ? kInFlight : kWritten);
        }
    }
    if (launch.checks.race) {
        for_granules(copy, [&](uint32_t at, uint32_t bytes) {
            block.races.issue_copy(w, i, lane, at, bytes);
            block.races.cross_proxy(w, i, lane, at, bytes, "starts a copy to");
        });
    }
    block.mbarriers.changes += 1;
    if (!launch.checks.async || (launch.config.seed && next_random(block.rng) % kEarlyOdds == 0)) {
        land_load(launch, block, copy);
        return;
    }
    block.bulk.push_back(std::move(copy));
}

void bulk_store(Warp& w, const Insn& i, uint32_t lane, BulkCopy&& copy) {
    Launch& launch = *w.launch;
    Block& block = *w.block;
    if (!in_shared(w, i, lane, copy)) return;
    copy.pc = pc_of(w, i);
    copy.warp = w.index;
    copy.lane = lane;
    copy.group = w.bulk_committed[lane];
    check_global_pieces(w, i, lane, copy, copy.op == BulkOp::Copy ? kWrite : kRead | kWrite);
    order_global_pieces(w, i, lane, copy, true);
    if (launch.counting) count_global_pieces(launch, copy);
    if (launch.shadowed) {
        for (const BulkPiece& piece : copy.pieces) {
            const uint8_t *begin = block.shadow + piece.shared, *end = begin + piece.bytes;
            if (piece.global && std::any_of(begin, end, [](uint8_t state) { return state != kWritten; })) report_shared_read(w, i, static_cast<int>(lane), piece.shared, piece.bytes);
        }
    }
    if (launch.checks.race) {
        if (!w.bulk_component[lane]) w.bulk_component[lane] = block.races.add_component(launch, {AgentKind::Bulk, w.index * kLanes + lane});
        copy.component = w.bulk_component[lane];
        for_granules(copy, [&](uint32_t at, uint32_t bytes) { block.races.async_read(w, i, lane, at, bytes, copy.component, copy.group); });
    }
    if (!launch.checks.async) {
        land_store(launch, block, copy);
        return;
    }
    block.bulk.push_back(std::move(copy));
}

void bulk_commit(Warp& w, Mask m) {
    for (Mask left = m; left; left &= left - 1) w.bulk_committed[__builtin_ctz(left)] += 1;
}

void bulk_wait(Warp& w, Mask m, uint32_t keep, bool read_only) {
    Block& block = *w.block;
    Launch& launch = *w.launch;
    for (BulkCopy& copy : block.bulk) {
        if (copy.loads || copy.warp != w.index || !(m >> copy.lane & 1u)) continue;
        const uint32_t committed = w.bulk_committed[copy.lane];
        if (committed < keep || copy.group >= committed - keep) continue;
        if (read_only) read_source(block, copy);
        else land_store(launch, block, copy), copy.pieces.clear();
    }
    block.bulk.erase(std::remove_if(block.bulk.begin(), block.bulk.end(), [](const BulkCopy& copy) { return copy.pieces.empty(); }), block.bulk.end());
    if (!launch.checks.race) return;
    for (Mask left = m; left; left &= left - 1) {
        const int l = __builtin_ctz(left);
        if (!w.bulk_component[l] || w.bulk_committed[l] <= keep) continue;
        Clock clock;
        block.races.release_component(clock, w.bulk_component[l], w.bulk_committed[l] - keep - 1);
        block.races.acquire(w, 1u << l, clock);
    }
}

uint64_t bulk_in_flight(const Block& block, const Mbarrier& b) {
    uint64_t bytes = 0;
    for (const BulkCopy& copy : block.bulk)
        if (copy.loads && copy.mbarrier == b.index) bytes += copy.bytes;
    return bytes;
}

void bulk_settle(Launch& launch, Block& block, Mbarrier& b) {
    if (b.transactions <= 0 || block.bulk.empty()) return;
    std::vector<size_t> chosen;
    int64_t missing = b.transactions;
    bool too_large = false;
    for (size_t n = 0; n < block.bulk.size(); ++n) {
        const BulkCopy& copy = block.bulk[n];
        if (!copy.loads || copy.mbarrier != b.index) continue;
        if (int64_t{copy.bytes} > missing) {
            too_large = true;
            continue;
        }
        missing -= copy.bytes;
        chosen.push_back(n);
    }
    // Those that fit are not enough, and another brings more than was announced: the phase can never end any more.
    if (missing && !too_large) return;
    if (missing) {
        chosen.clear();
        for (size_t n = 0; n < block.bulk.size(); ++n)
            if (block.bulk[n].loads && block.bulk[n].mbarrier == b.index) chosen.push_back(n);
    }
    std::vector<BulkCopy> landing;
    for (const size_t n : chosen) landing.push_back(std::move(block.bulk[n]));
    for (size_t n = chosen.size(); n-- > 0;) block.bulk.erase(block.bulk.begin() + static_cast<std::ptrdiff_t>(chosen[n]));
    for (BulkCopy& copy : landing) land_load(launch, block, copy);
}

std::string bulk_filling(const Launch& launch, const Block& block, uint32_t at) {
    for (const BulkCopy& copy : block.bulk) {
        if (!copy.loads) continue;
        for (const BulkPiece& piece : copy.pieces) {
            if (at < piece.shared || at >= piece.shared + piece.bytes) continue;
            return "the copy at " + describe(launch, copy.pc) + " by " + thread_of(block, copy) + " is counted by " +
                   mbarrier_text(launch, block, block.mbarriers.all[copy.mbarrier]) + ", whose phase must be waited for with mbarrier.test_wait or try_wait";
        }
    }
    return "";
}

void bulk_finish(Launch& launch, Block& block) {
    for (BulkCopy& copy : block.bulk) {
        Warp& w = block.warps[copy.warp];
        if (!copy.loads && launch.checks.async && !copy.has_read)
            report_at(w, copy.pc, static_cast<int>(copy.lane), "async_exit",
                      "the block ends while this copy may still read its shared memory; its thread must " +
                          std::string(copy.group >= w.bulk_committed[copy.lane] ? "commit it with cp.async.bulk.commit_group and " : "") +
                          "wait with cp.async.bulk.wait_group or wait_group.read before it exits");
        if (copy.loads && launch.checks.async)
            report_at(w, copy.pc, static_cast<int>(copy.lane), "async_exit",
                      "the block ends while this copy may still write to its shared memory: nobody has waited for the phase of " +
                          mbarrier_text(launch, block, block.mbarriers.all[copy.mbarrier]) + "; wait for every copy that was started");
        if (!copy.loads) land_store(launch, block, copy);
    }
    block.bulk.clear();
}

}  // namespace kw
