"""Samplers as generators of steps: what each step says, and that whoever reads them may put another x in its place."""
from __future__ import annotations

import numpy as np
import pytest

from reference import seeded
from styleblend.diffusion.samplers import SAMPLERS
from styleblend.diffusion.schedule import NoiseSchedule
from styleblend.models.configs import ScheduleConfig

SHAPE = (2, 4, 3, 5)
COUNTS = (1, 4, 7)


def schedule(prediction: str = "v_prediction") -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(**seeded.SCHEDULE, prediction_type=prediction))


def values(name: str) -> np.ndarray:
    return seeded.values(f"steps/{name}", SHAPE).astype(np.float64)


def level(ours: NoiseSchedule, time: float) -> tuple:
    """sqrt(abar_t) and sqrt(1 - abar_t), between two times of the schedule too."""
    abar = ours.alphas_cumprod.astype(np.float64)
    sigma = np.interp(time, np.arange(len(ours)), np.sqrt((1 - abar) / abar))
    return 1 / np.sqrt(sigma ** 2 + 1), sigma / np.sqrt(sigma ** 2 + 1)


class Model:
    """A network without memory, which notes what it was given."""

    def __init__(self):
        self.given = []

    def __call__(self, x, time, index):
        self.given.append((x, time, index))
        return seeded.toy_model(x, time) + 0.1 * np.tanh(x)


@pytest.mark.parametrize("steps", COUNTS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_says_where_it_is(name, steps):
    """The model gets what the step before left, at the times that are embedded beforehand; the last x is the result."""
    sampler, model = SAMPLERS[name], Model()
    made = list(sampler.run(model, values("x"), schedule(), steps))
    twice = int(name == "pndm" and steps > 1)  # the first step is made again, with what the second time says
    assert [(step.index, step.count) for step in made] == [(n, steps) for n in [*[0] * twice, *range(steps)]]
    times = sampler.timesteps(schedule(), steps).tolist()
    assert [index for *_, index in model.given] == [*range(1 + twice), *range(1, steps)]
    assert [step.time for step in made] == [time for _, time, _ in model.given]
    assert all(time == times[index] for _, time, index in model.given)
    assert all(given is step.x for (given, *_), step in zip(model.given[1:], made))
    assert all(step.x.shape == step.x0.shape == SHAPE for step in made)
    if name not in ("ddim", "pndm"):  # these end at abar_0, the others at no noise at all
        np.testing.assert_allclose(made[-1].x, made[-1].x0, rtol=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", COUNTS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_x_is_what_the_model_knows_as_x_t(name, steps, prediction):
    """With a model that knows the picture and the noise, x is sqrt(abar_t) x0 + sqrt(1 - abar_t) eps at the next time:
    Euler's, too."""
    if name == "pndm" and prediction == "v_prediction":
        pytest.skip("it adds up outputs of several times, and v is another one at each")
    sampler, ours, x0, eps = SAMPLERS[name], schedule(prediction), values("x0"), values("eps")
    times = sampler.timesteps(ours, steps)

    def knowing(x, time, index):
        a, s = level(ours, time)
        return a * eps - s * x0 if prediction == "v_prediction" else eps

    a, s = level(ours, times[0])
    for step in sampler.run(knowing, a * x0 + s * eps, ours, steps, noised=True):
        # epsilon is divided by sqrt(abar_t)
        np.testing.assert_allclose(step.x0, x0, atol=2e-4 if prediction == "epsilon" else 2e-6)
        if step.index < steps - 1:
            a, s = level(ours, times[step.index + 1])
            np.testing.assert_allclose(step.x, a * x0 + s * eps, atol=2e-5)


@pytest.mark.parametrize("name, replaced", [("ddim", 0), ("ddim", 3), ("ddim", 5), ("euler", 0), ("euler", 3),
                                            ("euler", 5), ("dpmpp_2m", 5), ("unipc", 5)])
def test_another_x_is_gone_on_from(name, replaced):
    """Bit for bit what the sampler makes of it when it is called from there. DPM-Solver++ and UniPC remember a step,
    but not in their last one: UniPC does not correct what was replaced."""
    sampler, other = SAMPLERS[name], values("other")
    made = []
    for step in sampler.run(Model(), values("x"), schedule(), 7):
        if step.index == replaced:
            step.x = other
        made.append(step)
    alone = list(sampler.run(Model(), other, schedule(), 7, start=replaced + 1, noised=True))
    assert [step.index for step in alone] == list(range(replaced + 1, 7))
    for one, two in zip(made[replaced + 1:], alone):
        assert np.array_equal(one.x, two.x) and np.array_equal(one.x0, two.x0) and one.time == two.time
    untouched = list(sampler.run(Model(), values("x"), schedule(), 7))
    assert all(np.array_equal(one.x, two.x) for one, two in zip(made[:replaced], untouched))
    assert not np.array_equal(made[-1].x, untouched[-1].x)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("unipc", "pndm")])  # they look further back
