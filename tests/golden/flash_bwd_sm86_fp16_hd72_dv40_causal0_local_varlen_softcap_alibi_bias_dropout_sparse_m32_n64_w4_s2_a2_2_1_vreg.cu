// flash_bwd_sm86_fp16_hd72_dv40_causal0_local_varlen_softcap_alibi_bias_dropout_sparse_m32_n64_w4_s2_a2_2_1_vreg
// Generated from templates/flash_bwd_mma.cu.jinja. Do not edit: change the template or the spec.
// Spec: {"operation": "flash_bwd", "problem": {"dtype": "fp16", "has_alibi": true, "has_bias": true, "has_dropout": true, "has_softcap": true, "head_dim": 72, "head_dim_v": 40, "is_block_sparse": true, "is_causal": false, "is_local": true, "is_varlen": true}, "schedule": {"block_m": 32, "block_n": 64, "num_stages": 2, "num_warps": 4, "v_in_regs": true, "warps_kv": 2, "warps_q": 1, "warps_scores": 2}, "sm": 86}
// Regenerate: gen show flash_bwd_sm86_fp16_hd72_dv40_causal0_local_varlen_softcap_alibi_bias_dropout_sparse_m32_n64_w4_s2_a2_2_1_vreg
// SPDX-License-Identifier: Apache-2.0
// Attention backward with mma.sync on Ampere and Ada: dK, dV, and dQ in fp32 by atomics. One thread block owns kBlockN keys of
// a key head and visits the tiles of queries that see any of them, of every query head that shares the key head, so that dK
// and dV are sums in registers in a fixed order. Without dq_sum there is no dQ and nothing is left to chance.
// Source: FlashAttention-2 (Dao 2023), Algorithm 2.

#include "kw_copy.cuh"
#include "kw_math.cuh"
#include "kw_multiply.cuh"
#include "kw_tile.cuh"

// Problem: what is computed.
using Element = kw::Fp16;
constexpr int kHeadDim = 72;  // of q and k
constexpr int kHeadDimV = 40;  // of v and out
[[maybe_unused]] constexpr bool kIsCausal = false;
constexpr bool kIsLocal = true;
constexpr bool kHasSoftcap = true;
constexpr bool kHasAlibi = true;
constexpr bool kHasBias = true;
constexpr bool kPackGqa = false;

// Schedule: how it is computed.
constexpr int kBlockM = 32;  // queries per iteration of the main loop
constexpr int kBlockN = 64;  // keys per thread block
constexpr int kNumWarps = 4;
constexpr int kNumStages = 2;  // Q and dO tiles in shared memory
constexpr bool kVInRegs = true;  // V fragments stay in registers; P and dS lie where V was
// Warps along the rows of each product; the others lie along its columns.
constexpr int kWarpsScores = 2;  // rows of S and dP: queries
constexpr int kWarpsKV = 2;  // rows of dK and dV: keys
constexpr int kWarpsQ = 1;  // rows of dQ: queries

using LayoutQK = kw::TileLayout<9, 1, 3, 9, 14>;
using LayoutV = kw::TileLayout<5, 1, 3, 5, 25>;
using LayoutP = kw::TileLayout<8, 8, 0, 8, 16>;

constexpr int kNumThreads = kNumWarps * 32;

// Tiles of 8 columns of each of `warps` warps that share the columns: pairs, of which the last warp may have fewer.
constexpr int column_tiles(int columns, int warps) {
    return warps == 1 ? columns / 8 : (columns / 8 + 2 * warps - 1) / (2 * warps) * 2;
}

constexpr int max_of(int a, int b) { return a > b ? a : b; }

