"""Python in processes of its own, which may be killed."""
from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def children_may_be_killed():
    """Jittor's handler of SIGCHLD ends this process as well when a child is killed."""
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, signal.SIG_DFL if previous is None else previous)


def start(code: str, *arguments) -> subprocess.Popen:
    """A child process with Python code, after its first line of output."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE,
                               text=True)
    assert process.stdout.readline()
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
