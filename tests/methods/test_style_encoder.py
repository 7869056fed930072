"""Style Encoder's recipe: its prompts, its two guidances, and what a picture may depend on."""
from __future__ import annotations

import warnings

import numpy as np
import pytest

from agreement import largest
from drawing import last_latents, request
from reference import seeded
from styleblend.adapters.style import Applied, Style
from styleblend.base.style_prompts import with_style_tokens
from styleblend.diffusion.samplers import SAMPLERS
from styleblend.errors import StyleBlendError
from styleblend.machine.runtime import jt
from styleblend.methods.style_encoder import guidance_of
from styleblend.pipeline import Pipeline
from styleblend.settings import KINDS, SamplingSettings, StyleEncoderSettings

WIDTH, PROMPTS, SEEDS = 32, ["A fox", "Two boats on a lake"], [3, 4]
SAMPLING = SamplingSettings(steps=4, width=80, height=80, guidance=5.0, saved_size=None)


@pytest.fixture(scope="module")
def pipeline(tiny_base):
    return Pipeline(tiny_base)


def style_of(name="ink", count=8, **own):
    rows = np.stack([seeded.values(f"encoder/{name}/{n}", (WIDTH,)) for n in range(count)])
    return Style(name, {"style_tokens": rows}, KINDS["style_encoder"](style_encoder=own))


def asked(style=None, settings=StyleEncoderSettings(), sampling=SAMPLING, prompts=PROMPTS, seeds=SEEDS, **more):
    return request(prompts, seeds, sampling, style or style_of(), method="style_encoder", settings=settings, **more)


def drawn(pipeline, *what, **more):
    """The latents of a drawing, (n, 4, h, w)."""
    ours = asked(*what, **more)
    applied = pipeline.applied(ours.style)
    return last_latents(pipeline, pipeline.recipe(ours, applied), ours.sampling, applied, method="style_encoder")


def texts_of(pipeline, prompt, settings=StyleEncoderSettings(), style=None, **more):
    """The texts of one prompt, by condition."""
    ours = asked(style, settings, prompts=[prompt], seeds=[1], **more)
    recipe = pipeline.recipe(ours, pipeline.applied(ours.style))
    return dict(zip(recipe.rows.conditions, recipe.texts[0]))


# ---------------------------------------------------------------- guidance

@pytest.mark.parametrize("style", [0, 0.5, 1, 3, 7.5])
@pytest.mark.parametrize("scale", [0, 1, 2.5, 7.5])
def test_the_weights_are_those_of_the_formula(style, scale):
    """u + scale (t - u) + style (v - t): they add up to 1, and what has no weight is not drawn."""
    weights, (u, t, v) = guidance_of(style, scale), (2.0, 3.0, 7.0)
    assert abs(sum(weights.values()) - 1) < 1e-9 and all(weights.values())
    found = sum(weight * {"negative": u, "text": t, "full": v}[name] for name, weight in weights.items())
    assert abs(found - (u + scale * (t - u) + style * (v - t))) < 1e-9


def test_equal_guidances_are_ordinary_guidance(pipeline):
    """Of the whole prompt against the negative one: two conditions, as with <F> of StyleBlend in the same words."""
    style = style_of(template="{prompt} in the style of {}.")
    assert list(guidance_of(5.0, 5.0)) == ["negative", "full"]
    ours = drawn(pipeline, style, StyleEncoderSettings(style_guidance=5.0))
    inversion = Applied({"<F>": jt.array(style.parts["style_tokens"])})
    recipe = pipeline.recipe(request(PROMPTS, SEEDS, SAMPLING, branches=("fine",)), inversion)
    assert np.array_equal(ours, last_latents(pipeline, recipe, SAMPLING, inversion))


def test_no_style_guidance_is_the_plain_picture(pipeline):
    plain = request(PROMPTS, SEEDS, SAMPLING.model_copy(update={"fine_negative": "blur"}))
    expected = last_latents(pipeline, pipeline.recipe(plain), plain.sampling, Applied())
    assert np.array_equal(drawn(pipeline, settings=StyleEncoderSettings(style_guidance=0)), expected)


def test_guidance_that_is_off_draws_the_prompt_alone(pipeline):
    off = SAMPLING.model_copy(update={"guidance": 1.0})
    assert list(guidance_of(1.0, 1.0)) == ["full"]
    assert np.isfinite(drawn(pipeline, sampling=off)).all()
    assert list(texts_of(pipeline, "A fox", StyleEncoderSettings(style_guidance=2), sampling=off)) == ["text", "full"]


# ---------------------------------------------------------------- prompts

def test_a_phrase_is_put_into_the_template(pipeline):
    assert texts_of(pipeline, "A fox") == {"negative": "blur", "text": "A fox.", "full": "A fox, in the style of <E>."}
    assert texts_of(pipeline, "A fox", negative="")["negative"] == ""


@pytest.mark.parametrize("template, text", [
    ("{prompt} in the style of {}.", "A fox."), ("A painting of {prompt}, {}", "A painting of A fox"),
    ("{prompt}, in the style of {}, on white.", "A fox, on white."), ("{} {prompt}", " A fox")])
