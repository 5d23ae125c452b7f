// SPDX-License-Identifier: Apache-2.0
// K and V of a tile in a group each, so that work on K can begin while V is on its way. The groups are swapped.
#include "planted.cuh"

constexpr int kThreads = 64, kTile = 256;  // floats of a K or V tile
constexpr bool kFirstIsV = PLANT(false, true);  // planted

extern "C" __global__ void commit_group_order(const float* k, const float* v, float* out, int tiles) {
    __shared__ float k_tile[2][kTile], v_tile[2][kTile];
    const int t = threadIdx.x;
    float sum = 0.f;
    for (int tile = -1; tile < tiles; ++tile) {
        const int next = tile + 1, slot = next % 2;
        if (next < tiles) COPY_16(&(kFirstIsV ? v_tile : k_tile)[slot][t * 4], (kFirstIsV ? v : k) + next * kTile + t * 4);
        COMMIT();
        if (next < tiles) COPY_16(&(kFirstIsV ? k_tile : v_tile)[slot][t * 4], (kFirstIsV ? k : v) + next * kTile + t * 4);
        COMMIT();
        if (tile < 0) continue;
        WAIT_ALL_BUT(3);  // in flight: V of this tile, K and V of the next
        __syncthreads();
        float score = 0.f;
        for (int i = 0; i < 4; ++i) score += k_tile[tile % 2][i * kThreads + (t ^ 1)];  // finds async_read: wait_group
        WAIT_ALL_BUT(2);
        __syncthreads();
        for (int i = 0; i < 4; ++i) sum += score * v_tile[tile % 2][i * kThreads + (t ^ 1)];
        __syncthreads();  // the slot is filled again
    }
    out[t] = sum;
}
