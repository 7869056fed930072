"""Samplers: from noise to a clean latent, one step at a time.

`SAMPLERS` is the one list of them.

A sampler is a generator. It asks `model(x, t, index)` for the network's output (guidance already applied) and yields a
`Step` after each call. Whoever runs it may replace `step.x` before the next step. Nothing here imports Jittor: latents
are only added and multiplied.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, Optional, Tuple

import numpy as np


@dataclass
class Step:
    """What one step of a sampler made.

    `index` counts from 0 to `count` - 1; PNDM's first step comes twice. `time` is what the model was given
    (0..num_train_timesteps - 1). `x0` is the present guess of the clean latent. `x` is what the model gets next: x_t of
    the next time, and after the last step the result. It may be replaced. `held` is what else the sampler goes on from:
    whoever computes `x` late, as Jittor does, must compute it with `x`, or the next step's graph holds this one's, too.
    """

    index: int
    count: int
    time: float
    x0: Any
    x: Any
    held: Tuple[Any, ...] = ()


@dataclass(frozen=True)
class Sampler:
    """One entry of `SAMPLERS`."""

    title: str  # as A1111 names it
    timesteps: Callable  # (schedule, steps) -> the times that the model gets, largest first: (steps,)
    run: Callable[..., Iterator[Step]]  # (model, x, schedule, steps, start=0, noised=False, eta=0.0, noise=None)
    takes_noise: bool = False  # whether `eta` and `noise` mean something


def leading_timesteps(schedule, steps: int) -> np.ndarray:
    """DDIM's steps: every (1000 // steps)-th, from `steps_offset` up, largest first.

    Of a single step the published spacing would begin at the clean end, where there is nothing to draw from noise.
    """
    if steps == 1:
        return np.array([len(schedule) - 1])
    return (np.arange(steps) * (len(schedule) // steps)).round()[::-1].astype(np.int64) + schedule.config.steps_offset


def midpoint_timesteps(schedule, steps: int) -> np.ndarray:
    """DPM-Solver++'s steps: `steps` + 1 equal parts of the schedule without its clean end."""
    return np.linspace(0, len(schedule) - 1, steps + 1).round()[::-1][:-1].astype(np.int64)


def linear_timesteps(schedule, steps: int) -> np.ndarray:
    """Euler's steps, from one end of the schedule to the other; they need not be whole numbers.

    A single one is at the noisy end: at the other one a picture is hardly noise any more, and comes out brown.
    """
    if steps == 1:
        return np.array([len(schedule) - 1.0])
    return np.linspace(0, len(schedule) - 1, steps)[::-1]


def first_step_of(strength: float, steps: int) -> int:
    """How many steps image to image leaves out, as published: of `steps` the last int(steps * strength) are run."""
    return steps - min(int(steps * strength), steps)


def ddim(model, x, schedule, steps: int, start: int = 0, noised: bool = False, eta: float = 0.0,
         noise: Optional[Callable] = None) -> Iterator[Step]:
    """DDIM (Song et al. 2021, eq. 12).

    `eta` 0 is deterministic; else `noise(index)` gives standard normal noise shaped like x.

    `start` skips the first steps (SDEdit: x is then a noised picture). The step after the last one ends at abar_0, not
    at 1.
    """
    times, stride = leading_timesteps(schedule, steps), len(schedule) // steps
    for index in range(start, steps):
        t = int(times[index])
        x0, eps = schedule.split(model(x, t, index), x, t)
        abar = float(schedule.alphas_cumprod[t])
        before = float(schedule.alphas_cumprod[max(t - stride, 0)])
        sigma = eta * math.sqrt((1 - before) / (1 - abar) * (1 - abar / before))
        x = math.sqrt(before) * x0 + math.sqrt(max(1 - before - sigma ** 2, 0.0)) * eps
        if sigma > 0:
            x = x + sigma * noise(index)
        step = Step(index, steps, t, x0, x)
        yield step
        x = step.x


