"""The trials of a search for a style's settings: what is tried, what is tried next, and the file that keeps them."""
from __future__ import annotations

import io
from pathlib import Path
from typing import Dict, List, Literal, Optional, Sequence

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from pydantic import Field

from styleblend.errors import StyleBlendError, printable
from styleblend.files.text import parse_json
from styleblend.files.whole_files import write_bytes
from styleblend.settings import PRESETS, BlendSettings, SamplingSettings, Settings, StyleSettings, validated


class Tried(Settings):
    """What a trial changes."""

    preset: Literal["balanced", "strong_layout"]
    scale: float = Field(ge=0, le=1)
    fine_scale: float = Field(ge=0.2, le=2)
    negative_scale: float = Field(ge=-3, le=1)
    c2f_ratio: float = Field(ge=0, le=1)
    f2c_ratio: float = Field(ge=0, le=1)
    guidance: Optional[float] = Field(None, gt=1, allow_inf_nan=False, description="None: off, as in the config")


class Trial(Settings):
    """What came out: the mean over the prompts, and each prompt's score.

    `second`: scores of the other prompts, if it came into the second round.
    """

    settings: Tried
    score: float
    prompts: Dict[str, float]
    second: Dict[str, float] = {}

    @property
    def standing(self) -> float:
        """The mean over the prompts of both rounds."""
        return float(np.mean([*self.prompts.values(), *self.second.values()]))


class History(Settings):
    """`tuning.json`."""

    question: dict
    trials: List[Trial]
    comparison: Optional[dict] = None


OF_BLEND = {"preset": CategoricalDistribution(tuple(PRESETS)), "scale": FloatDistribution(0, 1, step=0.05),
            "fine_scale": FloatDistribution(0.2, 2, step=0.1),
         "negative_scale": FloatDistribution(-3, 1, step=0.25), "c2f_ratio": FloatDistribution(0, 1, step=0.05),
            "f2c_ratio": FloatDistribution(0, 1, step=0.05)}
LEAST_GUIDANCE, MOST_GUIDANCE = 1.5, 10.0
LESS_GUIDANCE = 0.5  # of the config's: where guidance leads towards the style, too, less of it does as much
# What is tried first, with each preset: itself, guidance that leads towards the style, too, less and less of the LoRA,
# and less guidance.
VARIANTS = (({}, 1.0), ({"negative_scale": 0.0, "fine_scale": 0.7}, 1.0),
            ({"negative_scale": 0.0, "fine_scale": 0.7}, LESS_GUIDANCE),
            ({"negative_scale": -1.5, "fine_scale": 0.4}, 1.0),
            ({"negative_scale": -2.5, "fine_scale": 0.7}, LESS_GUIDANCE))


def starts(guidance: float) -> List[Tried]:
    """What is tried first, where the config's guidance is this."""
    of_preset = {name: {key: getattr(BlendSettings(**preset), key) for key in OF_BLEND if key != "preset"} for name,
                 preset in PRESETS.items()}
    return [Tried(preset=name, **{**blend, **more},
                  guidance=None if guidance <= 1 else max(guidance * share, min(guidance, LEAST_GUIDANCE)))
            for more, share in VARIANTS for name, blend in of_preset.items()]


def space(guidance: float) -> dict:
    """What is searched: where the config switches guidance off (1), it stays off."""
    if guidance <= 1:
        return OF_BLEND
    least, most = min(LEAST_GUIDANCE, guidance), max(MOST_GUIDANCE, guidance)
    return {**OF_BLEND, "guidance": FloatDistribution(least, most, log=True)}


def proposal(trials: Sequence[Trial], guidance: float) -> Tried:
    """What to try next: `starts` first, then what Optuna's TPE proposes. A function of the trials so far."""
    first, distributions = starts(guidance), space(guidance)
    if len(trials) < len(first):
        return first[len(trials)]
    study = optuna.create_study(direction="maximize",
                                sampler=optuna.samplers.TPESampler(seed=len(trials), n_startup_trials=len(first)))
    study.add_trials([optuna.trial.create_trial(params=t.settings.model_dump(exclude_none=True),
                                                distributions=distributions, value=t.score) for t in trials])
    asked = study.ask(distributions).params
    return Tried(**{key: value
                    if isinstance(value, str)
                    else float(np.clip(round(value, 2), distributions[key].low, distributions[key].high)) for key,
                    value in asked.items()})


def with_trial(own: StyleSettings, tried: Tried) -> StyleSettings:
    """The style's settings with those of a trial in place of its own.

    All else, such as sites of its own and seeds, stays.
    """
    return own.model_copy(update={"preset": tried.preset, "guidance": tried.guidance or own.guidance,
                                  "blend": {**own.blend, **tried.model_dump(exclude={"preset", "guidance"})}})


def read_trials(path: Path, question: dict) -> List[Trial]:
    """The trials of an earlier run that asked the same. StyleBlendError when it asked something else."""
    if not path.is_file():
        return []
    hint = "--overwrite begins anew"
    try:
        # not read_json: many trials may be larger than what it takes from people
        data = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StyleBlendError(f"{path} cannot be read as JSON ({printable(str(error))}): {hint}") from None
    history = validated(History, data, f"{path} ({hint})")
    sampling = history.question.get("sampling")  # an older search has older names in it
    sampling = sampling and validated(SamplingSettings, sampling, str(path)).model_dump()
    before = {**history.question, "sampling": sampling}
    other = [key for key in question if before.get(key) != question[key]]
    if other:
        raise StyleBlendError(f"{path} holds trials of another search, with another {' and '.join(other)}: give the "
                              f"options of that one to go on, or {hint}")
    return history.trials


def plot_trail(path: Path, trials: Sequence[Trial], present: float, metric: str) -> None:
    """Each trial's score in both rounds, the best so far, and what the style's present settings have."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis, scores = figure.subplots(), [t.score for t in trials]
    for preset in PRESETS:
        rows = [i for i, t in enumerate(trials) if t.settings.preset == preset]
        axis.plot([i + 1 for i in rows], [scores[i] for i in rows], "o", markersize=4, label=preset)
    second = [(i + 1, np.mean(list(t.second.values()))) for i, t in enumerate(trials) if t.second]
    if second:
        axis.plot(*zip(*second), "x", markersize=7, color="0.2", label="second round")
    axis.step(range(1, len(scores) + 1), np.maximum.accumulate(scores), where="post", color="0.3", label="best so far")
    axis.axhline(present, color="0.6", linestyle="--", label="present settings")
    axis.set(xlabel="trial", ylabel=metric)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_bytes(path, buffer.getvalue())
