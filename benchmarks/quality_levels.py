"""What do fewer steps, guidance in a part of them, bfloat16 and int8 cost in quality? Judged by the mini judge.

Each shipped style draws its own prompts from the same seeds: at each level of `--quality`, with guidance in the middle
of the steps alone, in bfloat16, and with weights in int8. How probable does the judge find the style, is the subject
among its five best guesses, how far is a picture from the best one's (its mean difference, of 255), and how long does
it take?
"""
import argparse
import json
import time
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from styleblend import Pipeline, load_base, read_settings
from styleblend.cli.options import HelpFormatter
from styleblend.diffusion.quality import BEST, QUALITIES
from styleblend.files.pictures import contact_sheet, save_png
from styleblend.files.prompts import article, style_prompts
from styleblend.files.shipped import data_of, style_folders
from styleblend.metrics.comparison import paired_difference
from styleblend.metrics.judge import Judge, JudgeMetric

WINDOW = {"guidance_start": 0.2, "guidance_end": 0.8}
WAYS: Dict[str, Dict[str, object]] = {
    BEST: {}, "bfloat16": {"dtype": "bfloat16"},
    **{f"int8, {computed}": {"dtype": f"int8-{computed}"} for computed in ("float32", "bfloat16")},
    **{level: dict(QUALITIES[level]) for level in ("normal", "draft")},
    "guidance from 0.2 to 0.8": WINDOW,
    **{f"cache {interval}, branch {branch}": {"cache_interval": interval, "cache_branch_id": branch}
       for interval in (2, 3) for branch in (0, 2, 5)},
    **{f"{level}, cache 2, branch {branch}": {**QUALITIES[level], "cache_interval": 2, "cache_branch_id": branch}
       for level in ("normal", "draft") for branch in (2, 5)}}
SCORES = ("style", "subject", "subject_top5")


def drawn(pipeline: Pipeline, name: str, prompts: List[str], seeds: List[int], sampling: dict,
          batch: int) -> Tuple[List[Image.Image], float]:
    """Pictures of a style, and seconds for one."""
    images, began = [], time.perf_counter()
    for begin in range(0, len(prompts), batch):
        part = slice(begin, begin + batch)
        images += [Image.fromarray(one.pixels) for one in
                   pipeline.pictures(*prompts[part], style=name, seeds=seeds[part], **sampling)]
    return images, (time.perf_counter() - began) / len(prompts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config", default="mini", help="settings with the base and the styles")
    parser.add_argument("--prompts", type=int, default=25, help="prompts of each style")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each prompt")
    parser.add_argument("--batch", type=int, default=5, help="pictures that are drawn together")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what to compare with the best")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--sheets", type=Path, help="folder for what was drawn")
    args = parser.parse_args()
    settings, judge = read_settings(args.config), Judge.load()
    ways = {way: WAYS[way] for way in dict.fromkeys((BEST, *args.ways))}
    pipelines = {dtype: Pipeline(load_base(settings.base, dtype), settings)
                 for dtype in {way.get("dtype", "float32") for way in ways.values()}}
    scores, times, off = {way: [] for way in ways}, {}, {way: [] for way in ways}
    for name in style_folders(settings.data):
        phrases = [article(p.text) for p in style_prompts(data_of(settings.data, name))][:args.prompts]
        prompts, rows, best = phrases * args.seeds, [], []
        seeds = [100 * s + n for s in range(1, args.seeds + 1) for n in range(len(phrases))]
        for way, options in ways.items():
            sampling = {key: value for key, value in options.items() if key != "dtype"}
            pipeline = pipelines[options.get("dtype", "float32")]
            drawn(pipeline, name, prompts[:args.batch], seeds[:args.batch], sampling, args.batch)  # compiles
            images, seconds = drawn(pipeline, name, prompts, seeds, sampling, args.batch)
            scores[way].append(JudgeMetric(judge, name).score(images, prompts))
            times.setdefault(way, []).append(seconds)
            best = images if way == BEST else best
            off[way] += [np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()
                         for one, other in zip(images, best)]
            rows.append([(way[:24], image) for image in images[:12]])
        if args.sheets:
            save_png(args.sheets / f"{name}.png", contact_sheet(rows, 96))
    table, report = Table("", "time", "off", *SCORES, *(f"{score}, minus best" for score in SCORES[:2])), {}
    for way, own in scores.items():
        joined = {score: np.concatenate([one[score] for one in own]) for score in SCORES}
        best = {score: np.concatenate([one[score] for one in scores[BEST]]) for score in SCORES}
        gains = [str(paired_difference(joined[score], best[score])) for score in SCORES[:2]]
        share = float(np.mean(times[way]) / np.mean(times[BEST]))
        report[way] = {"time": share, "off": float(np.mean(off[way])), "minus": gains,
                       **{score: float(np.nanmean(joined[score])) for score in SCORES}}
        table.add_row(way, f"{share:.2f}", f"{report[way]['off']:.2f}",
                      *(f"{report[way][score]:.3f}" for score in SCORES), *gains)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
