"""Search for the blend settings and the guidance of a style: draw a few prompts with many settings, the best few of these again with other prompts, and
test what a metric likes best on prompts that it never saw. The second round is there because the best of many scores is partly luck: the more trials, the more of it.

The search forgets nothing: `<adapters>/<style>/tuning/tuning.json` is written after each trial, and a run that was stopped goes on from it as if it
had not been, since what is tried next depends on the trials before and on nothing else.
"""
from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Literal, Optional, Sequence, Tuple

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from pydantic import Field
from tqdm import tqdm

from styleblend.base.base import Base, base_for_drawing
from styleblend.jobs.board import style_settings
from styleblend.files.captions import style_pictures
from styleblend.metrics.comparison import Difference, paired_difference
from styleblend.errors import StyleBlendError, printable
from styleblend.files.whole_files import claim, remove_unfinished, write_bytes
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.metrics.weighted import parse_mix
from styleblend.files.names import entry
from styleblend.files.pictures import load_picture
from styleblend.pipeline import StyleBlendPipeline
from styleblend.files.prompts import Prompt, make_prompt, style_prompts
from styleblend.record import style_hash
from styleblend.settings import PRESETS, BlendSettings, RunSettings, SamplingSettings, Settings, StyleSettings, validated
from styleblend.jobs.scored_pictures import Sitting
from styleblend.adapters.style import load_style
from styleblend.files.text import parse_json, read_json


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
    """What came out: the mean over the prompts, and each prompt's score. `second`: scores of the other prompts, if it came into the second round."""

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


OF_BLEND = {"preset": CategoricalDistribution(tuple(PRESETS)), "scale": FloatDistribution(0, 1, step=0.05), "fine_scale": FloatDistribution(0.2, 2, step=0.1),
         "negative_scale": FloatDistribution(-3, 1, step=0.25), "c2f_ratio": FloatDistribution(0, 1, step=0.05), "f2c_ratio": FloatDistribution(0, 1, step=0.05)}
LEAST_GUIDANCE, MOST_GUIDANCE = 1.5, 10.0
LESS_GUIDANCE = 0.5  # of the config's: where guidance leads towards the style, too, less of it does as much
# What is tried first, with each preset: itself, guidance that leads towards the style, too, less and less of the LoRA, and less guidance.
VARIANTS = (({}, 1.0), ({"negative_scale": 0.0, "fine_scale": 0.7}, 1.0), ({"negative_scale": 0.0, "fine_scale": 0.7}, LESS_GUIDANCE),
            ({"negative_scale": -1.5, "fine_scale": 0.4}, 1.0), ({"negative_scale": -2.5, "fine_scale": 0.7}, LESS_GUIDANCE))
UNSEEN_SEEDS = 1000  # the comparison's seeds begin here, the search's at 1


@dataclass(frozen=True)
class Question:
    """What the search is about. `prompts`: how many subjects of the base, or their names; `seeds`: pictures of each.

    `finalists`: so many settings draw as many other prompts, with twice as many seeds; below 2: no second round.
    `unseen` and `unseen_seeds` are prompts and pictures of each of the comparison.
    `steps`: denoising steps of a picture of both rounds; None: half of the config's, all of which the comparison makes. Both rank settings nearly alike (docs/scoring.md).
    """

    style: str
    prompts: str
    unseen: int
    seeds: int
    metric: str
    unseen_seeds: int = 1
    finalists: int = 4
    steps: Optional[int] = None


class OutOfTime(Exception):
    """The time of the search is over in the middle of a trial."""


