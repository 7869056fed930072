"""nvcc compiles the GPU's kernels, with the text that Jittor gets and the flags that it gives.

They stay in the registers. No GPU is needed.
"""
import re
import shutil
import subprocess

import pytest

from styleblend.kernels import cuda
from styleblend.machine.cards import exact_product, shared_memory

NVCC = shutil.which("nvcc")
pytestmark = pytest.mark.skipif(NVCC is None, reason="no nvcc on the PATH")
FLAGS = ["-std=c++14", "--use_fast_math", "-Xcompiler", "-fPIC", "-w"]

# What Jittor puts around an operator: names for inputs, outputs, their pointers and shapes, and `data`.
AROUND = """
void {name}(std::map<std::string, double> data, int in0_shape0, int in0_shape1, int in0_shape2,
            int in1_shape0, int in1_shape1, int in3_shape0, int in3_shape1,
            {type} *in0_p, {type} *in1_p, {type} *in2_p, int *in3_p, float *in4_p, float *in5_p,
            {type} *in6_p, float *in7_p, {type} *in8_p,
            {type} *out0_p, {out1} *out1_p, {type} *out2_p, float *out3_p) {{{code}}}
"""


def ways(arch: int) -> list:
    """Types and ways to multiply that a card of this capability may be given."""
    given = [("float32", exact_product(arch)), ("float16", "FMA")]
    return given if arch < 80 else [*given, ("float32", "TF32"), ("bfloat16", "FMA")]


def program(size: int, arch: int) -> str:
    """Every operator of one head size in one file."""
    functions = []
    for dtype, precision in ways(arch):
        kind = cuda.TYPES[dtype]
        for name, code, out1 in (("forward", cuda.FORWARD, "float"), ("backward", cuda.BACKWARD, kind)):
            functions.append(AROUND.format(name=f"{name}_{dtype}_{precision}", type=kind, out1=out1,
                                           code=code.format(type=kind, size=size, precision=precision)))
    header = cuda.SHARED.format(shared_memory(arch)) + cuda.HEADER
    return "#include <map>\n#include <string>\n" + header + "#define out out0\n" + "".join(functions)


def norms() -> str:
    """Every operator of norms and of the gated GELU in one file."""
    functions = []
    for dtype, kind in cuda.TYPES.items():
        given = f"std::map<std::string, double> data, {kind} *in0_p, "
        of_norm = f"{given}float *in1_p, float *in2_p, float *in3_p, {kind} *in4_p, {kind} *out0_p, float *out1_p"
        for name, numbers in (("group", (False, False)), ("group_silu", (False, True)), ("layer", (True, False))):
            for way, code in zip(("forward", "backward"), cuda.norm_sources(*numbers)):
                functions.append(f"void {name}_{way}_{dtype}({of_norm}) {{ typedef {kind} T; {code} }}\n")
        for way, code in zip(("forward", "backward"), cuda.GEGLU):
            functions.append(f"void geglu_{way}_{dtype}({given}{kind} *in1_p, {kind} *out0_p) "
                             f"{{ typedef {kind} T; {code} }}\n")
    return "#include <map>\n#include <string>\n" + cuda.NORMS + "".join(functions)


def compiled(folder, arch: int, source: str) -> dict:
    """Compiles operators for one compute capability.

    Of each kernel (registers, bytes that do not fit into them) by its mangled name: those spilled, or the whole frame
    where arrays lie in it.
    """
    (folder / "helper_cuda.h").write_text(
        "inline void checkCudaErrors(cudaError_t error) { if (error != cudaSuccess) throw error; }\n")
    (folder / "operators.cu").write_text(source)
    result = subprocess.run([NVCC, *FLAGS, f"-arch=compute_{arch}", f"-code=sm_{arch}", "-Xptxas", "-v", "-c",
                             "-o", folder / "operators.o", folder / "operators.cu"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    found = re.findall(r"Function properties for (\S+)\s.*?(\d+) bytes stack frame.*?Used (\d+) registers",
                       result.stderr, re.DOTALL)
    return {name: (int(registers), int(spilled)) for name, spilled, registers in found}


@pytest.mark.parametrize("arch, size", [(75, 64), (90, 64), pytest.param(80, 64, marks=pytest.mark.slow)]
                         + [pytest.param(arch, size, marks=pytest.mark.slow)
                            for arch in (75, 80, 86, 90) for size in (40, 80, 160, 17)])
def test_kernels_compile(tmp_path, arch, size):
    """Forward, gradient of q, gradients of k and v: three kernels a type.

    Heads of 64, Stable Diffusion 2.1's, stay in the registers, up to a few.
    """
    kernels = compiled(tmp_path, arch, program(size, arch))
    assert len(kernels) == 3 * len(ways(arch))
    for name, (registers, spilled) in kernels.items():
        print(f"sm_{arch} {size}: {name} {registers} registers, {spilled} bytes spilled")
        assert size != 64 or spilled <= 64


@pytest.mark.parametrize("arch", [90, *(pytest.param(arch, marks=pytest.mark.slow) for arch in (75, 80, 86, 89))])
def test_norms_compile(tmp_path, arch):
    """A norm's passes for group, group with SiLU and layer, the gate's two; each for long runs and for one number.

    Nothing of a thread lies in memory, and with 64 registers a block of 1,024 threads fits into a multiprocessor.
    """
    kernels = compiled(tmp_path, arch, norms())
    assert len(kernels) == 3 * 2 * (3 * 2 + 2)
    for name, (registers, spilled) in kernels.items():
        print(f"sm_{arch}: {name} {registers} registers, {spilled} bytes spilled")
        assert registers <= 64 and not spilled
