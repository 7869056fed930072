"""`styleblend styles`: what is there, by which method, with which parts, learned on which base."""
import json
import os

import pytest

from styleblend.cli import main
from styleblend.errors import Busy, StyleBlendError
from styleblend.files.claims import claim
from styleblend.jobs.styles import delete_style, list_styles
from styleblend.settings import read_settings


def test_a_style_says_what_it_is(world, tmp_path, tiny_base, capsys):
    assert main(["train", "all", "--config", str(world)]) == 0
    files = list((tmp_path / "adapters" / "dots").glob("*.safetensors"))
    for path in files:
        os.utime(path, (1e9, 1e9))
    capsys.readouterr()
    [found] = list_styles(read_settings(world))
    assert (found.name, found.method, found.base, found.trained, found.problem) == (
        "dots", "styleblend", tiny_base.fingerprint(), 1e9, None)
    assert found.parts == ("coarse_embeds", "fine_embeds", "text_lora", "unet_lora") and found.missing == ()
    assert main(["styles", "--config", str(world)]) == 0
    out = capsys.readouterr().out
    assert "dots" in out and tiny_base.fingerprint() in out and "2001-09-0" in out


def test_what_is_missing_or_damaged_is_said_and_the_rest_is_listed(trained, tmp_path, capsys):
    (tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").unlink()
    other = tmp_path / "adapters" / "other"
    other.mkdir()
    (other / "other.safetensors").write_bytes(b"no tensors")
    (tmp_path / "adapters" / "empty").mkdir()
    dots, broken = list_styles(read_settings(trained))
    assert dots.missing == ("unet_lora",) and dots.base is None and broken.name == "other" and broken.problem
    assert main(["styles", "--config", str(trained)]) == 0
    assert "missing: unet_lora" in capsys.readouterr().out


def test_a_partial_style_misses_nothing(trained, tmp_path):
    folder = tmp_path / "adapters" / "dots"
    (folder / "dots_unet_lora.safetensors").unlink()
    (folder / "style.json").write_text(json.dumps({"parts": ["coarse_embeds", "fine_embeds", "text_lora"]}))
    assert list_styles(read_settings(trained))[0].missing == ()


def test_where_there_are_none(world, tmp_path, capsys):
    assert main(["styles", "--config", str(world)]) == 2 and "does not exist" in capsys.readouterr().err
    (tmp_path / "adapters").mkdir()
    assert main(["styles", "--config", str(world)]) == 0 and "train styleblend" in capsys.readouterr().out


@pytest.mark.parametrize("settings", ["[]", '{"partz": 1}'])
def test_settings_that_cannot_be_read_are_the_styles_problem(trained, tmp_path, settings):
    (tmp_path / "adapters" / "dots" / "style.json").write_text(settings)
    assert "style.json" in list_styles(read_settings(trained))[0].problem


def test_a_style_is_deleted_and_its_pictures_stay(trained, tmp_path):
    settings = read_settings(trained)
    with claim(tmp_path / "adapters" / "dots" / "training", "fine"), pytest.raises(Busy):
        delete_style(settings, "dots")
    assert (tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").is_file()
    assert delete_style(settings, "dots") == tmp_path / "adapters" / "dots"
    assert not (tmp_path / "adapters" / "dots").exists() and (tmp_path / "data" / "dots" / "images").is_dir()


@pytest.mark.parametrize("name", ["dots", "../data", "", ".", "link"])
def test_what_is_no_style_of_ones_own_is_not_deleted(world, tmp_path, name):
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "link").symlink_to(tmp_path / "data")
    with pytest.raises(StyleBlendError):
        delete_style(read_settings(world), name)
    assert (tmp_path / "data" / "dots" / "images").is_dir()
