"""Search for the blend settings and the guidance of a style.

A few prompts are drawn with many settings, the best few of these again with other prompts, and what a metric likes best
is tested on prompts that it never saw. The second round is there because the best of many scores is partly luck: the
more trials, the more of it.

The search forgets nothing: `<adapters>/<style>/tuning/tuning.json` is written after each trial, and a run that was
stopped goes on from it as if it had not been, since what is tried next depends on the trials before and on nothing
else.
"""
from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import optuna

from styleblend.adapters.load import put_in_place
from styleblend.adapters.style import Style, load_style
from styleblend.adapters.style_files import part_file, parts_of
from styleblend.base.base import Base, base_for_drawing
from styleblend.errors import StyleBlendError
from styleblend.files.captions import pictures_if_any
from styleblend.files.names import check_name
from styleblend.files.output_files import refuse_unwritable
from styleblend.files.pictures import load_picture
from styleblend.files.prompts import Prompt, listed, make_prompt, prompt_file, style_prompts
from styleblend.files.shipped import adapters_of, data_of
from styleblend.files.text import read_json
from styleblend.files.whole_files import not_written, remove_unfinished, write_bytes
from styleblend.files.claims import claim
from styleblend.jobs.asked_metrics import asked_metrics
from styleblend.jobs.choices import ready_style
from styleblend.jobs.events import Job, Log, Progress, Written
from styleblend.jobs.scored_pictures import OutOfTime, ScoredPictures
from styleblend.jobs.trials import History, Trial, plot_trail, proposal, read_trials, space, starts, with_trial
from styleblend.metrics import Metric
from styleblend.metrics.comparison import Difference, paired_difference
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.metrics.weighted import parse_weights
from styleblend.adapters.style import style_hash
from styleblend.pipeline import Pipeline
from styleblend.settings import PRESETS, RunSettings, StyleBlendStyle, StyleSettings, own_settings, with_sampling

OF_OTHER_STYLES = "subject,histogram"  # what a style is tuned by that the judge does not know
UNSEEN_SEEDS = 1000  # the comparison's seeds begin here, the search's at 1


@dataclass(frozen=True)
class Question:
    """What the search is about. `prompts`: how many subjects of the base, or their names; `seeds`: pictures of each.

    `finalists`: so many settings draw as many other prompts, with twice as many seeds; below 2: no second round.
    `unseen` and `unseen_seeds` are prompts and pictures of each of the comparison. `steps`: denoising steps of a
    picture of both rounds; None: half of the config's, all of which the comparison makes. Both rank settings nearly
    alike (docs/scoring.md). `metric`: None: `default_metric`.
    """

    style: str
    prompts: str
    unseen: int
    seeds: int
    metric: Optional[str]
    unseen_seeds: int = 1
    finalists: int = 4
    steps: Optional[int] = None


def choose_prompts(base: Base, judge: Judge, folder: Path,
                   question: Question) -> Tuple[List[Prompt], List[Prompt], List[Prompt]]:
    """Prompts for the search, others for its second round and others for the comparison.

    They are of what the base was taught (`subjects.json`), else of what the judge knows. None of them is a prompt of
    the style or shown in its pictures: the settings are to be good for those, so they must not be chosen by them.
    """
    path = base.folder / "subjects.json"
    known = read_json(path, "it should be a list of subjects") if path.is_file() else judge.subjects
    taken = {p.text.lower() for p in style_prompts(folder)} if prompt_file(folder).exists() else set()
    taken |= {p.caption.lower() for p in pictures_if_any(folder)}
    free = [s for s in known if s.lower() not in taken]
    free = [make_prompt(free[i]) for i in np.random.default_rng(0).permutation(len(free))]
    count = int(question.prompts) if question.prompts.isdecimal() else 0
    chosen = free[:count] if count else [make_prompt(text) for text in listed(question.prompts)]
    rest = [p for p in free if p.text.lower() not in {c.text.lower() for c in chosen}]
    more = len(chosen) if question.finalists > 1 else 0
    if not chosen or len(chosen) < count or len(rest) < more + question.unseen:
        second = " twice" if more else ""
        raise StyleBlendError(f"only {len(free)} subjects are neither prompts nor pictures of {question.style}, "
                              f"too few for --prompts {question.prompts}{second} and --unseen {question.unseen}")
    # from both ends: neither changes with the number of the other
    return chosen, rest[len(rest) - more:], rest[:question.unseen]


