"""`train --pictures FOLDER --name NAME`: a style from a folder anywhere, and what happens when its pictures change."""
from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from styleblend.cli import main
from styleblend.jobs.scoring import prompt_of
from styleblend.jobs.styles import list_styles
from styleblend.settings import read_settings


def picture(path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)).save(path)


@pytest.fixture
def away(tmp_path):
    """A folder of somebody's pictures, as kohya's scripts want it."""
    for n, name in enumerate(("red_apple", "boat")):
        picture(tmp_path / "away" / "10_ink" / f"{name}.png", n)
    return tmp_path / "away"


def test_a_style_from_a_folder_elsewhere(world, tmp_path, away, capsys, monkeypatch):
    """Learned by any path, drawn, listed and scored by its name later; its pictures stay where they are."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--pictures", "away", "--name", "ink", "--config", str(world)]) == 0
    said = capsys.readouterr().err
    assert "ink: 2 pictures (2 in 10_ink/), told by their names; kohya's repeats" in said
    assert [p.name for p in (tmp_path / "data" / "ink").iterdir()] == ["pictures.json"]
    monkeypatch.chdir("/")
    settings = read_settings(world)
    assert [(s.name, s.missing, s.others) for s in list_styles(settings)] == [("ink", (), None)]
    assert main(["train", "--styles", "ink", "--config", str(world)]) == 0  # by its name from now on
    assert "coarse is trained already" in capsys.readouterr().err

    (away / "prompt.json").write_text('[{"prompt": "A (rabbit:1.3)", "seed": 5}]')
    assert main(["test", "--config", str(world)]) == 0
    assert "left out: ink" not in capsys.readouterr().err
    [drawn] = (tmp_path / "result" / "ink").glob("*.png")
    record = json.loads(Image.open(drawn).info["styleblend"])
    assert drawn.stem.startswith("A (rabbit 1.3)-") and (record["prompt"], record["seed"]) == ("A (rabbit:1.3)", 5)
    assert (tmp_path / "result" / "ink.png").is_file()
    assert main(["eval", str(tmp_path / "result"), "--config", str(world), "--metrics", "histogram",
                 "--output", str(tmp_path / "report")]) == 0
    scores = json.loads((tmp_path / "report" / "scores.json").read_text())
    assert "ink" in json.dumps(scores)

    picture(away / "10_ink" / "dog.png", 5)
    picture(away / "10_ink" / "boat.png", 6)
    for command, words in ((["train", "--styles", "ink"], "10_ink/boat.png is another, 10_ink/dog.png is new"),
                           (["test"], "pictures of ink have changed since it was learned (10_ink/boat.png is another")):
        capsys.readouterr()
        assert main([*command, "--config", str(world)]) == 0
        assert words in capsys.readouterr().err
    assert "dog.png is new" in list_styles(settings)[0].others


def test_a_training_does_not_go_on_with_other_pictures(world, tmp_path, away, capsys):
    """It says which, before the base is loaded."""
    config = yaml.safe_load(world.read_text())
    config["training"]["save_every"] = 1
    world.write_text(yaml.safe_dump(config))
    command = ["train", "fine", "--pictures", str(away), "--name", "ink", "--config", str(world)]
    assert main(command) == 0
    (tmp_path / "adapters" / "ink" / "ink_unet_lora.safetensors").unlink()  # as if it had been stopped
    picture(away / "10_ink" / "boat.png", 7)
    capsys.readouterr()
    assert main(command) == 2
    assert "began with other pictures (10_ink/boat.png is another): put them back" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize("options, words", [
    (["--pictures", "{away}"], "go together"), (["--name", "ink"], "go together"),
    (["--pictures", "{away}", "--name", "ink", "--styles", "dots"], "without --styles"),
    (["--pictures", "{away}/none", "--name", "ink"], "is no folder"),
    (["--pictures", "{away}", "--name", "a/b"], "cannot be a style or prompt name"),
    (["--pictures", "{away}", "--name", "dots"], "has pictures of its own: train them with --styles dots"),
    (["--pictures", "{away}/10_ink/none", "--name", "ink"], "is no folder"),
    (["--pictures", "{away}/empty", "--name", "ink"], "has no pictures: put 3 to 10 into"),
    (["--pictures", "{away}/camera", "--name", "ink"], "1 names do not say what is in the pictures"),
    (["--pictures", "{away}", "--name", "known"], "known is learned from the pictures in")])
def test_what_is_refused_leaves_nothing(world, tmp_path, away, capsys, options, words):
    (away / "empty").mkdir()
    picture(tmp_path / "away" / "camera" / "IMG_6003.jpg", 0)
    (tmp_path / "other").mkdir()
    (tmp_path / "data" / "known").mkdir()
    (tmp_path / "data" / "known" / "pictures.json").write_text(json.dumps({"folder": str(tmp_path / "other")}))
    assert main(["train", *(option.replace("{away}", str(away)) for option in options), "--config", str(world)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "data" / "ink").exists() and not (tmp_path / "adapters").exists()


def test_styles_without_prompts_are_left_out_of_a_whole_board(trained, tmp_path, tiny_style, capsys):
    """Named, they are drawn with the prompts that are named, and need no pictures."""
    from drawing import save_style
    save_style(tmp_path / "adapters" / "ink", "ink", tiny_style)
    (tmp_path / "data" / "ink").mkdir()
    assert main(["test", "--config", str(trained)]) == 0
    assert "no prompt.json for it" in capsys.readouterr().err
    assert main(["test", "--config", str(trained), "--styles", "ink", "--prompts", "A (big, red:1.2) cat,Why?"]) == 0
    prompts = {prompt_of(path) for path in (tmp_path / "result" / "ink").glob("*.png")}  # as `eval` scores them
    assert prompts == {"A (big, red:1.2) cat", "A why?"} and (tmp_path / "result" / "ink.png").is_file()
    assert main(["test", "--config", str(trained), "--styles", "ink"]) == 2


def test_a_style_that_comes_with_the_program_keeps_its_name(tmp_path, away, monkeypatch, capsys):
    """From an empty folder, where the shipped data lie elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--pictures", str(away), "--name", "fxemoji"]) == 2
    assert "fxemoji comes with the program: choose another --name" in capsys.readouterr().err
    assert not (tmp_path / "data").exists() and not (tmp_path / "checkpoints").exists()
