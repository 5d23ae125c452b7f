// flash_bwd_dq_sm80_bf16_hd64_causal1_m64_n64_w4_s2
// Generated from templates/flash_bwd_dq_mma.cu.jinja. Do not edit: change the template or the spec.
// Spec: {"operation": "flash_bwd_dq", "problem": {"dtype": "bf16", "has_alibi": false, "has_bias": false, "has_dropout": false, "has_softcap": false, "head_dim": 64, "head_dim_v": 64, "is_block_sparse": false, "is_causal": true, "is_local": false, "is_varlen": false}, "schedule": {"block_m": 64, "block_n": 64, "num_stages": 2, "num_warps": 4}, "sm": 80}
// Regenerate: gen show flash_bwd_dq_sm80_bf16_hd64_causal1_m64_n64_w4_s2
// SPDX-License-Identifier: Apache-2.0
// dQ of attention by itself with mma.sync on Ampere and Ada: bitwise the same each time and without memory for sums, for the
// scores and dP anew. One thread block owns kBlockM queries of a head and visits the tiles of keys that any of them sees; each
// warp owns kBlockM / kNumWarps queries, and dS never leaves its registers.
// Source: FlashAttention-2 (Dao 2023), Algorithm 2, with its loops exchanged for dQ.

#include "kw_copy.cuh"
#include "kw_math.cuh"
#include "kw_multiply.cuh"
#include "kw_tile.cuh"

// Problem: what is computed.
using Element = kw::Bf16;
constexpr int kHeadDim = 64;  // of q and k
constexpr int kHeadDimV = 64;  // of v and out
[[maybe_unused]] constexpr bool kIsCausal = true;
constexpr bool kIsLocal = false;
constexpr bool kPackGqa = false;

// Schedule: how it is computed.
constexpr int kBlockM = 64;  // queries per thread block
constexpr int kBlockN = 64;  // keys per iteration of the main loop
constexpr int kNumWarps = 4;
constexpr int kNumStages = 2;  // K and V tiles in shared memory

using LayoutQK = kw::TileLayout<8, 8, 0, 8, 16>;
using LayoutV = kw::TileLayout<8, 8, 0, 8, 16>;

constexpr int kNumThreads = kNumWarps * 32;
constexpr int kMTiles = kBlockM / kNumWarps / 16;  // of a warp's S and dP
constexpr int kNTiles = kBlockN / 8;
constexpr int kQColumns = kHeadDim / 8;  // of its dQ
constexpr int kQBytes = kBlockM * LayoutQK::kRowBytes;
constexpr int kOBytes = kBlockM * LayoutV::kRowBytes;
constexpr int kKBytes = kBlockN * LayoutQK::kRowBytes;
constexpr int kVBytes = kBlockN * LayoutV::kRowBytes;

struct FlashBwdDqParams {
    const char* q;
    const char* k;
    const char* v;
    const char* dout;
    const float* lse;
    const float* delta;
    char* dq;
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
    long long dq_batch_stride;
    long long dq_row_stride;
    long long dq_head_stride;
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

    __device__ __forceinline__ int first_key([[maybe_unused]] int query) const { return 0; }
    __device__ __forceinline__ int end_key([[maybe_unused]] int query) const { return min(seqlen_k, query + shift + 1); }

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

// From the products Q K^T of a tile to its probabilities, and with dP = dO V^T to dS, the gradient of the scaled products.
// Lanes hold rows `first_row` + 16 m + 8 h and the columns from `first_key` on.
template <bool kMasked>
struct ScoreGradient {
    const FlashBwdDqParams& params;
    const Visibility& visibility;
    int seqlen_q, batch, head;
    long long row_base;  // of the sequence's first query in lse and delta

    __device__ __forceinline__ ScoreGradient(const FlashBwdDqParams& params, const Visibility& visibility, int seqlen_q,
                                             int batch, int head, long long row_base)
        : params(params), visibility(visibility), seqlen_q(seqlen_q), batch(batch), head(head), row_base(row_base) {}

    // What a kept probability is multiplied with.
    __device__ __forceinline__ float keep_scale() const { return 1.f; }

