// See `cuda_checks.h`. Compiled without -fsanitize=thread: what watches is not watched.
#define __SANITIZE_THREAD__ 1
#include "cuda_checks.h"
#include <string>
#include <vector>

extern "C" void end_launch(const char* why);  // in the emulator: does not return

namespace checks {

constexpr int NOBODY = -1, SEVERAL = -2;

// Who wrote and read a byte since `since`, and whose copy is on its way to it.
struct Byte { int since = -1, writer = NOBODY, reader = NOBODY, copier = NOBODY; };

struct Buffer { const char* begin; size_t bytes; bool writable; std::vector<Byte> history; };
struct Stack { const char* begin; size_t bytes; int depth; };  // `depth`: calls of the emulator's own code

static std::vector<Buffer> buffers, arguments;
static std::vector<Stack> stacks;  // of each thread of the block
static Buffer shared;
static int running = NOBODY, first_thread, launch, interval;  // `first_thread` of this block, among the launch's

static void fail(int thread, bool writes, const std::string& what) {
    static std::string said;
    said = "thread " + std::to_string(thread) + (writes ? " writes " : " reads ") + what;
    end_launch(said.c_str());
}

static Buffer* within(std::vector<Buffer>& among, const char* at, size_t bytes) {
    for (Buffer& one : among)
        if (at >= one.begin && at + bytes <= one.begin + one.bytes) return &one;
    return nullptr;
}

// Thread `me` uses bytes of `of`; nothing orders it and what others did since `now` began.
static void note(Buffer& of, const char* at, size_t bytes, bool writes, int me, int now, const std::string& what) {
    for (size_t i = at - of.begin; i < at - of.begin + bytes; i++) {
        Byte& byte = of.history[i];
        if (byte.since != now) { byte.since = now; byte.writer = byte.reader = NOBODY; }
        if (byte.copier != NOBODY) fail(me, writes, what + " to which a copy is on its way");
        int other = byte.writer != NOBODY && byte.writer != me ? byte.writer : writes ? byte.reader : NOBODY;
        if (other == SEVERAL) fail(me, writes, what + " that others read, with no barrier between");
        if (other != NOBODY && other != me)
            fail(me, writes, what + " that thread " + std::to_string(other) + " uses, with no barrier between");
        if (writes) byte.writer = me;
        else byte.reader = byte.reader == NOBODY || byte.reader == me ? me : SEVERAL;
    }
}

static void access(const void* begin, size_t bytes, bool writes) {
    if (running == NOBODY || stacks[running].depth) return;
    const char* at = (const char*)begin;
    const Stack& stack = stacks[running];
    if (at >= stack.begin && at < stack.begin + stack.bytes) return;
    if (at >= shared.begin && at < shared.begin + shared.history.size()) {
        if (at + bytes > shared.begin + shared.bytes)
            fail(running, writes, "shared memory that the launch did not ask for");
        return note(shared, at, bytes, writes, running, interval, "shared memory");
    }
    if (!writes && within(arguments, at, bytes)) return;
    Buffer* buffer = within(buffers, at, bytes);
    if (!buffer) fail(running, writes, "memory that is none of its arguments");
    if (writes && !buffer->writable) fail(running, writes, "an input");
    if (buffer->writable) note(*buffer, at, bytes, writes, first_thread + running, launch, "an output");
}

// The same, called by the emulator for a thread.
static void access_of_thread(const void* begin, size_t bytes, bool writes) {
    int depth = stacks[running].depth;
    stacks[running].depth = 0;
    access(begin, bytes, writes);
    stacks[running].depth = depth;
}

void begin_block(int block, int threads, const char* memory, size_t bytes) {
    first_thread = block * threads;
    shared.begin = memory; shared.bytes = bytes;
    shared.history.assign(48 * 1024, Byte());
    interval++;
    stacks.resize(threads);
}
void end_of_launch() { launch++; arguments.clear(); running = NOBODY; }
void allow(const void* begin, size_t bytes) { arguments.push_back({(const char*)begin, bytes, false, {}}); }
void has_stack(int thread, const char* begin, size_t bytes) { stacks[thread] = {begin, bytes, 1}; }
void runs(int thread) { running = thread; }
void enter() { if (running != NOBODY) stacks[running].depth++; }
void leave() { if (running != NOBODY) stacks[running].depth--; }
void barrier() { interval++; }

void read(const void* begin, size_t bytes) { access_of_thread(begin, bytes, false); }

void copy_begins(const void* to) {
    access_of_thread(to, 16, true);
    for (int i = 0; i < 16; i++) shared.history[(const char*)to - shared.begin + i].copier = running;
}

void copy_arrives(const void* to) {  // it was a write all the time
    for (int i = 0; i < 16; i++) {
        Byte& byte = shared.history[(const char*)to - shared.begin + i];
        byte = Byte();
        byte.since = interval;
        byte.writer = running;
    }
}

}  // namespace checks

extern "C" {

// A kernel's global memory: to be told before a launch, all of it.
void has_buffer(const void* begin, size_t bytes, bool writable) {
    checks::buffers.push_back({(const char*)begin, bytes, writable, {}});
    if (writable) checks::buffers.back().history.resize(bytes);
}
void has_no_buffers() { checks::buffers.clear(); }

#define WATCH(bytes) \
    void __tsan_read##bytes(void* at) { checks::access(at, bytes, false); } \
    void __tsan_write##bytes(void* at) { checks::access(at, bytes, true); } \
    void __tsan_unaligned_read##bytes(void* at) { checks::access(at, bytes, false); } \
    void __tsan_unaligned_write##bytes(void* at) { checks::access(at, bytes, true); }
WATCH(1) WATCH(2) WATCH(4) WATCH(8) WATCH(16)
void __tsan_read_range(void* at, size_t bytes) { checks::access(at, bytes, false); }
void __tsan_write_range(void* at, size_t bytes) { checks::access(at, bytes, true); }
void __tsan_vptr_update(void*, void*) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_init() {}

}  // extern "C"
