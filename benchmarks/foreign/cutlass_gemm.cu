// SPDX-License-Identifier: Apache-2.0
// CUTLASS 2.x GEMMs for tensor cores from plain arguments: their parameters are made in the kernel.
#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm.h>

namespace kw {

using cutlass::gemm::GemmShape;
using Tile = GemmShape<KW_TILE_M, KW_TILE_N, KW_TILE_K>;
using Warp = GemmShape<KW_TILE_M / 2, KW_TILE_N / 2, KW_TILE_K>;  // 2 x 2 warps
using Instruction = GemmShape<16, 8, KW_INSTRUCTION_K>;
using In = KW_IN;
using Out = KW_OUT;
using LayoutB = cutlass::layout::KW_LAYOUT_B;

template <class T>
constexpr int kVector = 128 / cutlass::sizeof_bits<T>::value;

using Gemm = cutlass::gemm::device::Gemm<
    In, cutlass::layout::RowMajor, In, LayoutB, Out, cutlass::layout::RowMajor, KW_ACCUMULATOR,
    cutlass::arch::OpClassTensorOp, cutlass::arch::KW_ARCH, Tile, Warp, Instruction,
    cutlass::epilogue::thread::LinearCombination<Out, kVector<Out>, KW_ACCUMULATOR, KW_ACCUMULATOR>,
    cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, KW_STAGES, kVector<In>, kVector<In>, false,
    cutlass::arch::KW_OPERATOR>;
using Kernel = Gemm::GemmKernel;

}  // namespace kw

extern "C" __device__ const unsigned kw_shared_bytes = sizeof(kw::Kernel::SharedStorage);
extern "C" __device__ const unsigned kw_threads = kw::Kernel::kThreadCount;

extern "C" __global__ void __launch_bounds__(kw::Kernel::kThreadCount)
kw_gemm(kw::In* a, kw::In* b, kw::Out* d, int m, int n, int k) {
    extern __shared__ __align__(128) unsigned char smem[];
    const kw::Kernel::Params params({m, n, k}, {int(gridDim.x), int(gridDim.y), 1}, {a, cutlass::layout::RowMajor(k)},
                                    {b, kw::LayoutB::packed({k, n})}, {d, cutlass::layout::RowMajor(n)},
                                    {d, cutlass::layout::RowMajor(n)}, {KW_ACCUMULATOR(1), KW_ACCUMULATOR(0)});
    kw::Kernel()(params, *reinterpret_cast<kw::Kernel::SharedStorage*>(smem));
}
