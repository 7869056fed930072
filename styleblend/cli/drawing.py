"""`draw`: one phrase with one seed or several. `board`: all prompts of all styles, which is also `python test.py`."""
from __future__ import annotations

from pathlib import Path
from typing import Optional

from styleblend.cli.context import add_context, context_of
from styleblend.cli.options import (add_cluster, add_command, add_config, add_control, add_dtype, add_max_memory,
                                    add_max_pixels, add_offload, add_output_file, add_styles, add_this_machine,
                                    cluster_of, control_of, named_file, named_folder, settings_of)
from styleblend.cli.reference_pictures import references
from styleblend.cli.running import follow
from styleblend.cli.sampling_options import add_sampling, sampling_of
from styleblend.errors import StyleBlendError

BY_PICTURES = ("style_encoder",)  # methods that need no style: they draw in that of reference pictures


def add_commands(commands) -> None:
    add_draw_options(add_command(commands, "draw", "draw a picture of a prompt, in a style or without one",
                                 aliases=["generate"],
                                 example='draw --style fxemoji --prompt "An anchor" --count 4 --output anchor.png'))
    add_board_options(add_command(commands, "board", "draw every prompt of every style", aliases=["test"],
                                  example="board --styles fxemoji --prompts Cat,Dog"))


def add_draw_options(parser) -> None:
    add_config(parser)
    parser.add_argument("--prompt", metavar="TEXT", help='a phrase such as "A cat on a boat"')
    parser.add_argument("--style", metavar="NAME",
                        help="name of a trained style; default: none, a plain picture of the base")
    parser.add_argument("--mix", metavar="STYLES",
                        help="in place of --style, the stages of several styles of dreamstyler: ink:0-2,wax:3-5; or "
                             "all of both in one prompt: ink+wax")
    parser.add_argument("--from", dest="again", metavar="PICTURE",
                        help="draw a picture of this program again, with the settings that it carries; other options "
                             "change these")
    add_output_file(parser, "picture.png", "the picture")
    parser.add_argument("--preview", metavar="FILE", help="a small picture of how it looks, written anew after each "
                        "step (docs/page.md says how it is made)")
    drawing = parser.add_argument_group("how it is drawn")
    drawing.add_argument("--seed", type=int, metavar="N",
                         help="where the noise comes from; -1: by chance, and said; default: the config's "
                              "(sampling.seed), or the picture's")
    drawing.add_argument("--count", type=int, default=1, metavar="N",
                         help="pictures to draw, with the seeds from --seed on: NAME-SEED.png each, and NAME.png is a "
                              "contact sheet of them")
    drawing.add_argument("--strength", type=float, metavar="FACTOR",
                         help="how strong the style is drawn: 1 as trained, more or less of it, such as 1.4 or 0.7; "
                              "default: the style's own (blend.fine_scale), else 1")
    add_sampling(drawing)
    add_references(parser)
    add_context(parser)
    add_dials(parser)
    add_control(parser)
    add_this_machine(parser)
    parser.set_defaults(run=run_draw)


def add_references(parser) -> None:
    """Style Encoder's pictures and its guidance."""
    group = parser.add_argument_group("the style of a picture, at once (docs/style-encoder.md)")
    group.add_argument("--method", choices=BY_PICTURES, metavar="NAME",
                       help=f"how --reference is read: {', '.join(BY_PICTURES)}")
    group.add_argument("--reference", action="append", default=[], metavar="PICTURE[:WEIGHT]",
                       help="a picture whose style is drawn; several are averaged with their weights: a.png:0.3")
    group.add_argument("--encoder", metavar="FOLDER", help="what reads them: a folder, or a published checkpoint; "
                       "default: the config's (encoder)")
    group.add_argument("--style-guidance", type=float, metavar="SCALE", help="more is more of the style: from the "
                       "prompt without it on, beside --guidance; also of a style of styleblend encode; default: the "
                       "style's own, else the config's (style_encoder.style_guidance)")


def references_of(args) -> dict:
    """The settings of Style Encoder that these options change. StyleBlendError for a picture without the method."""
    if args.method and (args.style or args.mix):
        raise StyleBlendError("--method has no effect on a style, which has its own: leave it out")
    if args.reference and not (args.method or args.again):
        raise StyleBlendError(f"--reference needs --method {BY_PICTURES[0]}; a set in one look is drawn by styleblend "
                              "align")
    said = {name: getattr(args, name) for name in ("encoder", "style_guidance") if getattr(args, name) is not None}
    return {**said, **({"references": references(args.reference)} if args.reference else {})}


def ready_references(settings, own: dict) -> None:
    """StyleBlendError where a reference picture cannot be read, or where there is no encoder for it."""
    from styleblend.adapters.encoder_files import ready_encoder
    from styleblend.jobs.choices import ready_pictures
    if own.get("references"):
        ready_pictures(settings, *(one["picture"] for one in own["references"]))
        ready_encoder(own.get("encoder") or settings.encoder)