constexpr int kScoreColumns = kNumWarps / kWarpsScores;
constexpr int kMTiles = kBlockM / kWarpsScores / 16;  // of a warp's S and dP
constexpr int kNTiles = kBlockN / kScoreColumns / 8;
constexpr int kKVTiles = kBlockN / kWarpsKV / 16;  // of a warp's dK and dV
constexpr int kKTiles = column_tiles(kHeadDim, kNumWarps / kWarpsKV);
constexpr int kVTiles = column_tiles(kHeadDimV, kNumWarps / kWarpsKV);
constexpr int kQTiles = kBlockM / kWarpsQ / 16;  // of a warp's dQ
constexpr int kQColumns = column_tiles(kHeadDim, kNumWarps / kWarpsQ);
constexpr bool kWholeK = kKTiles * 8 * (kNumWarps / kWarpsKV) == kHeadDim;  // the last warp's share is as large as the others'
constexpr bool kWholeV = kVTiles * 8 * (kNumWarps / kWarpsKV) == kHeadDimV;
// dQ of a tile is made in passes of fewer columns where dK, dV and V leave it few registers.
constexpr int kHeldTiles = kKVTiles * (kKTiles + kVTiles) + (kVInRegs ? kNTiles * kHeadDimV / 32 : 0);  // of 4 registers each
constexpr int kQMost = max_of(2, (40 - kHeldTiles) / kQTiles / 2 * 2);  // 40 by trial: more would spill
constexpr int kQPasses = (kQColumns + kQMost - 1) / kQMost;
constexpr int kQPassColumns = kQPasses == 1 ? kQColumns : column_tiles(kQColumns * 8, kQPasses);
constexpr bool kWholeQ = kQColumns * 8 * (kNumWarps / kWarpsQ) == kHeadDim && kQPassColumns * kQPasses == kQColumns;
constexpr int kQBytes = kBlockM * LayoutQK::kRowBytes;
constexpr int kOBytes = kBlockM * LayoutV::kRowBytes;
constexpr int kKBytes = kBlockN * LayoutQK::kRowBytes;
constexpr int kVBytes = kBlockN * LayoutV::kRowBytes;
constexpr int kPBytes = kBlockM * LayoutP::kRowBytes;
constexpr int kVShare = kVInRegs ? max_of(kVBytes, 2 * kPBytes) : kVBytes;  // of shared memory

