// flash_fwd_sm80_bf16_hd40_causal1_m128_n64_w4_s2_qreg0
// Generated from templates/flash_fwd_mma.cu.jinja. Do not edit: change the template or the spec.
// Spec: {"problem": {"dtype": "bf16", "head_dim": 40, "is_causal": true}, "schedule": {"block_m": 128, "block_n": 64, "num_stages": 2, "num_warps": 4, "q_in_regs": false}, "sm": 80}
// Regenerate: gen show flash_fwd_sm80_bf16_hd40_causal1_m128_n64_w4_s2_qreg0
// SPDX-License-Identifier: Apache-2.0
// Attention forward with mma.sync on Ampere and Ada. One thread block computes kBlockM query rows of one head;
// each warp owns kRowsPerWarp of them. Key tiles are visited from the last visible one down to the first: the
// tiles that need a mask come first and the steady loop after them has none.
// Source: FlashAttention-2 (Dao 2023), Algorithm 1; online softmax in base 2.

#include "kw_copy.cuh"
#include "kw_math.cuh"

// Problem: what is computed.
using Element = kw::Bf16;
constexpr int kHeadDim = 40;
constexpr bool kIsCausal = true;  // key j is visible to query i when j <= i + seqlen_k - seqlen_q

// Schedule: how it is computed.
constexpr int kBlockM = 128;  // query rows per thread block
constexpr int kBlockN = 64;  // keys per iteration of the main loop
constexpr int kNumWarps = 4;
constexpr int kNumStages = 2;  // K and V tiles in shared memory
constexpr bool kQInRegs = false;  // Q fragments stay in registers; their shared memory is reused

// Layout of a row in shared memory (gen/layout.py): 16-byte chunk c of row r lies at chunk
// c ^ ((r >> kSwizzleShift) & (kSwizzleGroup - 1)), which spreads 8 consecutive rows over all banks.
constexpr int kRowChunks = 5;
constexpr int kSwizzleGroup = 1;
constexpr int kSwizzleShift = 3;
// Copies: kCopyCols threads side by side on a row, kCopyRows rows at once.
constexpr int kCopyCols = 5;
constexpr int kCopyRows = 25;

constexpr int kNumThreads = kNumWarps * 32;
constexpr int kRowBytes = kRowChunks * 16;
constexpr int kRowsPerWarp = kBlockM / kNumWarps;
constexpr int kMTiles = kRowsPerWarp / 16;  // mma tiles of 16 query rows per warp
constexpr int kNTiles = kBlockN / 8;  // mma tiles of 8 keys
constexpr int kDTiles = kHeadDim / 8;  // mma tiles of 8 output columns
constexpr int kKSteps = kHeadDim / 16;  // full depth-16 steps of Q K^T
constexpr bool kHasTail = kHeadDim % 16 != 0;  // and one of depth 8
constexpr int kTileBytes = kBlockN * kRowBytes;
constexpr int kQBytes = kQInRegs ? 0 : kBlockM * kRowBytes;  // Q's own share of shared memory

struct FlashFwdParams {
    const char* q;
    const char* k;
    const char* v;
    char* out;
    float* lse;
    long long q_batch_stride;
    long long q_row_stride;
    long long q_head_stride;
    long long k_batch_stride;
    long long k_row_stride;
    long long k_head_stride;
    long long v_batch_stride;
    long long v_row_stride;
    long long v_head_stride;
    long long out_batch_stride;
    long long out_row_stride;
    long long out_head_stride;
    int seqlen_q;
    int seqlen_k;
    int num_heads_q;
    int heads_per_kv;
    int num_m_blocks;
    float softmax_scale;
};

// Address of a pair of chunks, `even_chunk` and the next. `lane_address` is that of pair 0: the lane's row, with (its
// chunk of the pair) ^ (the swizzle of its row) as chunk. Rows begin at multiples of kSwizzleGroup chunks.
__device__ __forceinline__ unsigned pair_address(unsigned lane_address, int even_chunk) {
    return (lane_address ^ ((even_chunk & (kSwizzleGroup - 1)) * 16)) + (even_chunk & ~(kSwizzleGroup - 1)) * 16;
}

