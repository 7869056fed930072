"""`align`: a set of prompts in one look, taken from words or from reference pictures. Nothing is trained."""
from __future__ import annotations

from argparse import BooleanOptionalAction
from pathlib import Path

from styleblend.cli.context import add_context, context_of
from styleblend.cli.options import (add_command, add_config, add_control, add_this_machine, control_of,
                                    settings_of)
from styleblend.cli.reference_pictures import references
from styleblend.cli.running import follow
from styleblend.cli.sampling_options import add_sampling, sampling_of
from styleblend.errors import StyleBlendError

OF_ALIGN = ("look", "reference_prompt", "blend", "follow", "offset", "inversion_guidance", "shared_score_scale",
            "shared_score_shift", "only_self_level", "adain_queries", "adain_keys",
            "adain_values")  # options that are fields of the method's settings

SWITCHES = ("share_group_norm", "full_attention_share", "style_on_reference")


def add_commands(commands) -> None:
    parser = add_command(commands, "align", "draw a set of prompts that share one look; nothing is trained",
                         example='align --prompts "A toy train,A toy car" --look "macro photo, 3d render"')
    add_config(parser)
    parser.add_argument("--prompts", metavar="TEXTS", help='phrases with commas between them ("A, b" is two); the '
                        'first one\'s picture is the reference, unless something else is')
    parser.add_argument("--look", metavar="WORDS", help="words of the look, put behind every prompt")
    parser.add_argument("--output", metavar="FOLDER", default="aligned", help="folder of the pictures and of sheet.png")
    parser.add_argument("--style", metavar="NAME", help="a learned style that the set is drawn in as well")
    parser.add_argument("--compare", action="store_true", help="draw each prompt without sharing, too: the same seeds")
    parser.add_argument("--overwrite", action="store_true", help="draw again what is there already")
    add_reference_options(parser.add_argument_group("the reference"))
    add_sharing_options(parser.add_argument_group("how much is shared"))
    drawing = parser.add_argument_group("how it is drawn")
    drawing.add_argument("--seed", type=int, metavar="N",
                         help="of the first prompt, the others have the next ones; default: the config's")
    add_sampling(drawing)
    add_context(parser, look=False, place="before those of --prompts")
    add_control(parser)
    add_this_machine(parser)
    parser.set_defaults(run=run_align)


def add_reference_options(group) -> None:
    group.add_argument("--reference", action="append", default=[], metavar="PICTURE[:WEIGHT][:normal|famous]",
                       help="a picture whose look is taken, such as a.png, a.png:0.3 or a.png:0.7:famous; give it "
                            "several times for several, whose weights are made to add up to 1; default: 1, normal")
    group.add_argument("--reference-prompt", action="append", default=[], metavar="TEXT",
                       help="what the reference shows, without its look: once for each --reference, in their order; "
                            "without one, what is drawn as the reference")
    group.add_argument("--blend", metavar="HOW", help="of several: attention, which averages nothing, or how they "
                       "become one: spherical_mean, slerp, linear, slerp_upstream; default: attention")
    group.add_argument("--follow", metavar="HOW", help="inversion, or noise: no inversion, faster and looser, any "
                       "sampler; default: inversion")
    group.add_argument("--offset", type=int, metavar="STEPS", help="steps that the reference is ahead; default: a "
                       "tenth of them")
    group.add_argument("--inversion-guidance", type=float, metavar="SCALE", help="default: 2")


def add_sharing_options(group) -> None:
    group.add_argument("--shared-score-scale", type=float, metavar="FACTOR",
                       help="of the scores of a drawn reference; default: 1")
    group.add_argument("--shared-score-shift", type=float, metavar="NUMBER",
                       help="added to these; 0.693 counts it twice; default: 0")
    group.add_argument("--only-self-level", type=float, metavar="SHARE",
                       help="share of the attention layers that do not share; default: 0")
    for name, what in (("queries", "default: yes"), ("keys", "default: yes, with the mini base no"),
                       ("values", "default: no")):
        group.add_argument(f"--adain-{name}", action=BooleanOptionalAction,
                           help=f"whether {name} get the reference's mean and deviation; {what}")
    group.add_argument("--style-on-reference", action="store_true", help="draw the reference in the learned style of "
                       "--style, too; default: the set alone")
    group.add_argument("--share-group-norm", action="store_true", help="pool the statistics of norms, too")
    group.add_argument("--full-attention-share", action="store_true",
                       help="every picture attends to all of its batch: closer, but content leaks")


def run_align(args) -> int:
    from styleblend.settings import AlignSettings, validated
    from styleblend.settings.style_aligned import STRENGTHS
    said = {name: getattr(args, name) for name in OF_ALIGN if getattr(args, name) not in (None, [])}
    said.update({name: True for name in SWITCHES if getattr(args, name)})
    pictures = references(args.reference, STRENGTHS, args.reference_prompt)
    said.pop("reference_prompt", None)
    if pictures:
        said["references"] = pictures
    elif len(args.reference_prompt) > 1:
        raise StyleBlendError("without a --reference picture there is one reference: give one --reference-prompt")
    elif args.reference_prompt:
        said["reference_prompt"] = args.reference_prompt[0]
    from styleblend.files.prompts import listed
    from styleblend.jobs.choices import ready_pictures, ready_to_draw
    sampling = sampling_of(args)
    settings = settings_of(args)
    aligned = validated(AlignSettings, {**settings.align.model_dump(), **said}, "the options")
    aligned.refuse_without_style(args.style)
    control = control_of(args)
    ready_pictures(settings, *aligned.pictures(), *(one.picture for one in control))
    ready_to_draw(settings, *([args.style] if args.style else []))
    made = context_of(args, settings, look=False)
    prompts = [*([made.prompt] if made else []), *listed(args.prompts or "")]
    from styleblend.jobs.align import AlignRequest, align
    request = AlignRequest(settings, prompts, aligned,
                           Path(args.output), args.style, args.seed, args.negative, sampling, args.compare,
                           args.overwrite, args.max_memory, control, made.sources if made else ())
    drawn = follow(align(request))
    print(f"{len(drawn)} new pictures; all are in {args.output}/ (open {args.output}/sheet.png)")
    return 0