def choose_prompts(base: Base, judge: Judge, folder: Path, question: Question) -> Tuple[List[Prompt], List[Prompt], List[Prompt]]:
    """Prompts for the search, others for its second round and others for the comparison, from what the base was taught (`subjects.json`), else from what the judge knows.

    None of them is a prompt of the style or shown in its pictures: the settings are to be good for those, so they must not be chosen by them.
    """
    path = base.folder / "subjects.json"
    known = read_json(path, "it should be a list of subjects") if path.is_file() else judge.subjects
    taken = {p.text.lower() for p in style_prompts(folder)} if (folder / "prompt.json").exists() else set()
    taken |= {p.caption.lower() for p in style_pictures(folder)} if folder.is_dir() else set()
    free = [s for s in known if s.lower() not in taken]
    free = [make_prompt(free[i]) for i in np.random.default_rng(0).permutation(len(free))]
    count = int(question.prompts) if question.prompts.isdecimal() else 0
    chosen = free[:count] if count else [make_prompt(text) for text in question.prompts.split(",") if text.strip()]
    rest = [p for p in free if p.text.lower() not in {c.text.lower() for c in chosen}]
    more = len(chosen) if question.finalists > 1 else 0
    if not chosen or len(chosen) < count or len(rest) < more + question.unseen:
        raise StyleBlendError(f"{len(free)} subjects are neither prompts nor pictures of {question.style}, too few for --prompts {question.prompts}"
                              f"{', as many for the second round' if more else ''} and --unseen {question.unseen}: ask for fewer")
    return chosen, rest[len(rest) - more:], rest[:question.unseen]  # from both ends: neither changes with the number of the other


def starts(guidance: float) -> List[Tried]:
    """What is tried first, where the config's guidance is this."""
    of_preset = {name: {key: getattr(BlendSettings(**preset), key) for key in OF_BLEND if key != "preset"} for name, preset in PRESETS.items()}
    return [Tried(preset=name, **{**blend, **more}, guidance=None if guidance <= 1 else max(guidance * share, min(guidance, LEAST_GUIDANCE)))
            for more, share in VARIANTS for name, blend in of_preset.items()]


def space(guidance: float) -> dict:
    """What is searched: where the config switches guidance off (1), it stays off."""
    return OF_BLEND if guidance <= 1 else {**OF_BLEND, "guidance": FloatDistribution(min(LEAST_GUIDANCE, guidance), max(MOST_GUIDANCE, guidance), log=True)}


def proposal(trials: Sequence[Trial], guidance: float) -> Tried:
    """What to try next: `starts` first, then what Optuna's TPE proposes. A function of the trials so far."""
    first, distributions = starts(guidance), space(guidance)
    if len(trials) < len(first):
        return first[len(trials)]
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=len(trials), n_startup_trials=len(first)))
    study.add_trials([optuna.trial.create_trial(params=t.settings.model_dump(exclude_none=True), distributions=distributions, value=t.score) for t in trials])
    asked = study.ask(distributions).params
    return Tried(**{key: value if isinstance(value, str) else float(np.clip(round(value, 2), distributions[key].low, distributions[key].high)) for key, value in asked.items()})


def with_trial(own: StyleSettings, tried: Tried) -> StyleSettings:
    """The style's settings with those of a trial in place of its own; all else, such as sites of its own and seeds, stays."""
    return own.model_copy(update={"preset": tried.preset, "guidance": tried.guidance or own.guidance, "blend": {**own.blend, **tried.model_dump(exclude={"preset", "guidance"})}})


def read_trials(path: Path, question: dict) -> List[Trial]:
    """The trials of an earlier run that asked the same. StyleBlendError when it asked something else."""
    if not path.is_file():
        return []
    hint = "--overwrite begins anew"
    try:
        data = parse_json(path.read_text(encoding="utf-8"))  # not read_json: many trials may be larger than what it takes from people
    except ValueError as error:
        raise StyleBlendError(f"{path} cannot be read as JSON ({printable(str(error))}): {hint}") from None
    history = validated(History, data, f"{path} ({hint})")
    sampling = history.question.get("sampling")  # an older search has older names in it
    sampling = sampling and validated(SamplingSettings, sampling, str(path)).model_dump()
    before = {**history.question, "sampling": sampling}
    other = [key for key in question if before.get(key) != question[key]]
    if other:
        raise StyleBlendError(f"{path} holds trials of another search, with another {' and '.join(other)}: give the options of that one to go on, or {hint}")
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