__device__ __forceinline__ unsigned swizzle_of(int row) {
    return static_cast<unsigned>(row >> kSwizzleShift) & (kSwizzleGroup - 1);
}

// A thread's share of a tile copy: row `row` and chunks `col`, `col + kCopyCols`, ...
struct Copier {
    int row, col;
    bool active;

    __device__ __forceinline__ explicit Copier(int thread)
        : row(thread / kCopyCols), col(thread % kCopyCols), active(thread < kCopyCols * kCopyRows) {}

    // Copy kRows rows of kHeadDim elements. `src` is this thread's first chunk in the tile; rows from `valid_rows`
    // on are not read and become zero when kGuard.
    template <int kRows, bool kGuard>
    __device__ __forceinline__ void copy(unsigned dst, const char* src, long long row_stride_bytes,
                                         int valid_rows) const {
        if (kCopyCols * kCopyRows < kNumThreads && !active) return;
#pragma unroll
        for (int first = 0; first < kRows; first += kCopyRows) {
            const int r = row + first;
            if (kRows % kCopyRows == 0 || r < kRows) {
                const unsigned swizzle = swizzle_of(r);
#pragma unroll
                for (int c = 0; c < kRowChunks; c += kCopyCols) {
                    const unsigned at = dst + r * kRowBytes + ((col + c) ^ swizzle) * 16;
                    if (kGuard) {
                        kw::cp_async_16_or_zero(at, src + c * 16, r < valid_rows);
                    } else {
                        kw::cp_async_16(at, src + c * 16);
                    }
                }
            }
            src += kCopyRows * row_stride_bytes;
        }
    }
};

// Invariant, over the keys j folded in so far:
//   row_max = max_j s_j,  row_sum = this lane's share of sum_j exp2(scale_log2 (s_j - row_max)),
//   o_acc = sum_j exp2(scale_log2 (s_j - row_max)) * v_j
struct Accumulator {
    float o[kMTiles][kDTiles][4];
    float row_max[kMTiles][2];
    float row_sum[kMTiles][2];
};

// s = Q K^T of one key tile. Lanes address Q by rows (lane % 16, chunk lane / 16) and K by pairs of 8 keys.
__device__ __forceinline__ void multiply_qk(float (&s)[kMTiles][kNTiles][4], unsigned q_lane,
                                            unsigned (&q_reg)[kQInRegs ? kMTiles : 1][kQInRegs ? kKSteps + 1 : 1][4],
                                            unsigned k_lane, unsigned q_tail, unsigned k_tail) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) s[m][n][e] = 0.f;
        }
    }
#pragma unroll
    for (int k = 0; k < kKSteps; ++k) {
        unsigned q_frag[kMTiles][4];
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) {
            if constexpr (kQInRegs) {
#pragma unroll
                for (int e = 0; e < 4; ++e) q_frag[m][e] = q_reg[m][k][e];
            } else {
                kw::ldmatrix_x4(q_frag[m], pair_address(q_lane, 2 * k) + m * 16 * kRowBytes);
            }
        }
#pragma unroll
        for (int n = 0; n < kNTiles; n += 2) {
            unsigned k_frag[4];
            kw::ldmatrix_x4(k_frag, pair_address(k_lane, 2 * k) + n * 8 * kRowBytes);
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                kw::mma_16816(s[m][n], q_frag[m], k_frag[0], k_frag[1], Element{});
                kw::mma_16816(s[m][n + 1], q_frag[m], k_frag[2], k_frag[3], Element{});
            }
        }
    }
    if constexpr (kHasTail) {  // the last chunk of a row: depth 8
        unsigned q_frag[kMTiles][2];
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) {
            if constexpr (kQInRegs) {
                q_frag[m][0] = q_reg[m][kKSteps][0];
                q_frag[m][1] = q_reg[m][kKSteps][1];
            } else {
                kw::ldmatrix_x2(q_frag[m], q_tail + m * 16 * kRowBytes);
            }
        }