    // P = exp(score - lse); rows behind the last query and rows that see nothing have none. `bits`: number of those of the
    // tile's block in a block mask, or -1.
    __device__ __forceinline__ void to_probabilities(float (&s)[kMTiles][kNTiles][4], int first_row, int first_key,
                                                     [[maybe_unused]] int bits) {
        Rows rows;
        rows.heads = 1;
        const float scale_log2 = params.softmax_scale * kw::kLog2e;
        if constexpr (kMasked) {
            apply_mask(s, visibility, rows, first_row, first_key);
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
    }
};

// The tiles of keys from `tile` to before `end`, each seen as far as its query sees.
struct TileRun {
    int tile, end;
    static constexpr int bits = -1;

    __device__ __forceinline__ bool is_over() const { return tile >= end; }
    __device__ __forceinline__ void next() { ++tile; }
};

extern "C" __global__ void __launch_bounds__(kNumThreads, 1)
flash_bwd_dq_sm80_bf16_hd64_causal1_m64_n64_w4_s2(const __grid_constant__ FlashBwdDqParams params) {
    extern __shared__ __align__(128) unsigned char smem[];

    // blockIdx.x = (sequence * num_heads_q + head) * num_m_blocks + m_block, the last block of queries first
    const int m_block = params.num_m_blocks - 1 - static_cast<int>(blockIdx.x) % params.num_m_blocks;
    const int list = blockIdx.x / params.num_m_blocks;
    const int batch = list / params.num_heads_q;
    const int head = list % params.num_heads_q;
    const int head_kv = head / params.heads_per_kv;
    const int m_start = m_block * kBlockM;
    const int q_begin = 0;
    const int k_begin = 0;
    const int seqlen_q = params.seqlen_q;
    const int seqlen_k = params.seqlen_k;
    const int entry = batch;
    const int rows_left = seqlen_q - m_start;

    Visibility visibility;
    visibility.seqlen_k = seqlen_k;
    visibility.shift = seqlen_k - seqlen_q;
    // Tiles of keys that some query here sees.
    const int last_query = m_start + min(kBlockM, rows_left) - 1;
    const int n_begin = visibility.first_key(m_start) / kBlockN;
    const int n_end = (max(0, visibility.end_key(last_query)) + kBlockN - 1) / kBlockN;

    const int thread = threadIdx.x;
    const int warp = thread / 32;
    const int lane = thread % 32;
    const kw::Copier<LayoutQK, kNumThreads> copier(thread);
    const kw::Copier<LayoutV, kNumThreads> copier_v(thread);
    const unsigned q_smem = kw::shared_address(smem);
    const unsigned o_smem = q_smem + kQBytes;
    const unsigned kv_smem = o_smem + kOBytes;  // kNumStages tiles of K and V, in turn

    const int warp_row = warp * kMTiles * 16;
    TileRun walk{n_begin, n_end};  // of the tiles loaded

    float dq[kMTiles][kQColumns][4];
    kw::set_zero(dq);

    if (!walk.is_over()) {
        const long long q_first = entry * params.q_batch_stride + (q_begin + m_start) * params.q_row_stride + head * params.q_head_stride;
        const long long o_first = entry * params.dout_batch_stride + (q_begin + m_start) * params.dout_row_stride + head * params.dout_head_stride;
        copier.template copy<kBlockM, true>(q_smem, params.q + 2 * (q_first + copier.row * params.q_row_stride) + copier.col * 16,
                                            params.q_row_stride * 2, rows_left);
        copier_v.template copy<kBlockM, true>(o_smem, params.dout + 2 * (o_first + copier_v.row * params.dout_row_stride) + copier_v.col * 16,
                                              params.dout_row_stride * 2, rows_left);
        const auto load_keys = [&](int n_block, int stage) {
            const int n_start = n_block * kBlockN;
            const unsigned to = kv_smem + stage * (kKBytes + kVBytes);
            const long long k_first = entry * params.k_batch_stride + (k_begin + n_start) * params.k_row_stride + head_kv * params.k_head_stride;
            const long long v_first = entry * params.v_batch_stride + (k_begin + n_start) * params.v_row_stride + head_kv * params.v_head_stride;
            copier.template copy<kBlockN, true>(to, params.k + 2 * (k_first + copier.row * params.k_row_stride) + copier.col * 16,
                                                params.k_row_stride * 2, seqlen_k - n_start);
            copier_v.template copy<kBlockN, true>(to + kKBytes, params.v + 2 * (v_first + copier_v.row * params.v_row_stride) + copier_v.col * 16,
                                                  params.v_row_stride * 2, seqlen_k - n_start);
        };
        load_keys(walk.tile, 0);
        kw::cp_async_commit();

        const long long row_base = (static_cast<long long>(entry) * params.num_heads_q + head) * params.seqlen_q + q_begin;
        int stage = 0;
        // The tile n_block, which walk has left; `bits`: number of its block's bits, or -1.
        const auto step = [&](int n_block, int bits, auto masked) {
            constexpr bool kMasked = decltype(masked)::value;
            const unsigned k_tile = kv_smem + stage * (kKBytes + kVBytes);
            const unsigned v_tile = k_tile + kKBytes;
            kw::cp_async_wait<0>();
            __syncthreads();  // K and V are complete, and no thread still reads the tile before them
            if constexpr (kNumStages > 1) {
                stage = 1 - stage;
                if (!walk.is_over()) load_keys(walk.tile, stage);
                kw::cp_async_commit();
            }
            const int n_start = n_block * kBlockN;

            float s[kMTiles][kNTiles][4];
            kw::set_zero(s);
            kw::multiply_abt<LayoutQK, kHeadDim, Element>(
                s, q_smem + warp_row * LayoutQK::kRowBytes, k_tile, thread);
            const int first_row = m_start + warp_row + lane / 4;
            ScoreGradient<kMasked> gradient(params, visibility, seqlen_q, batch, head, row_base);
            gradient.to_probabilities(s, first_row, n_start + (lane % 4) * 2, bits);
            float dp[kMTiles][kNTiles][4];
            kw::set_zero(dp);
            kw::multiply_abt<LayoutV, kHeadDimV, Element>(
                dp, o_smem + warp_row * LayoutV::kRowBytes, v_tile, thread);
            gradient.to_gradients(s, dp, first_row, m_start + warp_row, n_start, lane);
            kw::multiply_fragment_b<LayoutQK, Element>(dq, dp, k_tile, thread);
            if constexpr (kNumStages == 1) {
                __syncthreads();  // no thread still reads K and V
                if (!walk.is_over()) load_keys(walk.tile, 0);
                kw::cp_async_commit();
            }
        };
        while (!walk.is_over()) {
            const int n_start = walk.tile * kBlockN;
            const bool is_whole = n_start + kBlockN <= visibility.end_key(m_start) && visibility.first_key(last_query) <= n_start;
            const int n_block = walk.tile, bits = walk.bits;
            walk.next();
            if (is_whole && bits < 0) step(n_block, bits, kw::Bool<false>{});
            else step(n_block, bits, kw::Bool<true>{});
        }
    }

    // dQ is staged where Q was and stored by rows.
    __syncwarp();  // this warp has read its rows of Q
    kw::store_fragment<LayoutQK, Element>(q_smem, dq, params.softmax_scale, warp_row + lane / 4, 0, lane);
    __syncthreads();  // dQ is complete
    char* dq_rows = params.dq + 2 * (entry * params.dq_batch_stride + (q_begin + m_start) * params.dq_row_stride + head * params.dq_head_stride);
    for (int index = thread; index < kBlockM * LayoutQK::kChunks; index += kNumThreads) {
        const int row = index / LayoutQK::kChunks, chunk = index % LayoutQK::kChunks;
        if (row < rows_left) {
            const uint4 value = kw::load_shared_u128(q_smem + row * LayoutQK::kRowBytes + (chunk ^ LayoutQK::swizzle_of(row)) * 16);
            *reinterpret_cast<uint4*>(dq_rows + row * params.dq_row_stride * 2 + chunk * 16) = value;
        }
    }
}
