// flash_fwd_sm80_bf16_hd64_dv128_causal0_local_varlen_softcap_alibi_bias_dropout_sparse_m64_n32_w4_s2_qreg0_o2_p1
// Generated from templates/flash_fwd_mma.cu.jinja. Do not edit: change the template or the spec.
// Spec: {"problem": {"dtype": "bf16", "has_alibi": true, "has_bias": true, "has_dropout": true, "has_softcap": true, "head_dim": 64, "head_dim_v": 128, "is_block_sparse": true, "is_causal": false, "is_local": true, "is_varlen": true}, "schedule": {"block_m": 64, "block_n": 32, "num_slices": 2, "num_stages": 2, "num_warps": 4, "pack_gqa": false, "persistent_blocks": 1, "q_in_regs": false}, "sm": 80}
// Regenerate: gen show flash_fwd_sm80_bf16_hd64_dv128_causal0_local_varlen_softcap_alibi_bias_dropout_sparse_m64_n32_w4_s2_qreg0_o2_p1
// SPDX-License-Identifier: Apache-2.0
// Attention forward with mma.sync on Ampere and Ada. One thread block computes kBlockM query rows of one head;
// each warp owns kRowsPerWarp of them. Key tiles are visited from the last visible one down to the first: the
// tiles that need a mask come first and the steady loop after them has none.
// Source: FlashAttention-2 (Dao 2023), Algorithm 1; online softmax in base 2.

#include "kw_copy.cuh"
#include "kw_math.cuh"
#include "kw_tile.cuh"

// Problem: what is computed.
using Element = kw::Bf16;
constexpr int kHeadDim = 64;  // of q and k
constexpr int kHeadDimV = 128;  // of v and out
constexpr bool kIsCausal = false;
constexpr bool kIsLocal = true;
constexpr bool kHasSoftcap = true;
constexpr bool kHasAlibi = true;
constexpr bool kHasBias = true;
constexpr bool kHasDropout = true;

// Schedule: how it is computed.
constexpr int kBlockM = 64;  // query rows per thread block
constexpr int kBlockN = 32;  // keys per iteration of the main loop
constexpr int kNumWarps = 4;
constexpr int kNumStages = 2;  // K and V tiles in shared memory
constexpr bool kQInRegs = false;  // Q fragments stay in registers; their shared memory is reused
constexpr int kNumSlices = 2;  // thread blocks that share a tile's output columns
constexpr int kSliceDim = kHeadDimV / kNumSlices;  // output columns of one
constexpr bool kPackGqa = false;  // query heads that share a key head are rows of the same tiles

// Layout of a row in shared memory and the share of each thread in copying it (gen/layout.py).
using LayoutQK = kw::TileLayout<8, 8, 0, 8, 16>;
using LayoutV = kw::TileLayout<8, 8, 0, 8, 16>;

constexpr int kNumThreads = kNumWarps * 32;
constexpr int kRowsPerWarp = kBlockM / kNumWarps;
constexpr int kMTiles = kRowsPerWarp / 16;  // mma tiles of 16 query rows per warp
constexpr int kNTiles = kBlockN / 8;  // mma tiles of 8 keys
constexpr int kDTiles = kSliceDim / 8;  // mma tiles of 8 output columns
constexpr int kKSteps = kHeadDim / 16;  // full depth-16 steps of Q K^T
constexpr bool kHasTail = kHeadDim % 16 != 0;  // and one of depth 8
constexpr bool kHasTailV = kSliceDim % 16 != 0;
constexpr int kTileBytesK = kBlockN * LayoutQK::kRowBytes;
[[maybe_unused]] constexpr int kTileBytesV = kBlockN * LayoutV::kRowBytes;
constexpr int kQBytes = kQInRegs ? 0 : kBlockM * LayoutQK::kRowBytes;  // Q's own share of shared memory

