// Products of tiles in shared memory. Layouts as in kw_tile.cuh: rows of 16-byte chunks of 16-bit elements.
// The addresses of a lane are made anew for each product, so that they take no registers in between.
#pragma once

#include "kw_copy.cuh"
#include "kw_math.cuh"

namespace kw {

// What a lane hands to ldmatrix for a pair of chunks: 16 rows of the first, then those of the second.
template <class Layout>
__device__ __forceinline__ unsigned by_chunks(unsigned tile, int lane) {
    const int row = lane % 16;
    return tile + row * Layout::kRowBytes + (Layout::swizzle_of(row) ^ (lane / 16)) * 16;
}

// 8 rows of the first and of the second, then the next 8 rows of both.
template <class Layout>
__device__ __forceinline__ unsigned by_rows(unsigned tile, int lane) {
    const int row = lane % 8 + lane / 16 * 8;
    return tile + row * Layout::kRowBytes + (Layout::swizzle_of(row) ^ (lane / 8 % 2)) * 16;
}

// 16 rows of the last chunk; where the number of chunks is odd there is no swizzle.
template <class Layout>
__device__ __forceinline__ unsigned last_chunk(unsigned tile, int lane) {
    return tile + lane % 16 * Layout::kRowBytes + (Layout::kChunks - 1) * 16;
}

// B of a product A B^T in shared memory: rows in pairs of tiles of 8, read when they are needed.
template <class Layout>
struct TileInShared {
    unsigned by_rows_lane, tail;

    __device__ __forceinline__ TileInShared(unsigned tile, int lane)
        : by_rows_lane(by_rows<Layout>(tile, lane)), tail(last_chunk<Layout>(tile, lane)) {}
    __device__ __forceinline__ void step(unsigned (&b)[4], int k, int n) const {
        ldmatrix_x4(b, Layout::pair_address(by_rows_lane, 2 * k) + n * 8 * Layout::kRowBytes);
    }
    __device__ __forceinline__ void tail_step(unsigned (&b)[2], int n) const {
        ldmatrix_x2(b, tail + n * 8 * Layout::kRowBytes);
    }
};

// The same in registers: 8 kN rows of kDepth columns, read once.
template <class Layout, int kDepth, int kN>
struct TileInRegisters {
    static constexpr int kSteps = kDepth / 16;
    unsigned steps[kSteps > 0 ? kSteps : 1][kN / 2][4];
    unsigned tails[kN / 2][2];

    __device__ __forceinline__ void read(unsigned tile, int lane) {
        const TileInShared<Layout> from(tile, lane);
#pragma unroll
        for (int n = 0; n < kN; n += 2) {
#pragma unroll
            for (int k = 0; k < kSteps; ++k) from.step(steps[k][n / 2], k, n);
            if constexpr (kDepth % 16 != 0) from.tail_step(tails[n / 2], n);
        }
    }
    __device__ __forceinline__ void step(unsigned (&b)[4], int k, int n) const {
#pragma unroll
        for (int e = 0; e < 4; ++e) b[e] = steps[k][n / 2][e];
    }
    __device__ __forceinline__ void tail_step(unsigned (&b)[2], int n) const {
        b[0] = tails[n / 2][0];
        b[1] = tails[n / 2][1];
    }
};

// c += A B^T, with A of 16 kM rows and B of 8 kN rows, both kDepth columns wide and of one layout.
template <class Layout, int kDepth, class Element, class TileB, int kM, int kN>
__device__ __forceinline__ void multiply_a_tile(float (&c)[kM][kN][4], unsigned a_tile, const TileB& b_tile, int lane) {
    const unsigned a_lane = by_chunks<Layout>(a_tile, lane);
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
        unsigned a[kM][4];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
            ldmatrix_x4(a[m], Layout::pair_address(a_lane, 2 * k) + m * 16 * Layout::kRowBytes);
        }
#pragma unroll
        for (int n = 0; n < kN; n += 2) {
            unsigned b[4];
            b_tile.step(b, k, n);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                mma_16816(c[m][n], a[m], b[0], b[1], Element{});
                mma_16816(c[m][n + 1], a[m], b[2], b[3], Element{});
            }
        }
    }
    if constexpr (kDepth % 16 != 0) {  // the last chunk of a row: depth 8
        const unsigned a_tail = last_chunk<Layout>(a_tile, lane);
        unsigned a[kM][2];
#pragma unroll
        for (int m = 0; m < kM; ++m) ldmatrix_x2(a[m], a_tail + m * 16 * Layout::kRowBytes);
#pragma unroll
        for (int n = 0; n < kN; n += 2) {
            unsigned b[2];
            b_tile.tail_step(b, n);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                mma_1688(c[m][n], a[m], b[0], Element{});
                mma_1688(c[m][n + 1], a[m], b[1], Element{});
            }
        }
    }
}