def signal_and_noise(schedule, times: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of these times, and of the clean end behind them: factors of signal and noise, and half of log(signal/noise)."""
    abar = schedule.alphas_cumprod.astype(np.float64)
    sigmas = np.append(np.sqrt((1 - abar) / abar)[times], 0.0)
    alpha = 1 / np.sqrt(sigmas ** 2 + 1)
    sigma = sigmas * alpha
    with np.errstate(divide="ignore"):
        return alpha, sigma, np.log(alpha) - np.log(sigma)


def dpm_solver_pp_2m(model, x, schedule, steps: int, start: int = 0, noised: bool = False) -> Iterator[Step]:
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), midpoint form.

    The last step is of first order, as below 15 steps and at sigma 0.
    """
    times = midpoint_timesteps(schedule, steps)
    alpha, sigma, lam = signal_and_noise(schedule, times)
    previous = None
    for index in range(start, steps):
        t = int(times[index])
        x0, _ = schedule.split(model(x, t, index), x, t)
        h = lam[index + 1] - lam[index]
        d = x0
        if previous is not None and index < steps - 1:
            r = (lam[index] - lam[index - 1]) / h
            d = x0 + float(0.5 / r) * (x0 - previous)
        x = float(sigma[index + 1] / sigma[index]) * x - float(alpha[index + 1] * np.expm1(-h)) * d
        previous = x0
        step = Step(index, steps, t, x0, x)
        yield step
        x = step.x


def unipc_2(model, x, schedule, steps: int, start: int = 0, noised: bool = False) -> Iterator[Step]:
    """UniPC of order 2 (Zhao et al. 2023, algorithms 5 and 6), for x0, with B(h) = exp(h) - 1: "bh2".

    The network's output at a step also corrects the step before, at no cost. The first step and the last one are of
    order 1. An `x` that was replaced is taken as it stands, and not corrected.
    """
    times = midpoint_timesteps(schedule, steps)
    alpha, sigma, lam = signal_and_noise(schedule, times)

    def moved(x, x0, index: int, change=None):
        """The first-order step from `index`, with `change` of x0 on the way."""
        shrink = float(alpha[index + 1] * np.expm1(lam[index] - lam[index + 1]))
        first = float(sigma[index + 1] / sigma[index]) * x - shrink * x0
        return first if change is None else first - shrink * change

    outputs, before, order = {}, None, 1  # x0 by step; x that the last step began from; the order of that step
    for index in range(start, steps):
        t = int(times[index])
        outputs[index], _ = schedule.split(model(x, t, index), x, t)
        if before is not None:
            x = moved(before, outputs[index - 1], index - 1, correction(outputs, lam, index, order))
        order = 2 if start < index < steps - 1 else 1
        change = None
        if order == 2:
            ratio = (lam[index] - lam[index - 1]) / (lam[index + 1] - lam[index])
            change = float(0.5 / ratio) * (outputs[index] - outputs[index - 1])
        before, x = x, moved(x, outputs[index], index, change)
        outputs.pop(index - 2, None)
        step = Step(index, steps, t, outputs[index], x, (before, outputs[index]))
        yield step
        if step.x is not x:
            x, before = step.x, None


def correction(outputs: Mapping[int, Any], lam: np.ndarray, index: int, order: int):
    """How x0 changed on UniPC's step to `index`, now that it is known there: of the order that the step had."""
    last, h = outputs[index - 1], lam[index] - lam[index - 1]
    if order == 1:
        return 0.5 * (outputs[index] - last)
    ratio = (lam[index - 2] - lam[index - 1]) / h
    whole = np.expm1(-h)
    phi = -whole / h - 1
    shares = np.linalg.solve([[1.0, 1.0], [ratio, 1.0]], [phi / whole, 2 * (-phi / h - 0.5) / whole])
    return float(shares[0] / ratio) * (outputs[index - 2] - last) + float(shares[1]) * (outputs[index] - last)


def euler(model, x, schedule, steps: int, start: int = 0, noised: bool = False) -> Iterator[Step]:
    """Euler steps of the probability flow in sigma space (Karras et al. 2022, algorithm 2 without the correction).

    Inside, the state is x_t / sqrt(abar_t). The model and whoever reads the steps see the usual x_t. `noised` says that
    `x` is an x_t already; else it is standard normal noise.
    """
    times = linear_timesteps(schedule, steps)
    abar = schedule.alphas_cumprod.astype(np.float64)
    sigmas = np.append(np.interp(times, np.arange(len(schedule)), np.sqrt((1 - abar) / abar)), 0.0)
    scales = [1 / math.sqrt(float(sigma) ** 2 + 1) for sigma in sigmas]  # sqrt(abar_t)
    state = x * (1 / scales[start]) if noised else x * float(sigmas[start])
    seen = x if noised else state * scales[start]
    for index in range(start, steps):
        sigma, scale = float(sigmas[index]), scales[index]
        output = model(seen, float(times[index]), index)
        if schedule.config.prediction_type == "v_prediction":
            x0 = scale * seen - sigma * scale * output
        else:
            x0 = state - sigma * output
        state = state + (state - x0) * float((sigmas[index + 1] - sigma) / sigma)
        seen = state * scales[index + 1]
        step = Step(index, steps, float(times[index]), x0, seen, (state,))
        yield step
        if step.x is not seen:
            seen, state = step.x, step.x * (1 / scales[index + 1])


# of the newest outputs, the last one first (Liu et al. 2022, eq. 9, and the lower orders)
ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def pndm(model, x, schedule, steps: int, start: int = 0, noised: bool = False) -> Iterator[Step]:
    """Pseudo linear multistep (Liu et al. 2022), without the Runge-Kutta steps, along DDIM's times.

    The first step is made twice: again from where it began, with the mean of the outputs at both of its ends. So n
    steps are n + 1 calls of the model, and both results are yielded, with the index 0. The network's outputs are
    remembered as they are, and become a step only where they are used.
    """
    times, stride, outputs = leading_timesteps(schedule, steps), len(schedule) // steps, []

    def moved(x, output, index: int, called: int) -> Step:
        t, before = int(times[index]), max(int(times[index]) - stride, 0)
        (x0, eps), (signal, noise) = schedule.split(output, x, t), schedule.coefficients(before)
        return Step(index, steps, int(times[called]), x0, signal * x0 + noise * eps)

    for index in range(start, steps):
        outputs = [model(x, int(times[index]), index), *outputs[:3]]
        began, output = x, sum(factor * one for factor, one in zip(ADAMS_BASHFORTH[len(outputs) - 1], outputs))
        step = moved(x, output, index, index)
        step.held = tuple(outputs)
        yield step
        x = step.x
        if index == start < steps - 1:
            again = model(x, int(times[index + 1]), index + 1)
            step = moved(began, (again + outputs[0]) / 2, index, index + 1)
            yield step
            x = step.x


def within(index: int, steps: int, start: float, end: float) -> bool:
    """Whether step `index` lies between two shares (0..1) of all steps, counted as diffusers counts."""
    return not (index / steps < start or (index + 1) / steps > end)


SAMPLERS: Mapping[str, Sampler] = {
    "ddim": Sampler("DDIM", leading_timesteps, ddim, takes_noise=True),
    "dpmpp_2m": Sampler("DPM++ 2M", midpoint_timesteps, dpm_solver_pp_2m),
    "euler": Sampler("Euler", linear_timesteps, euler),
    "unipc": Sampler("UniPC", midpoint_timesteps, unipc_2),
    "pndm": Sampler("PLMS", leading_timesteps, pndm),
}
