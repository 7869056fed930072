"""`compare`: the same prompts and seeds by several methods, one sheet, one report."""
from __future__ import annotations

from argparse import BooleanOptionalAction

from styleblend.cli.options import (MINI, add_cluster, add_command, add_dtype, add_max_memory, add_metrics,
                                    add_offload, add_styles, cluster_of, named_folder, settings_of)
from styleblend.cli.running import follow
from styleblend.errors import StyleBlendError


def add_commands(commands) -> None:
    parser = add_command(commands, "compare", "draw the same prompts by several methods, and score them side by side",
                         example="compare --styles fxemoji --methods styleblend,dreamstyler,plain --prompts 6")
    parser.add_argument("--study", metavar="FILE",
                        help="a YAML file that says all of this, such as configs/studies/mini.yaml; options count in "
                             "its place")
    parser.add_argument("--config", metavar="NAME", help=f"settings of the base and the styles; default: the study's, "
                        f"else {MINI}")
    parser.add_argument("--methods", metavar="NAMES",
                        help="names with commas between them: styleblend, fine, style_aligned, dreamstyler, "
                             "style_encoder, plain; the first is compared with each of the others; default: all that "
                             "can draw the styles")
    add_styles(parser, "all that have pictures")
    parser.add_argument("--prompts", metavar="WHICH",
                        help='what is drawn: how many of each prompt.json, or names ("Cat,Dog"); default: all of it')
    parser.add_argument("--seeds", metavar="NUMBERS", help="each prompt is drawn with each; default: 1,2")
    parser.add_argument("--references", type=int, metavar="N",
                        help="pictures of a style that style_aligned and style_encoder look at; default: 1")
    add_metrics(parser)
    parser.add_argument("--judge", action=BooleanOptionalAction, default=True,
                        help="let the mini judge speak: it knows emoji art, so leave it out (--no-judge) for other "
                             "pictures")
    parser.add_argument("--output", metavar="FOLDER",
                        help="folder of the pictures, of sheet.png, scores.json and report.html: what is whole in it "
                             "is kept; default: the study's, else comparison")
    parser.add_argument("--overwrite", action="store_true", help="draw again what is there already")
    machine = parser.add_argument_group("this machine")
    add_dtype(machine)
    add_max_memory(machine)
    add_offload(machine)
    add_cluster(parser)
    parser.set_defaults(run=run_compare)


def study_of(args):
    """What the study's file says, changed by the options. StyleBlendError names what is wrong."""
    from styleblend.files.prompts import listed
    from styleblend.settings import validated
    from styleblend.settings.study import StudySettings, read_study
    said = {name: [one.strip() for one in getattr(args, name).split(",") if one.strip()]
            for name in ("methods", "styles", "seeds") if getattr(args, name) is not None}
    empty = next((name for name, values in said.items() if not values), None)
    if empty:
        raise StyleBlendError(f"--{empty} names nothing: give some with commas between them")
    said.update({name: getattr(args, name) for name in ("config", "references", "metrics")
                 if getattr(args, name) is not None})
    if args.prompts is not None:
        said["prompts"] = int(args.prompts) if args.prompts.isdecimal() else listed(args.prompts)
    study = read_study(args.study) if args.study else StudySettings()
    return validated(StudySettings, {**study.model_dump(), **said}, "the options")


def run_compare(args) -> int:
    study = study_of(args)
    args.config = study.config
    settings = settings_of(args)
    from styleblend.files.base_folder import check_base
    from styleblend.jobs.asked_metrics import metric_names
    from styleblend.jobs.choices import known_style
    for name in study.styles or ():
        known_style(settings, name)
    metric_names(study.metrics)
    check_base(settings.base, settings.base_id)
    spread = cluster_of(args, settings)
    from styleblend.cli.tables import print_tables
    from styleblend.jobs.compare import CompareRequest, compare_methods
    request = CompareRequest(settings, study, named_folder(args.output), args.judge, args.weights, args.overwrite,
                             args.max_memory)
    found = follow(compare_methods(request, spread))
    print_tables(found.runs, found.compared, found.judge, found.metrics)
    print(f"the pictures with their scores are in {found.report}")
    return 0