#pragma unroll
        for (int n = 0; n < kNTiles; n += 2) {
            unsigned k_frag[2];
            kw::ldmatrix_x2(k_frag, k_tail + n * 8 * kRowBytes);
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                kw::mma_1688(s[m][n], q_frag[m], k_frag[0], Element{});
                kw::mma_1688(s[m][n + 1], q_frag[m], k_frag[1], Element{});
            }
        }
    }
}

// Hide the keys at and after each row's limit. `limit[m][h]` counts keys from this lane's first column.
__device__ __forceinline__ void apply_mask(float (&s)[kMTiles][kNTiles][4], const int (&limit)[kMTiles][2]) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                if (n * 8 + (e & 1) >= limit[m][e >> 1]) s[m][n][e] = -INFINITY;
            }
        }
    }
}

// Fold one tile of scores into the row statistics: rescale what is there and turn s into probabilities.
template <bool kMasked>
__device__ __forceinline__ void online_softmax(float (&s)[kMTiles][kNTiles][4], Accumulator& acc, float scale_log2) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float tile_max = s[m][0][2 * h];
#pragma unroll
            for (int n = 0; n < kNTiles; ++n) {
                tile_max = fmaxf(tile_max, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
            }
            const float old_max = acc.row_max[m][h];
            const float new_max = fmaxf(old_max, kw::quad_max(tile_max));
            acc.row_max[m][h] = new_max;
            // A row that has seen no key yet has row_max = -inf; its scores are -inf and must become 0, not NaN.
            const float shift = kMasked && new_max == -INFINITY ? 0.f : new_max * scale_log2;
            const float rescale = kw::exp2_approx(old_max * scale_log2 - shift);
            float sum = acc.row_sum[m][h] * rescale;
#pragma unroll
            for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; ++e) {
                    s[m][n][e] = kw::exp2_approx(__fmaf_rn(s[m][n][e], scale_log2, -shift));
                    sum += s[m][n][e];
                }
            }
            acc.row_sum[m][h] = sum;
#pragma unroll
            for (int d = 0; d < kDTiles; ++d) {
                acc.o[m][d][2 * h] *= rescale;
                acc.o[m][d][2 * h + 1] *= rescale;
            }
        }
    }
}

