"""One claim at a time, of all processes and threads: folders, files of one folder, files that belong together."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from processes import ROOT, children_may_be_killed, kill, start  # noqa: F401 (a fixture works by being here)
from styleblend.cli import main
from styleblend.errors import Busy
from styleblend.files.claims import claim, claim_files, in_turn
from test_files import contents, nothing_torn

HOLD = """
import sys, time
from styleblend.files.claims import claim
with claim(sys.argv[1], "work"):
    print("held", flush=True)
    time.sleep(60)
"""
HOLD_FILES = """
import sys, time
from styleblend.files.claims import claim_files
with claim_files(sys.argv[1], "work", sys.argv[2:], ""):
    print("held", flush=True)
    time.sleep(60)
"""
# says from a process of its own which of the files are free
FREE = """
import sys
from styleblend.errors import Busy
from styleblend.files.claims import claim_files
for name in sys.argv[2:]:
    try:
        with claim_files(sys.argv[1], "work", [name], ""):
            print(name)
    except Busy as busy:
        assert "another process" in str(busy)
"""
# claims, forks a child that sleeps, as a pool of workers has them, and sleeps itself. The child says its number: by
# then it has let go of its parent's claims
FORK = """
import os, sys, time
from pathlib import Path
from styleblend.files.claims import claim, claim_files, in_turn
folder = Path(sys.argv[1])
with claim(folder, "work"), claim_files(folder, "files", ["a"], ""), in_turn(folder / "out"):
    if not os.fork():
        print(os.getpid(), flush=True)
    time.sleep(60)
"""
# waits for a claim with the command line's handler of Ctrl-C, by which system calls go on after a signal
WAIT = """
import signal, sys
from pathlib import Path
from styleblend.files.claims import claim, in_turn
from styleblend.machine.signals import handle
handle(signal.SIGINT, signal.default_int_handler)
folder = Path(sys.argv[1])
print("waits", flush=True)
try:
    with in_turn(folder) if sys.argv[2] == "in_turn" else claim(folder, "work", wait=True):
        print("had it")
except KeyboardInterrupt:
    print("stopped")
