"""What the scores of one or more folders say: `scores.json`, and `report.html`, one file that needs nothing else."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from jinja2 import Environment, PackageLoader

from styleblend import __version__
from styleblend.metrics.comparison import Difference, paired_difference
from styleblend.files.whole_files import write_bytes
from styleblend.metrics.judge import Judge
from styleblend.metrics import Metric
from styleblend.jobs.scoring import Run

REPORT_FILES = ("scores.json", "report.html")
FEW = "Paired over the same prompts, by bootstrap; with fewer than ten pairs the interval is too narrow to lean on."


def shown(value: float) -> str:
    """A score in a table."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def said_by(judge: Optional[Judge], metrics: Sequence[Metric]) -> str:
    """Which judge spoke, and how often it is right; which networks spoke beside it."""
    sentences = [f"{metric.name} by {metric.source}" for metric in metrics if metric.source]
    return ". ".join([*([of_judge(judge)] if judge else []), *sentences])


def of_judge(judge: Judge) -> str:
    return (f"Judged by the mini judge {judge.hash}, a classifier of {len(judge.subjects)} subjects and "
            f"{len(judge.styles)} styles, trained on real emoji art. "
            f"Of real pictures that it never saw it finds the subject among its five best guesses in "
            f"{judge.heldout['subject_top5']:.0%}, "
            f"the style in {judge.heldout['style']:.0%}")


def difference(first: Run, second: Run, name: str, style: Optional[str] = None) -> Difference:
    """First minus second in one score, over the pictures (of a style) that both have."""
    pairs = []
    for own in [style] if style else first.pictures:
        theirs = {p.prompt: p.scores.get(name, math.nan) for p in second.pictures.get(own, [])}
        pairs += [(p.scores.get(name, math.nan), theirs[p.prompt]) for p in first.pictures.get(own, [])
                  if p.prompt in theirs]
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs])


def differences(runs: Sequence[Run]) -> List[dict]:
    """The first run against each of the others: over all styles, then style by style."""
    first, others = runs[0], list(zip(runs[1:], labels(runs)[1:]))
    return [dict(other=label, style=style or "all", name=name, **vars(difference(first, other, name, style)))
            for style in [None, *first.pictures] for other, label in others for name in first.names()]


def labels(runs: Sequence[Run]) -> List[str]:
    """Short names of the runs: their folders' last parts, or whole paths where these are not distinct."""
    short = [run.folder.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]


def write_report(runs: Sequence[Run], compared: Sequence[dict], judge: Optional[Judge], output: Path,
                 metrics: Sequence[Metric] = ()) -> List[Path]:
    """`scores.json` and `report.html` in the folder `output`; returns both paths."""
    names, sets = runs[0].names(), scores_of_sets(runs)
    lower = [name for run in runs for name, higher in run.higher_is_better.items() if not higher]
    spoken = judge and {"hash": judge.hash, "recipe": judge.recipe,
                        "heldout": {name: judge.heldout[name] for name in ("subject_top1", "subject_top5", "style")}}
    data = {"version": __version__, "judge": spoken,
            "networks": {metric.name: metric.source for metric in metrics if metric.source},
            "runs": [as_data(run) for run in runs], "differences": compared}
    scores, report = (Path(output) / file for file in REPORT_FILES)
    write_bytes(scores, (json.dumps(without_nan(data), indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
    pages = Environment(loader=PackageLoader("styleblend.jobs", "pages"), autoescape=True)
    page = pages.get_template("report.html").render(
        runs=runs, labels=labels(runs), names=names, lower=lower, sets=sets,
        set_names=list(dict.fromkeys(name for _, _, scores in sets for name in scores)),
        styles=[(style, runs[0].style_pictures[style], cards(runs, style, names[:1])) for style in runs[0].pictures],
        said_by=said_by(judge, metrics), few=FEW,
        differences=[d for d in compared if d["pairs"]], notes=notes_of(runs), shown=shown, nan=math.nan,
        version=__version__)
    write_bytes(report, page.encode("utf-8"))
    return [scores, report]


def scores_of_sets(runs: Sequence[Run]) -> List[tuple]:
    """Style (None: all together), label of the run, and the scores that only the whole set has."""
    found = [(None, label, run.of_board) for run, label in zip(runs, labels(runs)) if run.of_board]
    return found + [(style, label, run.of_style[style]) for style in runs[0].pictures for run,
                    label in zip(runs, labels(runs)) if style in run.of_style]


def notes_of(runs: Sequence[Run]) -> List[str]:
    """What was left out, each once: runs share their prompts."""
    return list(dict.fromkeys(note for run in runs for note in run.notes))


def cards(runs: Sequence[Run], style: str, names: Sequence[str]) -> List[dict]:
    """What the page shows of a style: each prompt of the first run with its picture in every run.

    The worst in the first of `names` comes first.
    """
    found = [{p.prompt: p for p in run.pictures.get(style, [])} for run in runs]

    def badness(prompt):
        scores = [found[0][prompt].scores.get(name, math.nan) * (1 if runs[0].higher_is_better[name] else -1)
                  for name in names]
        return [*map(math.isnan, scores), *scores, prompt]

    prompts = sorted(found[0], key=badness)
    pictures = {prompt: [own.get(prompt) for own in found] for prompt in prompts}
    return [dict(prompt=prompt, scores=[without_nan(p.scores) if p else {} for p in own],
                 images=[p and p.image for p in own]) for prompt, own in pictures.items()]


def as_data(run: Run) -> Dict:
    """A run in `scores.json`."""
    means = {style or "all": {name: run.mean(name, style) for name in run.names()} for style in [*run.pictures, None]}
    return {"folder": str(run.folder.resolve()), "means": means, "of_style": run.of_style, "of_board": run.of_board,
            "notes": run.notes,
            "pictures": {style: [{"prompt": p.prompt, **p.scores} for p in pictures] for style,
                         pictures in run.pictures.items()}}


def without_nan(value):
    """The same with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
