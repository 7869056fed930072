"""`styleblend doctor`: what this machine has, what is missing, and what to type for it."""
from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from styleblend.errors import StyleBlendError
from styleblend.files.base_folder import DESCRIPTIONS, FILES, KNOWN_COPIES, pickled_weights, weight_file, weight_names
from styleblend.files.limits import MAX_HEADER
from styleblend.files.shipped import find_config, own_or_shipped
from styleblend.machine import environment
from styleblend.machine.compiled_code import recorded_folders, repair

GRADIO = 6  # the major version that the page is written for
GET_SD21 = f"type: hf download {KNOWN_COPIES[0]} --local-dir {{folder}}"
# A real computation: with a wrong NumPy or a broken compiler the import alone can succeed.
TRY_JITTOR = ("from styleblend.machine.runtime import jt, device; import numpy as np; "
              "assert (jt.array(np.arange(4.0)) + 1).numpy().tolist() == [1, 2, 3, 4], 'it computes wrongly'; "
              "print('computes on', device())")


@dataclass(frozen=True)
class Line:
    """One row of the table. `status`: ok, info (fine as it is), warn, fail (the program will not work)."""

    name: str
    status: str
    found: str
    fix: str = ""


def run_doctor(root: str | Path = ".", configs: tuple[str, ...] = ("configs/mini.yaml", "configs/sd21.yaml")) -> int:
    """Print one line per check of this machine and of the project folder `root`.

    The base model of the first config is needed, those of the others are not. Returns 0, or 2 if something is missing
    without which nothing works.
    """
    lines = list(machine_lines())
    lines += disk_lines(Path(root), configs)
    lines += [base_line(Path(root), config, needed=index == 0) for index, config in enumerate(configs)]
    lines += compiled_lines()
    if all(problem() is None for problem in environment.CHECKS):
        print("trying Jittor (the first time it compiles itself: 1 to 3 minutes) ...", file=sys.stderr, flush=True)
        lines.append(jittor_line())
    show(lines)
    return 2 if any(line.status == "fail" for line in lines) else 0


def machine_lines() -> Iterator[Line]:
    """Everything that can be seen without importing Jittor."""
    version = environment.installed_version
    yield check("Python", environment.python_problem(), f"{platform.python_version()} at {sys.executable}")
    yield check("C++ compiler", environment.compiler_problem(), compiler_found())
    yield check("Python.h", environment.headers_problem(), str(header_folder()))
    yield check("NumPy", environment.numpy_problem(), version("numpy") or "none")
    yield check("Jittor", environment.jittor_problem(), version("jittor") or "none")
    yield check("oneDNN", environment.onednn_problem(), f"jittor-offline {version('jittor-offline') or 'not needed'}")
    yield check("cache folder", environment.cache_problem() or environment.quotes_problem(),
                str(environment.jittor_cache()))
    yield check("launcher", environment.launcher_problem(), "not under mpirun")
    yield packages_line()
    yield context_line()
    yield cluster_line()
    yield page_line()
    yield cuda_line()


def check(name: str, problem: str | None, found: str) -> Line:
    """A row from a check that answers with None or with one sentence `what is wrong: what to do`."""
    if problem is None:
        return Line(name, "ok", found)
    wrong, _, fix = problem.partition(": ")
    return Line(name, "fail", wrong, fix)


