"""A CUDA home for Jittor: made of toolkits and wheels as they lie on disks, remembered, and what is said without one.

The toolkits are folders with a script in nvcc's place: it answers as nvcc does, and says what it is called with.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from styleblend.errors import StyleBlendError
from styleblend.machine import cuda_home, doctor_cuda, environment
from styleblend.machine.cards import Card
from styleblend.machine.cuda_home import NOTE, kept_home, make_home

ROOT = Path(__file__).parents[2]
HEADERS = ("cuda_runtime.h", "cublas_v2.h", "curand.h", "cufft.h", "cusparse.h")
LIBRARIES = ("cudart", "cublas", "cublasLt", "curand", "cufft", "cusparse")
CUDNN_8 = ("libcudnn.so.8", "libcudnn_ops_infer.so.8", "libcudnn_cnn_infer.so.8", "libcudnn_cnn_train.so.8")
CUDNN_9 = ("libcudnn.so.9", "libcudnn_ops.so.9", "libcudnn_cnn.so.9")


def put(folder: Path, *names: str, text: str = "") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text or f"// {name}\n")


def toolkit(folder: Path, version: str, cub: str) -> Path:
    """A toolkit of this version of CUDA, without cuDNN."""
    put(folder, *(f"include/{name}" for name in HEADERS), f"include/{cub}")
    put(folder, *(f"lib64/lib{name}.so.{version.split('.')[0]}" for name in LIBRARIES))
    (folder / "bin").mkdir()
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\n"
                    f'case "$1" in --version) echo "Cuda compilation tools, release {version}, V{version}.88" ;;\n'
                    f'-dryrun) echo "#$ TOP={folder / "bin"}/.." ;;\n*) for a in "$@"; do echo "$a"; done ;; esac\n')
    nvcc.chmod(0o755)
    return folder


def cudnn(folder: Path, libraries: tuple) -> Path:
    put(folder, "include/cudnn.h")
    put(folder, "include/cudnn_version.h", text=f"#define CUDNN_MAJOR {libraries[0][-1]}\n")
    put(folder, *(f"lib/{name}" for name in libraries))
    return folder


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes a machine with a toolkit and a wheel of cuDNN; where its home would be kept."""
    def make(version: str, libraries: tuple, cub: str = "cub/cub.cuh"):
        monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", version, cub)))
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
        cudnn(tmp_path / "site" / "nvidia" / "cudnn", libraries)
        return tmp_path / "cache"

    return make


def called(home: Path, *arguments: str) -> list:
    """What nvcc of the home calls the real one with."""
    return subprocess.run([home / "bin" / "nvcc", *arguments], capture_output=True, text=True,
                          check=True).stdout.splitlines()


def test_cuda_13_and_cudnn_9(machine, tmp_path):
    """Libraries by the names that Jittor opens, headers with what they have dropped, C++17 in the place of C++14."""
    home, made_of = make_home(machine("13.0", CUDNN_9, cub="cccl/cub/cub.cuh"))
    assert made_of.version == (13, 0) and made_of.folder == tmp_path / "cuda"
    for name in LIBRARIES:
        assert (home / f"lib64/lib{name}.so").resolve() == tmp_path / f"cuda/lib64/lib{name}.so.13"
    for part in ("ops_infer", "ops_train", "cnn_infer", "cnn_train"):
        assert (home / f"lib64/libcudnn_{part}.so").resolve().name == f"libcudnn_{part[:3]}.so.9"
    for name, itself in (("cuda_runtime.h", "cuda/include/cuda_runtime.h"),
                         ("cub/cub.cuh", "cuda/include/cccl/cub/cub.cuh"),
                         ("cudnn.h", "site/nvidia/cudnn/include/cudnn.h")):
        assert f'#include "{tmp_path / itself}"' in (home / "include" / name).read_text()
        assert (tmp_path / itself).read_text().count("\n") == 1  # it is as it was
    assert "NPP_MAX_32S" in (home / "include/npp.h").read_text()
    assert called(home, "-std=c++14", "-arch=compute_86", "-code=sm_86", "a file.cu") == [
        "-std=c++17", "-arch=compute_86", "-code=sm_86", "a file.cu"]


