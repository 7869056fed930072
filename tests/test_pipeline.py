"""The public class: what a request takes from where, and pipelines that share a base without disturbing each other."""
from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain, zip_longest

import numpy as np
import pytest

from drawing import pictures, request, with_part
from reference import seeded
from styleblend.adapters.style import load_style
from styleblend.base.base import load_base
from styleblend.errors import StyleBlendError
from styleblend.pipeline import Picture, Pipeline, Progress
from styleblend.settings import PRESETS, BlendSettings, SamplingSettings, StyleBlendStyle, read_settings

SMALL = SamplingSettings(steps=3, width=64, height=64, guidance=3.0, output=None)


@pytest.fixture(scope="module")
def other_style(tiny_style):
    """Another one, with two vectors for its <F>: in it <F> is more ids long."""
    width = len(tiny_style.parts["fine_embeds"])
    other = {key: value * -1 if ".up." in key else value for key, value in tiny_style.parts["unet_lora"].items()}
    return replace(with_part(tiny_style, unet_lora=other, fine_embeds=seeded.values("pipeline/other", (2, width))),
                   name="other")


def of(events) -> np.ndarray:
    return np.stack([event.pixels for event in events if isinstance(event, Picture)])


def in_turns(*draws) -> list:
    """The pictures of several drawings whose steps take turns."""
    found = [[] for _ in draws]
    for events in zip_longest(*draws):
        for own, event in zip(found, events):
            own += [event] if event else []
    return [of(events) for events in found]


# ---------------------------------------------------------------- beside each other

def test_two_pipelines_on_one_base_do_not_disturb_each_other(tiny_base, tiny_style, other_style):
    """Step by step in turns each draws what it draws alone: styles, samplers and numbers of pictures differ."""
    first = request(["A cat", "An owl"], [1, 2], SMALL, tiny_style)
    second = request(["A dog"], [3], SMALL.model_copy(update={"sampler": "euler", "steps": 4}), other_style)
    alone = [pictures(Pipeline(tiny_base), asked) for asked in (first, second)]
    together = in_turns(Pipeline(tiny_base).draw(first), Pipeline(tiny_base).draw(second))
    assert [len(drawn) for drawn in together] == [2, 1]
    assert all(np.array_equal(one, other) for one, other in zip(alone, together))
    # the style is seen
    assert not np.array_equal(pictures(Pipeline(tiny_base), replace(second, style=tiny_style)), alone[1])


def test_two_drawings_of_one_pipeline_take_turns(tiny_base, tiny_style, other_style):
    """With three styles, one of them none."""
    asked = [request(["A cat"], [1], SMALL, style) for style in (tiny_style, None, other_style)]
    alone, pipeline = [pictures(Pipeline(tiny_base), one) for one in asked], Pipeline(tiny_base)
    together = in_turns(*map(pipeline.draw, asked))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together))
    assert len({one.tobytes() for one in alone}) == 3


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_plain_picture_beside_a_styled_one_is_plain(tiny_folder, tiny_base, tiny_style, guidance):
    """Bit for bit one of a base that never saw a style, also where the request has a style: no part of any LoRA is
    felt."""
    sampling = SMALL.model_copy(update={"guidance": guidance})
    plain, styled = request(["A cat"], [1], sampling), request(["A cat"], [1], sampling, tiny_style)
    fresh, pipeline = pictures(Pipeline(load_base(tiny_folder)), plain), Pipeline(tiny_base)
    beside, with_style = in_turns(pipeline.draw(plain), pipeline.draw(styled))
    assert np.array_equal(beside, fresh) and not np.array_equal(with_style, fresh)
    assert np.array_equal(pictures(pipeline, replace(styled, branches=("plain",))), fresh)


def test_progress_comes_after_each_step_and_then_the_pictures(tiny_base, tiny_style):
    """With the present guess of what is shown; a picture knows its branch, prompt and seed."""
    asked = request(["A cat", "An owl"], [1, 2], SMALL, tiny_style)
    events = list(Pipeline(tiny_base).draw(asked))
    assert [type(event) for event in events] == [Progress] * 3 + [Picture] * 2
    assert [(event.done, event.total) for event in events[:3]] == [(1, 3), (2, 3), (3, 3)]
    assert all(tuple(event.x0.shape) == (2, 4, 8, 8) for event in events[:3])
    for event, prompt, seed in zip(events[3:], asked.prompts, asked.seeds):
        assert event.branch == "fine" and event.pixels.shape == (64, 64, 3) and event.pixels.dtype == np.uint8
        assert (event.record.prompt, event.record.seed, event.record.style) == (prompt, seed, "tiny")


def test_a_size_that_latents_cannot_have_is_refused(tiny_base):
    with pytest.raises(StyleBlendError, match="multiples of 8, not 60 x 64"):
        next(Pipeline(tiny_base).draw(request(["A cat"], [1], SMALL.model_copy(update={"width": 60}))))


# ---------------------------------------------------------------- requests

OWN = {"preset": "strong_layout", "blend": {"scale": 0.9}, "guidance": 4.5, "seeds": {"A cat": 77}}