def search(drawn: ScoredPictures, own: StyleSettings, trials: List[Trial], count: int, minutes: Optional[float],
           save: Callable) -> Job[None]:
    """Add trials to the list until there are `count` or the time is over; `save` is called after each."""
    end = time.monotonic() + 60 * minutes if minutes is not None else None
    for trial in trials:
        drawn.remember(with_trial(own, trial.settings), trial.prompts)

    def progress() -> Progress:
        best = f"best {max(t.score for t in trials):.3f}" if trials else ""
        return Progress("trials", len(trials), max(count, len(trials)), "trial", best)

    yield progress()
    while len(trials) < count:
        tried = proposal(trials, drawn.settings.sampling.guidance)
        try:
            prompts = yield from drawn.scores(with_trial(own, tried), "pictures", end)
        except OutOfTime:
            break
        trials.append(Trial(settings=tried, score=float(np.mean(list(prompts.values()))), prompts=prompts))
        save()
        yield progress()


def second_round(drawn: ScoredPictures, own: StyleSettings, trials: List[Trial], finalists: int,
                 save: Callable) -> Job[Trial]:
    """The best trial by all prompts of both rounds, of those with the best scores in the first one.

    `save` is called after each.
    """
    for i in sorted(range(len(trials)), key=lambda i: trials[i].score, reverse=True)[:finalists]:
        if not trials[i].second:
            scores = yield from drawn.scores(with_trial(own, trials[i].settings), "second round")
            trials[i] = trials[i].model_copy(update={"second": scores})
            save()
    return max((t for t in trials if t.second), key=lambda t: t.standing)


def compare(drawn: ScoredPictures, best: StyleSettings, present: StyleSettings) -> Job[Tuple[Difference, str]]:
    """The best settings against the present ones, prompt by prompt, and a sentence on it."""
    then = list((yield from drawn.scores(best, "unseen prompts, best")).values())
    now = list((yield from drawn.scores(present, "unseen prompts, present")).values())
    difference = paired_difference(then, now)
    verdict = "better" if difference.better else "not better beyond what chance explains"
    return difference, (f"On {difference.pairs} other prompts with other seeds: {np.mean(then):.3f}, present settings "
                        f"{np.mean(now):.3f}; "
                        f"difference {difference} (95 % interval): {verdict}")


def best_seeds(drawn: ScoredPictures, own: StyleSettings) -> Job[Tuple[Dict[str, int], float, float]]:
    """The seed of each prompt's best picture, and the mean scores of these and of each prompt's first seed.

    Prompts without a score are left out.
    """
    values = drawn.values((yield from drawn.pictures(own, "seeds")))
    best: Dict[str, Tuple[float, int]] = {}
    first: Dict[str, float] = {}
    for value, (prompt, seed) in zip(values, drawn.wanted):
        if np.isfinite(value):
            first.setdefault(prompt.name, value)
            best[prompt.name] = max(best.get(prompt.name, (-np.inf, seed)), (value, seed), key=lambda pair: pair[0])
    after, before = ([value for value, _ in best.values()], list(first.values())) if best else ([np.nan], [np.nan])
    return {name: seed for name, (_, seed) in best.items()}, float(np.mean(after)), float(np.mean(before))


