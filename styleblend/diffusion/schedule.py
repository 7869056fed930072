"""The noise schedule and the algebra between x0, epsilon and v: written once, used by training and by every sampler."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from styleblend.models.configs import ScheduleConfig
from styleblend.machine.runtime import jt


class Prediction(NamedTuple):
    """What a network's output means: the clean latent and the noise in it, shaped like the latents."""

    x0: object
    eps: object


class NoiseSchedule:
    """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4), betas linear in their square roots."""

    def __init__(self, config: ScheduleConfig = ScheduleConfig()):
        self.config = config
        # float32 betas and a product that is rounded once: digit for digit what the published weights were trained with
        root = np.linspace(config.beta_start ** 0.5, config.beta_end ** 0.5, config.num_train_timesteps,
                           dtype=np.float32)
        self.alphas_cumprod = np.cumprod((1 - root * root).astype(np.float64)).astype(np.float32)

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def coefficients(self, t) -> tuple:
        """sqrt(abar_t), sqrt(1 - abar_t) as float32: numbers for an int, Vars (B, 1, 1, 1) for an array of steps."""
        abar = self.alphas_cumprod[t].astype(np.float64)
        signal, noise = np.sqrt(abar).astype(np.float32), np.sqrt(1 - abar).astype(np.float32)
        if np.ndim(t) == 0:
            return float(signal), float(noise)
        return jt.array(signal).reshape(-1, 1, 1, 1), jt.array(noise).reshape(-1, 1, 1, 1)

    def add_noise(self, x0, eps, t):
        """x_t. `t` an int or an int array (B,)."""
        a, s = self.coefficients(t)
        return a * x0 + s * eps

    def velocity(self, x0, eps, t):
        """v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans & Ho 2022, appendix D)."""
        a, s = self.coefficients(t)
        return a * eps - s * x0

    def target(self, x0, eps, t):
        """What the network of this base learns to predict."""
        return self.velocity(x0, eps, t) if self.config.prediction_type == "v_prediction" else eps

    def split(self, output, x, t) -> Prediction:
        """The network's output at x_t as (x0, eps)."""
        a, s = self.coefficients(t)
        if self.config.prediction_type == "v_prediction":
            return Prediction(a * x - s * output, a * output + s * x)
        return Prediction((x - s * output) / a, output)

    def loss(self, output, x0, eps, t):
        """Mean squared error against the target: the training loss, one number."""
        difference = output - self.target(x0, eps, t)
        return (difference * difference).mean()


def seeded_noise(seed: int, shape) -> np.ndarray:
    """Standard normal float32 noise of one picture, from its own seed, always drawn on the CPU.

    It is Jittor's CPU generator, as in the published release, so that the published seeds give the published noise. The
    seed is set for this draw alone: a picture does not depend on the batch, the order or the number of workers. To this
    generator (a linear congruence without a constant, modulo 2^31 - 1) seeds 0 and 1 are the same.
    """
    with jt.flag_scope(use_cuda=0):
        jt.set_seed(seed)
        return jt.random(list(shape), "float32", "normal").numpy()
