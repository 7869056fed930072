"""kill -9 at random moments: started again, every file is as if nothing had happened.

Of both trainings, the look-alikes and `test.py`.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from styleblend.cli import main
from processes import children_may_be_killed  # noqa: F401 (a fixture that works by being here)
from test_files import contents, nothing_torn

ROOT = Path(__file__).parents[2]
COMMANDS = {"coarse": ["train", "coarse"], "fine": ["train", "fine"], "test": ["test"]}
TRIALS = int(os.environ.get("STYLEBLEND_KILL_TRIALS", "40"))


def config(world: Path, folder: Path) -> Path:
    """The tiny world with more steps, a checkpoint every second one, grids; it writes everything below `folder`."""
    settings = yaml.safe_load(world.read_text())
    settings.update(adapters=str(folder / "adapters"), look_alikes=str(folder / "look"), output=str(folder / "result"))
    training = settings["training"]
    training.update(save_every=2, sample_every=4, sample_prompts=["Cat"])
    training["look_alikes"].update(candidates=3, chosen=3, batch=2)
    for stage in ("coarse", "inversion", "lora"):
        training[stage]["steps"] = 7
    path = folder.parent / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def unfinished(folder: Path) -> bool:
    """Whether some file is being written now."""
    return any(name.endswith(".tmp") for _, _, names in os.walk(folder) for name in names)


def killed(command: list, path: Path, folder: Path, rng: np.random.Generator, seconds: float) -> bool:
    """Start a command and kill it. False: it was done before.

    By turns of a coin at a random time of its work, or while it writes its n-th file.
    """
    process = subprocess.Popen([sys.executable, "-m", "styleblend", *command, "--config", str(path)], cwd=ROOT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = ""
    while "learning the" not in said and "pictures:" not in said:  # Python and Jittor are up, the work begins
        read = process.stderr.read(1)
        if not read:
            assert process.wait() == 0, said
            return False  # a run that was killed after its last file: nothing is left to do
        said += read
    if rng.integers(2):
        time.sleep(rng.uniform(0, seconds))
    else:
        files, before = rng.integers(1, 16), False
        while process.poll() is None and files:
            now = unfinished(folder)
            files, before = files - (now and not before), now
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return alive


def run_trials(world: Path, tmp_path: Path, count: int, seed: int) -> None:
    """`count` trials: each kills one command once or twice and lets it go on to its end, against unbroken runs."""
    before, after, seconds = {}, {}, {}
    (tmp_path / "data" / "dots" / "prompt.json").write_text(json.dumps(["Cat", "Owl", "Boat", "Tree", "Moon"]))
    whole = tmp_path / "whole" / "state"
    whole.mkdir(parents=True)
    path = config(world, whole)
    for name, command in COMMANDS.items():
        before[name] = shutil.copytree(whole, tmp_path / "before" / name)
        begin = time.monotonic()
        assert main([*command, "--config", str(path)]) == 0
        after[name], seconds[name] = contents(whole), time.monotonic() - begin
    kills, rests = {name: 0 for name in COMMANDS}, 0
    for trial in range(count):
        rng, name = np.random.default_rng([seed, trial]), list(COMMANDS)[trial % len(COMMANDS)]
        folder = tmp_path / f"trial-{trial}" / "state"
        shutil.copytree(before[name], folder)
        path = config(world, folder)
        for _ in range(1 + (rng.random() < 0.3)):
            kills[name] += killed(COMMANDS[name], path, folder, rng, seconds[name])
            rests += unfinished(folder)
        assert main([*COMMANDS[name], "--config", str(path)]) == 0
        assert nothing_torn(folder)
        found = contents(folder)
        assert sorted(found) == sorted(after[name]), f"trial {trial} of {name}"
        different = [key for key in found if found[key] != after[name][key]]
        assert not different, f"trial {trial} of {name}: {different}"
        shutil.rmtree(folder.parent)
    print(f"{count} trials, killed: {kills}; {rests} left an unfinished file")
    assert sum(kills.values()) >= count / 2


def test_killed_and_started_again(world, tmp_path):
    run_trials(world, tmp_path, 2, seed=1)


@pytest.fixture
def mini_world(world, tmp_path):
    """The tiny world's config on the mini base, with two pictures of a shipped style."""
    settings = yaml.safe_load(world.read_text())
    settings["base"] = str(ROOT / "checkpoints" / "mini" / "base")
    settings["sampling"].update(width=128, height=128, steps=5)
    settings["training"].update(initial_fine="flat")
    images = tmp_path / "data" / "dots" / "images"
    shutil.rmtree(images)
    images.mkdir()
    for name in ("snake", "bouquet"):
        shutil.copy(ROOT / "data" / "mini" / "fxemoji" / "images" / f"{name}.png", images)
    world.write_text(yaml.safe_dump(settings))
    return world


@pytest.mark.full
@pytest.mark.parametrize("base", ["world", "mini_world"])
def test_killed_at_many_moments_and_started_again(base, request, tmp_path):
    """STYLEBLEND_KILL_TRIALS of them on each base, by default 40.

    That is some ten minutes on the tiny one, half an hour on the mini one.
    """
    run_trials(request.getfixturevalue(base), tmp_path, TRIALS, seed=2)