def test_cuda_12_and_cudnn_8_need_no_header_of_ours(machine, tmp_path):
    home, _ = make_home(machine("12.2", CUDNN_8))
    for name in ("cuda_runtime.h", "cudnn.h", "cub"):
        assert (home / "include" / name).is_symlink()
    assert (home / "lib64/libcudnn_ops_infer.so").resolve().name == "libcudnn_ops_infer.so.8"
    assert called(home, "-std=c++14") == ["-std=c++14"]


def test_for_newer_cards_the_intermediate_code_is_kept(machine):
    """Blackwell: Jittor compiles for 9.0 at most, and the driver can translate PTX.

    So it is in a home that was made where there was no card yet, as in a container's image.
    """
    cache = machine("13.0", CUDNN_9, cub="cccl/cub/cub.cuh")
    for capabilities, kept in (([90, 120], True), ([], True), ([86, 90], False)):
        home, _ = make_home(cache, capabilities=capabilities)
        said = called(home, "-arch=compute_90", "-code=sm_90", "x.cu")
        assert (said[-1] == "-code=compute_90") is kept
    assert called(home, "--version") == ["Cuda compilation tools, release 13.0, V13.0.88"]


def test_what_is_missing_is_named_with_the_cure(machine, tmp_path):
    cache = machine("13.0", CUDNN_9, cub="cccl/cub/cub.cuh")
    (tmp_path / "cuda/lib64/libcufft.so.13").unlink()
    (tmp_path / "site/nvidia/cudnn/include/cudnn.h").unlink()
    with pytest.raises(StyleBlendError, match=r"there is no cuDNN, cuFFT; pip install .styleblend-jittor\[cuda13\]."):
        make_home_of(tmp_path / "cuda", cache)
    assert not list((cache / "cuda").iterdir())  # nothing half-made stays


def make_home_of(folder: Path, cache: Path):
    """A home of this toolkit alone: those of the machine that runs the tests stay out of it."""
    found = cuda_home.toolkit_of(folder / "bin" / "nvcc")
    return make_home(cache, among=[found])


def test_a_toolkit_that_is_too_old(machine, tmp_path):
    cache = machine("11.2", CUDNN_8)
    with pytest.raises(StyleBlendError, match="is CUDA 11.2, and 11.8 to 13 is needed"):
        make_home_of(tmp_path / "cuda", cache)


def test_it_is_remembered_until_what_it_was_made_of_is_gone(machine, tmp_path):
    cache = machine("13.0", CUDNN_9, cub="cccl/cub/cub.cuh")
    assert kept_home(cache) == (None, None)
    home, _ = make_home(cache)
    assert kept_home(cache) == (home, None)
    again, _ = make_home(cache)
    assert again == home and kept_home(cache) == (home, None)
    (tmp_path / "site/nvidia/cudnn/lib/libcudnn.so.9").unlink()
    assert kept_home(cache) == (None, f"{tmp_path}/site/nvidia/cudnn/lib/libcudnn.so.9, of which the CUDA home was "
                                "made, is gone")
    (home / NOTE).write_text("{")
    assert "is damaged" in kept_home(cache)[1]


def test_the_note_says_what_it_was_made_of(machine, tmp_path):
    home, _ = make_home(machine("13.0", CUDNN_9, cub="cccl/cub/cub.cuh"))
    made_of = json.loads((home / NOTE).read_text())
    assert made_of["cuda"] == [13, 0] and str(tmp_path / "cuda/bin/nvcc") in made_of["files"]
    assert all(os.path.exists(path) and not path.startswith(str(home)) for path in made_of["files"])


# ---------------------------------------------------------------- a driver with cards, as a library of C

DRIVER = """
#include <string.h>
static const int CAPABILITY[] = {CAPABILITIES};
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuDeviceGetCount(int* count) { *count = sizeof CAPABILITY / sizeof *CAPABILITY; return 0; }
int cuDeviceGet(int* device, int number) { *device = number; return 0; }
int cuDeviceGetName(char* name, int size, int device) { strncpy(name, "A card", size); return 0; }
int cuDeviceGetAttribute(int* value, int what, int device) {
    *value = what == 75 ? CAPABILITY[device] / 10 : CAPABILITY[device] % 10; return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)8 << 30; return 0; }
"""


