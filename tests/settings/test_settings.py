"""The configs that come with the project: valid, complete, and the published board's numbers to the last seed."""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from styleblend.errors import StyleBlendError
from styleblend.settings import PRESETS, BlendSettings, RunSettings, SamplingSettings, StyleSettings, blend_for, known_keys, read_settings, read_style_settings, sampling_for, validated

CONFIGS = Path(__file__).parents[2] / "configs"
# SHA-256 of JSON, keys sorted, {style: [c2f sites, f2c sites, scale, c2f ratio, f2c ratio, {prompt: seed, where it is not 2024}]},
# made once from the parameter file of the MIT-licensed release of the B board.
PUBLISHED = "0cfc05f45a016faf79f6a2e598fb3a3c2aae57b5e4d01cdd3cdd7536fac6d41d"
EVERY_SITE, LAYOUT = list(range(16)), list(range(13))


@pytest.fixture(scope="module")
def sd21():
    return read_settings(CONFIGS / "sd21.yaml")


def style_of(settings, name: str) -> tuple:
    """A style's blend settings and its own seeds, as the board draws it."""
    style = settings.styles[name]
    return blend_for(settings.blend, style, name), style.seeds


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_that_comes_with_the_project_is_valid(path):
    settings = read_settings(path)
    assert settings.blend == BlendSettings(**PRESETS["balanced"])
    assert settings.sampling.width % 64 == settings.sampling.height % 64 == 0  # the UNet halves an eighth of it three times
    assert 1 <= settings.training.look_alikes.keep <= settings.training.look_alikes.candidates
    for name in settings.styles:
        style_of(settings, name)


def test_both_configs_are_there():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} >= {"mini", "sd21"}


def test_every_style_of_the_board_is_the_published_one(sd21):
    board = {}
    for name in sd21.styles:
        blend, seeds = style_of(sd21, name)
        board[name] = [blend.c2f_sites, blend.f2c_sites, blend.scale, blend.c2f_ratio, blend.f2c_ratio, seeds]
    assert sorted(board) == [f"{n:02}" for n in range(28)] and sum(len(row[5]) for row in board.values()) == 199
    assert sd21.sampling.seed == 2024
    assert hashlib.sha256(json.dumps(board, sort_keys=True).encode()).hexdigest() == PUBLISHED


@pytest.mark.parametrize("name, c2f, f2c, scale, ratio, seeds", [  # what the digest above cannot say when it fails
    ("00", LAYOUT, [0, 1, 14, 15], 0.5, 0.9, {}),
    ("02", [4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 10, 11, 12, 13, 14, 15], 0.3, 0.8, {"Garage": 2025, "Fork": 2036}),
    ("06", LAYOUT, [0, 1, 13, 14, 15], 0.5, 0.9, {"Ice cream": 2025}),
    ("16", LAYOUT[2:], [0, 1, 13, 14, 15], 0.5, 0.8, {"Lake": 1520}),
    ("19", EVERY_SITE, [0, 1, 14, 15], 0.5, 0.9, {"Fish": 2030}),
    ("24", [4, 5, 6, 7, 8, 9], [0, 1, 2, 3, 10, 11, 12, 13, 14, 15], 0.1, 0.8, {"Workshop": 2020}),
])
def test_spot_values_of_the_board(sd21, name, c2f, f2c, scale, ratio, seeds):
    blend, own = style_of(sd21, name)
    assert (blend.c2f_sites, blend.f2c_sites, blend.scale, blend.c2f_ratio, blend.f2c_ratio) == (c2f, f2c, scale, ratio, 0.6)
    assert seeds.items() <= own.items() and bool(seeds) == bool(own)