struct FlashBwdParams {
    const char* q;
    const char* k;
    const char* v;
    const char* dout;
    const float* lse;
    const float* delta;
    float* dq_sum;
    char* dk;
    char* dv;
    float* dbias;
    const int* q_starts;
    const int* q_ends;
    const int* k_starts;
    const int* k_ends;
    const int* seqused_k;
    const float* alibi_slopes;
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
    long long dout_batch_stride;
    long long dout_row_stride;
    long long dout_head_stride;
    long long dk_batch_stride;
    long long dk_row_stride;
    long long dk_head_stride;
    long long dv_batch_stride;
    long long dv_row_stride;
    long long dv_head_stride;
    long long alibi_slopes_batch_stride;
    long long alibi_slopes_head_stride;
    long long bias_batch_stride;
    long long bias_head_stride;
    long long bias_row_stride;
    long long dbias_batch_stride;
    long long dbias_head_stride;
    long long dbias_row_stride;
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
    int num_n_blocks;
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
__device__ __forceinline__ void apply_bits(float (&s)[kMTiles][kNTiles][4], const FlashBwdParams& params, int number, int row,
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

// From the products Q K^T of a tile to its probabilities, and with dP = dO V^T to dS, the gradient of the scaled products.
// Lanes hold rows `first_row` + 16 m + 8 h and the columns from `first_key` on.
template <bool kMasked>
struct ScoreGradient {
    const FlashBwdParams& params;
    const Visibility& visibility;
    int seqlen_q, batch, head;
    long long row_base;  // of the sequence's first query in lse and delta
    float slope_of_cap[kMTiles][kNTiles][4];  // at each score: 1 - tanh^2

    __device__ __forceinline__ ScoreGradient(const FlashBwdParams& params, const Visibility& visibility, int seqlen_q,
                                             int batch, int head, long long row_base)
        : params(params), visibility(visibility), seqlen_q(seqlen_q), batch(batch), head(head), row_base(row_base) {}

    // What a kept probability is multiplied with.
    __device__ __forceinline__ float keep_scale() const { return params.keep_scale; }

    // P = exp(score - lse); rows behind the last query and rows that see nothing have none. `bits`: number of those of the
    // tile's block in a block mask, or -1.
    __device__ __forceinline__ void to_probabilities(float (&s)[kMTiles][kNTiles][4], int first_row, int first_key,
                                                     [[maybe_unused]] int bits) {
        Rows rows;
        rows.heads = 1;
        const float inner_scale = params.softmax_scale / params.softcap;
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
            for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const float capped = kw::tanh_accurate(s[m][n][e] * inner_scale);
                    slope_of_cap[m][n][e] = 1.f - capped * capped;
                }
            }
        }
        constexpr float scale_log2 = 1.f;  // scores are made in units of log2
        Scores scores;
        scores.scale = kHasSoftcap ? params.softmax_scale / params.softcap : params.softmax_scale * kw::kLog2e;
        scores.cap_log2 = params.softcap * kw::kLog2e;
        scores.seqlen_q = seqlen_q;
        scores.seqlen_k = visibility.seqlen_k;
        scores.slopes = params.alibi_slopes + batch * params.alibi_slopes_batch_stride + head * params.alibi_slopes_head_stride;
        scores.slopes_head_stride = params.alibi_slopes_head_stride;
        scores.bias = params.bias + 2 * (batch * params.bias_batch_stride + head * params.bias_head_stride);
        scores.bias_head_bytes = params.bias_head_stride * 2;
        scores.bias_row_bytes = params.bias_row_stride * 2;
        scores.apply(s, rows, first_row, first_key);
        if constexpr (kMasked) {
            apply_mask(s, visibility, rows, first_row, first_key);
            if (bits >= 0) apply_bits(s, params, bits, first_row, first_key);
        }
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = first_row + m * 16 + h * 8;
                const float lse = row < seqlen_q ? params.lse[row_base + row] : INFINITY;
                const float shift = lse == -INFINITY ? INFINITY : lse * kw::kLog2e;
#pragma unroll
                for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
                    for (int e = 2 * h; e < 2 * h + 2; ++e) {
                        s[m][n][e] = kw::exp2_approx(__fmaf_rn(s[m][n][e], scale_log2, -shift));
                    }
                }
            }
        }
    }

    // dp becomes P (dP - delta), the gradient of the scores, and p what dV takes: what is dropped has no value, so no gradient
    // comes from it, but its probability stays in the sum of its row.
    __device__ __forceinline__ void to_gradients(float (&p)[kMTiles][kNTiles][4], float (&dp)[kMTiles][kNTiles][4], int first_row,
                                                 [[maybe_unused]] int warp_row, [[maybe_unused]] int warp_key,
                                                 [[maybe_unused]] int lane) const {
        Dropout dropout;
        dropout.seed = static_cast<unsigned long long>(params.rng_state[0]);
        dropout.offset = static_cast<unsigned long long>(params.rng_state[1]) +
                         (static_cast<unsigned long long>(batch) * params.num_heads_q + head) * 32 + lane;
        dropout.keep_threshold = static_cast<unsigned>(params.keep_threshold);
        dropout.apply(dp, warp_row, warp_key);
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = first_row + m * 16 + h * 8;
                const float delta = row < seqlen_q ? params.delta[row_base + row] : 0.f;
#pragma unroll
                for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
                    for (int e = 2 * h; e < 2 * h + 2; ++e) {
                        dp[m][n][e] = p[m][n][e] * (dp[m][n][e] * keep_scale() - delta);
                    }
                }
            }
        }
        dropout.apply(p, warp_row, warp_key);
    }

    // From the gradient of the scores to dS, that of the scaled products, which are under the cap.
    __device__ __forceinline__ void to_products(float (&ds)[kMTiles][kNTiles][4]) const {
#pragma unroll
        for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
            for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
                for (int e = 0; e < 4; ++e) ds[m][n][e] *= slope_of_cap[m][n][e];
            }
        }
    }
};

