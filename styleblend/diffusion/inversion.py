"""From a picture back to the noise that draws it (DDIM inversion), and the trajectory on the way."""
from __future__ import annotations

import math
from typing import Iterator, List, Mapping, Sequence

import numpy as np

from styleblend.diffusion.denoise import Denoiser
from styleblend.diffusion.recipe import Recipe
from styleblend.diffusion.samplers import SAMPLERS, Step, leading_timesteps
from styleblend.machine.runtime import jt


def ddim_inversion(model, x, schedule, steps: int) -> Iterator[Step]:
    """DDIM's steps the other way (Song et al. 2021, section 4.3), from a clean latent `x` up to noise.

    `model(x, t, index)` as for a sampler; `index` is that of the sampler's step at time t, so it counts down. Each step
    trusts that the noise is the same a stride further. Epsilon is made from the network's output at the time that the
    network was given: with a v-prediction base this finds the way back with 1.5 to 3 times less error than with the
    level of `x`, as `DDIMInverseScheduler` of diffusers has it.
    """
    times, stride = leading_timesteps(schedule, steps), len(schedule) // steps
    for index in reversed(range(steps)):
        t = int(times[index])
        x0, x = noisier(schedule, model(x, t, index), x, t, t - stride)
        yield Step(index, steps, t, x0, x)


def noisier(schedule, output, x, t: int, before: int) -> tuple:
    """The clean latent and x_t that the network's output at time `t` makes of `x`, which is at the time `before`.

    Below 0 that is the level of time 0, where DDIM ends.
    """
    _, eps = schedule.split(output, x, t)
    here, there = (float(schedule.alphas_cumprod[max(time, 0)]) for time in (before, t))
    x0 = (x - math.sqrt(1 - here) * eps) / math.sqrt(here)
    return x0, math.sqrt(there) * x0 + math.sqrt(1 - there) * eps


def invert(base, recipe: Recipe, texts: Sequence, latents, steps: int, loras: Mapping = {}) -> Iterator[Step]:
    """The steps of the inversion of `latents` (n, 4, h, w), all pictures of the recipe; the last `x` is the noise."""
    with base.at_work("unet"):
        with jt.no_grad():
            walk = ddim_inversion(Denoiser(base, recipe, texts, loras, "ddim", steps), latents, base.schedule, steps)
        while True:
            with jt.no_grad():
                step = next(walk, None)
                if step is None:
                    return
                step.x.sync()
            yield step


def trajectory(latents, steps: Sequence[Step]) -> List:
    """What `invert` passed, the noisiest first, the clean latents last: steps + 1 of (n, 4, h, w)."""
    return [step.x for step in reversed(steps)] + [latents]


def noised(latents, noise, schedule, sampler: str, steps: int) -> List:
    """The same without an inversion: the latents with one fixed noise, at the level of every step.

    Nothing has to be computed, and it goes with every sampler. The reference is then what noise makes of a picture, not
    what the base draws on its way to it: a looser hold.
    """
    times = SAMPLERS[sampler].timesteps(schedule, steps)
    abar = np.interp(np.asarray(times, np.float64), np.arange(len(schedule)), schedule.alphas_cumprod)
    return [math.sqrt(a) * latents + math.sqrt(1 - a) * noise for a in abar] + [latents]
