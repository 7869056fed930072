"""Deep features of the UNet that are kept between steps: as published, and with what the methods do to its blocks."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agreement import relative
from reference import seeded
from styleblend import Pipeline
from styleblend.diffusion.control_pictures import Controlled
from styleblend.diffusion.controls import SwapKV
from styleblend.diffusion.deep_cache import DeepCache
from styleblend.diffusion.denoise import denoise
from styleblend.diffusion.recipe import Recipe, classifier_free
from styleblend.errors import StyleBlendError
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.models.rows import Rows
from styleblend.models.unet import DeepFeatures, Residuals
from styleblend.settings import SamplingSettings

PUBLISHED = np.load(Path(__file__).parents[1] / "data" / "deep_cache.npz")
SKIPS = 12  # of a UNet with four levels of two layers
ROWS = Rows({"source": 1, "target": 1}, ("negative", "full"))
SWAP = SwapKV(tuple(range(16)), source="source", target="target")


def values(name: str, *shape: int):
    return jt.array(seeded.values(f"deep_cache/{name}", shape))


def recipe_of(rows: Rows = ROWS, guidance: float = 3.0, **changes) -> Recipe:
    """A recipe of these rows from made-up latents."""
    start = {branch: values(f"start/{branch}", count, 4, 8, 8) for branch, count in rows.branches.items()}
    return Recipe(**{**dict(rows=rows, texts=(("",) * rows.count,), guidance=classifier_free(guidance),
                            seeds={branch: (5,) * count for branch, count in rows.branches.items()},
                            shown=(list(rows.branches)[-1],), start=start), **changes})


def path_of(base, recipe: Recipe, texts, **sampling) -> list:
    """The latents after each step, as arrays."""
    settings = SamplingSettings(**{**dict(steps=6, width=64, height=64), **sampling})
    return [step.x.numpy() for step in denoise(base, recipe, texts, settings)]


@pytest.mark.parametrize("branch", [0, 1, 2, 3, 7])
def test_the_published_program_draws_the_same(branch, tiny_base, report):
    rows = Rows({"target": 1}, ("negative", "full"))
    recipe = recipe_of(rows, float(PUBLISHED["guidance"]), start={"target": values("start", 1, 4, 8, 8)})
    path = path_of(tiny_base, recipe, [values("texts", 2, 77, 32)], steps=int(PUBLISHED["steps"]),
                   cache_interval=int(PUBLISHED["interval"]), cache_branch_id=branch)
    first, last = (relative(path[n], PUBLISHED[str(branch)][n]) for n in (0, -1))
    report(f"branch {branch}: latents after step 1 {first:.1e}, last {last:.1e}")
    assert first <= 1e-5 and last <= 1e-4


@pytest.mark.parametrize("branch", range(SKIPS))
def test_the_layers_near_the_latents_give_the_same_from_what_was_kept(branch, tiny_base):
    """At the same latents and time, with rows that are one until the text comes in, a swap and a ControlNet's share."""
    unet, x, text = tiny_base.unet, values("x", 2, 4, 8, 8), values("text", 4, 77, 32)
    context, deep = AttentionContext(ROWS, controls=(SWAP,)), DeepFeatures(branch + 1)
    with jt.no_grad():
        _, skips = unet.encode(unet.conv_in(x), unet.shifts(500, context), text, context)
        down = [values(f"residual/{n}", 2, *skip.shape[1:]) for n, skip in enumerate(skips)]
        whole = unet(x, 500, text, context, Residuals(down, values("mid", 2, *skips[-1].shape[1:])), deep).numpy()
        assert np.array_equal(whole, unet(x, 500, text, context, Residuals(
            down, values("mid", 2, *skips[-1].shape[1:]))).numpy())
        again = unet(x, 500, text, context, Residuals(down[:branch + 1], None), deep).numpy()
        other = unet(x * 0.9, 500, text, context, Residuals(down[:branch + 1], None), deep).numpy()
    assert relative(again, whole) < 1e-6 and relative(other, whole) > 1e-3


def test_which_steps_compute_all():
    """Every third one; and each with which something else begins to be done to the deep blocks."""
    cache = DeepCache(3, 0)
    done = ["a", "a", "a", "a", "b", "b", "a", "a", "a", "a"]
    assert [cache.due(index, one) for index, one in enumerate(done)] == [
        True, False, False, True, True, False, True, False, False, True]


