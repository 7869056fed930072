"""What commands do with their --output: before they draw, and without replacing anything unasked."""
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleblend.adapters import export
from styleblend.cli import main
from styleblend.jobs import draw, grid
from styleblend.record import read_record


@pytest.fixture
def asked(trained, tmp_path, monkeypatch, capsys):
    """A command of the small world, run in an empty folder: its exit code, its output and the last line it said."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(command, *more):
        first = {"draw": ["draw", "--prompt", "A cat"], "grid": ["grid", "dots", "--x", "seed=1,2"],
                 "board": ["board"], "memory": ["memory"]}[command]
        code = main([*first, "--config", str(trained), *map(str, more)])
        out, err = capsys.readouterr()
        return code, out.strip(), (err.strip().splitlines() or [""])[-1]

    return run


@pytest.fixture
def no_base(monkeypatch):
    """A command that comes as far as loading the base fails."""
    for job in (draw, grid):
        monkeypatch.setattr(job, "base_for_drawing", lambda settings: pytest.fail("the base was loaded"))


@pytest.mark.parametrize("command", ["draw", "grid"])
@pytest.mark.parametrize("output, words", [
    (".", "is a folder: name a file in it"), ("folder", "is a folder"), ("folder/", "is a folder"),
    ("folder.png", "is a folder"), ("file/a.png", "Not a directory"), ("a" * 256 + ".png", "File name too long"),
    ("", "--output is empty"), ("a", "this name says no format"), ("a.gif", "pictures are not written as .gif"),
    ("a.png.exe", "not written as .exe"), ("there.png", "is there already"), ("THERE.JPG", "is there already")])
def test_what_cannot_be_is_said_before_anything_is_loaded(asked, no_base, command, output, words):
    for folder in ("folder", "folder.png"):
        os.mkdir(folder)
    for file in ("file", "there.png", "THERE.JPG"):
        Path(file).write_text("mine")
    before = sorted(os.listdir("."))
    code, _, said = asked(command, "--output", output)
    if output in (".", "folder"):  # these are judged by their ending first
        words = "is a folder" if words in said else "this name says no format"
    assert code == 2 and words in said and sorted(os.listdir(".")) == before
    assert all(Path(file).read_text() == "mine" for file in ("file", "there.png", "THERE.JPG"))


@pytest.mark.parametrize("command, name", [("draw", "picture"), ("grid", "grid")])
def test_twice_without_an_output_is_two_files(asked, command, name):
    said = [asked(command)[1] for _ in range(3)]
    assert said == [f"{name}.png", f"{name}-2.png", f"{name}-3.png"] and sorted(os.listdir(".")) == sorted(said)
    assert len({Path(file).read_bytes() for file in said}) == 1


def test_a_file_is_replaced_when_that_is_asked_for(asked):
    assert asked("draw", "--output", "a.png", "--seed", 1)[0] == 0
    assert asked("draw", "--output", "a.png", "--seed", 2)[0] == 2 and read_record("a.png").seed == 1
    assert asked("draw", "--output", "a.png", "--seed", 2, "--overwrite")[0] == 0 and read_record("a.png").seed == 2


def test_one_of_several_that_is_there_is_not_replaced(asked):
    Path("a-6.png").write_text("mine")
    code, _, said = asked("draw", "--output", "a.png", "--seed", 5, "--count", 3)
    assert code == 2 and "a-6.png is there already" in said and os.listdir(".") == ["a-6.png"]
    Path("picture-6.png").write_text("mine")
    assert asked("draw", "--seed", 5, "--count", 2)[1].split() == ["picture-2-5.png", "picture-2-6.png",
                                                                  "picture-2.png"]


@pytest.mark.parametrize("ending, kind", [("jpg", "JPEG"), ("webp", "WEBP"), ("PNG", "PNG")])
def test_a_picture_has_the_format_of_its_name_and_can_be_drawn_again(asked, ending, kind):
    """Several pictures and their sheet too; again is as before, whatever a JPEG has lost."""
    assert asked("draw", "--output", f"a.{ending}", "--seed", 3, "--count", 2, "--style", "dots")[0] == 0
    assert sorted(os.listdir(".")) == sorted(f"a{n}.{ending}" for n in ("", "-3", "-4"))
    assert all(Image.open(file).format == kind for file in os.listdir("."))
    assert asked("draw", "--output", "whole.png", "--seed", 4, "--style", "dots")[0] == 0
    assert asked("draw", "--from", f"a-4.{ending}")[1] == f"a-4-again.{ending}"
    assert asked("draw", "--from", f"a-4.{ending}", "--output", "again.png")[0] == 0
    assert read_record(f"a-4.{ending}") == read_record("again.png") == read_record("whole.png")
    one, other = (np.asarray(Image.open(file), int) for file in ("again.png", "whole.png"))
    assert np.array_equal(one, other)
    assert asked("grid", "--output", f"grid.{ending}")[0] == 0 and Image.open(f"grid.{ending}").format == kind


def test_a_seed_by_chance_is_said_and_recorded(asked, trained, capsys):
    seeds = set()
    for name in ("a.png", "b.png"):
        assert main(["draw", "--prompt", "A cat", "--config", str(trained), "--seed", "-1", "--output", name]) == 0
        said = capsys.readouterr().err.splitlines()[0]
        assert said == f"styleblend: drawn by chance: --seed {read_record(name).seed}"
        seeds.add(read_record(name).seed)
    assert len(seeds) == 2 and min(seeds) > 0
    assert asked("draw", "--from", "a.png", "--seed", -1, "--count", 2, "--output", "c.png")[0] == 0
    first, second = sorted(read_record(p).seed for p in Path(".").glob("c-*.png"))
    assert second == first + 1 and first not in seeds


def test_a_sheet_that_the_format_cannot_hold_is_refused_first(asked, no_base):
    code, _, said = asked("draw", "--count", 400, "--output", "a.webp")
    assert code == 2 and "more than a WEBP file holds: name a .png" in said


def test_a_board_replaces_no_page_of_others(asked, tmp_path):
    """A page or sheet in a folder where no board was drawn is somebody's; after that it is the board's."""
    for name in ("index.html", "dots.png"):
        Path(name).write_text("mine")
        code, _, said = asked("board", "--output", ".")
        assert code == 2 and f"{name} is there already" in said and os.listdir(".") == [name]
        Path(name).unlink()
    assert asked("board", "--output", ".")[0] == 0 and asked("board", "--output", ".")[0] == 0
    Path(".board.lock").unlink()  # as in a copy: the pictures say whose the folder is
    assert asked("board", "--output", ".")[0] == 0
    os.mkdir("Kite.png")
    (tmp_path / "result" / "dots" / "Kite.png").mkdir(parents=True)
    code, _, said = asked("board", "--prompts", "Kite")
    assert code == 2 and "Kite.png is a folder" in said


def test_export_replaces_no_file_unasked(trained, tmp_path, capsys, monkeypatch):
    command = ["export", str(tmp_path / "adapters" / "dots"), "--format", "kohya", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    (tmp_path / "out" / "dots.safetensors").write_text("mine")
    (tmp_path / "out" / "dots-fine.safetensors").unlink()
    assert main(command) == 2 and "dots.safetensors is there already" in capsys.readouterr().err
    assert (tmp_path / "out" / "dots.safetensors").read_text() == "mine"
    assert not (tmp_path / "out" / "dots-fine.safetensors").exists()
    assert main([*command, "--overwrite"]) == 0 and (tmp_path / "out" / "dots.safetensors").stat().st_size > 100
    (tmp_path / "file").touch()
    monkeypatch.setattr(export, "read_style", lambda folder: pytest.fail("the style was read"))
    assert main([*command[:-1], str(tmp_path / "file" / "out")]) == 2 and "Not a directory" in capsys.readouterr().err
