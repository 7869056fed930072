"""The one loop that draws: a recipe, from its start to its clean latents, one step at a time."""
from __future__ import annotations

from typing import Callable, Iterator, Mapping, Optional, Sequence

import numpy as np

from styleblend.diffusion.deep_cache import DeepCache
from styleblend.diffusion.recipe import Factors, Recipe
from styleblend.diffusion.samplers import SAMPLERS, Step, within
from styleblend.diffusion.schedule import seeded_noise
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext


def guided(output, recipe: Recipe):
    """The conditions' outputs (rows, 4, h, w) added up with the recipe's weights: (latents, 4, h, w)."""
    rows = recipe.rows
    if len(rows.conditions) == 1:
        return output
    first, *others = jt.chunk(output, len(rows.conditions))
    total = first  # its weight is what the others leave of 1
    for condition, one in zip(rows.conditions[1:], others):
        total = total + recipe.guidance[condition] * (one - first)
    return total


def starting_latents(recipe: Recipe, shape: Sequence[int]):
    """Where each picture starts, in the order of the branches: (latents, *shape)."""
    if recipe.start:
        return jt.concat([recipe.start[branch] for branch in recipe.rows.branches])
    return jt.array(np.concatenate([seeded_noise(seed, (1, *shape)) for branch in recipe.rows.branches
                                    for seed in recipe.seeds[branch]]))


def step_noise(recipe: Recipe, shape: Sequence[int], index: int):
    """The noise that DDIM adds after step `index` with eta > 0: of each picture's seed, the same in every branch."""
    seeds = [seed * 1_000_003 + index + 1 & 0x7FFFFFFF for branch in recipe.rows.branches
             for seed in recipe.seeds[branch]]
    return jt.array(np.concatenate([seeded_noise(seed, (1, *shape)) for seed in seeds]))


def pin(step: Step, recipe: Recipe) -> None:
    """Put the pinned branches back on their trajectories."""
    if recipe.pinned:
        step.x = jt.concat([recipe.pinned[branch][step.index] if branch in recipe.pinned
                            else step.x[slice_of(recipe, branch)] for branch in recipe.rows.branches])


def slice_of(recipe: Recipe, branch: str) -> slice:
    """Where a branch's pictures are among the latents."""
    places = recipe.rows.latents_of(branch)
    return slice(places.start, places.stop)


def row_factors(factors: Factors):
    """(rows,) for the layers; None where all are 1."""
    return None if factors is None or all(f == 1 for f in factors) else jt.array(np.array(factors, np.float32))


def pooling_of(recipe: Recipe) -> Mapping[int, np.ndarray]:
    """Whose values count in the group norms: half a row's own, half those of the reference under its condition."""
    if recipe.pooled_norms is None:
        return {}
    return {rows.count: (np.eye(rows.count, dtype=np.float32) + rows.towards(recipe.pooled_norms)) / 2
            for rows in (recipe.rows, recipe.rows.as_shared())}


