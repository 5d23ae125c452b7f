// Two stages filled by memcpy_async and handed over by cuda::barrier: what libcu++ makes of both for sm_80.
// SPDX-License-Identifier: Apache-2.0
#include <cuda/barrier>

using Barrier = cuda::barrier<cuda::thread_scope_block>;

// Each tile of 128 float4 is written out in reverse order.
extern "C" __global__ void ring(const float4* in, float4* out, int tiles) {
    __shared__ alignas(16) float4 stage[2][128];
#pragma nv_diag_suppress static_var_with_dynamic_init
    __shared__ Barrier full[2];
    const int i = threadIdx.x;
    if (i == 0) {
        init(&full[0], blockDim.x);
        init(&full[1], blockDim.x);
    }
    __syncthreads();
    const auto fetch = [&](int tile) {
        cuda::memcpy_async(&stage[tile & 1][i], in + tile * 128 + i, cuda::aligned_size_t<16>(16), full[tile & 1]);
    };
    fetch(0);
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) fetch(tile + 1);
        full[tile & 1].arrive_and_wait();
        out[tile * 128 + i] = stage[tile & 1][127 - i];
        __syncthreads();  // the stage has been read by all before it is filled again
    }
}
