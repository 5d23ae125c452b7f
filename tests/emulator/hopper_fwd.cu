// SPDX-License-Identifier: Apache-2.0
// The tests' own kernel for Hopper: attention, forward, fp16, head_dim 64, tiles of 64 x 64, one head after another in rows of
// [batch * heads, seqlen, 64]. Warps 0 to 3 multiply, warp 4 copies by TMA into a ring of stages.
// There is a correct kernel, hopper_fwd_correct, and one with one line wrong for each Bug; test_hopper_kernel.py says what is to be found.
#include <cuda.h>
#include <cuda_fp16.h>
#include <math_constants.h>
#include <stdint.h>

constexpr int kBlock = 64, kHeadDim = 64, kStages = 2, kTileBytes = kBlock * kHeadDim * 2, kConsumers = 128;

enum class Bug { kNone, kSwizzle, kInitFence, kRegisters, kRing, kBytes, kParity, kFirstFence, kEarlyRead, kFence, kRelease, kProxyFence, kExit };

struct alignas(1024) Shared {
    __half q[kBlock * kHeadDim];
    __half k[kStages][kBlock * kHeadDim];
    __half v[kStages][kBlock * kHeadDim];
    __half o[kBlock * kHeadDim];
    uint64_t q_full, full_k[kStages], full_v[kStages], empty[kStages];
};

#define ADDRESS(pointer) static_cast<uint32_t>(__cvta_generic_to_shared(pointer))

__device__ __forceinline__ void init(uint64_t* bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ADDRESS(bar)), "r"(count) : "memory"); }
__device__ __forceinline__ void expect(uint64_t* bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(ADDRESS(bar)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void arrive(uint64_t* bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ADDRESS(bar)) : "memory"); }
__device__ __forceinline__ void wait(uint64_t* bar, int parity) {
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(ADDRESS(bar)), "r"(parity)
        : "memory");
}
__device__ __forceinline__ void load(void* to, const CUtensorMap* map, uint64_t* bar, int row, int head) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(ADDRESS(to)), "l"(map), "r"(0),
                 "r"(row), "r"(head), "r"(ADDRESS(bar))
                 : "memory");
}
// Rows of 128 bytes, swizzled; groups of eight rows 1024 bytes apart.
template <Bug kBug>
__device__ __forceinline__ uint64_t descriptor(const void* tile) {
    if constexpr (kBug == Bug::kSwizzle)
        return (ADDRESS(tile) >> 4) | 1ull << 16 | (1024ull >> 4) << 32 | 2ull << 62;
    else
        return (ADDRESS(tile) >> 4) | 1ull << 16 | (1024ull >> 4) << 32 | 1ull << 62;
}

#define D4(x, n) "+f"(x[n]), "+f"(x[n + 1]), "+f"(x[n + 2]), "+f"(x[n + 3])
#define D32(x) D4(x, 0), D4(x, 4), D4(x, 8), D4(x, 12), D4(x, 16), D4(x, 20), D4(x, 24), D4(x, 28)
#define NAMES32                                                                                                                             \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, " \
    "%28, %29, %30, %31}"