class Denoiser:
    """The UNet as a sampler wants it: `model(x, time, index)`.

    With guidance, controls and all that is the same in every step.
    """

    def __init__(self, base, recipe: Recipe, texts: Sequence, loras: Mapping, sampler: str, steps: int,
                 cache: Optional[DeepCache] = None):
        self.unet, self.recipe, self.loras, self.steps = base.unet, recipe, loras, steps
        self.lora_scale, self.out_scale = row_factors(recipe.lora_scale), row_factors(recipe.out_scale)
        self.texts, self.apart, self.projected, self.cache = texts, recipe.tells_apart(), {}, cache
        self.project(0 if len(texts) == 1 else None)
        self.pooling = pooling_of(recipe)
        self.times = self.unet.project_times(SAMPLERS[sampler].timesteps(base.schedule, steps))
        jt.sync(list(self.times.values()))

    def project(self, stage) -> Mapping:
        """k and v of a stage's texts. Those of one stage are kept at a time; None: of no stage yet."""
        if stage is not None and stage not in self.projected:
            self.projected = {stage: self.unet.project_text(self.texts[stage], self.loras, self.lora_scale)}
            jt.sync([var for pair in self.projected[stage].values() for var in pair])
        return self.projected.get(stage, {})

    def __call__(self, x, time: float, index: int):
        recipe, stage = self.recipe, self.recipe.stage(time) if len(self.texts) > 1 else 0
        context = AttentionContext(recipe.rows, index, self.steps, recipe.controls, self.loras, self.lora_scale,
                                   self.out_scale, self.project(stage), self.times, self.pooling)
        latents = jt.concat([x] * len(recipe.rows.conditions)) if self.apart else x
        due = self.cache is None or self.cache.due(index, (stage, self.done(context)))
        if not due:
            residuals = self.cache.residuals
        elif recipe.residuals:
            residuals = recipe.residuals(x, time, index, self.texts[stage], recipe.rows)
        else:
            residuals = None
        output = self.unet(latents, time, self.texts[stage], context, residuals, self.cache and self.cache.features)
        if self.cache and due:
            self.cache.keep(residuals)
        return guided(output, recipe)

    def done(self, context: AttentionContext) -> tuple:
        """What this step does to the blocks, as far as steps differ: the controls that apply, pictures that steer."""
        steered = self.recipe.residuals.active(context.step) if self.recipe.residuals else ()
        return steered, tuple(control.applies(site, context) for control in context.controls
                              for site in self.unet.sites)


def model_of(base, recipe: Recipe, texts: Sequence, loras: Mapping, sampling) -> Callable:
    """What a sampler calls: with guidance in its part of the steps, and under the whole prompt alone in the others
    (Kynkaanniemi et al. 2024, section 3: a limited interval).
    """
    def denoiser(recipe: Recipe, texts: Sequence) -> Denoiser:
        cache = DeepCache(sampling.cache_interval, sampling.cache_branch_id) if sampling.cache_interval > 1 else None
        return Denoiser(base, recipe, texts, loras, sampling.sampler, sampling.steps, cache)

    guided_model = denoiser(recipe, texts)
    window, conditions = (sampling.guidance_start, sampling.guidance_end), recipe.rows.conditions
    if len(conditions) == 1 or all(within(n, sampling.steps, *window) for n in range(sampling.steps)):
        return guided_model
    last = [states[-recipe.rows.latents:] for states in texts]
    alone = denoiser(recipe.under(conditions[-1]), last)

    def model(x, time: float, index: int):
        return (guided_model if within(index, sampling.steps, *window) else alone)(x, time, index)
    return model


def denoise(base, recipe: Recipe, texts: Sequence, sampling, loras: Mapping = {}) -> Iterator[Step]:
    """The steps of a drawing.

    `x` and `x0` of each are (latents, 4, h, w), branch by branch; `x` may be replaced before the next step.

    `base` has `unet`, `schedule` and `at_work`. `texts`: of each stage the text states of all rows, (rows, 77, width).
    `sampling`: `styleblend.settings.SamplingSettings`. `loras`: layer of the UNet -> LoRA. Closing the generator frees
    what it holds.
    """
    sampler, size = SAMPLERS[sampling.sampler], base.vae.config.downscale
    shape = (base.unet.config.in_channels, sampling.height // size, sampling.width // size)
    extra = dict(eta=sampling.eta, noise=lambda index: step_noise(recipe, shape, index)) if sampler.takes_noise else {}
    with base.at_work("unet"):
        with jt.no_grad():
            model = model_of(base, recipe, texts, loras, sampling)
            steps = sampler.run(model, starting_latents(recipe, shape), base.schedule, sampling.steps,
                                start=recipe.first_step, noised=bool(recipe.start), **extra)
        while True:
            with jt.no_grad():  # not around the yield: it would hold for whoever reads the steps, too
                step = next(steps, None)
                if step is None:
                    return
                pin(step, recipe)
                jt.sync([step.x, *step.held])  # one step is one graph: one of all steps would hold every activation
            yield step