// o += P V. The accumulator layout of s is the operand layout of P, so P never leaves the registers.
__device__ __forceinline__ void multiply_pv(const float (&p)[kMTiles][kNTiles][4], Accumulator& acc, unsigned v_lane,
                                            unsigned v_tail) {
#pragma unroll
    for (int k = 0; k < kBlockN / 16; ++k) {
        unsigned p_frag[kMTiles][4];
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) {
            p_frag[m][0] = kw::pack(p[m][2 * k][0], p[m][2 * k][1], Element{});
            p_frag[m][1] = kw::pack(p[m][2 * k][2], p[m][2 * k][3], Element{});
            p_frag[m][2] = kw::pack(p[m][2 * k + 1][0], p[m][2 * k + 1][1], Element{});
            p_frag[m][3] = kw::pack(p[m][2 * k + 1][2], p[m][2 * k + 1][3], Element{});
        }
#pragma unroll
        for (int d = 0; d + 1 < kDTiles; d += 2) {
            unsigned v_frag[4];
            kw::ldmatrix_x4_trans(v_frag, pair_address(v_lane, d) + k * 16 * kRowBytes);
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                kw::mma_16816(acc.o[m][d], p_frag[m], v_frag[0], v_frag[1], Element{});
                kw::mma_16816(acc.o[m][d + 1], p_frag[m], v_frag[2], v_frag[3], Element{});
            }
        }
        if constexpr (kHasTail) {  // the last 8 output columns
            unsigned v_frag[2];
            kw::ldmatrix_x2_trans(v_frag, v_tail + k * 16 * kRowBytes);
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                kw::mma_16816(acc.o[m][kDTiles - 1], p_frag[m], v_frag[0], v_frag[1], Element{});
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(kNumThreads, 1)
flash_fwd_sm80_bf16_hd40_causal1_m128_n64_w4_s2_qreg0(const __grid_constant__ FlashFwdParams params) {
    extern __shared__ __align__(128) unsigned char smem[];

    // Which rows: blockIdx.x = (batch * num_heads_q + head) * num_m_blocks + m_block. Causal blocks with more keys
    // come first, so that the longest do not start last.
    const int tile = blockIdx.x % params.num_m_blocks;
    const int batch_head = blockIdx.x / params.num_m_blocks;
    const int m_block = kIsCausal ? params.num_m_blocks - 1 - tile : tile;
    const int batch = batch_head / params.num_heads_q;
    const int head = batch_head % params.num_heads_q;
    const int head_kv = head / params.heads_per_kv;
    const int m_start = m_block * kBlockM;
    const int rows_left = params.seqlen_q - m_start;

    // Which keys: tiles [0, n_full) are visible to every row here, [n_full, n_end) need the mask.
    const int causal_shift = params.seqlen_k - params.seqlen_q;
    int keys_seen = params.seqlen_k;  // by the last row
    int keys_seen_all = params.seqlen_k;  // by every row
    if constexpr (kIsCausal) {
        keys_seen = max(0, min(keys_seen, m_start + min(kBlockM, rows_left) + causal_shift));
        keys_seen_all = max(0, min(keys_seen_all, m_start + 1 + causal_shift));
    }
    const int n_end = (keys_seen + kBlockN - 1) / kBlockN;
    const int n_full = keys_seen_all / kBlockN;

    const int thread = threadIdx.x;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const Copier copier(thread);

    const unsigned q_smem = kw::shared_address(smem);
    const unsigned k_smem = q_smem + kQBytes;  // kNumStages tiles
    const unsigned v_smem = k_smem + kNumStages * kTileBytes;  // kNumStages tiles

    const long long q_row_bytes = params.q_row_stride * 2;
    const long long k_row_bytes = params.k_row_stride * 2;
    const long long v_row_bytes = params.v_row_stride * 2;
    const char* q_src = params.q + 2 * (batch * params.q_batch_stride + head * params.q_head_stride) +
                        (m_start + copier.row) * q_row_bytes + copier.col * 16;
    // K and V are read from the last tile down.
    const long long last_row = static_cast<long long>(n_end - 1) * kBlockN + copier.row;
    const char* k_src = params.k + 2 * (batch * params.k_batch_stride + head_kv * params.k_head_stride) +
                        last_row * k_row_bytes + copier.col * 16;
    const char* v_src = params.v + 2 * (batch * params.v_batch_stride + head_kv * params.v_head_stride) +
                        last_row * v_row_bytes + copier.col * 16;
    const int keys_left = params.seqlen_k - (n_end - 1) * kBlockN;  // in the last tile; only that one can be partial

    // Fragment addresses. Q and V: row lane % 16, chunk lane / 16 of a pair; K: 8 keys and 8 more, both chunks.
    const int row_a = lane % 16;
    const int row_b = lane % 8 + (lane / 16) * 8;
    const unsigned lane_a = row_a * kRowBytes + (swizzle_of(row_a) ^ (lane / 16)) * 16;
    const unsigned lane_b = row_b * kRowBytes + (swizzle_of(row_b) ^ (lane / 8 % 2)) * 16;
    const unsigned q_warp = q_smem + warp * kRowsPerWarp * kRowBytes;
    const unsigned q_lane = q_warp + lane_a;
    // The unpaired last chunk of a head dimension that is no multiple of 16. Its row has an odd number of chunks
    // and so no swizzle.
    constexpr int kTailOffset = (kRowChunks - 1) * 16;
    const unsigned tail_a = row_a * kRowBytes + kTailOffset;
    const unsigned q_tail = q_warp + tail_a;

    Accumulator acc;
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            acc.row_max[m][h] = -INFINITY;
            acc.row_sum[m][h] = 0.f;
        }
#pragma unroll
        for (int d = 0; d < kDTiles; ++d) {
#pragma unroll
            for (int e = 0; e < 4; ++e) acc.o[m][d][e] = 0.f;
        }
    }
    const float scale_log2 = params.softmax_scale * kw::kLog2e;

    if (n_end > 0) {
        unsigned q_reg[kQInRegs ? kMTiles : 1][kQInRegs ? kKSteps + 1 : 1][4];

        // First loads. Only the last key tile can be partial, so only it is guarded. Q joins the group of that tile,
        // unless it has to be complete before.
        copier.copy<kBlockM, true>(q_smem, q_src, q_row_bytes, rows_left);
        if constexpr (kQInRegs) {
            kw::cp_async_commit();
            kw::cp_async_wait<0>();
            __syncthreads();  // Q is complete
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
                for (int k = 0; k < kKSteps; ++k) {
                    kw::ldmatrix_x4(q_reg[m][k], pair_address(q_lane, 2 * k) + m * 16 * kRowBytes);
                }
                if constexpr (kHasTail) {
                    unsigned q_frag[2];
                    kw::ldmatrix_x2(q_frag, q_tail + m * 16 * kRowBytes);
                    q_reg[m][kKSteps][0] = q_frag[0];
                    q_reg[m][kKSteps][1] = q_frag[1];
                }
            }
            // Q's bytes may be overwritten by K and V. Where each warp copies to its own rows of Q alone only the promise is
            // missing that ldmatrix has read for all lanes when it is over.
            __syncthreads();
        }
        copier.copy<kBlockN, true>(k_smem, k_src, k_row_bytes, keys_left);
        copier.copy<kBlockN, true>(v_smem, v_src, v_row_bytes, keys_left);
        kw::cp_async_commit();