struct FlashFwdParams {
    const char* q;
    const char* k;
    const char* v;
    char* out;
    float* lse;
    const int* q_starts;
    const int* q_ends;
    const int* k_starts;
    const int* k_ends;
    const int* seqused_k;
    const float* alibi_slopes;
    const float* sink;
    const char* bias;
    const long long* rng_state;
    const int* block_counts;
    const int* block_lists;
    const int* block_bits;
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
    long long alibi_slopes_batch_stride;
    long long alibi_slopes_head_stride;
    long long bias_batch_stride;
    long long bias_head_stride;
    long long bias_row_stride;
    long long block_counts_batch_stride;
    long long block_counts_head_stride;
    long long block_lists_batch_stride;
    long long block_lists_head_stride;
    long long block_lists_row_stride;
    int seqlen_q;
    int seqlen_k;
    int num_heads_q;
    int num_heads_kv;
    int heads_per_kv;
    int num_seqs;
    int num_m_blocks;
    float softmax_scale;
    float softcap;
    int window_left;
    int window_right;
    int attention_chunk;
    int keep_threshold;
    float keep_scale;
    int sparse_block_q;
    int sparse_block_k;
};

// Which keys a query sees: [first_key, end_key), none where that is empty. Both bounds never fall as `query` grows.
struct Visibility {
    int seqlen_k;
    int shift;  // seqlen_k - seqlen_q: the last query is aligned with the last key
    int window_left, window_right;  // keys on either side
    int attention_chunk;  // 0: none

    __device__ __forceinline__ int first_key([[maybe_unused]] int query) const { return max(max(0, query + shift - window_left), choose(attention_chunk, floor_div(query + shift, max(attention_chunk, 1)) * attention_chunk, 0)); }
    __device__ __forceinline__ int end_key([[maybe_unused]] int query) const { return min(min(seqlen_k, query + shift + window_right + 1), choose(attention_chunk, floor_div(query + shift, max(attention_chunk, 1)) * attention_chunk + attention_chunk, seqlen_k)); }

    __device__ __forceinline__ static int floor_div(int a, int b) { return a / b - (a % b < 0); }
    __device__ __forceinline__ static int choose(int condition, int a, int b) { return condition != 0 ? a : b; }
};

// The rows of a tile: queries of one head, or of the heads of a group in turn.
struct Rows {
    int heads;  // in the tile, 1 unless kPackGqa

    __device__ __forceinline__ int query(int row) const { return kPackGqa ? row / heads : row; }
    // Which of the tile's heads.
    __device__ __forceinline__ int head(int row) const { return kPackGqa ? row % heads : 0; }
};

// Hide the keys that a row does not see. Lanes hold rows `row` + 16 m + 8 h and the columns from `key` on.
__device__ __forceinline__ void apply_mask(float (&s)[kMTiles][kNTiles][4], const Visibility& visibility,
                                           const Rows& rows, int row, int key) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int query = rows.query(row + m * 16 + h * 8);
            const int end = visibility.end_key(query) - key;
            [[maybe_unused]] const int begin = visibility.first_key(query) - key;
#pragma unroll
            for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const int column = n * 8 + c;
                    if (column >= end || (kIsLocal && column < begin)) s[m][n][2 * h + c] = -INFINITY;
                }
            }
        }
    }
}

// From products to scores in units of log2: the cap, the bias and the slope, in this order, as FlashAttention-2.
struct Scores {
    float scale;  // softmax_scale, over the cap if there is one, else times log2(e)
    float cap_log2;  // softcap * log2(e)
    const float* slopes;  // ALiBi's, of the tile's first head
    long long slopes_head_stride;
    const char* bias;  // of the tile's first head; queries and keys outside are read at the nearest inside
    long long bias_head_bytes, bias_row_bytes;
    int seqlen_q, seqlen_k;

    __device__ __forceinline__ void apply(float (&s)[kMTiles][kNTiles][4], const Rows& rows, int first_row,
                                          int key) const {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = first_row + m * 16 + h * 8;
                [[maybe_unused]] const int query = min(rows.query(row), seqlen_q - 1);
                [[maybe_unused]] const char* bias_row = bias + query * bias_row_bytes + rows.head(row) * bias_head_bytes;
                [[maybe_unused]] float slope_log2 = 0.f;
                if constexpr (kHasAlibi) slope_log2 = kw::kLog2e * slopes[rows.head(row) * slopes_head_stride];
#pragma unroll
                for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
                    for (int c = 0; c < 2; ++c) {
                        const int column = key + n * 8 + c;
                        float& x = s[m][n][2 * h + c];
                        x *= scale;
                        if constexpr (kHasSoftcap) x = cap_log2 * kw::tanh_accurate(x);
                        if constexpr (kHasBias) {
                            const char* at = bias_row + 2ll * min(column, seqlen_k - 1);
                            x = __fmaf_rn(kw::load_float(at, Element{}), kw::kLog2e, x);
                        }
                        if constexpr (kHasAlibi) {
                            x = __fmaf_rn(-slope_log2, static_cast<float>(abs(query + seqlen_k - seqlen_q - column)), x);
                        }
                    }
                }
            }
        }
    }
};