@dataclass(frozen=True)
class TuneRequest:
    """`trials` settings are tried, those of an earlier run included, or as many as `minutes` allow.

    `overwrite` forgets the trials of an earlier run. `others` are metrics beside the judge (`styleblend.metrics`);
    `metrics` names more of them, whose networks are in the folder `weights`. `seeds_each`: then draw each prompt of
    prompt.json with so many seeds and write down the best of each.
    """

    settings: RunSettings
    question: Question
    trials: int
    minutes: Optional[float] = None
    overwrite: bool = False
    others: Sequence[Metric] = ()
    seeds_each: int = 0
    metrics: Optional[str] = None
    weights: Optional[Path] = None

    def check(self) -> None:
        """StyleBlendError for numbers that leave nothing to do."""
        question = self.question
        if min(self.trials, question.seeds, question.unseen, question.unseen_seeds) < 1:
            raise StyleBlendError("--trials, --seeds, --unseen and --unseen-seeds begin at 1")

    def quick(self) -> RunSettings:
        """The settings with the steps of the search."""
        steps = max(self.settings.sampling.steps // 2, 1) if self.question.steps is None else self.question.steps
        sampling = with_sampling(self.settings.sampling, {"steps": steps}, "--search-steps")
        return self.settings.model_copy(update={"sampling": sampling})


class Bench:
    """What the pictures of all rounds have in common: the style on its base, and what scores them."""

    def __init__(self, request: TuneRequest, judge: Judge, others: Sequence[Metric]):
        name, settings = request.question.style, request.settings
        self.read_from, self.data = adapters_of(settings.adapters, name), data_of(settings.data, name)
        self.folder = Path(settings.adapters) / name  # what is found is written there, and not beside a shipped style
        self.weights, self.judge = parse_weights(request.question.metric, "--metric"), judge
        self.base = base_for_drawing(settings)
        self.style: Style = load_style(self.read_from, name, self.base)
        self.pipeline = Pipeline(self.base)
        own = own_settings(settings, name, self.style.settings)
        if not isinstance(own, StyleBlendStyle):
            raise StyleBlendError(f"tune searches the settings of StyleBlend, and {name} is a style of {own.method}")
        self.own = own.model_copy(update={"parts": self.style.settings.parts})
        self.originals = [load_picture(p.path, settings.pictures.max_pixels)
                          for p in pictures_if_any(self.data)]
        self.metrics = [JudgeMetric(self.judge, name), *others]

    def pictures(self, prompts: Sequence[Prompt], seeds: Callable[[Prompt], Sequence[int]],
                 settings: RunSettings) -> ScoredPictures:
        """Pictures of these prompts, each with its seeds."""
        wanted = [(prompt, seed) for prompt in prompts for seed in seeds(prompt)]
        return ScoredPictures(self.pipeline, self.style, settings, self.metrics, self.weights, self.originals, wanted)

    def asked(self, question: Question, first: ScoredPictures, rounds: Sequence[Sequence[Prompt]]) -> dict:
        """All that the scores of the trials depend on: another search does not go on with them."""
        guidance, (chosen, more) = first.settings.sampling.guidance, rounds
        narrow = {} if self.base.dtype == "float32" else {"dtype": self.base.dtype}  # older searches do not say
        return {"style": style_hash(self.style), "base": self.base.fingerprint(), **narrow,
                "decoder": self.base.decoder_fingerprint(), "judge": self.judge.hash,
                "metric": self.weights, "seeds": question.seeds, "prompts": [p.name for p in chosen],
                "second round": [p.name for p in more],
                "sampling": first.settings.sampling.model_dump(), "presets": PRESETS, "searched": list(space(guidance)),
                "blend": first.drawn_with(with_trial(self.own, starts(guidance)[0]))[1].model_dump()}


def seeds_from(first: int, count: int) -> Callable[[Prompt], Sequence[int]]:
    return lambda prompt: range(first, first + count)


def tune(request: TuneRequest) -> Job[List[str]]:
    """Search, compare the best with the present settings, and write `style.json` only if it is better.

    It is compared on unseen prompts and seeds. Returns sentences on what came out.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings, quick, judge = request.settings, request.quick(), Judge.load()
    request.check()
    ready_style(settings, request.question.style)
    refuse_unwritable(Path(settings.adapters) / check_name(request.question.style))
    of_style = style_prompts(data_of(settings.data, request.question.style)) if request.seeds_each > 1 else []
    seeded = [prompt.name for prompt in of_style if prompt.seed is not None]
    if seeded:
        some = ", ".join(seeded[:5]) + (" ..." if len(seeded) > 5 else "")
        yield Log(f"--choose-seeds leaves out {some}: prompt.json has a seed for each")
        of_style = [prompt for prompt in of_style if prompt.seed is None]
    request, sentences = with_metric(request, judge)
    metrics, missing = asked_metrics(settings, request.metrics, request.weights)
    for sentence in [*sentences, *missing]:
        yield Log(sentence)
    question, bench = request.question, Bench(request, judge, [*request.others, *metrics])
    chosen, more, unseen = choose_prompts(bench.base, bench.judge, bench.data, question)
    first = bench.pictures(chosen, seeds_from(1, question.seeds), quick)
    asked, folder = bench.asked(question, first, (chosen, more)), bench.folder / "tuning"
    with claim(folder, "tune"):
        remove_unfinished(folder, bench.folder)
        trials = [] if request.overwrite else read_trials(folder / "tuning.json", asked)

        def save(**more):
            text = History(question=asked, trials=trials, **more).model_dump_json(indent=1) + "\n"
            write_bytes(folder / "tuning.json", text.encode("utf-8"))

        yield from search(first, bench.own, trials, request.trials, request.minutes, save)
        if not trials:
            raise StyleBlendError(f"--minutes {request.minutes:g} was too short for one trial of {len(first.wanted)} "
                                  "pictures: "
                                  "give more, or fewer --prompts or --seeds")
        best = max(trials, key=lambda t: t.score)
        if more:
            again = bench.pictures(more, seeds_from(1, 2 * question.seeds), quick)
            best = yield from second_round(again, bench.own, trials, question.finalists, save)
        present = float(np.mean(list((yield from first.scores(bench.own, "present settings")).values())))
        plot_trail(folder / "trail.png", trials, present, question.metric)
        yield Written(folder / "trail.png")
        lines = found(trials, best, present, question, chosen, folder)
        final, sentence = yield from confirmed(bench, request, first, best, unseen, save)
        lines.append(sentence)
        if of_style:
            final, sentence = yield from with_best_seeds(bench, request, final, of_style)
            lines.append(sentence)
        if final == bench.own:
            return lines + ["Nothing is written"]
        lines += write_style(final, question.style, bench.read_from, bench.folder)
        return lines + [f"Written to {bench.folder / 'style.json'}; python -m styleblend board --overwrite draws with "
                        "it"]


def with_metric(request: TuneRequest, judge: Judge) -> Tuple[TuneRequest, List[str]]:
    """The request with what settings are chosen by where it does not say that, and a sentence where that is unusual.

    It is `both` scores of the judge. For a style that the judge does not know, as one that a user has trained, it is
    that the judge tells the subject, and how near the colours are to those of the style's pictures.
    """
    question, style = request.question, request.question.style
    if question.metric or judge.knows(style):
        return replace(request, question=replace(question, metric=question.metric or "both")), []
    if not pictures_if_any(data_of(request.settings.data, style)):
        raise StyleBlendError(f"tune cannot tell how near pictures are to {style}: the judge does not know it, and it "
                              "has no pictures of its own: add some, or say --metric subject")
    metrics = request.metrics if request.metrics == "all" else ",".join(filter(None, [request.metrics, "histogram"]))
    return replace(request, question=replace(question, metric=OF_OTHER_STYLES), metrics=metrics), [
        f"the judge does not know the style {style}: settings are chosen by its score of the subject and by the "
        f"colours of the style's pictures (--metric {OF_OTHER_STYLES}); --metric and --metrics name others"]


def write_style(own: StyleSettings, name: str, read_from: Path, folder: Path) -> List[str]:
    """Write a style's settings into its folder.

    Where it was read from another one, as a shipped style is, its parts are copied too, and a sentence says so.
    """
    text = own.model_dump_json(exclude_defaults=True, indent=2) + "\n"
    if read_from == folder:
        write_bytes(folder / "style.json", text.encode("utf-8"))
        return []
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder.parent) as temporary:
            written = Path(temporary) / name
            written.mkdir()
            for path in {part_file(read_from, name, part) for part in parts_of(own)} - {None}:
                shutil.copyfile(path, written / path.name)
            write_bytes(written / "style.json", text.encode("utf-8"))
            put_in_place(written, folder)
    except OSError as error:
        raise not_written(folder, error) from None
    return [f"{folder} has a copy of the style, which counts from now on: what comes with the program stays"]


def confirmed(bench: Bench, request: TuneRequest, first: ScoredPictures, best: Trial, unseen: Sequence[Prompt],
              save: Callable) -> Job[Tuple[StyleSettings, str]]:
    """The settings of the best trial if they are better on unseen prompts, else the present ones; and a sentence."""
    better, question = with_trial(bench.own, best.settings), request.question
    if first.drawn_with(better) == first.drawn_with(bench.own):
        return bench.own, "The present settings are the best that were found"
    test = bench.pictures(unseen, seeds_from(UNSEEN_SEEDS, question.unseen_seeds), request.settings)
    difference, sentence = yield from compare(test, better, bench.own)
    save(comparison={"settings": best.settings.model_dump(), "prompts": [p.name for p in unseen], **vars(difference)})
    return (better if difference.better else bench.own), sentence


def found(trials: Sequence[Trial], best: Trial, present: float, question: Question, chosen: Sequence[Prompt],
          folder: Path) -> List[str]:
    """Two sentences on a search."""
    second = f", {np.mean(list(best.second.values())):.3f} in the second round" if best.second else ""
    return [f"{len(trials)} trials with {', '.join(p.name for p in chosen)}, pictures of each: {question.seeds}; "
            f"{present:.3f} with the present settings. All are in {folder}",
            f"Best {question.metric} {best.score:.3f}{second}, with "
            f"{', '.join(f'{key} {value}' for key, value in best.settings)}"]


def with_best_seeds(bench: Bench, request: TuneRequest, own: StyleSettings,
                    prompts: Sequence[Prompt]) -> Job[Tuple[StyleSettings, str]]:
    """The settings with the best seed of each prompt of the style, and a sentence on it."""
    settings, count = request.settings, request.seeds_each
    first = {p.name: p.seed_of(bench.own.seeds, settings.sampling.seed) for p in prompts}
    drawn = bench.pictures(prompts, lambda prompt: range(first[prompt.name], first[prompt.name] + count), settings)
    seeds, after, before = yield from best_seeds(drawn, own)
    changed = {name: seeds[name] for name, seed in first.items() if seeds.get(name, seed) != seed}
    return own.model_copy(update={"seeds": {**bench.own.seeds, **changed}}), (
        f"Best of {count} seeds for {len(seeds)} prompts: {after:.3f}, first seeds {before:.3f}. "
        "This is what they were chosen by, so no test")
