// SPDX-License-Identifier: Apache-2.0
// Compact FlashAttention-2-style forward: cp.async double buffering, ldmatrix, mma.sync, online softmax.
// One thread block of 4 warps owns 64 query rows; 64 keys per iteration; head_dim 64; fp16 in, fp16 out.
#include <cuda_fp16.h>
#include <cstdint>

constexpr int kBlockM = 64;
constexpr int kBlockN = 64;
constexpr int kHeadDim = 64;
constexpr int kTileBytes = kBlockN * kHeadDim * 2;

struct Params {
    const __half* q;
    const __half* k;
    const __half* v;
    __half* o;
    float* lse;
    int seqlen_q, seqlen_k, num_heads, num_heads_kv;
    float softmax_scale_log2;
};

#ifdef KW_NO_SWIZZLE
__device__ __forceinline__ uint32_t offset_of(int row, int chunk) { return row * 128 + chunk * 16; }
#else
__device__ __forceinline__ uint32_t offset_of(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) * 16); }
#endif

__device__ __forceinline__ void copy_16(uint32_t dst, const void* src, bool valid) {
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(dst), "l"(src), "r"(bytes));
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;\n" ::); }
template <int N> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;\n" ::"n"(N)); }
__device__ __forceinline__ void ldsm4(uint32_t (&r)[4], uint32_t a) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a));
}
__device__ __forceinline__ void ldsm4t(uint32_t (&r)[4], uint32_t a) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a));
}
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ uint32_t pack(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

__device__ __forceinline__ void load_tile(uint32_t dst, const __half* src, int64_t row_stride, int first, int rows) {
#pragma unroll
    for (int i = 0; i < kBlockN * 8 / 128; ++i) {
        int idx = i * 128 + threadIdx.x;
        int row = idx / 8, chunk = idx % 8;
        bool valid = first + row < rows;
#ifdef KW_NO_GUARD
        valid = true;
#endif
        copy_16(dst + offset_of(row, chunk), src + int64_t(first + row) * row_stride + chunk * 8, valid);
    }
}

extern "C" __global__ void __launch_bounds__(128) flash_fwd(const __grid_constant__ Params p) {
    extern __shared__ __align__(1024) unsigned char smem[];
    const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(smem));
    const uint32_t q_smem = base, k_smem = base + kTileBytes, v_smem = base + 3 * kTileBytes;
    const int m_block = gridDim.x - 1 - blockIdx.x, head = blockIdx.y, batch = blockIdx.z;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int head_kv = head / (p.num_heads / p.num_heads_kv);
    const int64_t q_stride = int64_t(p.num_heads) * kHeadDim, kv_stride = int64_t(p.num_heads_kv) * kHeadDim;
    const __half* q = p.q + int64_t(batch) * p.seqlen_q * q_stride + head * kHeadDim;
    const __half* k = p.k + int64_t(batch) * p.seqlen_k * kv_stride + head_kv * kHeadDim;
    const __half* v = p.v + int64_t(batch) * p.seqlen_k * kv_stride + head_kv * kHeadDim;
    const int shift = p.seqlen_k - p.seqlen_q;
    int last_key = min(p.seqlen_k, (m_block + 1) * kBlockM + shift);
    int n_tiles = max(0, (last_key + kBlockN - 1) / kBlockN);

    load_tile(q_smem, q, q_stride, m_block * kBlockM, p.seqlen_q);
    if (n_tiles > 0) load_tile(k_smem, k, kv_stride, 0, p.seqlen_k);
    commit();
    if (n_tiles > 0) load_tile(v_smem, v, kv_stride, 0, p.seqlen_k);
    commit();

    float o[8][4] = {};
    float row_max[2] = {-INFINITY, -INFINITY}, row_sum[2] = {0.f, 0.f};
    uint32_t q_reg[4][4];
    for (int n = 0; n < n_tiles; ++n) {
        const uint32_t k_now = k_smem + (n & 1) * kTileBytes, v_now = v_smem + (n & 1) * kTileBytes;
        if (n + 1 < n_tiles) load_tile(k_smem + ((n + 1) & 1) * kTileBytes, k, kv_stride, (n + 1) * kBlockN, p.seqlen_k);
        commit();
        if (n + 1 < n_tiles) load_tile(v_smem + ((n + 1) & 1) * kTileBytes, v, kv_stride, (n + 1) * kBlockN, p.seqlen_k);
        commit();
#ifndef KW_NO_WAIT
        wait<2>();  // this tile's K and V have landed for this thread
#endif
        __syncthreads();  // and for every thread
        if (n == 0) {
#pragma unroll
            for (int kk = 0; kk < 4; ++kk)
                ldsm4(q_reg[kk], q_smem + offset_of(warp * 16 + lane % 16, kk * 2 + lane / 16));
        }
        float s[8][4] = {};
#pragma unroll
        for (int kk = 0; kk < 4; ++kk)
#pragma unroll
            for (int nn = 0; nn < 4; ++nn) {
                uint32_t b[4];
                ldsm4(b, k_now + offset_of(nn * 16 + lane % 8 + (lane / 16) * 8, kk * 2 + (lane / 8) % 2));
                mma(s[nn * 2], q_reg[kk], b[0], b[1]);
                mma(s[nn * 2 + 1], q_reg[kk], b[2], b[3]);
            }
        const int row0 = m_block * kBlockM + warp * 16 + lane / 4;
        if ((n + 1) * kBlockN > min(p.seqlen_k, m_block * kBlockM + shift + 1)) {
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    int key = n * kBlockN + i * 8 + (lane % 4) * 2 + (j & 1), row = row0 + (j / 2) * 8;
                    if (key >= p.seqlen_k || key > row + shift) s[i][j] = -INFINITY;
                }
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float m = row_max[r];
#pragma unroll
            for (int i = 0; i < 8; ++i) m = fmaxf(m, fmaxf(s[i][2 * r], s[i][2 * r + 1]));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
            float scaled = m == -INFINITY ? 0.f : m * p.softmax_scale_log2;
            float fix = exp2_approx(row_max[r] * p.softmax_scale_log2 - scaled);
            row_max[r] = m;
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                s[i][2 * r] = exp2_approx(fmaf(s[i][2 * r], p.softmax_scale_log2, -scaled));
                s[i][2 * r + 1] = exp2_approx(fmaf(s[i][2 * r + 1], p.softmax_scale_log2, -scaled));
                sum += s[i][2 * r] + s[i][2 * r + 1];
                o[i][2 * r] *= fix;
                o[i][2 * r + 1] *= fix;
            }
            row_sum[r] = row_sum[r] * fix + sum;
        }
