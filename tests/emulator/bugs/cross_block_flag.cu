// SPDX-License-Identifier: Apache-2.0
// A chain of blocks, as in an ordered reduction of dQ: each adds to what the block before it left, once that
// block's flag is up. The wait for the flag is forgotten.
#include "planted.cuh"

extern "C" __global__ void cross_block_flag(const float* v, float* total, unsigned* turn, int tiles) {
    const int t = threadIdx.x;
    if (t == 0) {
        while (PLANT(atomicAdd(turn, 0u) != blockIdx.x, false)) {}  // planted
    }
    __syncthreads();
    __threadfence();
    if (static_cast<int>(blockIdx.x) < tiles) {
        total[t] += v[blockIdx.x * 64 + t];  // finds global_race: any order
    }
    __threadfence();
    __syncthreads();
    if (t == 0) atomicExch(turn, blockIdx.x + 1);
}