def test_trainings_of_the_board_are_the_published_ones(sd21):
    """StyleBlend's own trainings; a setting that the file leaves out is as published by default."""
    training, looks = sd21.training, sd21.training.look_alikes
    assert (training.coarse.steps, training.coarse.lr, training.coarse.rank) == (300, 1e-4, 16)
    inversion, lora = training.inversion, training.lora
    assert (inversion.steps, inversion.lr, inversion.beta1, inversion.decay, inversion.decay_every) == (500, 1e-2, 0.85, 0.7, 30)
    assert (lora.steps, lora.lr, lora.decay, lora.decay_every, lora.rank) == (500, 5e-4, 0.5, 200, 16)
    assert (looks.steps, looks.strengths, looks.candidates, looks.keep) == (20, [0.75, 0.8, 0.85], 15, 10)
    assert (sd21.sampling.sampler, sd21.sampling.steps, sd21.sampling.guidance, sd21.sampling.width, sd21.sampling.output) == ("ddim", 30, 7.5, 768, 512)


# ---------------------------------------------------------------- which setting wins

def test_a_styles_own_field_beats_its_preset_and_a_preset_the_config():
    config = BlendSettings(scale=0.7, f2c_ratio=0.1)
    assert blend_for(config, StyleSettings(), "x") == config
    assert blend_for(config, StyleSettings(blend=dict(scale=0.2)), "x") == BlendSettings(scale=0.2, f2c_ratio=0.1)
    both = blend_for(config, StyleSettings(preset="strong_layout", blend=dict(scale=0.2)), "x")
    assert both == BlendSettings(**{**PRESETS["strong_layout"], "scale": 0.2})


def test_a_styles_own_guidance_counts_unless_the_config_has_none():
    of_style, config = StyleSettings(guidance=2.5), SamplingSettings(guidance=5.0)
    assert sampling_for(config, of_style) == SamplingSettings(guidance=2.5) and sampling_for(config, StyleSettings()) == config
    off = SamplingSettings(guidance=1)
    assert sampling_for(off, of_style) == off


@pytest.mark.parametrize("style, words", [
    (dict(guidance=1), "guidance: input should be greater than 1"),
    (dict(preset="strong"), "unknown preset 'strong'; known: balanced, strong_layout"),
    (dict(blend=dict(c2f_sites=[3, 16])), "c2f_sites has 16; sites are numbered 0 to 15"),
    (dict(blend=dict(c2f_ratio=1.5)), "c2f_ratio"),
    (dict(blend=dict(sclae=1)), "did you mean scale?"),
])
def test_a_style_json_that_cannot_be_followed(style, words, tmp_path):
    (tmp_path / "style.json").write_text(json.dumps(style))
    with pytest.raises(StyleBlendError) as caught:
        blend_for(BlendSettings(), read_style_settings(tmp_path / "style.json"), str(tmp_path / "style.json"))
    assert words in str(caught.value) and "style.json" in str(caught.value) and "\n" not in str(caught.value)


def test_every_key_of_the_configs_is_one_that_a_suggestion_can_name():
    def keys(data):
        return {key for name, value in data.items() if name != "styles" for key in ({name} | (keys(value) if isinstance(value, dict) else set()))}

    for path in CONFIGS.glob("*.yaml"):
        assert keys(yaml.safe_load(path.read_text())) <= set(known_keys(RunSettings))


@pytest.mark.parametrize("text, words", [
    ('styles: {"00": {presets: balanced}}', "unknown key styles.00.presets; did you mean preset?"),
    ('styles: {"00": {seeds: {Cat: many}}}', "styles.00.seeds.Cat"),
    ("styles: {10: {preset: balanced}}", "styles.10"),  # YAML reads an unquoted 10 as a number, and no style has that name
    ("sampling: {steps: 1000}", "sampling.steps"),
    ("training: {look_alikes: {steps: 1000}}", "look_alikes.steps"),
    ("sampling: {width: 100}", "multiple of 8"),
    ("training: {look_alikes: {strengths: []}}", "strengths"),
])
def test_what_cannot_be_is_said_when_the_config_is_read(tmp_path, text, words):
    path = tmp_path / "own.yaml"
    path.write_text(f"base: b\ndata: d\nadapters: a\nlook_alikes: l\n{text}\n")
    with pytest.raises(StyleBlendError) as found:
        read_settings(path)
    assert words in str(found.value)
