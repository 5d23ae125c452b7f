// SPDX-License-Identifier: Apache-2.0
// A producer warp hands tiles to a consumer warp by a flag. All lanes store, one lane sets the flag: without the
// __syncwarp() between, the flag says nothing of the other lanes' stores.
#include "planted.cuh"

constexpr int kStages = 2;

extern "C" __global__ void one_lane_release(const float* v, float* out, int tiles) {
    __shared__ float ring[kStages][32];
    __shared__ int filled, drained;  // tiles so far
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) filled = drained = 0;
    __syncthreads();
    if (warp == 0) {
        for (int tile = 0; tile < tiles; ++tile) {
            while (*const_cast<volatile int*>(&drained) + kStages <= tile) {}
            __syncwarp();
            ring[tile % kStages][lane] = v[tile * 32 + lane];
            __threadfence_block();
            PLANT(__syncwarp(), (void)0);  // planted
            if (lane == 0) *const_cast<volatile int*>(&filled) = tile + 1;
        }
    } else {
        float sum = 0.f;
        for (int tile = 0; tile < tiles; ++tile) {
            while (*const_cast<volatile int*>(&filled) <= tile) {}
            __threadfence_block();
            sum += ring[tile % kStages][31 - lane];  // finds race: nothing orders the two
            __syncwarp();
            if (lane == 0) *const_cast<volatile int*>(&drained) = tile + 1;
        }
        out[lane] = sum;
    }
}