def add_dials(parser) -> None:
    """DreamStyler's guidance. Any of these switches it on."""
    group = parser.add_argument_group("guidance of a style of dreamstyler, in place of --guidance")
    group.add_argument("--sty-gamma", type=float, metavar="SCALE", help="more is more style; default: 0.5")
    group.add_argument("--con-gamma", type=float, metavar="SCALE",
                       help="more is more of what the prompt says; default: 3")
    group.add_argument("--neg-gamma", type=float, metavar="SCALE",
                       help="more is further from the negative prompt; default: 5")
    group.add_argument("--formula", metavar="NAME", help="code, or paper: twice as much of style and context; default: "
                       "code")


def dials_of(args) -> dict:
    """The settings of DreamStyler that these options change."""
    from styleblend.settings.dreamstyler import DIALS
    said = {name: getattr(args, name) for name in DIALS if getattr(args, name) is not None}
    return {**said, "use_sc_guidance": True} if said else {}


def preview_file(named: Optional[str], output: Optional[Path]):
    """The file of --preview, which is not that of the picture; None: it was not asked for."""
    if named is None:
        return None
    from styleblend.jobs.previews import PreviewFile
    path = named_file(named, "--preview")
    if output is not None and path.resolve() == output.resolve():
        raise StyleBlendError(f"--preview {named} is the file of the picture, too: name another one")
    return PreviewFile(path)


def style_or_mix(args, settings) -> Optional[str]:
    """The style of --style, or the mix of --mix with all of its stages. StyleBlendError for both."""
    if args.mix is None:
        return args.style
    if args.style is not None:
        raise StyleBlendError("--mix names the styles: leave out --style")
    from styleblend.adapters.mixes import resolved
    return resolved(settings.adapters, args.mix)


def run_draw(args) -> int:
    from styleblend.jobs.choices import drawn_again, ready_pictures, ready_to_draw
    from styleblend.settings import with_sampling
    sampling = sampling_of(args)
    again, output = args.again and Path(args.again), named_file(args.output)
    settings = settings_of(args)
    style = style_or_mix(args, settings)
    made = context_of(args, settings, args.prompt)
    prompt, sources = (made.prompt, made.sources) if made else (args.prompt, ())
    record = drawn_again(prompt, style, again)
    with_sampling(record.sampling if record else settings.sampling, sampling, "the options")
    control, own = control_of(args), {**references_of(args), **dials_of(args)}
    ready_references(settings, own)
    ready_pictures(settings, *(one.picture for one in control))
    ready_to_draw(settings, *filter(None, [style or (record.style if record else "")]))
    preview = preview_file(args.preview, output)
    from styleblend.jobs.draw import DrawRequest, draw
    request = DrawRequest(settings, prompt, style, again, args.seed, args.count, args.strength,
                          args.negative, sampling,
                          args.dtype, output, args.max_memory, args.overwrite, control, own, args.method, sources)
    for path in follow(draw(request), each=preview and preview.show):
        print(path)
    return 0


def add_board_options(parser) -> None:
    """The options of `board`, which are those of `python test.py`."""
    add_config(parser)
    add_styles(parser, "every style that has adapters")
    parser.add_argument("--prompts", metavar="WHICH",
                        help='how many of prompt.json ("3"), or names ("Cat,Dog"); default: all')
    parser.add_argument("--output", metavar="FOLDER", help="folder of the pictures; default: the config's (output)")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="draw part I of N: for several GPUs or machines")
    parser.add_argument("--batch", type=int, metavar="N",
                        help="prompts that are drawn together; default: the config's (sampling.batch)")
    add_max_pixels(parser)
    add_dtype(parser)
    add_max_memory(parser)
    add_offload(parser)
    parser.add_argument("--overwrite", action="store_true", help="draw again what is there already")
    add_context(parser)
    add_cluster(parser)
    parser.set_defaults(run=run_board)


def run_board(args) -> int:
    from styleblend.files.prompts import whole_prompt
    from styleblend.jobs.choices import ready_for_board
    from styleblend.settings import with_sampling
    settings = settings_of(args)
    if named_folder(args.output):
        settings = settings.model_copy(update={"output": args.output})
    if args.batch is not None:
        sampling = with_sampling(settings.sampling, {"batch": args.batch}, "--batch")
        settings = settings.model_copy(update={"sampling": sampling})
    made = context_of(args, settings, args.prompts, "--prompts")
    prompts, sources = ([whole_prompt(made.prompt)], made.sources) if made else (args.prompts, ())
    ready_for_board(settings, args.styles, prompts, args.shard)
    spread = cluster_of(args, settings)
    from styleblend.jobs.board import BoardRequest, draw_board
    drawn = follow(draw_board(BoardRequest(settings, args.styles, prompts, args.shard, args.overwrite,
                                           args.max_memory, sources), spread=spread))
    print(f"{len(drawn)} new pictures; all are in {settings.output}/ (open {settings.output}/index.html)")
    return 0
