"""A CUDA home that Jittor 1.3.11 builds with, made of what is here: a CUDA toolkit or pip's wheels, cuDNN 8 or 9.

Jittor knows CUDA 11 and 12 with cuDNN 8, in one folder. The home is such a folder: links to what is there, headers that
give back what newer ones have dropped (`cuda_shims/`), and a wrapper of nvcc. Nothing that is installed is changed,
unless its programs may not be run.
"""
from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from styleblend.errors import StyleBlendError

SHIMS = Path(__file__).parent / "cuda_shims"
ITSELF = "@THE HEADER ITSELF@"
NOTE = "made_of.json"  # in a home: the version of CUDA, and files of which it was made
MOST_OF_JITTOR = 90  # compute capability, times ten, of the newest cards that it compiles for
OLDEST, NEWEST = (11, 8), (13, 99)
# what Jittor includes and loads -> what brings it
NEEDED = {"include/cuda_runtime.h": "CUDA's headers", "include/cublas_v2.h": "cuBLAS", "include/cudnn.h": "cuDNN",
          "include/curand.h": "cuRAND", "include/cufft.h": "cuFFT", "include/cusparse.h": "cuSPARSE",
          "include/cub/cub.cuh": "CUB", "lib64/libcudart.so": "the CUDA runtime", "lib64/libcublas.so": "cuBLAS",
          "lib64/libcublasLt.so": "cuBLAS", "lib64/libcudnn.so": "cuDNN", "lib64/libcurand.so": "cuRAND",
          "lib64/libcufft.so": "cuFFT", "lib64/libcusparse.so": "cuSPARSE"}
CURE = 'pip install "styleblend-jittor[cuda13]" brings them as wheels'


@dataclass(frozen=True)
class Toolkit:
    """An nvcc, the folder of the toolkit around it, and the version of CUDA."""

    nvcc: Path
    folder: Path
    version: tuple[int, int]


def wheel_folders() -> list[Path]:
    """The folders of NVIDIA's wheels in this Python environment that hold headers or libraries."""
    found = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in found.submodule_search_locations or ()] if found else []
    folders = [folder for root in roots if root.is_dir() for folder in sorted(root.iterdir())]
    return [folder for folder in folders if (folder / "lib").is_dir() or (folder / "include").is_dir()]


def toolkits(wheels: Sequence[Path]) -> Iterator[Toolkit]:
    """Every nvcc that works: of CUDA_HOME, on the PATH, in the usual places, among the wheels."""
    places = [Path(home) / "bin" / "nvcc" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda", "/opt/cuda")
              if home]
    on_path = shutil.which("nvcc")
    places[1:1] = [Path(on_path)] if on_path else []
    seen = set()
    for nvcc in [*places, *(folder / "bin" / "nvcc" for folder in wheels)]:
        found = toolkit_of(nvcc.resolve()) if nvcc.is_file() else None
        if found and found.nvcc not in seen:
            seen.add(found.nvcc)
            yield found


def toolkit_of(nvcc: Path) -> Toolkit | None:
    """The toolkit of an nvcc, which may be a script that starts another one; None where it does not run."""
    make_executable(nvcc)
    version = re.search(r"release (\d+)\.(\d+)", answer(nvcc, "--version"))
    top = re.search(r"^#\$ TOP=(.*)$", answer(nvcc, "-dryrun", "-x", "cu", os.devnull, "-o", os.devnull), re.M)
    if not version:
        return None
    folder = Path(top[1].strip()).resolve() if top else nvcc.parents[1]
    own = folder / "bin" / "nvcc"
    return Toolkit(own if own.is_file() else nvcc, folder, (int(version[1]), int(version[2])))


def make_executable(nvcc: Path) -> None:
    """Some installers drop the flags of the programs in a wheel."""
    for folder in (nvcc.parent, nvcc.parents[1] / "nvvm" / "bin"):
        for program in folder.iterdir() if folder.is_dir() else ():
            if program.is_file() and not os.access(program, os.X_OK) and os.stat(program).st_uid == os.getuid():
                program.chmod(program.stat().st_mode | 0o111)


