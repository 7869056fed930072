"""A CUDA home whose libraries stand in for CUDA's: calls succeed and compute nothing, and what a card would refuse is
refused (`stand_in/`). nvcc and the headers are the real ones, so every operator is compiled as for a card.

    python tests/gpu/stand_in_cuda.py FOLDER      makes it in FOLDER and prints the variables that a shell needs
"""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent / "stand_in"
# each library, and those of CUDA's under whose names it is found
LIBRARIES = {"cudart": ["cudart"], "cublas": ["cublas", "cublasLt"], "curand": ["curand"], "cufft": ["cufft"],
             "cusparse": ["cusparse"],
             "cudnn": ["cudnn", *(f"cudnn_{part}_{kind}" for part in ("ops", "cnn") for kind in ("infer", "train"))]}


def variables(folder: Path) -> dict[str, str]:
    """With these every command finds the stand-in, and keeps what it compiles in `folder`."""
    return {"HOME": str(folder), "LD_LIBRARY_PATH": str(folder / "stand_in")}


def make_stand_in(folder: Path) -> Path:
    """Make the CUDA home in a folder and put the stand-ins in the libraries' place; the home."""
    os.environ["HOME"] = str(folder)
    from styleblend.machine import environment
    from styleblend.machine.cuda_home import make_home
    home, _ = make_home(environment.own_cache())
    libraries = folder / "stand_in"
    libraries.mkdir(parents=True, exist_ok=True)
    compile_library(SOURCES / "driver.cpp", libraries / "libcuda.so.1", [])
    for name, aliases in LIBRARIES.items():
        whole = {alias: (home / "lib64" / f"lib{alias}.so").resolve() for alias in aliases}
        exported = {symbol for real in whole.values() for symbol in symbols(real)}
        build(libraries, name, whole[name].name, exported, home)
        for alias in aliases:
            for link in (home / "lib64").glob(f"lib{alias}.so*"):
                link.unlink()
                link.symlink_to(libraries / whole[name].name)
    return home


def symbols(library: Path) -> set[str]:
    """The functions that a library exports."""
    said = subprocess.run(["nm", "-D", "--defined-only", str(library)], check=True, stdout=subprocess.PIPE, text=True)
    return set(re.findall(r" [TW] (\w+)", said.stdout))


def build(folder: Path, name: str, file: str, exported: set[str], home: Path) -> None:
    """One library: what `stand_in/` has of it, and for all else that CUDA's exports a function that returns 0."""
    given = SOURCES / f"{name}.cpp"
    ours = set()
    if given.exists():
        draft = folder / f"{name}.o"
        subprocess.run([*compiler(home), "-c", str(given), "-o", str(draft)], check=True)
        said = subprocess.run(["nm", "--defined-only", str(draft)], check=True, stdout=subprocess.PIPE, text=True)
        ours = set(re.findall(r" T (\w+)", said.stdout))
    rest = folder / f"{name}_rest.cpp"
    rest.write_text('#include "stand_in.h"\n' + "".join(
        f'extern "C" int {symbol}() {{ stand_in_count("call", "{symbol}"); return 0; }}\n'
        for symbol in sorted(exported - ours)))
    version = folder / f"{name}.version"
    version.write_text(f"{file} {{ global: *; }};\n")
    others = [] if name == "cudart" else [str(path) for path in folder.glob("libcudart.so*")]
    compile_library(rest, folder / file, [*([str(folder / f"{name}.o")] if ours else []), *others,
                                          f"-Wl,--version-script={version}", f"-Wl,-soname={file}"])


def compiler(home: Path) -> list[str]:
    return [os.environ.get("cc_path") or "g++", "-O1", "-fPIC", "-w", f"-I{home / 'include'}", f"-I{SOURCES}"]


def compile_library(source: Path, to: Path, arguments: list[str]) -> None:
    subprocess.run([os.environ.get("cc_path") or "g++", "-O1", "-fPIC", "-w", "-shared", f"-I{SOURCES}", str(source),
                    *arguments, "-o", str(to)], check=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    make_stand_in(Path(sys.argv[1]).resolve())
    print("\n".join(f"export {name}={value}" for name, value in variables(Path(sys.argv[1]).resolve()).items()))