// The same with B in shared memory, and with B in registers.
template <class Layout, int kDepth, class Element, int kM, int kN>
__device__ __forceinline__ void multiply_abt(float (&c)[kM][kN][4], unsigned a_tile, unsigned b_tile, int thread) {
    const int lane = static_cast<int>(opaque(thread % 32));
    multiply_a_tile<Layout, kDepth, Element>(c, a_tile, TileInShared<Layout>(b_tile, lane), lane);
}

template <class Layout, int kDepth, class Element, int kM, int kN>
__device__ __forceinline__ void multiply_abt(float (&c)[kM][kN][4], unsigned a_tile,
                                             const TileInRegisters<Layout, kDepth, kN>& b_tile, int thread) {
    multiply_a_tile<Layout, kDepth, Element>(c, a_tile, b_tile, static_cast<int>(opaque(thread % 32)));
}

// c += A B, with A of 16 kM rows and kDepth columns, B of kDepth rows and 8 kN columns from chunk `b_chunk` on, which is even;
// or, when kTransposedA, c += A^T B with A of kDepth rows and 16 kM columns from chunk `a_chunk` on. Columns from chunk
// `b_end` on, which is even or the end of B, stay as they are; where kWhole there are none.
template <bool kTransposedA, bool kWhole, class LayoutA, class LayoutB, int kDepth, class Element, int kM, int kN>
__device__ __forceinline__ void multiply_ab(float (&c)[kM][kN][4], unsigned a_tile, int a_chunk, unsigned b_tile,
                                            int b_chunk, [[maybe_unused]] int b_end, int thread) {
    const int lane = static_cast<int>(opaque(thread % 32));
    const unsigned a_lane = kTransposedA ? by_rows<LayoutA>(a_tile, lane) : by_chunks<LayoutA>(a_tile, lane);
    const unsigned b_lane = by_chunks<LayoutB>(b_tile, lane);
    [[maybe_unused]] const unsigned b_tail = last_chunk<LayoutB>(b_tile, lane);
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
        unsigned a[kM][4];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
            if constexpr (kTransposedA) {
                ldmatrix_x4_trans(a[m], LayoutA::pair_address(a_lane, a_chunk + 2 * m) + k * 16 * LayoutA::kRowBytes);
            } else {
                ldmatrix_x4(a[m], LayoutA::pair_address(a_lane, 2 * k) + m * 16 * LayoutA::kRowBytes);
            }
        }
