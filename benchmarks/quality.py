"""How well the base and the shipped styles draw what they should: `python -m benchmarks.quality [--json FILE]`.

A classifier that was trained on the real art (`styleblend/metrics/judge.py`) looks at every picture: is the prompt's
subject among its five best guesses, and is it drawn in the right style? Each style is drawn four ways (untrained base,
fine branch only, coarse branch only, blended) from the same seeds.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from styleblend.base.base import load_base
from styleblend.files.base_folder import find_base
from styleblend.cli.options import HelpFormatter
from styleblend.cli.running import run
from styleblend.jobs.choices import chosen_styles
from styleblend.errors import StyleBlendError
from styleblend.metrics.judge import Judge
from styleblend.files.names import entry
from styleblend.files.pictures import save_png
from styleblend.pipeline import Picture, Pipeline
from styleblend.files.prompts import article, style_prompts
from styleblend.settings import read_settings
from styleblend.adapters.style import Style, load_style

WAYS = {"base": ("plain",), "fine_only": ("fine",), "coarse_only": ("coarse",), "blended": ("coarse", "fine")}


def draw(pipeline, prompts, seeds, style, branches, batch):
    """Pictures of every prompt with every seed, prompts outermost, drawn by these branches as the style says."""
    every, numbers = [p for p in prompts for _ in seeds], list(seeds) * len(prompts)
    pictures, negative = [], "" if branches == WAYS["base"] else None
    for begin in tqdm(range(0, len(every), batch), leave=False, desc="+".join(branches), file=sys.stderr):
        part = slice(begin, begin + batch)
        request = pipeline.request(*map(article, every[part]), style=style, seeds=numbers[part], negative=negative)
        pictures += [event.pixels for event in pipeline.draw(replace(request, branches=branches))
                     if isinstance(event, Picture)]
    return np.stack(pictures), every


def without_unet_lora(style: Style) -> Style:
    return replace(style, parts={part: found for part, found in style.parts.items() if part != "unet_lora"})


def measure(args) -> int:
    settings = read_settings(args.config)
    judge = Judge.load()
    base = load_base(find_base(settings.base, settings.base_id))
    known = json.loads((base.folder / "subjects.json").read_text(encoding="utf-8"))
    seeds = list(range(1, args.seeds + 1))
    pipeline = Pipeline(base, settings)
    report = {"judge": {"style": judge.heldout["style"], "subject_top5": judge.heldout["subject_top5"]}, "styles": {}}
    if not args.skip_base:
        pictures, subjects = draw(pipeline, known, seeds, None, WAYS["base"], args.batch)
        report["base"] = {"subject_top5": judge.score(pictures, subjects)["subject_top5"]}
    for name in chosen_styles(settings, args.styles)[0]:
        style = load_style(Path(settings.adapters) / name, name, base)
        prompts = [p.text for p in style_prompts(entry(settings.data, name))]
        unknown = [p for p in prompts if p.lower() not in {s.lower() for s in judge.subjects}]
        if unknown or judge.look(name) not in judge.styles:
            raise StyleBlendError(f"the judge does not know {unknown[0] if unknown else name}: "
                                  "it judges only the emoji art it was trained on")
        report["styles"][name] = {}
        for way, branches in WAYS.items():
            drawn_with = without_unet_lora(style) if way == "coarse_only" else style
            pictures, subjects = draw(pipeline, prompts, seeds, drawn_with, branches, args.batch)
            scores = judge.score(pictures, subjects, [name] * len(pictures))
            report["styles"][name][way] = {k: scores[k] for k in ("style", "subject_top5")}
            if args.pictures:
                save_png(Path(args.pictures) / f"{name}-{way}.png", np.concatenate(
                    [np.concatenate(list(pictures[i:i + 10]), 1)
                     for i in range(0, len(pictures) - len(pictures) % 10, 10)], 0))
    table = Table("", "style", "subject top 5", "product", title="judged by a classifier trained on the real art")
    table.add_row("real held-out art (the judge itself)", f"{report['judge']['style']:.2f}",
                  f"{report['judge']['subject_top5']:.2f}", "")
    if "base" in report:
        table.add_row(f"base, its {len(known)} subjects", "", f"{report['base']['subject_top5']:.2f}", "")
    for name, ways in report["styles"].items():
        for way, s in ways.items():
            table.add_row(f"{name}: {way}", f"{s['style']:.2f}", f"{s['subject_top5']:.2f}",
                          f"{s['style'] * s['subject_top5']:.2f}")
    Console().print(table)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", default="configs/mini.yaml", help="settings of the base and the styles")
    parser.add_argument("--styles", help="names with commas between them; default: all that have adapters")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--batch", type=int, default=5, help="pictures that are drawn together")
    parser.add_argument("--skip-base", action="store_true", help="leave out the base's own subjects")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--pictures", help="folder for the pictures, one sheet for each style and way")
    parser.set_defaults(run=measure)
    sys.exit(run(parser))
