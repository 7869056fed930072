"""Image to image, for any method: a drawing that begins from a content picture, from its latents or its inverted noise.

As DreamStyler transfers a style (Ahn et al. 2024, section 3.5), after SDEdit (Meng et al. 2022).
"""
from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterator

import numpy as np

from styleblend.diffusion.inversion import noised, trajectory
from styleblend.diffusion.recipe import Recipe
from styleblend.diffusion.samplers import first_step_of
from styleblend.diffusion.schedule import seeded_noise
from styleblend.errors import StyleBlendError
from styleblend.machine.runtime import jt
from styleblend.methods.method import Progress, Request
from styleblend.methods.trajectories import encoded, inverted
from styleblend.models.rows import Rows


def prepare_content(pipeline, request: Request) -> Iterator[Progress]:
    """Yields the steps of an inversion; returns the request with `content_start`, x of the first step.

    Each picture has the noise of its own seed. An inverted content picture is the same for all seeds, and it is found
    under the prompt without a style, with guidance off.
    """
    content, sampling = request.content, request.sampling
    if content is None or request.content_start is not None:
        return request
    content.refuse_unfit(sampling.sampler, sampling.steps)
    first, clean = first_step_of(content.share(), sampling.steps), encoded(pipeline.base, content.picture, sampling)
    if content.begin == "noise":
        noise = np.concatenate([seeded_noise(seed, clean.shape) for seed in request.seeds])
        path = noised(jt.array(np.repeat(clean, len(noise), 0)), jt.array(noise), pipeline.base.schedule,
                      sampling.sampler, sampling.steps)
        return replace(request, content_start=path[first])
    count = len(request.prompts)
    recipe = Recipe(Rows({"content": count}), (tuple(f"{prompt}." for prompt in without_places(request.prompts)),),
                    {"full": 1.0}, {"content": (0,) * count}, ("content",))
    latents, states = jt.array(np.repeat(clean, count, 0)), pipeline.encode(recipe, request.method,
                                                                            pipeline.applied(None))
    steps = yield from inverted(pipeline.base, recipe, states, latents, sampling.steps, "inverting the content picture")
    return replace(request, content_start=trajectory(latents, steps)[first])


def without_places(prompts) -> list:
    """The prompts as they say what is there: a place for a style's tokens stays empty."""
    return [prompt.replace("in the style of {}", "").replace("{}", "").rstrip(" ,") for prompt in prompts]


def with_content(recipe: Recipe, request: Request) -> Recipe:
    """The recipe from the content picture on: all branches begin there. StyleBlendError where one cannot."""
    if request.content is None:
        return recipe
    if recipe.steered is not None or recipe.start:
        raise StyleBlendError(f"a style of {request.method} looks at a reference while it draws, and that has no "
                              "content picture: take a style of another method, or align --control-picture")
    start: Any = request.content_start
    if start is None:
        raise ValueError("a content picture needs its latents: ask `prepare_content` for a request that has them")
    return replace(recipe, start=dict.fromkeys(recipe.rows.branches, start),
                   first_step=first_step_of(request.content.share(), request.sampling.steps))