"""


def free(folder: Path, *names: str) -> list:
    """Which of the files another process could claim."""
    command = [sys.executable, "-c", FREE, str(folder), *names]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def in_thread(work) -> None:
    """Run it in a thread to its end, and raise here what it raised there."""
    raised = []

    def run():
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    for error in raised:
        raise error


def test_a_folder_is_claimed_until_its_process_ends_however_it_ends(tmp_path):
    process = start(HOLD, tmp_path)
    with pytest.raises(Busy, match=str(tmp_path)):
        with claim(tmp_path, "work"):
            pass
    with claim(tmp_path, "other work"):
        pass
    kill(process)
    assert (tmp_path / "work.lock").exists()  # stale: nobody holds it
    with claim(tmp_path, "work"):
        pass


def test_files_are_claimed_until_their_process_ends_however_it_ends(tmp_path):
    def claimed(*files):
        with claim_files(tmp_path, "work", files, "or take others"):
            return True

    process = start(HOLD_FILES, tmp_path, "a", "b")
    assert claimed("c", "d")
    with pytest.raises(Busy, match="b is in use by another process: wait for it, or stop it, or take others") as busy:
        claimed("b", "c")
    assert str(busy.value).startswith(str(tmp_path / "b"))
    kill(process)
    assert claimed("a", "b", "c")


# ---------------------------------------------------------------- threads, and two claims of one

CLAIMS = {  # how the same thing is claimed
    "a folder": lambda folder: claim(folder, "work"),
    "a folder, waiting": lambda folder: claim(folder, "work", wait=True),
    "files": lambda folder: claim_files(folder, "work", ["a", "b"], "or take others"),
    "in turn": in_turn,
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_two_claims_of_one_thread_are_busy_and_not_a_deadlock(tmp_path, kind):
    def second():
        with CLAIMS[kind](tmp_path):
            pass

    for _ in range(2):  # the first lets go, so that all is as at first
        with CLAIMS[kind](tmp_path):
            for _ in range(2):  # the second one that fails drops nothing of the first
                with pytest.raises(Busy, match=f"{tmp_path}.* is in use by another job of this program"):
                    second()
    second()


@pytest.mark.parametrize("kind", ["a folder", "files"])
def test_a_claim_holds_between_threads(tmp_path, kind):
    def other():
        with CLAIMS[kind](tmp_path):
            pass

    with CLAIMS[kind](tmp_path):
        with pytest.raises(Busy, match="another job of this program"):
            in_thread(other)
    in_thread(other)


@pytest.mark.parametrize("kind", ["a folder, waiting", "in turn"])
def test_a_thread_waits_for_another(tmp_path, kind):
    order = []

    def second():
        with CLAIMS[kind](tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with CLAIMS[kind](tmp_path):
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


@pytest.mark.parametrize("kind", CLAIMS)
def test_of_many_threads_one_has_it(tmp_path, kind):
    """With a switch of threads in the middle of what must not be shared."""
    within, most, had = [], [], []

    def try_often():
        for _ in range(30):
            try:
                with CLAIMS[kind](tmp_path):
                    within.append(1)
                    most.append(len(within))
                    time.sleep(0)
                    within.pop()
                    had.append(threading.get_ident())
            except Busy:
                time.sleep(0)

    threads = [threading.Thread(target=try_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(most) == {1} and len(had) == len(most) and (len(had) == 240 or kind in ("a folder", "files"))


def test_parts_of_one_board_in_one_process_hold_each_their_files(tmp_path):
    """A second claim of other files is granted; its end, or a reader of the lock file, takes nothing from the first."""
    with claim_files(tmp_path, "work", ["a", "b"], ""):
        with claim_files(tmp_path, "work", ["c", "d"], ""):
            assert free(tmp_path, *"abcde") == ["e"]
        (tmp_path / "work.lock").read_bytes()
        assert free(tmp_path, *"abcde") == ["c", "d", "e"]
        with pytest.raises(Busy):
            with claim_files(tmp_path, "work", ["d", "a"], ""):
                pass
        assert free(tmp_path, *"abcde") == ["c", "d", "e"]  # what it had got of its files is free again
    assert free(tmp_path, *"abcde") == list("abcde")


def test_a_claim_is_let_go_of_in_another_thread(tmp_path):
    """As by a generator that is begun in one thread and closed in another."""
    claimed = claim(tmp_path, "work", wait=True)
    in_thread(claimed.__enter__)
    with pytest.raises(Busy):
        with claim(tmp_path, "work"):
            pass
    claimed.__exit__(None, None, None)
    with claim(tmp_path, "work", wait=True):
        pass


def test_a_forked_child_does_not_keep_the_claims_of_its_parent(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", FORK, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        with pytest.raises(Busy):
            with claim(tmp_path, "work"):
                pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # it lives
        with claim(tmp_path, "work"), claim_files(tmp_path, "files", ["a"], ""):
            in_thread(lambda: in_turn(tmp_path / "out").__enter__())
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.parametrize("kind", ["claim", "in_turn"])
def test_who_waits_can_be_stopped(tmp_path, kind):
    with claim(tmp_path, "work"), in_turn(tmp_path):
        process = start(WAIT, tmp_path, kind)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[0] == "stopped\n"


# ---------------------------------------------------------------- commands

@pytest.mark.parametrize("command", ["export", "load", "eval"])
def test_files_that_belong_together_are_written_in_turn(trained, tmp_path, command):
    """While another process writes into the folder nothing appears there; then all of it, and no lock file."""
    out, style = tmp_path / "out", tmp_path / "adapters" / "dots"
    picture = tmp_path / "result" / "fxemoji" / "Anchor.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (128, 128), "red").save(picture)
    arguments = {"export": [str(style), "--format", "diffusers"],
                 "load": [str(style / "dots_unet_lora.safetensors"), "--name", "ink", "--config", str(trained)],
                 "eval": [str(tmp_path / "result")]}
    expected = {"export": ["coarse_learned_embeds.safetensors", "fine_learned_embeds.safetensors",
                           "pytorch_lora_weights.safetensors"],
                "load": ["ink"],
                "eval": ["report.html", "scores.json"]}
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main([command, *arguments[command], "--output", str(out)])))
    with in_turn(out):
        thread.start()
        thread.join(4)
        assert thread.is_alive() and os.listdir(out) == []
    thread.join(60)
    assert codes == [0] and sorted(os.listdir(out)) == expected[command]


def test_of_two_processes_that_load_one_style_the_second_stops(trained, tmp_path):
    """Both see no style at first; without an order one would fail at the end, or each would have written a part."""
    file = tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors"
    command = [sys.executable, "-m", "styleblend", "load", str(file), "--name", "ink", "--config", str(trained)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                 for _ in range(2)]
    said = [process.communicate(timeout=120)[1].strip() for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2], said
    assert "holds a style already (UNet LoRA)" in "".join(said)


@pytest.mark.parametrize("training, code", [("fine", 2), ("coarse", 0)])
def test_what_is_trained_now_is_not_loaded(trained, tmp_path, capsys, training, code):
    folder = tmp_path / "adapters" / "dots"
    before, file = contents(folder), str(folder / "dots_unet_lora.safetensors")
    with claim(folder / "training", training):
        assert main(["load", file, "--name", "dots", "--overwrite", "--config", str(trained)]) == code
    said = capsys.readouterr().err.strip()
    assert "fine.lock" in said if code else contents(folder) != before
    assert code == 0 or contents(folder) == before


@pytest.mark.parametrize("part, folder, name", [
    ("fine", "adapters/dots/training", "fine"), ("coarse", "adapters/dots/training", "coarse"),
    ("coarse", "look/dots", "look-alikes")])
def test_a_second_training_stops_or_takes_the_next_style(world, tmp_path, capsys, part, folder, name):
    with claim(tmp_path / folder, name):
        assert main(["train", part, "--config", str(world)]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert str(tmp_path / folder) in said and "in use by another job" in said
        assert main(["train", part, "--config", str(world), "--share"]) == 0
        assert "next" in capsys.readouterr().err
    assert not list((tmp_path / "adapters").rglob("*.safetensors"))


def test_parts_of_one_board_are_drawn_side_by_side(trained, tmp_path):
    """Three thirds at once: all pictures whole, and the page and the sheet show all of them."""
    (tmp_path / "data" / "dots" / "prompt.json").write_text(json.dumps([f"Cat {i}" for i in range(8)]))
    command = [sys.executable, "-m", "styleblend", "test", "--config", str(trained), "--shard"]
    processes = [subprocess.Popen([*command, f"{i}/3"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  text=True) for i in (1, 2, 3)]
    for process in processes:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    result = tmp_path / "result"
    assert len(list((result / "dots").glob("*.png"))) == 8 and nothing_torn(result)
    page = (result / "index.html").read_text()
    assert all(f"Cat%20{i}.png" in page for i in range(8))
    assert Image.open(result / "dots.png").height > 300


def test_a_second_process_on_the_same_pictures_stops(trained, tmp_path, capsys):
    """The first third, held in the middle of its work.

    What has a picture in common with it stops and changes nothing, the rest is drawn meanwhile.
    """
    settings = yaml.safe_load(trained.read_text())
    settings["sampling"]["batch"] = 1
    trained.write_text(yaml.safe_dump(settings))
    (tmp_path / "data" / "dots" / "prompt.json").write_text(json.dumps([f"Cat {i}" for i in range(48)]))
    result = tmp_path / "result"
    process = subprocess.Popen([sys.executable, "-m", "styleblend", "test", "--config", str(trained), "--shard", "1/3"],
                               cwd=ROOT, stderr=subprocess.DEVNULL)
    while not list((result / "dots").glob("*.png")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGTSTP)  # Ctrl-Z: the process and the one in which the command runs
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    try:
        before = contents(result)
        for same in (["--shard", "1/3"], ["--shard", "1/3", "--overwrite"], [], ["--overwrite"], ["--shard", "1/2"],
                     ["--prompts", "1"]):
            assert main(["test", "--config", str(trained), *same]) == 2
            said = capsys.readouterr().err.strip()
            assert f"{result / 'dots' / 'Cat'} " in said
            assert "in use by another process: wait for it, or stop it, or give each process other --styles" in said
            assert len(said.splitlines()) == 1 and contents(result) == before
        assert main(["test", "--config", str(trained), "--shard", "2/3"]) == 0
        assert len(list((result / "dots").glob("*.png"))) in range(17, 32)
    finally:
        kill(process)
        time.sleep(0.5)  # the process in which its command runs ends with it
    assert main(["test", "--config", str(trained)]) == 0
    assert len(list((result / "dots").glob("*.png"))) == 48 and nothing_torn(result)
