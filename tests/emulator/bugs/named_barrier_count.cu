// SPDX-License-Identifier: Apache-2.0
// One producer warp and two consumer warps with a named barrier for full and one for empty. The consumers wait at
// the barrier for full with the count of a single consumer.
#include "planted.cuh"

constexpr int kFull = 1, kEmpty = 2, kAll = 96;

extern "C" __global__ void named_barrier_count(const float* v, float* out, int tiles) {
    __shared__ float tile_smem[64];
    const int t = threadIdx.x, warp = t / 32, lane = t % 32;
    if (warp == 0) {
        for (int tile = 0; tile < tiles; ++tile) {
            if (tile > 0) NAMED_SYNC(kEmpty, kAll);
            tile_smem[lane] = v[tile * 64 + lane];
            tile_smem[lane + 32] = v[tile * 64 + lane + 32];
            NAMED_ARRIVE(kFull, kAll);  // finds barrier: 64 threads
        }
    } else {
        float sum = 0.f;
        for (int tile = 0; tile < tiles; ++tile) {
            NAMED_SYNC(kFull, PLANT(kAll, 64));  // planted, finds barrier: 96 threads
            sum += tile_smem[95 - t];  // finds uninitialised_read: no thread
            if (tile + 1 < tiles) NAMED_ARRIVE(kEmpty, kAll);
        }
        out[t - 32] = sum;
    }
}
