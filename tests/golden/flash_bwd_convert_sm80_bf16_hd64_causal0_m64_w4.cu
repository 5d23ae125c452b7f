// flash_bwd_convert_sm80_bf16_hd64_causal0_m64_w4
// Generated from templates/flash_bwd_convert.cu.jinja. Do not edit: change the template or the spec.
// Spec: {"operation": "flash_bwd_convert", "problem": {"dtype": "bf16", "has_alibi": false, "has_bias": false, "has_dropout": false, "has_softcap": false, "head_dim": 64, "head_dim_v": 64, "is_block_sparse": false, "is_causal": false, "is_local": false, "is_varlen": false}, "schedule": {"block_m": 64, "num_warps": 4}, "sm": 80}
// Regenerate: gen show flash_bwd_convert_sm80_bf16_hd64_causal0_m64_w4
// SPDX-License-Identifier: Apache-2.0
// The fp32 sum of dQ rounded to 16 bits. Rows are those of a query and a head, heads innermost.

#include "kw_math.cuh"

using Element = kw::Bf16;
constexpr int kHeadDim = 64;

// Schedule: how it is computed.
constexpr int kBlockM = 64;  // rows per thread block
constexpr int kNumWarps = 4;

constexpr int kNumThreads = kNumWarps * 32;
constexpr int kChunks = kHeadDim / 8;  // of 16 bytes

struct FlashBwdConvertParams {
    const float* dq_sum;
    char* dq;
    long long dq_batch_stride;
    long long dq_row_stride;
    long long dq_head_stride;
    int seqlen_q;
    int num_heads_q;
    long long num_rows;
};

extern "C" __global__ void __launch_bounds__(kNumThreads)
flash_bwd_convert_sm80_bf16_hd64_causal0_m64_w4(const __grid_constant__ FlashBwdConvertParams params) {
    for (int i = threadIdx.x; i < kBlockM * kChunks; i += kNumThreads) {
        const long long index = static_cast<long long>(blockIdx.x) * kBlockM + i / kChunks;
        const int chunk = i % kChunks;
        if (index >= params.num_rows) return;
        const long long head = index % params.num_heads_q;
        const long long token = index / params.num_heads_q;
        const long long row = token % params.seqlen_q;
        const long long batch = token / params.seqlen_q;
        const float4* from = reinterpret_cast<const float4*>(params.dq_sum + index * kHeadDim + chunk * 8);
        const float4 a = from[0], b = from[1];
        char* dq = params.dq + 2 * (batch * params.dq_batch_stride + row * params.dq_row_stride + head * params.dq_head_stride);
        *reinterpret_cast<uint4*>(dq + chunk * 16) = {kw::pack(a.x, a.y, Element{}), kw::pack(a.z, a.w, Element{}),
                                                      kw::pack(b.x, b.y, Element{}), kw::pack(b.z, b.w, Element{})};
    }
}
