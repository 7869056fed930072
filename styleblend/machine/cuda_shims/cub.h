// Stands before CUB 3 (CUDA 13), which has other names for what Jittor 1.3.11 uses of CUB.
#pragma once
#include "@THE HEADER ITSELF@"
#if CUB_VERSION >= 300000
#include <cuda/functional>
#include <cuda/std/functional>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

namespace cub {

typedef ::cuda::maximum<> Max;
typedef ::cuda::minimum<> Min;
typedef ::cuda::std::plus<> Sum;

template <class Number, class Distance = ptrdiff_t> using CountingInputIterator = thrust::counting_iterator<Number>;
template <class Value, class Function, class Input, class Distance = ptrdiff_t>
using TransformInputIterator = thrust::transform_iterator<Function, Input, Value, Value>;

static __device__ __forceinline__ unsigned int LaneId() {
    unsigned int lane;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

}  // namespace cub
#endif
