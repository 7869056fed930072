// In the CUDA runtime's place (libcudart). What the card is like: STAND_IN_CAPABILITY (90), STAND_IN_MEMORY (bytes, 80
// GB), STAND_IN_CARDS (1). At the end the calls and kernels are counted in the file STAND_IN_REPORT, lines of kind,
// name and number.
#include <cuda_runtime_api.h>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include "stand_in.h"

namespace {

long setting(const char* name, long otherwise) {
    const char* given = std::getenv(name);
    return given && *given ? std::atol(given) : otherwise;
}

struct Kernel { std::string name; int dynamic_shared; };
struct Launch { dim3 grid, block; size_t shared; cudaStream_t stream; };

// Never destroyed: operators are unloaded after everything else.
struct State {
    std::recursive_mutex mutex;
    std::map<const char*, size_t> memory;  // begin -> bytes, of what is the card's or the card can reach
    std::map<const char*, bool> of_host;
    size_t used = 0, most = 0;
    std::map<const void*, Kernel> kernels;  // by the function of the host that launches it
    std::map<std::pair<std::string, std::string>, long> counts;
    Launch launch;
    int card = 0;
    cudaError_t last = cudaSuccess;
};
State& state() { static State* it = new State; return *it; }

void report(const char* kind, const char* name, long number) {
    const char* path = std::getenv("STAND_IN_REPORT");
    FILE* file = path ? std::fopen(path, "a") : nullptr;
    if (!file) return;
    std::fprintf(file, "%s\t%s\t%ld\n", kind, name, number);
    std::fclose(file);
}

void write_report() {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    for (auto& entry : state().counts) report(entry.first.first.c_str(), entry.first.second.c_str(), entry.second);
    if (state().most) report("memory", "most bytes on the card", (long)state().most);
    state().counts.clear();
    state().most = 0;
}
struct AtTheEnd { AtTheEnd() { std::atexit(write_report); } } at_the_end;

cudaError_t refused(cudaError_t error) { return state().last = error; }

cudaError_t allocate(const char* call, void** to, size_t bytes, bool of_host) {
    State& s = state();
    std::lock_guard<std::recursive_mutex> lock(s.mutex);
    stand_in_count("call", call);
    if (!of_host && s.used + bytes > (size_t)setting("STAND_IN_MEMORY", 80L << 30)) {
        *to = nullptr;
        return refused(cudaErrorMemoryAllocation);
    }
    *to = std::calloc(1, bytes ? bytes : 1);
    if (!*to) return refused(cudaErrorMemoryAllocation);
    s.memory[(char*)*to] = bytes;
    s.of_host[(char*)*to] = of_host;
    if (!of_host) s.used += bytes;
    if (s.used > s.most) s.most = s.used;
    return cudaSuccess;
}

cudaError_t release(const char* call, void* p) {
    State& s = state();
    std::lock_guard<std::recursive_mutex> lock(s.mutex);
    stand_in_count("call", call);
    if (!p) return cudaSuccess;
    auto found = s.memory.find((char*)p);
    if (found == s.memory.end()) {
        stand_in_wrong("%s: %p was not allocated", call, p);
        return refused(cudaErrorInvalidValue);
    }
    if (!s.of_host[found->first]) s.used -= found->second;
    s.of_host.erase(found->first);
    s.memory.erase(found);
    std::free(p);
    return cudaSuccess;
}

cudaError_t move(const char* call, void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    static const char* ways[] = {"host to host", "host to card", "card to host", "card to card", "any"};
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    stand_in_count("copy", ways[kind]);
    bool to_card = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_card = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if ((to_card && !is_of_card(call, "the target", to, bytes)) ||
        (from_card && !is_of_card(call, "the source", from, bytes))) return refused(cudaErrorInvalidValue);
    std::memmove(to, from, bytes);
    return cudaSuccess;
}

cudaError_t fill(const char* call, void* to, int value, size_t bytes) {
    stand_in_count("call", call);
    if (!is_of_card(call, "the target", to, bytes)) return refused(cudaErrorInvalidValue);
    std::memset(to, value, bytes);
    return cudaSuccess;
}

// What every card of capability 7.5 to 9.0 refuses.
cudaError_t start(const void* function, dim3 grid, dim3 block, size_t shared) {
    State& s = state();
    std::lock_guard<std::recursive_mutex> lock(s.mutex);
    auto found = s.kernels.find(function);
    if (found == s.kernels.end()) {
        stand_in_wrong("a launch of a kernel that was not registered");
        return refused(cudaErrorInvalidDeviceFunction);
    }
    const Kernel& kernel = found->second;
    stand_in_count("kernel", kernel.name.c_str());
    size_t threads = (size_t)block.x * block.y * block.z, blocks = (size_t)grid.x * grid.y * grid.z;
    if (!threads || !blocks || threads > 1024 || block.z > 64 || grid.x > 0x7fffffff || grid.y > 65535 ||
        grid.z > 65535 || shared > (size_t)kernel.dynamic_shared) {
        stand_in_wrong("%s: a launch of (%u, %u, %u) blocks of (%u, %u, %u) threads with %zu bytes of shared memory",
                       kernel.name.c_str(), grid.x, grid.y, grid.z, block.x, block.y, block.z, shared);
        return refused(cudaErrorInvalidConfiguration);
    }
    return cudaSuccess;
}

}  // namespace

