"""What Jittor needs from the machine: checks that name their own cure, and the variables that it reads at import.

Nothing here imports Jittor, so that `styleblend.machine.doctor` can look at a machine on which Jittor does not import.
Variables that the user has set are left alone, but for the end of `cache_name` (`OF_CUDA`).
"""
from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

from styleblend.errors import StyleBlendError, printable
from styleblend.machine.cuda_home import kept_home

LEAST_FREE = 16 << 20  # bytes on the disk of Jittor's cache
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

# Read by Jittor at import. use_mpi, use_cutlass: not needed here, and both reach for things that are often missing
# (mpicc, a download). FIX_TORCH_ERROR: Jittor would import PyTorch when it is installed, and both crash in one process.
# gdb_path: looking for gdb costs 0.2 s each start. cache_name: Jittor would name its cache after the git branch that
# the virtual environment lies in, and compile everything again on the next branch; and other programs would compile
# operators with other flags (`styleblend.machine.precompiled_headers`), so that each of two programs in turns would do
# it again.
DEFAULTS = {"use_mpi": "0", "use_cutlass": "0", "FIX_TORCH_ERROR": "0", "gdb_path": "", "cache_name": "styleblend"}
# Ends the name of Jittor's cache for a card. Jittor would keep what it compiles for it in a folder within the CPU's
# cache, and look for its own core in the CPU's first: once that is there, a card could not be used any more.
OF_CUDA = "-cuda"

# Scripts empty a variable to unset it; Jittor would take the empty text for a path.
UNSET_IF_EMPTY = ("HOME", "JITTOR_HOME", "cc_path", "python_config_path", "cache_name")


def prepare_environment() -> str | None:
    """Check the machine and set what Jittor reads at import. Returns why a GPU stays unused, or None."""
    for name in UNSET_IF_EMPTY:
        if os.environ.get(name) == "":
            del os.environ[name]
    for check in CHECKS:
        problem = check()
        if problem:
            raise StyleBlendError(problem)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("HOME", str(home_folder()))  # a user without one, as in a container
    os.environ.pop("PYTHONOPTIMIZE", None)  # Jittor's compiling script does its work inside of assert statements
    if found_python_config() is None:
        os.environ["python_config_path"] = str(write_python_config(own_cache()))
    nvcc, reason = choose_nvcc()
    if nvcc is not None:
        os.environ["nvcc_path"] = nvcc
    if os.environ.get("use_cuda", "0") not in ("", "0") and not os.environ.get("nvcc_path", "cu"):
        raise StyleBlendError(f"use_cuda={printable(os.environ['use_cuda'])} asks for a card, and Jittor can use none "
                              f"({reason or 'there is none'}): type `unset use_cuda`, or `styleblend doctor cuda`.")
    own = os.environ["cache_name"].removesuffix(OF_CUDA)  # a process that started this one may have had a card
    os.environ["cache_name"] = own + (OF_CUDA if os.environ.get("nvcc_path", "cu") else "")
    return reason


# ---------------------------------------------------------------- checks: each gives None or one sentence

def python_problem() -> str | None:
    """Linux and a Python that Jittor and numpy<2 exist for."""
    if platform.system() != "Linux":
        return f"Jittor is used here on Linux only, this is {platform.system()}: use Linux, WSL 2 or a container."
    if not (3, 9) <= sys.version_info[:2] <= (3, 12):
        return f"Python {PYTHON} is not supported: make a virtual environment with Python 3.9 to 3.12."
    return None


def compiler_problem() -> str | None:
    """Jittor compiles every operator, so a C++ compiler is needed at run time."""
    compiler = os.environ.get("cc_path") or "g++"
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler} is missing: type `sudo apt install g++`."
    return None


def headers_problem() -> str | None:
    """Python.h, which the compiled operators include."""
    if not any((folder / "Python.h").is_file() for folder in include_folders()):
        return f"the headers of Python {PYTHON} (Python.h) are missing: type `sudo apt install python{PYTHON}-dev`."
    return None


