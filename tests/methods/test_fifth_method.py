"""A made-up method uses everything that a recipe can say, and draws what a loop written out by hand draws."""
import numpy as np
import pytest

from reference import seeded
from styleblend.diffusion.controls import Control
from styleblend.diffusion.recipe import Recipe
from styleblend.diffusion.samplers import leading_timesteps
from styleblend.diffusion.schedule import seeded_noise
from styleblend.kernels.segments import Segment
from styleblend.machine.runtime import jt
from styleblend.methods.method import Request
from styleblend.models.attention import AttentionContext
from styleblend.models.rows import Rows
from styleblend.pipeline import Pipeline, Picture, Progress
from styleblend.settings import SamplingSettings, Settings

STEPS, SAMPLES = 3, 2
SAMPLING = SamplingSettings(steps=STEPS, width=64, height=64, output=None)
WEIGHTS = {"negative": -2.5, "content": 1.0, "style": 1.5, "full": 1.0}
TRAJECTORY = [seeded.values(f"fifth/{i}", (1, 4, 8, 8)) for i in range(STEPS)]


class Shared(Control):
    """Every target attends to itself and to the reference under the same condition, half as sharply."""

    def apply(self, p, rows):
        other = {row: rows.row("reference", condition, 0) for row, condition, _ in rows.of("target")}
        return p._replace(segments=(Segment(tuple(range(rows.count))),
                                    Segment(tuple(other.get(row, -1) for row in range(rows.count)),
                                            scale=0.5, shift=0.3)))


class Fifth:
    """Four conditions, one reference and several targets, texts in two stages, a reference on a known trajectory."""

    name, tokens, parts, Settings = "fifth", ("<S>",), {}, Settings

    def settings(self, config, own, source):
        return Settings()

    def recipe(self, base, tokenizer, request):
        rows = Rows({"reference": 1, "target": len(request.prompts)}, tuple(WEIGHTS))
        words = {"negative": "blur", "content": "{}.", "style": "A picture, {stage}.", "full": "{}, {stage}."}
        texts = [tuple(words[condition].format(prompt, stage=stage)
                       for condition in rows.conditions for prompt in ("A dot", *request.prompts))
                 for stage in ("early", "late")]
        return Recipe(rows, tuple(texts), WEIGHTS, {"reference": (1,), "target": request.seeds}, ("target",),
                      stage=lambda time: int(time < 500), controls=(Shared(sites=tuple(range(4, 16))),),
                      pinned={"reference": [jt.array(x) for x in TRAJECTORY]})


def by_hand(pipeline, request):
    """The same drawing, with nothing of the loop.

    Every text encoded, every condition added up, every step written out.
    """
    base, recipe = pipeline.base, pipeline.methods["fifth"].recipe(pipeline.base, pipeline.tokenizer("fifth"), request)
    tokenizer, schedule = pipeline.tokenizer("fifth"), base.schedule
    noise = [seeded_noise(seed, (1, 4, 8, 8)) for seed in (1, *request.seeds)]
    x, times = np.concatenate(noise), leading_timesteps(schedule, STEPS)
    for index, time in enumerate(times):
        text = base.text_encoder(tokenizer.encode(recipe.texts[int(time < 500)]))
        context = AttentionContext(recipe.rows, index, STEPS, recipe.controls)
        out = base.unet(jt.array(np.concatenate([x] * 4)), int(time), text, context).numpy().reshape(
            4, SAMPLES + 1, 4, 8, 8)
        v = sum(weight * one for weight, one in zip(WEIGHTS.values(), out.astype(np.float64)))
        a, s = schedule.coefficients(int(time))
        x0, eps = a * x - s * v, a * v + s * x
        before = float(schedule.alphas_cumprod[max(int(time) - len(schedule) // STEPS, 0)])
        x = (np.sqrt(before) * x0 + np.sqrt(1 - before) * eps).astype(np.float32)
        x[:1] = TRAJECTORY[index]
    return x[1:]


def test_a_fifth_method_draws_what_its_recipe_says(tiny_base):
    pipeline = Pipeline(tiny_base, methods={"fifth": Fifth()})
    request = Request(("A cat", "An owl"), (5, 6), SAMPLING, method="fifth")
    events = list(pipeline.draw(request))
    progress, pictures = ([e for e in events if isinstance(e, kind)] for kind in (Progress, Picture))
    assert [p.done for p in progress] == [1, 2, 3] and all(p.x0.shape == [2, 4, 8, 8] for p in progress)
    assert [(p.branch, p.record.prompt, p.record.seed) for p in pictures] == [
        ("target", "A cat", 5), ("target", "An owl", 6)]
    with jt.no_grad():
        latents = by_hand(pipeline, request)
        expected = pipeline.decode(jt.array(latents))
    for picture, pixels in zip(pictures, expected):
        assert np.abs(picture.pixels.astype(int) - pixels).max() <= 1


def test_what_a_recipe_cannot_be(tiny_base):
    rows = Rows({"a": 1, "b": 2}, ("negative", "full"))
    good = dict(rows=rows, texts=(("",) * 6,), guidance={"negative": -2.0, "full": 3.0},
                seeds={"a": (1,), "b": (1, 2)}, shown=("b",))
    Recipe(**good)
    for wrong in (dict(guidance={"negative": 1.0, "full": 3.0}), dict(guidance={"full": 1.0}),
                  dict(texts=(("",) * 5,)), dict(texts=()),
                  dict(seeds={"a": (1,), "b": (1,)}), dict(shown=("c",)), dict(shown=()), dict(pinned={"c": []}),
                  dict(lora_scale=(1.0,) * 5), dict(start={"a": 0})):
        with pytest.raises(ValueError):
            Recipe(**{**good, **wrong})
