// SPDX-License-Identifier: Apache-2.0
// Rows of V by vectors of four floats, although the row stride allows no vectors of four.
#include "planted.cuh"

extern "C" __global__ void misaligned_vector(const float* v, float* out, int rows, int row_stride) {
    const int lane = threadIdx.x;
    float sum = 0.f;
    for (int row = 0; row < rows; ++row) {
        const float* at = v + row * row_stride + lane * 4;
        const float4 four = PLANT(make_float4(at[0], at[1], at[2], at[3]), *reinterpret_cast<const float4*>(at));  // planted, finds misaligned: not a multiple of 16
        sum += (four.x + four.y) + (four.z + four.w);
    }
    out[lane] = sum;
}
