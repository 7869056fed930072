"""First contact: the traps of Jittor's first import, each met for real in a process of its own."""
from __future__ import annotations

import fcntl
import getpass
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from styleblend.machine import environment
from styleblend.errors import StyleBlendError

ROOT = Path(__file__).parents[2]
COMPUTE = "from styleblend.machine.runtime import jt, device; print(device(), (jt.ones(2) + 1).numpy().tolist())"


def run_python(code: str, **env: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter in the project folder, without what this process has set for Jittor."""
    clean = {key: value for key, value in os.environ.items()
             if key not in (*environment.DEFAULTS, "nvcc_path", "python_config_path", "log_silent", "cc_path")}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**clean, **env},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write_program(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def make_site(folder: Path, name: str, version: str) -> Path:
    """A folder for PYTHONPATH in which a package has that version, as far as its metadata goes."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def test_an_nvcc_without_toolkit_does_not_abort_the_import(tmp_path):
    write_program(tmp_path / "bin" / "nvcc", "echo 'Cuda compilation tools, release 12.2, V12.2.140'\n")
    result = run_python(COMPUTE, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert result.returncode == 0, result.stderr
    assert "[2.0, 2.0]" in result.stdout


def test_an_empty_variable_is_none_at_all(tmp_path):
    """Also where Jittor would take it for a path."""
    empty = dict.fromkeys(environment.UNSET_IF_EMPTY, "")
    result = run_python(COMPUTE, **{**empty, "HOME": os.environ["HOME"]})
    assert (result.returncode, result.stdout) == (0, "cpu [2.0, 2.0]\n"), result.stderr
    code = "import os; from styleblend.machine.environment import *; prepare_environment(); print(os.environ['HOME'])"
    assert run_python(code, **empty).stdout.strip() == os.path.expanduser("~" + getpass.getuser())


@pytest.mark.parametrize("cuda, given, name", [
    (False, {}, "styleblend"), (True, {}, "styleblend-cuda"), (False, {"cache_name": "styleblend-cuda"}, "styleblend"),
    (True, {"cache_name": "styleblend-cuda"}, "styleblend-cuda"), (True, {"cache_name": "mine"}, "mine-cuda")], ids=str)
def test_a_card_has_a_cache_of_its_own(tmp_path, cuda, given, name):
    """Jittor would look for its core in the CPU's cache first, and no command could use the card any more.

    A process may have been started by one that has the card.
    """
    nvcc = str(write_program(tmp_path / ".cache" / "styleblend" / "cuda" / "bin" / "nvcc", "")) if cuda else ""
    code = ("from styleblend.machine.environment import prepare_environment; prepare_environment()\n"
            "import os; print(os.environ['cache_name'])")
    variables = {"HOME": str(tmp_path), "JITTOR_HOME": str(tmp_path), **given}
    assert run_python(code, nvcc_path=nvcc, **variables).stdout == name + "\n"


def test_who_keeps_to_the_cpu_does_not_load_cuda(monkeypatch):
    """What a home holds may not fit the driver."""
    monkeypatch.setenv("use_cuda", "0")
    monkeypatch.setenv("nvcc_path", "/nowhere/nvcc")
    assert environment.choose_nvcc() == ("", None)


def test_who_asks_for_a_card_where_there_is_none_is_told():
    """Jittor would end the process without a word that helps."""
    said = run_python(COMPUTE, CUDA_VISIBLE_DEVICES="", use_cuda="1").stderr
    assert "use_cuda=1 asks for a card, and Jittor can use none" in said and "unset use_cuda" in said


def test_hidden_gpus_mean_cpu():
    result = run_python(COMPUTE, CUDA_VISIBLE_DEVICES="")
    assert (result.returncode, result.stdout) == (0, "cpu [2.0, 2.0]\n"), result.stderr


def test_import_is_quiet_and_leaves_torch_and_https_alone():
    code = ("import ssl, signal; before = ssl._create_default_https_context\n" + COMPUTE + "\n"
            "import sys; assert 'torch' not in sys.modules\n"
            "assert ssl._create_default_https_context is before\n"
            "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n")
    run_python(COMPUTE)  # compiles what is not compiled yet
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1 and result.stderr == ""


def test_who_waits_for_another_first_import_has_no_lock_of_jittors_meanwhile(tmp_path):
    """Jittor lets go of its lock while it compiles itself, and wants it back: else both would wait for ever."""
    cache = tmp_path / ".cache" / "jittor"
    cache.mkdir(parents=True)
    ours = {key: value for key, value in os.environ.items() if key not in environment.DEFAULTS}
    start = dict(cwd=ROOT, text=True, env={**ours, "HOME": str(tmp_path)}, stderr=subprocess.PIPE)
    with open(cache / "styleblend.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with subprocess.Popen([sys.executable, "-c", "import styleblend.machine.runtime"], **start) as waits:
            assert "waiting for process" in waits.stderr.readline()
            with open(next(cache.rglob("jittor.lock"))) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            waits.kill()


def test_the_error_path_of_jittors_logger_still_raises():
    code = ("from styleblend.machine.runtime import jt\nfrom jittor.compile_extern import search_file\n"
            "search_file(['/nowhere'], 'libnothing.so')")
    result = run_python(code)
    assert result.returncode != 0 and "libnothing.so not found" in result.stderr


def test_ctrl_c_is_a_keyboard_interrupt():
    code = ("from styleblend.machine.runtime import jt\nimport os, signal\n"
            "try:\n    os.kill(os.getpid(), signal.SIGINT); signal.pause()\n"
            "except KeyboardInterrupt:\n    print('cleaned up')")
    assert run_python(code).stdout == "cleaned up\n"


def test_the_import_leaves_no_process_behind_and_sigterm_alone():
    """Jittor's compilers wait in a pool; one that Ctrl-C of a terminal ends would take the pool's lock with it."""
    code = ("import os, signal\nmine = lambda number, frame: None\nsignal.signal(signal.SIGTERM, mine)\n"
            "from styleblend.machine.runtime import jt\nassert signal.getsignal(signal.SIGTERM) is mine\n"
            "assert open(f'/proc/self/task/{os.getpid()}/children').read() == ''\n")
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_a_wrong_nvcc_path_of_the_user_is_named():
    result = run_python(COMPUTE, nvcc_path="/nowhere/nvcc")
    assert "StyleBlendError: nvcc_path names /nowhere/nvcc" in result.stderr


def test_numpy_2_is_refused_before_jittor_is_imported(tmp_path):
    site = make_site(tmp_path, "numpy", "2.1.0")
    result = run_python(COMPUTE, PYTHONPATH=str(site))
    assert "NumPy 1 is needed, found 2.1.0" in result.stderr and "pip install 'numpy<2'" in result.stderr


def test_an_older_jittor_is_refused(tmp_path):
    site = make_site(tmp_path, "jittor", "1.3.9.5")
    result = run_python(COMPUTE, PYTHONPATH=str(site))
    assert "Jittor 1.3.11 is needed, found 1.3.9.5" in result.stderr


def test_a_missing_compiler_is_named(tmp_path):
    result = run_python(COMPUTE, PATH=str(tmp_path))
    assert "StyleBlendError: the C++ compiler g++ is missing: type `sudo apt install g++`." in result.stderr


def test_missing_onednn_is_named(tmp_path):
    """An empty home (no unpacked oneDNN) and an interpreter that does not see jittor-offline."""
    code = ("import importlib.util as util; find = util.find_spec\n"
            "util.find_spec = lambda name: None if name == 'jittor_offline' else find(name)\n" + COMPUTE)
    result = run_python(code, HOME=str(tmp_path), JITTOR_HOME="")
    assert "type `pip install jittor-offline`" in result.stderr


def run_bare(*arguments: str) -> subprocess.CompletedProcess:
    """-S: an interpreter that sees no installed package."""
    return subprocess.run([sys.executable, "-S", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"})


@pytest.mark.parametrize("command", [
    ("test.py",), ("test.py", "--styles", "fxemoji"),
    ("-m", "styleblend", "generate", "--style", "fxemoji", "--prompt", "A cat")])
def test_without_packages_one_sentence_says_what_to_type(command):
    result = run_bare(*command)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert re.search(r"the Python package \w+ is not installed: type `pip install -r requirements.txt`", result.stderr)


def test_a_part_of_the_project_that_is_missing_is_no_package():
    with pytest.raises(ModuleNotFoundError):
        environment.missing_package(ModuleNotFoundError("No module named 'styleblend.x'", name="styleblend.x"))


def test_who_imports_jittor_first_has_the_say_over_its_flags():
    """As with a JDiffusion pipeline in memory; has_cuda stands for a GPU, whose flag is 0 until somebody sets it."""
    code = ("from styleblend.machine.environment import prepare_environment; prepare_environment()\n"
            "import jittor; jittor.has_cuda = 1\nimport styleblend.machine.runtime as runtime\n"
            "assert runtime.jt.flags.use_cuda == 0\n")
    result = run_python(code, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr


@pytest.fixture
def driver(tmp_path):
    """Makes a libcuda.so.1 whose cuInit gives a number, and returns the variable with which it is found."""
    def make(code: int, count: int = 1) -> dict[str, str]:
        source = tmp_path / "driver.cc"
        source.write_text('extern "C" { int cuInit(unsigned) { return %d; } '
                          'int cuDeviceGetCount(int* n) { *n = %d; return 0; } }' % (code, count))
        subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(tmp_path / "libcuda.so.1")], check=True)
        return {"LD_LIBRARY_PATH": str(tmp_path), "CUDA_HOME": "/nowhere", "PATH": "/usr/bin:/bin"}
    return make


CPU_REASON = "from styleblend.machine.environment import cpu_reason; print(cpu_reason())"


@pytest.mark.parametrize("code, words", [(0, "no CUDA toolkit"), (100, "the driver offers none"),
                                         (803, "restart the machine"), (999, "cuInit error 999")])
def test_a_driver_that_does_not_start_is_named(driver, tmp_path, code, words):
    places = ("/usr/local/cuda/bin/nvcc", "/usr/bin/nvcc", "/opt/cuda/bin/nvcc")
    if code == 0 and any(os.path.isfile(place) for place in places):
        pytest.skip("there is a CUDA toolkit here")
    result = run_python(CPU_REASON, **driver(code), JITTOR_HOME=str(tmp_path))
    assert words in result.stdout, result.stderr


def test_nothing_is_wrong_with_a_hidden_gpu_or_none(driver):
    code = "from styleblend.machine.environment import choose_nvcc, gpus_found; print(gpus_found(), choose_nvcc())"
    assert run_python(code, **driver(100)).stdout == "(0, None) ('', None)\n"


@pytest.mark.parametrize("setting", [{"nvcc_path": ""}, {"use_cuda": "0"}])
def test_who_wants_the_cpu_gets_it(driver, setting):
    assert "the environment says so" in run_python(CPU_REASON, **driver(0), **setting).stdout


def test_mpirun_is_refused():
    assert "mpirun is not supported" in run_python(COMPUTE, OMPI_COMM_WORLD_SIZE="2").stderr


def test_python_config_names_folders_with_python_h(tmp_path):
    script = environment.write_python_config(tmp_path / "with space")

    def answer(question: str) -> list[str]:
        said = subprocess.run([str(script), question], stdout=subprocess.PIPE, text=True, check=True).stdout
        return shlex.split(said)

    assert all(flag.startswith("-I") for flag in answer("--includes"))
    assert any((Path(flag[2:]) / "Python.h").is_file() for flag in answer("--includes"))
    assert answer("--extension-suffix") == [sysconfig.get_config_var("EXT_SUFFIX")]
    assert os.access(script, os.X_OK) and list(script.parent.iterdir()) == [script]


def test_an_unchanged_python_config_is_not_written_again(tmp_path):
    script = environment.write_python_config(tmp_path)
    before = script.stat()
    assert environment.write_python_config(tmp_path) == script
    assert (script.stat().st_ino, script.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("parts, problem", [
    ((), "without the CUDA libraries"),
    (("lib64/libcudart.so", "include/cuda_runtime.h", "include/cuda.h=13000"), "CUDA 13"),
    (("lib64/libcudart.so", "include/cuda_runtime.h", "include/cuda.h=12020"), "cuDNN 8 is missing"),
    (("lib64/libcudart.so", "include/cuda_runtime.h", "include/cuda.h=12020", "lib64/libcudnn_ops_infer.so",
      "lib64/libcudnn_cnn_infer.so", "lib64/libcudnn_cnn_train.so"), None),
])
def test_what_a_cuda_toolkit_lacks_is_named(tmp_path, parts, problem):
    installed = [file for pattern in ("libcudnn_*", "*/libcudnn_*") for file in Path("/usr/lib").glob(pattern)]
    if problem and "cuDNN" in problem and installed:
        pytest.skip("cuDNN is in a system folder here, where Jittor finds it too")
    nvcc = write_program(tmp_path / "cuda" / "bin" / "nvcc", "")
    for part in parts:
        name, _, version = part.partition("=")
        path = tmp_path / "cuda" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#define CUDA_VERSION {version}\n")
    found = environment.toolkit_problem(str(nvcc))
    assert found is None if problem is None else problem in found


def test_the_users_nvcc_path_is_left_alone(monkeypatch):
    monkeypatch.setenv("nvcc_path", "")
    assert environment.choose_nvcc() == (None, None)
    monkeypatch.setenv("nvcc_path", "/nowhere/nvcc")
    with pytest.raises(StyleBlendError):
        environment.choose_nvcc()


def test_an_nvcc_path_that_jittor_cannot_use_is_refused(tmp_path, monkeypatch):
    """It would be pages of a compiler's errors. A CUDA home's is what a process hands on to those that it starts."""
    nvcc = write_program(tmp_path / "cuda" / "bin" / "nvcc", "")
    monkeypatch.setenv("nvcc_path", str(nvcc))
    with pytest.raises(StyleBlendError, match="unset nvcc_path.*doctor cuda"):
        environment.choose_nvcc()
    monkeypatch.setattr(environment, "own_cache", lambda: tmp_path)
    assert environment.choose_nvcc() == (None, None)


def test_versions_and_devices():
    code = ("from styleblend.machine.runtime import *\nfrom styleblend.machine import runtime as r\nv = r.versions()\n"
            "assert set(v) == {'styleblend', 'jittor', 'python', 'g++'} and all(v.values()), v\n"
            "r.use_cuda(False); assert r.device() == 'cpu'\n"
            "try: r.use_cuda(True); assert r.device() == 'cuda'\n"
            "except r.StyleBlendError as error: assert not r.jt.has_cuda and 'doctor' in str(error)\n")
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_onednn_is_unpacked_once_and_whole(tmp_path):
    """Into a home with spaces in its path; what a start that was ended has left of it is replaced."""
    home = tmp_path / "a home"
    home.mkdir()
    code = ("import os; from styleblend.machine.onednn import unpack_onednn as u; from styleblend.machine import "
            "environment as e; u(); print(e.onednn_ready(), sorted(os.listdir(e.jittor_cache() / 'mkl')))")
    said = run_python(code, HOME=str(home), JITTOR_HOME=str(home)).stdout
    assert re.fullmatch(r"True \['dnnl_lnx_[\w.]+'\]\n", said)
    library = next(home.rglob("libmkldnn.so"))
    whole = library.stat().st_mtime_ns
    assert run_python(code, HOME=str(home), JITTOR_HOME=str(home)).stdout == said
    assert library.stat().st_mtime_ns == whole
    library.unlink()
    assert run_python(code, HOME=str(home), JITTOR_HOME=str(home)).stdout == said and library.exists()
