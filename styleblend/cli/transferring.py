"""`transfer`: content pictures, drawn anew in a style."""
from __future__ import annotations

from pathlib import Path

from styleblend.cli.context import add_context, context_of
from styleblend.cli.drawing import style_or_mix
from styleblend.cli.options import add_command, add_config, add_this_machine, settings_of
from styleblend.cli.running import follow
from styleblend.cli.sampling_options import add_sampling, sampling_of
from styleblend.errors import StyleBlendError


def add_commands(commands) -> None:
    parser = add_command(commands, "transfer", "draw a picture, or all of a folder, anew in a style",
                         example="transfer --style fxemoji --content photo.png --strength 0.8")
    add_config(parser)
    parser.add_argument("--content", metavar="PICTURE", required=True, help="the picture, or a folder of pictures")
    parser.add_argument("--style", metavar="NAME", help="a trained style of any method")
    parser.add_argument("--mix", metavar="STYLES",
                        help="in its place, the stages of several styles of dreamstyler: ink:0-2,wax:3-5")
    parser.add_argument("--prompt", metavar="TEXT", help="what the content shows; default: NAME.txt beside a picture, "
                        "else its name")
    parser.add_argument("--output", metavar="FOLDER", default="transferred", help="folder of what is drawn")
    parser.add_argument("--overwrite", action="store_true", help="draw again what is there already")
    held = parser.add_argument_group("how much of the content is kept")
    held.add_argument("--strength", type=float, metavar="SHARE",
                      help="share of the steps that are drawn again: less keeps more; default: 0.8, with --invert 1")
    held.add_argument("--invert", action="store_true", help="begin from the noise that an inversion finds for the "
                      "content (sampler ddim), without a ControlNet unless --control names one")
    held.add_argument("--control", metavar="KIND", help="what a ControlNet reads of the content: depth, canny, "
                      "depth_edges, or none; default: depth, else canny, where the config has a network for it")
    held.add_argument("--controlnet", metavar="FOLDER", help="the network; default: the config's for this kind "
                      "(controlnets)")
    held.add_argument("--depth-estimator", metavar="FOLDER", help="Depth Anything V2 or DPT-hybrid, a folder or a hub "
                      "id; default: the config's (depth_estimator)")
    held.add_argument("--control-strength", type=float, metavar="FACTOR", help="of the ControlNet; default: 0.8")
    drawing = parser.add_argument_group("how it is drawn")
    drawing.add_argument("--seed", type=int, metavar="N", help="default: the config's (sampling.seed)")
    add_sampling(drawing, negative="nothing")
    add_context(parser)
    add_this_machine(parser)
    parser.set_defaults(run=run_transfer)


def run_transfer(args) -> int:
    from styleblend.jobs.choices import ready_to_draw
    settings = settings_of(args)
    style = style_or_mix(args, settings)
    if not style:
        raise StyleBlendError("there is no style to draw in: give --style, or --mix")
    ready_to_draw(settings, style)
    made = context_of(args, settings, args.prompt)
    from styleblend.jobs.transfer import TransferRequest, transfer
    sampling = sampling_of(args)
    request = TransferRequest(settings, style, Path(args.content), Path(args.output),
                              made.prompt if made else args.prompt,
                              "inversion" if args.invert else "noise", args.strength, args.control, args.controlnet,
                              args.depth_estimator, args.control_strength, args.seed, args.negative, sampling,
                              args.overwrite, args.max_memory, made.sources if made else ())
    drawn = follow(transfer(request))
    print(f"{len(drawn)} new pictures; all are in {args.output}/")
    return 0