@pytest.fixture
def driver(tmp_path):
    """A function that makes a driver with cards of these capabilities; the variable with which it is found."""
    def make(*capabilities: int) -> dict:
        source = tmp_path / "driver.c"
        source.write_text(DRIVER.replace("CAPABILITIES", ", ".join(map(str, capabilities))))
        subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(tmp_path / "libcuda.so.1")], check=True)
        return {"LD_LIBRARY_PATH": str(tmp_path)}

    return make


def said_by_python(code: str, **variables: str) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in ("nvcc_path", "use_cuda")}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**clean, **variables}, check=True,
                          stdout=subprocess.PIPE, text=True).stdout


def test_the_cards_of_a_driver(driver):
    code = "from styleblend.machine.cards import cards, driver_version; print(cards(), driver_version())"
    assert said_by_python(code, **driver(89, 120)) == (
        "[Card(name='A card', capability=89, memory=8589934592), Card(name='A card', capability=120, "
        "memory=8589934592)] 13.0\n")
    assert said_by_python(code, LD_LIBRARY_PATH="") == "[] \n"


def test_every_command_finds_the_home_without_a_variable(machine, driver, tmp_path, monkeypatch):
    """With a card; without one the CPU is used, as before."""
    machine("13.0", CUDNN_9, cub="cccl/cub/cub.cuh")
    monkeypatch.setenv("JITTOR_HOME", str(tmp_path))
    home, _ = make_home(environment.own_cache())
    code = "from styleblend.machine.environment import choose_nvcc; print(choose_nvcc())"
    variables = {"JITTOR_HOME": str(tmp_path), "CUDA_HOME": str(tmp_path / "cuda")}
    assert said_by_python(code, **variables, **driver(89)) == f"{(str(home / 'bin/nvcc'), None)}\n"
    assert said_by_python(code, **variables, LD_LIBRARY_PATH="") == "('', None)\n"
    (tmp_path / "site/nvidia/cudnn/lib/libcudnn.so.9").unlink()
    said = said_by_python(code, **variables, **driver(89))
    assert said.startswith("('', ") and "is gone (`styleblend doctor cuda` makes a CUDA home" in said


def test_a_toolkit_that_the_driver_does_not_run_is_passed_over(machine, tmp_path, monkeypatch, capsys):
    """CUDA's own error would come from within Jittor, and name no cure. A home that is there stays."""
    cache = machine("13.0", CUDNN_9, cub="cccl/cub/cub.cuh")
    older = cuda_home.toolkit_of(toolkit(tmp_path / "older", "12.2", "cub/cub.cuh") / "bin" / "nvcc")
    newer = cuda_home.toolkit_of(tmp_path / "cuda" / "bin" / "nvcc")
    home, taken = make_home(cache, among=[newer, older], driver="12.4")
    assert taken == older
    monkeypatch.setattr(environment, "own_cache", lambda: cache)
    monkeypatch.setattr(doctor_cuda, "cards", lambda: [Card("a card", 89, 8 << 30)])
    monkeypatch.setattr(doctor_cuda, "driver_version", lambda: "12.4")
    monkeypatch.setattr(cuda_home, "toolkits", lambda wheels: [newer])
    assert doctor_cuda.run_doctor_cuda() == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "CUDA 13, and the driver runs CUDA up to 12.4" in said and "580 or newer" in said
    assert kept_home(cache) == (home, None)


def test_one_operator_of_each_kind_against_numpy():
    """As `doctor cuda` runs it on a card; here on the CPU."""
    run = subprocess.run([sys.executable, "-m", "styleblend.kernels.check"], cwd=ROOT, capture_output=True, text=True)
    said = run.stdout.splitlines()
    assert run.returncode == 0 and len(said) >= 10 and all(line.startswith("ok ") for line in said), run.stdout