#pragma unroll
        for (int kk = 0; kk < 4; ++kk) {
            uint32_t a[4] = {pack(s[2 * kk][0], s[2 * kk][1]), pack(s[2 * kk][2], s[2 * kk][3]),
                             pack(s[2 * kk + 1][0], s[2 * kk + 1][1]), pack(s[2 * kk + 1][2], s[2 * kk + 1][3])};
#pragma unroll
            for (int nn = 0; nn < 4; ++nn) {
                uint32_t b[4];
                ldsm4t(b, v_now + offset_of(kk * 16 + lane % 16, nn * 2 + lane / 16));
                mma(o[nn * 2], a, b[0], b[1]);
                mma(o[nn * 2 + 1], a, b[2], b[3]);
            }
        }
        __syncthreads();  // nobody reads this buffer any more when the next copies start
    }
    wait<0>();
    const int row0 = m_block * kBlockM + warp * 16 + lane / 4;
    __half* out = p.o + int64_t(batch) * p.seqlen_q * q_stride + head * kHeadDim;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float sum = row_sum[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const float inv = sum > 0.f ? 1.f / sum : 0.f;
        const int row = row0 + 8 * r;
        if (row < p.seqlen_q) {
#pragma unroll
            for (int i = 0; i < 8; ++i)
                *reinterpret_cast<uint32_t*>(out + row * q_stride + i * 8 + (lane % 4) * 2) =
                    pack(o[i][2 * r] * inv, o[i][2 * r + 1] * inv);
            if (lane % 4 == 0)
                p.lse[(int64_t(batch) * p.num_heads + head) * p.seqlen_q + row] =
                    sum > 0.f ? row_max[r] * p.softmax_scale_log2 * 0.6931471805599453f + logf(sum) : -INFINITY;
        }
    }
}
