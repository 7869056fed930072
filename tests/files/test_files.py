"""Files whole or not at all, full disks and read-only folders."""
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from processes import ROOT, children_may_be_killed, kill, start  # noqa: F401 (a fixture works by being here)
from styleblend.cli import main
from styleblend.files.whole_files import remove_unfinished, write_bytes
from styleblend.files.pictures import is_whole

# writes until it is killed: two letters in turn, so that a torn file would be neither
WRITE = ("import sys\nfrom styleblend.files.whole_files import write_bytes\nfor i in range(10 ** 9):\n"
         "    write_bytes(sys.argv[1], b'ab'[i % 2:][:1] * 3_000_000)\n    print(i, flush=True)")


def test_a_killed_writer_leaves_the_whole_file_and_its_rest_is_removed(tmp_path):
    path, left = tmp_path / "file", 0
    rng = np.random.default_rng(1)
    for _ in range(6):
        process = start(WRITE, path)
        time.sleep(rng.uniform(0, 0.03))
        kill(process)
        data = path.read_bytes()
        assert data in (b"a" * 3_000_000, b"b" * 3_000_000)
        left += len(os.listdir(tmp_path)) - 1
        remove_unfinished(tmp_path)
        assert os.listdir(tmp_path) == ["file"]
    print(f"unfinished files that were removed: {left}")


def test_what_a_live_process_writes_is_left_to_it(tmp_path):
    """Two processes write one file without end, a third cleans up all the time: no write fails, no file is torn."""
    writers = [start(WRITE, tmp_path / "file") for _ in range(2)]
    try:
        for _ in range(60):
            remove_unfinished(tmp_path)
            data = (tmp_path / "file").read_bytes()
            assert data in (b"a" * 3_000_000, b"b" * 3_000_000)
        assert all(process.poll() is None for process in writers)
    finally:
        for process in writers:
            kill(process)


def test_what_another_thread_writes_is_left_to_it(tmp_path):
    """As above within one process: a lock that is the process's own would be no obstacle to its clean-up."""
    data, written = bytes(3_000_000), []

    def write():
        for _ in range(20):
            write_bytes(tmp_path / "file", data)
            written.append(1)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        remove_unfinished(tmp_path)
    assert len(written) == 40 and os.listdir(tmp_path) == ["file"]


def test_other_hidden_files_are_not_touched(tmp_path):
    (tmp_path / ".mine.tmp").write_text("")
    remove_unfinished(tmp_path, tmp_path / "nowhere")
    assert os.listdir(tmp_path) == [".mine.tmp"]


def test_ctrl_c_while_writing_leaves_nothing(tmp_path, monkeypatch):
    write_bytes(tmp_path / "file", b"old")
    sync = os.fsync

    def pressed(handle):
        sync(handle)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "fsync", pressed)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_files_have_the_mode_that_the_user_wants(tmp_path):
    previous = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(previous)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


# ---------------------------------------------------------------- disks

@pytest.fixture
def disk(tmp_path):
    """An empty file system of 8 MiB in a folder, and a function that mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], check=True, capture_output=True)

    try:
        mount("-o", "size=8m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    yield folder, lambda option: mount("-o", f"remount,{option}")
    subprocess.run(["umount", "-l", str(folder)], check=True)


def leave_free(disk: Path, size: int) -> None:
    """Fill the disk up to `size` bytes."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    space = os.statvfs(disk)
    filler.write_bytes(bytes(space.f_bavail * space.f_frsize - size))


def contents(*folders: Path) -> dict:
    """Every file below, by its path, without locks and what says how long a training took."""
    return {f"{folder.name}/{p.relative_to(folder)}": p.read_bytes() for folder in folders for p in folder.rglob("*")
            if p.is_file() and p.suffix != ".lock" and not p.name.endswith("-seconds.txt")}


def nothing_torn(*folders: Path) -> bool:
    from styleblend.files.tensor_files import read_safetensors
    for path in [p for folder in folders for p in folder.rglob("*") if p.is_file()]:
        if path.suffix == ".png":
            assert is_whole(path), path
        if path.suffix == ".safetensors":
            read_safetensors(path)
        assert path.suffix != ".tmp", path
    return True


def moved(world: Path, folder: Path) -> Path:
    """The config with all that it writes below `folder`."""
    settings = yaml.safe_load(world.read_text())
    settings.update(adapters=str(folder / "adapters"), look_alikes=str(folder / "look"), output=str(folder / "result"))
    settings["training"].update(save_every=1, sample_every=2, sample_prompts=["Cat"])
    path = world.with_name(f"{folder.name}.yaml")
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(world, tmp_path, disk, capsys):
    """The disk has a little more room each time: it is full at first, then gets full at look-alikes, checkpoints,
    adapters, pictures, page."""
    folder, _ = disk
    whole, full = moved(world, tmp_path / "whole"), moved(world, folder)
    parts = [folder / "adapters", folder / "look", folder / "result"]
    commands = (["train", "all"], ["test"])
    for command in commands:
        assert main([*command, "--config", str(whole)]) == 0
    size = sum(len(data) for data in contents(*((tmp_path / "whole") / p.name for p in parts)).values())
    looks, stops = {p.name for p in (tmp_path / "whole" / "look" / "dots").iterdir()}, []
    for command in commands:
        room, code = 0, None
        while code != 0:
            leave_free(folder, room)
            capsys.readouterr()
            code = main([*command, "--config", str(full)])
            said = capsys.readouterr().err.strip().splitlines()
            if code:
                assert code == 2 and len(said[-1]) < 600
                assert "could not be written (No space left on device)" in said[-1]
                stops.append(Path(said[-1].split(": ")[1].split(" could")[0]).name)
                assert nothing_torn(*parts)
                # a look-alike has some 12 kB, what comes later far more
                step = 8192 if stops[-1] in looks or stops == ["dots"] else 200_000
                room = step + room if stops[1:] and stops[-1] == stops[-2] else step
            assert len(stops) < 50, size
    print(f"{len(stops)} stops in {size} bytes: {', '.join(stops)}")
    assert any(name in looks and name.endswith(".png") for name in stops)
    assert len(set(stops)) >= 5
    (folder / "filler").unlink()
    assert contents(*parts) == contents(*((tmp_path / "whole") / p.name for p in parts))


