"""`train encoder`, which trains a style encoder on a corpus, and `corpus check`, which says what is in one."""
from __future__ import annotations

from pathlib import Path

from styleblend.adapters.parts import ENCODER_STAGES
from styleblend.cli.options import add_command, add_config, add_max_pixels, settings_of
from styleblend.cli.running import follow
from styleblend.errors import StyleBlendError

OWN = ("corpus", "stage")  # options of `train` that are of encoders alone
OTHERS = ("styles", "pictures", "fit", "max_memory", "keep", "context_prompt", "share", "cluster", "cores",
          "collect")  # those that are of styles


def add_options(parser) -> None:
    """The options of `train encoder`, among those of `train`."""
    group = parser.add_argument_group("encoder")
    group.add_argument("--corpus", metavar="FOLDER", help="pictures with captions.json (docs/train-an-encoder.md)")
    group.add_argument("--stage", choices=list(ENCODER_STAGES),
                       help="tokens: of each picture by inversion, by as many processes as are started; encoder: the "
                            "network learns them; finetune: through the frozen UNet; joint: with terms of style and "
                            "content")


def add_commands(commands) -> None:
    corpus = add_command(commands, "corpus", "look at a corpus that a style encoder is trained on",
                         example="corpus check pictures")
    corpus.add_argument("what", choices=["check"], help="check: read every picture and caption, and say what is wrong")
    corpus.add_argument("folder", metavar="FOLDER", help="pictures with captions.json")
    add_config(corpus)
    add_max_pixels(corpus)
    corpus.set_defaults(run=run_corpus)


def refuse_options(args) -> None:
    """StyleBlendError where options of encoders come with a style's training."""
    given = next((name for name in OWN if getattr(args, name) is not None), None)
    if given:
        raise StyleBlendError(f"--{given} is of train encoder: leave it out, or train encoder")


def run_train(args) -> int:
    from styleblend.jobs.train_encoder import EncoderRequest, train_encoder
    given = next((name for name in OTHERS if getattr(args, name) not in (None, False)), None)
    if given:
        raise StyleBlendError(f"--{given.replace('_', '-')} has no effect on train encoder: leave it out")
    missing = [f"--{name}" for name in ("corpus", "stage", "name") if getattr(args, name) is None]
    if missing:
        raise StyleBlendError(f"train encoder needs {', '.join(missing)}, as in: train encoder --corpus pictures "
                              "--stage tokens --name mine")
    follow(train_encoder(EncoderRequest(settings_of(args), Path(args.corpus), args.stage, args.name, args.start,
                                        args.overwrite)), step_ends=True)
    return 0


def run_corpus(args) -> int:
    from styleblend.jobs.check_corpus import check_corpus
    settings = settings_of(args)
    found = follow(check_corpus(settings, Path(args.folder)))
    print("\n".join(found.lines()))
    return 1 if found.left_out else 0