def test_a_picture_that_was_noised_goes_on_as_the_whole_run(name):
    """From the x of any step, where the sampler has no memory; from the last but one where it has."""
    sampler = SAMPLERS[name]
    whole = list(sampler.run(Model(), values("x"), schedule(), 5))
    for start in (4,) if name == "dpmpp_2m" else (1, 2, 4):
        rest = list(sampler.run(Model(), whole[start - 1].x, schedule(), 5, start=start, noised=True))
        np.testing.assert_allclose(rest[-1].x, whole[-1].x, rtol=1e-12)


def test_dpm_solver_goes_on_from_another_x_with_what_it_remembers():
    """Lu et al. 2022, algorithm 2, by hand for the step behind the one whose x was replaced: the second order needs the
    x0 before."""
    ours, other, model = schedule(), values("other"), Model()
    made = []
    for step in SAMPLERS["dpmpp_2m"].run(model, values("x"), ours, 7):
        if step.index == 2:
            step.x = other
        made.append(step)
    assert model.given[3][0] is other
    (a0, s0), (a1, s1), (a2, s2) = (level(ours, time) for time in [step.time for step in made[2:5]])
    h, before = np.log(a2 / s2) - np.log(a1 / s1), np.log(a1 / s1) - np.log(a0 / s0)
    d = made[3].x0 + h / (2 * before) * (made[3].x0 - made[2].x0)
    np.testing.assert_allclose(made[3].x, s2 / s1 * other - a2 * np.expm1(-h) * d, rtol=1e-9)


def test_unipc_corrects_the_step_before_with_what_it_learns_there():
    """Zhao et al. 2023, algorithm 5, by hand for the first correction, which is of order 1."""
    ours, start = schedule(), values("x")
    made = list(SAMPLERS["unipc"].run(Model(), start, ours, 5))
    (a0, s0), (a1, s1) = (level(ours, step.time) for step in made[:2])
    h = np.log(a1 / s1) - np.log(a0 / s0)
    corrected = s1 / s0 * start - a1 * np.expm1(-h) * (made[0].x0 + 0.5 * (made[1].x0 - made[0].x0))
    np.testing.assert_allclose(made[1].held[0], corrected, rtol=1e-9)
    np.testing.assert_allclose(made[0].x, s1 / s0 * start - a1 * np.expm1(-h) * made[0].x0, rtol=1e-9)


def test_pndm_makes_its_first_step_again_with_the_mean_of_both_ends():
    """Liu et al. 2022 without their Runge-Kutta steps, by hand: the first two steps, the second one of order 2."""
    ours, start, model = schedule("epsilon"), values("x"), Model()
    made = list(SAMPLERS["pndm"].run(model, start, ours, 5))
    outputs = [seeded.toy_model(x, time) + 0.1 * np.tanh(x) for x, time, _ in model.given]

    def moved(x, eps, index):
        (a, s), (b, r) = (level(ours, time) for time in times[index:index + 2])
        return b * (x - s * eps) / a + r * eps

    times = SAMPLERS["pndm"].timesteps(ours, 5)
    np.testing.assert_allclose(made[0].x, moved(start, outputs[0], 0), atol=1e-6)
    np.testing.assert_allclose(made[1].x, moved(start, (outputs[0] + outputs[1]) / 2, 0), atol=1e-6)
    np.testing.assert_allclose(made[2].x, moved(made[1].x, (3 * outputs[2] - outputs[0]) / 2, 1), atol=1e-6)


def test_noise_is_asked_for_where_it_means_something():
    """Of DDIM with eta, once a step; of none without."""
    asked = []

    def noise(index):
        asked.append(index)
        return values(f"noise{index}")

    steps = [list(SAMPLERS["ddim"].run(Model(), values("x"), schedule(), 4, eta=eta, noise=noise))
             for eta in (0.0, 1.0)]
    assert asked == [0, 1, 2, 3] and not np.allclose(steps[0][-1].x, steps[1][-1].x)
    assert [name for name, sampler in SAMPLERS.items() if sampler.takes_noise] == ["ddim"]
    for name in ("dpmpp_2m", "euler", "unipc", "pndm"):
        with pytest.raises(TypeError, match="eta"):
            SAMPLERS[name].run(Model(), values("x"), schedule(), 4, eta=0.5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_single_step_begins_at_the_noisy_end(name):
    """The published spacings of DDIM and Euler would begin at the clean one, and show noise or a brown square."""
    sampler, ours = SAMPLERS[name], schedule()
    assert sampler.timesteps(ours, 1).tolist() == [999]
    a, s = level(ours, 999)
    x0, noise = values("x0"), values("eps")
    [step] = sampler.run(lambda x, time, index: a * noise - s * x0, a * x0 + s * noise, ours, 1, noised=True)
    np.testing.assert_allclose(step.x, x0, atol=0.05 if name in ("ddim", "pndm") else 1e-5)  # they end at abar_0