@pytest.mark.parametrize("command, holds", [
    (["train", "coarse"], "adapters"), (["train", "coarse"], "look"), (["train", "fine"], "adapters"),
    (["test"], "result")])
def test_a_read_only_folder_is_said_and_the_run_goes_on_when_it_is_not(world, tmp_path, disk, capsys, command, holds):
    folder, remount = disk
    settings = yaml.safe_load(world.read_text())
    settings[{"adapters": "adapters", "look": "look_alikes", "result": "output"}[holds]] = str(folder / holds)
    world.write_text(yaml.safe_dump(settings))
    if command == ["test"]:
        assert main(["train", "all", "--config", str(world)]) == 0
    remount("ro")
    assert main([*command, "--config", str(world)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("styleblend: ") and str(folder) in said and "Read-only file system" in said
    assert os.listdir(folder) == []
    remount("rw")
    assert main([*command, "--config", str(world)]) == 0


AS_NOBODY = """
import os, sys
from pathlib import Path
from styleblend.errors import StyleBlendError
from styleblend.files.claims import claim
from styleblend.files.whole_files import write_bytes
folder = Path(sys.argv[1])
os.setgid(65534)
os.setuid(65534)

def refused(what):
    try:
        what()
    except StyleBlendError as error:
        print(error)

refused(lambda: write_bytes(folder / "file", b"x"))
refused(lambda: claim(folder, "work").__enter__())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a process gives root away; the test above needs no root to be refused")
def test_a_folder_of_somebody_else_is_said(tmp_path):
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and parent != Path("/tmp") and parent != Path("/"):
            parent.chmod(0o755)
    tmp_path.chmod(0o555)
    run = subprocess.run([sys.executable, "-c", AS_NOBODY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line.split(" (")[1][:17] for line in run.stdout.splitlines()] == ["Permission denied"] * 2
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- stopping and repairing look-alikes and pictures

@pytest.mark.parametrize("command, number", [("train", signal.SIGTERM), ("test", signal.SIGINT)])
def test_stopped_while_drawing(world, tmp_path, command, number):
    """Look-alikes and boards: exit code 130, what is there is whole, the rest is drawn as if nothing had happened."""
    settings = yaml.safe_load(world.read_text())
    settings["sampling"]["batch"] = 1
    settings["training"]["look_alikes"].update(candidates=30, chosen=30, batch=1)
    world.write_text(yaml.safe_dump(settings))
    (tmp_path / "data" / "dots" / "prompt.json").write_text(json.dumps([f"Cat {i}" for i in range(60)]))
    if command == "test":
        assert main(["train", "all", "--config", str(world)]) == 0
    arguments = ["train", "coarse"] if command == "train" else ["test"]
    folder = tmp_path / ("look" if command == "train" else "result") / "dots"
    process = subprocess.Popen([sys.executable, "-m", "styleblend", *arguments, "--config", str(world)], cwd=ROOT,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(folder.glob("*.png")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    os.killpg(process.pid, number)  # as a terminal does: all processes of the command get it
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip().splitlines()[-1].endswith("start the same command again to go on"), said
    there = {p: p.read_bytes() for p in folder.glob("*.png")}
    assert 1 <= len(there) < 60 and nothing_torn(tmp_path)
    assert main([*arguments, "--config", str(world)]) == 0
    assert len(list(folder.glob("*.png"))) == 60 and all(p.read_bytes() == data for p, data in there.items())


def test_torn_pictures_are_drawn_again_byte_for_byte(world, tmp_path):
    """Although a batch of two with one missing is not a batch of one: the last bits depend on the batch."""
    assert main(["train", "all", "--config", str(world)]) == 0
    assert main(["test", "--config", str(world)]) == 0
    folders = (tmp_path / "look", tmp_path / "result", tmp_path / "adapters")
    before = contents(*folders)
    for path, part in ((folders[0] / "dots" / "boat-001.png", 0.5), (folders[1] / "dots" / "Owl.png", 0.9)):
        data = path.read_bytes()
        path.write_bytes(data[:int(len(data) * part)])
        assert not is_whole(path)
    (tmp_path / "adapters" / "dots" / "dots_text_encoder_lora.safetensors").unlink()
    assert main(["train", "coarse", "--config", str(world)]) == 0
    assert main(["test", "--config", str(world)]) == 0
    assert contents(*folders) == before
