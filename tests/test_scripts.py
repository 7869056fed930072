"""The worker scripts, started for real with a small program in place of Python."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def start(tmp_path):
    """Starts one of the scripts with a program of the given shell text in place of Python."""
    def starter(script: str, program: str, *arguments: str, **env: str) -> subprocess.Popen:
        fake = tmp_path / "python"
        fake.write_text("#!/bin/sh\n" + program)
        fake.chmod(0o755)
        clean = {key: value for key, value in os.environ.items() if key not in ("WORKERS", "OMP_NUM_THREADS")}
        return subprocess.Popen(["bash", str(ROOT / "scripts" / script), *arguments], text=True, cwd=tmp_path,
                                env={**clean, "CUDA_VISIBLE_DEVICES": "", "PYTHON": str(fake), **env},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return starter


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
