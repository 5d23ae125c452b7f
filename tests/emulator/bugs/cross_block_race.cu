// SPDX-License-Identifier: Apache-2.0
// Split keys: each block leaves a partial result, the last to finish adds them up. The wrong one takes the block
// with the highest number for the last.
#include "planted.cuh"

extern "C" __global__ void cross_block_race(const float* v, float* partial, unsigned* finished, float* out, int keys) {
    __shared__ bool is_last;
    const int t = threadIdx.x, column = t;
    float sum = 0.f;
    for (int key = blockIdx.x; key < keys; key += gridDim.x) sum += v[key * 32 + column];
    partial[blockIdx.x * 32 + column] = sum;
    __threadfence();
    __syncthreads();
    if (t == 0) is_last = PLANT(atomicAdd(finished, 1u), blockIdx.x) == gridDim.x - 1;  // planted
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    sum = 0.f;
    for (unsigned block = 0; block < gridDim.x; ++block) {
        sum += partial[block * 32 + column];  // finds global_race: any order
    }
    out[column] = sum;
}
