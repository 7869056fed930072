// What the libraries that stand in for CUDA's share; `cudart.cpp` has it. Memory of the card is memory of the machine,
// calls succeed and compute nothing, and what a card would refuse is refused: pointers that are not the card's, sizes
// beyond what was allocated, shapes that do not fit together, types that do not go together.
#pragma once
#include <cstddef>

extern "C" {
// Count a call of `kind` ("call", "kernel", "copy") in the report.
void stand_in_count(const char* kind, const char* name);
// Write a call that a card would refuse into the report and on stderr; as printf.
void stand_in_wrong(const char* sentence, ...) __attribute__((format(printf, 1, 2)));
// How many bytes of the card's memory there are from here on; 0: this is not the card's.
size_t stand_in_room(const void* begin);
}

// Whether `bytes` from `begin` on are the card's; if not, that is reported.
inline bool is_of_card(const char* call, const char* what, const void* begin, size_t bytes) {
    size_t room = stand_in_room(begin);
    if (room >= bytes) return true;
    stand_in_wrong("%s: %s is %zu bytes at %p, of which the card has %zu", call, what, bytes, begin, room);
    return false;
}
