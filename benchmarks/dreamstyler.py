"""What do stages, context prompts and the dials of DreamStyler bring? Judged by the classifier of the mini base.

Each style folder's first picture alone is learned three ways: with a token for each of six stages, with one token for
all, and with six under a prompt that does not say what the picture shows. Then the style's own prompts are drawn: how
probable does the judge find the style, is the subject among its five best guesses, and how near does the drawing come
to what the learned picture shows (cosine of the judge's features of content: its leak)? What was learned stays in the
work folder, so that a second run only draws.
"""
import argparse
import json
import shutil
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from styleblend import Pipeline, load_base, read_settings
from styleblend.cli.options import HelpFormatter
from styleblend.files.captions import pictures_if_any
from styleblend.files.pictures import contact_sheet, load_picture, save_png
from styleblend.files.prompts import article, style_prompts
from styleblend.files.shipped import data_of, style_folders
from styleblend.jobs.events import result_of
from styleblend.jobs.train import TrainRequest, train_styles
from styleblend.metrics.comparison import paired_difference
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.settings import DreamStylerSettings, RunSettings

# how each way differs from the config's training
WAYS = {"six stages": {"stages": 6}, "one stage": {"stages": 1},
        "no context": {"stages": 6, "template": "in the style of {}."}}
SCORES = ("style", "subject_top5", "leak")
GAMMAS = (0.0, 0.5, 1.0, 2.0, 4.0)
DIALS = {"sty_gamma": "style", "con_gamma": "subject_top5"}  # and the score that it should raise


def own_settings(settings: RunSettings, work: Path, way: str) -> RunSettings:
    """The config with this way's training, and folders of its own."""
    stage = settings.training.dreamstyler.model_copy(update=WAYS[way])
    training = settings.training.model_copy(update={"dreamstyler": stage, "sample_every": 0})
    folder = work / way.replace(" ", "-")
    return settings.model_copy(update={"training": training, "data": work / "data", "adapters": folder})


def learn(settings: RunSettings, names: List[str], work: Path, ways: Sequence[str]) -> Dict[str, Path]:
    """The one picture of each style, from which each of the ways has learned it."""
    shown = {}
    for name in names:
        picture = pictures_if_any(data_of(settings.data, name))[0]
        shown[name] = work / "data" / name / "images" / picture.path.name
        shown[name].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture.path, shown[name])
    for way in ways:
        request = TrainRequest(own_settings(settings, work, way), ("dreamstyler",), ",".join(names))
        result_of(train_styles(request))
    return shown


