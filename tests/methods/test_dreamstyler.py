"""DreamStyler: what must hold whatever the weights are, prompts with a place for the style, bad input."""
from __future__ import annotations

import numpy as np
import pytest

from drawing import last_latents, request
from reference import seeded
from styleblend.adapters.stage_tokens import by_stage, stage_token, stage_vectors
from styleblend.adapters.style import Applied, Style
from styleblend.diffusion.samplers import SAMPLERS
from styleblend.errors import StyleBlendError
from styleblend.machine.runtime import jt
from styleblend.methods.dreamstyler import guidance_of, stage_of, template_of
from styleblend.pipeline import Pipeline
from styleblend.settings import DreamStylerSettings, SamplingSettings

SAMPLING = SamplingSettings(steps=6, guidance=5, width=128, height=128, fine_negative="blur")
PROMPTS, SEEDS = ("A train", "A boat"), (5, 6)
WIDTH = 32


@pytest.fixture(scope="module")
def pipeline(tiny_base):
    return Pipeline(tiny_base)


def style_of(stages=6, name="ink", rows=None) -> Style:
    """A made-up style; `rows` in place of its vectors, by stage."""
    found = {stage_token(k): seeded.values(f"dream/{name}/{k}", (WIDTH,)) for k in range(stages)}
    return Style(name, {"stage_embeds": found if rows is None else dict(zip(found, rows))})


def guided(**dials) -> DreamStylerSettings:
    return DreamStylerSettings(use_sc_guidance=True, **dials)


def drawn(pipeline, style=None, settings=DreamStylerSettings(), sampling=SAMPLING, prompts=PROMPTS, seeds=SEEDS):
    """The last latents, (prompts, 4, h, w)."""
    style = style or style_of()
    asked, applied = request(prompts, seeds, sampling, style, method="dreamstyler", settings=settings), None
    applied = pipeline.applied(style)
    return last_latents(pipeline, pipeline.recipe(asked, applied), sampling, applied, method="dreamstyler")


def near(ours, theirs, most=1e-4):
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) <= most


def far(ours, theirs, least=1e-3):
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) >= least


# ---------------------------------------------------------------- guidance

@pytest.mark.parametrize("formula", ["code", "paper"])
def test_the_weights_are_the_published_terms_added_up(formula):
    """Term by term as they are published, with outputs that are numbers."""
    rng, f = np.random.default_rng(0), {"code": 0.5, "paper": 1.0}[formula]
    for s, c, n in rng.uniform(0, 8, (50, 3)):
        weights = guidance_of(guided(sty_gamma=s, con_gamma=c, neg_gamma=n, formula=formula), SAMPLING)
        assert abs(sum(weights.values()) - 1) < 1e-9 and len(weights) == 4
        u, ns, nc, v = rng.standard_normal(4)
        total = u + f * (c * (ns - u) + s * (v - ns) + s * (nc - u) + c * (v - nc)) + n * (v - u)
        ours = sum(weights[name] * one for name, one in dict(negative=u, content=ns, style=nc, full=v).items())
        assert abs(ours - total) < 1e-9 * max(1, abs(total))


def test_the_published_dials_give_the_published_weights():
    assert guidance_of(guided(), SAMPLING) == dict(negative=-5.75, content=1.25, style=-1.25, full=6.75)


@pytest.mark.parametrize("formula, scale", [("code", 7.5), ("paper", 10)])
def test_equal_dials_are_ordinary_guidance_without_more_rows(pipeline, formula, scale):
    settings = guided(sty_gamma=2.5, con_gamma=2.5, neg_gamma=5, formula=formula)
    assert guidance_of(settings, SAMPLING) == dict(negative=1 - scale, full=scale)
    plain = drawn(pipeline, sampling=SAMPLING.model_copy(update={"guidance": scale}))
    assert np.array_equal(drawn(pipeline, settings=settings), plain)


