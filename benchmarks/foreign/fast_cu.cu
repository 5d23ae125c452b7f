// SPDX-License-Identifier: Apache-2.0
// Kernels of fast.cu that need no thread block clusters, each as its own host code instantiates it but for the number of SMs.
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cassert>
#include <cuda/barrier>

typedef __nv_bfloat16 bf16;
#define CEIL_DIV(M, N) (((M) + (N) - 1) / (N))
#define cudaCheck(error) (error)
#include "matmul_2.cuh"
#include "matmul_3.cuh"
#include "matmul_4.cuh"
#include "matmul_5.cuh"
#include "matmul_6.cuh"
#include "matmul_7.cuh"

#define MAP const __grid_constant__ CUtensorMap
template __global__ void M2::matmulKernel2<64, 64, 64, 64, 64, 16, 128>(int, int, int, bf16*, const CUtensorMap*, const CUtensorMap*);
template __global__ void M3::matmulKernel3<128, 128, 64, 128, false>(int, int, int, bf16*, const CUtensorMap*, const CUtensorMap*, int*);
template __global__ void M4::matmulKernel4<128, 128, 64, 256, 5>(int, int, int, bf16*, const CUtensorMap*, const CUtensorMap*);
template __global__ void M5::matmulKernel5<128, 256, 64, 384, 3>(int, int, int, bf16*, const CUtensorMap*, const CUtensorMap*);
template __global__ void M6::matmulKernel6<128, 256, 64, 384, 3, 3>(int, int, int, bf16*, MAP, MAP);
template __global__ void M7::matmulKernel7<128, 256, 64, 384, 3, 3>(int, int, int, bf16*, MAP, MAP);