// Add the gradient of the scores to that of the bias, which is one for all sequences or heads where its stride is 0. Lanes hold
// rows `first_row` + 16 m + 8 h and the columns from `key` on.
__device__ __forceinline__ void add_bias_gradient(const float (&ds)[kMTiles][kNTiles][4], float* dbias, long long row_stride,
                                                  int first_row, int key, int seqlen_q, int seqlen_k) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = first_row + m * 16 + h * 8;
            if (row >= seqlen_q) continue;
            float* to = dbias + row * row_stride + key;
#pragma unroll
            for (int n = 0; n < kNTiles; ++n) {
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    if (key + n * 8 + c < seqlen_k) atomicAdd(to + n * 8 + c, ds[m][n][2 * h + c]);
                }
            }
        }
    }
}

// The smallest query in [0, count) of which `holds` is true, or count; it is false of those before and true of those after.
template <class Predicate>
__device__ __forceinline__ int first_query_with(int count, Predicate holds) {
    int low = 0, high = count;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (holds(middle)) high = middle;
        else low = middle + 1;
    }
    return low;
}

// The tiles of queries that a block of keys visits: of each query head in turn, those that are listed.
struct QueryTiles {
    const FlashBwdParams& params;
    long long first_count, first_list;  // of the first head of the batch entry
    int at_head, end_head, end_tile;
    int last_tile, last_head, last_bits;  // of the tile before
    TileWalk walk;

    __device__ __forceinline__ QueryTiles(const FlashBwdParams& params, int batch, int head_kv, int n_start, int first_tile,
                                          int end_tile)
        : params(params), end_tile(end_tile) {
        const int sparse_row = n_start / params.sparse_block_k;
        first_count = batch * params.block_counts_batch_stride + sparse_row;
        first_list = batch * params.block_lists_batch_stride + sparse_row * params.block_lists_row_stride;
        walk.tiles_per_block = params.sparse_block_q / kBlockM;
        walk.first_tile = first_tile;
        walk.tile = first_tile - 1;
        at_head = head_kv * params.heads_per_kv - 1;
        end_head = at_head + 1 + (first_tile < end_tile ? params.heads_per_kv : 0);
        next_head();
    }
    __device__ __forceinline__ void next_head() {
        while (walk.is_over() && ++at_head < end_head) {
            walk.list = params.block_lists + first_list + at_head * params.block_lists_head_stride;
            walk.start(params.block_counts[first_count + at_head * params.block_counts_head_stride], end_tile);
        }
    }
    __device__ __forceinline__ void next() {
        last_tile = walk.tile;
        last_head = at_head;
        last_bits = walk.bits;
        walk.next();
        next_head();
    }
    __device__ __forceinline__ bool is_over() const { return walk.is_over(); }
    __device__ __forceinline__ int m_block() const { return walk.tile; }
    __device__ __forceinline__ int head() const { return at_head; }
    __device__ __forceinline__ int bits() const { return walk.bits; }
    __device__ __forceinline__ int left_m_block() const { return last_tile; }
    __device__ __forceinline__ int left_head() const { return last_head; }
    __device__ __forceinline__ int left_bits() const { return last_bits; }
};

