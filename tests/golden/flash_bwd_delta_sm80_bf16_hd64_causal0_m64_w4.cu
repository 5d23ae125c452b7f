// flash_bwd_delta_sm80_bf16_hd64_causal0_m64_w4
// Generated from templates/flash_bwd_delta.cu.jinja. Do not edit: change the template or the spec.
// Spec: {"operation": "flash_bwd_delta", "problem": {"dtype": "bf16", "has_alibi": false, "has_bias": false, "has_dropout": false, "has_softcap": false, "head_dim": 64, "head_dim_v": 64, "is_block_sparse": false, "is_causal": false, "is_local": false, "is_varlen": false}, "schedule": {"block_m": 64, "num_warps": 4}, "sm": 80}
// Regenerate: gen show flash_bwd_delta_sm80_bf16_hd64_causal0_m64_w4
// SPDX-License-Identifier: Apache-2.0
// delta = the sum over a row of dO * O in fp32, which the backward kernels take from dP. Rows are those of a query and a head,
// heads innermost; kLanes lanes of a warp share one and add up in a fixed order.
// Source: FlashAttention-2 (Dao 2023), Algorithm 2, line 4.

#include "kw_math.cuh"

using Element = kw::Bf16;
constexpr int kHeadDim = 64;

// Schedule: how it is computed.
constexpr int kBlockM = 64;  // rows per thread block
constexpr int kNumWarps = 4;

constexpr int kNumThreads = kNumWarps * 32;
constexpr int kChunks = kHeadDim / 8;  // of 16 bytes
constexpr int kLanes = kChunks > 16 ? 32 : kChunks > 8 ? 16 : kChunks > 4 ? 8 : kChunks > 2 ? 4 : kChunks;

struct FlashBwdDeltaParams {
    const char* out;
    const char* dout;
    float* delta;
    long long out_batch_stride;
    long long out_row_stride;
    long long out_head_stride;
    long long dout_batch_stride;
    long long dout_row_stride;
    long long dout_head_stride;
    int seqlen_q;
    int num_heads_q;
    long long num_rows;
};

extern "C" __global__ void __launch_bounds__(kNumThreads)
flash_bwd_delta_sm80_bf16_hd64_causal0_m64_w4(const __grid_constant__ FlashBwdDeltaParams params) {
    const int lane = threadIdx.x % kLanes;
    for (int r = threadIdx.x / kLanes; r < (kBlockM + 31) / 32 * 32; r += kNumThreads / kLanes) {  // whole warps
        const long long index = static_cast<long long>(blockIdx.x) * kBlockM + r;
        const bool is_row = r < kBlockM && index < params.num_rows;
        const long long head = index % params.num_heads_q;
        const long long token = index / params.num_heads_q;
        const long long row = token % params.seqlen_q;
        const long long batch = token / params.seqlen_q;
        float sum = 0.f;
        if (is_row) {
            const char* out = params.out + 2 * (batch * params.out_batch_stride + row * params.out_row_stride + head * params.out_head_stride);
            const char* dout = params.dout + 2 * (batch * params.dout_batch_stride + row * params.dout_row_stride + head * params.dout_head_stride);
#pragma unroll
            for (int chunk = lane; chunk < kChunks; chunk += kLanes) {
                const uint4 a = *reinterpret_cast<const uint4*>(out + chunk * 16);
                const uint4 b = *reinterpret_cast<const uint4*>(dout + chunk * 16);
                sum = kw::dot_pair(a.x, b.x, sum, Element{});
                sum = kw::dot_pair(a.y, b.y, sum, Element{});
                sum = kw::dot_pair(a.z, b.z, sum, Element{});
                sum = kw::dot_pair(a.w, b.w, sum, Element{});
            }
        }
#pragma unroll
        for (int other = kLanes / 2; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
        if (is_row && lane == 0) params.delta[(batch * params.num_heads_q + head) * params.seqlen_q + row] = sum;
    }
}
