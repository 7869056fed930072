// The GPU's own instructions that C++ has no words for: tensor cores, loading what they multiply, copies that do not
// wait. Lane 4 g + t is the one in group g = 0..7 at place t = 0..3; the layouts are those of the PTX ISA, "Matrix
// fragments for mma".
#pragma once
#include <cuda_fp16.h>
#include <cuda_bf16.h>

namespace styleblend { namespace cuda {

// c (16 x 8) += a (16 x 16) b (16 x 8) of 16-bit numbers, two in a register. Rows g and g + 8 of c are `upper` and
// `lower`, at columns 2 t, 2 t + 1.
inline __device__ void mma(float2& upper, float2& lower, const __half2* a, __half2 b0, __half2 b1) {
    const unsigned* r = (const unsigned*)a;
    unsigned s0 = *(unsigned*)&b0, s1 = *(unsigned*)&b1;
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(upper.x), "+f"(upper.y), "+f"(lower.x), "+f"(lower.y)
        : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(s0), "r"(s1));
#else  // compute capability 7.5 has the half of it
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(upper.x), "+f"(upper.y), "+f"(lower.x), "+f"(lower.y) : "r"(r[0]), "r"(r[1]), "r"(s0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(upper.x), "+f"(upper.y), "+f"(lower.x), "+f"(lower.y) : "r"(r[2]), "r"(r[3]), "r"(s1));
#endif
}

inline __device__ void mma(float2& upper, float2& lower, const __nv_bfloat162* a, __nv_bfloat162 b0,
                           __nv_bfloat162 b1) {
    const unsigned* r = (const unsigned*)a;
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(upper.x), "+f"(upper.y), "+f"(lower.x), "+f"(lower.y)
        : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(*(unsigned*)&b0), "r"(*(unsigned*)&b1));
}

// c (16 x 8) += a (16 x 8) b (8 x 8) in TF32: float32 of which the first 11 digits count. a0 = (g, t), a1 = (g + 8, t),
// a2, a3 four columns on.
inline __device__ void mma(float2& upper, float2& lower, const float* a, float b0, float b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(upper.x), "+f"(upper.y), "+f"(lower.x), "+f"(lower.y)
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

// The compiler forgets what x is, so that it does not keep in registers, which are few, what is quickly computed from x
// again.
inline __device__ void compute_anew(float& x) { asm volatile("" : "+f"(x)); }

// Four 8 x 8 matrices of 16-bit numbers out of shared memory; lane 8 m + r brings the address of row r of matrix m, 16
// bytes. Of each a lane gets (g, 2 t) and (g, 2 t + 1), and TURNED (2 t, g) and (2 t + 1, g).
template <bool TURNED, class Pair> __device__ void load_matrices(Pair* to, const void* row) {
    unsigned* r = (unsigned*)to;
    unsigned from = (unsigned)__cvta_generic_to_shared(row);
    if (TURNED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

// 16 bytes into shared memory, zeros if they are not `there`. They have arrived after `wait_for_copies`.
inline __device__ void copy_16_bytes(void* to, const void* from, bool there) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
#else
    *(uint4*)to = there ? *(const uint4*)from : make_uint4(0, 0, 0, 0);
#endif
}

// The copies asked for since the last call are a group from now on.
inline __device__ void end_of_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most the last GROUPS groups of this thread's copies are still on their way.
template <int GROUPS> __device__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" :: "n"(GROUPS) : "memory");
#endif
}

} }  // namespace styleblend::cuda