extern "C" __global__ void __launch_bounds__(kNumThreads, 1)
flash_bwd_sm86_fp16_hd72_dv40_causal0_local_varlen_softcap_alibi_bias_dropout_sparse_m32_n64_w4_s2_a2_2_1_vreg(const __grid_constant__ FlashBwdParams params) {
    extern __shared__ __align__(128) unsigned char smem[];

    // blockIdx.x = (sequence * num_heads_kv + head_kv) * num_n_blocks + n_block
    const int n_block = blockIdx.x % params.num_n_blocks;
    const int list = blockIdx.x / params.num_n_blocks;
    const int batch = list / params.num_heads_kv;
    const int head_kv = list % params.num_heads_kv;
    const int n_start = n_block * kBlockN;
    const int q_begin = params.q_starts[batch];
    const int k_begin = params.k_starts[batch];
    const int seqlen_q = params.q_ends[batch] - q_begin;
    const int whole_k = params.k_ends[batch] - k_begin;  // dK and dV have rows for keys that are not in use too
    const int seqlen_k = params.seqused_k != nullptr ? params.seqused_k[batch] : whole_k;
    if (n_start >= whole_k) return;  // the grid is for the longest sequence
    const int entry = 0;
    const long long k_first = entry * params.k_batch_stride + k_begin * params.k_row_stride + head_kv * params.k_head_stride;
    const long long v_first = entry * params.v_batch_stride + k_begin * params.v_row_stride + head_kv * params.v_head_stride;

    Visibility visibility;
    visibility.seqlen_k = seqlen_k;
    visibility.shift = seqlen_k - seqlen_q;
    visibility.window_left = params.window_left;
    visibility.window_right = params.window_right;
    visibility.attention_chunk = params.attention_chunk;
    // Tiles of queries that see a key here: from the first query whose keys end behind n_start to the last whose keys begin
    // before the end.
    const int n_stop = min(n_start + kBlockN, seqlen_k);
    const int first_seeing = first_query_with(seqlen_q, [&](int query) { return visibility.end_key(query) > n_start; });
    const int first_past = first_query_with(seqlen_q, [&](int query) { return visibility.first_key(query) >= n_stop; });
    const int m_begin = first_seeing / kBlockM;
    const int m_end = n_start < seqlen_k ? (first_past + kBlockM - 1) / kBlockM : 0;
    QueryTiles tiles(params, batch, head_kv, n_start, m_begin, m_end);  // to be loaded

    const int thread = threadIdx.x;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const kw::Copier<LayoutQK, kNumThreads> copier(thread);
    const kw::Copier<LayoutV, kNumThreads> copier_v(thread);
    const unsigned k_smem = kw::shared_address(smem);
    const unsigned v_smem = k_smem + kKBytes;
    const unsigned q_smem = v_smem + kVShare;  // kNumStages tiles of Q and dO, in turn
    const unsigned p_smem = kVInRegs ? v_smem : q_smem + kNumStages * (kQBytes + kOBytes);
    const unsigned ds_smem = p_smem + kPBytes;

    float dk[kKVTiles][kKTiles][4], dv[kKVTiles][kVTiles][4];
    kw::set_zero(dk);
    kw::set_zero(dv);

    if (!tiles.is_over()) {
        copier.template copy<kBlockN, true>(k_smem, params.k + 2 * (k_first + (n_start + copier.row) * params.k_row_stride) + copier.col * 16,
                                            params.k_row_stride * 2, seqlen_k - n_start);
        copier_v.template copy<kBlockN, true>(v_smem, params.v + 2 * (v_first + (n_start + copier_v.row) * params.v_row_stride) + copier_v.col * 16,
                                              params.v_row_stride * 2, seqlen_k - n_start);
        const auto load_queries = [&](int stage) {
            const int m_start = tiles.m_block() * kBlockM;
            const int head = tiles.head();
            const unsigned to = q_smem + stage * (kQBytes + kOBytes);
            const long long q_first = entry * params.q_batch_stride + (q_begin + m_start) * params.q_row_stride + head * params.q_head_stride;
            const long long o_first = entry * params.dout_batch_stride + (q_begin + m_start) * params.dout_row_stride + head * params.dout_head_stride;
            copier.template copy<kBlockM, true>(to, params.q + 2 * (q_first + copier.row * params.q_row_stride) + copier.col * 16,
                                                params.q_row_stride * 2, seqlen_q - m_start);
            copier_v.template copy<kBlockM, true>(to + kQBytes, params.dout + 2 * (o_first + copier_v.row * params.dout_row_stride) + copier_v.col * 16,
                                                  params.dout_row_stride * 2, seqlen_q - m_start);
        };
        load_queries(0);
        kw::cp_async_commit();
        kw::TileInRegisters<LayoutV, kHeadDimV, kNTiles> v_reg;
        kw::cp_async_wait<0>();
        __syncthreads();  // V is complete
        v_reg.read(v_smem + warp / kWarpsScores * kNTiles * 8 * LayoutV::kRowBytes, lane);

        int stage = 0;
        const auto step = [&](auto masked) {  // works on the tile that `tiles` has left
            constexpr bool kMasked = decltype(masked)::value;
            const unsigned q_tile = q_smem + stage * (kQBytes + kOBytes);
            const unsigned o_tile = q_tile + kQBytes;
            kw::cp_async_wait<0>();
            __syncthreads();  // Q and dO are complete, and no thread still reads the P, dS and queries before them, or V
            if constexpr (kNumStages > 1) {
                stage = 1 - stage;
                if (!tiles.is_over()) load_queries(stage);
                kw::cp_async_commit();
            }
            const int m_start = tiles.left_m_block() * kBlockM, head = tiles.left_head();
            const int score_row = warp % kWarpsScores * kMTiles * 16;  // of the warp in S and dP
            const int score_column = warp / kWarpsScores * kNTiles * 8;
            const int first_row = m_start + score_row + lane / 4;
            const int first_key = n_start + score_column + (lane % 4) * 2;
            const long long row_base = (static_cast<long long>(entry) * params.num_heads_q + head) * params.seqlen_q + q_begin;

            float s[kMTiles][kNTiles][4];
            kw::set_zero(s);
            kw::multiply_abt<LayoutQK, kHeadDim, Element>(
                s, q_tile + score_row * LayoutQK::kRowBytes, k_smem + score_column * LayoutQK::kRowBytes, thread);
            ScoreGradient<kMasked> gradient(params, visibility, seqlen_q, batch, head, row_base);
            gradient.to_probabilities(s, first_row, first_key, tiles.left_bits());
            float dp[kMTiles][kNTiles][4];
            kw::set_zero(dp);
            kw::multiply_abt<LayoutV, kHeadDimV, Element>(dp, o_tile + score_row * LayoutV::kRowBytes, v_reg, thread);
            gradient.to_gradients(s, dp, first_row, m_start + score_row, n_start + score_column, lane);
            if (params.dbias != nullptr) {
                float* dbias = params.dbias + batch * params.dbias_batch_stride + head * params.dbias_head_stride;
                add_bias_gradient(dp, dbias, params.dbias_row_stride, first_row, first_key, seqlen_q, seqlen_k);
            }
            gradient.to_products(dp);
            kw::store_fragment<LayoutP, Element>(p_smem, s, gradient.keep_scale(), score_row + lane / 4, score_column / 8, lane);
            kw::store_fragment<LayoutP, Element>(ds_smem, dp, 1.f, score_row + lane / 4, score_column / 8, lane);
            __syncthreads();  // P and dS are complete

            const int kv_warp = static_cast<int>(kw::opaque(warp));
            const int kv_row = kv_warp % kWarpsKV * kKVTiles * 16;
            const int kv_part = kv_warp / kWarpsKV;
            kw::multiply_ab<true, kWholeV, LayoutP, LayoutV, kBlockM, Element>(dv, p_smem, kv_row / 8, o_tile, kv_part * kVTiles, LayoutV::kChunks, thread);
            kw::multiply_ab<true, kWholeK, LayoutP, LayoutQK, kBlockM, Element>(dk, ds_smem, kv_row / 8, q_tile, kv_part * kKTiles, LayoutQK::kChunks, thread);
            if (params.dq_sum != nullptr) {
                const int q_warp = static_cast<int>(kw::opaque(warp));
                const int q_row = q_warp % kWarpsQ * kQTiles * 16;
                const int q_part = q_warp / kWarpsQ;
                const int q_end = min(LayoutQK::kChunks, (q_part + 1) * kQColumns);
#pragma unroll 1
                for (int pass = 0; pass < kQPasses; ++pass) {
                    const int q_chunk = q_part * kQColumns + pass * kQPassColumns;
                    float dq[kQTiles][kQPassColumns][4];
                    kw::set_zero(dq);
                    kw::multiply_ab<false, kWholeQ, LayoutP, LayoutQK, kBlockN, Element>(
                        dq, ds_smem + q_row * LayoutP::kRowBytes, 0, k_smem, q_chunk, q_end, thread);
                    const int lane = static_cast<int>(kw::opaque(thread % 32));
#pragma unroll
                    for (int m = 0; m < kQTiles; ++m) {
#pragma unroll
                        for (int h = 0; h < 2; ++h) {
                            const int row = m_start + q_row + m * 16 + h * 8 + lane / 4;
                            if (row >= seqlen_q) continue;
                            const long long at = ((static_cast<long long>(entry) * params.seqlen_q + q_begin + row) * params.num_heads_q + head) * kHeadDim;
                            float* to = params.dq_sum + at + q_chunk * 8 + (lane % 4) * 2;
#pragma unroll
                            for (int n = 0; n < kQPassColumns; ++n) {
                                if (!kWholeQ && q_chunk + n >= q_end) break;
                                atomicAdd(to + n * 8, dq[m][n][2 * h] * params.softmax_scale);
                                atomicAdd(to + n * 8 + 1, dq[m][n][2 * h + 1] * params.softmax_scale);
                            }
                        }
                    }
                }
            }
            if constexpr (kNumStages == 1) {
                __syncthreads();  // no thread still reads Q and dO
                if (!tiles.is_over()) load_queries(0);
                kw::cp_async_commit();
            }
        };
        while (!tiles.is_over()) {
            const int m_start = tiles.m_block() * kBlockM;
            const int last_query = min(m_start + kBlockM, seqlen_q) - 1;
            const bool is_whole = n_start + kBlockN <= visibility.end_key(m_start) && visibility.first_key(last_query) <= n_start;
            const bool is_seen = is_whole && tiles.bits() < 0;
            tiles.next();
            if (is_seen) step(kw::Bool<false>{});
            else step(kw::Bool<true>{});
        }
    }

    // dK and dV are staged where K and V were and stored by rows.
    if constexpr (kNumStages > 1) __syncthreads();  // no thread still reads K, V, P and dS; with one stage the last step ended so
    const int kv_row = warp % kWarpsKV * kKVTiles * 16;
    const int kv_part = warp / kWarpsKV;
    kw::store_fragment<LayoutQK, Element>(k_smem, dk, params.softmax_scale, kv_row + lane / 4, kv_part * kKTiles, lane);
    kw::store_fragment<LayoutV, Element>(v_smem, dv, 1.f, kv_row + lane / 4, kv_part * kVTiles, lane);
    __syncthreads();  // dK and dV are complete
    const int keys_left = whole_k - n_start;
    char* dk_rows = params.dk + 2 * (entry * params.dk_batch_stride + (k_begin + n_start) * params.dk_row_stride + head_kv * params.dk_head_stride);
    char* dv_rows = params.dv + 2 * (entry * params.dv_batch_stride + (k_begin + n_start) * params.dv_row_stride + head_kv * params.dv_head_stride);
    for (int index = thread; index < kBlockN * LayoutQK::kChunks; index += kNumThreads) {
        const int row = index / LayoutQK::kChunks, chunk = index % LayoutQK::kChunks;
        if (row < keys_left) {
            const uint4 value = kw::load_shared_u128(k_smem + row * LayoutQK::kRowBytes + (chunk ^ LayoutQK::swizzle_of(row)) * 16);
            *reinterpret_cast<uint4*>(dk_rows + row * params.dk_row_stride * 2 + chunk * 16) = value;
        }
    }
    for (int index = thread; index < kBlockN * LayoutV::kChunks; index += kNumThreads) {
        const int row = index / LayoutV::kChunks, chunk = index % LayoutV::kChunks;
        if (row < keys_left) {
            const uint4 value = kw::load_shared_u128(v_smem + row * LayoutV::kRowBytes + (chunk ^ LayoutV::swizzle_of(row)) * 16);
            *reinterpret_cast<uint4*>(dv_rows + row * params.dv_row_stride * 2 + chunk * 16) = value;
        }
    }
}