def compiler_found() -> str:
    """Path and version of the compiler, if there is one."""
    path = shutil.which(os.environ.get("cc_path") or "g++")
    if path is None:
        return "none"
    answer = subprocess.run([path, "-dumpfullversion"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return f"{path} {answer.stdout.strip()}"


def header_folder() -> Path | None:
    """The folder in which Python.h lies."""
    return next((folder for folder in environment.include_folders() if (folder / "Python.h").is_file()), None)


def packages_line() -> Line:
    """Whether everything in requirements.txt is installed; versions are pip's business."""
    listed = Path(__file__).parents[2] / "requirements.txt"
    if listed.is_file():
        wanted = listed.read_text().splitlines()
    else:  # installed with pip: the same list is in the package's metadata
        try:
            wanted = [entry for entry in metadata.requires("styleblend-jittor") or [] if "extra ==" not in entry]
        except metadata.PackageNotFoundError:
            wanted = []
    names = [match[0] for match in (re.match(r"[A-Za-z0-9_.-]+", entry) for entry in wanted) if match]
    missing = [name for name in names if environment.installed_version(name) is None]
    if missing:
        again = "-r requirements.txt" if listed.is_file() else "--force-reinstall styleblend-jittor"
        return Line("packages", "fail", "missing: " + ", ".join(missing), f"pip install {again}")
    return Line("packages", "ok", f"all {len(names)} installed")


def context_line() -> Line:
    """Whether what hears speech and music is installed; without it everything else works."""
    version = environment.installed_version
    packages = {name: version(name) for name in ("faster-whisper", "ctranslate2", "av")}
    missing = [name for name, found in packages.items() if found is None]
    if not missing:
        return Line("context", "ok", "speech and music: " + ", ".join(f"{name} {packages[name]}" for name in packages))
    return Line("context", "info", f"speech and music cannot be heard, missing: {', '.join(missing)} (wheels: Python "
                "3.9 to 3.12 with glibc 2.28 or newer)", 'pip install "styleblend-jittor[context]"')


def cluster_line() -> Line:
    """Whether Ray is installed, with which several machines work together; without it everything else works."""
    found = environment.installed_version("ray")
    if found:
        return Line("cluster", "ok", f"many machines: ray {found}")
    if sys.version_info < (3, 10):
        return Line("cluster", "info", "--cluster wants Python 3.10 or newer", "")
    return Line("cluster", "info", "--cluster cannot be used, missing: ray",
                'pip install "styleblend-jittor[cluster]"')


def page_line() -> Line:
    """Whether what `styleblend page` needs is installed; without it everything else works."""
    if sys.version_info < (3, 10):
        return Line("page", "info", "the web page wants Python 3.10 or newer")
    gradio = environment.installed_version("gradio")
    if gradio is None or int(gradio.split(".")[0]) != GRADIO:
        found = f"Gradio {gradio} is here" if gradio else "Gradio is missing"
        return Line("page", "info", f"no web page: {found}, and Gradio {GRADIO} is needed",
                    'pip install "styleblend-jittor[page]"')
    return Line("page", "ok", f"styleblend page: Gradio {gradio}")


def cuda_line() -> Line:
    """GPU, driver, toolkit and cuDNN. A machine without a GPU is a normal one."""
    gpus, problem = environment.gpus_found()
    if problem:
        return Line("CUDA", "warn", *problem.split(": ", 1))
    if gpus == 0:
        return Line("CUDA", "info", "CPU only: no GPU that can be used")
    try:
        nvcc, reason = environment.choose_nvcc()
    except StyleBlendError as error:
        return check("CUDA", str(error), "")
    names = f"{gpus} GPU: {gpu_names()}"
    if reason:
        return Line("CUDA", "warn", f"{names}; not used: {reason}",
                    "styleblend doctor cuda")
    return Line("CUDA", "ok", f"{names}; nvcc {nvcc or os.environ.get('nvcc_path') or 'installed by Jittor'}")


def gpu_names() -> str:
    """Names and driver version, from nvidia-smi where it is installed."""
    if shutil.which("nvidia-smi") is None:
        return "name unknown, there is no nvidia-smi"
    answer = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return "; ".join(f"{line} (driver)" for line in answer.stdout.splitlines()) or "name unknown"


def disk_lines(root: Path, configs: tuple[str, ...]) -> Iterator[Line]:
    """Free space on every disk that is written to: Jittor's cache, and what the configs name.

    They name folders for adapters, look-alikes and pictures.
    """
    cache = environment.jittor_cache()
    written = [cache]
    for config in configs:
        with contextlib.suppress(StyleBlendError):  # base_line says what is wrong with the config
            settings = read_yaml(config_file(root, config))
            written += [root / str(settings[key]) for key in ("adapters", "look_alikes", "output") if settings.get(key)]
    disks: dict[int, list[Path]] = {}
    for folder in dict.fromkeys(written):
        there = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
        disks.setdefault(there.stat().st_dev, []).append(folder)
        if folder != cache and not os.access(there, os.W_OK):  # of the cache there is a check already
            fix = f"make it yours, or name another folder than {folder} in the config"
            yield Line("disk", "fail", f"{there} cannot be written", fix)
    for folders in disks.values():
        place = next(path for path in [folders[0].absolute(), *folders[0].absolute().parents] if path.exists())
        free = shutil.disk_usage(place).free / 2**30
        of_cache = f"cache {folder_size(cache) / 2**20:.0f} MB, " if cache in folders else ""
        found = f"{of_cache}{free:.1f} GB free for {', '.join(map(str, folders))}"
        fix = "" if free >= 1 else f"free at least 1 GB on the disk of {place}"
        yield Line("disk", "fail" if fix else "ok", found, fix)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder, 0 if there is no such folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # another process may be compiling: files come and go
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def base_line(root: Path, config: str, needed: bool) -> Line:
    """Whether the base model that a config names is a whole diffusers folder."""
    name = f"base of {config}"
    try:
        folder = named_base(config_file(root, config))
        folder = folder if (root / folder).is_dir() else own_or_shipped(folder)
    except StyleBlendError as error:
        return Line(name, "fail" if needed else "info", *str(error).split(": ", 1))
    if not (root / folder).is_dir():
        fix = "get the whole repository again, the folder belongs to it" if needed else GET_SD21.format(folder=folder)
        return Line(name, "fail" if needed else "info", f"{folder} is not there", fix)
    missing = [file for file in DESCRIPTIONS if not (root / folder / file).is_file()]
    problem = f"missing: {', '.join(missing)}" if missing else None
    problem = problem or next(filter(None, (weights_problem(root / folder, part) for part in FILES)), None)
    if problem:
        return Line(name, "fail" if needed else "warn", f"{folder} is not whole, {problem}",
                    "copy or download the whole diffusers folder again")
    return Line(name, "ok", str(folder))


def weights_problem(folder: Path, part: str) -> str | None:
    """What is wrong with the weights of one network of a base, as far as the file's header and size tell, or None."""
    try:
        path = weight_file(folder / part, FILES[part])
    except StyleBlendError:
        only = " (a .bin is a pickle, which is never read as a base)" if pickled_weights(folder / part) else ""
        return f"missing: {part}/{weight_names(FILES[part])[0]}{only}"
    with open(path, "rb") as file:
        begin = file.read(8)
        if begin == b"version ":
            return f"{part}/{path.name} is a Git LFS pointer, not the weights (git lfs pull fetches them)"
        length, size = int.from_bytes(begin, "little"), path.stat().st_size
        try:
            header = json.loads(file.read(length)) if length <= MAX_HEADER else {}
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            whole = bool(ends) and 8 + length + max(ends) == size
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            whole = False
    return None if whole else f"{part}/{path.name} ({size:,} bytes) is no whole safetensors file"


def config_file(root: Path, config: str) -> Path:
    """A config in the project folder, or else the one that comes with the program."""
    return root / config if (root / config).is_file() else find_config(config)


def named_base(config: Path) -> Path:
    """The base folder that a config file names with its key `base`, as written there."""
    try:
        return Path(read_yaml(config)["base"])
    except (KeyError, TypeError):
        raise StyleBlendError(f"{config} names no base: give it a line like base: checkpoints/mini/base") from None


def read_yaml(config: Path) -> dict:
    """What a config file says, unchecked."""
    try:
        import yaml
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except ImportError:
        raise StyleBlendError("PyYAML is missing: pip install -r requirements.txt") from None
    except FileNotFoundError:
        raise StyleBlendError(f"{config} is not there: start the command in the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise StyleBlendError(f"{config} is no config: give it lines like base: checkpoints/mini/base")
    return content


def compiled_lines() -> Iterator[Line]:
    """Whether what Jittor has compiled so far is still whole, of each compiler and Python; what is not is removed."""
    for code in recorded_folders(environment.jittor_cache()):
        files = sum(1 for _ in code.files())
        try:
            said = repair(code, thorough=True)
        except StyleBlendError as error:
            yield check("compiled code", str(error), "")
            continue
        if said:
            yield Line("compiled code", "warn", said, "nothing is to be done")
        else:
            yield Line("compiled code", "ok", f"{files} files are whole")


def jittor_line() -> Line:
    """Import Jittor and compute, in a process of its own because a bad CUDA aborts the process."""
    project = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")]))
    answer = subprocess.run([sys.executable, "-c", TRY_JITTOR], env={**os.environ, "PYTHONPATH": path},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if answer.returncode == 0:
        return Line("Jittor at work", "ok", answer.stdout.strip().splitlines()[-1])
    last = (answer.stderr.strip().splitlines() or [f"ended with code {answer.returncode}"])[-1]
    return Line("Jittor at work", "fail", last[:200],
                f"STYLEBLEND_VERBOSE=1 {sys.executable} -c 'import styleblend.machine.runtime' shows all that Jittor "
                f"says; with a GPU also try it with nvcc_path='' (CPU)")


def show(lines: list[Line]) -> None:
    """What was found, a line each, and below it what to type: in one piece, however narrow the terminal is."""
    width = max(len(line.name) for line in lines)
    columns = max(60, shutil.get_terminal_size().columns)
    for line in lines:
        head = f"{line.status:4}  {line.name:{width}}  "
        print(textwrap.fill(line.found, columns, initial_indent=head, subsequent_indent=" " * len(head),
                            break_long_words=False, break_on_hyphens=False))
        if line.fix:
            print(f"      -> {line.fix}")