class Drawn:
    """Pictures of a style's prompts and their scores, one for each prompt and seed."""

    def __init__(self, pipeline: Pipeline, judge: Judge, name: str, shown: Path, args,
                 settings: Optional[DreamStylerSettings]):
        prompts = [article(p.text) for p in style_prompts(data_of(args.data, name))][:args.prompts] * args.seeds
        seeds = [100 * s + n for s in range(1, args.seeds + 1) for n in range(len(prompts) // args.seeds)]
        style = name if settings else None
        self.images = []
        for begin in range(0, len(prompts), args.batch):
            part = slice(begin, begin + args.batch)
            drawn = pipeline.pictures(*prompts[part], style=style, seeds=seeds[part], settings=settings)
            self.images += [Image.fromarray(one.pixels) for one in drawn]
        own = ImageOps.fit(load_picture(shown), self.images[0].size, Image.LANCZOS)
        content = judge.features(np.stack([np.asarray(one) for one in (own, *self.images)]))
        self.scores = {**JudgeMetric(judge, name).score(self.images, prompts), "leak": content[1:] @ content[0]}


def draw_way(base, settings: RunSettings, judge: Judge, way: str, shown: Dict[str, Path], args) -> Dict[str, Drawn]:
    """The pictures of each style as this way has learned it; "plain": without a style."""
    plain, template = way == "plain", DreamStylerSettings(template=settings.training.dreamstyler.template)
    pipeline = Pipeline(base, settings if plain else own_settings(settings, args.work, way))
    return {name: Drawn(pipeline, judge, name, own, args, None if plain else template) for name, own in shown.items()}


def of_all(drawn: Dict[str, Drawn], score: str) -> np.ndarray:
    """One score of the pictures of all styles."""
    return np.concatenate([one.scores[score] for one in drawn.values()])


def ways_table(drawn: Dict[str, Dict[str, Drawn]]) -> Dict[str, dict]:
    """Means of each way, and what six stages are better by, with intervals."""
    report = {}
    for way, own in drawn.items():
        means = {score: float(np.nanmean(of_all(own, score))) for score in SCORES}
        gains = {score: str(paired_difference(of_all(drawn["six stages"], score), of_all(own, score)))
                 for score in SCORES} if way != "six stages" else {}
        each = {name: {score: float(np.nanmean(one.scores[score])) for score in SCORES} for name, one in own.items()}
        report[way] = {**means, "six stages minus this": gains, "each": each}
    return report


def dials(pipeline: Pipeline, judge: Judge, shown: Dict[str, Path], args) -> Dict[str, List[dict]]:
    """Scores of all styles at each value of each dial, the other one at 1."""
    template, report = pipeline.settings.training.dreamstyler.template, {}
    for dial in DIALS:
        report[dial] = []
        for gamma in GAMMAS:
            both = {"sty_gamma": 1.0, "con_gamma": 1.0, dial: gamma}
            settings = DreamStylerSettings(template=template, use_sc_guidance=True, neg_gamma=args.neg_gamma, **both)
            drawn = {name: Drawn(pipeline, judge, name, own, args, settings) for name, own in shown.items()}
            values = {score: of_all(drawn, score) for score in SCORES}
            report[dial].append({"gamma": gamma, **{score: float(np.nanmean(own)) for score, own in values.items()},
                                 "interval": {score: 1.96 * float(np.nanstd(own) / np.isfinite(own).sum() ** 0.5)
                                              for score, own in values.items()}})
    return report


def plot_dials(path: Path, dials: Dict[str, List[dict]]) -> None:
    """A PNG: both scores against each dial, with intervals of 95 % about each mean."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axis, (dial, rows) in zip(figure.subplots(1, len(dials)), dials.items()):
        for score in dict.fromkeys(DIALS.values()):
            axis.errorbar([row["gamma"] for row in rows], [row[score] for row in rows],
                          [row["interval"][score] for row in rows], marker="o", capsize=3, label=score,
                          linewidth=2 if score == DIALS[dial] else 1)
        axis.set(xlabel=dial, ylim=(0, 1))
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def show(console: Console, ways: Dict[str, dict], dials: Dict[str, List[dict]]) -> None:
    """Print the tables of what was measured."""
    table = Table("", *SCORES, *(f"six stages minus this: {score}" for score in SCORES), title="one picture")
    for way, own in ways.items():
        table.add_row(way, *(f"{own[score]:.3f}" for score in SCORES),
                      *(own["six stages minus this"].get(score, "") for score in SCORES))
    if ways:
        console.print(table)
    for dial, rows in dials.items():
        table = Table(dial, *SCORES, title=f"{dial}, which should raise {DIALS[dial]}")
        for row in rows:
            table.add_row(f"{row['gamma']:g}", *(f"{row[score]:.3f}" for score in SCORES))
        console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", default="mini", help="settings with the base, the training and the data folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is learned and drawn")
    parser.add_argument("--prompts", type=int, default=12, help="prompts of each style")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--batch", type=int, default=6, help="pictures that are drawn together")
    parser.add_argument("--neg-gamma", type=float, default=2.0, help="guidance away from the negative prompt, where "
                        "the dials are on")
    parser.add_argument("--parts", nargs="+", choices=["ways", "dials"], default=["ways", "dials"],
                        help="compare what was learned, turn the dials of what six stages have learned, or both")
    args = parser.parse_args()
    settings, judge = read_settings(args.config), Judge.load()
    args.data = settings.data  # with the prompts of each style
    names = style_folders(settings.data)
    shown = learn(settings, names, args.work, list(WAYS) if "ways" in args.parts else ["six stages"])
    base = load_base(settings.base)
    report = {"ways": {}, "dials": {}}
    if "ways" in args.parts:
        drawn = {way: draw_way(base, settings, judge, way, shown, args) for way in ("plain", *WAYS)}
        report["ways"] = ways_table(drawn)
        for name in names:
            rows = [[(way[:24], image) for image in own[name].images[:args.prompts]] for way, own in drawn.items()]
            save_png(args.work / f"{name}.png", contact_sheet(rows, 96))
    if "dials" in args.parts:
        report["dials"] = dials(Pipeline(base, own_settings(settings, args.work, "six stages")), judge, shown, args)
        plot_dials(args.work / "dials.png", report["dials"])
    show(Console(), **report)
    name = f"{'-'.join(sorted(args.parts))}.json"
    (args.work / name).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
