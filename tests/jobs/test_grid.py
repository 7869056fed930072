"""`styleblend grid`: the right picture at each place of the sheet, what the sheet says of itself, and mistakes."""
import json

import numpy as np
import pytest
import yaml
from PIL import Image

from styleblend.jobs import grid
from styleblend.cli import main
from styleblend.jobs.grid import sheet
from styleblend.jobs.grid_axes import Axis, parse_axis
from styleblend.record import read_record
from styleblend.settings import PRESETS, read_settings

SIZE, STEP = 64, 64 + grid.MARGIN


def draw(trained, tmp_path, *more):
    assert main(["grid", "dots", "--config", str(trained), "--output", str(tmp_path / "grid.png"), "--overwrite",
                 *more]) == 0
    return Image.open(tmp_path / "grid.png")


def pictures(image, columns, rows, blocks=1):
    """The pictures of a sheet, block by block, row by row: its bodies are at the right and end at the bottom."""
    left, block = image.width - columns * STEP, image.height // blocks
    top = block - rows * STEP
    corners = [(left + c * STEP, b * block + top + r * STEP)
               for b in range(blocks) for r in range(rows) for c in range(columns)]
    return [np.asarray(image.crop((x, y, x + SIZE, y + SIZE))) for x, y in corners]


def alone(trained, tmp_path, prompt="A cat", seed="2024", **changes):
    """The same picture by `styleblend generate`, with a config and style.json of its own."""
    text = trained.read_text()
    for key, value in changes.pop("sampling", {}).items():
        text = text.replace(f"{key}: ", f"{key}: {value} #")
    (tmp_path / "alone.yaml").write_text(text)
    (tmp_path / "adapters" / "dots" / "style.json").write_text(json.dumps(changes))
    command = ["generate", "--config", str(tmp_path / "alone.yaml"), "--style", "dots", "--prompt", prompt]
    assert main([*command, "--seed", seed, "--output", str(tmp_path / "one.png"), "--overwrite"]) == 0
    (tmp_path / "adapters" / "dots" / "style.json").unlink()
    return np.asarray(Image.open(tmp_path / "one.png"))


def near(one, other):
    return one.shape == other.shape and np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_each_place_has_the_picture_of_its_settings(trained, tmp_path):
    found = pictures(draw(trained, tmp_path, "--x", "scale=0,1", "--y", "preset=balanced,strong_layout"), 2, 2)
    for picture, (preset, scale) in zip(found, [(p, s) for p in PRESETS for s in (0, 1)]):
        assert near(picture, alone(trained, tmp_path, preset=preset, blend={"scale": scale}))
    assert not near(found[0], found[1]) and not near(found[0], found[2])


def test_seeds_steps_and_prompts(trained, tmp_path):
    image = draw(trained, tmp_path, "--x", "seed=5,6", "--y", "steps=1,2", "--z", "prompt=Cat,Owl")
    found = pictures(image, 2, 2, blocks=2)
    places = [(prompt, steps, seed) for prompt in ("A cat", "An owl") for steps in (1, 2) for seed in ("5", "6")]
    for place in (0, 3, 5, 6):
        prompt, steps, seed = places[place]
        assert near(found[place], alone(trained, tmp_path, prompt, seed, sampling={"steps": steps}))


def test_pictures_are_those_of_test_py(trained, tmp_path):
    """Without an axis that says otherwise: the style's own settings and its seed for this prompt."""
    (tmp_path / "adapters" / "dots" / "style.json").write_text(
        '{"preset": "strong_layout", "seeds": {"Owl": 9}, "blend": {"f2c_ratio": 0.1}}')
    image = draw(trained, tmp_path, "--x", "guidance=3.0", "--prompts", "Cat,Owl")
    assert main(["test", "--config", str(trained)]) == 0
    for picture, name in zip(pictures(image, 1, 2), ("Cat", "Owl")):
        path = tmp_path / "result" / "dots" / f"{name}.png"
        assert near(picture, np.asarray(Image.open(path)))
    assert read_record(path).seed == 9


