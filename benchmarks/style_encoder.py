"""How much of a picture's look does the style encoder take over? Judged by the classifier of the mini base.

The pictures come from a corpus that no encoder was trained on (`tools/mini_base/style_corpus.py --held-out`). For each
of its looks one picture is read (`--pictures`: so many, their mean), and the same prompts and seeds are drawn in its
style. Looks that the base knows by name are drawn by their own words as well: that is what tokens can reach. All are
drawn without a style, too.
"""
import argparse
import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from styleblend import Pipeline, load_base, read_settings
from styleblend.cli.options import HelpFormatter
from styleblend.context.picture import LOOKS
from styleblend.files.corpus import read_corpus
from styleblend.files.pictures import contact_sheet, load_picture, save_png
from styleblend.files.prompts import article
from styleblend.metrics.comparison import paired_difference
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.settings import EncodedPicture, StyleEncoderSettings

# the words that the mini base was taught for each look; the judge counts fluent-emoji as another look
WORDS = {**LOOKS, "fluent-emoji": "smooth gradient", "noto": "noto", "twemoji": "twemoji", "emojione": "emojione"}
SUBJECTS = ("rabbit", "lemon", "turtle", "anchor", "bear", "taxi", "wine glass", "pear", "mushroom", "ship", "rose",
            "castle")
SCORES = ("style", "style_top1", "subject_top5")


def some_of_each(folder: Path, seed: int, count: int) -> Dict[str, List[Path]]:
    """`count` pictures of each look of a corpus."""
    looks: Dict[str, List[Path]] = {}
    for one in read_corpus(folder).entries:
        looks.setdefault(one.style, []).append(folder / one.name)
    rng = np.random.default_rng(seed)
    first = {look: own[rng.integers(len(own))] for look, own in sorted(looks.items())}
    return {look: [one, *rng.permutation([other for other in looks[look] if other != one])[:count - 1]]
            for look, one in first.items()}


class Drawn(NamedTuple):
    """Pictures of the prompts with each seed, and their scores as pictures of a look."""

    images: List[Image.Image]
    scores: Dict[str, np.ndarray]


class Looks:
    """Draws the same prompts and seeds in each look, and asks the judge."""

    def __init__(self, pipeline: Pipeline, judge: Judge, args):
        self.pipeline, self.judge, self.args = pipeline, judge, args
        self.phrases = [article(subject) for subject in SUBJECTS][:args.prompts] * args.seeds
        each = len(self.phrases) // args.seeds
        self.seeds = [100 * s + n for s in range(1, args.seeds + 1) for n in range(each)]
        self.plain = self.pictures()  # the same for all looks

    def pictures(self, words: str = "", settings: Optional[StyleEncoderSettings] = None) -> List[Image.Image]:
        prompts, images = [f"{phrase} {words}".strip() for phrase in self.phrases], []
        for begin in range(0, len(prompts), self.args.batch):
            part = slice(begin, begin + self.args.batch)
            images += [Image.fromarray(one.pixels) for one in
                       self.pipeline.pictures(*prompts[part], seeds=self.seeds[part], settings=settings)]
        return images

    def drawn(self, look: str, pictures: List[Path]) -> Dict[str, Drawn]:
        """One look drawn without a style, by its words where it has some, and by each encoder."""
        found = {"plain": self.plain}
        if look in WORDS:
            found["words"] = self.pictures(f"in the style of {WORDS[look]}")
        for encoder in self.args.encoders:
            found[str(encoder)] = self.pictures(settings=StyleEncoderSettings(
                references=[EncodedPicture(picture=str(one)) for one in pictures], encoder=str(encoder),
                style_guidance=self.args.style_guidance))
        metric = JudgeMetric(self.judge, look)
        return {way: Drawn(images, metric.score(images, self.phrases)) for way, images in found.items()}


def table_of(title: str, looks: Dict[str, Dict[str, Drawn]]) -> Dict[str, dict]:
    """Means of each way over these looks, what it gains against plain pictures, and each look's style."""
    report = {}
    for way in next(iter(looks.values())):
        joined = {score: np.concatenate([own[way].scores[score] for own in looks.values()]) for score in SCORES}
        plain = np.concatenate([own["plain"].scores["style"] for own in looks.values()])
        report[way] = {**{score: float(np.nanmean(values)) for score, values in joined.items()},
                       "gain": str(paired_difference(joined["style"], plain)),
                       "each": {look: float(np.nanmean(own[way].scores["style"])) for look, own in looks.items()}}
    table = Table("", *SCORES, "style minus plain", title=title)
    for way, own in report.items():
        table.add_row(way, *(f"{own[score]:.3f}" for score in SCORES), own["gain"] if way != "plain" else "")
    Console().print(table)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", default="mini", help="settings with the base")
    parser.add_argument("--held", type=Path, required=True, help="the corpus that was held out")
    parser.add_argument("--encoders", type=Path, nargs="+", required=True, help="folders of style encoders to compare")
    parser.add_argument("--style-guidance", type=float, default=3.0, help="of all of them")
    parser.add_argument("--prompts", type=int, default=12, help="how many subjects are drawn")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each")
    parser.add_argument("--pictures", type=int, default=1, help="that are read of each look")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="that is drawn in")
    parser.add_argument("--batch", type=int, default=6, help="pictures that are drawn together")
    parser.add_argument("--picture-seed", type=int, default=5, help="chooses the pictures of each look")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--sheets", type=Path, help="folder for what was drawn")
    args = parser.parse_args()
    settings, drawn = read_settings(args.config), {}
    looks = Looks(Pipeline(load_base(settings.base, args.dtype), settings), Judge.load(), args)
    for look, pictures in some_of_each(args.held, args.picture_seed, args.pictures).items():
        drawn[look] = looks.drawn(look, pictures)
        Console().print(look, *(one.name for one in pictures), {way: f"{np.nanmean(own.scores['style']):.2f}"
                                             for way, own in drawn[look].items()})
        if args.sheets:
            shown = [("a picture", load_picture(one)) for one in pictures]
            rows = [[(way[-24:], image) for image in own.images[:args.prompts]] for way, own in drawn[look].items()]
            save_png(args.sheets / f"{look}.png", contact_sheet([shown, *rows], 96))
    report = {title: table_of(title, some) for title, some in (
        ("looks that the base knows", {look: own for look, own in drawn.items() if look in WORDS}),
        ("looks that it never saw", {look: own for look, own in drawn.items() if look not in WORDS})) if some}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
