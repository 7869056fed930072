// The matrix tiles of a CPU (AMX, x86 servers since 2023): eight registers of 16 rows of 64 bytes, and their products.
#pragma once
#ifdef __AMX_BF16__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace styleblend {

// What was written is in memory from here on: the compiler does not know that tiles are read from there.
inline void whole_memory() { asm volatile("" ::: "memory"); }

constexpr int TILE = 16, DEPTH = 32;  // a tile: 16 rows of 16 float32, or of 32 bfloat16

// Linux lets a process use them only after it has asked.
inline bool tiles_allowed() {
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;
    static const bool allowed = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
    return allowed;
}

struct Tiles {  // of one thread, while it lives
    Tiles() {
        struct alignas(64) {
            unsigned char palette, start, reserved[14];
            unsigned short columns[16];
            unsigned char rows[16];
        } shape{};
        shape.palette = 1;
        for (int i = 0; i < 8; i++) { shape.columns[i] = 64; shape.rows[i] = TILE; }
        whole_memory();
        _tile_loadconfig(&shape);
    }
    ~Tiles() { _tile_release(); }
};

}  // namespace styleblend
#endif
