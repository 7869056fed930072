"""`eval`, `grid` and `tune`: how good pictures are, and which settings make them better."""
from __future__ import annotations

from argparse import BooleanOptionalAction
from pathlib import Path

from styleblend.cli.options import (add_command, add_config, add_metrics, add_output_file, add_styles, named_file,
                                    named_folder, settings_of)
from styleblend.cli.running import follow
from styleblend.jobs.grid_axes import AXES, parse_axis


def add_commands(commands) -> None:
    add_eval_options(add_command(commands, "eval", "score the pictures of a folder, or compare folders",
                                 example="eval result --against other"))
    add_grid_options(add_command(commands, "grid",
                                 "draw one picture for each combination of two or three settings, on one sheet",
                                 example="grid fxemoji --x scale=0.1,0.5 --y preset=balanced,strong_layout --prompts "
                                         "Anchor"))
    add_tune_options(add_command(commands, "tune", "search for the blend settings of a style",
                                 example="tune fxemoji --minutes 20"))


def add_eval_options(parser) -> None:
    parser.add_argument("result", metavar="RESULT",
                        help="folder with <style>/<Prompt>.png, as board draws it, or a set of align")
    add_config(parser)
    parser.add_argument("--against", nargs="+", default=[], metavar="OTHER",
                        help="folders to compare it with, prompt by prompt")
    parser.add_argument("--data", metavar="FOLDER",
                        help="folder of the styles' own pictures and prompts; default: the config's (data)")
    add_styles(parser, "all that have pictures")
    add_metrics(parser)
    parser.add_argument("--judge", action=BooleanOptionalAction, default=True,
                        help="let the mini judge speak: it knows emoji art, so leave it out (--no-judge) for other "
                             "pictures")
    parser.add_argument("--output", metavar="REPORT",
                        help="folder for scores.json and report.html; default: report, or report-2, ... where there is "
                             "one")
    parser.add_argument("--overwrite", action="store_true", help="replace the report that is in this folder")
    parser.set_defaults(run=run_eval)


def add_grid_options(parser) -> None:
    parser.add_argument("style", metavar="STYLE", help="name of a trained style")
    add_config(parser)
    parser.add_argument("--x", required=True, metavar="AXIS=A,B",
                        help=f"what changes to the right: {', '.join(AXES[:-1])} or {AXES[-1]}; "
                        "checkpoint is a step of the UNet LoRA's training")
    parser.add_argument("--y", metavar="AXIS=A,B", help="what changes downwards")
    parser.add_argument("--z", metavar="AXIS=A,B", help="what changes from block to block")
    parser.add_argument("--prompts", metavar="WHICH",
                        help='what is drawn: names ("Cat,Dog") or how many of prompt.json; several are one more axis; '
                             "default: the first of prompt.json")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="refuse a grid of more pictures")
    add_output_file(parser, "grid.png", "the sheet")
    parser.set_defaults(run=run_grid)


def add_tune_options(parser) -> None:
    parser.add_argument("style", metavar="STYLE", help="name of a trained style")
    add_config(parser)
    parser.add_argument("--trials", type=int, default=30, metavar="N",
                        help="settings to try, those of an earlier run included")
    parser.add_argument("--minutes", type=float, metavar="M",
                        help="stop the search after so many; default: when all trials are done")
    parser.add_argument("--prompts", default="10", metavar="WHICH",
                        help="what is drawn in the search: a number of subjects that the base knows, or names "
                             '("Cat,Dog")')
    parser.add_argument("--search-steps", type=int, metavar="N",
                        help="denoising steps of a picture of the search; default: half of the config's, all of which "
                             "the comparison makes")
    parser.add_argument("--finalists", type=int, default=6, metavar="N",
                        help="how many of the best settings draw as many other subjects, with twice as many seeds, "
                             "before one is chosen; 0: none")
    parser.add_argument("--unseen", type=int, default=20, metavar="N",
                        help="other subjects, for the comparison at the end")
    parser.add_argument("--seeds", type=int, default=1, metavar="N",
                        help="pictures of each prompt; more prompts tell more than more seeds do")
    parser.add_argument("--unseen-seeds", type=int, default=2, metavar="N",
                        help="pictures of each prompt of the comparison, with other seeds than the search has")
    parser.add_argument("--metric", metavar="SCORES",
                        help='scores to add up, with weights: "both", or "subject=2,style" (see docs/scoring.md); '
                             "default: both; for a style that the judge does not know subject,histogram")
    parser.add_argument("--choose-seeds", type=int, default=0, metavar="N",
                        help="then draw each prompt of prompt.json with N seeds and keep the best; 0: no")
    add_metrics(parser)
    parser.add_argument("--overwrite", action="store_true", help="begin anew: forget the trials of an earlier run")
    parser.set_defaults(run=run_tune)


def run_eval(args) -> int:
    from styleblend.jobs.asked_metrics import metric_names
    from styleblend.jobs.choices import ready_to_score
    settings = settings_of(args)
    ready_to_score([Path(folder) for folder in (args.result, *args.against)], Path(args.data or settings.data),
                   args.styles)
    metric_names(args.metrics)
    from styleblend.cli.tables import print_tables
    from styleblend.jobs.evaluate import EvaluateRequest, evaluate
    found = follow(evaluate(EvaluateRequest(settings, args.result, args.against, args.data, args.styles,
                                            args.judge, args.metrics,
                                            args.weights, named_folder(args.output), args.overwrite)))
    print_tables(found.runs, found.compared, found.judge, found.metrics)
    print(f"the pictures with their scores are in {found.report}")
    return 0


def run_grid(args) -> int:
    from styleblend.jobs.choices import ready_for_grid
    axes = [parse_axis(text, option) for option, text in (("--x", args.x), ("--y", args.y), ("--z", args.z)) if text]
    settings = settings_of(args)
    ready_for_grid(settings, args.style, args.prompts)
    from styleblend.jobs.grid import GridRequest, draw_grid
    print(follow(draw_grid(GridRequest(settings, args.style, axes, args.prompts, named_file(args.output), args.limit,
                                       args.overwrite))))
    return 0


def run_tune(args) -> int:
    from styleblend.jobs.asked_metrics import metric_names
    from styleblend.jobs.choices import ready_scores, ready_to_draw
    settings = settings_of(args)
    ready_scores(args.metric, args.metrics, "--metric")
    metric_names(args.metrics)
    ready_to_draw(settings, args.style)
    from styleblend.jobs.tuning import Question, TuneRequest, tune
    question = Question(args.style, args.prompts, args.unseen, args.seeds, args.metric, args.unseen_seeds,
                        args.finalists, args.search_steps)
    request = TuneRequest(settings, question, args.trials, args.minutes, args.overwrite,
                          seeds_each=args.choose_seeds,
                          metrics=args.metrics, weights=args.weights)
    for sentence in follow(tune(request)):
        print(sentence)
    return 0
