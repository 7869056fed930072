// Enough of CUDA to run the GPU's kernels with g++ on the CPU: the same source, thread by thread, with what `ptx.h`
// has as instructions. Every thread of a block is a fiber that runs until it meets a barrier or an instruction of its
// whole warp. It is stricter than a GPU where mistakes would show by chance only. Shared memory begins as NaN. A warp
// runs as far ahead of the others as barriers let it. Copies arrive at the last moment (or at the first:
// `copies_arrive_early`). An error ends the launch where threads wait for each other for ever, lanes of a warp are at
// different instructions, addresses are not aligned, or `cuda_checks.h` finds a race or an access beyond a buffer.
#include <ucontext.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>
#include "cuda_checks.h"

#define __global__
#define __device__
#define __host__
#define __shared__
#define __launch_bounds__(threads)

struct dim3 { unsigned x, y, z; dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {} };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
enum cudaError_t { cudaSuccess, cudaErrorLaunchFailure };
using std::min;

inline uint32_t __float_as_uint(float x) { uint32_t bits; std::memcpy(&bits, &x, 4); return bits; }
inline float __uint_as_float(uint32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }

// ---------------------------------------------------------------- 16-bit numbers, rounded to the nearest, ties to even

struct __half {
    uint16_t bits;
    __half() = default;
    explicit __half(float x) {
        uint32_t all = __float_as_uint(x), size = all & 0x7fffffff;
        if (size > 0x7f800000) size = 0x7e00;                                                          // not a number
        else if (size >= 0x477ff000) size = 0x7c00;                                                    // too large
        else if (size < 0x38800000)  // in steps of 2^-24
            size = __float_as_uint(std::fabs(x) + 0.5f) - __float_as_uint(0.5f);
        else size = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
        bits = all >> 16 & 0x8000 | size;
    }
    explicit operator float() const {
        uint32_t exponent = bits >> 10 & 31, digits = bits & 1023;
        float size = exponent == 31 ? (digits ? NAN : INFINITY)
                   : exponent ? __uint_as_float((exponent + 112) << 23 | digits << 13)
                   : std::ldexp((float)digits, -24);
        return bits & 0x8000 ? -size : size;
    }
};

struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float x) {
        uint32_t all = __float_as_uint(x);
        bits = x != x ? 0x7fff : (all + 0x7fff + (all >> 16 & 1)) >> 16;
    }
    explicit operator float() const { return __uint_as_float((uint32_t)bits << 16); }
};