def numpy_problem() -> str | None:
    """With NumPy 2 Jittor 1.3.11 gives wrong numbers and says nothing."""
    version = installed_version("numpy")
    if version is None or int(version.split(".")[0]) >= 2:
        return (f"NumPy 1 is needed, found {version or 'none'} (Jittor computes garbage with NumPy 2): "
                "type `pip install 'numpy<2'`.")
    return None


def jittor_problem() -> str | None:
    """The Jittor releases that this project was tested with."""
    version = installed_version("jittor")
    numbers = tuple(map(int, re.findall(r"\d+", version or "")[:3]))
    if numbers < (1, 3, 11) or numbers[:2] != (1, 3):
        return f"Jittor 1.3.11 is needed, found {version or 'none'}: type `pip install 'jittor>=1.3.11,<1.4'`."
    return None


def onednn_problem() -> str | None:
    """Jittor loads oneDNN from its cache, or unpacks it from jittor-offline, or tries a download that often fails."""
    if not onednn_ready() and importlib.util.find_spec("jittor_offline") is None:
        return "oneDNN, which Jittor computes with, is not here: type `pip install jittor-offline`."
    return None


def onednn_ready() -> bool:
    """Whether oneDNN is unpacked in Jittor's cache, or the user has switched it off or has one of their own."""
    if os.environ.get("use_mkl", "1") != "1" or os.environ.get("mkl_lib_path"):
        return True
    found = glob.glob(glob.escape(str(jittor_cache())) + "/mkl/dnnl*/lib/libmkldnn.so")
    return any(map(os.path.isfile, found))  # a link to what is not unpacked yet is none


def cache_problem() -> str | None:
    """Jittor keeps what it compiles in the home folder, and with JITTOR_HOME a note there of where else."""
    for cache in dict.fromkeys((home_folder() / ".cache" / "jittor", jittor_cache())):
        folder = next(path for path in [cache, *cache.parents] if path.exists())
        problem = folder_problem(folder)
        if problem:
            return problem
    note = home_folder() / ".cache" / "jittor" / "config.json"
    with contextlib.suppress(FileNotFoundError):
        try:
            damaged = not isinstance(json.loads(note.read_text()), dict)
        except ValueError:
            damaged = True
        if damaged:
            return f"{note}, in which Jittor notes where its cache is, is damaged: delete it."
    return None


def quotes_problem() -> str | None:
    """Jittor puts paths between quotes into commands, and does not expect any in them."""
    found = importlib.util.find_spec("jittor")
    installed = Path(found.origin or "") if found else Path()
    for path, cure in ((jittor_cache(), "set HOME to another folder"),
                       (installed, "make the virtual environment in another folder")):
        if set(str(path)) & set("\"'`$\\\n"):
            return f"{printable(str(path), 200)} has a quote, $ or \\ in it, which Jittor cannot take: {cure}."
    return None


def folder_problem(folder: Path) -> str | None:
    """Why Jittor cannot compile into a folder that is there, or None."""
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return None
    why = "belongs to another user" if folder.is_dir() and folder.stat().st_uid != os.getuid() else "cannot be written"
    why = why if folder.is_dir() else "is no folder"
    return f"{folder} {why}, and Jittor keeps its compiled code there: set HOME to a folder of yours."


def home_folder() -> Path:
    """The user's home folder; / for a user without one, as containers have it."""
    with contextlib.suppress(RuntimeError):
        return Path.home()
    return Path("/")


def launcher_problem() -> str | None:
    """Under mpirun Jittor insists on MPI, which use_mpi=0 has switched off."""
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        return "mpirun is not supported: the scripts in scripts/ start one process a GPU by themselves."
    return None


def disk_problem() -> str | None:
    """An operator that does not fit is left half-written, after pages of what the compiler says."""
    folder = next(path for path in [jittor_cache(), *jittor_cache().parents] if path.exists())
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(folder)
        if usage.free < LEAST_FREE and usage.total:  # 0: a file system that does not tell
            return (f"the disk of {folder} has only {usage.free / 2**20:.0f} MB left, too few to compile: "
                    "free some space there, or set HOME to a folder on another disk.")
    return None


CHECKS = (python_problem, launcher_problem, compiler_problem, headers_problem, numpy_problem, jittor_problem,
          cache_problem, quotes_problem, disk_problem, onednn_problem)


