"""The worker scripts, started for real with a small program in place of Python."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path):
    """Starts one of the scripts with a program of the given shell text in place of Python."""
    def starter(script: str, program: str, *arguments: str, **env: Optional[str]) -> subprocess.Popen:
        fake = tmp_path / "python"
        fake.write_text("#!/bin/sh\n" + program)
        fake.chmod(0o755)
        clean = {key: value for key, value in os.environ.items() if key not in ("WORKERS", "OMP_NUM_THREADS")}
        variables = {**clean, "CUDA_VISIBLE_DEVICES": "", "PYTHON": str(fake), **env}
        return subprocess.Popen(["bash", str(ROOT / "scripts" / script), *arguments], text=True, cwd=tmp_path,
                                env={key: value for key, value in variables.items() if value is not None},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return starter


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)


ECHO = 'printf "<%s>" "$@"; echo " omp=$OMP_NUM_THREADS gpu=$CUDA_VISIBLE_DEVICES in $(basename "$PWD")"\n'


def test_one_worker_gets_the_arguments_unchanged(start):
    out, _ = start("test.sh", ECHO, "--prompts", "Cat, Dog").communicate()
    assert out == f"<test.py><--prompts><Cat, Dog><--shard><1/1> omp= gpu= in {ROOT.name}\n"


def test_cpu_workers_share_the_cores_and_the_work(start):
    process = start("test.sh", ECHO, WORKERS="2")
    lines = sorted(process.communicate()[0].splitlines())
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert lines == [f"[{i} of 2] <test.py><--shard><{i}/2> omp={threads} gpu= in {ROOT.name}" for i in (1, 2)]
    assert process.returncode == 0


def test_one_worker_per_gpu(start):
    out, _ = start("test.sh", ECHO, CUDA_VISIBLE_DEVICES="0,3", WORKERS="7").communicate()
    assert sorted(out.splitlines()) == [f"[{i} of 2] <test.py><--shard><{i}/2> omp= gpu={gpu} in {ROOT.name}"
                                        for i, gpu in ((1, 0), (2, 3))]


@pytest.mark.parametrize("devices, gpus", [("-1", []), (" ", []), ("0, 2,-1,1", ["0", "2"]),
                                           ("GPU-5a,GPU-7b", ["GPU-5a", "GPU-7b"]),
                                           ("MIG-5a,MIG-7b", ["MIG-5a", "MIG-7b"])])
def test_gpus_are_those_that_cuda_takes(start, devices, gpus):
    out, _ = start("test.sh", ECHO, CUDA_VISIBLE_DEVICES=devices, WORKERS="3").communicate()
    lines = sorted(out.splitlines())
    assert len(lines) == (len(gpus) or 3)
    assert not gpus or [line.split("gpu=")[1].split(" in")[0] for line in lines] == gpus


@pytest.mark.parametrize("answer", [
    "echo 'NVIDIA-SMI has failed because it could not'; echo 'communicate with the driver.'; exit 9",
    "echo 'No devices were found'", "echo 0; exit 9"])
def test_an_error_of_nvidia_smi_is_no_gpu(start, tmp_path, answer):
    program(tmp_path / "bin" / "nvidia-smi", answer)
    out, _ = start("test.sh", ECHO, CUDA_VISIBLE_DEVICES=None, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                   WORKERS="3").communicate()
    assert sorted(line[:8] for line in out.splitlines()) == ["[1 of 3]", "[2 of 3]", "[3 of 3]"] and "gpu= " in out


def test_without_nvidia_smi_the_driver_is_asked(start, tmp_path):
    """As in many containers."""
    source = tmp_path / "driver.cc"
    rest = ("cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDeviceTotalMem_v2")
    source.write_text('extern "C" {\nint cuInit(unsigned) { return 0; }\n'
                      "int cuDeviceGetCount(int* n) { *n = 2; return 0; }\n"
                      + "".join(f"int {name}(...) {{ return 1; }}\n" for name in rest) + "}")
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(tmp_path / "libcuda.so.1")], check=True)
    ask = f'if [ "$1" = -c ]; then case "$2" in *cards*) exec {sys.executable} "$@" ;; esac; exit 0; fi\n'
    out, _ = start("test.sh", ask + ECHO, CUDA_VISIBLE_DEVICES=None, LD_LIBRARY_PATH=str(tmp_path)).communicate()
    assert sorted(line.split("gpu=")[1].split(" in")[0] for line in out.splitlines()) == ["0", "1"]


def test_gpus_that_jittor_cannot_use_are_cpu_workers(start, tmp_path):
    """Else there would be one process for each of them on the CPU, each with a thread for every core."""
    program(tmp_path / "bin" / "nvidia-smi", "echo 0; echo 1; echo 2")
    process = start("test.sh", 'if [ "$1" = -c ]; then echo "cuDNN 8 is missing" >&2; exit 1; fi\n' + ECHO,
                    CUDA_VISIBLE_DEVICES=None, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", WORKERS="2")
    out, err = process.communicate()
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert err == "Jittor cannot use the GPUs (cuDNN 8 is missing): CPU workers are started.\n"
    assert len(out.splitlines()) == 2 and out.count(f"omp={threads} gpu= ") == 2


def test_the_reason_for_cpu_workers_is_the_programs_own(start, tmp_path):
    program(tmp_path / "bin" / "nvidia-smi", "echo 0; echo 1")
    process = start("test.sh", f'if [ "$1" = -c ]; then exec {sys.executable} "$@"; fi\n' + ECHO, nvcc_path="",
                    CUDA_VISIBLE_DEVICES=None, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert ("Jittor cannot use the GPUs (the environment says so: use_cuda=0 or nvcc_path=''): CPU"
            in process.communicate()[1])


@pytest.mark.parametrize("option", [("--shard", "2/4"), ("--shard=2/4",)])
def test_the_part_of_one_machine_is_shared_by_its_workers(start, option):
    out, _ = start("test.sh", ECHO, "--styles", "00", *option, "--overwrite", WORKERS="3").communicate()
    shards = [f"[{i} of 3] <test.py><--styles><00><--overwrite><--shard><{3 + i}/12>" for i in (1, 2, 3)]
    assert [line.split(" omp")[0] for line in sorted(out.splitlines())] == shards


@pytest.mark.parametrize("part", ["5/4", "0/4", "two", ""])
def test_a_senseless_part_is_refused_as_it_was_typed(start, part):
    process = start("test.sh", ECHO, "--shard", part)
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "") and err.startswith(f"--shard {part} is not a part of the work")


@pytest.mark.parametrize("part", ["coarse", "fine"])
def test_training_workers_all_get_the_same_list(start, part):
    out, _ = start(f"train_{part}_style.sh", ECHO, "--styles", "00,01", WORKERS="3").communicate()
    calls = [line.split("] ")[1].split(" omp")[0] for line in out.splitlines()]
    assert calls == [f"<-m><styleblend><train><{part}><--share><--styles><00,01>"] * 3


def test_a_failed_worker_is_named_and_the_others_finish(start):
    process = start("test.sh", 'case "$*" in *2/3*) exit 5;; esac; sleep 0.3; echo done\n', WORKERS="3")
    out, err = process.communicate()
    assert process.returncode == 5
    assert err == "worker 2 of 3 failed with exit code 5\n"
    assert out.count("done") == 2


BROKEN = """case $CUDA_VISIBLE_DEVICES in 1|4) echo broken; exit 5 ;; esac
""" + ECHO  # the cards 1 and 4


def test_the_share_of_a_broken_card_goes_to_the_others(start):
    """Two cards break, one works: it draws the three shares, one after the other."""
    process = start("test.sh", BROKEN, CUDA_VISIBLE_DEVICES="1,3,4")
    out, err = process.communicate()
    drawn = [(line.split("--shard><")[1].split(">")[0], line.split("gpu=")[1].split()[0])
             for line in out.splitlines() if "--shard" in line]
    assert drawn == [("2/3", "3"), ("1/3", "3"), ("3/3", "3")]
    assert err.splitlines() == ["worker 1 of 3 (GPU 1) failed with exit code 5",
                                "worker 3 of 3 (GPU 4) failed with exit code 5",
                                "the share of worker 1 of 3 goes to GPU 3", "the share of worker 3 of 3 goes to GPU 3"]
    assert process.returncode == 0


def test_a_share_that_fails_on_every_card_fails_the_script(start):
    """So does all that the user should mend (exit code 2), at once."""
    process = start("test.sh", 'case "$*" in *2/2*) exit 5 ;; esac', CUDA_VISIBLE_DEVICES="0,1")
    assert process.communicate()[1].splitlines() == [
        "worker 2 of 2 (GPU 1) failed with exit code 5", "the share of worker 2 of 2 goes to GPU 0",
        "worker 2 of 2 (GPU 0) failed with exit code 5"]
    assert process.returncode == 5
    process = start("test.sh", 'case "$*" in *2/2*) exit 2 ;; esac', CUDA_VISIBLE_DEVICES="0,1")
    assert process.communicate()[1] == "worker 2 of 2 (GPU 1) failed with exit code 2\n"
    assert process.returncode == 2


def test_a_single_failed_worker_fails_the_script(start):
    process = start("test.sh", "exit 2\n")
    assert process.communicate()[1] == "worker 1 of 1 failed with exit code 2\n"
    assert process.returncode == 2


def test_a_senseless_number_of_workers_is_refused(start):
    process = start("test.sh", ECHO, WORKERS="many")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "") and "WORKERS=many" in err


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("stop, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_the_script_stops_workers_and_their_children(start, tmp_path, workers, stop, code):
    process = start("test.sh", f'sleep 60 & echo $! >> "{tmp_path}/pids"; wait\n', WORKERS=workers)
    deadline = time.monotonic() + 10
    pids = tmp_path / "pids"
    while not pids.is_file() or len(pids.read_text().split()) < int(workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(stop)
    process.communicate(timeout=10)
    assert process.returncode == code
    for pid in pids.read_text().split():
        for _ in range(100):  # a killed child is gone once its new parent has noticed
            state = Path(f"/proc/{pid}/stat")
            if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                break
            time.sleep(0.02)
        else:
            pytest.fail(f"process {pid} is still running")


@pytest.mark.parametrize("workers", ["1", "3"])
@pytest.mark.parametrize("stop, code", [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_workers_end_in_their_own_time_and_are_heard(start, tmp_path, workers, stop, code):
    """A training that is told to stop ends its step, saves, and says how to go on; the script stays until then."""
    worker = tmp_path / "worker.py"
    worker.write_text(f"""import os, signal, subprocess, sys, time
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
child = subprocess.Popen(["sleep", "2"])  # a compiler, which the step needs
open({str(tmp_path)!r} + f"/ready-{{os.getpid()}}", "w").close()
child.wait()
print("the child ended with", child.returncode, file=sys.stderr, flush=True)
open({str(tmp_path)!r} + f"/saved-{{os.getpid()}}", "w").close()
print("start again", file=sys.stderr)
sys.exit(130 if stopped else 0)
""")
    process = start("train_fine_style.sh", f"exec {sys.executable} {worker}", WORKERS=workers)
    deadline = time.monotonic() + 20
    while len(list(tmp_path.glob("ready-*"))) < int(workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(stop)
    process.wait(timeout=20)
    assert process.returncode == code and len(list(tmp_path.glob("saved-*"))) == int(workers)
    out, err = process.communicate()
    assert (out + err).count("start again") == (out + err).count("the child ended with 0") == int(workers)
    assert "failed" not in err


def test_a_second_signal_reaches_the_workers_too(start, tmp_path):
    process = start("test.sh", f'trap "echo asked" TERM; touch "{tmp_path}/ready"; '
                               'while sleep 0.05; do :; done &\nwait; wait; exit 130\n')
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    out, _ = process.communicate(timeout=10)
    assert (out.count("asked"), process.returncode) == (2, 130)


@pytest.mark.parametrize("script", ["workers.sh", "test.sh", "train_coarse_style.sh", "train_fine_style.sh"])
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / script)], check=True)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_names_a_missing_compiler(tmp_path):
    for tool in ("make", "sh"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    result = subprocess.run(["make", "tools", f"PYTHON={sys.executable}"], cwd=ROOT, env={"PATH": str(tmp_path)},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2 and "sudo apt install g++" in result.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_refuses_another_python(tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    result = subprocess.run(["make", "tools", f"PYTHON={other}"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2 and "is not a Python 3.9 to 3.12" in result.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
@pytest.mark.parametrize("own", [False, True])
def test_make_makes_the_environment_of_another_python_anew_but_not_somebodys_own(tmp_path, own):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).touch()
    old = tmp_path / ".venv"
    (old / "lib" / "python3.0").mkdir(parents=True)
    (old / "mine").touch()
    if not own:
        (old / "installed").touch()
    result = subprocess.run(["make", ".venv/installed", f"PYTHON={sys.executable}"], cwd=tmp_path,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if own:
        assert result.returncode == 2 and "was not made by make" in result.stderr and (old / "mine").exists()
    else:
        assert result.returncode == 0, result.stderr
        assert not (old / "mine").exists() and (old / "installed").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_names_the_package_with_the_venv_module(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    program(tmp_path / "bin" / "python", f'if [ "$1" = -m ]; then exit 1; fi\nexec {sys.executable} "$@"')
    result = subprocess.run(["make", ".venv/installed", f"PYTHON={tmp_path}/bin/python"], cwd=tmp_path,
                            stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2 and "sudo apt install python%d.%d-venv" % sys.version_info[:2] in result.stderr