extern "C" {

void stand_in_count(const char* kind, const char* name) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    state().counts[{kind, name}]++;
}

void stand_in_wrong(const char* sentence, ...) {
    char text[600];
    va_list given;
    va_start(given, sentence);
    std::vsnprintf(text, sizeof text, sentence, given);
    va_end(given);
    std::fprintf(stderr, "stand-in for CUDA: %s\n", text);
    report("wrong", text, 1);
}

size_t stand_in_room(const void* begin) {
    State& s = state();
    std::lock_guard<std::recursive_mutex> lock(s.mutex);
    auto after = s.memory.upper_bound((const char*)begin);
    if (after == s.memory.begin()) return 0;
    auto own = std::prev(after);
    size_t at = (const char*)begin - own->first;
    return at < own->second ? own->second - at : 0;
}

// ---------------------------------------------------------------- the card

cudaError_t cudaGetDeviceCount(int* count) { *count = (int)setting("STAND_IN_CARDS", 1); return cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { *device = state().card; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) { state().card = device; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* to, int) {
    int capability = (int)setting("STAND_IN_CAPABILITY", 90);
    std::memset(to, 0, sizeof *to);
    std::strcpy(to->name, "A stand-in for a card");
    to->major = capability / 10; to->minor = capability % 10;
    to->totalGlobalMem = (size_t)setting("STAND_IN_MEMORY", 80L << 30);
    to->sharedMemPerBlock = 48 * 1024; to->sharedMemPerBlockOptin = 99 * 1024;
    to->regsPerBlock = 65536; to->warpSize = 32; to->maxThreadsPerBlock = 1024; to->multiProcessorCount = 100;
    to->maxThreadsPerMultiProcessor = 2048; to->managedMemory = to->concurrentManagedAccess = 1;
    to->unifiedAddressing = 1; to->sharedMemPerMultiprocessor = 100 * 1024; to->regsPerMultiprocessor = 65536;
    to->maxBlocksPerMultiProcessor = 16; to->memoryBusWidth = 5120; to->l2CacheSize = 32 << 20;
    to->maxGridSize[0] = 0x7fffffff; to->maxGridSize[1] = to->maxGridSize[2] = 65535;
    to->maxThreadsDim[0] = to->maxThreadsDim[1] = 1024; to->maxThreadsDim[2] = 64;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
    int capability = (int)setting("STAND_IN_CAPABILITY", 90);
    switch (what) {
        case cudaDevAttrComputeCapabilityMajor: *value = capability / 10; break;
        case cudaDevAttrComputeCapabilityMinor: *value = capability % 10; break;
        case cudaDevAttrMultiProcessorCount: *value = 100; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 * 1024; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 99 * 1024; break;
        case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
        case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *value = 65535; break;
        case cudaDevAttrClockRate: case cudaDevAttrMemoryClockRate: *value = 1500000; break;
        default: *value = 0;
    }
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* unused, size_t* total) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    *total = (size_t)setting("STAND_IN_MEMORY", 80L << 30);
    *unused = *total - state().used;
    return cudaSuccess;
}

