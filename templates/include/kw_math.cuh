// Tensor-core products and the few functions of a softmax in base 2.
#pragma once

namespace kw {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

struct Fp16 {};
struct Bf16 {};

template <bool kValue>
struct Bool {
    static constexpr bool value = kValue;
};

// d += a b on 16x8x16 tiles, fp32 accumulation. PTX ISA, "mma.m16n8k16": with g = lane / 4 and t = lane % 4,
// a = (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8); b = (2t, g), (2t + 8, g); d = (g, 2t), (g + 8, 2t).
__device__ __forceinline__ void mma_16816(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Fp16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_16816(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same on 16x8x8 tiles, for the last 8 columns of a head dimension that is no multiple of 16.
__device__ __forceinline__ void mma_1688(float (&d)[4], const unsigned (&a)[2], unsigned b0, Fp16) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
}

__device__ __forceinline__ void mma_1688(float (&d)[4], const unsigned (&a)[2], unsigned b0, Bf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
}

// Two fp32 values rounded to nearest even; `low` takes the lower half.
__device__ __forceinline__ unsigned pack(float low, float high, Fp16) {
    unsigned r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

__device__ __forceinline__ unsigned pack(float low, float high, Bf16) {
    unsigned r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float log2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// tanh by exp2, within 1e-7 of it; tanh.approx is off by up to 5e-4 of a cap.
__device__ __forceinline__ float tanh_accurate(float x) {
    return 1.f - 2.f * reciprocal_approx(exp2_approx(x * (2.f * kLog2e)) + 1.f);
}

// One element of 16 bits.
__device__ __forceinline__ float load_float(const char* address, Fp16) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(*reinterpret_cast<const unsigned short*>(address)));
    return y;
}

__device__ __forceinline__ float load_float(const char* address, Bf16) {
    return __uint_as_float(static_cast<unsigned>(*reinterpret_cast<const unsigned short*>(address)) << 16);
}

// sum + a.low b.low + a.high b.high of two elements each.
__device__ __forceinline__ float dot_pair(unsigned a, unsigned b, float sum, Fp16) {
    float a_low, a_high, b_low, b_high;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(a_low), "=f"(a_high) : "r"(a));
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(b_low), "=f"(b_high) : "r"(b));
    return __fmaf_rn(a_high, b_high, __fmaf_rn(a_low, b_low, sum));
}

__device__ __forceinline__ float dot_pair(unsigned a, unsigned b, float sum, Bf16) {
    sum = __fmaf_rn(__uint_as_float(a << 16), __uint_as_float(b << 16), sum);
    return __fmaf_rn(__uint_as_float(a & 0xffff0000u), __uint_as_float(b & 0xffff0000u), sum);
}

// Philox 4x32 with 7 rounds: counter (offset, row, column), key (seed). Source: Salmon et al. 2011.
__device__ __forceinline__ uint4 philox_4x32_7(unsigned long long seed, unsigned long long offset, unsigned row,
                                               unsigned column) {
    uint4 c = {static_cast<unsigned>(offset), static_cast<unsigned>(offset >> 32), row, column};
    unsigned key_x = static_cast<unsigned>(seed), key_y = static_cast<unsigned>(seed >> 32);
#pragma unroll
    for (int round = 0; round < 7; ++round) {
        const unsigned long long a = static_cast<unsigned long long>(0xD2511F53u) * c.x;
        const unsigned long long b = static_cast<unsigned long long>(0xCD9E8D57u) * c.z;
        c = {static_cast<unsigned>(b >> 32) ^ c.y ^ key_x, static_cast<unsigned>(b),
             static_cast<unsigned>(a >> 32) ^ c.w ^ key_y, static_cast<unsigned>(a)};
        key_x += 0x9E3779B9u;
        key_y += 0xBB67AE85u;
    }
    return c;
}

// Reductions over the four lanes that hold one row of an accumulator.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

}  // namespace kw