def test_the_prompt_without_the_style_is_the_template_without_its_words(pipeline, template, text):
    found = texts_of(pipeline, "A fox", style=style_of(template=template))  # an encoder's own, kept with its tokens
    assert found["text"] == text and found["full"] == template.format("<E>", prompt="A fox")
    assert texts_of(pipeline, "A fox", StyleEncoderSettings(template=template)) == found


def test_a_long_prompt_loses_the_same_words_with_and_without_the_style(pipeline):
    with pytest.warns(UserWarning, match="this is left out") as said:
        found = texts_of(pipeline, "a red fox and a small white dog run over the hill " * 10)
    assert len(said) == 1 and found["full"] == found["text"][:-1] + ", in the style of <E>."
    ids, _ = pipeline.tokenizer("style_encoder", pipeline.applied(style_of())).read([found["full"]])
    assert (ids >= pipeline.base.tokenizer().vocabulary).sum() == 8 and ids[0, 0, -1] in (49407, 0)


def test_the_word_is_reserved_and_a_style_is_needed(pipeline):
    for prompt in ("A <E> fox", "a <e> fox"):
        with pytest.raises(StyleBlendError, match="leave it out"):
            texts_of(pipeline, prompt)
    with pytest.raises(StyleBlendError, match="there is no style to draw in"):
        pipeline.recipe(request(["A fox"], [1], SAMPLING, method="style_encoder"))


@pytest.mark.parametrize("settings, words", [
    ({"template": "A painting of {prompt}"}, "needs {} once"), ({"template": "in the style of {}"}, "needs {prompt}"),
    ({"references": [{"picture": "a.png", "weight": 0}]}, "weight 0"), ({"style_guidance": -1}, "greater than")])
def test_settings_that_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        StyleEncoderSettings(**settings)


def test_a_style_has_tokens_and_no_references():
    with pytest.raises(ValueError, match="references have no effect on a style"):
        style_of(references=[{"picture": "a.png"}])


# ---------------------------------------------------------------- where the tokens stand

@pytest.mark.parametrize("sign", [".", "!"])
def test_the_tokens_stand_where_the_published_assembly_has_them(sign, pipeline):
    """One word of eight vectors gives the ids of the assembly, wherever there is room."""
    tokenizer = pipeline.base.tokenizer()
    ours = pipeline.tokenizer("style_encoder", pipeline.applied(style_of()))
    for phrase in ("A fox in the snow", "Wow !? a cat", "A fox " + "in the snow " * 18):
        rows, clamped = with_style_tokens(tokenizer, tokenizer.encode([f"{phrase}, in the style of sks{sign}"]))
        assert not clamped[0] and np.array_equal(ours.encode([f"{phrase}, in the style of <E>{sign}"]), rows)
    for words in range(55, 65):  # the room ends among these
        rows, clamped = with_style_tokens(tokenizer, tokenizer.encode([f"{'fox ' * words}, in the style of sks{sign}"]))
        whole = ours.ids(f"{'fox ' * words}, in the style of <E>{sign}")
        assert clamped[0] == (len(whole) > 77) and (clamped[0] or list(rows[0, :len(whole)]) == whole)


def test_several_captions_have_tokens_of_their_own_and_gradients(pipeline):
    tokenizer, network = pipeline.base.tokenizer(), pipeline.base.text_encoder
    vectors = jt.array(np.stack([style_of(name).parts["style_tokens"] for name in ("ink", "wax")]))
    rows = tokenizer.encode(["A fox, in the style of sks.", "Two boats, in the style of sks."])
    ids, _ = with_style_tokens(tokenizer, rows)
    together = network(ids, vectors.reshape(-1, WIDTH))
    for number in range(2):
        alone = network(with_style_tokens(tokenizer, rows[number:number + 1])[0], vectors[number])
        assert largest(together[number:number + 1], alone) <= 1e-5
    gradient = jt.grad(together[0].sqr().sum(), vectors).numpy()
    assert np.abs(gradient[0]).min(axis=1).max() > 0 and not gradient[1].any()


# ---------------------------------------------------------------- pictures

@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(pipeline, sampler):
    sampling = SAMPLING.model_copy(update={"sampler": sampler})
    found = drawn(pipeline, sampling=sampling)
    assert np.isfinite(found).all() and largest(found, drawn(pipeline, style_of("wax"), sampling=sampling)) > 0.01


def test_a_picture_does_not_depend_on_its_neighbours(pipeline):
    together = drawn(pipeline)
    for place in range(2):
        alone = drawn(pipeline, prompts=PROMPTS[place:place + 1], seeds=SEEDS[place:place + 1])
        assert largest(alone, together[place:place + 1]) <= 2e-4


def test_styles_of_other_counts_are_drawn_one_after_another(pipeline):
    first = drawn(pipeline)
    drawn(pipeline, style_of(count=3))
    assert np.array_equal(drawn(pipeline), first)


def test_one_token_or_as_many_as_there_is_room_for(pipeline):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (1, 48):
            assert np.isfinite(drawn(pipeline, style_of(count=count))).all()