def test_what_was_kept_does_not_outlive_a_control(tiny_base):
    """A swap ends after the first step: the next one computes all, as if the drawing began there."""
    texts = [values("text", 4, 77, 32)]
    path = path_of(tiny_base, recipe_of(controls=(replace(SWAP, ratio=0.2),)), texts, cache_interval=6)
    start = {"source": jt.array(path[0][:1]), "target": jt.array(path[0][1:])}
    rest = path_of(tiny_base, recipe_of(start=start, first_step=1), texts, cache_interval=6)
    assert len(rest) == 5 and all(np.array_equal(a, b) for a, b in zip(path[1:], rest))


def test_what_was_kept_does_not_outlive_a_stage(tiny_base):
    """Stages of texts: the first half of the steps reads the one, the second the other."""
    texts = [values("text", 4, 77, 32), values("other", 4, 77, 32)]
    path = path_of(tiny_base, recipe_of(texts=(("",) * 4,) * 2, stage=lambda time: int(time < 400)), texts,
                   cache_interval=6)
    start = {"source": jt.array(path[2][:1]), "target": jt.array(path[2][1:])}
    rest = path_of(tiny_base, recipe_of(start=start, first_step=3), texts[1:], cache_interval=6)
    assert len(rest) == 3 and all(np.array_equal(a, b) for a, b in zip(path[3:], rest))


def test_guidance_and_the_prompt_alone_keep_features_of_their_own(tiny_base):
    """Guidance in the middle: the steps after it do not go on from what the steps before it kept."""
    texts = [values("text", 4, 77, 32)]
    path = path_of(tiny_base, recipe_of(), texts, cache_interval=2, guidance_start=0.3, guidance_end=0.7)
    own = recipe_of().under("full")
    first = path_of(tiny_base, own, [texts[0][2:]], cache_interval=2)
    assert all(np.array_equal(a, b) for a, b in zip(path[:2], first[:2]))
    start = {"source": jt.array(path[3][:1]), "target": jt.array(path[3][1:])}
    last = path_of(tiny_base, replace(own, start=start, first_step=4), [texts[0][2:]], cache_interval=2)
    assert all(np.array_equal(a, b) for a, b in zip(path[4:], last))


def test_a_control_picture_is_read_where_all_is_computed(tiny_base):
    """Its share is kept with the features. Where it ends, all is computed once more, without it."""
    asked = []

    class Steering(Controlled):
        def __call__(self, x, time, index, text, rows):
            asked.append(index)
            skips = tiny_base.unet.encode(tiny_base.unet.conv_in(x), tiny_base.unet.embed(jt.array([500.0])), text,
                                          None)[1]
            return Residuals([skip * 0.3 for skip in skips], skips[-1] * 0) if self.active(index)[0] else None

        def active(self, index):
            return (index < 4,)

    texts = [values("text", 4, 77, 32)]
    path = path_of(tiny_base, recipe_of(residuals=Steering((), (), 6)), texts, cache_interval=3)
    assert asked == [0, 3, 4] and np.isfinite(path[-1]).all()
    without = path_of(tiny_base, recipe_of(), texts, cache_interval=3)
    assert relative(path[2], without[2]) > 1e-3


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler", "unipc", "pndm"])
def test_every_sampler_begins_as_without(sampler, tiny_base):
    texts = [values("text", 4, 77, 32)]
    kept, whole = (path_of(tiny_base, recipe_of(), texts, sampler=sampler, cache_interval=interval)
                   for interval in (3, 1))
    assert len(kept) == len(whole) and relative(kept[0], whole[0]) < 1e-6
    assert 1e-4 < relative(kept[-1], whole[-1]) < 1


def test_more_depth_than_the_base_has_is_refused(tiny_base):
    with pytest.raises(StyleBlendError, match=f"cache_branch_id must be 0 to {SKIPS - 1}, not {SKIPS}"):
        Pipeline(tiny_base).pictures("A rabbit", steps=2, cache_interval=2, cache_branch_id=SKIPS)


def test_depth_without_steps_between_is_refused(tiny_base):
    with pytest.raises(StyleBlendError, match="cache_interval 1 keeps no features"):
        Pipeline(tiny_base).pictures("A rabbit", steps=2, cache_branch_id=1)