def test_checkpoints_of_a_training(world, tmp_path, capsys):
    """The last one draws what the adapters draw; one that is not kept is named before anything is drawn."""
    settings = yaml.safe_load(world.read_text())
    settings["training"].update(save_every=2, checkpoints=3, lora=dict(settings["training"]["lora"], steps=6, lr=0.05))
    world.write_text(yaml.safe_dump(settings))
    assert main(["train", "all", "--config", str(world)]) == 0
    found = pictures(draw(world, tmp_path, "--x", "checkpoint=2,4,6", "--y", "seed=1,2"), 3, 2)
    assert near(found[2], alone(world, tmp_path, seed="1")) and near(found[5], alone(world, tmp_path, seed="2"))
    assert not near(found[0], found[1]) and not near(found[1], found[2])
    (tmp_path / "grid.png").unlink()
    command = ["grid", "dots", "--config", str(world), "--output", str(tmp_path / "grid.png")]
    assert main([*command, "--x", "checkpoint=3"]) == 2
    assert "no checkpoint of step 3" in capsys.readouterr().err and not (tmp_path / "grid.png").exists()


def test_the_sheet_says_how_it_was_drawn(trained, tmp_path):
    record = json.loads(draw(trained, tmp_path, "--x", "scale=0.1,0.2", "--prompts", "Owl").info[grid.CHUNK])
    assert record["axes"] == {"scale": ["0.1", "0.2"]} and record["prompts"] == ["Owl"] and record["style"] == "dots"
    assert record["sampling"] == read_settings(trained).sampling.model_dump() and record["blend"]["c2f_ratio"] == 0.8


def test_labels_are_beside_their_pictures():
    """Ink above each column and on the left of each row, and none in a sheet without labels."""
    white = [[Image.new("RGB", (64, 64), "white")] * 3] * 2
    labelled = np.asarray(sheet([("", white)], ["a", "", "c"], ["", "row"]))
    bare = np.asarray(sheet([("", white)], [""] * 3, [""] * 2))
    assert (bare == 255).all()
    dark = np.argwhere((labelled < 255).any(-1))
    left, top = labelled.shape[1] - 3 * STEP, labelled.shape[0] - 2 * STEP
    above, beside = dark[dark[:, 0] < top], dark[dark[:, 0] >= top]
    assert set((above[:, 1] - left) // STEP) == {0, 2}
    assert (beside[:, 1] < left).all() and set((beside[:, 0] - top) // STEP) == {1}


@pytest.mark.parametrize("text, axis", [
    ("scale=0.1, 0.3", Axis("scale", ("0.1", "0.3"))),
    ("seed=1,1,2", Axis("seed", ("1", "2"))),
    ("prompt=Red apple", Axis("prompt", ("Red apple",))),
])
def test_axes(text, axis):
    assert parse_axis(text, "--x") == axis


@pytest.mark.parametrize("arguments, words", [
    (["--x", "scal=1"], "did you mean scale?"),
    (["--x", "sampler=ddim"], "unknown axis 'sampler'"),
    (["--x", "xyz=1"], "there are preset, scale, fine_scale"),
    (["--x", "scale"], "has no values"),
    (["--x", "preset=ballanced"], "did you mean balanced? There are balanced, strong_layout"),
    (["--x", "scale=much"], "scale"),
    (["--x", "steps=0"], "steps"),
    (["--x", "c2f_ratio=2"], "c2f_ratio"),
    (["--x", "scale=1", "--y", "scale=2"], "two axes are scale"),
    (["--x", "prompt=Cat", "--prompts", "Owl"], "one is enough"),
    (["--x", "prompt=Cat,A <lora:ink:1>"], "holds '<lora:ink:1>', which is not read here"),
    (["--x", "seed=1,2,3", "--y", "steps=1,2", "--limit", "5"], "3 x 2 = 6 pictures, about"),
])
def test_mistakes_are_named_before_anything_is_drawn(trained, tmp_path, capsys, arguments, words):
    assert main(["grid", "dots", "--config", str(trained), "--output", str(tmp_path / "grid.png"), *arguments]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "grid.png").exists()


def test_the_number_of_pictures_and_the_time_are_said_first(trained, tmp_path, capsys):
    draw(trained, tmp_path, "--x", "seed=1,2,3")
    assert "3 = 3 pictures, about" in capsys.readouterr().err.split("grid:")[0]
