// flash_bwd_sm80_bf16_hd64_causal1_m64_n128_w8_s1_a4_4_4
// Generated from templates/flash_bwd_mma.cu.jinja. Do not edit: change the template or the spec.
// Spec: {"operation": "flash_bwd", "problem": {"dtype": "bf16", "has_alibi": false, "has_bias": false, "has_dropout": false, "has_softcap": false, "head_dim": 64, "head_dim_v": 64, "is_block_sparse": false, "is_causal": true, "is_local": false, "is_varlen": false}, "schedule": {"block_m": 64, "block_n": 128, "num_stages": 1, "num_warps": 8, "v_in_regs": false, "warps_kv": 4, "warps_q": 4, "warps_scores": 4}, "sm": 80}
// Regenerate: gen show flash_bwd_sm80_bf16_hd64_causal1_m64_n128_w8_s1_a4_4_4
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
using Element = kw::Bf16;
constexpr int kHeadDim = 64;  // of q and k
constexpr int kHeadDimV = 64;  // of v and out
[[maybe_unused]] constexpr bool kIsCausal = true;
constexpr bool kIsLocal = false;
constexpr bool kPackGqa = false;

// Schedule: how it is computed.
constexpr int kBlockM = 64;  // queries per iteration of the main loop
constexpr int kBlockN = 128;  // keys per thread block
constexpr int kNumWarps = 8;
constexpr int kNumStages = 1;  // Q and dO tiles in shared memory
constexpr bool kVInRegs = false;  // V fragments stay in registers; P and dS lie where V was
// Warps along the rows of each product; the others lie along its columns.
constexpr int kWarpsScores = 4;  // rows of S and dP: queries
constexpr int kWarpsKV = 4;  // rows of dK and dV: keys
constexpr int kWarpsQ = 4;  // rows of dQ: queries

using LayoutQK = kw::TileLayout<8, 8, 0, 8, 32>;
using LayoutV = kw::TileLayout<8, 8, 0, 8, 32>;
using LayoutP = kw::TileLayout<16, 8, 0, 16, 16>;

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
    const FlashBwdParams& params;
    const Visibility& visibility;
    int seqlen_q, batch, head;
    long long row_base;  // of the sequence's first query in lse and delta

    __device__ __forceinline__ ScoreGradient(const FlashBwdParams& params, const Visibility& visibility, int seqlen_q,
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

// The tiles of queries that a block of keys visits: of each query head in turn, those from first_tile to before end_tile. What
// begins with `left` is of the tile before. Held as one number, for registers are scarce here.
struct QueryTiles {
    int first_head, first_tile, tiles_per_head;
    int index, end;

    __device__ __forceinline__ QueryTiles(const FlashBwdParams& params, int, int head_kv, int, int first_tile, int end_tile)
        : first_head(head_kv * params.heads_per_kv), first_tile(first_tile), tiles_per_head(max(0, end_tile - first_tile)), index(0),
          end(tiles_per_head * params.heads_per_kv) {}
    __device__ __forceinline__ void next() { ++index; }
    __device__ __forceinline__ bool is_over() const { return index >= end; }
    __device__ __forceinline__ int m_block() const { return first_tile + index % tiles_per_head; }
    __device__ __forceinline__ int head() const { return first_head + index / tiles_per_head; }
    __device__ __forceinline__ int bits() const { return -1; }
    __device__ __forceinline__ int left_m_block() const { return first_tile + (index - 1) % tiles_per_head; }
    __device__ __forceinline__ int left_head() const { return first_head + (index - 1) / tiles_per_head; }
    __device__ __forceinline__ int left_bits() const { return -1; }
};

extern "C" __global__ void __launch_bounds__(kNumThreads, 1)
flash_bwd_sm80_bf16_hd64_causal1_m64_n128_w8_s1_a4_4_4(const __grid_constant__ FlashBwdParams params) {
    extern __shared__ __align__(128) unsigned char smem[];

    // blockIdx.x = (sequence * num_heads_kv + head_kv) * num_n_blocks + n_block
    const int n_block = blockIdx.x % params.num_n_blocks;
    const int list = blockIdx.x / params.num_n_blocks;
    const int batch = list / params.num_heads_kv;
    const int head_kv = list % params.num_heads_kv;
    const int n_start = n_block * kBlockN;
    const int q_begin = 0;
    const int k_begin = 0;
    const int seqlen_q = params.seqlen_q;
    const int seqlen_k = params.seqlen_k;
    const int whole_k = seqlen_k;
    const int entry = batch;
    const long long k_first = entry * params.k_batch_stride + k_begin * params.k_row_stride + head_kv * params.k_head_stride;
    const long long v_first = entry * params.v_batch_stride + k_begin * params.v_row_stride + head_kv * params.v_head_stride;

    Visibility visibility;
    visibility.seqlen_k = seqlen_k;
    visibility.shift = seqlen_k - seqlen_q;
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

        int stage = 0;
        const auto step = [&](auto masked) {  // works on the tile that `tiles` has left
            constexpr bool kMasked = decltype(masked)::value;
            const unsigned q_tile = q_smem + stage * (kQBytes + kOBytes);
            const unsigned o_tile = q_tile + kQBytes;
            kw::cp_async_wait<0>();
            __syncthreads();  // Q and dO are complete, and no thread still reads the P, dS and queries before them
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
            kw::multiply_abt<LayoutV, kHeadDimV, Element>(
                dp, o_tile + score_row * LayoutV::kRowBytes, v_smem + score_column * LayoutV::kRowBytes, thread);
            gradient.to_gradients(s, dp, first_row, m_start + score_row, n_start + score_column, lane);
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
