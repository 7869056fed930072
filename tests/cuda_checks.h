// Watches what a kernel in the emulator does to memory. The kernels are compiled with -fsanitize=thread, so that the
// compiler calls `__tsan_read4(address)` and the like before each access. These functions are in `cuda_checks.cpp`, not
// in a library. Without that option nothing is watched.
//
// An error ends the launch where a thread reads or writes
// - beyond the kernel's arguments, the shared memory that the launch asked for, and its own variables,
// - shared memory that another thread writes, or writes what another one reads, with no barrier between,
// - shared memory to which a copy is on its way, by whoever asked for it,
// - an output that another thread of the launch writes, or writes one that another reads: nothing orders blocks.
#pragma once
#include <cstddef>

namespace checks {

#ifdef __SANITIZE_THREAD__
void begin_block(int block, int threads, const char* shared, size_t shared_bytes);
void end_of_launch();
void allow(const void* begin, size_t bytes);       // of the kernel's arguments: it may be read
void has_stack(int thread, const char* begin, size_t bytes);
void runs(int thread);                             // from now on; -1: none
void enter(), leave();                             // the emulator's own code, which is not watched
void read(const void* begin, size_t bytes);        // by the running thread
void barrier();                                    // of all threads of the block: it has opened
void copy_begins(const void* to), copy_arrives(const void* to);  // 16 bytes that the running thread asked for
#else
inline void begin_block(int, int, const char*, size_t) {}
inline void end_of_launch() {}
inline void allow(const void*, size_t) {}
inline void has_stack(int, const char*, size_t) {}
inline void runs(int) {}
inline void enter() {}
inline void leave() {}
inline void read(const void*, size_t) {}
inline void barrier() {}
inline void copy_begins(const void*) {}
inline void copy_arrives(const void*) {}
#endif

struct Unwatched { Unwatched() { enter(); } ~Unwatched() { leave(); } };

}  // namespace checks
