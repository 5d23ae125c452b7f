// SPDX-License-Identifier: Apache-2.0
// The sum of a row over a warp, where lanes without a key take part in no shuffle although the mask names them.
#include "planted.cuh"

extern "C" __global__ void shuffle_absent_lanes(const float* p, float* row_sum, int keys) {
    const int row = blockIdx.x, lane = threadIdx.x;
    if (PLANT(row < 0, lane >= keys)) return;  // planted
    float sum = lane < keys ? p[row * keys + lane] : 0.f;
    for (int step = 16; step > 0; step /= 2) {
        float other;
        SHUFFLE_XOR(other, sum, step);  // finds divergent_warp: does not take part
        sum += other;
    }
    if (lane == 0) row_sum[row] = sum;
}