@pytest.fixture
def settings(trained):
    """The world's config; its one style is in adapters/dots."""
    return read_settings(trained)


def asked_of_style(settings, tiny_base, **more):
    return Pipeline(tiny_base, settings).request("A cat", "An owl", style="dots", **more)


def test_a_request_has_the_styles_own_settings(settings, tiny_base, tmp_path):
    """Its preset with what differs from it, and its guidance; the rest is the config's. Its seeds are those of the
    prompts of its board, and a request asks for none of them."""
    (tmp_path / "adapters" / "dots" / "style.json").write_text(json.dumps(OWN))
    asked = asked_of_style(settings, tiny_base)
    assert asked.settings == BlendSettings(**{**PRESETS["strong_layout"], "scale": 0.9})
    assert asked.own.preset == "strong_layout"
    assert asked.sampling == settings.sampling.model_copy(update={"guidance": 4.5})
    assert asked.prompts == ("A cat", "An owl") and asked.seeds == (settings.sampling.seed,) * 2
    assert asked.method == "styleblend" and asked.style.name == "dots" and asked.branches is None
    assert asked.negative is None


def test_the_config_speaks_for_a_style_that_says_nothing(settings, tiny_base, tmp_path):
    """Its entry in `styles:`; a style.json takes its place as a whole, and a style that is not named in either has the
    config's settings."""
    config = settings.model_copy(update={"styles": {"dots": StyleBlendStyle(**OWN)}})
    asked = asked_of_style(config, tiny_base)
    assert (asked.settings.scale, asked.sampling.guidance) == (0.9, 4.5)
    (tmp_path / "adapters" / "dots" / "style.json").write_text(json.dumps({"blend": {"fine_scale": 0.5}}))
    asked = asked_of_style(config, tiny_base)
    assert asked.settings == config.blend.model_copy(update={"fine_scale": 0.5}) and asked.sampling == config.sampling
    (tmp_path / "adapters" / "dots" / "style.json").unlink()
    asked = asked_of_style(settings, tiny_base)
    assert asked.settings == settings.blend and asked.sampling == settings.sampling
    assert asked.seeds == (settings.sampling.seed,) * 2


def test_what_a_request_says_counts_first(settings, tiny_base, tmp_path):
    (tmp_path / "adapters" / "dots" / "style.json").write_text(json.dumps(OWN))
    asked = asked_of_style(settings, tiny_base, seeds=[1, 2], guidance=2.0, steps=7, negative="fog")
    assert (asked.seeds == (1, 2)
            and (asked.sampling.guidance, asked.sampling.steps, asked.sampling.fine_negative) == (2.0, 7, "fog"))
    assert asked_of_style(settings, tiny_base, seeds=5).seeds == (5, 5)
    pipeline = Pipeline(tiny_base, settings)
    assert pipeline.recipe(asked).texts[0][:4] == ("", "", "fog", "fog")  # of what is shown, the fine branch
    plain = [pipeline.recipe(pipeline.request("A cat", **more)).texts[0] for more in ({}, {"negative": "fog"})]
    assert plain == [("", "A cat."), ("fog", "A cat.")]  # the config's are those of a style's branches
    off = settings.model_copy(update={"sampling": settings.sampling.model_copy(update={"guidance": 1.0})})
    # where the config switches guidance off it stays off
    assert asked_of_style(off, tiny_base).sampling.guidance == 1.0


@pytest.mark.parametrize("more, words", [({"stepz": 3}, "unknown key stepz; did you mean steps"),
                                         ({"steps": 0}, "the request: steps")])
def test_a_setting_that_is_none_is_refused(settings, tiny_base, more, words):
    with pytest.raises(StyleBlendError, match=words):
        asked_of_style(settings, tiny_base, **more)


def test_a_style_is_a_name_a_folder_or_a_style(settings, tiny_base, tmp_path):
    """And they all draw the same picture, as the library's short way does."""
    folder = tmp_path / "adapters" / "dots"
    (folder / "style.json").write_text(json.dumps(OWN))
    pipeline = Pipeline(tiny_base, settings)
    ways = ("dots", folder, str(folder), load_style(folder, "dots", tiny_base))
    drawn = [pipeline.pictures("A cat", style=style) for style in ways]
    assert all(np.array_equal(drawn[0][0].pixels, one.pixels) for one in chain(*drawn[1:]))
    [picture] = drawn[0]
    assert picture.record.seed == settings.sampling.seed and picture.record.preset == "strong_layout"
    assert picture.record.settings.scale == 0.9
    [plain] = pipeline.pictures("A cat")
    assert plain.branch == "plain" and plain.record.style == "" and not np.array_equal(plain.pixels, picture.pixels)
    with pytest.raises(StyleBlendError):
        pipeline.request("A cat", style="../dots")


def test_a_base_without_a_config_draws_the_size_it_was_trained_for(tiny_base):
    sampling = Pipeline(tiny_base).request("A cat").sampling
    assert (sampling.width, sampling.height, sampling.saved_size) == (128, 128, None)
