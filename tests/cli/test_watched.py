"""The process that looks after a command: exit codes, crashes, signals, locks.

The commands are small, the processes real.
"""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from processes import children_may_be_killed  # noqa: F401 (a fixture works by being here)
from styleblend.machine.compiled_code import CompiledCode

ROOT = Path(__file__).parents[2]
# Waits for a lock in C, where no handler of Python's runs, as Jittor does for its own.
WAIT_IN_C = """
import ctypes, fcntl, struct
from styleblend.cli.stopping import sigterm_as_ctrl_c
lock = open(sys.argv[1], "r+")
request = ctypes.create_string_buffer(struct.pack("hhqqi0q", fcntl.F_WRLCK, 0, 0, 0, 0))
def command(may_ask):
    with sigterm_as_ctrl_c():
        tell("ready")
        assert ctypes.PyDLL(None).fcntl(lock.fileno(), fcntl.F_SETLKW, request) == 0
    return 0
"""
# A compiler at work for it, and a command that waits for that in C.
COMPILE_IN_C = """
import ctypes, subprocess
from styleblend.cli.stopping import sigterm_as_ctrl_c
def command(may_ask):
    compiler = subprocess.Popen(["sleep", "60"])
    with sigterm_as_ctrl_c():
        tell(f"ready {compiler.pid}")
        ctypes.PyDLL(None).waitpid(compiler.pid, None, 0)
    return 0
"""


def start(code: str, *arguments, **env) -> subprocess.Popen:
    """A process that runs `command` of the code, looked after."""
    text = ("import sys\nfrom styleblend.cli import watched\nfrom styleblend.cli.watched import tell\n"
            f"watched.PATIENCE = 0.5\n{code}\nsys.exit(watched.watched(command, 'stopped by you'))")
    return subprocess.Popen([sys.executable, "-c", text, *map(str, arguments)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env})


def run(code: str, *arguments, **env) -> tuple:
    process = start(code, *arguments, **env)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def line(process: subprocess.Popen, words: str) -> str:
    """The next line on stderr that has these words."""
    for text in process.stderr:
        if words in text:
            return text
    pytest.fail(f"ended without saying {words!r}")


def child_of(process: subprocess.Popen) -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may still be in the list as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


@pytest.mark.parametrize("code, expected", [
    ("command = lambda may_ask: print('hello') or 0", (0, "hello\n", "")),
    ("command = lambda may_ask: 3", (3, "", "")),
    ("command = lambda may_ask: sys.exit('no')", (1, "", "no\n"))])
def test_output_and_exit_code_are_the_commands(code, expected):
    assert run(code) == expected


def test_started_again_once():
    """And told the second time that there is no third."""
    code = ("from styleblend.errors import StartAgain\ndef command(may_ask):\n    print(may_ask)\n"
            "    if may_ask:\n        raise StartAgain('a part was rebuilt: type it again')\n    return 5")
    assert run(code) == (5, "True\nFalse\n", "styleblend: a part was rebuilt: the command starts again\n")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_a_crash_is_a_sentence(number, tmp_path):
    code, out, err = run(f"import os\ncommand = lambda may_ask: os.kill(os.getpid(), {int(number)})",
                         HOME=str(tmp_path), JITTOR_HOME="")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert number.name in err and f"delete the folder {tmp_path}/.cache/jittor" in err


def test_a_crash_because_of_damage_is_mended_and_started_again(tmp_path):
    """Zeros in an operator whose size and times are right: only its checksum tells."""
    folder = tmp_path / ".cache" / "jittor" / "jt1" / "g++" / "styleblend"
    operator = folder / "jit" / "mul_op.so"
    operator.parent.mkdir(parents=True)
    (tmp_path / "a.cc").write_text("int f() { return 1; }")
    subprocess.run(["g++", "-shared", "-fPIC", str(tmp_path / "a.cc"), "-o", str(operator)], check=True)
    Path(f"{operator}.key").write_text("g++")
    CompiledCode(folder).record()
    with open(operator, "r+b") as file:
        file.seek(64)
        file.write(bytes(64))
    code = ("import os\n"
            f"command = lambda may_ask: os.kill(os.getpid(), 11) if os.path.exists({str(operator)!r}) else 7")
    result, _, err = run(code, HOME=str(tmp_path), JITTOR_HOME="")
    assert result == 7 and "mul_op.so in Jittor's cache is damaged" in err and err.count("\n") == 1


def test_killed_for_its_memory():
    code, _, err = run("import os\ncommand = lambda may_ask: os.kill(os.getpid(), 9)")
    assert code == 137 and "--max-memory" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_hears_ends_by_itself(number):
    """It sleeps in pieces: a signal that comes just before a sleep begins is heard when that sleep ends."""
    process = start("import time\nfrom styleblend.cli.stopping import sigterm_as_ctrl_c\ndef command(may_ask):\n"
                    "    try:\n        with sigterm_as_ctrl_c():\n            tell('ready')\n"
                    "            while True:\n                time.sleep(0.1)\n"
                    "    except KeyboardInterrupt:\n        tell('saved')\n        return 130")
    line(process, "ready")
    process.send_signal(number)
    assert process.communicate(timeout=20)[1] == "styleblend: saved\n" and process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_has_the_lock_is_said_and_the_wait_can_be_stopped(number, tmp_path):
    path = tmp_path / "jittor.lock"
    path.touch()
    code = ("import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); "
            "print('has it', flush=True); sys.stdin.read()")
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True)
    holder.stdout.readline()
    process = start(WAIT_IN_C, path)
    said = line(process, "waiting")
    assert f"process {holder.pid} (" in said and ", since " in said and "Ctrl-C" in said and len(said) < 240
    process.send_signal(number)
    assert process.communicate(timeout=20)[1].endswith("stopped by you\n") and process.returncode == 130
    process = start(WAIT_IN_C, path)
    line(process, "waiting")
    holder.communicate("")  # lets go of it
    assert process.wait(timeout=20) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_compilers_are_at_work_nothing_is_left_of_them(number):
    process = start(COMPILE_IN_C)
    compiler = int(line(process, "ready").split()[-1])
    time.sleep(0.5)  # it waits in C then
    process.send_signal(number)
    assert process.communicate(timeout=20)[1] == "styleblend: stopped by you\n"
    assert process.returncode == 130 and gone(compiler)


def test_ctrl_c_in_a_terminal_does_not_reach_the_compilers():
    """The terminal sends it to the whole group; an operator that it met would be an error, not an operator."""
    process = start(COMPILE_IN_C)
    compiler = int(line(process, "ready").split()[-1])
    assert os.getpgid(compiler) == os.getpgid(child_of(process)) != os.getpgid(process.pid)
    process.terminate()
    process.communicate(timeout=20)


def test_the_command_ends_with_the_process_that_looks_after_it():
    process = start("import time\ndef command(may_ask):\n    tell('ready')\n    time.sleep(60)")
    line(process, "ready")
    child = child_of(process)
    process.kill()
    process.communicate(timeout=20)
    assert gone(child)


def test_ctrl_z_stops_both_and_both_go_on():
    process = start("import time\ndef command(may_ask):\n    tell('ready')\n    time.sleep(1.5)\n    return 4")
    line(process, "ready")
    child = child_of(process)
    process.send_signal(signal.SIGTSTP)
    deadline = time.monotonic() + 10
    while not all(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
                  for pid in (process.pid, child)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=20) == 4
