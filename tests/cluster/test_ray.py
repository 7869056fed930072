"""A board over two Ray workers on this machine: the same pictures, also when workers are killed in the middle.

`pytest -m slow tests/cluster/test_ray.py`; it needs Ray: pip install "styleblend-jittor[cluster]".
"""
from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='Ray is not installed: pip install "styleblend-jittor[cluster]"')]
PROMPTS = [f"Picture {n}" for n in range(40)]
TRIALS = int(os.environ.get("STYLEBLEND_KILL_TRIALS", "2"))


def start(config: Path, output: Path, *more) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "styleblend", "board", "--config", str(config), "--prompts",
                             ",".join(PROMPTS), "--output", str(output), *more], stderr=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
                            env={**os.environ, "RAY_AUTH_MODE": "disabled"})


def finished(process: subprocess.Popen) -> str:
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    return error


def drawn(output: Path) -> dict:
    return {path.name: np.asarray(Image.open(path), int) for path in (output / "dots").glob("*.png")}


@pytest.fixture
def slowly(trained, tmp_path):
    """The world with so many steps that a picture takes a while."""
    about = yaml.safe_load(trained.read_text())
    about["sampling"].update(steps=12, batch=2)
    trained.write_text(yaml.safe_dump(about))
    return trained


@pytest.fixture
def alone(slowly, tmp_path):
    """What one process draws."""
    finished(start(slowly, tmp_path / "alone"))
    return drawn(tmp_path / "alone")


def below(pid: int) -> list:
    """The processes that a process has started, and theirs: (pid, command)."""
    parents, commands = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, text = int(path.parent.name), path.read_text()
            parents[number] = int(text.rpartition(")")[2].split()[1])
            commands[number] = (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, ValueError):
            continue
    found, front = [], [pid]
    while front:
        front = [child for child, parent in parents.items() if parent in front]
        found += [(child, commands.get(child, "")) for child in front]
    return found


def workers(process: subprocess.Popen) -> list:
    return [pid for pid, command in below(process.pid) if command.startswith("ray::Worker")]


def whole_and_equal(output: Path, alone: dict) -> None:
    """Each picture is there once and is the same; nothing else is."""
    found = drawn(output)
    assert set(found) == set(alone) and len(found) == len(PROMPTS)
    assert max(int(np.abs(found[name] - alone[name]).max()) for name in alone) <= 1
    assert not [path for path in output.rglob("*") if path.name.endswith(".tmp")]


def test_a_board_of_forty_pictures(slowly, tmp_path, alone, report):
    error = finished(start(slowly, tmp_path / "ray", "--cluster", "auto"))
    assert "one is started on this machine" in error
    whole_and_equal(tmp_path / "ray", alone)
    again = finished(start(slowly, tmp_path / "ray", "--cluster", "auto"))
    assert "Ray" not in again  # nothing is missing, so no cluster is asked
    times = {name: [path.stat().st_mtime for path in (tmp_path / name / "dots").glob("*.png")] for name in
             ("alone", "ray")}
    spans = {name: max(found) - min(found) for name, found in times.items()}
    report(f"first to last of forty pictures: one process {spans['alone']:.1f} s, two workers {spans['ray']:.1f} s")


def test_workers_that_are_killed_in_the_middle(slowly, tmp_path, alone, report):
    """kill -9 at other moments in each trial: another worker takes its place, and its pictures are drawn."""
    count = 0
    for trial in range(TRIALS):
        output = tmp_path / f"ray-{trial}"
        process, killed, end = start(slowly, output, "--cluster", "auto"), [], time.monotonic() + 600
        while process.poll() is None and time.monotonic() < end and len(killed) < 2:
            busy = workers(process)
            if busy and len(list((output / "dots").glob("*.png"))) >= 2 + 2 * trial + 8 * len(killed):
                killed.append(busy[trial % len(busy)])
                os.kill(killed[-1], signal.SIGKILL)
            time.sleep(0.05)
        error = finished(process)
        assert killed and "another one takes its place" in error
        whole_and_equal(output, alone)
        count += len(killed)
    report(f"{count} workers were killed in {TRIALS} runs of {len(PROMPTS)} pictures: all whole, none missing")


def test_the_whole_run_is_killed_and_started_again(slowly, tmp_path, alone):
    """As when the head is lost: what is whole is kept, the rest is drawn."""
    process, end = start(slowly, tmp_path / "ray", "--cluster", "auto"), time.monotonic() + 600
    while len(list((tmp_path / "ray" / "dots").glob("*.png"))) < 10 and time.monotonic() < end:
        time.sleep(0.05)
    family = [pid for pid, _ in below(process.pid)]
    for pid in [process.pid, *family]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.communicate()
    before = {path.name: path.read_bytes() for path in (tmp_path / "ray" / "dots").glob("*.png")}
    assert 10 <= len(before) < len(PROMPTS)
    finished(start(slowly, tmp_path / "ray", "--cluster", "auto"))
    whole_and_equal(tmp_path / "ray", alone)
    for name in before:
        assert (tmp_path / "ray" / "dots" / name).read_bytes() == before[name]


def test_pictures_that_are_sent_back(slowly, tmp_path, alone):
    finished(start(slowly, tmp_path / "ray", "--cluster", "auto", "--collect"))
    whole_and_equal(tmp_path / "ray", alone)
