"""`styleblend captions`: texts beside a style's pictures, and never over those of somebody else."""
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from small_networks import blip_folder
from styleblend.cli import main

EMOJI = Path(__file__).parents[2] / "data" / "mini" / "fxemoji" / "images"


@pytest.fixture
def images(world, tmp_path):
    """A boat with a caption, a red apple by its name, a beer mug and noise whose names say nothing."""
    images = tmp_path / "data" / "dots" / "images"
    (images / "boat.txt").write_text("a boat at sea\n")
    shutil.copy(EMOJI / "beer_mug.png", images / "IMG_0001.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(images / "IMG_0002.png")
    return images


def captions(images: Path) -> dict:
    return {path.stem: path.read_text() for path in images.glob("*.txt")}


def test_captions_to_edit(images, world, capsys):
    """By the name where it says something, else by the judge where it is sure; each line is shown."""
    assert main(["captions", "dots", "--config", str(world)]) == 0
    said = capsys.readouterr()
    wanted = {"boat": "a boat at sea\n", "red_apple": "A red apple\n", "IMG_0001": "a beer mug\n"}
    assert captions(images) == wanted
    assert "red_apple.txt: A red apple (by its name)" in said.err
    assert "IMG_0001.txt: a beer mug (the judge of the mini base, 99% sure)" in said.err
    assert "IMG_0002.png: the judge of the mini base is not sure" in said.err
    assert "2 new captions, 1 were there, 1 are left to write" in said.out
    (images / "red_apple.txt").write_text("an apple on a table\n")
    assert main(["captions", "dots", "--config", str(world)]) == 0
    assert captions(images) == {**wanted, "red_apple": "an apple on a table\n"}
    assert "0 new captions, 3 were there, 1 are left" in capsys.readouterr().out
    assert main(["captions", "dots", "--config", str(world), "--overwrite"]) == 0
    assert captions(images) == {**wanted, "boat": "A boat\n"}


def test_by_blip(images, world, tmp_path, capsys):
    """It has looked at the picture, so it counts more than a name."""
    (tmp_path / "blip").mkdir()
    settings = yaml.safe_load(world.read_text())
    world.write_text(yaml.safe_dump({**settings, "context": {"captioner": str(blip_folder(tmp_path / "blip"))}}))
    assert main(["captions", "dots", "--config", str(world)]) == 0
    found = captions(images)
    assert set(found) == {"boat", "red_apple", "IMG_0001", "IMG_0002"} and found["boat"] == "a boat at sea\n"
    assert "word" in found["red_apple"] and "(blip)" in capsys.readouterr().err
    assert not list(images.glob(".*"))


def test_what_is_refused(images, world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # here no style is one's own
    for style, words in (("dost", "did you mean dots?"), ("../dots", "styleblend: ")):
        assert main(["captions", style, "--config", str(world)]) == 2
        assert words in capsys.readouterr().err
    (images / "IMG_0001.png").write_text("no picture")
    assert main(["captions", "dots", "--config", str(world)]) == 2
    assert "IMG_0001.png cannot be read" in capsys.readouterr().err
    assert main(["captions", "fxemoji"]) == 2
    assert "come with the program: copy them" in capsys.readouterr().err
