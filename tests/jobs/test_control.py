"""A control picture through the commands: it steers, is in the record, and is refused where it cannot."""
import os

import numpy as np
import pytest
import yaml
from PIL import Image

from styleblend.cli import main
from styleblend.machine.runtime import jt
from styleblend.pipeline import Pipeline
from styleblend.record import read_record
from styleblend.settings import ControlSettings, SamplingSettings


@pytest.fixture
def layout(tmp_path):
    """A picture with edges."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "layout.png")
    return str(tmp_path / "layout.png")


def pixels(path):
    return np.asarray(Image.open(path), int)


def draw(config, tmp_path, *options, name="one.png"):
    return main(["draw", "--config", str(config), "--prompt", "A cat", "--output", str(tmp_path / name), *options])


def test_it_steers_and_is_drawn_again_from_the_record(trained, tmp_path, layout, tiny_controlnet):
    control = ["--control", "canny", "--control-picture", layout, "--controlnet", str(tiny_controlnet)]
    assert draw(trained, tmp_path, "--style", "dots", name="without.png") == 0
    assert draw(trained, tmp_path, "--style", "dots", *control) == 0
    assert np.abs(pixels(tmp_path / "one.png") - pixels(tmp_path / "without.png")).max() > 3
    [said] = read_record(tmp_path / "one.png").control
    assert (said.kind, said.picture, said.network, said.strength) == ("canny", layout, str(tiny_controlnet), 1.0)
    assert read_record(tmp_path / "without.png").control == ()
    again = ["draw", "--config", str(trained), "--from", str(tmp_path / "one.png"), "--output",
             str(tmp_path / "again.png")]
    assert main(again) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "again.png"), pixels(tmp_path / "one.png"))

    # the config may know the network; strength and the window of steps are heard; the prompt's rows alone with guess
    config = yaml.safe_load(trained.read_text())
    trained.write_text(yaml.safe_dump({**config, "controlnets": {"canny": str(tiny_controlnet)}}))
    drawn = {}
    for name, more in {"same": [], "half": ["--control-strength", "0.5"],
                       "late": ["--control-start", "0.5"], "guess": ["--guess-mode"]}.items():
        options = ["--style", "dots", *control[:4], *more]
        assert draw(trained, tmp_path, *options, name=f"{name}.png") == 0
        drawn[name] = pixels(tmp_path / f"{name}.png")
    np.testing.assert_array_equal(drawn["same"], pixels(tmp_path / "one.png"))
    for name in ("half", "late", "guess"):
        assert np.abs(drawn[name] - drawn["same"]).max() > 1


def test_the_map_of_a_picture_is_made_once_and_anew_when_the_file_changes(tiny_base, layout):
    steering, control = Pipeline(tiny_base).steering, ControlSettings(kind="canny", picture=layout)
    first = steering.map(control, SamplingSettings(width=64, height=64))
    assert steering.map(control, SamplingSettings(width=64, height=64)) is first
    assert steering.map(control, SamplingSettings(width=128, height=64)).shape == (64, 128, 3)

    Image.open(layout).rotate(90).crop((0, 0, 60, 64)).save(layout)
    os.utime(layout, (0, 1))  # another time, on every file system
    assert (steering.map(control, SamplingSettings(width=64, height=64)) != first).any()


def test_control_pictures_of_the_last_drawing_are_kept_and_no_more(tiny_base, tiny_controlnet, tmp_path):
    """A folder of contents goes through: what their ControlNet made of them is many megabytes each."""
    steering, sampling = Pipeline(tiny_base).steering, SamplingSettings(width=64, height=64)
    alive = []
    for number in range(3):
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[16 + number:48, 20:40] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        control = ControlSettings(kind="canny", picture=str(tmp_path / f"{number}.png"), network=str(tiny_controlnet))
        [made], [again] = (steering.pictures([control], sampling) for _ in range(2))
        assert made.condition is again.condition and made.network is again.network
        del made, again
        alive.append(jt.number_of_lived_vars())
    assert alive[0] == alive[1] == alive[2]


def test_an_aligned_set_is_steered_and_its_reference_is_not(world, tmp_path, layout, tiny_controlnet):
    options = ["align", "--config", str(world), "--prompts", "A cat,An owl", "--look", "in ink", "--reference-prompt",
               "A dog", "--guidance-end", "0.5", "--output", str(tmp_path / "set"), "--control", "canny",
               "--control-picture", layout, "--controlnet", str(tiny_controlnet)]
    assert main(options) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "set").glob("*.png")}
    assert len(read_record(tmp_path / "set" / "A cat.png").control) == 1
    assert main(options) == 0  # nothing is left to draw
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").glob("*.png")} == first


@pytest.mark.parametrize("options, message", [
    (["--control", "canny"], "--control-picture"),
    (["--control", "edges", "--control-picture", "{layout}"], "unknown kind of control"),
    (["--control-picture", "{layout}"], "no ControlNet for canny is known"),
    (["--control-picture", "{layout}", "--controlnet", "nowhere"], "nowhere is no ControlNet"),
    (["--control-picture", "none.png", "--controlnet", "{net}"], "none.png does not exist"),
    (["--control-picture", "{white}", "--controlnet", "{net}"], "has no edges"),
    (["--control", "map", "--control-picture", "{white}", "--controlnet", "{net}"], "is of one colour"),
    (["--control-picture", "{layout}", "--control-start", "0.6", "--control-end", "0.5"], "would do nothing"),
    (["--control-picture", "{layout}", "--control-strength", "nan"], "strength"),
    (["--control-picture", "{layout}", "--control-strength", "0"], "greater than 0"),
    (["--control-picture", "{layout}", "--controlnet", "{net}", "--control-start", "0.98", "--control-end", "0.99"],
     "lies between"),
])
def test_what_cannot_be_is_one_sentence(world, tmp_path, layout, tiny_controlnet, capsys, options, message):
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    given = [one.format(layout=layout, net=tiny_controlnet, white=tmp_path / "white.png") for one in options]
    assert draw(world, tmp_path, *given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "one.png").exists()


def test_several_control_pictures_at_once(trained, tmp_path, layout, tiny_controlnet, capsys):
    """Each with its own kind and strength; what is given once counts for all; what does not fit is refused."""
    control = ["--control-picture", layout, "--control-picture", layout, "--controlnet", str(tiny_controlnet)]
    each = ["--control", "canny", "--control", "map", "--control-strength", "0.5", "--control-strength", "1.5"]
    assert draw(trained, tmp_path, *control, *each) == 0
    said = read_record(tmp_path / "one.png").control
    assert [(one.kind, one.strength, one.network) for one in said] == [
        ("canny", 0.5, str(tiny_controlnet)), ("map", 1.5, str(tiny_controlnet))]
    assert draw(trained, tmp_path, *control[:2], *control[4:], name="first.png") == 0
    assert np.abs(pixels(tmp_path / "one.png") - pixels(tmp_path / "first.png")).max() > 1
    capsys.readouterr()
    assert draw(trained, tmp_path, *control, "--control-end", "1", "--control-end", "1", "--control-end", "1",
                name="no.png") == 2
    assert "3 --control-end with 2 --control-picture: give it once" in capsys.readouterr().err
