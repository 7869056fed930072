"""Configs: those that come with the project, what cannot be in one, and what older ones may still say."""
from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from styleblend.diffusion.samplers import SAMPLERS
from styleblend.errors import StyleBlendError
from styleblend.settings import (
    PRESETS, BlendSettings, RunSettings, SamplingSettings, blend_for, known_keys, read_settings)

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
# SHA-256 of JSON, keys sorted, {style: [c2f sites, f2c sites, scale, c2f ratio, f2c ratio, {prompt: seed, where it is
# not 2024}]}, made once from the parameter file of the MIT-licensed release of the B board.
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
    # the UNet halves an eighth of it three times
    assert settings.sampling.width % 64 == settings.sampling.height % 64 == 0
    assert 1 <= settings.training.look_alikes.chosen <= settings.training.look_alikes.candidates
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
    assert (blend.c2f_sites, blend.f2c_sites, blend.scale) == (c2f, f2c, scale)
    assert (blend.c2f_ratio, blend.f2c_ratio) == (ratio, 0.6)
    assert seeds.items() <= own.items() and bool(seeds) == bool(own)


def test_trainings_of_the_board_are_the_published_ones(sd21):
    """StyleBlend's own trainings; a setting that the file leaves out is as published by default."""
    training, looks, sampling = sd21.training, sd21.training.look_alikes, sd21.sampling
    assert (training.coarse.steps, training.coarse.lr, training.coarse.rank) == (300, 1e-4, 16)
    inversion, lora = training.inversion, training.lora
    assert (inversion.steps, inversion.lr, inversion.beta1) == (500, 1e-2, 0.85)
    assert (inversion.decay, inversion.decay_every) == (0.7, 30)
    assert (lora.steps, lora.lr, lora.decay, lora.decay_every, lora.rank) == (500, 5e-4, 0.5, 200, 16)
    assert (looks.steps, looks.strengths, looks.candidates, looks.chosen) == (20, [0.75, 0.8, 0.85], 15, 10)
    assert (sampling.sampler, sampling.steps, sampling.guidance) == ("ddim", 30, 7.5)
    assert (sampling.width, sampling.height, sampling.saved_size) == (768, 768, 512)


def test_every_key_of_the_configs_is_one_that_a_suggestion_can_name():
    def keys(data):
        return {key for name, value in data.items() if name != "styles"
                for key in ({name} | (keys(value) if isinstance(value, dict) else set()))}

    for path in CONFIGS.glob("*.yaml"):
        assert keys(yaml.safe_load(path.read_text())) <= set(known_keys(RunSettings))
    assert {"preset", "seeds", "negative_scale", "chosen"} <= set(known_keys(RunSettings))


# ---------------------------------------------------------------- what cannot be

def written(tmp_path, text: str) -> Path:
    """A config with the folders that every one needs, and these lines."""
    path = tmp_path / "own.yaml"
    path.write_text(f"base: b\ndata: d\nadapters: a\nlook_alikes: l\n{text}\n")
    return path


@pytest.mark.parametrize("text, words", [
    ('styles: {"00": {presets: balanced}}', "unknown key styles.00.presets; did you mean preset?"),
    ('styles: {"00": {seeds: {Cat: many}}}', "styles.00.seeds.Cat"),
    ('styles: {"00": {preset: strong}}', "styles.00.preset: unknown preset; did you mean strong_layout?"),
    ('styles: {"00": {blend: {sclae: 1}}}', "unknown key styles.00.blend.sclae; did you mean scale?"),
    ('styles: {"00": {method: style_blend}}', "styles.00.method: unknown method; did you mean styleblend?"),
    ('styles: {"00": 3}', "styles.00: input should be a valid dictionary"),
    ("styles: {10: {preset: balanced}}", "styles.10"),  # an unquoted 10 is a number, and no style has that name
    ("sampling: {steps: 1000}", "sampling.steps"),
    ("training: {look_alikes: {steps: 1000}}", "look_alikes.steps"),
    ("training: {seed: -1}", "training.seed"),
    ("sampling: {width: 100}", "multiple of 8"),
    ("training: {look_alikes: {strengths: []}}", "strengths"),
    ("blend: {c2f_sites: [3, -1]}", "blend.c2f_sites.1"),
    ("sampling: {sampler: eular}",
     "sampling.sampler: unknown sampler; did you mean euler? There are ddim, dpmpp_2m, euler"),
    ("sampling: {sampler: dpm++_2m}", "sampling.sampler: unknown sampler; did you mean dpmpp_2m? There are "),
    ("sampling: {sampler: 3}", "sampling.sampler"),
    ("sampling: {eta: 0.5, sampler: eular}", "sampling.sampler"),
    ("training: {placeholder_coarse: dog}", "placeholder_coarse cannot be set, the token is always <C>: take"),
    ("training: {placeholder_fine: <C>}", "placeholder_fine cannot be set, the token is always <F>"),
])
def test_what_cannot_be_is_said_when_the_config_is_read(tmp_path, text, words):
    with pytest.raises(StyleBlendError) as found:
        read_settings(written(tmp_path, text))
    assert words in str(found.value) and "own.yaml" in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("said, words", [
    ("guidance: 1, guidance_end: 0.5", "guidance 1 switches guidance off"),
    ("guidance_start: 0.6, guidance_end: 0.4", "none of 30 steps lies between 0.6 and 0.4"),
    ("guidance_start: 0.51, guidance_end: 0.52", "none of 30 steps"), ("guidance_start: 1", "guidance_start")])