def answer(*command: object) -> str:
    """All that a command says; nothing where it cannot be started."""
    try:
        run = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             stdin=subprocess.DEVNULL, text=True, errors="replace")
    except OSError:
        return ""
    return run.stdout


# ---------------------------------------------------------------- the home

def home_folder_of(cache: Path) -> Path:
    """Where the home of this Python environment is kept: each has wheels of its own."""
    return cache / "cuda" / hashlib.sha256(os.path.realpath(sys.prefix).encode()).hexdigest()[:12]


def kept_home(cache: Path) -> tuple[Path | None, str | None]:
    """The home that was made here, or None; and, where one cannot be used any more, why."""
    home = home_folder_of(cache)
    if not home.is_dir():
        return None, None
    try:
        made_of = json.loads((home / NOTE).read_text(encoding="utf-8"))
        gone = [path for path in made_of["files"] if not os.path.exists(path)]
    except (OSError, ValueError, KeyError, TypeError):
        return None, f"the CUDA home in {home} is damaged"
    return (None, f"{gone[0]}, of which the CUDA home was made, is gone") if gone else (home, None)


def make_home(cache: Path, capabilities: Sequence[int] = (), among: Iterable[Toolkit] | None = None,
              driver: str = "") -> tuple[Path, Toolkit]:
    """Make the home anew, for cards of these compute capabilities (times ten), and return it with its toolkit.

    The first toolkit with which it is whole is taken, `among` those of the machine. `driver`: the newest CUDA that it
    runs, such as "12.4"; of the same major version it runs all. StyleBlendError names what is missing.
    """
    wheels, problems = wheel_folders(), []
    for toolkit in toolkits(wheels) if among is None else among:
        if not OLDEST <= toolkit.version <= NEWEST:
            problems.append(f"{toolkit.nvcc} is CUDA {toolkit.version[0]}.{toolkit.version[1]}, and 11.8 to 13 is "
                            "needed")
            continue
        if driver and toolkit.version[0] > int(driver.split(".")[0]):
            problems.append(f"{toolkit.nvcc} is CUDA {toolkit.version[0]}, and the driver runs CUDA up to {driver}: "
                            "update the driver (580 or newer for CUDA 13), or give CUDA_HOME an older toolkit")
            continue
        home = home_folder_of(cache)
        home.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".home-", dir=home.parent))
        try:
            fill(draft, toolkit, wheels, capabilities)
            lacking = list(dict.fromkeys(what for file, what in NEEDED.items() if not (draft / file).exists()))
            if not lacking:
                replace(draft, home)
                return home, toolkit
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        problems.append(f"with {toolkit.nvcc} there is no {', '.join(lacking)}")
    raise StyleBlendError(f"no CUDA home can be made: {problems[-1] if problems else 'there is no nvcc'}; {CURE}")


def replace(draft: Path, home: Path) -> None:
    """The draft becomes the home; a home that was there before goes."""
    draft.chmod(0o755)
    if home.exists():
        old = Path(tempfile.mkdtemp(prefix=".old-", dir=home.parent))
        os.replace(home, old / "home")
        shutil.rmtree(old, ignore_errors=True)
    os.replace(draft, home)


def fill(home: Path, toolkit: Toolkit, wheels: Sequence[Path], capabilities: Sequence[int]) -> None:
    """Links, wrapper, headers, and a note of what it was made of."""
    of_toolkit = [toolkit.folder, toolkit.folder / "targets" / "x86_64-linux"]
    link_all([toolkit.folder / "bin"], home / "bin")
    # headers must be those of nvcc; libraries those of the wheels, which a PyTorch beside would share
    link_all([folder / "include" for folder in [*of_toolkit, *wheels, *system_folders("include")]], home / "include")
    link_all([folder / name for folder in [*wheels, *of_toolkit] for name in ("lib", "lib64")]
             + system_folders("lib"), home / "lib64")
    name_libraries(home / "lib64")
    write_wrapper(home / "bin" / "nvcc", toolkit, capabilities)
    write_headers(home / "include", toolkit)
    files = {str((home / name).resolve()) for name in NEEDED if (home / name).exists()} | {str(toolkit.nvcc)}
    (home / NOTE).write_text(json.dumps({"cuda": toolkit.version, "files": sorted(
        file for file in files if home not in Path(file).parents)}, indent=1), encoding="utf-8")