def missing_package(error: ModuleNotFoundError) -> int:
    """Say in one sentence that a package is not installed; the exit code.

    A part of this project that is missing is no such case.
    """
    name = (error.name or "").partition(".")[0]
    if name in ("", "styleblend"):
        raise error
    listed = (Path(__file__).parents[2] / "requirements.txt").is_file()
    cure = "-r requirements.txt" if listed else "--force-reinstall styleblend-jittor"
    print(f"styleblend: the Python package {name} is not installed: type `pip install {cure}`", file=sys.stderr)
    return 2


def installed_version(package: str) -> str | None:
    """The version of an installed package without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def own_cache() -> Path:
    """The folder beside Jittor's where this program keeps what is of this machine."""
    return jittor_cache().parent / "styleblend"


def jittor_cache() -> Path:
    """The folder where Jittor keeps compiled code and oneDNN (the same rule as jittor_utils.home)."""
    home = os.environ.get("JITTOR_HOME")
    if not home:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            home = json.loads((home_folder() / ".cache/jittor/config.json").read_text()).get("JITTOR_HOME")
    return Path(home or home_folder()).absolute() / ".cache" / "jittor"


# ---------------------------------------------------------------- python-config

def include_folders() -> list[Path]:
    """Folders in which Python.h is looked for: this interpreter's, then those that Jittor's python-config names."""
    folders = [sysconfig.get_path("include"), sysconfig.get_path("platinclude")]
    config = found_python_config()
    if config:
        answer = subprocess.run([config, "--includes"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        folders += re.findall(r'-I"?([^\s"]+)', answer.stdout)
    return [Path(folder) for folder in dict.fromkeys(folders)]


def found_python_config() -> str | None:
    """The python-config that Jittor finds by itself (the same places in the same order), or None."""
    beside = Path(sys.executable).parent
    places = [os.environ.get("python_config_path", ""), f"{beside}/python{PYTHON}-config", f"{sys.executable}-config",
              f"/usr/bin/python{PYTHON}-config", f"/usr/local/bin/python{PYTHON}-config", f"{beside}/python3-config"]
    return next((place for place in places if os.path.isfile(place)), None)


def write_python_config(folder: Path) -> Path:
    """Write a script that answers the two questions that Jittor asks python-config, and return its path.

    Virtual environments have no python-config, and that of the base Python is in a place that Jittor does not search.
    """
    includes = dict.fromkeys(f'-I"{sysconfig.get_path(key)}"' for key in ("include", "platinclude"))
    text = ("#!/bin/sh\n# Made by styleblend: python-config for " + sys.executable + "\n"
            'case "$1" in\n'
            f"  --includes) echo '{' '.join(includes)}' ;;\n"
            f"  --extension-suffix) echo '{sysconfig.get_config_var('EXT_SUFFIX')}' ;;\n"
            "  *) exit 1 ;;\nesac\n")
    # One file per Python, so that two environments do not overwrite each other's.
    tag = f"{sys.implementation.cache_tag}-{platform.python_version()}"
    return write_script(folder / f"python-config-{tag}", text)


def write_script(script: Path, text: str) -> Path:
    """Write a program in the shell's language, where it does not stand already. OSError; the path."""
    if not script.is_file() or script.read_text() != text:
        script.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=script.parent)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(draft, 0o755)
        os.replace(draft, script)  # whole or not at all: another process may be reading it
    return script


# ---------------------------------------------------------------- CUDA

# What cuInit answers besides 0 (fine) and 100 (no GPU), and what helps.
DRIVER_CURES = {34: "libcuda.so.1 is the stub of the CUDA toolkit: take its folder out of LD_LIBRARY_PATH",
                802: "the GPUs are not ready yet: start the service nvidia-fabricmanager",
                803: "the driver was updated while it ran: restart the machine",
                804: "this driver is too old for the CUDA libraries here: install a newer driver"}


def gpus_found() -> tuple[int, str | None]:
    """How many GPUs the driver offers to this process, and what is wrong with the driver.

    (0, None) without one, or with CUDA_VISIBLE_DEVICES=''.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, None
    code, count = driver.cuInit(0), ctypes.c_int(0)
    if code not in (0, 100):
        cure = DRIVER_CURES.get(code, "type `nvidia-smi`, which says more, and restart the machine if it fails too")
        return 0, f"the NVIDIA driver does not start (cuInit error {code}): {cure}"
    if code == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0, None
    return count.value, None


def cpu_reason() -> str | None:
    """Why the program computes on the CPU here, or None where it will use a GPU."""
    count, problem = gpus_found()
    if os.environ.get("use_cuda") == "0" or os.environ.get("nvcc_path") == "":
        return "the environment says so: use_cuda=0 or nvcc_path=''"
    if count == 0:
        return problem or "the driver offers none"
    try:
        return choose_nvcc()[1]
    except StyleBlendError as error:
        return str(error)


def toolkit_problem(nvcc: str) -> str | None:
    """Why Jittor cannot build with this nvcc, or None."""
    # Jittor looks beside nvcc for the libraries, except for the nvcc of Debian's and Ubuntu's package.
    home = Path(os.path.realpath(nvcc)).parent.parent
    system = Path(f"/usr/lib/{platform.machine()}-linux-gnu")
    lib, include = (system, Path("/usr/include")) if nvcc == "/usr/bin/nvcc" else (home / "lib64", home / "include")
    if not (lib / "libcudart.so").exists() or not (include / "cuda_runtime.h").is_file():
        return f"{nvcc} comes without the CUDA libraries and headers"
    version = re.search(r"define CUDA_VERSION (\d+)", (include / "cuda.h").read_text(errors="replace"))
    if version and int(version[1]) >= 13000:
        return f"{nvcc} is CUDA {int(version[1]) // 1000}, and Jittor 1.3.11 needs CUDA 11 or 12"
    for name in ("libcudnn_ops_infer.so", "libcudnn_cnn_infer.so", "libcudnn_cnn_train.so"):
        places = (home / "bin", lib, home / f"targets/{platform.machine()}-linux/lib", system, Path("/usr/lib"))
        if not any((place / name).exists() or (place / f"{name}.8").exists() for place in places):
            return f"cuDNN 8 is missing ({name}; cuDNN 9 has other names)"
    return None


def choose_nvcc() -> tuple[str | None, str | None]:
    """The value for Jittor's nvcc_path (None: leave it to Jittor) and, where a GPU or its driver stays unused, why.

    Jittor aborts the whole process when it finds an nvcc but no GPU, or an nvcc without its libraries. `use_cuda=0`
    would keep it from computing with CUDA, but not from loading it.
    """
    if os.environ.get("use_cuda") == "0":
        return "", None
    if "nvcc_path" in os.environ:
        given = os.environ["nvcc_path"]
        if given and not os.path.isfile(given):
            raise StyleBlendError(f"nvcc_path names {given}, which is not a file: "
                                  "correct it, or type `unset nvcc_path`.")
        problem = toolkit_problem(given) if given and own_cache() not in Path(given).parents else None
        if problem:
            raise StyleBlendError(f"Jittor cannot use the toolkit that nvcc_path names ({problem}): type `unset "
                                  "nvcc_path`, then `styleblend doctor cuda`, which makes a CUDA home of it.")
        return None, None
    count, problem = gpus_found()
    if count == 0:
        return "", problem
    if glob.glob(str(jittor_cache() / "jtcuda" / "*" / "bin" / "nvcc")):
        return None, None  # the toolkit that `python -m jittor_utils.install_cuda` installed: Jittor takes it first
    places = [shutil.which("nvcc"), os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin/nvcc",
              "/usr/local/cuda/bin/nvcc", "/usr/bin/nvcc", "/opt/cuda/bin/nvcc"]
    home, gone = kept_home(own_cache())
    if home:
        return str(home / "bin" / "nvcc"), None
    reason = gone or "no CUDA toolkit (nvcc) was found"
    for nvcc in dict.fromkeys(place for place in places if place and os.path.isfile(place)):
        problem = toolkit_problem(nvcc)
        if problem is None:
            return nvcc, None
        reason = gone or problem
    return "", f"{reason} (`styleblend doctor cuda` makes a CUDA home of what is there)"
