// SPDX-License-Identifier: Apache-2.0
// Four warps fold keys; those whose keys are all hidden leave before the barrier that the others wait at.
#include "planted.cuh"

extern "C" __global__ void exited_warp(const float* v, float* out, int keys) {
    __shared__ float part[4];
    const int t = threadIdx.x, warp = t / 32;
    if (PLANT(false, warp * 32 >= keys)) return;  // planted
    float sum = t < keys ? v[t] : 0.f;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (t % 32 == 0) part[warp] = sum;
    __syncthreads();  // finds exited_warp: exited
    if (t == 0) {
        for (int other = 1; other < 4 && other * 32 < keys; ++other) sum += part[other];
        *out = sum;
    }
}