def system_folders(kind: str) -> list[Path]:
    """Where packages of a distribution put cuDNN: nothing else is looked for there."""
    folders = {"include": ["/usr/include", "/usr/include/x86_64-linux-gnu"], "lib": ["/usr/lib/x86_64-linux-gnu"]}
    return [Path(folder) for folder in folders[kind] if list(Path(folder).glob("*cudnn*"))]


def link_all(folders: Sequence[Path], into: Path) -> None:
    """Links to all that is in these folders; what two of them have is taken from the first."""
    into.mkdir(parents=True)
    for folder in folders:
        of_system = str(folder).startswith("/usr/") and not str(folder).startswith("/usr/local")
        for path in sorted(folder.glob("*cudnn*" if of_system else "*")):
            link = into / path.name
            if path.exists() and not link.is_symlink():
                link.symlink_to(path.resolve())


def name_libraries(folder: Path) -> None:
    """libX.so beside libX.so.N; for cuDNN 9, which has one library of each kind, the two names that Jittor opens."""
    for path in sorted(folder.glob("lib*.so.*")):
        plain = folder / f"{path.name.split('.so.')[0]}.so"
        if not plain.is_symlink():
            plain.symlink_to(path.name)
    for part in ("ops", "cnn"):
        for kind in ("infer", "train"):
            old = folder / f"libcudnn_{part}_{kind}.so"
            if not old.is_symlink() and (folder / f"libcudnn_{part}.so.9").is_symlink():
                old.symlink_to(f"libcudnn_{part}.so.9")


def write_wrapper(path: Path, toolkit: Toolkit, capabilities: Sequence[int]) -> None:
    """nvcc as Jittor may call it. It is no link, since Jittor follows links to find the home.

    Jittor asks for C++14; CUB and Thrust of CUDA 13 want C++17. For cards that are newer than those that Jittor
    compiles for, and where it is not known which there will be, the intermediate code (PTX) is kept in the file: the
    driver translates it.
    """
    path.unlink(missing_ok=True)
    standard = '"${@/#-std=c++14/-std=c++17}"' if toolkit.version[0] >= 13 else '"$@"'
    newer = f" -code=compute_{MOST_OF_JITTOR}" if max(capabilities, default=120) > MOST_OF_JITTOR else ""
    lines = ["#!/bin/bash", "# Made by `styleblend doctor cuda`."]
    if newer:
        lines += [f'case " $* " in *" -code=sm_{MOST_OF_JITTOR} "*) exec "{toolkit.nvcc}" {standard}{newer} ;; esac']
    path.write_text("\n".join([*lines, f'exec "{toolkit.nvcc}" {standard}', ""]), encoding="utf-8")
    path.chmod(0o755)


def write_headers(include: Path, toolkit: Toolkit) -> None:
    """The headers of `cuda_shims/` that are wanted here, each before the one of its name."""
    if toolkit.version[0] >= 13:
        write_header(include / "cuda_runtime.h", include / "cuda_runtime.h", "cuda_runtime.h")
        write_header(include / "cub" / "cub.cuh", include / "cccl" / "cub" / "cub.cuh", "cub.h")
    if (include / "cudnn_version.h").exists() and "CUDNN_MAJOR 9" in (include / "cudnn_version.h").read_text():
        write_header(include / "cudnn.h", include / "cudnn.h", "cudnn.h")
    if not (include / "npp.h").exists():
        (include / "npp.h").write_text((SHIMS / "npp.h").read_text(encoding="utf-8"), encoding="utf-8")


def write_header(path: Path, itself: Path, shim: str) -> None:
    """A header of `cuda_shims/`, which includes `itself`: often what a link in its place leads to."""
    if itself.exists():
        text = (SHIMS / shim).read_text(encoding="utf-8").replace(ITSELF, str(itself.resolve()))
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
