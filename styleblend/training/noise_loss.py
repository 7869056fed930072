"""The loss that every training here goes down.

It is what the UNet gets wrong about the noise in pictures of known latents.
"""
from __future__ import annotations

from typing import Callable, Optional

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
    schedule = base.schedule
    x0 = jt.array(cache.sample(rng, index))
    eps = jt.array(rng.standard_normal(x0.shape).astype(np.float32))
    t = times(rng) if times else rng.integers(0, len(schedule), len(index))
    context = AttentionContext(Rows({"picture": len(index)}), loras=loras)
    output = base.unet(schedule.add_noise(x0, eps, t), jt.array(t.astype(np.float32)), text_of(index), context)
    return schedule.loss(output, x0, eps, t)