// Zero the probabilities that dropout takes. A decision depends on (seed, offset), batch, head, row and column alone:
// Philox gives each lane 16 bytes for its elements of a cell of 16 rows and 32 columns, a byte each.
// Source: FlashAttention-2, dropout; Philox 4x32 of 7 rounds, Salmon et al. 2011.
struct Dropout {
    unsigned long long seed, offset;  // offset: of (batch, head, lane)
    unsigned keep_threshold;  // kept when its byte is not above

    __device__ __forceinline__ void apply(float (&p)[kMTiles][kNTiles][4], int warp_row, int key_start) const {
        constexpr int kStep = kNTiles % 4 == 0 ? 4 : 2;  // a tile begins at a cell, or maybe in its middle
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
            for (int n = 0; n < kNTiles; n += kStep) {
                const int column = key_start + n * 8;
                const uint4 random = kw::philox_4x32_7(seed, offset, (warp_row >> 4) + m, column >> 5);
                const bool second_half = kStep == 2 && (column & 16) != 0;
                const unsigned words[4] = {second_half ? random.z : random.x, second_half ? random.w : random.y,
                                           random.z, random.w};
#pragma unroll
                for (int w = 0; w < kStep; ++w) {
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        if (((words[w] >> (8 * e)) & 255u) > keep_threshold) p[m][n + w][e] = 0.f;
                    }
                }
            }
        }
    }
};

// The tiles of a list of blocks, from the last one down. A list has pairs (block, number of its bits or -1) in ascending order;
// blocks are whole multiples of tiles.
struct TileWalk {
    const int* list;
    int entry, sub_tile, tiles_per_block, first_tile;
    int tile, bits;  // where it is, before first_tile at the end; its bits, or -1 where all is visible

    __device__ __forceinline__ bool is_over() const { return tile < first_tile; }
    // To the last listed tile before `end`.
    __device__ __forceinline__ void start(int count, int end) {
        entry = count;
        sub_tile = 0;
        tile = first_tile - 1;
        bits = -1;
        do {
            next();
        } while (tile >= end);
    }
    __device__ __forceinline__ void next() {
        if (sub_tile == 0) {
            if (entry == 0) {
                tile = first_tile - 1;
                return;
            }
            entry -= 1;
            sub_tile = tiles_per_block;
            bits = list[2 * entry + 1];
        }
        sub_tile -= 1;
        tile = list[2 * entry] * tiles_per_block + sub_tile;
        if (tile < first_tile) entry = sub_tile = 0;  // and no more: the next call ends the walk
    }
};

// Hide what the bits of a block hide: 32 keys a word, the lowest bit first. All rows and keys here are in one block.
__device__ __forceinline__ void apply_bits(float (&s)[kMTiles][kNTiles][4], const FlashFwdParams& params, int number, int row,
                                           int key) {
    const int words_per_row = params.sparse_block_k / 32;
    const int* bits = params.block_bits + static_cast<long long>(number) * params.sparse_block_q * words_per_row;
    const int first_row = row % params.sparse_block_q, column = key % params.sparse_block_k;
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int* line = bits + (first_row + m * 16 + h * 8) * words_per_row;
#pragma unroll
            for (int n = 0; n < kNTiles; ++n) {
                const int at = column + n * 8;
                const int pair = line[at >> 5] >> (at & 31);
                if (!(pair & 1)) s[m][n][2 * h] = -INFINITY;
                if (!(pair & 2)) s[m][n][2 * h + 1] = -INFINITY;
            }
        }
    }
}
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
                kw::ldmatrix_x4(q_frag[m], LayoutQK::pair_address(q_lane, 2 * k) + m * 16 * LayoutQK::kRowBytes);
            }
        }
#pragma unroll
        for (int n = 0; n < kNTiles; n += 2) {
            unsigned k_frag[4];
            kw::ldmatrix_x4(k_frag, LayoutQK::pair_address(k_lane, 2 * k) + n * 8 * LayoutQK::kRowBytes);
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
                kw::ldmatrix_x2(q_frag[m], q_tail + m * 16 * LayoutQK::kRowBytes);
            }
        }