def search(sitting: Sitting, own: StyleSettings, trials: List[Trial], count: int, minutes: Optional[float], save: Callable) -> None:
    """Add trials to the list until there are `count` or the time is over; `save` is called after each."""
    end = time.monotonic() + 60 * minutes if minutes is not None else np.inf

    def each():
        if time.monotonic() > end:
            raise OutOfTime

    for t in trials:
        sitting.remember(with_trial(own, t.settings), t.prompts)
    with tqdm(total=max(count, len(trials)), initial=len(trials), desc="trials", unit="trial", dynamic_ncols=True, file=sys.stderr) as bar:
        while len(trials) < count:
            tried = proposal(trials, sitting.settings.sampling.guidance)
            try:
                prompts = sitting.scores(with_trial(own, tried), "pictures", each)
            except OutOfTime:
                break
            trials.append(Trial(settings=tried, score=float(np.mean(list(prompts.values()))), prompts=prompts))
            save()
            bar.set_postfix_str(f"best {max(t.score for t in trials):.3f}", refresh=False)
            bar.update()


def second_round(sitting: Sitting, own: StyleSettings, trials: List[Trial], finalists: int, save: Callable) -> Trial:
    """The best trial by all prompts of both rounds, of those with the best scores in the first one; `save` is called after each."""
    for i in sorted(range(len(trials)), key=lambda i: trials[i].score, reverse=True)[:finalists]:
        if not trials[i].second:
            trials[i] = trials[i].model_copy(update={"second": sitting.scores(with_trial(own, trials[i].settings), "second round")})
            save()
    return max((t for t in trials if t.second), key=lambda t: t.standing)


def compare(test: Sitting, best: StyleSettings, present: StyleSettings) -> Tuple[Difference, str]:
    """The best settings against the present ones, prompt by prompt, and a sentence on it."""
    then, now = (list(test.scores(own, title).values()) for own, title in ((best, "unseen prompts, best"), (present, "unseen prompts, present")))
    difference = paired_difference(then, now)
    verdict = "better" if difference.better else "not better beyond what chance explains"
    return difference, (f"On {difference.pairs} other prompts with other seeds: {np.mean(then):.3f}, present settings {np.mean(now):.3f}; "
                        f"difference {difference} (95 % interval): {verdict}")


def best_seeds(sitting: Sitting, own: StyleSettings) -> Tuple[Dict[str, int], float, float]:
    """The seed of each prompt's best picture, and the mean scores of these and of each prompt's first seed. Prompts without a score are left out."""
    values = sitting.values(sitting.pictures(own, "seeds"))
    best: Dict[str, Tuple[float, int]] = {}
    first: Dict[str, float] = {}
    for value, (prompt, seed) in zip(values, sitting.jobs):
        if np.isfinite(value):
            first.setdefault(prompt.name, value)
            best[prompt.name] = max(best.get(prompt.name, (-np.inf, seed)), (value, seed), key=lambda pair: pair[0])
    after, before = ([value for value, _ in best.values()], list(first.values())) if best else ([np.nan], [np.nan])
    return {name: seed for name, (_, seed) in best.items()}, float(np.mean(after)), float(np.mean(before))


