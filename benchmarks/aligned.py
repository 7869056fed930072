"""Does StyleAligned give a set one look, and that of a reference picture? Judged by the classifier of the mini base.

Words: for each of twenty looks a set of subjects, aligned to the first of them and not, from the same seeds. How alike
are the looks of the set (mean cosine of the judge's features), and is the subject still among its five best guesses?
Pictures: for each style folder its first pictures as references, drawn from its own prompts. How probable does the
judge find the style, with each way to follow one reference and to blend two, and without any?
"""
import argparse
import json
from pathlib import Path
from typing import Dict, List, Sequence

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from styleblend import Pipeline, load_base, read_settings
from styleblend.cli.options import HelpFormatter
from styleblend.files.captions import pictures_if_any
from styleblend.files.pictures import contact_sheet, save_png
from styleblend.files.prompts import article, style_prompts
from styleblend.files.shipped import data_of, style_folders
from styleblend.metrics.comparison import paired_difference
from styleblend.metrics.dino import set_consistency
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.settings import AlignSettings

KNOWN = ("noto", "old noto", "twemoji", "smooth gradient", "flat fluent", "black and white", "outlined openmoji",
         "emojione", "vintage emojione", "pastel streamline")  # what the mini base was taught
STRANGE = ("watercolour painting", "neon lights at night", "pixel art", "pencil sketch", "carved wood", "pure gold",
           "blue ink", "stained glass", "folded paper", "macro photo, 3d render")
SUBJECTS = ("anchor", "rabbit", "castle", "sailboat")
ONE = {"normal": {}, "famous": {"strength": "famous"}, "without inversion": {"follow": "noise"}}
BLENDS = ("spherical_mean", "slerp", "linear", "attention")


def looks_of(args) -> List[str]:
    return [f"in the style of {look}" for look in (*KNOWN, *STRANGE)][:args.looks or None]


def pixels(pictures) -> np.ndarray:
    return np.stack([picture.pixels for picture in pictures])


def words(pipeline: Pipeline, judge: Judge, args) -> Dict[str, object]:
    """Each look's consistency and subjects found, aligned and not, and a row of pictures of both for the sheet."""
    alike, found = {"plain": [], "aligned": []}, {"plain": [], "aligned": []}
    rows, prompts = [], [article(subject) for subject in SUBJECTS]
    for look in looks_of(args):
        for seed in range(1, args.seeds + 1):
            seeds = [100 * seed + n for n in range(len(prompts))]
            settings = AlignSettings(look=look, reference_prompt=prompts[0], reference_seed=seeds[0],
                                     adain_keys=args.adain_keys)
            drawn = {"plain": pixels(pipeline.pictures(*(f"{p}, {look}" for p in prompts), seeds=seeds)),
                     "aligned": pixels(pipeline.pictures(*prompts, seeds=seeds, settings=settings))}
            for way, own in drawn.items():
                alike[way].append(set_consistency(judge.looks(own)))
                found[way].append(judge.score(own, SUBJECTS)["subject_top5"])
                if seed == 1:
                    rows.append([(f"{way} {look}"[:40], Image.fromarray(one)) for one in own])
    return {"consistency": {way: float(np.mean(own)) for way, own in alike.items()},
            "consistency gain": paired_difference(alike["aligned"], alike["plain"]),
            "subject top 5": {way: float(np.mean(own)) for way, own in found.items()},
            "subject gain": paired_difference(found["aligned"], found["plain"]), "rows": rows}


def ways(pictures: Sequence, adain_keys: bool) -> Dict[str, AlignSettings]:
    """The settings of each way to take the look of a style's first pictures."""
    one, two = ({"picture": str(p.path), "prompt": p.phrase} for p in pictures[:2])
    found = {}
    for way, changes in ONE.items():
        of_picture = {key: value for key, value in changes.items() if key == "strength"}
        others = {key: value for key, value in changes.items() if key != "strength"}
        found[way] = AlignSettings(references=[{**one, **of_picture}], adain_keys=adain_keys, **others)
    for blend in BLENDS:
        found[f"two, {blend}"] = AlignSettings(references=[one, two], blend=blend, adain_keys=adain_keys)
    return found


def style_pictures(pipeline: Pipeline, judge: Judge, name: str, data: Path, args) -> Dict[str, Dict[str, np.ndarray]]:
    """Each way's scores of every prompt and seed in one style, and its pictures."""
    prompts = [article(p.text) for p in style_prompts(data)][:args.prompts]
    every, seeds = prompts * args.seeds, [100 * s + n for s in range(1, args.seeds + 1) for n in range(len(prompts))]
    metric, found = JudgeMetric(judge, name), {}
    for way, settings in {"plain": None, **ways(pictures_if_any(data))}.items():
        drawn = []
        for begin in range(0, len(every), args.batch):
            part = slice(begin, begin + args.batch)
            drawn += pipeline.pictures(*every[part], seeds=seeds[part], settings=settings)
        images = [Image.fromarray(one.pixels) for one in drawn]
        found[way] = {**metric.score(images, every), "pictures": images}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", default="mini", help="settings with the base and the data folder")
    parser.add_argument("--looks", type=int, default=0, help="how many looks in words; 0: all")
    parser.add_argument("--adain-keys", action=argparse.BooleanOptionalAction, default=True,
                        help="whether keys get the statistics of the reference")
    parser.add_argument("--prompts", type=int, default=12, help="prompts of each style")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--batch", type=int, default=6, help="pictures that are drawn together")
    parser.add_argument("--sheets", type=Path, help="folder for what was drawn")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    settings = read_settings(args.config)
    pipeline, judge, console = Pipeline(load_base(settings.base), settings), Judge.load(), Console()
    in_words = words(pipeline, judge, args)
    console.print({key: value for key, value in in_words.items() if key != "rows"})
    scores = {name: style_pictures(pipeline, judge, name, data_of(settings.data, name), args)
              for name in style_folders(settings.data)}
    report = {"words": {key: str(value) for key, value in in_words.items() if key != "rows"}, "pictures": {}}
    table = Table("", "style", "style first", "subject top 5", "style minus plain", title="references")
    for way in next(iter(scores.values())):
        joined = {key: np.concatenate([own[way][key] for own in scores.values()])
                  for key in ("style", "style_top1", "subject_top5")}
        gain = paired_difference(joined["style"], np.concatenate([own["plain"]["style"] for own in scores.values()]))
        means = [float(np.nanmean(joined[key])) for key in joined]
        each = {name: float(np.nanmean(own[way]["style"])) for name, own in scores.items()}
        report["pictures"][way] = dict(zip(joined, means), gain=str(gain), each=each)
        table.add_row(way, *(f"{mean:.3f}" for mean in means), str(gain) if way != "plain" else "")
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.sheets:
        save_png(args.sheets / "words.png", contact_sheet(in_words["rows"], 96))
        for name, own in scores.items():
            rows = [[(f"{way} {n}"[:24], image) for n, image in enumerate(one["pictures"][:args.prompts])]
                    for way, one in own.items()]
            save_png(args.sheets / f"{name}.png", contact_sheet(rows, 96))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
