"""`train`, which learns styles, and `styles`, which says what is there."""
from __future__ import annotations

import time
from pathlib import Path

from styleblend.adapters.parts import PARTS, trainings_of
from styleblend.cli import encoder_training
from styleblend.cli.options import (add_cluster, add_command, add_config, add_dtype, add_max_memory, add_max_pixels,
                                    add_styles, cluster_of, settings_of)
from styleblend.cli.running import follow
from styleblend.errors import StyleBlendError

ENCODER = "encoder"  # no style is trained but the network that reads styles off pictures
# what may be typed -> the trainings that it means: one of them, a method with all of its own, and the first method's
TRAININGS = {**{name: (name,) for method in PARTS for name in trainings_of(method)},
             "all": trainings_of(next(iter(PARTS))), ENCODER: (),
             **{method: trainings_of(method) for method in PARTS if trainings_of(method)}}


def add_commands(commands) -> None:
    add_train_options(add_command(commands, "train", "learn styles from their pictures",
                                  example="train styleblend --styles mystyle"))
    captions = add_command(commands, "captions",
                           "write what each picture of a style shows into a text beside it, to be edited: trainings "
                           "read it", example="captions mystyle")
    captions.add_argument("style", metavar="STYLE", help="name of a style in the config's folder of data")
    add_config(captions)
    captions.add_argument("--overwrite", action="store_true", help="write captions that are there anew")
    captions.set_defaults(run=run_captions)
    styles = add_command(commands, "styles",
                         "say what styles there are: by which method, with which parts, trained on which base and when",
                         example="styles --config mini")
    add_config(styles)
    styles.set_defaults(run=run_styles)


def add_train_options(parser) -> None:
    parser.add_argument("part", choices=list(TRAININGS), nargs="?", default="all",
                        help="a method: styleblend, or one part of it, coarse (layout, in the text encoder) or fine "
                             "(texture, in the UNet); or dreamstyler (tokens by stage, from one picture); all is the "
                             "same as styleblend; encoder: the network of style_encoder, by --corpus, --stage and "
                             "--name")
    add_config(parser)
    add_styles(parser, "all of the data folder")
    parser.add_argument("--pictures", metavar="FOLDER",
                        help="learn one style from the pictures in this folder, wherever it is, and in its sub-folders")
    parser.add_argument("--name", metavar="NAME", help="what the style of --pictures is called from then on")
    parser.add_argument("--fit", choices=["crop", "pad"],
                        help="style pictures of other proportions than the training size: crop to the middle, or pad "
                             "with white; default: the config's (pictures.fit), else crop")
    add_max_pixels(parser)
    add_dtype(parser, draws=False)
    add_max_memory(parser)
    parser.add_argument("--overwrite", action="store_true", help="train again what is trained already, from the start")
    parser.add_argument("--keep", choices=["last", "best"],
                        help="which step becomes the adapters: the last, or the one whose picture grid has the best "
                             "score; default: the config's (training.keep_adapters), else last")
    parser.add_argument("--context-prompt", metavar="TEXT",
                        help="of dreamstyler: the whole prompt that the pictures are learned under, with {} for the "
                             "token: all that they show besides their style; default: a caption or name in the "
                             "config's template (training.dreamstyler)")
    parser.add_argument("--start", metavar="STYLE",
                        help="a style whose vectors the tokens start from in place of words, such as one of styleblend "
                             "encode; default: the config's (training.start), else words. Of encoder: a folder with an "
                             "encoder or a CLIP image encoder, or new; default: the stage before")
    parser.add_argument("--share", action="store_true",
                        help="leave styles that another process trains now to it: for several workers with one list "
                             "of styles")
    encoder_training.add_options(parser)
    add_cluster(parser)
    parser.set_defaults(run=run_train)


def run_train(args) -> int:
    if args.part == ENCODER:
        return encoder_training.run_train(args)
    encoder_training.refuse_options(args)
    from styleblend.jobs.choices import ready_to_train
    settings = settings_of(args)
    if args.start is not None:
        settings = with_start(settings, args.start, args.part)
    if args.pictures is None:
        ready_to_train(settings, args.styles)
    from styleblend.jobs.train import TrainRequest, train_styles
    if args.keep:
        training = settings.training.model_copy(update={"keep_adapters": args.keep})
        settings = settings.model_copy(update={"training": training})
    if args.context_prompt is not None:
        settings = with_context_prompt(settings, args.context_prompt, args.part)
    pictures = Path(args.pictures) if args.pictures is not None else None
    request = TrainRequest(settings, TRAININGS[args.part], args.styles, args.overwrite, args.share, args.max_memory,
                           pictures, args.name)
    spread = cluster_of(args, settings)
    if spread:
        from styleblend.jobs.train_items import train_spread
        follow(train_spread(request, spread))
    else:
        follow(train_styles(request), step_ends=True)
    return 0


def with_start(settings, name: str, part: str):
    """The settings with this style to start from. StyleBlendError where there is none, or it would have no effect."""
    from styleblend.adapters.style_files import find_style
    if part == "coarse":
        raise StyleBlendError("--start has no effect on coarse, whose token starts from a word: leave it out")
    find_style(settings.adapters, name)
    return settings.model_copy(update={"training": settings.training.model_copy(update={"start": name})})


def with_context_prompt(settings, prompt: str, part: str):
    """The settings with this whole prompt for DreamStyler's training. StyleBlendError where it is of another method."""
    from styleblend.settings import validated
    if part != "dreamstyler":
        raise StyleBlendError(f"--context-prompt has no effect on {part}: leave it out, or train dreamstyler")
    stage = settings.training.dreamstyler
    stage = validated(type(stage), {**stage.model_dump(), "template": prompt}, "--context-prompt")
    return settings.model_copy(update={"training": settings.training.model_copy(update={"dreamstyler": stage})})


def run_captions(args) -> int:
    from styleblend.jobs.captions import write_captions
    found = follow(write_captions(settings_of(args), args.style, args.overwrite))
    print(f"{found.written} new captions, {found.kept} were there" + (f", {found.missing} are left to write" if
          found.missing else "") + "; say in them all that a picture shows besides its style")
    return 0


def run_styles(args) -> int:
    from styleblend.jobs.styles import list_styles
    settings = settings_of(args)
    found = list_styles(settings)
    width = max((len(style.name) for style in found), default=0)
    for style in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(style.trained)) if style.trained else "-"
        parts = ", ".join(style.parts) + (f"; missing: {', '.join(style.missing)}" if style.missing else "")
        parts += f"; its pictures have changed since: {style.others}" if style.others else ""
        print(f"{style.name:{width}}  {style.method or '-':10}  base {style.base or '-':16}  {when}  "
              f"{style.problem or parts}{' (comes with the program)' * style.shipped}")
    if not found:
        print(f"no styles in {settings.adapters}: train one with python -m styleblend train styleblend --config "
              f"{args.config}")
    return 0
