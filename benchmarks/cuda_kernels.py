"""The GPU's kernels without a GPU: registers, spills, shared memory, occupancy, and how fast a card could be.

    python -m benchmarks.cuda_kernels                                   # heads of 64, five capabilities; minutes
    python -m benchmarks.cuda_kernels --size 160 --capabilities 75 90

nvcc compiles each kernel; no GPU is needed. The times are estimates: each part of a card works at its full speed, the
slowest one decides, and nothing else costs time. A kernel on a card takes longer.
"""
from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from styleblend.cli.options import HelpFormatter
from styleblend.errors import StyleBlendError
from styleblend.machine.cards import exact_product, shared_memory
from styleblend.machine.cuda_home import toolkits, wheel_folders
from styleblend.machine.doctor_cuda import CAPABILITIES, KERNELS, OURS, norms

FLAGS = ("-std=c++17", "--use_fast_math", "-w", "-Xptxas", "-v", "-cubin")
TYPES = {"f": "float32", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}
PRECISIONS = ("FMA", "TF32", "SPLIT")
WARPS = 4  # of a thread block, each with 16 tokens of its own


@dataclass(frozen=True)
class Multiprocessor:
    """What one has (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").

    `shared`: KiB of shared memory; `reserved`: KiB of it that each thread block takes for the system.
    """

    warps: int
    blocks: int
    shared: int
    reserved: int


MULTIPROCESSORS = {75: Multiprocessor(32, 16, 64, 0), 80: Multiprocessor(64, 32, 164, 1),
                   86: Multiprocessor(48, 16, 100, 1), 89: Multiprocessor(48, 24, 100, 1),
                   90: Multiprocessor(64, 32, 228, 1)}


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one; `shared` is what a launch asks for, in bytes, and `warps` those of a thread block."""

    name: str
    dtype: str
    precision: str
    registers: int
    spilled: int
    shared: int
    warps: int = WARPS

    def blocks(self, capability: int) -> int:
        """How many thread blocks a multiprocessor holds at a time."""
        has = MULTIPROCESSORS[capability]
        registers = self.warps * (-(-self.registers * 32 // 256) * 256)  # given out by the warp, 256 at a time
        return min(has.blocks, has.warps // self.warps, 65536 // registers,
                   has.shared * 1024 // max(self.shared + has.reserved * 1024, 1))

    def occupancy(self, capability: int) -> float:
        """The share of a multiprocessor's warps that are there."""
        return self.blocks(capability) * self.warps / MULTIPROCESSORS[capability].warps


def program(size: int, capability: int) -> str:
    """All kernels of one head size that a card of this capability may be given."""
    text = [f"#define STYLEBLEND_SHARED {shared_memory(capability)}", '#include "attention_cuda.h"']
    for kind, precision, least in OURS:
        exact = kind != "float" or precision == "TF32" or precision == exact_product(capability)
        if capability >= least and exact:
            text += [f"template cudaError_t styleblend::cuda::attention_{way}<{kind}, {size}, styleblend::cuda::"
                     f"{precision}>(const styleblend::cuda::Problem<{kind}>&);" for way in ("forward", "backward")]
    return "\n".join(text)


def compiled(nvcc: Path, text: str, capability: int) -> list[tuple[str, int, int]]:
    """Of each kernel its mangled name, bytes that do not fit into registers, and registers."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernels.cu"
        source.write_text(text)
        run = subprocess.run([str(nvcc), *FLAGS, f"-I{KERNELS}", f"-arch=sm_{capability}", "-o",
                              f"{folder}/kernels.cubin", str(source)],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        raise StyleBlendError(f"{nvcc} does not compile the kernels for {capability / 10}: {run.stdout[-400:]}")
    of_each = re.compile(r"properties for (\S+)\s.*?(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL)
    return [(name, int(spilled), int(registers)) for name, spilled, registers in of_each.findall(run.stdout)]


def attention_kernels(nvcc: Path, size: int, capability: int) -> Iterator[Kernel]:
    for name, spilled, registers in compiled(nvcc, program(size, capability), capability):
        kind, precision, keys = re.search(r"(?:forward|backward)I(f|6__half|13__nv_bfloat16)Li\d+E"
                                          r"LNS0_9PrecisionE(\d)E(?:Lb(\d)E)?", name).groups()
        what = "forward" if keys is None else "gradient of k and v" if keys == "1" else "gradient of q"
        yield Kernel(what, TYPES[kind], PRECISIONS[int(precision)], registers, spilled,
                     shared_bytes(size, TYPES[kind], PRECISIONS[int(precision)], shared_memory(capability)))


def norm_kernels(nvcc: Path, capability: int) -> Iterator[Kernel]:
    """Those that read 16 bytes at once, as Stable Diffusion's sizes at 512 and 768 pixels let them."""
    for name, spilled, registers in compiled(nvcc, f'#include "norms_cuda.h"\n{norms()}', capability):
        what, kind, run, one, other = re.search(r"(norm_forward|norm_backward|gated)I(f|6__half|13__nv_bfloat16)Li(\d)E"
                                                r"Lb(\d)E(?:Lb(\d)E)?", name).groups()
        if run == "1":
            continue
        if what == "gated":
            yield Kernel("gated GELU" + ", gradient" * int(one), TYPES[kind], "", registers, spilled, 0, 8)
        else:
            of = "layer norm" if one == "1" else "group norm" + ", SiLU" * int(other)
            warps = 4 if one == "1" else 32
            yield Kernel(of + ", gradient" * (what == "norm_backward"), TYPES[kind], "", registers, spilled,
                         8 * warps * (one == "0"), warps)


