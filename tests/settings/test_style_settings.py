"""What a style says of itself: whose word counts, which method's it is, and how it is written."""
from __future__ import annotations

import json
from typing import ClassVar, Literal, Type

import pytest

from styleblend.errors import StyleBlendError
from styleblend.settings import (
    KINDS, PRESETS, BlendSettings, MethodSettings, SamplingSettings, StyleBlendStyle, StyleSettings, blend_for,
    read_style_settings, sampling_for)
from styleblend.settings.styles import of_its_method


# ---------------------------------------------------------------- which setting wins

def test_a_styles_own_field_beats_its_preset_and_a_preset_the_config():
    config = BlendSettings(scale=0.7, f2c_ratio=0.1)
    assert blend_for(config, StyleBlendStyle(), "x") == config
    assert blend_for(config, StyleBlendStyle(blend=dict(scale=0.2)), "x") == BlendSettings(scale=0.2, f2c_ratio=0.1)
    both = blend_for(config, StyleBlendStyle(preset="strong_layout", blend=dict(scale=0.2)), "x")
    assert both == BlendSettings(**{**PRESETS["strong_layout"], "scale": 0.2})


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_replaces_what_it_names_and_nothing_else(preset):
    config = dict(fine_scale=0.7, negative_scale=-2.0, cross_c2f_sites=[3], window_steps=20, scale=0.9, c2f_sites=[5])
    blend = blend_for(BlendSettings(**config), StyleBlendStyle(preset=preset), "x")
    kept = {name: value for name, value in config.items() if name not in PRESETS[preset]}
    assert len(kept) == 4 and blend == BlendSettings(**PRESETS[preset], **kept)


def test_a_styles_own_guidance_counts_unless_the_config_has_none():
    of_style, config = StyleBlendStyle(guidance=2.5), SamplingSettings(guidance=5.0)
    assert sampling_for(config, of_style) == SamplingSettings(guidance=2.5)
    assert sampling_for(config, StyleBlendStyle()) == config
    off = SamplingSettings(guidance=1)
    assert sampling_for(off, of_style) == off


# ---------------------------------------------------------------- style.json

def read(tmp_path, style):
    """The settings of a style.json that holds `style`."""
    (tmp_path / "style.json").write_text(json.dumps(style))
    return read_style_settings(tmp_path / "style.json")


@pytest.mark.parametrize("style, words", [
    (dict(guidance=1), "guidance: input should be greater than 1"),
    (dict(preset="strong"),
     "preset: unknown preset; did you mean strong_layout? There are balanced, strong_layout (got 'strong')"),
    (dict(blend=dict(c2f_sites=[3, -16])), "blend.c2f_sites.1: input should be greater than or equal to 0"),
    (dict(blend=dict(c2f_ratio=1.5)), "c2f_ratio"),
    (dict(blend=dict(sclae=1)), "did you mean scale?"),
    (dict(method="sketch"),
     "method: unknown method; there are styleblend, style_aligned, dreamstyler, style_encoder (got 'sketch')"),
    (dict(method="dream"), "method: unknown method; did you mean dreamstyler?"),
    (dict(method="dreamstyler", dreamstyler=dict(template="A {prompt}")), "template needs {} once"),
    (dict(method="dreamstyler", dreamstyler=dict(template="In the style of {}")), "template needs {prompt} once"),
    (dict(method="dreamstyler", dreamstyler=dict(null_context="A painting")), "null_context needs {} once"),
    (dict(method="dreamstyler", dreamstyler=dict(sty_gamma=1)), "sty_gamma has an effect only with use_sc_guidance"),
    (dict(method="dreamstyler", dreamstyler=dict(use_sc_guidance=True, formula="papr")), "did you mean paper?"),
    (dict(method="dreamstyler", dreamstyler=dict(use_sc_guidance=True, con_gamma=-1)), "con_gamma"),
    (dict(method=["styleblend"]), "method: unknown method"),
    (dict(method=None), "method: unknown method"),
    (dict(parts=[]), "parts"),
    (dict(parts=[3]), "parts.0"),
])
def test_a_style_json_that_cannot_be_followed(style, words, tmp_path):
    with pytest.raises(StyleBlendError) as caught:
        read(tmp_path, style)
    assert words in str(caught.value) and "style.json" in str(caught.value) and "\n" not in str(caught.value)


def test_an_old_style_json_is_styleblends(tmp_path):
    old = dict(preset="strong_layout", blend=dict(scale=0.6, negative_scale=-2.25), guidance=2.57, seeds=dict(Cat=5),
               source="a book", parts=["fine_embeds", "unet_lora"])
    style = read(tmp_path, old)
    assert isinstance(style, StyleBlendStyle) and style.method == "styleblend"
    assert {name: getattr(style, name) for name in old} == old
    assert json.loads(style.model_dump_json(exclude_defaults=True)) == old  # and as old programs read it
    assert read(tmp_path, {**old, "method": "styleblend"}) == style
    assert read_style_settings(tmp_path / "none.json") == StyleBlendStyle()


def test_parts_are_the_adapters_to_check(tmp_path):
    from styleblend.adapters.style_files import settings_in
    assert read(tmp_path, dict(parts=["wings"])).parts == ["wings"]
    with pytest.raises(StyleBlendError, match="style.json: parts: a style has no 'wings'; there are coarse_emb"):
        settings_in(tmp_path, "dots")


class OtherSettings(MethodSettings):
    """How a method that is not there draws."""

    force: float = 1.0


class OtherStyle(StyleSettings):
    """A style of it."""

    section: ClassVar[str] = "other"
    drawing: ClassVar[Type[MethodSettings]] = OtherSettings

    method: Literal["other"] = "other"
    other: OtherSettings = OtherSettings()


def test_a_style_of_another_method_is_written_with_its_name():
    """Also where defaults are left out: it would come back as a style of StyleBlend."""
    written = json.loads(OtherStyle(guidance=3).model_dump_json(exclude_defaults=True))
    assert written == {"method": "other", "guidance": 3.0}
    assert OtherStyle().model_dump()["method"] == "other"


def test_there_are_no_settings_of_no_method():
    with pytest.raises(ValueError, match="method"):
        StyleSettings()
    for name, kind in KINDS.items():
        assert kind().method == name and isinstance(of_its_method({"method": name}), kind)
        assert issubclass(kind.drawing, MethodSettings) and "{prompt}" in kind.shown_prompt
