// SPDX-License-Identifier: Apache-2.0
// Kernels of SGEMM_CUDA with the template arguments that its runner uses.
#include <cuda_runtime.h>
#include <algorithm>
#include <cassert>

#include "kernels/5_kernel_2D_blocktiling.cuh"
#include "kernels/6_kernel_vectorize.cuh"
#include "kernels/10_kernel_warptiling.cuh"
#include "kernels/12_kernel_double_buffering.cuh"

template __global__ void sgemm2DBlocktiling<128, 128, 8, 8, 8>(int, int, int, float, const float*, const float*, float,
                                                               float*);
template __global__ void sgemmVectorize<128, 128, 8, 8, 8>(int, int, int, float, float*, float*, float, float*);
template __global__ void sgemmWarptiling<128, 128, 16, 64, 64, 4, 8, 4, 128>(int, int, int, float, float*, float*, float,
                                                                             float*);
