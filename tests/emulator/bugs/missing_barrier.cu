// SPDX-License-Identifier: Apache-2.0
// The ring with its wait and without the barrier after it: a wait covers the waiting thread's copies only.
#include "planted.cuh"

constexpr int kThreads = 128, kColumns = 64, kRows = 8, kStages = 3;  // rows a tile

extern "C" __global__ void missing_barrier(const float* v, float* out, int tiles) {
    __shared__ float ring[kStages][kRows * kColumns];
    const int t = threadIdx.x, column = t % kColumns, first_row = t / kColumns * (kRows / 2);
    for (int tile = 0; tile < kStages - 1; ++tile) {
        if (tile < tiles) COPY_16(&ring[tile][t * 4], v + tile * kRows * kColumns + t * 4);
        COMMIT();
    }
    float sum = 0.f;
    for (int tile = 0; tile < tiles; ++tile) {
        WAIT_ALL_BUT(kStages - 2);
        PLANT(__syncthreads(), (void)0);  // planted
        for (int row = first_row; row < first_row + kRows / 2; ++row) {
            sum += ring[tile % kStages][row * kColumns + column];  // finds race, async_read, uninitialised_read: of shared memory
        }
        __syncthreads();  // everybody has read the tile whose slot is filled next
        const int ahead = tile + kStages - 1;
        if (ahead < tiles) COPY_16(&ring[ahead % kStages][t * 4], v + ahead * kRows * kColumns + t * 4);
        COMMIT();
    }
    out[blockIdx.x * kThreads + t] = sum;
}