#pragma unroll
        for (int stage = 1; stage < kNumStages - 1; ++stage) {
            k_src -= kBlockN * k_row_bytes;
            v_src -= kBlockN * v_row_bytes;
            if (n_end > stage) {
                copier.copy<kBlockN, false>(k_smem + stage * kTileBytes, k_src, k_row_bytes, kBlockN);
                copier.copy<kBlockN, false>(v_smem + stage * kTileBytes, v_src, v_row_bytes, kBlockN);
            }
            kw::cp_async_commit();  // possibly empty: the waits below count groups
        }
        int slot = 0;  // of the tile being computed
        int next_slot = kNumStages - 1;  // of the tile being loaded

        // Keys at and after this are hidden from the lane's first row, counted from the lane's first column of tile 0.
        const int first_column = (lane % 4) * 2;
        const int keys_limit = params.seqlen_k - first_column;
        const int row_limit = m_start + warp * kRowsPerWarp + lane / 4 + 1 + causal_shift - first_column;

        const auto step = [&](int n_block, auto masked) {
            constexpr bool kMasked = decltype(masked)::value;
            float s[kMTiles][kNTiles][4];
            kw::cp_async_wait<kNumStages - 2>();
            __syncthreads();  // this tile is complete, and no thread still reads the one before it
            k_src -= kBlockN * k_row_bytes;
            v_src -= kBlockN * v_row_bytes;
            if (n_block >= kNumStages - 1) {
                copier.copy<kBlockN, false>(k_smem + next_slot * kTileBytes, k_src, k_row_bytes, kBlockN);
                copier.copy<kBlockN, false>(v_smem + next_slot * kTileBytes, v_src, v_row_bytes, kBlockN);
            }
            kw::cp_async_commit();  // possibly empty: the wait above counts groups
            const unsigned k_tile = k_smem + slot * kTileBytes;
            const unsigned v_tile = v_smem + slot * kTileBytes;
            slot = slot + 1 == kNumStages ? 0 : slot + 1;
            next_slot = next_slot + 1 == kNumStages ? 0 : next_slot + 1;
            multiply_qk(s, kw::opaque(q_lane), q_reg, kw::opaque(k_tile + lane_b), q_tail, k_tile + tail_a);
            if constexpr (kMasked) {
                int limit[kMTiles][2];
#pragma unroll
                for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        const int seen = kIsCausal ? min(keys_limit, row_limit + m * 16 + h * 8) : keys_limit;
                        limit[m][h] = seen - n_block * kBlockN;
                    }
                }
                apply_mask(s, limit);
            }
            online_softmax<kMasked>(s, acc, scale_log2);
            multiply_pv(s, acc, kw::opaque(v_tile + lane_a), v_tile + tail_a);
        };

        int n_block = n_end - 1;
        for (; n_block >= n_full; --n_block) step(n_block, kw::Bool<true>{});
        for (; n_block >= 0; --n_block) step(n_block, kw::Bool<false>{});
    }

    // Epilogue: normalise, write lse, and stage O in shared memory to store it by rows of 16-byte chunks.
    if constexpr (kQInRegs) {
        // No thread still reads the tiles that O overwrites. With one stage and an O no larger than K nobody does anyway:
        // the last barrier of the loop is after the reads of K. With a single warp it is for ldmatrix, as below.
        __syncthreads();
    } else {
        // A warp overwrites its own rows of Q only, when all its lanes have read them. ldmatrix executes for the warp as a
        // whole, so its reads are done; the PTX memory model does not promise it, and this costs nothing.
        __syncwarp();
    }
    const int row_in_tile = lane / 4;
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row_in_warp = m * 16 + h * 8 + row_in_tile;
            const float row_sum = kw::quad_sum(acc.row_sum[m][h]);
            const float inverse = row_sum == 0.f ? 0.f : kw::reciprocal_approx(row_sum);  // no keys: 0
            const int row = warp * kRowsPerWarp + row_in_warp;
            if (params.lse != nullptr && lane % 4 == 0 && row < rows_left) {
                const float lse = (acc.row_max[m][h] * scale_log2 + kw::log2_approx(row_sum)) * kw::kLn2;
                params.lse[static_cast<long long>(batch_head) * params.seqlen_q + m_start + row] =
                    row_sum == 0.f ? -INFINITY : lse;
            }