#pragma unroll
        for (int n = 0; n < kNTiles; n += 2) {
            unsigned k_frag[2];
            kw::ldmatrix_x2(k_frag, k_tail + n * 8 * LayoutQK::kRowBytes);
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                kw::mma_1688(s[m][n], q_frag[m], k_frag[0], Element{});
                kw::mma_1688(s[m][n + 1], q_frag[m], k_frag[1], Element{});
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
            kw::ldmatrix_x4_trans(v_frag, LayoutV::pair_address(v_lane, d) + k * 16 * LayoutV::kRowBytes);
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                kw::mma_16816(acc.o[m][d], p_frag[m], v_frag[0], v_frag[1], Element{});
                kw::mma_16816(acc.o[m][d + 1], p_frag[m], v_frag[2], v_frag[3], Element{});
            }
        }
        if constexpr (kHasTailV) {  // the last 8 output columns
            unsigned v_frag[2];
            kw::ldmatrix_x2_trans(v_frag, v_tail + k * 16 * LayoutV::kRowBytes);
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
                kw::mma_16816(acc.o[m][kDTiles - 1], p_frag[m], v_frag[0], v_frag[1], Element{});
            }
        }
    }
}

// One tile: kBlockM rows of a head, or of a group of heads, of one sequence.
__device__ __forceinline__ void compute_tile(const FlashFwdParams& params, unsigned char* smem, int m_block, int batch,
                                             int tile_head) {
    const int head = kPackGqa ? tile_head * params.heads_per_kv : tile_head;  // the first of the tile
    const int head_kv = kPackGqa ? tile_head : head / params.heads_per_kv;
    Rows rows;
    rows.heads = kPackGqa ? params.heads_per_kv : 1;
    const int m_start = m_block * kBlockM;
    const int q_begin = params.q_starts[batch];
    const int k_begin = params.k_starts[batch];
    const int seqlen_q = params.q_ends[batch] - q_begin;
    const int seqlen_k = params.seqused_k != nullptr ? params.seqused_k[batch] : params.k_ends[batch] - k_begin;
    if (m_start >= seqlen_q * rows.heads) return;  // the grid is for the longest sequence
    const long long q_first = q_begin * params.q_row_stride;  // element of the sequence's first row
    const long long k_first = k_begin * params.k_row_stride;
    const long long v_first = k_begin * params.v_row_stride;
    const int rows_left = seqlen_q * rows.heads - m_start;
    const int slice_column = kNumSlices == 1 ? 0 : static_cast<int>(blockIdx.y) * kSliceDim;

    // Which keys: tiles [n_begin, n_end) hold all that a row here sees, those of [n_full_begin, n_full_end) are seen whole
    // by every row and the others need the mask.
    Visibility visibility;
    visibility.seqlen_k = seqlen_k;
    visibility.shift = seqlen_k - seqlen_q;
    visibility.window_left = params.window_left;
    visibility.window_right = params.window_right;
    visibility.attention_chunk = params.attention_chunk;
    const int first_query = rows.query(m_start);
    const int last_query = rows.query(m_start + min(kBlockM, rows_left) - 1);
    const int n_end = (max(0, visibility.end_key(last_query)) + kBlockN - 1) / kBlockN;
    const int n_full_end = max(0, visibility.end_key(first_query)) / kBlockN;
    const int n_begin = kIsLocal ? visibility.first_key(first_query) / kBlockN : 0;
    [[maybe_unused]] const int n_full_begin = (visibility.first_key(last_query) + kBlockN - 1) / kBlockN;

    const int thread = threadIdx.x;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const kw::Copier<LayoutQK, kNumThreads> copier(thread);
    const kw::Copier<LayoutV, kNumThreads> copier_v(thread);

    const unsigned q_smem = kw::shared_address(smem);
    const unsigned k_smem = q_smem + kQBytes;  // kNumStages tiles
    const unsigned v_smem = k_smem + kNumStages * kTileBytesK;  // kNumStages tiles

    const long long q_row_bytes = params.q_row_stride * 2;
    const long long k_row_bytes = params.k_row_stride * 2;
    const long long v_row_bytes = params.v_row_stride * 2;
    const char* q_base = params.q + 2 * (q_first + head * params.q_head_stride) + copier.col * 16;
    const char* k_base = params.k + 2 * (k_first + head_kv * params.k_head_stride) + copier.row * k_row_bytes + copier.col * 16;
    const char* v_base = params.v + 2 * (v_first + head_kv * params.v_head_stride + slice_column) +
                         copier_v.row * v_row_bytes + copier_v.col * 16;
    const int sparse_row = m_start / params.sparse_block_q;
    TileWalk walk;  // of the tiles computed
    walk.list = params.block_lists + batch * params.block_lists_batch_stride + head * params.block_lists_head_stride +
                sparse_row * params.block_lists_row_stride;
    walk.tiles_per_block = params.sparse_block_k / kBlockN;
    walk.first_tile = n_begin;
    walk.start(params.block_counts[batch * params.block_counts_batch_stride + head * params.block_counts_head_stride + sparse_row], n_end);
    TileWalk ahead = walk;  // of the tiles loaded

    // Fragment addresses. Q and V: row lane % 16, chunk lane / 16 of a pair; K: 8 keys and 8 more, both chunks.
    const int row_a = lane % 16;
    const int row_b = lane % 8 + (lane / 16) * 8;
    const unsigned lane_a = row_a * LayoutQK::kRowBytes + (LayoutQK::swizzle_of(row_a) ^ (lane / 16)) * 16;
    const unsigned lane_b = row_b * LayoutQK::kRowBytes + (LayoutQK::swizzle_of(row_b) ^ (lane / 8 % 2)) * 16;
    const unsigned lane_v = row_a * LayoutV::kRowBytes + (LayoutV::swizzle_of(row_a) ^ (lane / 16)) * 16;
    const unsigned q_warp = q_smem + warp * kRowsPerWarp * LayoutQK::kRowBytes;
    const unsigned q_lane = q_warp + lane_a;
    // The unpaired last chunk of a row that is no multiple of 16 elements. Such a row has an odd number of chunks and so no
    // swizzle.
    const unsigned tail_a = row_a * LayoutQK::kRowBytes + (LayoutQK::kChunks - 1) * 16;
    const unsigned tail_v = row_a * LayoutV::kRowBytes + (LayoutV::kChunks - 1) * 16;
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
    constexpr float scale_log2 = 1.f;  // scores are made in units of log2
    Scores scores;
    scores.scale = kHasSoftcap ? params.softmax_scale / params.softcap : params.softmax_scale * kw::kLog2e;
    scores.cap_log2 = params.softcap * kw::kLog2e;
    scores.seqlen_q = seqlen_q;
    scores.seqlen_k = seqlen_k;
    scores.slopes = params.alibi_slopes + batch * params.alibi_slopes_batch_stride + head * params.alibi_slopes_head_stride;
    scores.slopes_head_stride = params.alibi_slopes_head_stride;
    scores.bias = params.bias + 2 * (batch * params.bias_batch_stride + head * params.bias_head_stride);
    scores.bias_head_bytes = params.bias_head_stride * 2;
    scores.bias_row_bytes = params.bias_row_stride * 2;
    Dropout dropout;
    dropout.seed = static_cast<unsigned long long>(params.rng_state[0]);
    dropout.offset = static_cast<unsigned long long>(params.rng_state[1]) + (static_cast<unsigned long long>(batch) * params.num_heads_q + head) * 32 + lane;
    dropout.keep_threshold = static_cast<unsigned>(params.keep_threshold);

    if (!walk.is_over()) {
        unsigned q_reg[kQInRegs ? kMTiles : 1][kQInRegs ? kKSteps + 1 : 1][4];

        // First loads. Only the last key tile can be partial, so only it is guarded. Q joins the group of that tile,
        // unless it has to be complete before.
        copier.template copy<kBlockM, true>(q_smem, q_base + (m_start + copier.row) * q_row_bytes, q_row_bytes, rows_left);
        if constexpr (kQInRegs) {
            kw::cp_async_commit();
            kw::cp_async_wait<0>();
            __syncthreads();  // Q is complete
#pragma unroll
            for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
                for (int k = 0; k < kKSteps; ++k) {
                    kw::ldmatrix_x4(q_reg[m][k], LayoutQK::pair_address(q_lane, 2 * k) + m * 16 * LayoutQK::kRowBytes);
                }
                if constexpr (kHasTail) {
                    unsigned q_frag[2];
                    kw::ldmatrix_x2(q_frag, q_tail + m * 16 * LayoutQK::kRowBytes);
                    q_reg[m][kKSteps][0] = q_frag[0];
                    q_reg[m][kKSteps][1] = q_frag[1];
                }
            }
            // Q's bytes may be overwritten by K and V. Where each warp copies to its own rows of Q alone only the promise is
            // missing that ldmatrix has read for all lanes when it is over.
            __syncthreads();
        }
        // Loads one tile; any may be partial, and lies anywhere.
        const auto load_k = [&](unsigned to, int n_block) {
            copier.template copy<kBlockN, true>(to, k_base + static_cast<long long>(n_block) * kBlockN * k_row_bytes, k_row_bytes,
                                                seqlen_k - n_block * kBlockN);
        };
        const auto load_v = [&](unsigned to, int n_block) {
            copier_v.template copy<kBlockN, true>(to, v_base + static_cast<long long>(n_block) * kBlockN * v_row_bytes, v_row_bytes,
                                                  seqlen_k - n_block * kBlockN);
        };
        load_k(k_smem, ahead.tile);
        load_v(v_smem, ahead.tile);
        kw::cp_async_commit();
#pragma unroll
        for (int stage = 1; stage < kNumStages - 1; ++stage) {
            if (!ahead.is_over()) ahead.next();
            if (!ahead.is_over()) {
                load_k(k_smem + stage * kTileBytesK, ahead.tile);
                load_v(v_smem + stage * kTileBytesV, ahead.tile);
            }
            kw::cp_async_commit();  // possibly empty: the waits below count groups
        }
        int slot = 0;  // of the tile being computed
        int next_slot = kNumStages - 1;  // of the tile being loaded

        const int warp_row = m_start + warp * kRowsPerWarp;
        const int first_row = warp_row + lane / 4;  // of this lane
        const int first_column = (lane % 4) * 2;

        const auto step = [&](int n_block, auto masked) {
            constexpr bool kMasked = decltype(masked)::value;
            float s[kMTiles][kNTiles][4];
            kw::cp_async_wait<kNumStages - 2>();
            __syncthreads();  // this tile is complete, and no thread still reads the one before it
            if (!ahead.is_over()) ahead.next();
            if (!ahead.is_over()) {
                load_k(k_smem + next_slot * kTileBytesK, ahead.tile);
                load_v(v_smem + next_slot * kTileBytesV, ahead.tile);
            }
            kw::cp_async_commit();  // possibly empty: the wait above counts groups
            const unsigned k_tile = k_smem + slot * kTileBytesK;
            const unsigned v_tile = v_smem + slot * kTileBytesV;
            slot = slot + 1 == kNumStages ? 0 : slot + 1;
            next_slot = next_slot + 1 == kNumStages ? 0 : next_slot + 1;
            multiply_qk(s, kw::opaque(q_lane), q_reg, kw::opaque(k_tile + lane_b), q_tail, k_tile + tail_a);
            const int key_start = n_block * kBlockN;
            scores.apply(s, rows, first_row, key_start + first_column);
            if constexpr (kMasked) {
                apply_mask(s, visibility, rows, first_row, key_start + first_column);
                if (walk.bits >= 0) apply_bits(s, params, walk.bits, first_row, key_start + first_column);
            }
            online_softmax<kMasked>(s, acc, scale_log2);
            dropout.apply(s, warp_row, key_start);
            multiply_pv(s, acc, kw::opaque(v_tile + lane_v), v_tile + tail_v);
        };

        for (; !walk.is_over(); walk.next()) {
            if (walk.bits >= 0 || walk.tile >= n_full_end || walk.tile < n_full_begin) step(walk.tile, kw::Bool<true>{});
            else step(walk.tile, kw::Bool<false>{});
        }
    }

    // Epilogue: normalise, write lse, and stage O in shared memory to store it by rows of 16-byte chunks.
    if constexpr (kQInRegs || LayoutV::kRowBytes != LayoutQK::kRowBytes) {
        // No thread still reads what O overwrites. With one stage the barrier between Q K^T and P V says so unless O
        // reaches into V. With a single warp it is for ldmatrix, as below.
        __syncthreads();
    } else {
        // A warp overwrites its own rows of Q only, when all its lanes have read them. ldmatrix executes for the warp as a
        // whole, so its reads are done; the PTX memory model does not promise it, and this costs nothing.
        __syncwarp();
    }
    const long long out_first = q_begin * params.out_row_stride;
    const long long lse_first = static_cast<long long>(head) * params.seqlen_q + q_begin;  // of the first head
    const unsigned o_warp = q_smem + warp * kRowsPerWarp * LayoutV::kRowBytes;
    const int row_in_tile = lane / 4;
    const bool writes_lse = params.lse != nullptr && lane % 4 == 0 && slice_column == 0;
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row_in_warp = m * 16 + h * 8 + row_in_tile;
            float row_max = acc.row_max[m][h] * scale_log2;
            float row_sum = kw::quad_sum(acc.row_sum[m][h]);
            float inverse = row_sum == 0.f ? 0.f : kw::reciprocal_approx(row_sum);  // no keys: 0
            if (params.sink != nullptr) {  // one more term of the sum, which has no value
                const float sink = params.sink[head + rows.head(m_start + warp * kRowsPerWarp + row_in_warp)] * kw::kLog2e;
                const float new_max = fmaxf(row_max, sink);
                const float shift = new_max == -INFINITY ? 0.f : new_max;  // no keys, and no sink either
                const float rescale = kw::exp2_approx(row_max - shift);
                row_sum = row_sum * rescale + kw::exp2_approx(sink - shift);
                row_max = shift;
                inverse = row_sum == 0.f ? 0.f : rescale * kw::reciprocal_approx(row_sum);
            }
            if constexpr (kHasDropout) inverse *= params.keep_scale;
            const int row = warp * kRowsPerWarp + row_in_warp;
            if (writes_lse && row < rows_left) {
                const float lse = (row_max + kw::log2_approx(row_sum)) * kw::kLn2;
                const long long lse_head = lse_first + rows.head(m_start + row) * static_cast<long long>(params.seqlen_q);
                params.lse[lse_head + rows.query(m_start + row)] = row_sum == 0.f ? -INFINITY : lse;
            }
