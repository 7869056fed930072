"""StyleBlend's two branches, step by step, against a sampler that was written with diffusers alone.

`tests/reference/make_dual_branch_reference.py` wrote the latents, once the published sampler's arrays (those that
`tests/system/test_golden.py` compares with, where they are) had come out of it. Weights, LoRA, texts and noise are
drawn from names on both sides.
`pytest -rP tests/diffusion/test_dual_branch.py` prints the errors.
"""
from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from reference import seeded
from styleblend.adapters import lora
from styleblend.diffusion.denoise import denoise, row_factors
from styleblend.diffusion.recipe import Recipe
from styleblend.diffusion.samplers import leading_timesteps
from styleblend.machine.runtime import jt
from styleblend.methods.method import Request
from styleblend.methods.styleblend import StyleBlend
from styleblend.models.attention import AttentionContext
from styleblend.settings import BlendSettings, SamplingSettings

STORED = np.load(Path(__file__).parents[1] / "data" / "dual_branch.npz")
META = json.loads(str(STORED["meta"]))


class Case(NamedTuple):
    """One preset: what our loop is given, and what diffusers made of it."""

    recipe: Recipe
    sampling: SamplingSettings
    texts: np.ndarray  # (4, 77, width)
    start: np.ndarray  # (1, 4, h, w)
    latents: np.ndarray  # (steps, 2, 4, h, w)
    output: np.ndarray  # (4, 4, h, w): the UNet's in the first step


@pytest.fixture(params=META["presets"])
def case(request, tiny_base) -> Case:
    height, width = (side * tiny_base.vae.config.downscale for side in META["shape"][1:])
    sampling = SamplingSettings(steps=META["steps"], guidance=META["guidance"], height=height, width=width)
    blend = BlendSettings(**META["presets"][request.param])
    method, start = StyleBlend(), seeded.values("dual_branch/start", (1, *META["shape"]))
    asked = Request(("A cat",), (0,), sampling, settings=blend, branches=("coarse", "fine"))
    recipe = method.recipe(tiny_base, tiny_base.tokenizer(method.tokens), asked)
    recipe = dataclasses.replace(recipe, start={branch: jt.array(start) for branch in recipe.rows.branches})
    texts = seeded.values("dual_branch/texts", (recipe.rows.count, 77, tiny_base.unet.config.cross_attention_dim))
    return Case(recipe, sampling, texts, start, *(STORED[f"{request.param}/{key}"] for key in ("latents", "output")))


@pytest.fixture(scope="module")
def loras(tiny_base) -> lora.Loras:
    tensors = {}
    for path, linear in lora.targets(tiny_base.unet, lora.UNET_TARGETS):
        for end, shape in (("down", (seeded.RANK, linear.in_features)), ("up", (linear.out_features, seeded.RANK))):
            key = f"{path}.lora.{end}.weight"
            tensors[key] = seeded.weight(f"lora/{key}", shape)
    return lora.load(tiny_base.unet, lora.UNET_TARGETS, tensors, "seeded")


def relative(ours, theirs) -> float:
    """Relative L2 error."""
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours.astype(np.float64) - theirs) / np.linalg.norm(theirs.astype(np.float64)))


def test_every_step_is_the_published_one(case, tiny_base, loras):
    steps = list(denoise(tiny_base, case.recipe, [jt.array(case.texts)], case.sampling, loras))
    path = np.stack([step.x.numpy() for step in steps])
    assert path.shape == case.latents.shape
    first, errors = np.abs(path[0] - case.latents[0]).max(), [relative(*pair) for pair in zip(path, case.latents)]
    print(f"latents after step 1 {first:.1e} (absolute), of each step {', '.join(f'{e:.1e}' for e in errors)}")
    assert first <= 1e-5
    assert max(errors) <= 1e-3


def test_output_of_every_row(case, tiny_base, loras):
    """All four rows from the first layer on: the loop starts with those of one condition."""
    recipe = case.recipe
    context = AttentionContext(recipe.rows, 0, META["steps"], recipe.controls, loras, row_factors(recipe.lora_scale),
                               row_factors(recipe.out_scale))
    time = int(leading_timesteps(tiny_base.schedule, META["steps"])[0])
    with jt.no_grad():
        x = jt.array(np.repeat(case.start, recipe.rows.count, axis=0))
        found = relative(tiny_base.unet(x, time, jt.array(case.texts), context).numpy(), case.output)
    print(f"raw output {found:.1e}")
    assert found <= 1e-5
