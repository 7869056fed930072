"""The program where people have it.

Homes that cannot be written, odd paths, languages, variables, users without a name.
"""
from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from own_cache import ENVIRONMENT, ROOT, cache, said  # noqa: F401 (cache is a fixture)
from processes import children_may_be_killed  # noqa: F401 (a fixture works by being here)

DRAW = ("-m", "styleblend", "draw", "--style", "fxemoji", "--prompt", "An anchor", "--steps", "2", "--seed", "3")
# A user whom the system does not know, and to whom the rights on files apply, also where the tests run as root
NOBODY = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]


def as_nobody(*arguments, home: str | None) -> subprocess.CompletedProcess:
    env = {key: value for key, value in ENVIRONMENT.items() if key not in ("HOME", "JITTOR_HOME")}
    return subprocess.run([*NOBODY, sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.PIPE, env={**env, **({} if home is None else {"HOME": home})}, timeout=60)


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    if shutil.which("unshare") is None or subprocess.run([*NOBODY, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("users have no namespaces here")


def read_only(home: Path) -> str:
    home.chmod(0o555)
    return "cannot be written"


def a_part_of_it_read_only(home: Path) -> str:
    """As after a run with sudo: Jittor's folder is the user's, what is in it is not."""
    from jittor_utils import get_jittor_version
    folder = home / ".cache" / "jittor" / ("jt" + get_jittor_version().rsplit(".", 1)[0])
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    return "Permission denied"


def a_file(home: Path) -> str:
    home.rmdir()
    home.write_text("")
    return "is no folder"


def a_damaged_note(home: Path) -> str:
    (home / ".cache" / "jittor").mkdir(parents=True)
    (home / ".cache" / "jittor" / "config.json").write_text('{"JITTOR_H')
    return "config.json"


def a_note_that_is_none(home: Path) -> str:
    (home / ".cache" / "jittor").mkdir(parents=True)
    (home / ".cache" / "jittor" / "config.json").write_text("[]")
    return "config.json"


HOMES = [read_only, a_part_of_it_read_only, a_file, a_damaged_note, a_note_that_is_none]


@pytest.mark.parametrize("make", HOMES, ids=lambda make: make.__name__)
def test_a_home_that_cannot_be_used_is_named_with_what_to_do(make, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    words = make(home)
    result = as_nobody(*DRAW, "--output", tmp_path / "a.png", home=str(home))
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("styleblend: ") and result.stderr.count("\n") == 1
    assert len(result.stderr) < 240 + len(str(home))
    assert words in result.stderr and str(home) in result.stderr
    assert "HOME" in result.stderr or "delete" in result.stderr


def test_a_user_without_a_home_and_a_name():
    """As containers are started with --user 12345: the home is /."""
    if os.access("/", os.W_OK):  # root's machine: it would be written to
        code = ("from styleblend.machine import environment as e; print(e.home_folder(), e.jittor_cache()); "
                "e.prepare_environment(); import os; print(os.environ['HOME'])")
        assert as_nobody("-c", code, home=None).stdout == "/ /.cache/jittor\n/\n"
    else:
        result = as_nobody(*DRAW, home=None)
        assert result.returncode == 2 and "set HOME to a folder of yours" in result.stderr


@pytest.mark.parametrize("letter", ["'", '"', "$", "`"])
def test_a_home_that_breaks_jittors_commands_is_refused(letter, tmp_path):
    home = tmp_path / f"o{letter}brien"
    home.mkdir()
    result = subprocess.run([sys.executable, *DRAW], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**ENVIRONMENT, "HOME": str(home), "JITTOR_HOME": ""})
    assert result.returncode == 2 and "set HOME to another folder" in result.stderr and not any(home.iterdir())


def test_a_disk_that_is_nearly_full_is_named_before_anything_is_compiled(tmp_path):
    code = f"mount -t tmpfs -o size=4m tmpfs {tmp_path} && exec \"$@\""
    result = subprocess.run(["unshare", "-rm", "sh", "-c", code, "sh", sys.executable, *DRAW], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**ENVIRONMENT, "HOME": str(tmp_path), "JITTOR_HOME": ""})
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert f"the disk of {tmp_path} has only 4 MB left" in result.stderr


def test_odd_surroundings_all_at_once(cache, tmp_path):
    """No language, optimised Python, another package named utils, a link to the project's folder, and no HOME.

    Some operators are compiled in it.
    """
    for path in sorted(cache.code.glob("jit/*matmul*"))[:6]:
        path.unlink()
    (tmp_path / "path" / "utils").mkdir(parents=True)
    (tmp_path / "path" / "utils" / "__init__.py").write_text("raise RuntimeError('the wrong utils')")
    (tmp_path / "link").symlink_to(ROOT)
    home_known = Path.home() == Path(os.path.expanduser(f"~{Path.home().owner()}"))
    env = {"LC_ALL": "C", "PYTHONOPTIMIZE": "1", "PYTHONPATH": str(tmp_path / "path"), "PWD": str(tmp_path / "link")}
    command = cache.command("-O", *DRAW, "--output", tmp_path / "画 a.png")
    if home_known and "JITTOR_HOME" not in os.environ:
        command = ["env", "-u", "HOME", *command]
    result = subprocess.run(command, cwd=tmp_path / "link", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**ENVIRONMENT, **env}, encoding="utf-8", timeout=300)
    assert result.returncode == 0, result.stderr
    plain = cache.run(*DRAW, "--output", tmp_path / "b.png")
    assert plain.returncode == 0, plain.stderr
    from PIL import Image
    assert Image.open(tmp_path / "画 a.png").tobytes() == Image.open(tmp_path / "b.png").tobytes()


@pytest.mark.slow
def test_first_starts_in_a_path_with_spaces(tmp_path):
    """From nothing, in a clone and a home with spaces and Chinese letters, with little room for temporary files.

    The first start is stopped while Jittor compiles itself, then two are made at once: one compiles, the other says for
    whom it waits. Takes ten minutes. -O0: that is a third of the time.
    """
    project, home, temporary = tmp_path / "我的 project" / "style blend", tmp_path / "主 home", tmp_path / "tmp"
    for folder in (project, home, temporary):
        folder.mkdir(parents=True)
    for part in ("styleblend", "configs", "checkpoints"):
        shutil.copytree(ROOT / part, project / part)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(project / ".venv")], check=True)
    packages = next((project / ".venv" / "lib").glob("python*/site-packages"))
    installed = Path(importlib.util.find_spec("jittor").origin).parents[1]
    for package in installed.glob("jittor*"):
        shutil.copytree(package, packages / package.name)
    (packages / "others.pth").write_text(str(installed))
    env = {**ENVIRONMENT, "HOME": str(home), "JITTOR_HOME": "", "TMPDIR": str(temporary), "LC_ALL": "C",
           "cc_flags": "-O0"}
    mount = f"mount -t tmpfs -o size=64m tmpfs '{temporary}' && exec \"$@\""

    def start(picture: str) -> subprocess.Popen:
        return subprocess.Popen(["unshare", "-rm", "sh", "-c", mount, "sh", str(project / ".venv" / "bin" / "python"),
                                 *DRAW, "--output", str(tmp_path / picture)], cwd=project, env=env,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")

    first = start("a.png")
    said(first, "Jittor compiles itself now")
    time.sleep(20)
    first.send_signal(signal.SIGINT)
    assert "start the same command again" in first.communicate(timeout=30)[1] and first.returncode == 130
    second, third = start("画 b.png"), start("c.png")
    texts = [process.communicate(timeout=1800)[1] for process in (second, third)]
    assert [second.returncode, third.returncode] == [0, 0], texts
    assert sum("waiting for process" in text for text in texts) >= 1
    assert (tmp_path / "画 b.png").is_file() and (tmp_path / "c.png").is_file()