def test_guidance_that_is_off_leaves_one_row(pipeline):
    off = SAMPLING.model_copy(update={"guidance": 1})
    assert guidance_of(guided(), off) == {"full": 1.0}
    assert np.array_equal(drawn(pipeline, settings=guided(), sampling=off), drawn(pipeline, sampling=off))


def test_each_dial_changes_the_picture(pipeline):
    found = [drawn(pipeline, settings=guided(**dial)) for dial in ({}, dict(sty_gamma=2), dict(con_gamma=1),
                                                                   dict(neg_gamma=3), dict(formula="paper"))]
    for other in found[1:]:
        far(other, found[0])


# ---------------------------------------------------------------- stages

def test_stages_share_the_schedule_in_equal_parts():
    assert [stage_of(t, 6, 1000) for t in (0, 166, 167, 333, 334, 833, 834, 999)] == [0, 0, 1, 1, 2, 4, 5, 5]
    assert stage_of(580, 50, 1000) == 29  # 28 where 580 is divided by 1000 first
    assert stage_of(166.7, 6, 1000) == 1  # Euler's times need not be whole


def test_equal_rows_in_all_stages_are_one_stage(pipeline):
    row = seeded.values("dream/one", (WIDTH,))
    near(drawn(pipeline, style_of(6, rows=[row] * 6)), drawn(pipeline, style_of(1, rows=[row])))


def test_one_stage_is_textual_inversion(pipeline):
    """The same vector as <F> of StyleBlend, under a template that is that method's prompt."""
    row = seeded.values("dream/one", (WIDTH,))
    ours = drawn(pipeline, style_of(1, rows=[row]),
                 DreamStylerSettings(template="{prompt} in the style of {}.", null_context="In the style of {}"))
    inversion = Applied({"<F>": jt.array(row[None])})
    recipe = pipeline.recipe(request(PROMPTS, SEEDS, SAMPLING, branches=("fine",)), inversion)
    assert np.array_equal(ours, last_latents(pipeline, recipe, SAMPLING, inversion))