#pragma unroll
            for (int d = 0; d < kDTiles; ++d) {
                const unsigned value =
                    kw::pack(acc.o[m][d][2 * h] * inverse, acc.o[m][d][2 * h + 1] * inverse, Element{});
                const unsigned chunk = static_cast<unsigned>(d) ^ swizzle_of(row_in_tile);
                kw::store_shared_u32(q_warp + row_in_warp * kRowBytes + chunk * 16 + (lane % 4) * 4, value);
            }
        }
    }
    __syncwarp();  // the warp's rows of O are complete
    char* o_dst = params.out + 2 * (batch * params.out_batch_stride + head * params.out_head_stride);
    const long long o_row_bytes = params.out_row_stride * 2;
#pragma unroll
    for (int first = 0; first < kRowsPerWarp * kRowChunks; first += 32) {
        const int index = first + lane;
        const int row_in_warp = index / kRowChunks;
        const unsigned chunk = index % kRowChunks;
        const int row = warp * kRowsPerWarp + row_in_warp;
        if ((kRowsPerWarp * kRowChunks % 32 == 0 || row_in_warp < kRowsPerWarp) && row < rows_left) {
            const uint4 value =
                kw::load_shared_u128(q_warp + row_in_warp * kRowBytes + (chunk ^ swizzle_of(row_in_warp)) * 16);
            *reinterpret_cast<uint4*>(o_dst + (m_start + row) * o_row_bytes + chunk * 16) = value;
        }
    }
}
