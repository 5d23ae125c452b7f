// SPDX-License-Identifier: Apache-2.0
// The last tile is partial: its missing rows must be filled with zeros, not read.
#include "planted.cuh"

constexpr int kColumns = 64, kRows = 8, kStages = 2;  // rows a tile

extern "C" __global__ void tail_out_of_bounds(const float* v, float* out, int rows) {
    __shared__ float ring[kStages][kRows * kColumns];
    const int t = threadIdx.x, column = t % kColumns, first_row = t / kColumns * (kRows / 2);
    const int tiles = (rows + kRows - 1) / kRows;
    float sum = 0.f;
    for (int tile = -1; tile < tiles; ++tile) {
        const int next = tile + 1, row = next * kRows + t / (kColumns / 4);
        if (next < tiles) {
            COPY_16_OR_ZERO(&ring[next % kStages][t * 4], v + next * kRows * kColumns + t * 4, PLANT(row < rows, row >= 0));  // planted, finds out_of_bounds: past the end
        }
        COMMIT();
        if (tile < 0) continue;
        WAIT_ALL_BUT(1);
        __syncthreads();
        for (int r = first_row; r < first_row + kRows / 2; ++r) sum += ring[tile % kStages][r * kColumns + column];
        __syncthreads();  // the slot is filled again
    }
    out[t] = sum;
}
