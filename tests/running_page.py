"""`styleblend page` as it is started from a shell, in a folder of its own, with the mini base and few steps."""
from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Iterator

import yaml

ROOT = Path(__file__).parents[1]


def few_steps(folder: Path) -> Path:
    """The folder, with a config `few`: the mini base's with few steps."""
    config = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text())
    config["sampling"].update(steps=12, batch=1)
    config["training"].update(sample_prompts=["Rabbit"], dreamstyler_score=None)
    (folder / "configs").mkdir()
    (folder / "configs" / "few.yaml").write_text(yaml.safe_dump(config))
    return folder


def environment() -> dict:
    """In which `python -m styleblend` is this clone, in any folder."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def run_in(folder: Path, *arguments: str) -> None:
    """A command of the program in this folder."""
    subprocess.run([sys.executable, "-m", "styleblend", *arguments], cwd=folder, env=environment(), check=True)


@contextlib.contextmanager
def running_page(folder: Path, *options: str) -> Iterator[str]:
    """The address of a page of the config `few`, such as http://127.0.0.1:54321, while it runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "styleblend", "page", "--config", "few", "--port", str(port),
                                   *options], cwd=folder, env=environment(), stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def wait_for(address: str, server: subprocess.Popen) -> None:
    for _ in range(600):
        assert server.poll() is None
        try:
            urllib.request.urlopen(address, timeout=5).read()
            return
        except urllib.error.HTTPError:
            return  # it wants a password
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the page did not come up")
