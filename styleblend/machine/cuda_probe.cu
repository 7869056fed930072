// What Jittor's operators need of a CUDA home, in one file: `styleblend doctor cuda` compiles it for each kind of card.
// It is never run.
#include <cublas_v2.h>
#include <cub/cub.cuh>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <cudnn.h>
#include <cufft.h>
#include <curand.h>
#include <cusparse.h>
#include <mma.h>
#include <npp.h>

int of_device() {
    cudaDeviceProp device;
    cudaGetDeviceProperties(&device, 0);
    return device.clockRate + device.memoryClockRate + device.computeMode;
}

int of_cudnn() {
    return (int)cudnnSetRNNDescriptor_v6(nullptr, nullptr, 0, 0, nullptr, 0, 0, 0, 0, 0);
}

__global__ void of_cub(int* numbers) {
    typedef cub::BlockReduce<int, 128> Reduce;
    __shared__ typename Reduce::TempStorage room;
    cub::CountingInputIterator<int> count(0);
    int most = Reduce(room).Reduce(numbers[threadIdx.x] + count[cub::LaneId()], cub::Max());
    if (threadIdx.x == 0) numbers[0] = most == NPP_MAX_32S ? NPP_MIN_32S : most;
}
