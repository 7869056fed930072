"""Whole pictures: of a batch and alone, with and without guidance, with each sampler."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drawing import ROWS, all_branches, last_latents, pictures, request, with_start
from reference import seeded
from styleblend.base.base import load_base
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.pipeline import Pipeline
from styleblend.settings import SamplingSettings

MINI = Path(__file__).parents[1] / "checkpoints" / "mini" / "base"
SMALL = SamplingSettings(steps=3, width=64, height=64)
PROMPTS, SEEDS = ["A cat", "An owl", "A dog"], [5, 6, 2024]


@pytest.fixture
def pipeline(tiny_base):
    return Pipeline(tiny_base)


def difference(a, b) -> int:
    return int(np.abs(a.astype(int) - b).max())


def test_a_batch_equals_one_prompt_at_a_time(pipeline, tiny_style):
    together = all_branches(pipeline, request(PROMPTS, SEEDS, SMALL, tiny_style))
    assert together.shape == (2, 3, 64, 64, 3)
    for n, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS)):
        alone = all_branches(pipeline, request([prompt], [seed], SMALL, tiny_style))
        assert difference(together[:, n:n + 1], alone) <= 1
    assert difference(together[:, 0], together[:, 1]) > 10 and difference(together[0], together[1]) > 10
    # the fine branch is what is shown
    assert np.array_equal(pictures(pipeline, request(PROMPTS, SEEDS, SMALL, tiny_style)), together[1])


def test_noise_of_eta_does_not_depend_on_the_batch(pipeline, tiny_style):
    sampling = SMALL.model_copy(update={"eta": 1.0})
    together = pictures(pipeline, request(PROMPTS, SEEDS, sampling, tiny_style))
    for n, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS)):
        assert difference(together[n:n + 1], pictures(pipeline, request([prompt], [seed], sampling, tiny_style))) <= 1
    assert difference(together, pictures(pipeline, request(PROMPTS, SEEDS, SMALL, tiny_style))) > 10


def test_guidance_1_is_guidance_off(pipeline, tiny_style):
    """Half the rows, and what the whole formula gives for a factor of 1."""
    off, on = (request(PROMPTS[:1], SEEDS[:1], SMALL.model_copy(update={"guidance": g}), tiny_style)
               for g in (1.0, 2.0))
    assert pictures(pipeline, off).shape == (1, 64, 64, 3)
    style, results = pipeline.applied(tiny_style), []
    for asked, rows in ((on, 4), (off, 2)):
        recipe = with_start(pipeline.recipe(asked, style), jt.array(seeded.values("guidance/x", (1, 4, 8, 8))))
        assert recipe.rows.count == rows
        recipe = replace(recipe, guidance={"negative": 0.0, "full": 1.0} if rows == 4 else {"full": 1.0})
        results.append(last_latents(pipeline, recipe, off.sampling, style))
    assert np.linalg.norm(results[0] - results[1]) <= 1e-5 * np.linalg.norm(results[1])


def test_text_is_projected_once(pipeline, tiny_style):
    """k and v of the text from `project_text` are what every step would compute again.

    Bit for bit the same noise prediction.
    """
    style, x = pipeline.applied(tiny_style), jt.array(seeded.values("once/x", (4, 4, 8, 8)))
    [text] = pipeline.encode(pipeline.recipe(request(["A cat"], [0], SMALL, tiny_style)), "styleblend", style)
    unet, loras, scale = pipeline.base.unet, style.of("unet"), jt.array(np.array([0.3, 1, 0.3, 1], np.float32))
    with jt.no_grad():
        ready = unet.project_text(text, loras, scale)
        assert len(ready) == 16
        given = dict(rows=ROWS, loras=loras, lora_scale=scale)
        once, again = (unet(x, 7, text, AttentionContext(text=one, **given)).numpy() for one in (ready, None))
        nothing = unet(x, 7, text * 0, AttentionContext(text=ready, **given)).numpy()
    assert np.array_equal(once, again) and np.array_equal(once, nothing)


def test_one_branch_without_a_style(pipeline):
    drawn = pictures(pipeline, request(PROMPTS[:2], SEEDS[:2], SMALL))
    assert drawn.shape == (2, 64, 64, 3) and drawn.dtype == np.uint8


def test_a_style_leaves_nothing_behind(pipeline, tiny_style):
    plain = request(PROMPTS[:1], SEEDS[:1], SMALL)
    before = pictures(pipeline, plain)
    assert difference(pictures(pipeline, request(PROMPTS[:1], SEEDS[:1], SMALL, tiny_style)), before) > 10
    assert np.array_equal(pictures(pipeline, plain), before)


@pytest.mark.full
@pytest.mark.skipif(not MINI.is_dir(), reason="checkpoints/mini/base is not there")
def test_memory_does_not_grow():
    """50 pictures of the mini base need what 5 need, up to 5 %."""
    pipeline = Pipeline(load_base(MINI))
    sampling = SamplingSettings(steps=5, width=128, height=128, guidance=5.0)

    def resident_after(count: int) -> int:
        for seed in range(count):
            pictures(pipeline, request(["A dog"], [seed], sampling, branches=("coarse", "fine")))
        return int(Path("/proc/self/statm").read_text().split()[1])

    after_5 = resident_after(5)
    assert resident_after(45) <= 1.05 * after_5


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler"])
def test_other_samplers_draw_both_branches(sampler, pipeline, tiny_style):
    sampling = SMALL.model_copy(update={"sampler": sampler})
    drawn = all_branches(pipeline, request(PROMPTS[:1], SEEDS[:1], sampling, tiny_style))
    assert drawn.shape == (2, 1, 64, 64, 3) and difference(drawn[0], drawn[1]) > 10
