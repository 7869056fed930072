"""Trainings that start from the tokens of a style of `styleblend encode`, in place of words."""

import numpy as np
import pytest
import yaml

from drawing import save_style
from reference import seeded
from styleblend.adapters.style import Style
from styleblend.cli import main
from styleblend.files.tensor_files import read_safetensors
from styleblend.settings import KINDS

TOKENS = np.stack([seeded.values(f"start/{n}", (32,)) for n in range(8)])


@pytest.fixture
def encoded(world, tmp_path):
    """The world whose trainings take no step, with a style ink of eight tokens: what comes out is the start."""
    save_style(tmp_path / "adapters" / "ink", "ink", Style("ink", {"style_tokens": TOKENS}, KINDS["style_encoder"]()))
    settings = yaml.safe_load(world.read_text())
    settings["training"].update(inversion={"steps": 0, "lr": 0.01}, lora={"steps": 1, "lr": 1e-3, "rank": 2},
                                dreamstyler={"steps": 0, "lr": 0.01, "batch": 1, "stages": 3})
    world.write_text(yaml.safe_dump(settings))
    return world


def train(config, part, *more):
    return main(["train", part, "--config", str(config), "--styles", "dots", *more])


def test_textual_inversion_starts_from_all_of_them(encoded, tmp_path, capsys):
    assert train(encoded, "fine", "--start", "ink") == 0
    [found] = read_safetensors(tmp_path / "adapters" / "dots" / "dots_fine_style_embeds.safetensors").values()
    assert np.array_equal(found, TOKENS) and "starts from the 8 vectors of ink" in capsys.readouterr().err


def test_a_config_may_say_it_and_another_start_is_another_training(encoded, tmp_path, capsys):
    settings = yaml.safe_load(encoded.read_text())
    settings["training"].update(start="ink", lora={"steps": 2, "lr": 1e-3, "rank": 2}, save_every=1)
    encoded.write_text(yaml.safe_dump(settings))
    assert train(encoded, "fine") == 0
    (tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").unlink()
    other = Style("wax", {"style_tokens": TOKENS + np.float32(1)}, KINDS["style_encoder"]())
    save_style(tmp_path / "adapters" / "wax", "wax", other)
    assert train(encoded, "fine", "--start", "wax") == 2
    assert "--overwrite" in capsys.readouterr().err.splitlines()[-1]


def test_the_tokens_of_all_stages_start_from_their_mean(encoded, tmp_path):
    assert train(encoded, "dreamstyler", "--start", "ink") == 0
    rows = read_safetensors(tmp_path / "adapters" / "dots" / "dots_stage_style_embeds.safetensors")
    assert len(rows) == 3 and all(np.allclose(row, TOKENS.mean(0)) for row in rows.values())


@pytest.mark.parametrize("part, start, words", [
    ("fine", "nik", "did you mean ink?"), ("coarse", "ink", "--start has no effect on coarse"),
    ("fine", "few", "has no embedding to start from")])
def test_what_is_refused(encoded, tmp_path, capsys, part, start, words):
    rows = {f"<S>-T{stage}": TOKENS[stage] for stage in range(3)}
    save_style(tmp_path / "adapters" / "few", "few", Style("few", {"stage_embeds": rows}, KINDS["dreamstyler"]()))
    assert train(encoded, part, "--start", start) == 2
    assert words in capsys.readouterr().err
