"""The loss that every training here goes down.

It is what the UNet gets wrong about the noise in pictures of known latents.
"""
from __future__ import annotations

from typing import Callable, NamedTuple, Optional

import numpy as np

from styleblend.adapters.lora import Loras
from styleblend.base.base import Base
from styleblend.machine.runtime import jt
from styleblend.models.attention import AttentionContext
from styleblend.models.rows import Rows
from styleblend.training.latents import LatentCache


def noise_loss(base: Base, cache: LatentCache, rng: np.random.Generator, index: np.ndarray, text_of: Callable,
               loras: Loras = {}, times: Optional[Callable] = None):
    """The mean squared error (Ho et al. 2020, eq. 14) of the pictures `index` (B,): a number.

    Of the velocity where the base predicts that. `text_of(index)` gives their text states (B, 77, width). `times(rng)`
    gives their time steps (B,); default: any of the schedule. `loras` are the UNet's.
    """
    noisy = noisy_pictures(base, cache, rng, index, times)
    return loss_of_noise(base, noisy, text_of(index), loras)


class Noisy(NamedTuple):
    """Pictures for one step: clean latents and noise (B, 4, h, w), and their time steps (B,)."""

    x0: object
    eps: object
    t: np.ndarray


def noisy_pictures(base: Base, cache: LatentCache, rng: np.random.Generator, index: np.ndarray,
                   times: Optional[Callable] = None) -> Noisy:
    """What a step draws by chance for the pictures `index` (B,), for a text that depends on the time; as above."""
    x0 = jt.array(cache.sample(rng, index))
    eps = jt.array(rng.standard_normal(x0.shape).astype(np.float32))
    return Noisy(x0, eps, times(rng) if times else rng.integers(0, len(base.schedule), len(index)))


def loss_of_noise(base: Base, noisy: Noisy, text, loras: Loras = {}):
    """The loss of these pictures under text states (B, 77, width): a number."""
    (x0, eps, t), schedule = noisy, base.schedule
    context = AttentionContext(Rows({"picture": len(t)}), loras=loras)
    output = base.unet(schedule.add_noise(x0, eps, t), jt.array(t.astype(np.float32)), text, context)
    return schedule.loss(output, x0, eps, t)
