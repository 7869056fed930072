"""Does a transfer keep what a content picture shows, and does the style arrive? The mini base's classifier judges.

For each style to draw in, style pictures of the other folders are the contents. Each is drawn anew in the style, held
by a ControlNet for edges and without. How well do the edges of the drawing agree with those of the content (F1), and
how probable does the judge find the style, in the drawing and in the content itself?
"""
import argparse
import json
from pathlib import Path
from typing import Dict, List

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from benchmarks.control import agreement
from styleblend import Pipeline, load_base, read_settings
from styleblend.cli.options import HelpFormatter
from styleblend.files.canny import canny
from styleblend.files.captions import StylePicture, pictures_if_any
from styleblend.files.pictures import contact_sheet, load_picture, save_png
from styleblend.files.shipped import data_of, style_folders
from styleblend.metrics.comparison import paired_difference
from styleblend.metrics.judge import Judge, JudgeMetric
from styleblend.settings import ContentSettings, ControlSettings

CONTROL_STRENGTH = 0.8  # as `transfer` has it


def contents(settings, name: str, count: int) -> List[StylePicture]:
    """Pictures of the other styles, in turns: the first of each, then the second of each."""
    others = [pictures_if_any(data_of(settings.data, other)) for other in style_folders(settings.data) if other != name]
    longest = max(map(len, others))
    return [found[n] for n in range(longest) for found in others if n < len(found)][:count]


def transferred(pipeline: Pipeline, style: str, shown: StylePicture, strength: float, network) -> np.ndarray:
    """One content picture, drawn anew, (H, W, 3) uint8."""
    content = ContentSettings(picture=str(shown.path), strength=strength)
    held = (ControlSettings(kind="canny", picture=str(shown.path), network=network, strength=CONTROL_STRENGTH),)
    [drawn] = pipeline.pictures(shown.phrase, style=style, seeds=1, negative="", content=content,
                                control=held if network else ())
    return drawn.pixels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", default="mini", help="settings with the base, the data and a ControlNet for edges")
    parser.add_argument("--adapters", type=Path, help="folder of the styles; default: the config's")
    parser.add_argument("--named", default="{}", help="what a style is called there; {} stands for its data folder")
    parser.add_argument("--contents", type=int, default=5, help="content pictures for each style")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.8], help="shares of the steps drawn again")
    parser.add_argument("--near", type=int, default=1, help="pixels that still count as the same place")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--sheet", type=Path, help="write what was drawn as one picture, a PNG file")
    args = parser.parse_args()
    settings, judge, rows = read_settings(args.config), Judge.load(), []
    if args.adapters:
        settings = settings.model_copy(update={"adapters": args.adapters})
    pipeline = Pipeline(load_base(settings.base), settings)
    size = settings.sampling.width, settings.sampling.height
    ways = {(strength, held): {"edges": [], "style": [], "content": []} for strength in args.strengths
            for held in (False, True)}
    for name in style_folders(settings.data):
        metric = JudgeMetric(judge, name)
        for shown in contents(settings, name, args.contents):
            own = ImageOps.fit(load_picture(shown.path), size, Image.LANCZOS)
            given, cells = canny(np.asarray(own)), [(f"{name}: {shown.caption}"[:30], own)]
            for (strength, held), found in ways.items():
                network = settings.controlnets.of("canny") if held else None
                drawn = transferred(pipeline, args.named.format(name), shown, strength, network)
                image = Image.fromarray(drawn)
                found["edges"].append(agreement(canny(drawn), given, args.near))
                before, after = metric.score([own, image], [shown.phrase] * 2)["style"]
                found["content"].append(before)
                found["style"].append(after)
                cells.append((f"{strength:g}{' edges' * held}: {found['edges'][-1]:.2f} {after:.2f}", image))
            rows.append(cells)
    report(ways, args)
    if args.sheet:
        save_png(args.sheet, contact_sheet(rows, 128))
    return 0


def report(ways: Dict[tuple, Dict[str, List[float]]], args) -> None:
    """Print the table, and write it where that is asked for."""
    table, figures = Table("strength", "held by edges", "edges kept (F1)", "style", "style minus the content's own"), []
    for (strength, held), found in ways.items():
        gain = paired_difference(found["style"], found["content"])
        row = {"strength": strength, "held": held, "edges": float(np.mean(found["edges"])),
               "style": float(np.nanmean(found["style"])), "gain": str(gain)}
        figures.append(row)
        table.add_row(f"{strength:g}", "yes" if held else "no", f"{row['edges']:.3f}", f"{row['style']:.3f}", str(gain))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
