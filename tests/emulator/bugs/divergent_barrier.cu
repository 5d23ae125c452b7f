// SPDX-License-Identifier: Apache-2.0
// Each thread adds its row of a shared tile; threads without a row must come to the barrier too.
#include "planted.cuh"

extern "C" __global__ void divergent_barrier(const float* v, float* out, int rows) {
    __shared__ float tile[64];
    const int t = threadIdx.x, row = blockIdx.x * 64 + t;
    tile[t] = row < rows ? v[row] : 0.f;
    if (PLANT(true, row < rows)) __syncthreads();  // planted, finds divergent_barrier: exited
    if (row < rows) out[row] = tile[t] + tile[t ^ 1];
}
