"""The emulator finds what a GPU would let pass by chance: races, and accesses beyond a buffer.

Mistakes are planted in the attention kernels and in a kernel of five lines.
"""
import ctypes
import re

import numpy as np
import pytest

from styleblend.kernels.segments import Segment
from test_cuda_kernels import EMULATOR, HEADER, compiled, entry, make, run

AFTER_WORK = "        __syncthreads();  // the tile is free\n"
BEFORE_WORK = "        __syncthreads();  // for the others' copies too\n"
MISTAKES = {  # what is taken out of the kernels, what is put in, what is said
    "no barrier behind a tile": (AFTER_WORK, "", "with no barrier between|to which a copy"),
    "no barrier before a tile": (BEFORE_WORK, "", "with no barrier between|to which a copy"),
    "copies not waited for": ("wait_for_copies<1>()", "wait_for_copies<2>()", "to which a copy is on its way"),
    "too little shared memory": ("4 * NUMBERS * sizeof(T)", "3 * NUMBERS * sizeof(T)", "launch did not ask for"),
    "tokens beyond the last": ("first + token < end && column", "column", "reads memory that is none of"),
    "rows beyond the last": ("if (r < count && c < SIZE)", "if (c < SIZE)", "memory that is none of|an output"),
    "two blocks for one row": ("if (p.alike(b, row)) return;", "{}", "writes an output that thread"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(tmp_path, mistake):
    """The kernels as they are pass; with one line spoiled the launch ends, and it is said what went wrong."""
    there, instead, said = MISTAKES[mistake]
    assert there in HEADER
    kernels = compiled(tmp_path, HEADER.replace(there, instead) + entry(40, "float16"))
    with pytest.raises(AssertionError, match=said):
        run(lambda *of: kernels, "float16", make(1, 2, 2, 2, 70, 150, 40), 40, 1, q_rows=(1, 1),
            segments=[Segment((1, 1))])


SMALL = """
using namespace styleblend::cuda;
struct Numbers { const float* from; float* to; int count; };
__global__ void turn(const Numbers n) {  // around, through shared memory
    float* room = (float*)memory;
    int i = threadIdx.x;
    if (i < n.count) room[i] = n.from[i];
    BARRIER
    if (i < n.count) n.to[i] = room[n.count - 1 - i + BEYOND];
}
extern "C" int run_turn(const Numbers* n) {
    void* arguments[] = {(void*)n};
    return cudaLaunchKernel(turn, dim3(1), dim3(64), arguments, 4 * n->count, 0);
}
"""


@pytest.mark.parametrize("barrier, beyond, said", [
    ("__syncthreads();", 0, ""), ("", 0, "shared memory that thread .* uses, with no barrier between"),
    ("__syncthreads();", 1, "thread 0 reads shared memory that the launch did not ask for")])
def test_a_small_kernel(tmp_path, barrier, beyond, said):
    """A race and an overrun in a kernel of five lines."""
    source = SMALL.replace("BARRIER", barrier).replace("BEYOND", str(beyond))
    kernels = compiled(tmp_path, EMULATOR + source)
    numbers, found = np.arange(50, dtype=np.float32), np.zeros(50, np.float32)
    for array, writable in ((numbers, False), (found, True)):
        kernels.has_buffer(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), writable)

    class Numbers(ctypes.Structure):
        _fields_ = [("from", ctypes.c_void_p), ("to", ctypes.c_void_p), ("count", ctypes.c_int)]

    code = kernels.run_turn(ctypes.byref(Numbers(numbers.ctypes.data, found.ctypes.data, 50)))
    if said:
        assert code and re.search(said, kernels.what_failed().decode())
    else:
        assert code == 0 and np.array_equal(found, numbers[::-1])
