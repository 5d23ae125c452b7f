// SPDX-License-Identifier: Apache-2.0
// A warp transposes its 32 probabilities' tile through shared memory of its own: lanes read what other lanes wrote.
#include "planted.cuh"

extern "C" __global__ void missing_syncwarp(const float* p, float* out, int tiles) {
    __shared__ float stage[2][32 * 33];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* mine = stage[warp];
    for (int tile = warp; tile < tiles; tile += 2) {
        for (int row = 0; row < 32; ++row) mine[row * 33 + lane] = p[tile * 1024 + row * 32 + lane];
        PLANT(__syncwarp(), (void)0);  // planted
        for (int row = 0; row < 32; ++row) {
            out[tile * 1024 + row * 32 + lane] = mine[lane * 33 + row];  // finds race: __syncwarp
        }
        __syncwarp();  // the next tile overwrites it
    }
}