def tune(settings: RunSettings, question: Question, count: int, minutes: Optional[float] = None, overwrite: bool = False, others: Sequence = (),
         seeds_each: int = 0) -> List[str]:
    """Search, compare the best with the present settings on unseen prompts and seeds, and write `style.json` only if it is better.

    `others` are metrics beside the judge (`styleblend.metrics`).
    `seeds_each`: then draw each prompt of prompt.json with so many seeds and write down the best of each. Returns sentences on what came out.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    adapters, data = Path(settings.adapters) / question.style, entry(settings.data, question.style)
    folder, path = adapters / "tuning", adapters / "tuning" / "tuning.json"
    mix, judge = parse_mix(question.metric, "--metric"), Judge.load()
    if min(count, question.seeds, question.unseen, question.unseen_seeds) < 1:
        raise StyleBlendError("--trials, --seeds, --unseen and --unseen-seeds begin at 1")
    sampling = {**settings.sampling.model_dump(), "steps": max(settings.sampling.steps // 2, 1) if question.steps is None else question.steps}
    quick = settings.model_copy(update={"sampling": validated(SamplingSettings, sampling, "--search-steps")})
    of_style = style_prompts(data) if seeds_each > 1 else []
    base = base_for_drawing(settings)
    pipeline = StyleBlendPipeline(base, load_style(adapters, question.style, base))
    own = style_settings(settings, pipeline.style).model_copy(update={"parts": pipeline.style.settings.parts})
    chosen, more, unseen = choose_prompts(base, judge, data, question)
    originals = [load_picture(p.path, settings.pictures.max_pixels) for p in style_pictures(data)] if data.is_dir() else []

    def sitting(jobs: Sequence[Tuple[Prompt, int]], run: RunSettings) -> Sitting:
        return Sitting(pipeline, run, [JudgeMetric(judge, question.style), *others], mix, originals, jobs)

    def jobs(prompts: Sequence[Prompt], first: int, count: int) -> List[Tuple[Prompt, int]]:
        return [(p, seed) for p in prompts for seed in range(first, first + count)]

    tuned = sitting(jobs(chosen, 1, question.seeds), quick)
    asked = {"style": style_hash(pipeline.style), "base": base.fingerprint(), "decoder": base.decoder_fingerprint(), "judge": judge.hash, "metric": mix, "seeds": question.seeds,
             "prompts": [p.name for p in chosen], "second round": [p.name for p in more], "sampling": quick.sampling.model_dump(), "presets": PRESETS, "searched": list(space(settings.sampling.guidance)),
             "blend": tuned.drawn_with(with_trial(own, starts(settings.sampling.guidance)[0]))[1].model_dump()}
    with claim(folder, "tune"):
        remove_unfinished(folder, adapters)
        trials = [] if overwrite else read_trials(path, asked)

        def save(**more):
            write_bytes(path, (History(question=asked, trials=trials, **more).model_dump_json(indent=1) + "\n").encode("utf-8"))

        search(tuned, own, trials, count, minutes, save)
        if not trials:
            raise StyleBlendError(f"--minutes {minutes:g} was too short for one trial of {len(tuned.jobs)} pictures: give more, or fewer --prompts or --seeds")
        best = max(trials, key=lambda t: t.score)
        if more:
            again = sitting(jobs(more, 1, 2 * question.seeds), quick)
            best = second_round(again, own, trials, question.finalists, save)
        present, better, final = float(np.mean(list(tuned.scores(own, "present settings").values()))), with_trial(own, best.settings), own
        plot_trail(folder / "trail.png", trials, present, question.metric)
        lines = [f"{len(trials)} trials with {', '.join(p.name for p in chosen)}, pictures of each: {question.seeds}; {present:.3f} with the present settings. All are in {folder}",
                 f"Best {question.metric} {best.score:.3f}{f', {np.mean(list(best.second.values())):.3f} in the second round' if best.second else ''}, "
                 f"with {', '.join(f'{key} {value}' for key, value in best.settings)}"]
        if tuned.drawn_with(better) == tuned.drawn_with(own):
            lines.append("The present settings are the best that were found")
        else:
            test = sitting(jobs(unseen, UNSEEN_SEEDS, question.unseen_seeds), settings)
            difference, sentence = compare(test, better, own)
            save(comparison={"settings": best.settings.model_dump(), "prompts": [p.name for p in unseen], **vars(difference)})
            lines.append(sentence)
            final = better if difference.better else own
        if of_style:
            first = {p: int(own.seeds.get(p.name, settings.sampling.seed)) for p in of_style}
            seeds, after, before = best_seeds(sitting([(p, seed) for p, s in first.items() for seed in range(s, s + seeds_each)], settings), final)
            changed = {p.name: seeds[p.name] for p, s in first.items() if seeds.get(p.name, s) != s}
            final = final.model_copy(update={"seeds": {**own.seeds, **changed}})
            lines.append(f"Best of {seeds_each} seeds for {len(seeds)} prompts: {after:.3f}, first seeds {before:.3f}. This is what they were chosen by, so no test")
        if final == own:
            return lines + ["Nothing is written"]
        write_bytes(adapters / "style.json", (final.model_dump_json(exclude_defaults=True, indent=2) + "\n").encode("utf-8"))
        return lines + [f"Written to {adapters / 'style.json'}; python test.py --overwrite draws with it"]
