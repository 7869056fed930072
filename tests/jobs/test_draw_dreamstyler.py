"""`styleblend draw` with styles of DreamStyler: by name, mixed, guided, from a picture of it; what is refused."""
import dataclasses

import numpy as np
import pytest
from PIL import Image

from drawing import save_style
from reference import seeded
from styleblend.adapters.stage_tokens import stage_token
from styleblend.adapters.style import Style
from styleblend.cli import main
from styleblend.pipeline import Pipeline
from styleblend.record import read_record
from styleblend.settings import KINDS, DreamStylerSettings, read_settings


def style_of(name, stages=6):
    rows = {stage_token(k): seeded.values(f"dream/{name}/{k}", (32,)) for k in range(stages)}
    return Style(name, {"stage_embeds": rows}, KINDS["dreamstyler"]())


@pytest.fixture
def dreamed(trained, tmp_path):
    """The world with a style of StyleBlend, dots, and three of DreamStyler, of which few has other stages."""
    for style in (style_of("ink"), style_of("wax"), style_of("few", 3)):
        save_style(tmp_path / "adapters" / style.name, style.name, style)
    return trained


def drawn(config, tmp_path, *more, name="picture.png"):
    assert main(["draw", "--config", str(config), "--output", str(tmp_path / name), "--overwrite",
                 *map(str, more)]) == 0
    return np.asarray(Image.open(tmp_path / name), int)


def refused(config, tmp_path, capsys, *more):
    assert main(["draw", "--config", str(config), "--prompt", "A cat", "--output", str(tmp_path / "no.png"),
                 *map(str, more)]) == 2
    assert not (tmp_path / "no.png").exists()
    return capsys.readouterr().err.splitlines()[-1]


def test_a_style_its_record_and_the_library(dreamed, tmp_path, tiny_base):
    found = drawn(dreamed, tmp_path, "--prompt", "A cat", "--style", "ink")
    record = read_record(tmp_path / "picture.png")
    assert (record.method, record.style, list(record.adapters)) == ("dreamstyler", "ink", ["stage_embeds"])
    assert np.array_equal(drawn(dreamed, tmp_path, "--from", tmp_path / "picture.png", name="again.png"), found)
    [picture] = Pipeline(tiny_base, read_settings(dreamed)).pictures("A cat", style="ink")
    assert np.array_equal(picture.pixels, found) and picture.record.style_hash == record.style_hash
    other = drawn(dreamed, tmp_path, "--prompt", "A cat", "--style", "wax")
    assert np.abs(other - found).max() > 3


def test_a_prompt_of_the_published_program(dreamed, tmp_path):
    whole = drawn(dreamed, tmp_path, "--prompt", "A painting of a cat, in the style of {}", "--style", "ink")
    assert np.array_equal(whole, drawn(dreamed, tmp_path, "--prompt", "A cat", "--style", "ink"))


def test_a_mix_is_drawn_and_drawn_again(dreamed, tmp_path, tiny_base):
    ink, wax = (drawn(dreamed, tmp_path, "--prompt", "A cat", "--style", name, "--steps", 6) for name in ("ink", "wax"))
    mix = drawn(dreamed, tmp_path, "--prompt", "A cat", "--mix", "ink:0-2,wax:3-5", "--steps", 6, name="mix.png")
    assert min(np.abs(mix - one).max() for one in (ink, wax)) > 3
    record = read_record(tmp_path / "mix.png")
    assert (record.style, list(record.adapters)) == ("ink:0-2,wax:3-5", ["ink", "wax"])
    assert np.array_equal(drawn(dreamed, tmp_path, "--from", tmp_path / "mix.png", name="again.png"), mix)
    [picture] = Pipeline(tiny_base, read_settings(dreamed)).pictures("A cat", style="ink:0-2,wax:3-5", steps=6)
    assert np.array_equal(picture.pixels, mix)
    assert np.array_equal(drawn(dreamed, tmp_path, "--prompt", "A cat", "--mix", "ink:0-5", "--steps", 6), ink)


def test_two_styles_in_one_prompt(dreamed, tmp_path):
    both = drawn(dreamed, tmp_path, "--prompt", "A cat", "--mix", "ink+wax")
    assert read_record(tmp_path / "picture.png").style == "ink+wax:0-5"
    assert np.abs(both - drawn(dreamed, tmp_path, "--prompt", "A cat", "--style", "ink")).max() > 3


def test_the_dials(dreamed, tmp_path):
    plain = drawn(dreamed, tmp_path, "--prompt", "A cat", "--style", "ink", "--guidance", 7.5)
    equal = drawn(dreamed, tmp_path, "--prompt", "A cat", "--style", "ink", "--sty-gamma", 2.5, "--con-gamma", 2.5)
    assert np.array_equal(plain, equal)
    more = drawn(dreamed, tmp_path, "--prompt", "A cat", "--style", "ink", "--sty-gamma", 4, name="more.png")
    assert np.abs(more - plain).max() > 3
    settings = read_record(tmp_path / "more.png").settings
    assert settings == DreamStylerSettings(use_sc_guidance=True, sty_gamma=4)
    assert np.array_equal(drawn(dreamed, tmp_path, "--from", tmp_path / "more.png", name="again.png"), more)