def test_an_interval_of_guidance_without_a_step_is_refused(tmp_path, said, words):
    with pytest.raises(StyleBlendError, match=words):
        read_settings(written(tmp_path, f"sampling: {{{said}}}"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_that_a_sampler_does_not_add_is_refused(tmp_path, sampler):
    path = written(tmp_path, f"sampling: {{sampler: {sampler}, eta: 0.5}}")
    if SAMPLERS[sampler].takes_noise:
        assert read_settings(path).sampling.eta == 0.5
    else:
        with pytest.raises(StyleBlendError, match=f"sampling.eta: {sampler} adds no noise, only ddim: set eta to 0"):
            read_settings(path)
    assert read_settings(written(tmp_path, f"sampling: {{sampler: {sampler}, eta: 0}}")).sampling.sampler == sampler


# ---------------------------------------------------------------- older files

OLD_CONFIG = """
sampling: {sampler: ddim, steps: 30, guidance: 5.0, width: 128, height: 128, output: 96, seed: 2024, batch: 4}
blend: {c2f_sites: [0, 1], scale: 0.5}
training:
  placeholder_coarse: <C>
  placeholder_fine: "<F>"
  look_alikes: {prompt: "{prompt}.", steps: 20, candidates: 10, keep: 7}
  keep: 4
  keep_adapters: best
styles:
  dots: {preset: strong_layout, blend: {f2c_sites: [0, 1]}, guidance: 2.5, seeds: {Cat: 3}, parts: [unet_lora]}
"""


def test_an_old_config_says_what_it_said(tmp_path):
    settings = read_settings(written(tmp_path, OLD_CONFIG))
    assert (settings.output, settings.sampling.saved_size, settings.sampling.batch) == ("result", 96, 4)
    assert (settings.training.checkpoints, settings.training.look_alikes.chosen) == (4, 7)
    assert settings.training.keep_adapters == "best" and settings.blend.c2f_sites == [0, 1]
    style = settings.styles["dots"]
    assert (style.method, style.preset, style.guidance, style.seeds) == ("styleblend", "strong_layout", 2.5, {"Cat": 3})
    assert (style.blend, style.parts) == ({"f2c_sites": [0, 1]}, ["unet_lora"])


@pytest.mark.parametrize("text, words", [
    ("sampling: {output: 96, saved_size: 96}", "sampling: saved_size is there also under its old name output: take"),
    ("training: {keep: 2, checkpoints: 3}", "training: checkpoints is there also under its old name keep"),
    ("training: {look_alikes: {chosen: 2, keep: 3}}", "look_alikes: chosen is there also under its old name keep"),
])
def test_two_names_for_one_setting_are_refused(tmp_path, text, words):
    with pytest.raises(StyleBlendError) as found:
        read_settings(written(tmp_path, text))
    assert words in str(found.value)


def test_an_old_name_is_checked_as_the_new_one_and_never_written():
    with pytest.raises(ValueError, match="saved_size"):
        SamplingSettings.model_validate({"output": -1})
    assert "output" not in SamplingSettings.model_validate({"output": 96}).model_dump()


# ---------------------------------------------------------------- without Jittor

ALONE = """
import sys, time
for name in ("jittor", "jittor_utils"):
    sys.modules[name] = None  # an import of it fails
import styleblend.settings
print(time.process_time())
import importlib, pkgutil
for module in pkgutil.walk_packages(styleblend.settings.__path__, "styleblend.settings."):
    importlib.import_module(module.name)
styleblend.settings.read_settings("configs/sd21.yaml")
styleblend.settings.read_style_settings("checkpoints/mini/styles/fluent-3d/style.json")
print(len([name for name in sys.modules if name.startswith("styleblend.settings.")]))
"""


def test_settings_start_no_jittor_and_are_there_at_once():
    """Half a second of work, from the start of Python; twice as much where the machine does other things, too."""
    seconds = []
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        took, modules = run.stdout.split()
        seconds.append(float(took))
    print(f"import styleblend.settings: {min(seconds):.2f} s")
    assert min(seconds) < 2 * 0.5 and int(modules) >= 8