#pragma unroll
        for (int n = 0; n + 1 < kN; n += 2) {
            if (!kWhole && b_chunk + n + 1 >= b_end) {
                if (LayoutB::kChunks % 2 != 0 && b_chunk + n + 1 == b_end) {
                    unsigned b[2];
                    ldmatrix_x2_trans(b, b_tail + k * 16 * LayoutB::kRowBytes);
#pragma unroll
                    for (int m = 0; m < kM; ++m) mma_16816(c[m][n], a[m], b[0], b[1], Element{});
                }
                continue;
            }
            unsigned b[4];
            ldmatrix_x4_trans(b, LayoutB::pair_address(b_lane, b_chunk + n) + k * 16 * LayoutB::kRowBytes);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                mma_16816(c[m][n], a[m], b[0], b[1], Element{});
                mma_16816(c[m][n + 1], a[m], b[2], b[3], Element{});
            }
        }
        if constexpr (kN % 2 != 0) {
            unsigned b[2];
            ldmatrix_x2_trans(b, b_tail + k * 16 * LayoutB::kRowBytes);
#pragma unroll
            for (int m = 0; m < kM; ++m) mma_16816(c[m][kN - 1], a[m], b[0], b[1], Element{});
        }
    }
}

// c += A B, with A of 16 kM rows and 8 kDepthTiles columns in registers, as an accumulator holds it, and B of as many rows and
// 8 kN columns.
template <class LayoutB, class Element, int kM, int kDepthTiles, int kN>
__device__ __forceinline__ void multiply_fragment_b(float (&c)[kM][kN][4], const float (&a)[kM][kDepthTiles][4],
                                                    unsigned b_tile, int thread) {
    const int lane = static_cast<int>(opaque(thread % 32));
    const unsigned b_lane = by_chunks<LayoutB>(b_tile, lane);
    [[maybe_unused]] const unsigned b_tail = last_chunk<LayoutB>(b_tile, lane);
#pragma unroll
    for (int k = 0; k < kDepthTiles / 2; ++k) {
        unsigned fragment[kM][4];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
            fragment[m][0] = pack(a[m][2 * k][0], a[m][2 * k][1], Element{});
            fragment[m][1] = pack(a[m][2 * k][2], a[m][2 * k][3], Element{});
            fragment[m][2] = pack(a[m][2 * k + 1][0], a[m][2 * k + 1][1], Element{});
            fragment[m][3] = pack(a[m][2 * k + 1][2], a[m][2 * k + 1][3], Element{});
        }
#pragma unroll
        for (int n = 0; n + 1 < kN; n += 2) {
            unsigned b[4];
            ldmatrix_x4_trans(b, LayoutB::pair_address(b_lane, n) + k * 16 * LayoutB::kRowBytes);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                mma_16816(c[m][n], fragment[m], b[0], b[1], Element{});
                mma_16816(c[m][n + 1], fragment[m], b[2], b[3], Element{});
            }
        }
        if constexpr (kN % 2 != 0) {
            unsigned b[2];
            ldmatrix_x2_trans(b, b_tail + k * 16 * LayoutB::kRowBytes);
#pragma unroll
            for (int m = 0; m < kM; ++m) mma_16816(c[m][kN - 1], fragment[m], b[0], b[1], Element{});
        }
    }
}

template <int kM, int kN>
__device__ __forceinline__ void set_zero(float (&c)[kM][kN][4]) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) c[m][n][e] = 0.f;
        }
    }
}

// Rounds a fragment to 16 bits and stores it from chunk `chunk` on, as far as rows have chunks; `row` is the lane's first row.
template <class Layout, class Element, int kM, int kN>
__device__ __forceinline__ void store_fragment(unsigned tile, const float (&c)[kM][kN][4], float scale, int row, int chunk,
                                               int lane) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int r = row + m * 16 + h * 8;
#pragma unroll
            for (int n = 0; n < kN; ++n) {
                if (chunk + n >= Layout::kChunks) break;
                const unsigned value = pack(c[m][n][2 * h] * scale, c[m][n][2 * h + 1] * scale, Element{});
                const unsigned at = static_cast<unsigned>(chunk + n) ^ Layout::swizzle_of(r);
                store_shared_u32(tile + r * Layout::kRowBytes + at * 16 + (lane % 4) * 4, value);
            }
        }
    }
}

}  // namespace kw
