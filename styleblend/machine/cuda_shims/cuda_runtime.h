// Stands before the header of CUDA 13, which has no longer three numbers of a device that Jittor 1.3.11 and the cutt in
// it read. The driver still tells them.
#pragma once
#include "@THE HEADER ITSELF@"
#if defined(__cplusplus) && CUDART_VERSION >= 13000

struct DeviceOfOldCuda : cudaDeviceProp {
    int clockRate, memoryClockRate, computeMode;
};

static inline cudaError_t cudaGetDeviceProperties(DeviceOfOldCuda* device, int number) {
    cudaDeviceProp* now = device;
    cudaError_t error = cudaGetDeviceProperties(now, number);
    const struct { int* place; cudaDeviceAttr what; } wanted[] = {
        {&device->clockRate, cudaDevAttrClockRate}, {&device->memoryClockRate, cudaDevAttrMemoryClockRate},
        {&device->computeMode, cudaDevAttrComputeMode}};
    for (const auto& one : wanted)
        if (error == cudaSuccess) error = cudaDeviceGetAttribute(one.place, one.what, number);
    return error;
}

#define cudaDeviceProp DeviceOfOldCuda
#endif
