"""Samplers: pure functions from noise to a clean latent.

Each takes `model(x, t, step) -> network output` (guidance already applied), the starting latent, the schedule and the number
of steps, and calls `callback(step, steps, x0, x)` after each step with its present guess of the clean latent.
"""
from __future__ import annotations

import math
from typing import Callable, Optional

import numpy as np

from styleblend.diffusion.schedule import NoiseSchedule


def leading_timesteps(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """DDIM's steps: every (1000 // steps)-th, from `steps_offset` up, largest first."""
    return (np.arange(steps) * (len(schedule) // steps)).round()[::-1].astype(np.int64) + schedule.config.steps_offset


def midpoint_timesteps(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """DPM-Solver++'s steps: `steps` + 1 equal parts of the schedule without its clean end."""
    return np.linspace(0, len(schedule) - 1, steps + 1).round()[::-1][:-1].astype(np.int64)


def linear_timesteps(schedule: NoiseSchedule, steps: int) -> np.ndarray:
    """Euler's steps, from one end of the schedule to the other; they need not be whole numbers."""
    return np.linspace(0, len(schedule) - 1, steps)[::-1]


def ddim(model, x, schedule: NoiseSchedule, steps: int, eta: float = 0.0, noise: Optional[Callable] = None, start: int = 0,
         callback: Optional[Callable] = None):
    """DDIM (Song et al. 2021, eq. 12). `eta` 0 is deterministic; else `noise(step)` gives standard normal noise shaped like x.

    `start` skips the first steps (SDEdit: x is then a noised picture). The step after the last one ends at abar_0, not at 1.
    """
    times, stride = leading_timesteps(schedule, steps), len(schedule) // steps
    for step in range(start, steps):
        t = int(times[step])
        x0, eps = schedule.split(model(x, t, step), x, t)
        abar = float(schedule.alphas_cumprod[t])
        before = float(schedule.alphas_cumprod[max(t - stride, 0)])
        sigma = eta * math.sqrt((1 - before) / (1 - abar) * (1 - abar / before))
        x = math.sqrt(before) * x0 + math.sqrt(max(1 - before - sigma ** 2, 0.0)) * eps
        if sigma > 0:
            x = x + sigma * noise(step)
        if callback:
            callback(step, steps, x0, x)
    return x


def dpm_solver_pp_2m(model, x, schedule: NoiseSchedule, steps: int, callback: Optional[Callable] = None):
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), midpoint form; the last step is of first order below 15 steps and at sigma 0."""
    times = midpoint_timesteps(schedule, steps)
    abar = schedule.alphas_cumprod.astype(np.float64)
    sigmas = np.append(np.sqrt((1 - abar) / abar)[times], 0.0)  # noise to signal; the last point is clean
    alpha = 1 / np.sqrt(sigmas ** 2 + 1)
    sigma = sigmas * alpha
    with np.errstate(divide="ignore"):
        lam = np.log(alpha) - np.log(sigma)
    previous = None
    for step in range(steps):
        t = int(times[step])
        x0, _ = schedule.split(model(x, t, step), x, t)
        h = lam[step + 1] - lam[step]
        d = x0
        if previous is not None and step < steps - 1:
            r = (lam[step] - lam[step - 1]) / h
            d = x0 + float(0.5 / r) * (x0 - previous)
        x = float(sigma[step + 1] / sigma[step]) * x - float(alpha[step + 1] * np.expm1(-h)) * d
        previous = x0
        if callback:
            callback(step, steps, x0, x)
    return x


def euler(model, x, schedule: NoiseSchedule, steps: int, callback: Optional[Callable] = None):
    """Euler steps of the probability flow in sigma space (Karras et al. 2022, algorithm 2 without the correction).

    `x` is standard normal noise; the state is x_t / sqrt(abar_t) inside, so the model still sees the usual x_t.
    """
    times = linear_timesteps(schedule, steps)
    abar = schedule.alphas_cumprod.astype(np.float64)
    sigmas = np.append(np.interp(times, np.arange(len(schedule)), np.sqrt((1 - abar) / abar)), 0.0)
    state = x * float(sigmas[0])
    for step in range(steps):
        sigma = float(sigmas[step])
        scale = 1 / math.sqrt(sigma ** 2 + 1)
        seen = state * scale
        output = model(seen, float(times[step]), step)
        if schedule.config.prediction_type == "v_prediction":
            x0 = scale * seen - sigma * scale * output
        else:
            x0 = state - sigma * output
        state = state + (state - x0) * float((sigmas[step + 1] - sigma) / sigma)
        if callback:
            callback(step, steps, x0, state)
    return state


SAMPLERS = {"ddim": ddim, "dpmpp_2m": dpm_solver_pp_2m, "euler": euler}
TIMESTEPS = {"ddim": leading_timesteps, "dpmpp_2m": midpoint_timesteps, "euler": linear_timesteps}  # the time that the model gets in each step
