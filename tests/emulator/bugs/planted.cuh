// SPDX-License-Identifier: Apache-2.0
// Every file here holds a correct kernel and, with -DBUG, the same kernel with one line wrong.
#pragma once

#ifdef BUG
#define PLANT(correct, wrong) wrong
#else
#define PLANT(correct, wrong) correct
#endif

// Macros, not functions: a finding then names the line of the kernel that uses them.
#define SHARED(pointer) static_cast<unsigned>(__cvta_generic_to_shared(pointer))
#define COPY_16(dst, src) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SHARED(dst)), "l"(src) : "memory")
#define COPY_16_OR_ZERO(dst, src, valid) \
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SHARED(dst)), "l"(src), "r"((valid) ? 16 : 0) : "memory")
#define COMMIT() asm volatile("cp.async.commit_group;" ::: "memory")
#define WAIT_ALL_BUT(groups) asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory")
#define NAMED_ARRIVE(id, threads) asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(threads) : "memory")
#define NAMED_SYNC(id, threads) asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(threads) : "memory")
#define SHUFFLE_XOR(result, value, distance) \
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, -1;" : "=f"(result) : "f"(value), "r"(distance))