struct __half2 { __half x, y; };
struct __nv_bfloat162 { __nv_bfloat16 x, y; };
inline float2 __half22float2(__half2 a) { return {(float)a.x, (float)a.y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 a) { return {(float)a.x, (float)a.y}; }
inline __half2 __float22half2_rn(float2 a) { return {__half(a.x), __half(a.y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 a) { return {__nv_bfloat16(a.x), __nv_bfloat16(a.y)}; }

// ---------------------------------------------------------------- threads

namespace styleblend { namespace cuda { static float4 memory[48 * 1024 / sizeof(float4)]; } }

namespace emulator {

struct Barrier { int arrived = 0, generation = 0; };
struct Value { const void* instruction; alignas(8) char bytes[48]; };
struct Warp { Barrier barrier; Value values[2][32]; };  // of two instructions: a lane can be one ahead of another
struct Copy {
    void* to; const void* from; bool there;
    void move() const { if (there) std::memcpy(to, from, 16); else std::memset(to, 0, 16); }
};
struct Thread { ucontext_t context; std::unique_ptr<char[]> stack; bool done; std::vector<std::vector<Copy>> copies; };

constexpr size_t STACK = 256 * 1024;
static std::vector<Thread> threads;
static std::vector<Warp> warps;
static Barrier block;
static ucontext_t launcher;
static int current, idle;  // the thread that runs, and how often threads have given way since the last barrier opened
static const char* failure;
static bool early;
static void (*body)(const void*);
static const void* argument;

inline void fail(const char* why) {
    checks::enter();
    failure = why;
    std::fprintf(stderr, "CUDA emulator: %s\n", why);
    setcontext(&launcher);
}

inline void go_on(int thread) {
    ucontext_t *before = &threads[current].context, *next = &threads[thread].context;
    current = thread;
    checks::runs(thread);
    swapcontext(before, next);
}

// `count` threads, the current one among them, meet at a barrier: the others of them run until they do.
inline void wait(Barrier& barrier, int count) {
    int mine = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0; barrier.generation++; idle = 0;
        if (&barrier == &block) checks::barrier();
        return;
    }
    while (barrier.generation == mine) {
        int next = current;
        do next = current / count * count + (next + 1) % count; while (threads[next].done && next != current);
        if (++idle > 3 * (int)threads.size()) fail("threads wait for each other for ever");
        if (next != current) go_on(next);
    }
}

// What every lane of the warp brings to an instruction; `at` tells instructions apart.
template <class V> struct All {
    const Value* values;
    V operator[](int lane) const {
        checks::Unwatched now;
        V v;
        std::memcpy(&v, values[lane].bytes, sizeof v);
        return v;
    }
};
template <class V> All<V> exchange(const void* at, const V& value) {
    static_assert(sizeof value <= sizeof Value().bytes, "");
    checks::Unwatched now;
    Warp& warp = warps[current / 32];
    Value* values = warp.values[warp.barrier.generation & 1];
    values[current % 32].instruction = at;
    std::memcpy(values[current % 32].bytes, &value, sizeof value);
    wait(warp.barrier, 32);
    for (int i = 0; i < 32; i++)
        if (values[i].instruction != at) fail("the lanes of a warp are at different instructions");
    return {values};
}

inline void run() {
    void (*kernel)(const void*) = body;
    const void* given = argument;
    checks::leave();
    kernel(given);
    checks::enter();
    threads[current].done = true;
    idle = 0;
    for (int i = 0; i < (int)threads.size(); i++) {
        int next = (current + i) % threads.size();
        if (threads[next].done) continue;
        ucontext_t* context = &threads[next].context;
        current = next;
        checks::runs(next);
        setcontext(context);
    }
    setcontext(&launcher);
}

inline void run_block(int number, size_t shared_bytes) {
    std::memset(styleblend::cuda::memory, 0xff, sizeof styleblend::cuda::memory);
    warps.assign(threads.size() / 32, Warp());
    block = Barrier();
    checks::begin_block(number, threads.size(), (const char*)styleblend::cuda::memory, shared_bytes);
    for (Thread& t : threads) {
        if (!t.stack) t.stack.reset(new char[STACK]);
        t.done = false; t.copies.assign(1, {});
        getcontext(&t.context);
        t.context.uc_stack.ss_sp = t.stack.get(); t.context.uc_stack.ss_size = STACK; t.context.uc_link = nullptr;
        makecontext(&t.context, run, 0);
        checks::has_stack(&t - &threads[0], t.stack.get(), STACK);
    }
    current = idle = 0;
    ucontext_t* first = &threads[0].context;
    checks::runs(0);
    swapcontext(&launcher, first);
    checks::runs(-1);
}

inline int lane() { checks::Unwatched now; return current % 32; }
struct Index { operator unsigned() const { checks::Unwatched now; return current; } };
struct ThreadIndex { Index x; };

}  // namespace emulator

extern "C" void copies_arrive_early(bool early) { emulator::early = early; }
extern "C" const char* what_failed() { return emulator::failure ? emulator::failure : ""; }
extern "C" void end_launch(const char* why) { emulator::fail(why); }

static emulator::ThreadIndex threadIdx;
static dim3 blockIdx(0);

inline void __syncthreads() {
    checks::Unwatched now;
    emulator::wait(emulator::block, (int)emulator::threads.size());
}

template <class P> void (*launched)(P);
template <class P>
cudaError_t cudaLaunchKernel(void (*kernel)(P), dim3 grid, dim3 block, void** arguments, size_t bytes, int) {
    using namespace emulator;
    typedef typename std::remove_reference<P>::type Argument;
    failure = nullptr;
    size_t count = (size_t)block.x * block.y * block.z;
    if (bytes > sizeof styleblend::cuda::memory || !count || count > 1024 || count % 32 || block.x != count ||
        !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
        failure = "a launch that a card refuses, or whose last warp is not whole";
        return cudaErrorLaunchFailure;
    }
    argument = arguments[0];
    launched<P> = kernel;
    body = [](const void* p) { launched<P>(*(const Argument*)p); };
    threads.resize(block.x);
    checks::allow(argument, sizeof(Argument));
    checks::allow(&blockIdx, sizeof blockIdx);
    checks::allow(&launched<P>, sizeof launched<P>);
    for (unsigned i = 0; i < grid.x * grid.y * grid.z && !failure; i++) {
        blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
        run_block(i, bytes);
    }
    checks::end_of_launch();
    return failure ? cudaErrorLaunchFailure : cudaSuccess;
}

// ---------------------------------------------------------------- instructions of a warp, by the tables of the PTX ISA

#define HERE ([]() -> const void* { static char place; return &place; }())

inline float __shfl_sync(unsigned, float x, int from) { return emulator::exchange(HERE, x)[from]; }
inline float __shfl_xor_sync(unsigned, float x, int other) {
    return emulator::exchange(HERE, x)[emulator::lane() ^ other];
}

namespace styleblend { namespace cuda {

struct Factors { float a[8], b[4]; };  // what a lane has of a and b

// Tensor cores cut a sum off to float32 where the rest of a GPU rounds: many small errors in one direction.
inline float cut_off(double x) {
    float near = (float)x;
    return std::fabs((double)near) > std::fabs(x) ? std::nextafter(near, 0.f) : near;
}
inline void add(float2& upper, float2& lower, const double* sums) {
    upper = {cut_off(upper.x + sums[0]), cut_off(upper.y + sums[1])};
    lower = {cut_off(lower.x + sums[2]), cut_off(lower.y + sums[3])};
}

template <class Pair> void mma(float2& upper, float2& lower, const Pair* a, Pair b0, Pair b1) {
    Factors mine;
    for (int i = 0; i < 4; i++) { mine.a[2 * i] = (float)a[i].x; mine.a[2 * i + 1] = (float)a[i].y; }
    mine.b[0] = (float)b0.x; mine.b[1] = (float)b0.y; mine.b[2] = (float)b1.x; mine.b[3] = (float)b1.y;
    auto all = emulator::exchange(HERE, mine);
    int g = emulator::lane() / 4, t = emulator::lane() % 4;
    double sums[4] = {};
    for (int k = 0; k < 16; k++) {
        int place = k % 8 / 2, number = k % 2;
        Factors left = all[4 * g + place];
        double x = left.a[k / 8 * 4 + number], y = left.a[k / 8 * 4 + 2 + number];
        double c = all[4 * (2 * t) + place].b[k / 8 * 2 + number];
        double d = all[4 * (2 * t + 1) + place].b[k / 8 * 2 + number];
        sums[0] += x * c; sums[1] += x * d; sums[2] += y * c; sums[3] += y * d;
    }
    add(upper, lower, sums);
}

inline void mma(float2& upper, float2& lower, const float* a, float b0, float b1) {
    // the digits that TF32 has not are not looked at
    auto cut = [](float x) { return __uint_as_float(__float_as_uint(x) & ~0x1fffu); };
    Factors mine = {{cut(a[0]), cut(a[1]), cut(a[2]), cut(a[3])}, {cut(b0), cut(b1)}};
    auto all = emulator::exchange(HERE, mine);
    int g = emulator::lane() / 4, t = emulator::lane() % 4;
    double sums[4] = {};
    for (int k = 0; k < 8; k++) {
        Factors left = all[4 * g + k % 4];
        double x = left.a[k / 4 * 2], y = left.a[k / 4 * 2 + 1];
        double c = all[4 * (2 * t) + k % 4].b[k / 4], d = all[4 * (2 * t + 1) + k % 4].b[k / 4];
        sums[0] += x * c; sums[1] += x * d; sums[2] += y * c; sums[3] += y * d;
    }
    add(upper, lower, sums);
}

inline void compute_anew(float&) {}

template <bool TURNED, class Pair> void load_matrices(Pair* to, const void* row) {
    if ((uintptr_t)row % 16) emulator::fail("ldmatrix from an address that is not aligned");
    checks::read(row, 16);
    auto rows = emulator::exchange(HERE, (const uint16_t*)row);
    checks::Unwatched now;
    int g = emulator::lane() / 4, t = emulator::lane() % 4;
    for (int m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (int i = 0; i < 2; i++) pair[i] = TURNED ? rows[8 * m + 2 * t + i][g] : rows[8 * m + g][2 * t + i];
        std::memcpy(&to[m], pair, 4);
    }
}

inline void copy_16_bytes(void* to, const void* from, bool there) {
    checks::Unwatched now;
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16)
        emulator::fail("a copy of 16 bytes between addresses that are not aligned");
    if (there) checks::read(from, 16);
    checks::copy_begins(to);
    emulator::Copy copy = {to, from, there};
    if (emulator::early) copy.move();
    emulator::threads[emulator::current].copies.back().push_back(copy);
}
inline void end_of_copies() {
    checks::Unwatched now;
    emulator::threads[emulator::current].copies.emplace_back();
}
template <int GROUPS> void wait_for_copies() {
    checks::Unwatched now;
    auto& groups = emulator::threads[emulator::current].copies;  // the last one is still open
    while ((int)groups.size() > GROUPS + 1) {
        for (const emulator::Copy& copy : groups.front()) {
            if (!emulator::early) copy.move();
            checks::copy_arrives(copy.to);
        }
        groups.erase(groups.begin());
    }
}

} }  // namespace styleblend::cuda