def test_a_stage_acts_in_its_own_steps_alone(pipeline):
    """Another token for the least noise changes nothing before the last steps."""
    def path(style):
        from styleblend.diffusion.denoise import denoise
        applied = pipeline.applied(style)
        recipe = pipeline.recipe(request(PROMPTS, SEEDS, SAMPLING, style, method="dreamstyler"), applied)
        texts = pipeline.encode(recipe, "dreamstyler", applied)
        return [(recipe.stage(step.time), step.x.numpy()) for step in denoise(pipeline.base, recipe, texts, SAMPLING)]

    ink, wax = style_of(), style_of(name="wax")
    mixed = style_of(rows=[(wax if k < 2 else ink).parts["stage_embeds"][stage_token(k)] for k in range(6)])
    for (stage, one), (_, two) in zip(path(ink), path(mixed)):
        assert np.array_equal(one, two) == (stage >= 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(pipeline, sampler):
    sampling = SAMPLING.model_copy(update={"sampler": sampler})
    found = drawn(pipeline, settings=guided(), sampling=sampling)
    assert np.isfinite(found).all()
    far(found, drawn(pipeline, style_of(name="wax"), guided(), sampling))


def test_a_picture_does_not_depend_on_its_neighbours(pipeline):
    together = drawn(pipeline, settings=guided())
    for place in range(2):
        near(drawn(pipeline, settings=guided(), prompts=PROMPTS[place:place + 1], seeds=SEEDS[place:place + 1]),
             together[place:place + 1])


def test_styles_of_other_stages_are_drawn_one_after_another(pipeline):
    """Each has tokens of its own; the first one's picture stays the same."""
    first = drawn(pipeline)
    drawn(pipeline, style_of(3))
    drawn(pipeline, style_of(12))
    assert np.array_equal(drawn(pipeline), first)


# ---------------------------------------------------------------- prompts

def texts_of(pipeline, prompt, settings=DreamStylerSettings(), style=None, **more):
    """The texts of the first stage, by condition."""
    applied = pipeline.applied(style or style_of())
    asked = request([prompt], [1], SAMPLING, method="dreamstyler", settings=settings, **more)
    recipe = pipeline.recipe(asked, applied)
    return dict(zip(recipe.rows.conditions, recipe.texts[0]))


def test_a_phrase_is_put_into_the_template(pipeline):
    assert texts_of(pipeline, "A fox", guided()) == {
        "negative": "blur", "content": "A painting of A fox, ", "style": "A painting in the style of <S>-T0",
        "full": "A painting of A fox, in the style of <S>-T0"}
    assert texts_of(pipeline, "A fox", negative="")["negative"] == ""


def test_a_prompt_with_a_place_for_the_style_is_drawn_as_it_stands(pipeline):
    found = texts_of(pipeline, "Two boats in the style of {} at sea", guided())
    assert found["full"] == "Two boats in the style of <S>-T0 at sea" and found["content"] == "Two boats  at sea"
    assert texts_of(pipeline, "{} boats")["full"] == "<S>-T0 boats"
    whole = texts_of(pipeline, "(a fox in the style of {}:1.2) here")["full"]  # the emphasis goes over the place
    assert whole.startswith("(a fox in the style of ") and whole.endswith("<S>-T0:1.2) here")


def test_a_long_prompt_does_not_lose_the_style(pipeline):
    for prompt in (" ".join(["boat"] * 90), " ".join(["boat"] * 90) + ", in the style of {}"):
        with pytest.warns(UserWarning, match="left out"):
            found = texts_of(pipeline, prompt)["full"]
        assert found.endswith("in the style of <S>-T0")
    assert template_of("", "A fox, in the style of {}.") == ("{prompt} in the style of {}.", "A fox,")


def test_a_token_in_a_prompt_is_refused(pipeline):
    for prompt in ("A fox <S>-T0", "a <s>-T3 house"):
        with pytest.raises(StyleBlendError, match="leave it out"):
            texts_of(pipeline, prompt)


def test_without_tokens_there_is_nothing_to_draw(pipeline):
    with pytest.raises(StyleBlendError, match="name a --style"):
        pipeline.recipe(request(["A fox"], [1], SAMPLING, method="dreamstyler"), Applied())


# ---------------------------------------------------------------- files

def vectors(*names, width=WIDTH):
    return {name: np.ones(width, np.float32) for name in names}


def test_tokens_are_read_in_the_order_of_their_stages():
    rows = {f"<a b>-T{k}": np.full((1, WIDTH), k, np.float64) for k in (10, 2, 0, 1, *range(3, 10))}
    found = stage_vectors(rows, WIDTH, "x.bin")
    assert [row[0] for row in found.values()] == list(range(11)) and by_stage(found)[10] == ("<S>-T10",)
    assert all(row.dtype == np.float32 and row.shape == (WIDTH,) for row in found.values())


@pytest.mark.parametrize("tensors, words", [
    (vectors("<a>-T0", "<a>-T2"), "has no token of stage 1"),
    (vectors("<a>-T0", "<b>-T1"), "has the tokens of 2 styles"),
    (vectors("<a>-T0", "<a>-T00"), "has a stage twice"),
    (vectors("<a>"), "has <a> in the place of tokens such as"),
    ({}, "has nothing in the place of tokens"),
    (vectors(*(f"<a>-T{k}" for k in range(65))), "has 65 stages, more than 64"),
    (vectors("<a>-T0", width=768), "Stable Diffusion 1.x"),
    ({"<a>-T0": np.ones((2, WIDTH), np.float32)}, "holds 2 vectors, and a stage has one"),
    ({"<a>-T0": np.ones(WIDTH, np.int32)}, "no vector of floating-point numbers"),
    ({"<a>-T0": "it"}, "no vector of floating-point numbers"),
])
def test_a_file_of_other_tokens_is_refused(tensors, words):
    with pytest.raises(StyleBlendError) as caught:
        stage_vectors(tensors, WIDTH, "x.bin")
    assert words in str(caught.value) and "\n" not in str(caught.value)