@pytest.mark.parametrize("options, words", [
    (["--mix", "ink:0-2,wax:4-5"], "leaves stage 3 without a style"),
    (["--mix", "ink:0-2,few:3-5"], "ink has 6 stages and few has 3: mix styles of as many stages"),
    (["--mix", "ink:0-2,dots:3-5"], "dots is a style of styleblend and has no stages"),
    (["--mix", "ink:0-2,wxa:3-5"], "did you mean wax?"),
    (["--mix", "ink:0-5", "--style", "ink"], "--mix names the styles: leave out --style"),
    (["--style", "dots", "--sty-gamma", 2], "--sty-gamma has no effect on dots, a style of styleblend"),
    (["--neg-gamma", 2], "--neg-gamma has no effect on a plain picture"),
    (["--style", "ink", "--formula", "papre"], "did you mean paper?"),
    (["--style", "ink", "--sty-gamma", 2, "--guidance", 3], "--guidance has no effect beside the dials"),
    (["--style", "ink", "--sty-gamma", 2, "--guidance", 1], "have no effect where guidance is off (1)"),
    (["--style", "ink", "--strength", 2], "--strength has no effect on ink"),
])
def test_what_is_refused(dreamed, tmp_path, capsys, options, words):
    assert words in refused(dreamed, tmp_path, capsys, *options)


def test_a_grid_of_stages_against_styles(dreamed, tmp_path, capsys):
    """Each place has the picture of its mix."""
    sheet = tmp_path / "grid.png"
    assert main(["grid", "ink", "--config", str(dreamed), "--prompts", "Cat", "--x", "stages=0-2,3-5",
                 "--y", "with=wax,ink", "--output", str(sheet)]) == 0
    found = np.asarray(Image.open(sheet).convert("RGB"), int)
    for mix in ("wax:0-2,ink:3-5", "ink:0-2,wax:3-5", "ink:0-5"):
        one = drawn(dreamed, tmp_path, "--prompt", "A cat", "--mix", mix)
        assert any(np.abs(found[y:y + 64, x:x + 64] - one).max() <= 1
                   for y in range(found.shape[0] - 63) for x in range(found.shape[1] - 63)), mix
    grid = ["grid", "ink", "--config", str(dreamed), "--prompts", "Cat", "--output", str(tmp_path / "no.png")]
    for axes, words in ((["--x", "stages=0-2"], "stages and with go together"),
                        (["--x", "stages=0-9", "--y", "with=wax"], "wax has no stage 6"),
                        (["--x", "stages=0-2", "--y", "with=dots"], "dots is a style of styleblend")):
        assert main([*grid, *axes]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_grid_of_dials(dreamed, tmp_path):
    sheet = tmp_path / "grid.png"
    assert main(["grid", "ink", "--config", str(dreamed), "--prompts", "Cat", "--x", "sty_gamma=0.5,4",
                 "--output", str(sheet)]) == 0
    found = np.asarray(Image.open(sheet).convert("RGB"), int)
    one = drawn(dreamed, tmp_path, "--prompt", "A cat", "--style", "ink", "--sty-gamma", 4)
    assert any(np.abs(found[y:y + 64, x:x + 64] - one).max() <= 1
               for y in range(found.shape[0] - 63) for x in range(found.shape[1] - 63))


def test_a_set_is_not_aligned_in_it(dreamed, tmp_path, capsys):
    """StyleAligned draws in the token and the LoRA of StyleBlend; these tokens would change nothing."""
    assert main(["align", "--config", str(dreamed), "--prompts", "A cat,A dog", "--look", "ink", "--style", "ink",
                 "--output", str(tmp_path / "set")]) == 2
    assert "--style ink has no effect on a set: it is a style of dreamstyler" in capsys.readouterr().err


def test_a_style_whose_file_is_another(dreamed, tmp_path, capsys):
    """A LoRA in the place of the tokens; tokens of another base."""
    place = tmp_path / "adapters" / "ink" / "ink_stage_style_embeds.safetensors"
    place.write_bytes((tmp_path / "adapters" / "dots" / "dots_unet_lora.safetensors").read_bytes())
    assert "in the place of tokens such as <ink>-T0" in refused(dreamed, tmp_path, capsys, "--style", "ink")
    wide = {token: np.ones(768, np.float32) for token in style_of("ink").parts["stage_embeds"]}
    save_style(tmp_path / "adapters" / "ink", "ink", dataclasses.replace(style_of("ink"), parts={"stage_embeds": wide}))
    assert "768 (Stable Diffusion 1.x)" in refused(dreamed, tmp_path, capsys, "--style", "ink")
