// SPDX-License-Identifier: Apache-2.0
// The largest score of a row by warps, then over the warps' results in shared memory: warps without keys must
// write theirs too.
#include "planted.cuh"

extern "C" __global__ void unwritten_shared(const float* scores, float* row_max, int keys) {
    __shared__ float warp_max[4];
    const int t = threadIdx.x, warp = t / 32;
    float largest = -1e30f;
    for (int key = t; key < keys; key += 128) largest = fmaxf(largest, scores[blockIdx.x * keys + key]);
    for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    if (t % 32 == 0 && PLANT(true, warp * 32 < keys)) warp_max[warp] = largest;  // planted
    __syncthreads();
    for (int other = 0; other < 4; ++other) {
        largest = fmaxf(largest, warp_max[other]);  // finds uninitialised_read: no thread
    }
    if (t == 0) row_max[blockIdx.x] = largest;
}
