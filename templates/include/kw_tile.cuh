// Tiles of rows of 16-byte chunks in shared memory: where a chunk lies and how a thread block copies one.
#pragma once

#include "kw_copy.cuh"

namespace kw {

// 16-byte chunk c of row r lies at chunk c ^ ((r >> kShift) & (kGroup - 1)) of the row, which spreads 8 consecutive rows
// over all banks. kCopyCols threads lie side by side on a row and kCopyRows rows are copied at once. Computed by
// gen/layout.py, which says why.
template <int kChunks_, int kGroup_, int kShift_, int kCopyCols_, int kCopyRows_>
struct TileLayout {
    static constexpr int kChunks = kChunks_, kGroup = kGroup_, kShift = kShift_;
    static constexpr int kCopyCols = kCopyCols_, kCopyRows = kCopyRows_;
    static constexpr int kRowBytes = kChunks * 16;

    // Address of a pair of chunks, `even_chunk` and the next. `lane_address` is that of pair 0: the lane's row, with
    // (its chunk of the pair) ^ (the swizzle of its row) as chunk. Rows begin at multiples of kGroup chunks.
    __device__ __forceinline__ static unsigned pair_address(unsigned lane_address, int even_chunk) {
        return (lane_address ^ ((even_chunk & (kGroup - 1)) * 16)) + (even_chunk & ~(kGroup - 1)) * 16;
    }

    __device__ __forceinline__ static unsigned swizzle_of(int row) {
        return static_cast<unsigned>(row >> kShift) & (kGroup - 1);
    }
};

// A thread's share of a tile copy: row `row` and chunks `col`, `col + kCopyCols`, ...
template <class Layout, int kNumThreads>
struct Copier {
    int row, col;
    bool active;

    __device__ __forceinline__ explicit Copier(int thread)
        : row(thread / Layout::kCopyCols), col(thread % Layout::kCopyCols), active(thread < Layout::kCopyCols * Layout::kCopyRows) {}

    // Copy kRows rows. `src` is this thread's first chunk in the tile; rows from `valid_rows`
    // on are not read and become zero when kGuard.
    template <int kRows, bool kGuard>
    __device__ __forceinline__ void copy(unsigned dst, const char* src, long long row_stride_bytes,
                                         int valid_rows) const {
        if (Layout::kCopyCols * Layout::kCopyRows < kNumThreads && !active) return;
#pragma unroll
        for (int first = 0; first < kRows; first += Layout::kCopyRows) {
            const int r = row + first;
            if (kRows % Layout::kCopyRows == 0 || r < kRows) {
                const unsigned swizzle = Layout::swizzle_of(r);
#pragma unroll
                for (int c = 0; c < Layout::kChunks; c += Layout::kCopyCols) {
                    const unsigned at = dst + r * Layout::kRowBytes + ((col + c) ^ swizzle) * 16;
                    if (kGuard) {
                        cp_async_16_or_zero(at, src + c * 16, r < valid_rows);
                    } else {
                        cp_async_16(at, src + c * 16);
                    }
                }
            }
            src += Layout::kCopyRows * row_stride_bytes;
        }
    }

    // As a guarded copy, of rows that lie anywhere: `source_of(row)` is this thread's first chunk of a row.
    template <int kRows, class SourceOf>
    __device__ __forceinline__ void gather(unsigned dst, int valid_rows, SourceOf source_of) const {
        if (Layout::kCopyCols * Layout::kCopyRows < kNumThreads && !active) return;
#pragma unroll
        for (int first = 0; first < kRows; first += Layout::kCopyRows) {
            const int r = row + first;
            if (kRows % Layout::kCopyRows == 0 || r < kRows) {
                const char* src = source_of(r);
                const unsigned swizzle = Layout::swizzle_of(r);
#pragma unroll
                for (int c = 0; c < Layout::kChunks; c += Layout::kCopyCols) {
                    const unsigned at = dst + r * Layout::kRowBytes + ((col + c) ^ swizzle) * 16;
                    cp_async_16_or_zero(at, src + c * 16, r < valid_rows);
                }
            }
        }
    }
};

}  // namespace kw
