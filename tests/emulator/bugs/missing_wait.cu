// SPDX-License-Identifier: Apache-2.0
// Sums the rows of V by column through a ring of cp.async stages. The wait for the stage is forgotten.
#include "planted.cuh"

constexpr int kThreads = 128, kColumns = 64, kRows = 8, kStages = 3;  // rows a tile

extern "C" __global__ void missing_wait(const float* v, float* out, int tiles) {
    __shared__ float ring[kStages][kRows * kColumns];
    const int t = threadIdx.x, column = t % kColumns, first_row = t / kColumns * (kRows / 2);
    for (int tile = 0; tile < kStages - 1; ++tile) {
        if (tile < tiles) COPY_16(&ring[tile][t * 4], v + tile * kRows * kColumns + t * 4);
        COMMIT();
    }
    float sum = 0.f;
    for (int tile = 0; tile < tiles; ++tile) {
        PLANT(WAIT_ALL_BUT(kStages - 2), (void)0);  // planted
        __syncthreads();  // the tile is complete, and nobody still reads the one before it
        const int ahead = tile + kStages - 1;
        if (ahead < tiles) COPY_16(&ring[ahead % kStages][t * 4], v + ahead * kRows * kColumns + t * 4);
        COMMIT();
        for (int row = first_row; row < first_row + kRows / 2; ++row) {
            sum += ring[tile % kStages][row * kColumns + column];  // finds async_read: wait_group
        }
    }
    out[blockIdx.x * kThreads + t] = sum;
}
