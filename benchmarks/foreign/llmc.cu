// SPDX-License-Identifier: Apache-2.0
// Kernels of llm.c in fp32. A host function beside them calls what CUDA 13 has with other parameters.
#define ENABLE_FP32
#include <cuda_runtime.h>
#define cudaMemAdvise(...) cudaSuccess
#include "llmc/layernorm.cuh"
#ifdef KW_CLASSIFIER
#include "llmc/fused_classifier.cuh"

template __global__ void fused_classifier_kernel5<true, false>(float*, float*, float*, float, const int*, int, int, int, int,
                                                               std::bool_constant<true>);
#endif
