// SPDX-License-Identifier: Apache-2.0
// The ring, filled one stage too far ahead: into the slot that other warps still read.
#include "planted.cuh"

constexpr int kThreads = 128, kColumns = 64, kRows = 8, kStages = 3;  // rows a tile
constexpr int kAhead = PLANT(kStages - 1, kStages);  // planted

extern "C" __global__ void ring_reuse_early(const float* v, float* out, int tiles) {
    __shared__ float ring[kStages][kRows * kColumns];
    const int t = threadIdx.x, column = t % kColumns, first_row = t / kColumns * (kRows / 2);
    for (int tile = 0; tile < kAhead; ++tile) {
        if (tile < tiles) COPY_16(&ring[tile][t * 4], v + tile * kRows * kColumns + t * 4);
        COMMIT();
    }
    float sum = 0.f;
    for (int tile = 0; tile < tiles; ++tile) {
        WAIT_ALL_BUT(kAhead - 1);
        __syncthreads();  // the tile is complete
        for (int row = first_row; row < first_row + kRows / 2; ++row) {
            sum += ring[tile % kStages][row * kColumns + column];
        }
        const int ahead = tile + kAhead;
        if (ahead < tiles) COPY_16(&ring[ahead % kStages][t * 4], v + ahead * kRows * kColumns + t * 4);  // finds race: nothing orders the two
        COMMIT();
    }
    out[blockIdx.x * kThreads + t] = sum;
}
