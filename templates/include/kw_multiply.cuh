// Products of tiles in shared memory. Layouts as in kw_tile.cuh: rows of 16-byte chunks of 16-bit elements.
#pragma once

#include "kw_copy.cuh"
#include "kw_math.cuh"

namespace kw {

// c += A B^T, with A of 16 kM rows and B of 8 kN rows, both kDepth columns wide and of one layout. `a_lane` is the address of
// row lane % 16, chunk lane / 16; `b_lane` of row lane % 8 + lane / 16 * 8, chunk lane / 8 % 2; the tails are those of the
// last chunk, of rows lane % 16, where the depth is no multiple of 16.
template <class Layout, int kDepth, class Element, int kM, int kN>
__device__ __forceinline__ void multiply_abt(float (&c)[kM][kN][4], unsigned a_lane, unsigned b_lane, unsigned a_tail,
                                             unsigned b_tail) {
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
            ldmatrix_x4(b, Layout::pair_address(b_lane, 2 * k) + n * 8 * Layout::kRowBytes);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                mma_16816(c[m][n], a[m], b[0], b[1], Element{});
                mma_16816(c[m][n + 1], a[m], b[2], b[3], Element{});
            }
        }
    }
    if constexpr (kDepth % 16 != 0) {  // the last chunk of a row: depth 8
        unsigned a[kM][2];
#pragma unroll
        for (int m = 0; m < kM; ++m) ldmatrix_x2(a[m], a_tail + m * 16 * Layout::kRowBytes);
#pragma unroll
        for (int n = 0; n < kN; n += 2) {
            unsigned b[2];
            ldmatrix_x2(b, b_tail + n * 8 * Layout::kRowBytes);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                mma_1688(c[m][n], a[m], b[0], Element{});
                mma_1688(c[m][n + 1], a[m], b[1], Element{});
            }
        }
    }
}

// c += A B, with A of 16 kM rows and kDepth columns, B of kDepth rows and 8 kN columns from chunk `b_chunk` on, which is even;
// or, when kTransposedA, c += A^T B with A of kDepth rows and 16 kM columns from chunk `a_chunk` on. `a_lane` is the address
// of row lane % 16, chunk lane / 16 of A, or of row lane % 8 + lane / 16 * 8, chunk lane / 8 % 2 when transposed; `b_lane` of
// row lane % 16, chunk lane / 16 of B; `b_tail` that of the last chunk where kN is odd.
template <bool kTransposedA, class LayoutA, class LayoutB, int kDepth, class Element, int kM, int kN>
__device__ __forceinline__ void multiply_ab(float (&c)[kM][kN][4], unsigned a_lane, int a_chunk, unsigned b_lane,
                                            int b_chunk, unsigned b_tail) {
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

// Rounds a fragment to 16 bits and stores it from chunk `chunk` on; `row` is the lane's first row, `row_in_8` it modulo 8.
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
                const unsigned value = pack(c[m][n][2 * h] * scale, c[m][n][2 * h + 1] * scale, Element{});
                const unsigned at = static_cast<unsigned>(chunk + n) ^ Layout::swizzle_of(r);
                store_shared_u32(tile + r * Layout::kRowBytes + at * 16 + (lane % 4) * 4, value);
            }
        }
    }
}

}  // namespace kw