cudaError_t cudaGetLastError() { cudaError_t last = state().last; state().last = cudaSuccess; return last; }
cudaError_t cudaPeekAtLastError() { return state().last; }
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : error ? "refused by the stand-in" : "no error";
}
const char* cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : error ? "an error" : "cudaSuccess";
}

// ---------------------------------------------------------------- memory

cudaError_t cudaMalloc(void** to, size_t bytes) { return allocate("cudaMalloc", to, bytes, false); }
cudaError_t cudaMallocAsync(void** to, size_t bytes, cudaStream_t) { return cudaMalloc(to, bytes); }
cudaError_t cudaMallocManaged(void** to, size_t bytes, unsigned) {
    return allocate("cudaMallocManaged", to, bytes, false);
}
cudaError_t cudaMallocHost(void** to, size_t bytes) { return allocate("cudaMallocHost", to, bytes, true); }
cudaError_t cudaHostAlloc(void** to, size_t bytes, unsigned) { return allocate("cudaHostAlloc", to, bytes, true); }
cudaError_t cudaFree(void* p) { return release("cudaFree", p); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return release("cudaFree", p); }
cudaError_t cudaFreeHost(void* p) { return release("cudaFreeHost", p); }
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return move("cudaMemcpy", to, from, bytes, kind);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    return move("cudaMemcpyAsync", to, from, bytes, kind);
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) { return fill("cudaMemset", to, value, bytes); }
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
    return fill("cudaMemsetAsync", to, value, bytes);
}

// ---------------------------------------------------------------- streams: everything is done when a call returns

cudaError_t cudaStreamCreate(cudaStream_t* to) { *to = (cudaStream_t)&state(); return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* to, unsigned) { return cudaStreamCreate(to); }
cudaError_t cudaEventCreate(cudaEvent_t* to) { *to = (cudaEvent_t)&state(); return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* to, unsigned) { return cudaEventCreate(to); }
cudaError_t cudaEventElapsedTime(float* to, cudaEvent_t, cudaEvent_t) { *to = 1; return cudaSuccess; }
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* given) {
    function(given);
    return cudaSuccess;
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void* given, unsigned) {
    function(stream, cudaSuccess, given);
    return cudaSuccess;
}

// ---------------------------------------------------------------- kernels

void** __cudaRegisterFatBinary(void*) { static void* handle; return &handle; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    state().kernels[function] = {name, 48 * 1024};
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    state().launch = {grid, block, shared, stream};
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    const Launch& launch = state().launch;
    *grid = launch.grid; *block = launch.block; *shared = launch.shared;
    *(cudaStream_t*)stream = launch.stream;
    return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* to, const void* function) {
    *to = (cudaKernel_t)function;
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t) {
    return start(kernel, grid, block, shared);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void**, size_t shared, cudaStream_t) {
    return start(function, grid, block, shared);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* how, const void* function, void**) {
    return start(function, how->gridDim, how->blockDim, how->dynamicSmemBytes);
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute what, int value) {
    if (what == cudaFuncAttributeMaxDynamicSharedMemorySize) state().kernels[function].dynamic_shared = value;
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* to, const void*) {
    std::memset(to, 0, sizeof *to);
    to->ptxVersion = to->binaryVersion = (int)setting("STAND_IN_CAPABILITY", 90);
    to->maxThreadsPerBlock = 1024; to->numRegs = 32; to->maxDynamicSharedSizeBytes = 48 * 1024;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* to, const void*, int, size_t) {
    *to = 1;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* to, const void*, int, size_t, unsigned) {
    *to = 1;
    return cudaSuccess;
}

}  // extern "C"
