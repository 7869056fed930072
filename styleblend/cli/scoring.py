"""The commands `eval`, `grid` and `tune`: their options, and what they do with them."""
from __future__ import annotations

import sys
from argparse import BooleanOptionalAction
from pathlib import Path

from styleblend.errors import StyleBlendError


def add_scoring_commands(commands, **kind) -> None:
    """Put the three into the command line; `kind` are the arguments that all its commands share."""
    score = commands.add_parser("eval", help="score the pictures of a folder, or compare folders", **kind)
    score.add_argument("result", metavar="RESULT", help="folder with <style>/<Prompt>.png, as test.py draws it")
    score.add_argument("--against", nargs="+", default=[], metavar="OTHER", help="folders to compare it with, prompt by prompt")
    score.add_argument("--data", help="folder of the styles' own pictures and prompts; default: the config's")
    score.add_argument("--styles", help="names with commas between them; default: all that have pictures")
    add_metrics(score)
    score.add_argument("--judge", action=BooleanOptionalAction, default=True, help="let the mini judge speak: it knows emoji art, so leave it out (--no-judge) for other pictures")
    score.add_argument("--output", default="report", metavar="REPORT", help="folder for scores.json and report.html")
    score.set_defaults(run=run_eval)
    grid = commands.add_parser("grid", help="draw one picture for each combination of two or three settings, on one sheet", **kind)
    grid.add_argument("style", metavar="STYLE", help="name of a trained style")
    grid.add_argument("--x", required=True, metavar="AXIS=A,B", help="what changes to the right: preset, scale, fine_scale, c2f_ratio, f2c_ratio, seed, steps, guidance, checkpoint (step of the UNet LoRA) or prompt")
    grid.add_argument("--y", metavar="AXIS=A,B", help="what changes downwards")
    grid.add_argument("--z", metavar="AXIS=A,B", help="what changes from block to block")
    grid.add_argument("--prompts", help='what is drawn: names ("Cat,Dog") or how many of prompt.json; several are one more axis; default: the first of prompt.json')
    grid.add_argument("--limit", type=int, default=100, help="refuse a grid of more pictures")
    grid.add_argument("--output", default="grid.png", metavar="FILE.png", help="file to write")
    grid.set_defaults(run=run_grid)
    tune = commands.add_parser("tune", help="search for the blend settings of a style", **kind)
    tune.add_argument("style", metavar="STYLE", help="name of a trained style")
    tune.add_argument("--trials", type=int, default=30, help="settings to try, those of an earlier run included")
    tune.add_argument("--minutes", type=float, help="stop the search after so many; default: when all trials are done")
    tune.add_argument("--prompts", default="10", help='what is drawn in the search: a number of subjects that the base knows, or names ("Cat,Dog")')
    tune.add_argument("--search-steps", type=int, metavar="N", help="denoising steps of a picture of the search; default: half of the config's, all of which the comparison makes")
    tune.add_argument("--finalists", type=int, default=6, metavar="N", help="how many of the best settings draw as many other subjects, with twice as many seeds, before one is chosen; 0: none")
    tune.add_argument("--unseen", type=int, default=20, help="other subjects, for the comparison at the end")
    tune.add_argument("--seeds", type=int, default=1, help="pictures of each prompt; more prompts tell more than more seeds do")
    tune.add_argument("--unseen-seeds", type=int, default=2, metavar="N", help="pictures of each prompt of the comparison, with other seeds than the search has")
    tune.add_argument("--metric", default="both", help='scores to add up, with weights: "both", or "subject=2,style" (see docs/scoring.md)')
    tune.add_argument("--choose-seeds", type=int, default=0, metavar="N", help="then draw each prompt of prompt.json with N seeds and keep the best; 0: no")
    add_metrics(tune)
    tune.add_argument("--overwrite", action="store_true", help="begin anew: forget the trials of an earlier run")
    tune.set_defaults(run=run_tune)


def add_metrics(parser) -> None:
    parser.add_argument("--metrics", help="what else to measure beside the mini judge: names of docs/metrics.md with commas between them, or all")
    parser.add_argument("--weights", metavar="FOLDER", help="the networks that these need; default: the config's (metrics.weights), else checkpoints/metrics")


def metrics_beside_the_judge(args, settings):
    """The metrics that were asked for, and sentences on those that cannot be had. Any other metric joins in `styleblend.metrics`."""
    if not args.metrics:
        return [], []
    from styleblend.metrics import load_metrics
    names = None if args.metrics == "all" else [name.strip() for name in args.metrics.split(",")]
    return load_metrics(Path(args.weights or settings.metrics.weights), names, settings.metrics.ids)


def run_eval(args) -> int:
    from styleblend.files.claims import in_turn
    from styleblend.metrics.judge import Judge
    from styleblend.jobs.report import differences, print_tables, write_report
    from styleblend.jobs.scoring import score_run
    from styleblend.settings import read_settings
    settings, judge = read_settings(args.config), Judge.load() if args.judge else None
    others, missing = metrics_beside_the_judge(args, settings)
    styles = [n.strip() for n in args.styles.split(",") if n.strip()] if args.styles else None
    runs = [score_run(Path(folder), Path(args.data or settings.data), styles, judge, others, settings.pictures) for folder in (args.result, *args.against)]
    runs[0].notes[:0] = missing
    for note in dict.fromkeys(note for run in runs for note in run.notes):
        print(f"styleblend: {note}", file=sys.stderr)
    if not runs[0].names() and not runs[0].of_style:
        raise StyleBlendError(f"nothing in {args.result} could be scored: it should hold <style>/<Prompt>.png of the styles in {args.data or settings.data}")
    compared = differences(runs)
    print_tables(runs, compared, judge, others)
    with in_turn(Path(args.output)):  # the page and the scores of one run
        write_report(runs, compared, judge, Path(args.output), others)
    print(f"the pictures with their scores are in {Path(args.output) / 'report.html'}")
    return 0


def run_grid(args) -> int:
    from styleblend.jobs.grid import draw_grid, parse_axis
    from styleblend.files.names import check_name
    from styleblend.settings import read_settings
    axes = [parse_axis(text, option) for option, text in (("--x", args.x), ("--y", args.y), ("--z", args.z)) if text]
    draw_grid(read_settings(args.config), check_name(args.style), axes, args.prompts, Path(args.output), args.limit)
    print(args.output)
    return 0


def run_tune(args) -> int:
    from styleblend.files.names import check_name
    from styleblend.settings import read_settings
    from styleblend.jobs.tuning import Question, tune
    question = Question(check_name(args.style), args.prompts, args.unseen, args.seeds, args.metric, args.unseen_seeds, args.finalists,
                        args.search_steps)
    settings = read_settings(args.config)
    others, missing = metrics_beside_the_judge(args, settings)
    for sentence in missing:
        print(f"styleblend: {sentence}", file=sys.stderr)
    for sentence in tune(settings, question, args.trials, args.minutes, args.overwrite, others, args.choose_seeds):
        print(sentence)
    return 0
