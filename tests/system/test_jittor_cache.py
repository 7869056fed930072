"""Jittor's cache damaged, its lock held, its compiling stopped: each for real, in a copy of the cache."""
from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from own_cache import ENVIRONMENT, ROOT, cache, said  # noqa: F401 (cache is a fixture)
from processes import children_may_be_killed  # noqa: F401 (a fixture works by being here)

COMPUTE = "from styleblend.machine.runtime import jt; print((jt.ones(7) * 3 + 1).numpy().tolist())"
RESULT = "[4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]\n"
DRAW = ("-m", "styleblend", "draw", "--style", "fxemoji", "--prompt", "An anchor", "--steps", "2", "--seed", "3")
STOPPED = "stopped; whole files are kept: start the same command again to go on\n"


@pytest.fixture(scope="module")
def warm(cache):
    """What is computed here is compiled; the operators that it takes, newest first."""
    before = set(cache.code.glob("jit/*_op.so"))
    first = cache.run("-c", COMPUTE)
    assert (first.returncode, first.stdout) == (0, RESULT), first.stderr
    used = set(cache.code.glob("jit/*_op.so")) - before
    return cache, sorted(used or before, key=lambda path: path.stat().st_atime_ns, reverse=True)


@pytest.mark.parametrize("damage", ["cut short", "zeros"])
def test_damaged_operators_are_compiled_again(warm, damage):
    """All of them, since which of them are used is Jittor's to say; a process that ran one would crash."""
    cache, operators = warm
    for path in operators[:3]:
        size = path.stat().st_size
        if damage == "zeros":
            path.write_bytes(bytes(size))
        else:
            os.truncate(path, size // 2)
    result = cache.run("-c", COMPUTE)
    assert (result.returncode, result.stdout) == (0, RESULT), result.stderr
    assert re.search(r"in Jittor's cache (is|are) damaged, as after a power cut .*: compiled again", result.stderr)
    again = cache.run("-c", COMPUTE)
    assert (again.returncode, again.stdout, again.stderr) == (0, RESULT, "")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS])
def test_a_crash_ends_the_process(warm, number):
    """Jittor's own handler waits for threads that wait for it, with its lock in hand."""
    code = f"{COMPUTE}\nimport os; os.kill(os.getpid(), {int(number)})"
    process = warm[0].start("-c", code)
    assert process.communicate(timeout=60)[0] == RESULT and process.returncode == -number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_has_jittors_lock_is_said_and_the_wait_ends_with_ctrl_c(cache, number, tmp_path):
    """Before Jittor is imported; how a wait in C is ended tests/cli/test_watched.py tells."""
    with open(cache.lock, "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = cache.start(*DRAW, "--output", tmp_path / "a.png")
        sentence = said(process, "waiting for")
        assert f"process {os.getpid()} (" in sentence and "since " in sentence and len(sentence) < 240
        process.send_signal(number)
        began = time.monotonic()
        assert process.communicate(timeout=60)[1] == f"styleblend: {STOPPED}" and process.returncode == 130
        assert time.monotonic() - began < 5


def test_doctor_tests_what_is_compiled_and_breaks_no_command(warm):
    cache, operators = warm
    os.truncate(operators[0], 100)
    result = cache.run("-m", "styleblend", "doctor", COLUMNS="80")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "damaged" in result.stdout and "computes on cpu" in result.stdout
    line = next((line for line in result.stdout.splitlines() if "hf download" in line), None)
    if line:  # the full base is not here
        assert line.endswith("--local-dir checkpoints/stable-diffusion-2-1")
    assert not any(len(line) > 80 for line in result.stdout.splitlines() if "->" not in line)
    again = cache.run("-m", "styleblend", "doctor")
    assert re.search(r"compiled code +\d+ files are whole", again.stdout) and "damaged" not in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_operators_compile_and_started_again(cache, number, tmp_path):
    for path in cache.code.glob("jit/*"):
        path.unlink()
    process = cache.start(*DRAW, "--output", tmp_path / "a.png")
    said(process, "drawing")
    time.sleep(3)
    process.send_signal(number)
    began = time.monotonic()
    assert process.communicate(timeout=60)[1].endswith(f"styleblend: {STOPPED}") and process.returncode == 130
    assert time.monotonic() - began < 5
    again = cache.run(*DRAW, "--output", tmp_path / "a.png")
    assert again.returncode == 0 and (tmp_path / "a.png").is_file(), again.stderr


@pytest.mark.slow
def test_two_processes_that_need_the_same_operators_compile_them_once(cache, tmp_path):
    for path in cache.code.glob("jit/*"):
        path.unlink()
    processes = [cache.start(*DRAW, "--output", tmp_path / f"{name}.png") for name in "ab"]
    assert [process.communicate(timeout=300) and process.returncode for process in processes] == [0, 0]
    assert (tmp_path / "a.png").read_bytes()[-300:] == (tmp_path / "b.png").read_bytes()[-300:]


@pytest.mark.slow
def test_a_crash_of_an_operator_whose_damage_does_not_show_is_mended(cache, tmp_path):
    """Zeros in the code, but size and times as recorded, as a failing disk leaves them."""
    import json
    assert cache.run(*DRAW, "--output", tmp_path / "a.png").returncode == 0
    record = cache.code / "compiled.json"
    content = json.loads(record.read_text())
    for name in (name for name in content["files"] if name.endswith("_op.so")):
        with open(cache.code / name, "r+b") as file:
            length = os.fstat(file.fileno()).st_size
            file.seek(4096)
            file.write(bytes(length // 3))
        about = os.stat(cache.code / name)
        content["files"][name][:4] = [about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns]
    record.write_text(json.dumps(content))
    result = cache.run(*DRAW, "--output", tmp_path / "b.png")
    assert result.returncode == 0 and "the program crashed (SIG" in result.stderr, result.stderr
    assert "damaged" in result.stderr and (tmp_path / "b.png").is_file()


@pytest.mark.slow
def test_a_cache_that_was_moved_starts_the_program_again(cache, tmp_path):
    """Jittor rebuilds the part of itself by which it is already running, and asks to be started again."""
    home = tmp_path / "home"
    (home / ".cache").mkdir(parents=True)
    subprocess.run(["cp", "-r", str(cache.folder), str(home / ".cache" / "jittor")], check=True)
    env = {**ENVIRONMENT, "HOME": str(home)}
    process = subprocess.Popen([sys.executable, *DRAW, "--output", str(tmp_path / "a.png")], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    said(process, "Jittor has rebuilt a part of itself: the command starts again")
    time.sleep(5)  # it compiles all of Jittor now
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].endswith(f"styleblend: {STOPPED}") and process.returncode == 130