#pragma unroll
            for (int d = 0; d < kDTiles; ++d) {
                const unsigned value =
                    kw::pack(acc.o[m][d][2 * h] * inverse, acc.o[m][d][2 * h + 1] * inverse, Element{});
                const unsigned chunk = static_cast<unsigned>(d) ^ LayoutV::swizzle_of(row_in_tile);
                kw::store_shared_u32(o_warp + row_in_warp * LayoutV::kRowBytes + chunk * 16 + (lane % 4) * 4, value);
            }
        }
    }
    __syncwarp();  // the warp's rows of O are complete
    char* o_dst = params.out + 2 * (out_first + head * params.out_head_stride + slice_column);
    const long long o_row_bytes = params.out_row_stride * 2;
#pragma unroll
    for (int first = 0; first < kRowsPerWarp * LayoutV::kChunks; first += 32) {
        const int index = first + lane;
        const int row_in_warp = index / LayoutV::kChunks;
        const unsigned chunk = index % LayoutV::kChunks;
        const int row = warp * kRowsPerWarp + row_in_warp;
        if ((kRowsPerWarp * LayoutV::kChunks % 32 == 0 || row_in_warp < kRowsPerWarp) && row < rows_left) {
            const uint4 value = kw::load_shared_u128(o_warp + row_in_warp * LayoutV::kRowBytes +
                                                     (chunk ^ LayoutV::swizzle_of(row_in_warp)) * 16);
            const long long head_bytes = rows.head(m_start + row) * (2 * params.out_head_stride);
            *reinterpret_cast<uint4*>(o_dst + rows.query(m_start + row) * o_row_bytes + head_bytes + chunk * 16) = value;
        }
    }
}

extern "C" __global__ void __launch_bounds__(kNumThreads, 1)
flash_fwd_sm80_bf16_hd64_dv128_causal0_local_varlen_softcap_alibi_bias_dropout_sparse_m64_n32_w4_s2_qreg0_o2_p1(const __grid_constant__ FlashFwdParams params) {
    extern __shared__ __align__(128) unsigned char smem[];
    const int num_heads = kPackGqa ? params.num_heads_kv : params.num_heads_q;
    // Tiles in the order of their work: the last rows of every sequence and head first, as they see most keys.
    const int num_lists = num_heads * params.num_seqs;
    for (int tile = blockIdx.x; tile < params.num_m_blocks * num_lists; tile += gridDim.x) {
        const int list = tile % num_lists;
        compute_tile(params, smem, params.num_m_blocks - 1 - tile / num_lists, list / num_heads, list % num_heads);
        // No thread still reads the output that the next tile's Q overwrites, which may be another thread's share of it.
        __syncthreads();
    }
}
