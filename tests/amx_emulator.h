// Enough of AMX to run attention_amx.h on a CPU without matrix tiles: the same source, with functions for what Intel's
// header has as instructions. Each thread has eight tiles of 16 rows of 64 bytes; one that is used before it is
// configured, or after it is released, ends the program.
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace amx {

struct Tile { float row[16][16]; };
static thread_local Tile tiles[8];
static thread_local bool configured;

inline Tile& tile(int number) {
    if (!configured) std::abort();
    return tiles[number];
}

inline float wide(uint16_t bits) {
    uint32_t all = (uint32_t)bits << 16;
    float x;
    std::memcpy(&x, &all, 4);
    return x;
}

}  // namespace amx

#define SYS_arch_prctl 158
inline long syscall(int, int, int) { return 0; }  // "may I use the tiles?"

inline void _tile_loadconfig(const void* shape) {
    const uint8_t* bytes = (const uint8_t*)shape;
    bool whole = bytes[0] == 1;  // the palette; then for each tile 64 bytes a row, 16 rows
    for (int i = 0; i < 8; i++)
        whole = whole && bytes[16 + 2 * i] == 64 && bytes[17 + 2 * i] == 0 && bytes[48 + i] == 16;
    if (!whole) std::abort();
    std::memset(amx::tiles, 0xff, sizeof amx::tiles);
    amx::configured = true;
}
inline void _tile_release() { amx::configured = false; }

inline void _tile_zero(int to) { std::memset(&amx::tile(to), 0, sizeof(amx::Tile)); }
inline void _tile_loadd(int to, const void* from, size_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy(amx::tile(to).row[r], (const char*)from + r * stride, 64);
}
inline void _tile_stored(int from, void* to, size_t stride) {
    for (int r = 0; r < 16; r++) std::memcpy((char*)to + r * stride, amx::tile(from).row[r], 64);
}

// to (16 x 16 float32) += left (16 x 32 bfloat16) right (32 x 16 bfloat16, as 16 rows of pairs)
inline void _tile_dpbf16ps(int to, int left, int right) {
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++) {
            uint16_t a[2], b[2];
            std::memcpy(a, &amx::tile(left).row[m][k], 4);
            for (int n = 0; n < 16; n++) {
                std::memcpy(b, &amx::tile(right).row[k][n], 4);
                amx::tile(to).row[m][n] += amx::wide(a[0]) * amx::wide(b[0]) + amx::wide(a[1]) * amx::wide(b[1]);
            }
        }
}
