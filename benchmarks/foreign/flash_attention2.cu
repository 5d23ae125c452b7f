// SPDX-License-Identifier: Apache-2.0
// The forward kernel of FlashAttention-2 from plain arguments: dense [batch, seqlen, heads, head_dim], fp16.
#define FLASHATTENTION_DISABLE_DROPOUT
#include "flash.h"
#include "flash_fwd_kernel.h"

using Traits = Flash_fwd_kernel_traits<KW_HEAD_DIM, KW_BLOCK_M, KW_BLOCK_N, KW_WARPS, false, false, cutlass::half_t>;

extern "C" __device__ const unsigned kw_shared_bytes = Traits::kSmemSize;
extern "C" __device__ const unsigned kw_threads = Traits::kNThreads;

extern "C" __global__ void __launch_bounds__(Traits::kNThreads)
kw_flash(void* q, void* k, void* v, void* o, void* lse, int batch, int seqlen_q, int seqlen_k, int heads, int heads_k) {
    FLASH_NAMESPACE::Flash_fwd_params p{};
    p.q_ptr = q, p.k_ptr = k, p.v_ptr = v, p.o_ptr = o, p.softmax_lse_ptr = lse;
    p.q_row_stride = p.o_row_stride = heads * KW_HEAD_DIM;
    p.k_row_stride = p.v_row_stride = heads_k * KW_HEAD_DIM;
    p.q_batch_stride = p.o_batch_stride = seqlen_q * p.q_row_stride;
    p.k_batch_stride = p.v_batch_stride = seqlen_k * p.k_row_stride;
    p.q_head_stride = p.k_head_stride = p.v_head_stride = p.o_head_stride = KW_HEAD_DIM;
    p.b = batch, p.h = heads, p.h_k = heads_k, p.h_h_k_ratio = heads / heads_k;
    p.seqlen_q = seqlen_q, p.seqlen_k = seqlen_k, p.d = p.d_rounded = KW_HEAD_DIM;
    p.seqlen_q_rounded = (seqlen_q + 127) / 128 * 128, p.seqlen_k_rounded = (seqlen_k + 127) / 128 * 128;
    p.scale_softmax = rsqrtf(float(KW_HEAD_DIM)), p.scale_softmax_log2 = p.scale_softmax * 1.4426950408889634f;
    p.p_dropout = p.rp_dropout = 1.f, p.p_dropout_in_uint8_t = 255, p.scale_softmax_rp_dropout = p.scale_softmax;
    p.window_size_left = -1, p.window_size_right = KW_CAUSAL ? 0 : -1, p.is_causal = KW_CAUSAL, p.num_splits = 1;
    p.is_seqlens_k_cumulative = true;
    FLASH_NAMESPACE::compute_attn<Traits, false, KW_CAUSAL, false, false, false, true, false, false>(p);
}