def shared_bytes(size: int, dtype: str, precision: str, room: int) -> int:
    """As `Tile` in `blocks.h`: two tiles of two matrices."""
    number = 4 if dtype == "float32" else 2
    pitch = (size + 15) // 16 * 16 + (4 if (dtype, precision) == ("float32", "FMA") else 8)
    return 4 * pitch * number * next((tokens for tokens in (64, 32) if 4 * tokens * pitch * number <= room), 16)


# ---------------------------------------------------------------- how fast at most

@dataclass(frozen=True)
class CardModel:
    """A card by NVIDIA's data sheets. `products`: of a multiprocessor, operations a clock, by type and precision.

    `products` of tensor cores are those of the instruction that the kernels use (mma.sync); Hopper's own (wgmma) are
    faster. A multiprocessor reads 128 bytes of shared memory a clock and computes 16 exponentials.
    """

    name: str
    capability: int
    multiprocessors: int
    clock: float   # per second
    memory: float  # bytes per second
    products: dict[tuple[str, str], int]


# mma.sync on Hopper: 0.62 of wgmma's 4,096 and 2,048 (published microbenchmarks; not measured here)
CARDS = (CardModel("H100 SXM", 90, 132, 1.755e9, 3.35e12, {
             ("float32", "FMA"): 256, ("float32", "SPLIT"): 1270 // 3, ("float32", "TF32"): 1270,
             ("float16", "FMA"): 2540, ("bfloat16", "FMA"): 2540}),
         CardModel("RTX 4060, 8 GB", 89, 24, 2.46e9, 0.272e12, {
             ("float32", "FMA"): 256, ("float32", "SPLIT"): 256 // 3, ("float32", "TF32"): 256,
             ("float16", "FMA"): 512, ("bfloat16", "FMA"): 512}))


def bounds(card: CardModel, dtype: str, precision: str, size: int, rows: int, heads: int, tokens: int
           ) -> dict[str, float]:
    """Seconds that each part of a card needs for a forward pass at least."""
    number, per_second = 2 if dtype != "float32" else 4, card.multiprocessors * card.clock
    scores = rows * heads * tokens * tokens
    # each warp of 16 queries reads all of k and v out of shared memory
    shared = scores / 16 * 2 * size * number
    # without tensor cores eight lanes of a warp read the same: 32 bytes at a time
    read = 32 if (dtype, precision) == ("float32", "FMA") else 128
    return {"products": 4 * scores * size / (card.products[dtype, precision] * per_second),
            "shared memory": shared / (read * per_second),
            "exponentials": scores / (16 * per_second),
            "memory": 4 * rows * heads * tokens * size * number / card.memory}


def print_kernels(of: str, found: dict[int, list[Kernel]]) -> None:
    print(f"\n{of}: registers / bytes spilled / KiB of shared memory / thread blocks on a multiprocessor (share of its "
          "warps)\n")
    names = sorted({(k.dtype, k.precision, k.name) for its in found.values() for k in its})
    print("| type | kernel | " + " | ".join(f"{c / 10:.1f}" for c in found) + " |")
    print("|" + "---|" * (2 + len(found)))
    for dtype, precision, name in names:
        cells = []
        for capability, its in found.items():
            k = next((k for k in its if (k.dtype, k.precision, k.name) == (dtype, precision, name)), None)
            cells.append(f"{k.registers} / {k.spilled} / {k.shared / 1024:.0f} / {k.blocks(capability)} "
                         f"({k.occupancy(capability):.0%})" if k else "")
        kind = f"{dtype}, {precision}" if precision and dtype == "float32" else dtype
        print(f"| {kind} | {name} | " + " | ".join(cells) + " |")


def print_bounds(size: int, rows: int, heads: int) -> None:
    print(f"\nForward, {rows} rows, {heads} heads of {size}: milliseconds at least, and what decides\n")
    print("| card | type | 4,096 tokens | 9,216 tokens | of the products' speed |")
    print("|---|---|---|---|---|")
    for card in CARDS:
        for dtype, precision in card.products:
            if dtype == "float32" and precision not in ("TF32", exact_product(card.capability)):
                continue
            cells = []
            for tokens in (4096, 9216):
                its = bounds(card, dtype, precision, size, rows, heads, tokens)
                most = max(its, key=its.get)
                cells.append(f"{its[most] * 1e3:.2f} ({most})")
            kind = f"{dtype}, {precision}" if dtype == "float32" else dtype
            print(f"| {card.name} | {kind} | {cells[0]} | {cells[1]} | {its['products'] / its[most]:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], formatter_class=HelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="numbers of a head")
    parser.add_argument("--capabilities", type=int, nargs="+", default=list(CAPABILITIES), choices=MULTIPROCESSORS,
                        help="compute capabilities, times ten")
    parser.add_argument("--rows", type=int, default=4, help="of the batch, for the estimate")
    parser.add_argument("--heads", type=int, default=5, help="for the estimate")
    parser.add_argument("--nvcc", type=Path, help="which one (default: of CUDA_HOME, the PATH, the wheels)")
    args = parser.parse_args()
    nvcc = args.nvcc or next((found.nvcc for found in toolkits(wheel_folders())), None)
    if nvcc is None:
        parser.error('there is no nvcc: pip install "styleblend-jittor[cuda13]" brings one')
    print_kernels(f"Heads of {args.size}", {c: list(attention_kernels(nvcc, args.size, c)) for c in args.capabilities})
    print_kernels("Norms", {c: list(norm_kernels(nvcc, c)) for c in args.capabilities})
    print_bounds(args.size, args.rows, args.heads)


if __name__ == "__main__":
    main()