__device__ __forceinline__ void multiply_ss(float (&d)[32], uint64_t a, uint64_t b, int adds) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " NAMES32 ", %32, %33, p, 1, 1, 0, 0;\n}"
                 : D32(d)
                 : "l"(a), "l"(b), "r"(adds));
}
__device__ __forceinline__ void multiply_rs(float (&d)[32], const uint32_t* a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " NAMES32 ", {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : D32(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// The registers pass through, so that the compiler uses them only after it.
__device__ __forceinline__ void await(float (&d)[32]) { asm volatile("wgmma.wait_group.sync.aligned 0;" : D32(d)::"memory"); }

template <Bug kBug>
__device__ __forceinline__ void forward(const CUtensorMap& q_map, const CUtensorMap& k_map, const CUtensorMap& v_map, const CUtensorMap& o_map, float* lse, int seqlen,
                                        float scale_log2) {
    extern __shared__ __align__(1024) unsigned char raw[];
    Shared& s = *reinterpret_cast<Shared*>(raw);
    const int m_block = blockIdx.x, head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int tiles = min(m_block + 1, (seqlen + kBlock - 1) / kBlock);
    if (threadIdx.x == 0) {
        init(&s.q_full, 1);
        for (int n = 0; n < kStages; ++n) {
            init(&s.full_k[n], 1);
            init(&s.full_v[n], 1);
            init(&s.empty[n], 1);
        }
        if constexpr (kBug != Bug::kInitFence)
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (warp >= 4) {
        if constexpr (kBug == Bug::kRegisters)
            asm volatile("setmaxnreg.dec.sync.aligned.u32 48;");
        else
            asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp == 4 && lane == 0) {
            expect(&s.q_full, kTileBytes);
            load(s.q, &q_map, &s.q_full, m_block * kBlock, head);
            for (int t = 0; t < tiles; ++t) {
                const int stage = t % kStages, round = t / kStages;
                if constexpr (kBug == Bug::kRing)
                    wait(&s.empty[stage], (t < kStages ? round + 1 : round) & 1);
                else
                    wait(&s.empty[stage], (round + 1) & 1);
                if constexpr (kBug == Bug::kBytes)
                    expect(&s.full_k[stage], kTileBytes / 2);
                else
                    expect(&s.full_k[stage], kTileBytes);
                load(s.k[stage], &k_map, &s.full_k[stage], t * kBlock, head);
                expect(&s.full_v[stage], kTileBytes);
                load(s.v[stage], &v_map, &s.full_v[stage], t * kBlock, head);
            }
        }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
    float acc[32], row_max[2] = {-CUDART_INF_F, -CUDART_INF_F}, row_sum[2] = {0.f, 0.f};
    for (float& x : acc) x = 0.f;
    const int row = m_block * kBlock + warp * 16 + lane / 4;
    wait(&s.q_full, 0);
    for (int t = 0; t < tiles; ++t) {
        const int stage = t % kStages, parity = t / kStages & 1;
        if constexpr (kBug == Bug::kParity)
            wait(&s.full_k[stage], parity ^ 1);
        else
            wait(&s.full_k[stage], parity);
        float p[32];
        if constexpr (kBug != Bug::kFirstFence)
            fence();
        for (int k = 0; k < 4; ++k) multiply_ss(p, descriptor<kBug>(s.q) + 2 * k, descriptor<kBug>(s.k[stage]) + 2 * k, k != 0);
        commit();
        if constexpr (kBug != Bug::kEarlyRead)
            await(p);
        float largest[2] = {row_max[0], row_max[1]};
        for (int n = 0; n < 32; ++n) {
            const int key = t * kBlock + 8 * (n / 4) + 2 * (lane % 4) + n % 2, half = n / 2 % 2;
            p[n] = key <= row + 8 * half && key < seqlen ? p[n] * scale_log2 : -CUDART_INF_F;
            largest[half] = fmaxf(largest[half], p[n]);
        }
        float rescale[2];
        for (int half = 0; half < 2; ++half) {
            largest[half] = fmaxf(largest[half], __shfl_xor_sync(~0u, largest[half], 1));
            largest[half] = fmaxf(largest[half], __shfl_xor_sync(~0u, largest[half], 2));
            rescale[half] = exp2f(row_max[half] - largest[half]);
            row_max[half] = largest[half];
            row_sum[half] *= rescale[half];
        }
        uint32_t packed[16];
        for (int n = 0; n < 32; n += 2) {
            const int half = n / 2 % 2;
            const float a = exp2f(p[n] - row_max[half]), b = exp2f(p[n + 1] - row_max[half]);
            row_sum[half] += a + b;
            const __half2 both = __floats2half2_rn(a, b);
            packed[n / 2] = *reinterpret_cast<const uint32_t*>(&both);
        }
        for (int n = 0; n < 32; ++n) acc[n] *= rescale[n / 2 % 2];
        wait(&s.full_v[stage], parity);
        if constexpr (kBug != Bug::kFence)
            fence();
        for (int k = 0; k < 4; ++k) multiply_rs(acc, packed + 4 * k, descriptor<kBug>(s.v[stage]) + (k * 16 * 128 >> 4));
        commit();
        if constexpr (kBug == Bug::kRelease) {
            if (warp == 0 && lane == 0) arrive(&s.empty[stage]);
            await(acc);
        } else {
            await(acc);
            asm volatile("bar.sync 1, 128;" ::: "memory");  // all four warps have waited
            if (warp == 0 && lane == 0) arrive(&s.empty[stage]);
        }
    }
    for (int half = 0; half < 2; ++half) {
        row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 1);
        row_sum[half] += __shfl_xor_sync(~0u, row_sum[half], 2);
    }
    for (int n = 0; n < 32; n += 2) {
        const int half = n / 2 % 2, r = warp * 16 + lane / 4 + 8 * half, c = 8 * (n / 4) + 2 * (lane % 4);
        const int at = (r * kHeadDim + c) * 2;
        const __half2 both = __floats2half2_rn(acc[n] / row_sum[half], acc[n + 1] / row_sum[half]);
        *reinterpret_cast<__half2*>(reinterpret_cast<char*>(s.o) + (at ^ ((at >> 7 & 7) << 4))) = both;
        if (c == 0 && row + 8 * half < seqlen) lse[head * seqlen + row + 8 * half] = (row_max[half] + log2f(row_sum[half])) * 0.69314718f;
    }
    if constexpr (kBug != Bug::kProxyFence)
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync 1, 128;" ::: "memory");
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&o_map), "r"(0), "r"(m_block * kBlock), "r"(head),
                     "r"(ADDRESS(s.o))
                     : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        if constexpr (kBug != Bug::kExit)
            asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
}

#define KERNEL(name, bug)                                                                                                                              \
    extern "C" __global__ void __launch_bounds__(kConsumers + 128)                                                                                     \
        hopper_fwd_##name(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map, const __grid_constant__ CUtensorMap v_map,          \
             const __grid_constant__ CUtensorMap o_map, float* lse, int seqlen, float scale_log2) {                                                    \
        forward<Bug::bug>(q_map, k_map, v_map, o_map, lse, seqlen, scale_log2);                                                                        \
    }
KERNEL(correct, kNone)
#ifndef CORRECT_ALONE
KERNEL(swizzle, kSwizzle)
KERNEL(init_fence, kInitFence)
KERNEL(registers, kRegisters)
KERNEL(ring, kRing)
KERNEL(bytes, kBytes)
KERNEL(parity, kParity)
KERNEL(first_fence, kFirstFence)
KERNEL(early_read, kEarlyRead)
KERNEL(fence, kFence)
KERNEL(release, kRelease)
KERNEL(proxy_fence, kProxyFence)
KERNEL(exit, kExit)
#endif
